"""Page frames and the free lists that link them: `free_area[order].free_list[migratetype]`.

Inside a zone a page is named by its *index*: pfn - `base_pfn`, where `base_pfn` is the zone's first pfn
rounded down to the largest block. Index and pfn agree in their low bits, so a block's buddy is
`index ^ (1 << order)` and alignment can be read off either.

A list is a ring through two flat lists of ints, `next` and `prev`, indexed by page; behind the last frame
sits one anchor for each (order, migratetype). Insertion at either end, removal from the middle and rotation
are a handful of stores, whatever the zone's size, and the order of entries is exactly the kernel's
`list_head` order. All entries start as the same int object (0), so a frame that was never the head of a
free block costs 17 bytes: two references and its state byte. Dicts would be shorter to write, but on
free-threaded builds deleting and re-inserting the same key makes them slower without bound.

Everything here runs under the zone lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from pagealloc.errors import NotUnreported
from pagealloc.mmzone import MIGRATE_TYPES, Layout
from pagealloc.page_flags import BLOCK_MASK, BUDDY, KIND_MASK, OFFLINE, ORDER_MASK, REPORTED, TAIL, describe
from pagealloc.tracepoints import Trace


class FreeArea:
    """Frames `start_pfn` .. `end_pfn` - 1 with their state, and the zone's free lists."""

    __slots__ = (
        "_anchors",
        "_fitting",
        "_frames",
        "_next",
        "_prev",
        "base_pfn",
        "end_pfn",
        "first_index",
        "layout",
        "move_to_tail",
        "nr_free",
        "nr_orders",
        "nr_reported",
        "pageblock_order",
        "start_pfn",
        "state",
        "top_order",
        "trace",
    )

    def __init__(self, start_pfn: int, nr_pages: int, layout: Layout, *, move_to_tail: bool) -> None:
        block = 1 << layout.top_order
        self.layout = layout
        # What the hot paths need of the layout, one step away.
        self.nr_orders = layout.nr_orders
        self.top_order = layout.top_order
        self.pageblock_order = layout.pageblock_order
        self.start_pfn = start_pfn
        self.end_pfn = start_pfn + nr_pages
        self.base_pfn = start_pfn & -block
        self.first_index = start_pfn - self.base_pfn  # of a page that is the zone's own
        self.move_to_tail = move_to_tail
        nr_frames = (self.end_pfn - self.base_pfn + block - 1) & -block
        nr_anchors = layout.nr_orders * MIGRATE_TYPES

        # Frames before and behind the zone exist only to make every buddy's index valid.
        self.state = bytearray(nr_frames)
        first, behind = self.first_index, self.end_pfn - self.base_pfn
        self.state[:first] = bytes([OFFLINE]) * first
        self.state[behind:] = bytes([OFFLINE]) * (nr_frames - behind)

        self._anchors = tuple(range(nr_frames, nr_frames + nr_anchors))
        # For each order and migratetype the lists whose blocks fit, smallest first: their orders and anchors.
        self._fitting = tuple(
            tuple(
                (order, self._anchors[order * MIGRATE_TYPES + at % MIGRATE_TYPES])
                for order in range(at // MIGRATE_TYPES, layout.nr_orders)
            )
            for at in range(nr_anchors)
        )
        self._next = [0] * (nr_frames + nr_anchors)
        self._prev = [0] * (nr_frames + nr_anchors)
        self._next[nr_frames:] = self._prev[nr_frames:] = self._anchors
        self.nr_free = [0] * layout.nr_orders  # blocks of each order, all migratetypes together
        # What every change of a list needs, in one look: on a free-threaded interpreter each look at a slot whose
        # value another thread made takes the object's lock.
        self._frames = (self.state, self._next, self._prev, self.nr_free)
        self.nr_reported = [0] * layout.nr_orders  # of these, the Reported ones
        self.trace: Trace | None = None  # told of what happens under the zone lock

    def become_twin_of(self, other: Self) -> None:
        """Take over all that another one is, with containers of its own; every class of the chain adds its part."""
        self.layout = other.layout
        self.nr_orders, self.top_order = other.nr_orders, other.top_order
        self.pageblock_order = other.pageblock_order
        self.start_pfn, self.end_pfn, self.base_pfn = other.start_pfn, other.end_pfn, other.base_pfn
        self.first_index = other.first_index
        self.move_to_tail = other.move_to_tail
        self._anchors, self._fitting = other._anchors, other._fitting
        self.state = other.state[:]
        self._next, self._prev = other._next[:], other._prev[:]
        self.nr_free, self.nr_reported = other.nr_free[:], other.nr_reported[:]
        self._frames = self.state, self._next, self._prev, self.nr_free
        self.trace = other.trace

    # -- putting blocks on lists and taking them off -------------------------------------------------

    def add_to_free_list(self, index: int, order: int, migratetype: int) -> None:
        """Make the block Buddy and the first entry of its list."""
        state, next_, prev, nr_free = self._frames
        state[index] = BUDDY | order
        anchor = self._anchors[order * MIGRATE_TYPES + migratetype]
        first = next_[anchor]
        next_[anchor] = prev[first] = index
        prev[index] = anchor
        next_[index] = first
        nr_free[order] += 1

    def add_to_free_list_tail(self, index: int, order: int, migratetype: int) -> None:
        """Make the block Buddy and the last entry of its list."""
        state, next_, prev, nr_free = self._frames
        state[index] = BUDDY | order
        anchor = self._anchors[order * MIGRATE_TYPES + migratetype]
        last = prev[anchor]
        prev[anchor] = next_[last] = index
        prev[index] = last
        next_[index] = anchor
        nr_free[order] += 1

    def del_page_from_free_list(self, index: int, order: int) -> None:
        """Take a block off its list, be it merged or isolated; `rmqueue_smallest` does the same to the first of one.

        Reported is cleared before Buddy is (S8), so that no reader ever meets a page that is Reported but
        not free.
        """
        state, next_, prev, nr_free = self._frames
        if state[index] & REPORTED:
            state[index] = BUDDY | order
            self.nr_reported[order] -= 1
        before, after = prev[index], next_[index]
        next_[before] = after
        prev[after] = before
        state[index] = TAIL
        nr_free[order] -= 1

    def move_to_free_list(self, index: int, order: int, migratetype: int) -> None:
        """Move a block that stays free to the list of another migratetype; Reported stays as it is."""
        next_, prev = self._next, self._prev
        before, after = prev[index], next_[index]
        next_[before] = after
        prev[after] = before
        anchor = self._anchors[order * MIGRATE_TYPES + migratetype]
        self._insert_after(prev[anchor] if self.move_to_tail else anchor, index)
        trace = self.trace
        if trace is not None:
            trace("move_to_free_list", self.base_pfn + index, order, migratetype, self.move_to_tail)

    def _insert_after(self, before: int, index: int) -> None:
        next_, prev = self._next, self._prev
        after = next_[before]
        next_[before] = index
        prev[index] = before
        next_[index] = after
        prev[after] = index

    # -- reading and turning lists -------------------------------------------------------------------

    def free_list_empty(self, order: int, migratetype: int) -> bool:
        """Whether the list is empty; like the kernel's `list_empty`, also called without the lock."""
        anchor = self._anchors[order * MIGRATE_TYPES + migratetype]
        return self._next[anchor] == anchor

    def get_page_from_free_area(self, order: int, migratetype: int) -> int:
        """Return the index of the list's first block, or -1 when the list is empty."""
        anchor = self._anchors[order * MIGRATE_TYPES + migratetype]
        first = self._next[anchor]
        return -1 if first == anchor else first

    def free_list(self, order: int, migratetype: int) -> Iterator[int]:
        """Yield the indices of a list from head to tail; the list must not change meanwhile."""
        anchor = self._anchors[order * MIGRATE_TYPES + migratetype]
        index = self._next[anchor]
        while index != anchor:
            yield index
            index = self._next[index]

    def list_anchor(self, order: int, migratetype: int) -> int:
        """Return where a list's ring is held, for whoever checks the links."""
        return self._anchors[order * MIGRATE_TYPES + migratetype]

    def list_links(self, index: int) -> tuple[int, int]:
        """Return the links (next, previous) of an entry or an anchor."""
        return self._next[index], self._prev[index]

    def next_unreported(self, order: int, migratetype: int, index: int) -> int:
        """Return `index` or the first entry behind it that is not Reported, or -1 if there is none.

        Looks from both ends in turn, for the fresh ones stand together: in front, where frees put them, or behind a
        thousand Reported ones, where a failed batch comes back. Once all of the order were met from behind, the one met
        last is the first.
        """
        state, next_, prev, nr_free = self._frames
        unmet = nr_free[order] - self.nr_reported[order]
        if not unmet:
            return -1  # a fully reported order is left without walking it
        first = -1
        behind = self._anchors[order * MIGRATE_TYPES + migratetype]  # from here on all were met
        while index != behind:
            if not state[index] & REPORTED:
                return index
            index = next_[index]
            if index == behind:
                break
            behind = prev[behind]
            if not state[behind] & REPORTED:
                first = behind
                unmet -= 1
                if not unmet:
                    break
        return first

    def list_rotate_to_front(self, order: int, migratetype: int, index: int) -> None:
        """Turn the ring so that `index` becomes the first entry; the cyclic order stays (S19).

        The anchor moves, not the entries: O(1) whatever stands in front.
        """
        next_, prev = self._next, self._prev
        anchor = self._anchors[order * MIGRATE_TYPES + migratetype]
        if next_[anchor] == index:
            return
        first, last = next_[anchor], prev[anchor]
        next_[last] = first
        prev[first] = last
        before = prev[index]
        next_[before] = anchor
        prev[anchor] = before
        next_[anchor] = index
        prev[index] = anchor
        trace = self.trace
        if trace is not None:
            trace("page_reporting_rotate", order, migratetype, self.base_pfn + index)

    # -- page frames ---------------------------------------------------------------------------------

    def set_page_reported(self, index: int) -> None:
        """Flag the head of a free block as known to the host."""
        state = self.state[index]
        if state & (KIND_MASK | REPORTED) != BUDDY:
            expected = "the head of a free block that is not Reported"
            raise NotUnreported(self.base_pfn + index, state & ORDER_MASK, describe(state), expected)
        self.state[index] |= REPORTED
        order = state & ORDER_MASK
        self.nr_reported[order] += 1
        trace = self.trace
        if trace is not None:
            trace("page_reporting_reported", self.base_pfn + index, order)

    def page_reported(self, index: int) -> bool:
        """Whether the page heads a free block that the host was told about (S1: never without Buddy)."""
        return self.state[index] & (KIND_MASK | REPORTED) == BUDDY | REPORTED

    def is_buddy(self, index: int, order: int) -> bool:
        """Whether a free block of exactly this order begins here (`page_is_buddy`)."""
        return self.state[index] & BLOCK_MASK == BUDDY | order

    def block_of(self, index: int) -> tuple[int, int]:
        """Return (head, order) of the block that holds the frame; (-1, 0) for a frame of no block."""
        state = self.state
        for order in range(self.layout.nr_orders):
            head = index & -(1 << order)
            if state[head] & KIND_MASK != TAIL:
                found = state[head] & ORDER_MASK
                if state[head] == OFFLINE or found < order:
                    break
                return head, found
        return -1, 0
