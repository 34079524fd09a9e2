"""The ordinary run log of a predicted guest, so that `verify`, `analyze`, `sql` and `--perfetto` work on it.

Times are virtual. Each record is a nanosecond later than the one before it, at least: in virtual time many things
happen at one moment, and a log is told in the order of its times. Threads are the guest's CPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from pagealloc.mmzone import PAGE_SIZE
from pagealloc.sync import Local
from pagealloc.sync_real import RealSync
from stress.errors import Verdict
from stress.lab.engine import Machine
from stress.lab.options import Options
from stress.lab.predict import run_machine
from stress.lab.virtual import T, VirtualLocal, VirtualSync
from stress.log.snapshot import snapshot_zone
from stress.run.directory import RunDirectory
from stress.run.summary import Summary


class LogSync(RealSync):
    """Real threads for those who write the log, with the clock and the CPUs of virtual time."""

    def __init__(self) -> None:
        self.virtual = VirtualSync()
        self._last_ns = 0

    def monotonic_ns(self) -> int:
        self._last_ns = max(self._last_ns + 1, self.virtual.monotonic_ns())
        return self._last_ns

    def local(self, make: Callable[[], T], retire: Callable[[T], None]) -> Local[T]:
        return VirtualLocal(self.virtual, make)

    def thread_name(self) -> str:
        return self.virtual.thread_name()


def write_run_log(point: Options, folder: Path) -> Summary:
    """Run a point's first guest again, and log it. Raises RunDirectoryError."""
    sync = LogSync()
    params = {"command": "lab", "log": "all", **asdict(point)}
    directory = RunDirectory(folder, sync, params)
    summary = Summary(params=params)

    def attach(machine: Machine) -> None:
        sync.virtual = machine.sync
        assert directory.recorder is not None, "a log was asked for"
        directory.recorder.attach(machine.memory, machine.reporting)

    try:
        machine, notes = run_machine(point, begin_log=attach)
    except BaseException as error:
        directory.give_up(f"{type(error).__name__}: {error}")
        raise
    fill(summary, machine)
    summary.notes += notes
    assert directory.recorder is not None, "a log was asked for"
    if point.policy == "kernel" or not machine.reporting.policy.unreported_pages():
        directory.recorder.trace("rest", machine.workqueue.next_deadline() is None)
    else:
        summary.notes.append(
            "the policy has left blocks unreported: the log ends without a judgement of what is left"
        )
    for zone in machine.memory.zones:
        if zone.trace is not None:
            snapshot_zone(zone, zone.trace)
    directory.recorder.trace("run_end", summary.verdict.value, 0)
    directory.end_log(summary)
    directory.tell_end(summary)
    directory.finish(summary)
    return summary


def fill(summary: Summary, machine: Machine) -> None:
    """Put the figures of a run into its summary."""
    summary.verdict = Verdict.SUCCESS
    summary.seconds = machine.now_s - machine.start_s
    summary.failed_allocs = machine.failed_allocations
    summary.passes = len(machine.passes)
    summary.batches = sum(each.calls for each in machine.passes)
    summary.reported_blocks = sum(each.blocks for each in machine.passes)
    summary.reported_bytes = sum(each.pages for each in machine.passes) * PAGE_SIZE
    summary.resident_bytes_start = machine.samples[0].resident * PAGE_SIZE
    summary.resident_bytes_peak = machine.peak_pages * PAGE_SIZE
    summary.resident_bytes_end = machine.host.resident_pages * PAGE_SIZE
