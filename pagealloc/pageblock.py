"""Whole pageblocks: moving their free pages to another type's lists, and withholding them (`mm/page_isolation.c`).

Kernels before v6.10 keep a pageblock's type and the lists of its free pages apart: one changes without the
other. Since then they change together (`Revision.list_type_is_block_type`), and a free block larger than a
pageblock is taken apart when one of its pageblocks changes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pagealloc.buddy import Buddy
from pagealloc.mmzone import MIGRATE_ISOLATE, Layout
from pagealloc.page_flags import BUDDY, IN_FLIGHT, KIND_MASK, LRU, ORDER_MASK, REPORTED, UPTODATE
from pagealloc.revision import Revision


class Pageblocks(Buddy):
    """A buddy allocator whose pageblocks change their types."""

    __slots__ = ("nr_isolate_pageblock",)

    def __init__(
        self, start_pfn: int, nr_pages: int, layout: Layout, revision: Revision, zones_below: Sequence[Buddy]
    ) -> None:
        super().__init__(start_pfn, nr_pages, layout, revision, zones_below)
        self.nr_isolate_pageblock = 0

    def become_twin_of(self, other: Self) -> None:
        super().become_twin_of(other)
        self.nr_isolate_pageblock = other.nr_isolate_pageblock

    # -- moving free pages -----------------------------------------------------------------------------

    def block_span(self, index: int) -> range | None:
        """Return the frames of the pageblock that holds `index`, or None for one that the zone's border cuts off.

        Before v6.10 only the zone's end counts as a border: at its start the span begins with `index`.
        """
        pageblock_pages = self.layout.pageblock_nr_pages
        start = index & -pageblock_pages
        end = start + pageblock_pages
        if self.base_pfn + end > self.end_pfn:
            return None
        if start < self.first_index:
            if self.revision.list_type_is_block_type:
                return None
            start = index
        return range(start, end)

    def count_block_pages(self, span: range) -> tuple[int, int]:
        """Count a pageblock's pages: (free, in use and on an LRU list)."""
        count, start, stop = self.state.count, span.start, span.stop
        free_pages = movable_pages = 0
        for order in range(self.pageblock_order + 1):
            # Heads only, Reported or uptodate ones too: by the byte, for a walk takes as long as a hundred requests.
            free, movable = BUDDY | order, LRU | order
            free_pages += count(free, start, stop) + count(free | REPORTED, start, stop) << order
            movable_pages += count(movable, start, stop) + count(movable | UPTODATE, start, stop) << order
        return free_pages, movable_pages

    def move_freepages(self, span: range, old_type: int, migratetype: int) -> int:
        """Move a pageblock's free pages to the lists of `migratetype`, rising; returns the pages moved."""
        state = self.state
        moved = 0
        at = span.start
        while at < span.stop:
            order = state[at] & ORDER_MASK
            if state[at] & KIND_MASK == BUDDY:
                self.move_to_free_list(at, order, migratetype)
                moved += 1 << order
            at += 1 << order
        self.account_freepages(-moved, old_type)
        self.account_freepages(moved, migratetype)
        return moved

    def move_freepages_block(self, index: int, migratetype: int) -> int:
        """Retype the pageblock that holds `index`, and move its free pages along; returns the pages moved.

        Where the zone's border cuts the pageblock off none is moved, and since v6.10 it keeps its type, too:
        that returns -1.
        """
        span = self.block_span(index)
        if span is None and self.revision.list_type_is_block_type:
            return -1
        old_type = self.get_pageblock_migratetype(index)
        self.set_pageblock_migratetype(index, migratetype)
        return self.move_freepages(span, old_type, migratetype) if span is not None else 0

    # -- withholding -----------------------------------------------------------------------------------

    def set_migratetype_isolate(self, index: int) -> bool:
        """Withhold a pageblock: its free pages leave the count, its type is ISOLATE.

        False, with nothing changed, if it is withheld already, and since v6.10 if the zone's border cuts it off or it
        is part of a larger block in flight.
        """
        if self.get_pageblock_migratetype(index) == MIGRATE_ISOLATE:
            return False
        if self.move_freepages_block_isolate(index, MIGRATE_ISOLATE) < 0:
            return False
        self.nr_isolate_pageblock += 1
        return True

    def move_freepages_block_isolate(self, index: int, migratetype: int) -> int:
        """Retype the pageblock that holds `index` alone, as isolation does; returns its free pages, or -1.

        Where lists go by types, a larger free block that holds it is freed again a pageblock at a time, and a part of
        one in flight is left alone: the kernel would put the whole back by the type of its first pageblock. The rest
        is `move_freepages_block`.
        """
        if self.revision.list_type_is_block_type:
            head, order = self.block_of(index)
            if self.state[head] & KIND_MASK == IN_FLIGHT and order > self.pageblock_order:
                return -1
            if self.state[head] & KIND_MASK == BUDDY and order > self.pageblock_order:
                self.account_freepages(-(1 << order), self.get_pageblock_migratetype(head))
                self.del_page_from_free_list(head, order)
                self.set_pageblock_migratetype(index, migratetype)
                self.split_large_buddy(head, order, 0)
                return self.layout.pageblock_nr_pages
        return self.move_freepages_block(index, migratetype)

    def order_to_merge(self, index: int) -> int:
        """Return the order of the free block at a withheld pageblock's start if its buddy waits, else -1.

        Since v6.10 a block larger than the pageblock is of withheld ones only, and does not count: putting it back
        whole, as the kernel does, would put pageblocks on lists that are still withheld.
        """
        state = self.state[index]
        order = state & ORDER_MASK
        if state & KIND_MASK != BUDDY or not self.layout.pageblock_order <= order < self.layout.top_order:
            return -1
        if order > self.layout.pageblock_order and self.revision.list_type_is_block_type:
            return -1
        buddy = index ^ (1 << order)
        waits = self.is_buddy(buddy, order) and self.get_pageblock_migratetype(buddy) != MIGRATE_ISOLATE
        return order if waits else -1
