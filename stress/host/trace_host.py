"""QEMU's device as the host of a whole guest: its reports are read off QEMU's own trace, and judged like ours.

QEMU 7.2 has no event for a report. A chain that is popped from a queue with entries for the device to write is one
(`virtqueue_pop`), each range that is given back is told (`ram_block_discard_range`), and the answer ends it
(`virtqueue_flush`). A report without a discard is one that the device acknowledged and kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from pagealloc.mmzone import PAGE_SHIFT
from pagealloc.sync import Sync
from pagealloc.tracepoints import Trace
from stress.host.contract import Contract, Range
from stress.host.host import VIOLATIONS_MAX, HostStatus

EVENTS = ("virtqueue_pop", "virtqueue_flush", "ram_block_discard_range")
_LINE = re.compile(r"\d+@(?P<time>\d+\.\d+):(?P<event>\w+) (?P<text>.*)")
_POP = re.compile(r"vq (?P<queue>\w+) elem \w+ in_num (?P<write>\d+) out_num (?P<read>\d+)")
_FLUSH = re.compile(r"vq (?P<queue>\w+) count \d+")
_DISCARD = re.compile(r"\S+@0x(?P<address>[0-9a-f]+) \+ 0x(?P<length>[0-9a-f]+): .*ret: (?P<result>-?\d+)")


@dataclass(slots=True)
class OpenReport:
    """A report that QEMU is at work on."""

    since_s: float
    entries: int
    ranges: list[Range] = field(default_factory=list)


class TraceHost:
    """Hears QEMU's trace. `ram_address` says where QEMU has the guest's RAM, `resident_bytes` how much of it is there.

    One thread calls `hear`, and whoever watches calls `sample`.
    """

    def __init__(
        self,
        sync: Sync,
        trace: Trace,
        watch: Callable[[HostStatus], None],
        *,
        order: int,
        capacity: int,
        delay_s: float,
        ram_address: Callable[[], int],
        resident_bytes: Callable[[], int],
        total_bytes: int,
    ) -> None:
        self.status = HostStatus(total_bytes=total_bytes)
        self.violations: list[str] = []
        self.notes = [
            "not judged: whether blocks come again untouched; the trace tells of a range when it is gone"
        ]
        # What a range held before it was given back is gone when the trace tells of it.
        self.contract = Contract(lambda each: False, order=order, capacity=capacity, delay_s=delay_s)
        self._sync = sync
        self._trace = trace
        self._watch = watch
        self._ram_address = ram_address
        self._resident_bytes = resident_bytes
        self._start_s = sync.monotonic()
        self._wall_start_s = sync.wall_clock()
        self._open: dict[str, OpenReport] = {}
        self._before = 0

    def hear(self, line: str) -> bool:
        """Take a line of output; False when it is none of the trace."""
        found = _LINE.search(line)  # the guest may be in the middle of a word
        if found is None or found["event"] not in EVENTS:
            return False
        at_s, text = float(found["time"]) - self._wall_start_s, found["text"]
        if popped := _POP.match(text):
            if int(popped["write"]) and not int(popped["read"]):
                self._open[popped["queue"]] = OpenReport(at_s, int(popped["write"]))
                self._before = self._resident_bytes()
        elif flushed := _FLUSH.match(text):
            report = self._open.pop(flushed["queue"], None)
            if report is not None:
                self._answered(report, at_s)
        elif (discarded := _DISCARD.match(text)) and self._open and discarded["result"] == "0":
            gpa = int(discarded["address"], 16) - self._ram_address()
            next(iter(self._open.values())).ranges.append((gpa, int(discarded["length"], 16)))
        return True

    def _answered(self, report: OpenReport, at_s: float) -> None:
        status, ranges = self.status, report.ranges
        status.batches += 1
        passes = self.contract.passes
        for text in self.contract.begin(status.batches, report.since_s, ranges):
            self._violation(text)
        if self.contract.passes != passes:
            self._trace("page_reporting_pass_begin", self.contract.passes)
        blocks = [(gpa >> PAGE_SHIFT, (length >> PAGE_SHIFT).bit_length() - 1) for gpa, length in ranges]
        self._trace("page_reporting_report_begin", status.batches, 0, blocks)
        after = self._resident_bytes()
        answer = "given back" if ranges else "kept"
        self._trace("guest_report", status.batches, ranges, self._before, after, answer)
        self._trace("page_reporting_report_end", status.batches, 0, None)
        self.contract.end(status.batches, at_s, ranges)
        status.reported_blocks += report.entries
        status.reported_bytes += sum(length for _, length in ranges)
        status.kept_blocks += report.entries - len(ranges)
        status.longest_flight_s = max(status.longest_flight_s, at_s - report.since_s)

    def _violation(self, text: str) -> None:
        self.status.violations += 1
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(text)
        self._trace("violation", text)

    def sample(self) -> None:
        """Look at the guest's memory, and tell whoever watches."""
        status = self.status
        status.seconds = self._sync.monotonic() - self._start_s
        status.passes = self.contract.passes
        status.in_flight = len(self._open)
        status.resident_bytes = self._resident_bytes()
        status.resident_bytes_peak = max(status.resident_bytes_peak, status.resident_bytes)
        self._trace("sample", status.resident_bytes, status.total_bytes, 0, 0, 0, [])
        self._watch(status)
