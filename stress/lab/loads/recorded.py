"""A recorded guest as a load: what its allocator was asked, asked again.

At the level of the zone the recording's blocks leave and enter the free lists as they did, and the CPUs' own lists
stay out of it; at the level of calls they are modelled too. A block that the model hands out stands for the recorded
one from then on, so positions may differ, and amounts do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from pagealloc.errors import BadPage, ForeignPfn
from pagealloc.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL, GFP_RECLAIMABLE
from pagealloc.mmzone import MIGRATE_MOVABLE, MIGRATE_RECLAIMABLE
from pagealloc.zone import Zone
from stress.lab.engine import Machine
from stress.lab.recording import PAGEBLOCK_ORDER, Op, Recording

# Inferred frees that lie closer belong to one owner. An estimate: in the recordings at hand one owner paused for up to
# 0.35 s, and 0.9 s lay between two. A recording without a filter needs none.
BURST_GAP_S = 0.5


class Replay:
    """Carries the operations of one recording out on a machine."""

    def __init__(self, recording: Recording, *, calls: bool) -> None:
        self._recording = recording
        self._ops = recording.call_ops if calls else recording.zone_ops
        self._pfns: dict[int, int] = {}  # recorded pfn -> the model's
        self._unseen: list[
            tuple[Zone, int]
        ] = []  # pageblocks that belong to allocations which were not recorded
        self._bursts = _bursts([op.t_s for op in self._ops if op.kind == "unseen"])
        self._begun: list[tuple[Zone, int]] = []  # pageblocks of which unseen allocations have a part
        self.strange = 0  # operations that the model could not carry out

    def __call__(self, machine: Machine) -> Iterator[float]:
        self._memory = machine.memory
        self._machine = machine
        sync = machine.sync
        carry_out = {
            "take": self._take,
            "return": self._return,
            "touch": self._touch,
            "claim": self._claim,
            "unseen": self._free_unseen,
            "request": self._request,
            "alloc": self._alloc,
            "free": self._free,
        }
        for op in self._ops:
            if op.t_s > sync.now_s:
                yield op.t_s
            sync.cpu = op.cpu
            try:
                carry_out[op.kind](op)
            except BadPage:
                self.strange += 1

    # -- at the level of the zone --------------------------------------------------------------------------

    def _take(self, op: Op) -> None:
        zone = self._memory.zone_of(op.pfn)
        pfn = zone.rmqueue_buddy(op.order, op.migratetype)
        if pfn < 0:
            self.strange += 1
        else:
            self._pfns[op.pfn] = pfn

    def _return(self, op: Op) -> None:
        pfn = self._pfn_of(op)
        zone = self._memory.zone_of(pfn)
        zone.claim_range(pfn, op.order)
        zone.free_pages_ok(pfn, op.order)
        self._machine.last_free_s = op.t_s

    def _touch(self, op: Op) -> None:
        self._machine.host.touch(self._pfn_of(op, keep=True), op.order)

    def _pfn_of(self, op: Op, *, keep: bool = False) -> int:
        """Return the model's pfn for a recorded one: of the block, or of the larger one that it is a part of."""
        pfns = self._pfns
        if op.pfn in pfns:
            return pfns[op.pfn] if keep else pfns.pop(op.pfn)
        for order in range(op.order + 1, self._memory.layout.nr_orders):
            head = op.pfn & -(1 << order)
            if head in pfns:
                return pfns[head] + op.pfn - head
        return op.pfn  # in use since before the recording: where it was

    # -- what the recording leaves out ---------------------------------------------------------------------

    def _claim(self, op: Op) -> None:
        """Take a block of another type. That there was need of one says that the own type's had run out."""
        zone = self._memory.zone_of(op.pfn)
        blind = op.order < self._recording.smallest_order
        if blind:
            self._unseen += self._begun
            self._begun = []
            for order in range(zone.layout.top_order, op.order - 1, -1):
                while not zone.free_list_empty(order, op.migratetype):
                    self._note_unseen(zone, zone.rmqueue_buddy(order, op.migratetype), order)
        pfn = zone.rmqueue_buddy(op.order, op.migratetype)
        if pfn < 0:
            self.strange += 1
            return
        self._pfns[op.pfn] = pfn
        if blind:
            self._begun = [(zone, pfn & -(1 << PAGEBLOCK_ORDER))]

    def _request(self, op: Op) -> None:
        """Ask for a report, as a recorded free did: in the model it may not have merged as far."""
        if self._machine.order <= op.order:
            self._machine.ask()

    def _note_unseen(self, zone: Zone, pfn: int, order: int) -> None:
        if order >= PAGEBLOCK_ORDER:
            step = 1 << PAGEBLOCK_ORDER
            for pageblock in range(pfn, pfn + (1 << order), step):
                if (zone, pageblock) not in self._unseen:
                    self._unseen.append((zone, pageblock))

    def _free_unseen(self, op: Op) -> None:
        """Free a pageblock: a recorded request for a report says that one became whole."""
        self._allocate_unseen(self._bursts.pop(op.t_s, 0))
        if not self._unseen:
            self.strange += 1
            return
        zone, pageblock = self._unseen.pop(0)
        _free_used(zone, pageblock, PAGEBLOCK_ORDER)
        self._machine.last_free_s = op.t_s

    def _allocate_unseen(self, count: int) -> None:
        """Allocate so many pageblocks, from the largest blocks, for an owner that is about to free them.

        It had them since some time after the burst of frees before its own, and so uses that one's memory again.
        """
        zone = max(self._memory.zones, key=lambda each: each.nr_free_pages)
        for order in (zone.layout.top_order, PAGEBLOCK_ORDER):
            while count - len(self._unseen) >= 1 << order - PAGEBLOCK_ORDER:
                pfn = zone.rmqueue_buddy(order, MIGRATE_MOVABLE)
                if pfn < 0:
                    break
                before = self._machine.host.resident_pages
                self._machine.host.touch(pfn, order)
                touched = self._machine.host.resident_pages - before
                self._machine.unseen_touches.append((self._machine.now_s, touched))
                self._note_unseen(zone, pfn, order)

    # -- at the level of calls -----------------------------------------------------------------------------

    def _alloc(self, op: Op) -> None:
        gfp = GFP_HIGHUSER_MOVABLE if op.migratetype == MIGRATE_MOVABLE else GFP_KERNEL
        if op.migratetype == MIGRATE_RECLAIMABLE:
            gfp |= GFP_RECLAIMABLE
        pfn = self._machine.alloc(op.order, gfp)
        if pfn is None:
            self.strange += 1
        else:
            self._pfns[op.pfn] = pfn

    def _free(self, op: Op) -> None:
        pfn = self._pfn_of(op)
        try:
            self._machine.free(pfn, op.order)
        except ForeignPfn:
            raise
        except BadPage:
            self._memory.zone_of(pfn).claim_range(pfn, op.order)
            self._machine.free(pfn, op.order)


def _free_used(zone: Zone, pfn: int, order: int) -> None:
    """Free what is in use of a range, in blocks as large as there are."""
    if zone.page_is_buddy(pfn, order):
        return
    try:
        zone.claim_range(pfn, order)
    except BadPage:
        if order:
            _free_used(zone, pfn, order - 1)
            _free_used(zone, pfn + (1 << order - 1), order - 1)
    else:
        zone.free_pages_ok(pfn, order)


def _bursts(times_s: list[float]) -> dict[float, int]:
    """Return how many frees each burst of them has, by the time at which it begins."""
    bursts: dict[float, int] = {}
    begin_s = last_s = -inf
    for t_s in times_s:
        if t_s - last_s > BURST_GAP_S:
            begin_s = t_s
        last_s = t_s
        bursts[begin_s] = bursts.get(begin_s, 0) + 1
    return bursts
