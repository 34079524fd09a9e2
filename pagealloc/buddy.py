"""Splitting and merging: `expand`, `__rmqueue_smallest` and `__free_one_page` of `mm/page_alloc.c`.

Two free blocks of equal order whose indices differ in that order's bit are *buddies* and become one block
of the next order. Where a block lands on its list, at the head or the tail, decides what is handed out
next and what the reporting worker meets first, so both rules are the kernel's to the letter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

from pagealloc.free_area import FreeArea
from pagealloc.mmzone import (
    FPI_SKIP_REPORT_NOTIFY,
    FPI_TO_TAIL,
    MIGRATE_HIGHATOMIC,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    MIGRATE_PCPTYPES,
    MIGRATE_TYPES,
    MIGRATE_UNMOVABLE,
    Layout,
)
from pagealloc.page_flags import BLOCK_MASK, BUDDY, REPORTED, TAIL
from pagealloc.revision import Revision


def _nobody_listens(pfn: int, order: int) -> None:
    """Stand in for the notifier until a device registers."""


class Buddy(FreeArea):
    """Free lists that split and merge, with a migratetype for every pageblock."""

    __slots__ = (
        "_keeps_apart",
        "mobility_disabled",
        "nr_free_highatomic",
        "nr_free_pages",
        "page_reporting_notify",
        "page_reporting_order",
        "pageblock_types",
        "revision",
        "whole_order",
        "zones_below",
    )

    def __init__(
        self, start_pfn: int, nr_pages: int, layout: Layout, revision: Revision, zones_below: Sequence[Buddy]
    ) -> None:
        super().__init__(start_pfn, nr_pages, layout, move_to_tail=revision.move_to_tail)
        self.revision = revision
        # The largest block that is freed in one piece.
        self.whole_order = layout.pageblock_order if revision.list_type_is_block_type else layout.top_order
        self.zones_below = tuple(zones_below)
        self.nr_free_pages = 0  # pages on the lists, those of type ISOLATE left out (NR_FREE_PAGES)
        # Of these, the ones of type HIGHATOMIC: exact where the type of a list is that of its blocks' pageblocks.
        self.nr_free_highatomic = 0
        self.mobility_disabled = False

        # A pageblock that the zone starts in the middle of keeps type 0, as after the kernel's boot.
        self.pageblock_types = bytearray([MIGRATE_MOVABLE]) * (len(self.state) >> layout.pageblock_order)
        first = start_pfn - self.base_pfn
        if first & (layout.pageblock_nr_pages - 1):
            self.pageblock_types[first >> layout.pageblock_order] = MIGRATE_UNMOVABLE

        apart = {MIGRATE_ISOLATE} if revision.highatomic_merges else {MIGRATE_ISOLATE, MIGRATE_HIGHATOMIC}
        self._keeps_apart = tuple(migratetype in apart for migratetype in range(MIGRATE_TYPES))

        # The reporting switch: off until the first device registers, and then never again. Off means an
        # order that no block has, so a free pays one comparison either way.
        self.page_reporting_order = layout.nr_orders
        self.page_reporting_notify: Callable[[int, int], None] = _nobody_listens

    def become_twin_of(self, other: Self) -> None:
        super().become_twin_of(other)
        self.revision = other.revision
        self.zones_below = other.zones_below
        self.whole_order = other.whole_order
        self.nr_free_pages, self.nr_free_highatomic = other.nr_free_pages, other.nr_free_highatomic
        self.mobility_disabled = other.mobility_disabled
        self.pageblock_types = other.pageblock_types[:]
        self._keeps_apart = other._keeps_apart
        self.page_reporting_order = other.page_reporting_order
        self.page_reporting_notify = other.page_reporting_notify

    # -- pageblocks ----------------------------------------------------------------------------------

    def get_pageblock_migratetype(self, index: int) -> int:
        return self.pageblock_types[index >> self.pageblock_order]

    def set_pageblock_migratetype(self, index: int, migratetype: int) -> None:
        if self.mobility_disabled and migratetype < MIGRATE_PCPTYPES:
            migratetype = MIGRATE_UNMOVABLE
        block = index >> self.pageblock_order
        if self.pageblock_types[block] == migratetype:
            return  # isolating says MOVABLE of what nearly always is: no event
        self.pageblock_types[block] = migratetype
        trace = self.trace
        if trace is not None:
            trace("set_pageblock_migratetype", self.base_pfn + index, migratetype)

    def change_pageblock_range(self, index: int, order: int, migratetype: int) -> None:
        """Retype all pageblocks of a block that is no smaller than one."""
        for block in range(index, index + (1 << order), self.layout.pageblock_nr_pages):
            self.set_pageblock_migratetype(block, migratetype)

    def account_freepages(self, nr_pages: int, migratetype: int) -> None:
        """Count pages that came to the lists of a type; fewer than 0 have left them."""
        if migratetype != MIGRATE_ISOLATE:
            self.nr_free_pages += nr_pages
        if migratetype == MIGRATE_HIGHATOMIC:
            self.nr_free_highatomic += nr_pages

    # -- freeing -------------------------------------------------------------------------------------

    def free_one_page(self, index: int, order: int, migratetype: int, fpi_flags: int) -> None:
        """Return a block to the free lists, merged with every buddy that is free (`__free_one_page`).

        `migratetype` is that of the block's pageblock as the caller read it under the zone lock. Asks for
        a report when the block that results is large enough, unless `fpi_flags` forbid it.
        """
        if migratetype < MIGRATE_PCPTYPES:
            self.nr_free_pages += 1 << order
        else:
            self.account_freepages(1 << order, migratetype)
        freed_index, freed_order = index, order
        state, next_, prev, nr_free = self._frames
        top_order = self.top_order
        pageblock_order = self.pageblock_order
        while order < top_order:
            buddy = index ^ (1 << order)
            if state[buddy] & BLOCK_MASK != BUDDY | order:
                break
            if order >= pageblock_order and not self._merge_pageblocks(migratetype, buddy, order):
                break
            self.del_page_from_free_list(buddy, order)
            index &= buddy
            order += 1

        to_tail = fpi_flags & FPI_TO_TAIL != 0
        if order < top_order - 1 and not to_tail:
            # Would the block's own buddy, once freed, merge further? Then the block is kept back, at the tail
            # (`buddy_merge_likely`).
            parent = index & ~(1 << order)
            if parent >= self.first_index:
                to_tail = state[parent ^ (2 << order)] & BLOCK_MASK == BUDDY | (order + 1)
            else:
                to_tail = self._merge_likely_below(parent, order + 1)
        # `add_to_free_list` or its `_tail`, written out: this is where most of a free's time goes.
        anchor = self._anchors[order * MIGRATE_TYPES + migratetype]
        if to_tail:
            before, after = prev[anchor], anchor
        else:
            before, after = anchor, next_[anchor]
        next_[before] = prev[after] = index
        prev[index] = before
        next_[index] = after
        state[index] = BUDDY | order
        nr_free[order] += 1

        trace = self.trace
        if trace is not None:
            trace(
                "page_reporting_putback"
                if fpi_flags & FPI_SKIP_REPORT_NOTIFY
                else "mm_page_free_zone_locked",
                self.base_pfn + freed_index,
                freed_order,
                migratetype,
                self.base_pfn + index,
                order,
                to_tail,
            )
        if order >= self.page_reporting_order and not fpi_flags & FPI_SKIP_REPORT_NOTIFY:
            self.page_reporting_notify(self.base_pfn + index, order)

    def _merge_pageblocks(self, migratetype: int, buddy: int, order: int) -> bool:
        """Let pageblocks become one block; False where the accounting of special ones forbids it.

        Where lists go by the pageblocks' types, those of the buddy take the type of what is freed.
        """
        buddy_type = self.get_pageblock_migratetype(buddy)
        if migratetype == buddy_type:
            return True
        if self._keeps_apart[migratetype] or self._keeps_apart[buddy_type]:
            return False
        if self.revision.list_type_is_block_type:
            self.change_pageblock_range(buddy, order, migratetype)
        return True

    def split_large_buddy(self, index: int, order: int, fpi_flags: int) -> None:
        """Free a block; since v6.10 each of its pageblocks for itself, rising, by its own type.

        Those that may merge are one block again in the end, of the last one's type; the others stay apart.
        """
        piece_order = min(order, self.whole_order)
        trace = self.trace
        if trace is not None and piece_order < order:
            trace("split_large_buddy", self.base_pfn + index, order)
        for piece in range(index, index + (1 << order), 1 << piece_order):
            self.free_one_page(piece, piece_order, self.get_pageblock_migratetype(piece), fpi_flags)

    def _merge_likely_below(self, parent: int, order: int) -> bool:
        """Answer for a parent of this order that would begin in a zone below.

        The kernel compares that zone, not this one, with that of the parent's buddy. It looks without the
        other zone's lock: a wrong guess costs nothing.
        """
        below = self._zone_below(self.base_pfn + parent)
        if below is None:
            return False
        parent += self.base_pfn - below.base_pfn
        return below.is_buddy(parent ^ (1 << order), order)

    def _zone_below(self, pfn: int) -> Buddy | None:
        for zone in self.zones_below:
            if zone.start_pfn <= pfn < zone.end_pfn:
                return zone
        return None

    # -- taking --------------------------------------------------------------------------------------

    def pcp_allowed_order(self, order: int) -> bool:
        """Whether blocks of this order may rest on page sets."""
        revision = self.revision
        return order <= revision.pcp_max_order or (
            revision.pcp_pageblock_order and order == self.layout.pageblock_order
        )

    def has_fitting(self, order: int, migratetype: int) -> bool:
        """Whether this type's own lists could serve the request; also called without the lock."""
        next_ = self._next
        for _, anchor in self._fitting[order * MIGRATE_TYPES + migratetype]:
            if next_[anchor] != anchor:
                return True
        return False

    def rmqueue_smallest(self, order: int, migratetype: int) -> int:
        """Take the first block of the smallest order that fits, from this type's lists (`__rmqueue_smallest`).

        Returns the index, or -1. The block is on no list and of no kind yet: the caller says whose it is.
        """
        state, next_, prev, nr_free = self._frames
        for current_order, anchor in self._fitting[order * MIGRATE_TYPES + migratetype]:
            index = next_[anchor]
            if index == anchor:
                continue
            # `del_page_from_free_list`, written out for the first of a list.
            if state[index] & REPORTED:
                state[index] = BUDDY | current_order
                self.nr_reported[current_order] -= 1
            after = next_[index]
            next_[anchor] = after
            prev[after] = anchor
            state[index] = TAIL
            nr_free[current_order] -= 1
            if current_order > order:
                self.expand(index, order, current_order, migratetype)
            trace = self.trace
            if trace is not None:
                trace(
                    "mm_page_alloc_zone_locked",
                    self.base_pfn + index,
                    order,
                    migratetype,
                    self.pcp_allowed_order(order) and migratetype < MIGRATE_PCPTYPES,
                    current_order,
                )
            return index
        return -1

    def expand(self, index: int, low: int, high: int, migratetype: int) -> None:
        """Split a block from order `high` to `low`: upper halves go to the heads of their lists.

        The pieces are not Reported, whatever the whole was, and nobody is told about them.
        """
        state, next_, prev, nr_free = self._frames
        anchors = self._anchors
        while high > low:
            high -= 1
            upper = index + (1 << high)
            state[upper] = BUDDY | high
            anchor = anchors[high * MIGRATE_TYPES + migratetype]
            first = next_[anchor]
            next_[anchor] = prev[first] = upper
            prev[upper] = anchor
            next_[upper] = first
            nr_free[high] += 1
