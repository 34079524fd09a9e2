"""Migratetypes at work: falling back to foreign lists, stealing pageblocks, and keeping two kinds apart.

Allocations are grouped by mobility, a pageblock at a time, so that one unmovable page does not spoil a
large block. When a type's own lists are empty, `__rmqueue_fallback` takes from another type and, if enough
of the pageblock would be of its own kind, claims the whole pageblock. HIGHATOMIC pageblocks are a reserve
for allocations that may not sleep; ISOLATE ones are withheld from everybody.

The rules are those of 5.7 .. 6.9 (checked against 6.1.192).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pagealloc.buddy import Buddy
from pagealloc.mmzone import (
    ALLOC_KSWAPD,
    ALLOC_NOFRAGMENT,
    MIGRATE_HIGHATOMIC,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    MIGRATE_PCPTYPES,
    MIGRATE_RECLAIMABLE,
    MIGRATE_UNMOVABLE,
    WMARK_HIGH,
    WMARK_LOW,
    ZONE_NAMES,
    Layout,
)
from pagealloc.page_flags import BUDDY, KIND_MASK, LRU, ORDER_MASK
from pagealloc.revision import Revision

FALLBACKS = {
    MIGRATE_UNMOVABLE: (MIGRATE_RECLAIMABLE, MIGRATE_MOVABLE),
    MIGRATE_MOVABLE: (MIGRATE_RECLAIMABLE, MIGRATE_UNMOVABLE),
    MIGRATE_RECLAIMABLE: (MIGRATE_UNMOVABLE, MIGRATE_MOVABLE),
}

BOOST_FACTOR_UNIT = 10_000  # `watermark_boost_factor` counts ten-thousandths of the high watermark


class Mobility(Buddy):
    """A buddy allocator that takes from foreign migratetypes when its own lists are empty."""

    __slots__ = (
        "boosted",
        "fast_marks",
        "lowmem_reserve",
        "managed_pages",
        "nr_isolate_pageblock",
        "nr_reserved_highatomic",
        "watermark",
        "watermark_boost",
        "watermark_boost_factor",
    )

    def __init__(
        self,
        start_pfn: int,
        nr_pages: int,
        layout: Layout,
        revision: Revision,
        zones_below: Sequence[Buddy],
        watermark_boost_factor: int,
    ) -> None:
        super().__init__(start_pfn, nr_pages, layout, revision, zones_below)
        self.managed_pages = nr_pages
        self.watermark = [0, 0, 0]  # pages, without the boost (`_watermark`)
        self.watermark_boost = 0  # pages
        self.watermark_boost_factor = watermark_boost_factor
        self.boosted = False  # a boost that kswapd was not woken for yet (ZONE_BOOSTED_WATERMARK)
        self.nr_reserved_highatomic = 0  # pages
        self.nr_isolate_pageblock = 0
        # Pages withheld from requests that could use zones up to the k-th.
        self.lowmem_reserve = [0] * len(ZONE_NAMES)
        self.fast_marks = [0] * len(ZONE_NAMES)  # see `marks_changed`

    def become_twin_of(self, other: Self) -> None:
        super().become_twin_of(other)
        self.managed_pages = other.managed_pages
        self.watermark, self.fast_marks = other.watermark[:], other.fast_marks[:]
        self.lowmem_reserve = other.lowmem_reserve[:]
        self.watermark_boost, self.boosted = other.watermark_boost, other.boosted
        self.watermark_boost_factor = other.watermark_boost_factor
        self.nr_reserved_highatomic = other.nr_reserved_highatomic
        self.nr_isolate_pageblock = other.nr_isolate_pageblock

    def marks_changed(self) -> None:
        """Bring `fast_marks` up to date: whoever changes a mark, the boost or a reserve calls this.

        A request that may use zones up to `ZONE_NAMES[k]`, and leaves `fast_marks[k]` pages free, is above the
        low mark for certain: one comparison, and nearly always the only one.
        """
        # Page sets that tune themselves hear of it when less than the high mark is free: not on the quick way.
        mark = self.watermark[WMARK_HIGH if self.revision.pcp_tunes_high else WMARK_LOW]
        low = mark + self.watermark_boost + self.nr_reserved_highatomic
        self.fast_marks[:] = [low + reserve for reserve in self.lowmem_reserve]

    def rmqueue(self, order: int, migratetype: int, alloc_flags: int) -> int:
        """Take a block from the type's own lists, or steal until they have one (`__rmqueue`); -1 if none."""
        while True:
            index = self.rmqueue_smallest(order, migratetype)
            if index >= 0 or not self.rmqueue_fallback(order, migratetype, alloc_flags):
                return index

    # -- fallback and stealing -----------------------------------------------------------------------

    def rmqueue_fallback(self, order: int, start_type: int, alloc_flags: int) -> bool:
        """Move blocks of another type to `start_type`'s lists (`__rmqueue_fallback`); False if there are none.

        The largest block is taken, so that as little as possible is mixed; a movable request that cannot
        claim the pageblock takes the smallest that fits instead, for it does no lasting harm.
        """
        layout = self.layout
        min_order = order
        if order < layout.pageblock_order and alloc_flags & ALLOC_NOFRAGMENT:
            min_order = layout.pageblock_order
        for current_order in range(layout.top_order, min_order - 1, -1):
            fallback_type = self.find_suitable_fallback(current_order, start_type)
            if fallback_type < 0:
                continue
            can_steal = self.can_steal_fallback(current_order, start_type)
            if not can_steal and start_type == MIGRATE_MOVABLE and current_order > order:
                return self._steal_smallest(order, start_type, alloc_flags)
            index = self.get_page_from_free_area(current_order, fallback_type)
            self.steal_suitable_fallback(index, current_order, start_type, alloc_flags, can_steal)
            self._trace_extfrag(index, order, current_order, start_type, fallback_type)
            return True
        return False

    def _steal_smallest(self, order: int, start_type: int, alloc_flags: int) -> bool:
        for current_order in range(order, self.layout.nr_orders):
            fallback_type = self.find_suitable_fallback(current_order, start_type)
            if fallback_type >= 0:
                index = self.get_page_from_free_area(current_order, fallback_type)
                can_steal = self.can_steal_fallback(current_order, start_type)
                self.steal_suitable_fallback(index, current_order, start_type, alloc_flags, can_steal)
                self._trace_extfrag(index, order, current_order, start_type, fallback_type)
                return True
        raise AssertionError("a larger block was found just now, under the same lock")

    def _trace_extfrag(
        self, index: int, alloc_order: int, fallback_order: int, start_type: int, fallback_type: int
    ) -> None:
        trace = self.trace
        if trace is not None:
            pageblock_order = self.layout.pageblock_order
            trace(
                "mm_page_alloc_extfrag",
                self.base_pfn + index,
                alloc_order,
                fallback_order,
                pageblock_order,
                start_type,
                fallback_type,
                fallback_order < pageblock_order,
                self.get_pageblock_migratetype(index) == start_type,
            )

    def find_suitable_fallback(self, order: int, start_type: int) -> int:
        """Return the preferred foreign type with a free block of this order, or -1."""
        if self.nr_free[order]:
            for fallback_type in FALLBACKS[start_type]:
                if not self.free_list_empty(order, fallback_type):
                    return fallback_type
        return -1

    def can_steal_fallback(self, order: int, start_type: int) -> bool:
        """Whether a block of this order justifies trying for its whole pageblock."""
        return (
            order >= self.layout.pageblock_order // 2
            or start_type in (MIGRATE_RECLAIMABLE, MIGRATE_UNMOVABLE)
            or self.mobility_disabled
        )

    def steal_suitable_fallback(
        self, index: int, order: int, start_type: int, alloc_flags: int, whole_block: bool
    ) -> None:
        """Move a foreign block, or all of its pageblock's free pages, to `start_type`'s lists."""
        old_type = self.get_pageblock_migratetype(index)
        if old_type == MIGRATE_HIGHATOMIC:
            self.move_to_free_list(index, order, start_type)
            return
        if order >= self.layout.pageblock_order:
            self._change_pageblock_range(index, order, start_type)
            self.move_to_free_list(index, order, start_type)
            return
        if self.boost_watermark() and alloc_flags & ALLOC_KSWAPD:
            self.boosted = True
        free_pages = movable_pages = 0
        if whole_block:
            free_pages, movable_pages = self.move_freepages_block(index, start_type)
        if not free_pages:
            self.move_to_free_list(index, order, start_type)
            return
        # Pages in use that fit the new type: the movable ones for MOVABLE; for the others, what is left
        # of a movable pageblock beside its free and its movable pages.
        pageblock_pages = self.layout.pageblock_nr_pages
        if start_type == MIGRATE_MOVABLE:
            alike_pages = movable_pages
        elif old_type == MIGRATE_MOVABLE:
            alike_pages = pageblock_pages - (free_pages + movable_pages)
        else:
            alike_pages = 0
        if free_pages + alike_pages >= pageblock_pages // 2 or self.mobility_disabled:
            self.set_pageblock_migratetype(index, start_type)

    def _change_pageblock_range(self, index: int, order: int, migratetype: int) -> None:
        for block in range(index, index + (1 << order), self.layout.pageblock_nr_pages):
            self.set_pageblock_migratetype(block, migratetype)

    def move_freepages_block(self, index: int, migratetype: int) -> tuple[int, int]:
        """Move the free pages of the pageblock that holds `index` to another type's lists.

        Returns (pages moved, pages in use on an LRU list); (0, 0) when the pageblock ends outside the zone.
        """
        pageblock_pages = self.layout.pageblock_nr_pages
        start = index & -pageblock_pages
        end = start + pageblock_pages
        if self.base_pfn + end > self.end_pfn:
            return 0, 0
        if self.base_pfn + start < self.start_pfn:
            start = index
        state = self.state
        moved = movable = 0
        while start < end:
            # A frame inside a block larger than the pageblock has order 0 here, and is passed over.
            kind, order = state[start] & KIND_MASK, state[start] & ORDER_MASK
            if kind == BUDDY:
                self.move_to_free_list(start, order, migratetype)
                moved += 1 << order
            elif kind == LRU:
                movable += 1 << order
            start += 1 << order
        return moved, movable

    def boost_watermark(self) -> bool:
        """Raise the marks for a while after mixing types, so that kswapd makes room; False if it cannot."""
        if not self.watermark_boost_factor:
            return False
        pageblock_pages = self.layout.pageblock_nr_pages
        if pageblock_pages * 4 > self.managed_pages:
            return False
        max_boost = self.watermark[WMARK_HIGH] * self.watermark_boost_factor // BOOST_FACTOR_UNIT
        if not max_boost:
            return False
        max_boost = max(pageblock_pages, max_boost)
        self.watermark_boost = min(self.watermark_boost + pageblock_pages, max_boost)
        self.marks_changed()
        return True

    # -- the high-atomic reserve -----------------------------------------------------------------------

    def reserve_highatomic_pageblock(self, index: int) -> None:
        """Keep the pageblock of a fresh high-atomic allocation for the next one, up to about 1 % of the zone."""
        pageblock_pages = self.layout.pageblock_nr_pages
        limit = self.managed_pages // 100 + pageblock_pages
        if self.nr_reserved_highatomic >= limit:
            return
        if self.get_pageblock_migratetype(index) < MIGRATE_PCPTYPES:
            self.nr_reserved_highatomic += pageblock_pages
            self.marks_changed()
            self.set_pageblock_migratetype(index, MIGRATE_HIGHATOMIC)
            self.move_freepages_block(index, MIGRATE_HIGHATOMIC)

    def unreserve_highatomic_pageblock(self, migratetype: int) -> bool:
        """Give one reserved pageblock with free pages back to `migratetype`; False if there is none."""
        for order in range(self.layout.nr_orders):
            index = self.get_page_from_free_area(order, MIGRATE_HIGHATOMIC)
            if index < 0:
                continue
            if self.get_pageblock_migratetype(index) == MIGRATE_HIGHATOMIC:
                self.nr_reserved_highatomic -= min(
                    self.layout.pageblock_nr_pages, self.nr_reserved_highatomic
                )
                self.marks_changed()
            self.set_pageblock_migratetype(index, migratetype)
            if self.move_freepages_block(index, migratetype)[0]:
                return True
        return False

    # -- page isolation (mm/page_isolation.c) ----------------------------------------------------------

    def set_migratetype_isolate(self, index: int) -> bool:
        """Withhold a pageblock: its free pages leave the count, its type is ISOLATE; False if it is already."""
        if self.get_pageblock_migratetype(index) == MIGRATE_ISOLATE:
            return False
        self.nr_isolate_pageblock += 1
        self.set_pageblock_migratetype(index, MIGRATE_ISOLATE)
        moved, _ = self.move_freepages_block(index, MIGRATE_ISOLATE)
        self.nr_free_pages -= moved
        return True
