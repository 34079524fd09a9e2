"""Watermarks held against what is free: whether a request may take from the zone (`__zone_watermark_ok`).

Also looked at without the zone lock, as the kernel does: whoever decides by an answer looks again, or can be wrong.
"""

from __future__ import annotations

from pagealloc.mmzone import (
    ALLOC_HIGHATOMIC,
    ALLOC_MIN_RESERVE,
    ALLOC_NON_BLOCK,
    ALLOC_OOM,
    ALLOC_RESERVES,
    MIGRATE_HIGHATOMIC,
    MIGRATE_PCPTYPES,
    MIGRATE_TYPES,
    WMARK_HIGH,
    WMARK_LOW,
    WMARK_MIN,
)
from pagealloc.mobility import Mobility


class Marks(Mobility):
    """A zone's free lists, seen by their watermarks."""

    __slots__ = ()

    def wmark_pages(self, mark: int) -> int:
        """Return a watermark in pages, the boost included."""
        return self.watermark[mark] + self.watermark_boost

    def min_wmark_pages(self) -> int:
        return self.watermark[WMARK_MIN] + self.watermark_boost

    def low_wmark_pages(self) -> int:
        return self.watermark[WMARK_LOW] + self.watermark_boost

    def high_wmark_pages(self) -> int:
        return self.watermark[WMARK_HIGH] + self.watermark_boost

    def zone_watermark_ok(self, order: int, mark: int, reserve: int = 0, alloc_flags: int = 0) -> bool:
        """Whether taking 2**order pages leaves more than `mark` + `reserve` pages and a block to take.

        `reserve` is the zone's lowmem reserve against the request, in pages. Equality fails. With reserve
        flags part of the mark may be used; without them the high-atomic reserve counts as taken.
        """
        free_pages = self.nr_free_pages - ((1 << order) - 1)
        if alloc_flags & ALLOC_RESERVES:
            if alloc_flags & ALLOC_MIN_RESERVE:
                mark -= mark // 2
                if alloc_flags & ALLOC_NON_BLOCK:
                    mark -= mark // 4
            if alloc_flags & ALLOC_OOM:
                mark -= mark // 2
        else:
            free_pages -= self.withheld_highatomic()
        if free_pages <= mark + reserve:
            return False
        return order == 0 or self._has_block(order, alloc_flags)

    def _has_block(self, order: int, alloc_flags: int) -> bool:
        next_ = self._next
        for current_order in range(order, self.nr_orders):
            if not self.nr_free[current_order]:
                continue
            at = current_order * MIGRATE_TYPES
            for anchor in self._anchors[at : at + MIGRATE_PCPTYPES]:
                if next_[anchor] != anchor:
                    return True
            if alloc_flags & (ALLOC_HIGHATOMIC | ALLOC_OOM) and not self.free_list_empty(
                current_order, MIGRATE_HIGHATOMIC
            ):
                return True
        return False
