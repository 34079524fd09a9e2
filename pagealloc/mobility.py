"""Migratetypes at work: falling back to foreign lists, stealing pageblocks, and keeping two kinds apart.

Allocations are grouped by mobility, a pageblock at a time, so that one unmovable page does not spoil a
large block. When a type's own lists are empty, a request takes from another type and, if enough of the
pageblock would be of its own kind, claims the whole pageblock. HIGHATOMIC pageblocks are a reserve for
allocations that may not sleep.

Up to 6.13 that is one step: `__rmqueue_fallback` moves blocks to the requester's own lists, and the request is
made again (checked against 6.1.192). Since then, and in late 6.12, there are two ways: claim a pageblock, or
steal a block whose rest stays on the lists where it was (checked against 6.12.117).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

from pagealloc.buddy import Buddy
from pagealloc.mmzone import (
    ALLOC_HIGHATOMIC,
    ALLOC_KSWAPD,
    ALLOC_NOFRAGMENT,
    ALLOC_NON_BLOCK,
    ALLOC_OOM,
    MIGRATE_HIGHATOMIC,
    MIGRATE_MOVABLE,
    MIGRATE_PCPTYPES,
    MIGRATE_RECLAIMABLE,
    MIGRATE_UNMOVABLE,
    WMARK_HIGH,
    WMARK_LOW,
    ZONE_NAMES,
    Layout,
)
from pagealloc.page_flags import ALLOCATED
from pagealloc.pageblock import Pageblocks
from pagealloc.revision import Revision

FALLBACKS = {
    MIGRATE_UNMOVABLE: (MIGRATE_RECLAIMABLE, MIGRATE_MOVABLE),
    MIGRATE_MOVABLE: (MIGRATE_RECLAIMABLE, MIGRATE_UNMOVABLE),
    MIGRATE_RECLAIMABLE: (MIGRATE_UNMOVABLE, MIGRATE_MOVABLE),
}

BOOST_FACTOR_UNIT: Final = 10_000  # `watermark_boost_factor` counts ten-thousandths of the high watermark


class Mobility(Pageblocks):
    """A buddy allocator that takes from foreign migratetypes when its own lists are empty."""

    __slots__ = (
        "boosted",
        "fast_marks",
        "lowmem_reserve",
        "managed_pages",
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

    def marks_changed(self) -> None:
        """Bring `fast_marks` up to date: whoever changes a mark, the boost or a reserve calls this.

        A request that may use zones up to `ZONE_NAMES[k]`, and leaves `fast_marks[k]` pages free, is above the
        low mark for certain: one comparison, and nearly always the only one.
        """
        self.fast_marks[:] = self.sum_marks()

    def sum_marks(self) -> list[int]:
        """Return what `fast_marks` are when they are up to date."""
        # Page sets that tune themselves hear of it when less than the high mark is free: not on the quick way.
        mark = self.watermark[WMARK_HIGH if self.revision.pcp_tunes_high else WMARK_LOW]
        low = mark + self.watermark_boost + self.nr_reserved_highatomic
        return [low + reserve for reserve in self.lowmem_reserve]

    def usable_pages(self) -> int:
        """Return the free pages beyond the high-atomic reserve: what watermarks are held against."""
        return self.nr_free_pages - self.withheld_highatomic()

    def withheld_highatomic(self) -> int:
        """Return the pages that watermarks leave out: the high-atomic reserve, or what is free of it (v6.13)."""
        if self.revision.highatomic_free_withheld:
            return self.nr_free_highatomic
        return self.nr_reserved_highatomic

    # -- taking ----------------------------------------------------------------------------------------

    def rmqueue(self, order: int, migratetype: int, alloc_flags: int) -> int:
        """Take a block from the type's own lists, or from those of others (`__rmqueue`); -1 if there is none."""
        index = self.rmqueue_smallest(order, migratetype)
        if index < 0:
            index, _ = self.rmqueue_foreign(order, migratetype, alloc_flags)
        return index

    def rmqueue_foreign(
        self, order: int, migratetype: int, alloc_flags: int, *, stealing: bool = False
    ) -> tuple[int, bool]:
        """Take a block when the type's own lists have none.

        Returns (index or -1, whether it was stolen). A refill whose last block was stolen goes on `stealing`: it
        neither tries the own lists nor claims again under this hold of the lock (`enum rmqueue_mode`).
        """
        if not self.revision.claim_then_steal:
            while self.rmqueue_fallback(order, migratetype, alloc_flags):
                index = self.rmqueue_smallest(order, migratetype)
                if index >= 0:
                    return index, False
            return -1, False
        index = -1 if stealing else self.rmqueue_claim(order, migratetype, alloc_flags)
        if index >= 0:
            return index, False
        if alloc_flags & ALLOC_NOFRAGMENT:
            return -1, False
        return self.rmqueue_steal(order, migratetype), True

    # -- claiming and stealing (v6.14) -------------------------------------------------------------------

    def rmqueue_claim(self, order: int, start_type: int, alloc_flags: int) -> int:
        """Take a block out of a pageblock that becomes `start_type`'s, the largest first; -1 if none can be claimed.

        One block of each order is tried. A try in vain leaves nothing behind but its boost.
        """
        layout = self.layout
        floor = order
        if order < layout.pageblock_order and alloc_flags & ALLOC_NOFRAGMENT:
            floor = layout.pageblock_order
        for current_order in range(layout.top_order, floor - 1, -1):
            if not self.can_steal_fallback(current_order, start_type):
                break
            fallback_type = self.find_suitable_fallback(current_order, start_type)
            if fallback_type < 0:
                continue
            index = self.get_page_from_free_area(current_order, fallback_type)
            index = self.try_to_claim_block(
                index, current_order, order, start_type, fallback_type, alloc_flags
            )
            if index >= 0:
                self._trace_extfrag(index, order, current_order, start_type, fallback_type)
                return index
        return -1

    def try_to_claim_block(
        self, index: int, current_order: int, order: int, start_type: int, block_type: int, alloc_flags: int
    ) -> int:
        """Make the pageblock of a foreign block `start_type`'s, if enough of it is; returns a block of it, or -1.

        What is taken in the end is the smallest that fits on the own lists, which need not be `index`.
        """
        if self.get_pageblock_migratetype(index) == MIGRATE_HIGHATOMIC:
            return -1
        trace = self.trace
        if current_order >= self.layout.pageblock_order:
            self.del_page_from_free_list(index, current_order)
            if trace is not None:
                trace("rmqueue_claim", self.base_pfn + index, order, start_type, current_order, block_type)
            self.change_pageblock_range(index, current_order, start_type)
            self.expand(index, order, current_order, start_type)
            return index
        if self.boost_watermark() and alloc_flags & ALLOC_KSWAPD:
            self.boosted = True
        span = self.block_span(index)
        if span is None:
            return -1
        free_pages, alike_pages = self._pages_alike(span, start_type, block_type)
        claimed = free_pages + alike_pages >= len(span) // 2 or self.mobility_disabled
        if trace is not None:
            trace(
                "try_to_claim_block", self.base_pfn + span.start, start_type, free_pages, alike_pages, claimed
            )
        if not claimed:
            return -1
        self.move_freepages_block(index, start_type)
        return self.rmqueue_smallest(order, start_type)

    def rmqueue_steal(self, order: int, start_type: int) -> int:
        """Take the smallest foreign block that fits; what is left of it stays on the lists of its type; or -1."""
        for current_order in range(order, self.layout.nr_orders):
            fallback_type = self.find_suitable_fallback(current_order, start_type)
            if fallback_type < 0:
                continue
            index = self.get_page_from_free_area(current_order, fallback_type)
            self.del_page_from_free_list(index, current_order)
            self.expand(index, order, current_order, fallback_type)
            trace = self.trace
            if trace is not None:
                trace("rmqueue_steal", self.base_pfn + index, order, start_type, current_order, fallback_type)
            self._trace_extfrag(index, order, current_order, start_type, fallback_type)
            return index
        return -1

    def _pages_alike(self, span: range, start_type: int, old_type: int) -> tuple[int, int]:
        """Count a pageblock's (free pages, pages in use that fit `start_type`).

        For MOVABLE these are the movable ones; for the others, what is left of a movable pageblock beside its free
        and its movable pages.
        """
        free_pages, movable_pages = self.count_block_pages(span)
        if start_type == MIGRATE_MOVABLE:
            return free_pages, movable_pages
        if old_type == MIGRATE_MOVABLE:
            return free_pages, self.layout.pageblock_nr_pages - (free_pages + movable_pages)
        return free_pages, 0

    # -- fallback (before v6.14) -------------------------------------------------------------------------

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
            self.change_pageblock_range(index, order, start_type)
            self.move_to_free_list(index, order, start_type)
            return
        if self.boost_watermark() and alloc_flags & ALLOC_KSWAPD:
            self.boosted = True
        span = self.block_span(index) if whole_block else None
        if span is None:
            self.move_to_free_list(index, order, start_type)
            return
        free_pages, alike_pages = self._pages_alike(span, start_type, old_type)
        self.move_freepages(span, old_type, start_type)
        if free_pages + alike_pages >= self.layout.pageblock_nr_pages // 2 or self.mobility_disabled:
            self.set_pageblock_migratetype(index, start_type)

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

    def rmqueue_with_reserve(self, order: int, migratetype: int, alloc_flags: int) -> int:
        """Allocate for a request that may use the reserve, before all else or when nothing else is left; pfn or -1."""
        own = MIGRATE_HIGHATOMIC if alloc_flags & ALLOC_HIGHATOMIC else migratetype
        index = self.rmqueue_smallest(order, own)
        if index < 0:
            index = self.rmqueue(order, migratetype, alloc_flags)
            if index < 0 and alloc_flags & (ALLOC_OOM | ALLOC_NON_BLOCK):
                index = self.rmqueue_smallest(order, MIGRATE_HIGHATOMIC)
            if index < 0:
                return -1
        self.nr_free_pages -= 1 << order
        self.state[index] = ALLOCATED | order
        self.after_highatomic(index, order, alloc_flags)
        return self.base_pfn + index

    def after_highatomic(self, index: int, order: int, alloc_flags: int) -> None:
        """Account for a block that may come from the reserve, or has to go there."""
        if self.get_pageblock_migratetype(index) == MIGRATE_HIGHATOMIC:
            self.nr_free_highatomic -= 1 << order
        elif alloc_flags & ALLOC_HIGHATOMIC:
            self.reserve_highatomic_pageblock(index, order)

    def reserve_highatomic_pageblock(self, index: int, order: int) -> None:
        """Keep the pageblocks of a fresh high-atomic allocation for the next one, up to about 1 % of the zone."""
        pageblock_pages = self.layout.pageblock_nr_pages
        limit = self.managed_pages // 100 + pageblock_pages
        if self.revision.highatomic_whole_percent:
            limit = -(-(self.managed_pages // 100) // pageblock_pages) * pageblock_pages
            if self.managed_pages // 100 < pageblock_pages:
                return
        if self.nr_reserved_highatomic >= limit:
            return
        if self.get_pageblock_migratetype(index) >= MIGRATE_PCPTYPES:
            return
        nr_pages = pageblock_pages
        if self.revision.list_type_is_block_type and order >= self.layout.pageblock_order:
            self.change_pageblock_range(index, order, MIGRATE_HIGHATOMIC)
            nr_pages = 1 << order
        elif self.move_freepages_block(index, MIGRATE_HIGHATOMIC) < 0:
            return
        self.nr_reserved_highatomic += nr_pages
        self.marks_changed()

    def unreserve_highatomic_pageblock(self, migratetype: int, *, force: bool = True) -> bool:
        """Give one reserved pageblock with free pages back to `migratetype`; False if there is none.

        Without `force` the last reserved pageblock stays one.
        """
        pageblock_pages = self.layout.pageblock_nr_pages
        if not force and self.nr_reserved_highatomic <= pageblock_pages:
            return False
        for order in range(self.layout.nr_orders):
            index = self.get_page_from_free_area(order, MIGRATE_HIGHATOMIC)
            if index < 0:
                continue
            nr_pages = pageblock_pages
            if self.revision.list_type_is_block_type:
                nr_pages = max(nr_pages, 1 << order)
            if self.get_pageblock_migratetype(index) == MIGRATE_HIGHATOMIC:
                self.nr_reserved_highatomic -= min(nr_pages, self.nr_reserved_highatomic)
                self.marks_changed()
            if self.revision.list_type_is_block_type and order >= self.layout.pageblock_order:
                self.account_freepages(-nr_pages, MIGRATE_HIGHATOMIC)
                self.change_pageblock_range(index, order, migratetype)
                self.move_to_free_list(index, order, migratetype)
                self.account_freepages(nr_pages, migratetype)
                return True
            if self.move_freepages_block(index, migratetype) > 0:
                return True
        return False
