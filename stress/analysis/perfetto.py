"""A run's log as a trace for the Perfetto UI: who held which lock, when passes and batches were, and the memory.

The log is read once, record by record; nothing is kept but the passes and batches that have not ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stress.formats.perfetto import TraceFile
from stress.log.events import (
    LockRelease,
    LogBegin,
    PassBegin,
    PassEnd,
    PhaseBegin,
    Record,
    ReportBegin,
    ReportEnd,
    Request,
    Sample,
    ThreadBegin,
    Violated,
    ZoneBegin,
)
from stress.log.files import LogDamage
from stress.log.machine import page_shift_of, pages_per_mib
from stress.log.reader import LogReader


def write_perfetto(path: Path, run: Path) -> str | None:
    """Write a run's trace; returns what is wrong with the log, if it ends early. Raises BadLog and OSError."""
    reader = LogReader(run)
    damage: list[str] = []
    with TraceFile(path) as trace:
        writer = _Writer(trace)
        for record in _whole_records(reader, damage):
            writer.write(record)
        writer.finish()
    return damage[0] if damage else None


def _whole_records(reader: LogReader, damage: list[str]) -> Iterator[Record]:
    try:
        yield from reader
    except LogDamage as error:
        damage.append(str(error))


class _Writer:
    """Turns records into slices."""

    def __init__(self, trace: TraceFile) -> None:
        self._trace = trace
        self._zones: dict[int, str] = {}
        self._pass_begin: PassBegin | None = None
        self._last_us = 0.0
        self._pages_per_mib = pages_per_mib(page_shift_of({}))

    def write(self, record: Record) -> None:
        """Draw one record, if it is one that is drawn."""
        trace, at_us = self._trace, record.t / 1e3
        self._last_us = at_us
        if isinstance(record, LockRelease):
            self._hold(record, at_us)
        elif isinstance(record, LogBegin):
            self._pages_per_mib = pages_per_mib(page_shift_of(record.params))
        elif isinstance(record, ThreadBegin):
            trace.thread(record.thread, record.name)
        elif isinstance(record, ZoneBegin):
            self._zones[record.zone] = record.name if record.node == 0 else f"{record.node}:{record.name}"
        elif isinstance(record, Sample):
            self._memory(record, at_us)
        elif isinstance(record, ReportBegin):
            zone = self._zones.get(record.zone, str(record.zone))
            trace.begin(record.thread, "batch", at_us, record.batch, zone=zone, blocks=record.blocks)
        elif isinstance(record, ReportEnd):
            trace.end(record.thread, "batch", at_us, record.batch, error=record.error)
        elif isinstance(record, PassBegin):
            self._pass_begin = record
        elif isinstance(record, PassEnd):
            self._end_pass(at_us, record.state)
        elif isinstance(record, Request):
            trace.instant(record.thread, f"request (was {record.state})", at_us)
        elif isinstance(record, PhaseBegin):
            trace.instant(record.thread, f"phase {record.name}", at_us, "g")
        elif isinstance(record, Violated):
            trace.instant(record.thread, f"violation: {record.text}", at_us, "g")

    def _hold(self, record: LockRelease, at_us: float) -> None:
        hold_us, wait_us = record.hold_ns / 1e3, record.wait_ns / 1e3
        zone = self._zones.get(record.zone, str(record.zone))
        if record.wait_ns:
            self._trace.slice(
                record.thread, f"wait for {zone}", at_us - hold_us - wait_us, wait_us, site=record.site
            )
        self._trace.slice(record.thread, f"{record.site} holds {zone}", at_us - hold_us, hold_us)

    def _memory(self, record: Sample, at_us: float) -> None:
        names = ("free", "allocated", "on page sets", "in flight", "reported")
        for number, pages in enumerate(record.zones):
            values = {name: count / self._pages_per_mib for name, count in zip(names, pages, strict=True)}
            self._trace.counter(f"zone {self._zones.get(number, number)} (MiB)", at_us, **values)
        self._trace.counter("resident (MiB)", at_us, resident=record.resident_bytes / (1 << 20))

    def _end_pass(self, at_us: float, state: str) -> None:
        begin, self._pass_begin = self._pass_begin, None
        if begin is not None:
            begin_us = begin.t / 1e3
            self._trace.slice(begin.thread, f"pass {begin.number}", begin_us, at_us - begin_us, found=state)

    def finish(self) -> None:
        """Draw a pass that never ended."""
        self._end_pass(self._last_us, "the log ends")
