"""Who owns which pages, kept beside the allocator and in another way: the witness of a stress run.

The ledger is told of a block right after its allocation and right before its free, so what it holds is
always a part of what is allocated, and any overlap in it is a broken promise. It keeps ranges sorted by
address and knows nothing of orders, buddies or lists.
"""

from __future__ import annotations

from sortedcontainers import SortedDict

from pagealloc.memory import Memory
from pagealloc.sync import Lock, Sync
from pagealloc.tracepoints import Trace
from pagealloc.zone import Zone
from stress.errors import quoted
from stress.run.violations import Violations
from workers.allocators import stamp_owner
from workers.page_reporting import Batch, Reporter
from workers.reporters import InjectedError


class _ZoneLedger:
    """The live ranges of one zone: first pfn -> (pfn behind the last, stamp)."""

    __slots__ = ("lock", "pages", "ranges")

    def __init__(self, lock: Lock) -> None:
        self.lock = lock
        self.ranges = SortedDict()
        self.pages = 0

    def overlapping(self, start: int, end: int) -> tuple[int, int, int] | None:
        """Return (first pfn, pfn behind the last, stamp) of a range that shares a page with start .. end - 1."""
        at = self.ranges.bisect_left(end) - 1
        if at >= 0:
            first, (behind, stamp) = self.ranges.peekitem(at)
            if behind > start:
                return first, behind, stamp
        return None


class Ledger:
    """The live ranges of a memory; an `Audit` for allocator threads."""

    def __init__(self, memory: Memory, sync: Sync, violations: Violations) -> None:
        self._memory = memory
        self._zones = [_ZoneLedger(sync.spinlock(f"ledger {zone.name}")) for zone in memory.zones]
        self._violations = violations

    def allocated(self, pfn: int, order: int, stamp: int) -> None:
        """Enter a block; a violation if any page of it has an owner already."""
        zone = self._memory.zone_of(pfn)
        ledger = self._zones[zone.number]
        ledger.lock.acquire()
        try:
            other = ledger.overlapping(pfn, pfn + (1 << order))
            ledger.ranges[pfn] = (pfn + (1 << order), stamp)
            ledger.pages += 1 << order
        finally:
            ledger.lock.release()
        if other is not None:
            self.violation(
                f"two owners: {stamp_owner(stamp)} got pfn {pfn:#x} order {order} of zone {zone.name}, while "
                f"{stamp_owner(other[2])} still owns pfn {other[0]:#x} .. {other[1] - 1:#x}"
            )

    def freeing(self, pfn: int, order: int, stamp: int) -> None:
        """Strike a block out; a violation if it was not entered so."""
        zone = self._memory.zone_of(pfn)
        ledger = self._zones[zone.number]
        ledger.lock.acquire()
        try:
            entry = ledger.ranges.pop(pfn, None)
            ledger.pages -= 1 << order
        finally:
            ledger.lock.release()
        if entry != (pfn + (1 << order), stamp):
            owner = "nobody" if entry is None else stamp_owner(entry[1])
            self.violation(
                f"pfn {pfn:#x} order {order} of zone {zone.name} is freed by {stamp_owner(stamp)}, "
                f"but the ledger has it as owned by {owner}"
            )

    def violation(self, text: str) -> None:
        self._violations.add(text)

    def live_pages(self, zone: Zone) -> int:
        """Return how many pages of a zone have an owner."""
        return self._zones[zone.number].pages

    def nr_ranges(self) -> int:
        """Return how many blocks have an owner."""
        return sum(len(ledger.ranges) for ledger in self._zones)

    def check_batch(self, zone: Zone, batch: Batch, when: str) -> None:
        """Hold a batch in flight against the ledger: all of its pages, and none has an owner (S10)."""
        ledger = self._zones[zone.number]
        for block in batch:
            nr_bytes = zone.layout.page_size << block.order
            if block.length != nr_bytes:
                self.violation(
                    f"{when} the reporter's work, pfn {block.pfn:#x} order {block.order} of zone {zone.name} "
                    f"is said to be {block.length} bytes long, expected {nr_bytes}"
                )
            ledger.lock.acquire()
            try:
                other = ledger.overlapping(block.pfn, block.pfn + (1 << block.order))
            finally:
                ledger.lock.release()
            if other is not None:
                self.violation(
                    f"{when} the reporter's work, pfn {block.pfn:#x} order {block.order} of zone {zone.name} "
                    f"is in flight, but {stamp_owner(other[2])} owns pfn {other[0]:#x} .. {other[1] - 1:#x}: "
                    "the host gives away memory that is in use"
                )


class CheckedReporter:
    """Another reporter, with the batch held against the ledger before and after it, and its work in the log.

    A block may come back acknowledged and *kept*: its memory is still there. The kernel cannot know, and flags it
    Reported all the same; here the operating system is asked, while the block is in flight and nobody else touches it.
    """

    def __init__(self, inner: Reporter, ledger: Ledger, trace: Trace) -> None:
        self.kept_blocks = 0
        self.kept_bytes = 0
        self.failed_in_a_row = 0  # batches up to now, not counting the failures that a run asks for
        self.last_error = ""
        self._inner = inner
        self._ledger = ledger
        self._trace = trace

    def report(self, zone: Zone, batch: Batch) -> None:
        blocks = [(block.pfn, block.order) for block in batch]
        self._trace("host_begin", zone.number, blocks)
        self._ledger.check_batch(zone, batch, "before")
        try:
            self._inner.report(zone, batch)
            self.failed_in_a_row = 0
            self._count_kept(zone, batch)
        except InjectedError:
            raise
        except Exception as error:
            self.failed_in_a_row += 1
            self.last_error = quoted(error)
            raise
        finally:
            self._ledger.check_batch(zone, batch, "after")
            self._trace("host_end", zone.number, blocks)

    def _count_kept(self, zone: Zone, batch: Batch) -> None:
        if zone.ram is None:
            return
        asked = [
            (block.pfn, block.order, zone.ram.resident_in(block.offset, block.length)) for block in batch
        ]
        kept = [block for block in asked if block[2]]
        if kept:
            self.kept_blocks += len(kept)
            self.kept_bytes += sum(nr_bytes for _, _, nr_bytes in kept)
            self._trace("host_kept", zone.number, kept)
