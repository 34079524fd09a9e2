"""A zone as its events tell it: what every block is, and the free lists in their order.

The shadow shares no code with the allocator. It knows the rules a block must follow on its way from list to
owner and back, and tells `fail` where an event breaks one:

    free  --alloc_zone_locked-->  taken  --mm_page_alloc-->  owned  --mm_page_free-->  taken  --free-->  free
    free  --isolate-->  in flight  --putback-->  free

*Taken* is a block on a page set, or on its way to or from its owner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pagealloc.mmzone import MIGRATE_HIGHATOMIC, MIGRATE_ISOLATE, MIGRATE_TYPES, WMARK_MIN
from stress.invariants.lists import Blocks, Fail, ShadowLists


def _keys(blocks: Blocks) -> set[tuple[int, int]]:
    return {(pfn, order) for pfn, order in blocks}


class ShadowZone(ShadowLists):
    """One zone. `fail` is called for whatever breaks a rule; if it returns, the shadow goes on as well as it can."""

    def __init__(self, *place: Any, fail: Fail) -> None:
        super().__init__(*place, fail=fail)
        self.with_host: set[tuple[int, int]] = set()  # (pfn, order) that the host has right now
        self.done_by_host: set[tuple[int, int]] = set()  # of the batch that is out
        self.report_failed = False  # the last report of its blocks failed
        # Since the lock was taken: pageblocks that were retyped, and that a claim left alone; pieces to be freed yet.
        self.retyped: set[int] = set()
        self.unclaimed: set[int] = set()
        self.pieces: set[int] = set()
        self.strayed: tuple[int, int] | None = None  # what the last free put on a list of another type
        self.watermark = [0, 0, 0]
        self.giving_back = False  # a withheld pageblock is given back, which isolates for a reason of its own
        self.loaded = False
        self.visited = False  # by the last pass that came to it
        apart = (
            {MIGRATE_ISOLATE} if self.revision.highatomic_merges else {MIGRATE_ISOLATE, MIGRATE_HIGHATOMIC}
        )
        self._keeps_apart = tuple(migratetype in apart for migratetype in range(MIGRATE_TYPES))

    # -- what happens ----------------------------------------------------------------------------------

    def alloc(self, pfn: int, order: int, migratetype: int, refill: bool, from_order: int) -> None:
        """Take a block off the lists; the rest of the one that it is split from stays (`expand`)."""
        del refill
        if self.free.get(pfn) != from_order or from_order < order:
            invariant = "S10" if "in flight" in self.describe(pfn) else "S2"
            self.fail(
                invariant,
                f"pfn {pfn:#x} order {order} is taken from the free lists, split from order {from_order}, but it is "
                f"{self.describe(pfn)}",
            )
            self.taken[pfn] = order
            return
        if self.type_of[pfn] != migratetype:
            self.fail(
                "S6", f"pfn {pfn:#x} is taken from list {migratetype}, it is on list {self.type_of[pfn]}"
            )
        self._split_off(pfn, order, migratetype, from_order)

    def _split_off(self, pfn: int, order: int, migratetype: int, from_order: int) -> None:
        """Take the first pages of a free block; the upper halves go to the heads of a type's lists."""
        self._unlist(pfn)
        for k in range(from_order - 1, order - 1, -1):
            self._list(pfn + (1 << k), k, migratetype, to_tail=False)
        self.taken[pfn] = order

    def claim(self, pfn: int, order: int, migratetype: int, from_order: int, from_type: int) -> None:
        """Take a foreign block of a pageblock or more: what is left of it is the requester's."""
        if self._is_foreign(pfn, order, migratetype, from_order, from_type):
            if from_order < self.pageblock_order:
                self.fail("S6", f"pfn {pfn:#x} order {from_order} is claimed, and is no whole pageblock")
            self.retyped.update(
                range(pfn >> self.pageblock_order, pfn + (1 << from_order) >> self.pageblock_order)
            )
            self._split_off(pfn, order, migratetype, from_order)

    def steal(self, pfn: int, order: int, migratetype: int, from_order: int, from_type: int) -> None:
        """Take a foreign block: what is left of it stays where it was."""
        if self._is_foreign(pfn, order, migratetype, from_order, from_type):
            self._split_off(pfn, order, from_type, from_order)

    def _is_foreign(self, pfn: int, order: int, migratetype: int, from_order: int, from_type: int) -> bool:
        """Judge a block that a request takes from another type's lists."""
        self.retyped.add(pfn >> self.pageblock_order)
        if self.free.get(pfn) != from_order or from_order < order:
            self.fail(
                "S2",
                f"pfn {pfn:#x} order {from_order} is taken from type {from_type}, but it is {self.describe(pfn)}",
            )
            self.taken[pfn] = order
            return False
        if self.type_of[pfn] != from_type:
            self.fail("S6", f"pfn {pfn:#x} is taken from list {from_type}, it is on list {self.type_of[pfn]}")
        own = [at for at, k in self.free.items() if k >= order and self.type_of[at] == migratetype]
        if own:
            self.fail(
                "vectors", f"pfn {pfn:#x} is taken from another type, and pfn {own[0]:#x} would have done"
            )
        return True

    def try_to_claim(
        self, pfn: int, migratetype: int, free_pages: int, alike_pages: int, claimed: bool
    ) -> None:
        """Hear what a pageblock would have of a type that wants it, and whether it gets it."""
        size = 1 << self.pageblock_order
        found = sum(1 << k for at, k in self.free.items() if pfn <= at < pfn + size)
        block = pfn >> self.pageblock_order
        if found != free_pages:
            self.fail(
                "vectors", f"pageblock pfn {pfn:#x} has {found} free pages, a claim counts {free_pages}"
            )
        if claimed != (free_pages + alike_pages >= size // 2) or free_pages + alike_pages > size:
            what = "claimed" if claimed else "not claimed"
            self.fail(
                "vectors",
                f"pageblock pfn {pfn:#x} is {what} for {free_pages} and {alike_pages} of {size} pages",
            )
        if migratetype == self.block_type(pfn):
            self.fail("S6", f"pageblock pfn {pfn:#x} is wanted by its own type")
        (self.unclaimed.discard if claimed else self.unclaimed.add)(block)

    def split_large(self, pfn: int, order: int) -> None:
        """Hear that a block larger than a pageblock, free or just given up, is freed in pieces."""
        if self.free.get(pfn) == order:
            self._unlist(pfn)
        elif self.taken.pop(pfn, None) != order:
            self.fail("S2", f"pfn {pfn:#x} order {order} is freed in pieces, but it is {self.describe(pfn)}")
        pieces = range(pfn, pfn + (1 << order), 1 << self.pageblock_order)
        self.taken.update(dict.fromkeys(pieces, self.pageblock_order))
        self.pieces.update(pieces)

    def released(self) -> None:
        """Judge what has to be whole when the lock is given back."""
        self.giving_back = False
        self._judge_strayed()
        if self.pieces:
            lost = min(self.pieces)
            self.fail("S2", f"pfn {lost:#x} is a piece of a larger block, and was not freed with it")
            self.pieces = set()
        if self.unclaimed:
            self.unclaimed = set()
        if self.retyped:
            for block in sorted(self.retyped):
                self._check_types(block << self.pageblock_order)
            self.retyped = set()

    def _check_types(self, first: int) -> None:
        """Judge whether a pageblock's free pages are on the lists of its type (v6.10)."""
        if not self.revision.list_type_is_block_type:
            return
        migratetype = self.block_type(first)
        heads = {self.block_of(first)[0], *range(first, first + (1 << self.pageblock_order))}
        for pfn in sorted(heads & self.free.keys()):
            if self.type_of[pfn] != migratetype:
                self.fail(
                    "S6",
                    f"pfn {pfn:#x} is on list {self.type_of[pfn]}, pageblock pfn {first:#x} is {migratetype}",
                )

    def free_block(
        self, pfn: int, order: int, migratetype: int, merged_pfn: int, merged_order: int, to_tail: bool
    ) -> None:
        """Put a taken block on the lists."""
        if pfn in self.owned:
            self.fail(
                "S2", f"pfn {pfn:#x} comes to the free lists while thread {self.owned.pop(pfn)} owns it"
            )
        if self.taken.get(pfn) != order:
            invariant = "S10" if pfn in self.in_flight else "S2"
            self.fail(invariant, f"pfn {pfn:#x} order {order} is freed, but it is {self.describe(pfn)}")
        self.taken.pop(pfn, None)
        self.pieces.discard(pfn)
        self._judge_strayed()
        if migratetype != self.block_type(pfn):
            self.strayed = pfn, migratetype
            if not self.revision.pcp_remembers_type:
                self._judge_strayed()
        self._merge(pfn, order, migratetype, merged_pfn, merged_order, to_tail)

    def drained(self, pfn: int, order: int, migratetype: int) -> None:
        """Hear that the block freed just before came from a page set, which may remember an old type of it.

        Not in a pageblock that is withheld by now, of which nothing may go elsewhere.
        """
        del order
        if self.strayed == (pfn, migratetype):
            if self.block_type(pfn) == MIGRATE_ISOLATE:
                self._judge_strayed()
            self.strayed = None

    def _judge_strayed(self) -> None:
        """Judge a block that was freed to another list than its pageblock's, and not from a page set."""
        if self.strayed is not None:
            pfn, migratetype = self.strayed
            self.strayed = None
            self.fail(
                "S6", f"pfn {pfn:#x} goes to list {migratetype}, its pageblock is {self.block_type(pfn)}"
            )

    def putback(
        self, pfn: int, order: int, migratetype: int, merged_pfn: int, merged_order: int, to_tail: bool
    ) -> None:
        """Put a block that was in flight on the lists; nobody is asked for a report."""
        if (pfn, order) in self.with_host:
            self.fail("S12", f"pfn {pfn:#x} order {order} is put back while the host has it")
        if self.in_flight.get(pfn) != order:
            if self.taken.pop(pfn, None) == order:
                self.fail("S24", f"pfn {pfn:#x} order {order} is freed without asking for a report")
            else:
                self.fail("S10", f"pfn {pfn:#x} order {order} is put back, but it is {self.describe(pfn)}")
        self.in_flight.pop(pfn, None)
        if migratetype != self.block_type(pfn):
            self.fail(
                "S20",
                f"pfn {pfn:#x} is put back on list {migratetype}, its pageblock is {self.block_type(pfn)}",
            )
        whole = (merged_pfn, merged_order) == (pfn, order)
        told = (pfn, order) in self.told
        self._merge(pfn, order, migratetype, merged_pfn, merged_order, to_tail)
        if told and not whole:
            self.told.discard((pfn, order))

    def _merge(
        self, pfn: int, order: int, migratetype: int, merged_pfn: int, merged_order: int, to_tail: bool
    ) -> None:
        at = pfn
        for k in range(order, merged_order):
            buddy = at ^ (1 << k)
            if self.free.get(buddy) != k:
                self.fail(
                    "S3", f"pfn {at:#x} order {k} merges with pfn {buddy:#x}, which is {self.describe(buddy)}"
                )
            else:
                if k >= self.pageblock_order and not self._may_merge(migratetype, buddy):
                    self.fail("S7", f"pfn {at:#x} of type {migratetype} merges with a pageblock kept apart")
                self._unlist(buddy)
            at &= buddy
        if at != merged_pfn or merged_order < order:
            self.fail(
                "S3", f"pfn {pfn:#x} order {order} cannot merge into pfn {merged_pfn:#x} order {merged_order}"
            )
        if merged_order < self.nr_orders - 1:
            buddy = merged_pfn ^ (1 << merged_order)
            due = merged_order < self.pageblock_order or (
                self.free.get(buddy) == merged_order and self._may_merge(migratetype, buddy)
            )
            if due and self.free.get(buddy) == merged_order:
                self.fail(
                    "S3", f"pfn {merged_pfn:#x} order {merged_order} does not merge with its free buddy"
                )
        if merged_pfn in self.free:
            self.fail("S2", f"pfn {merged_pfn:#x} comes to the free lists twice")
            self._unlist(merged_pfn)
        self._list(merged_pfn, merged_order, migratetype, to_tail)
        if merged_order > self.pageblock_order:
            for first in range(merged_pfn, merged_pfn + (1 << merged_order), 1 << self.pageblock_order):
                self._check_types(first)

    def _may_merge(self, migratetype: int, buddy: int) -> bool:
        buddy_type = self.block_type(buddy)
        return migratetype == buddy_type or not (
            self._keeps_apart[migratetype] or self._keeps_apart[buddy_type]
        )

    def isolate(self, pfn: int, order: int, migratetype: int, free_pages: int, usable_pages: int) -> None:
        """Take a free block off its list for the reporter."""
        if self.free.get(pfn) != order:
            self.fail("S26", f"pfn {pfn:#x} order {order} is isolated, but it is {self.describe(pfn)}")
        else:
            if not self.giving_back:
                self._judge_isolation(pfn, order, migratetype, usable_pages)
            self._unlist(pfn)
        if free_pages != self.nr_free_pages:
            self.fail(
                "S5",
                f"isolating pfn {pfn:#x} leaves {self.nr_free_pages} free pages, the zone counts {free_pages}",
            )
            self.nr_free_pages = free_pages
        self._judge_usable(usable_pages)
        self.in_flight[pfn] = order

    def _judge_isolation(self, pfn: int, order: int, migratetype: int, usable_pages: int) -> None:
        if pfn in self.reported:
            self.fail("S18", f"pfn {pfn:#x} order {order} is Reported, and taken to be reported again")
        if migratetype == MIGRATE_ISOLATE or self.block_type(pfn) == MIGRATE_ISOLATE:
            self.fail("S11", f"pfn {pfn:#x} is taken out of a pageblock that is withheld")
        if usable_pages <= self.watermark[WMARK_MIN]:
            self.fail(
                "S16",
                f"isolating pfn {pfn:#x} order {order} leaves {usable_pages} pages, the min mark is "
                f"{self.watermark[WMARK_MIN]}",
            )

    def _judge_usable(self, usable_pages: int) -> None:
        """Hold what marks were held against against the lists; a reserve of whole pageblocks is not told."""
        usable = self.nr_free_pages - self.nr_free_highatomic
        if self.revision.highatomic_free_withheld and usable_pages != usable:
            self.fail(
                "S16", f"marks are held against {usable_pages} pages, {usable} are free and not high-atomic"
            )

    def refused(self, pfn: int, order: int, usable_pages: int) -> None:
        """Hear that a block may not be isolated."""
        self._judge_usable(usable_pages)
        if not self.giving_back and usable_pages > self.watermark[WMARK_MIN] + (1 << order):
            self.fail(
                "S16", f"pfn {pfn:#x} order {order} is refused with {usable_pages} pages, above the min mark"
            )

    def report_begin(self, blocks: Blocks, order: int, capacity: int) -> None:
        """Hand blocks in flight to a device that wants up to `capacity` of them, of `order` and more."""
        if not 1 <= len(blocks) <= capacity:
            self.fail("S11", f"a batch of {len(blocks)} blocks, capacity {capacity}")
        keys = _keys(blocks)
        if len(keys) != len(blocks):
            self.fail("S10", f"a block is in a batch twice: {sorted(keys)}")
        flying = set(self.in_flight.items())
        if keys != flying:
            self.fail("S11", f"a batch is {sorted(keys)}, in flight are {sorted(flying)}")
        for pfn, block_order in keys:
            if not (order <= block_order < self.nr_orders and pfn % (1 << block_order) == 0):
                self.fail(
                    "S11", f"pfn {pfn:#x} order {block_order} may not be in a batch of order {order} and more"
                )
        self.done_by_host = set()

    def host_begin(self, blocks: Blocks) -> None:
        """Let the host have some blocks."""
        self.with_host |= _keys(blocks)

    def host_end(self, blocks: Blocks) -> None:
        keys = _keys(blocks)
        self.done_by_host |= keys & self.with_host
        self.with_host -= keys

    def report_end(self, blocks: Blocks, failed: bool, host_speaks: bool) -> None:
        """Hear how a report ended; `host_speaks`: the host says itself what it has, and when."""
        self.report_failed = failed
        if failed:
            return
        keys = _keys(blocks)
        if host_speaks and self.done_by_host != keys:
            self.fail("S13", "a batch ended well, and the host did not have all of it, or has it still")
        self.told |= keys

    def set_reported(self, pfn: int, order: int) -> None:
        """Flag a free block."""
        if self.free.get(pfn) != order:
            self.fail(
                "S1", f"pfn {pfn:#x} order {order} is flagged as Reported, but it is {self.describe(pfn)}"
            )
            return
        if (pfn, order) not in self.told:
            invariant = "S14" if self.report_failed else "S13"
            self.fail(
                invariant,
                f"pfn {pfn:#x} order {order} is Reported, but no device was told of this block as it is",
            )
        self.reported.add(pfn)

    def rotate(self, order: int, migratetype: int, pfn: int) -> None:
        """Turn a list so that `pfn` is its first."""
        if self.free.get(pfn) != order or self.type_of[pfn] != migratetype:
            self.fail(
                "S26", f"list {order}.{migratetype} is turned to pfn {pfn:#x}, which is {self.describe(pfn)}"
            )
            return
        before = self.list_pfns(order, migratetype)
        for ahead in before[: before.index(pfn)]:
            self._back += 1
            self._place[ahead] = self._back

    def move(self, pfn: int, order: int, migratetype: int, to_tail: bool) -> None:
        """Move a block that stays free to another migratetype's list; Reported stays as it is."""
        if self.free.get(pfn) != order:
            self.fail(
                "S1", f"pfn {pfn:#x} order {order} is moved between lists, but it is {self.describe(pfn)}"
            )
            return
        if pfn >> self.pageblock_order in self.unclaimed:
            self.fail("vectors", f"pfn {pfn:#x} is moved, and the claim of its pageblock came to nothing")
        reported, told = pfn in self.reported, (pfn, order) in self.told
        self._unlist(pfn)
        self._list(pfn, order, migratetype, to_tail)
        if reported:
            self.reported.add(pfn)
        if told:
            self.told.add((pfn, order))

    def set_watermarks(self, *marks: int) -> None:
        """Set the min, low and high mark, in pages."""
        self.watermark = list(marks)

    def begin_to_give_back(self, pfn: int, migratetype: int) -> None:
        """Hear that a withheld pageblock gets a type again."""
        del pfn, migratetype
        self.giving_back = True

    def set_type(self, pfn: int, migratetype: int) -> None:
        block = pfn >> self.pageblock_order
        self.types[block - self._first_block] = migratetype
        self.retyped.add(block)
        if migratetype == MIGRATE_HIGHATOMIC:
            # What could only be stolen may still be kept as reserve, and then all of it.
            self.unclaimed.discard(block)

    def split(self, pfn: int, order: int) -> None:
        """Make one taken block of a range: a larger one is split around it, smaller ones become one."""
        end = pfn + (1 << order)
        whole = next(
            (k for k in range(order + 1, self.nr_orders) if self.taken.get(pfn & -(1 << k)) == k), None
        )
        if whole is not None:
            owner = self.owned.get(pfn & -(1 << whole))
            for k in range(order, whole):  # the other half, at every order on the way down
                self._take((pfn & -(1 << k)) ^ (1 << k), k, owner)
            self._take(pfn, order, owner)
            return
        owner = self.owned.get(pfn)
        covered = 0
        at = pfn
        while at < end and (inner := self.taken.pop(at, None)) is not None:
            self.owned.pop(at, None)
            covered += 1 << inner
            at += 1 << inner
        if covered != 1 << order:
            self.fail("S2", f"pfn {pfn:#x} order {order} becomes one block, but not all of it is allocated")
        self._take(pfn, order, owner)

    def _take(self, pfn: int, order: int, owner: int | None) -> None:
        self.taken[pfn] = order
        if owner is not None:
            self.owned[pfn] = owner

    def owner(self, thread: int, pfn: int, order: int) -> None:
        """Give a taken block to a thread."""
        if self.taken.get(pfn) != order:
            invariant = "S10" if "in flight" in self.describe(pfn) else "S2"
            self.fail(
                invariant, f"thread {thread} gets pfn {pfn:#x} order {order}, but it is {self.describe(pfn)}"
            )
        if pfn in self.owned:
            self.fail("S2", f"thread {thread} gets pfn {pfn:#x}, which thread {self.owned[pfn]} owns")
        self.owned[pfn] = thread

    def disown(self, thread: int, pfn: int, order: int) -> None:
        """Hear that an owner is about to free a block."""
        if self.owned.pop(pfn, None) is None or self.taken.get(pfn) != order:
            self.fail(
                "S2", f"thread {thread} frees pfn {pfn:#x} order {order}, but it is {self.describe(pfn)}"
            )

    # -- snapshots -------------------------------------------------------------------------------------

    def snapshot(
        self,
        nr_free_pages: int,
        nr_free: Sequence[int],
        nr_reported: Sequence[int],
        watermark: Sequence[int],
        highatomic: int,
        lists: Sequence[tuple[int, int, Sequence[int]]],
        reported: Sequence[int],
        in_use: Sequence[tuple[int, int, str]],
        block_types: str,
    ) -> None:
        """Begin with a snapshot if it is the first, else hold it against what the events amount to."""
        del highatomic
        flying = {pfn: order for pfn, order, kind in in_use if kind == "in flight"}
        taken = {pfn: order for pfn, order, kind in in_use if kind != "in flight"}
        types = bytearray(map(int, block_types))
        if not self.loaded:
            self.loaded = True
            self.types, self.in_flight, self.taken = types, flying, taken
            self.watermark = list(watermark)
            for order, migratetype, pfns in lists:
                for pfn in pfns:
                    self._list(pfn, order, migratetype, to_tail=True)
            self.reported = set(reported)
            self.told = {(pfn, self.free[pfn]) for pfn in reported if pfn in self.free}
            self.counts(nr_free_pages, nr_free, nr_reported)
            return
        if list(watermark) != self.watermark:
            self.fail("S16", f"the marks are {list(watermark)}, by the events {self.watermark}")
        self.counts(nr_free_pages, nr_free, nr_reported)
        self._compare_lists({(order, migratetype): list(pfns) for order, migratetype, pfns in lists})
        if set(reported) != self.reported:
            wrong = min(set(reported) ^ self.reported)
            self.fail("S1", f"pfn {wrong:#x}: the zone and its events disagree whether it is Reported")
        if flying != self.in_flight:
            self.fail(
                "S10",
                f"in flight are {sorted(flying.items())}, by the events {sorted(self.in_flight.items())}",
            )
        if taken != self.taken:
            wrong, _ = min(set(taken.items()) ^ set(self.taken.items()))
            self.fail("S2", f"pfn {wrong:#x} is {self.describe(wrong)} by the events, and not so in the zone")
        if types != self.types:
            self.fail("S6", "the pageblocks' types are not those that the events gave them")

    def _compare_lists(self, lists: dict[tuple[int, int], list[int]]) -> None:
        ours = self.lists()
        for key in sorted(set(lists) | set(ours)):
            theirs, mine = lists.get(key, []), ours.get(key, [])
            if theirs != mine:
                invariant = "S19" if sorted(theirs) == sorted(mine) else "S1"
                order, migratetype = key
                self.fail(
                    invariant,
                    f"list {order}.{migratetype} is {theirs[:8]}, by the events it is {mine[:8]} "
                    f"({len(theirs)} and {len(mine)} blocks)",
                )

    def counts(self, nr_free_pages: int, nr_free: Sequence[int], nr_reported: Sequence[int]) -> None:
        """Hold a zone's counts against the events."""
        if list(nr_free) != self.nr_free:
            self.fail(
                "S4", f"the zone counts {list(nr_free)} free blocks by order, by the events {self.nr_free}"
            )
        if nr_free_pages != self.nr_free_pages:
            self.fail("S5", f"the zone counts {nr_free_pages} free pages, by the events {self.nr_free_pages}")
        if list(nr_reported) != self.nr_reported():
            self.fail(
                "S1",
                f"the zone counts {list(nr_reported)} Reported blocks by order, by the events {self.nr_reported()}",
            )
