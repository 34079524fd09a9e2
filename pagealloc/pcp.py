"""Page sets: a few free pages at every thread's hand, in front of the zone lock (`struct per_cpu_pages`).

The kernel keeps one set for each CPU; here each thread has its own. Small orders, and since v5.13 whole
pageblocks, are freed to the set and taken from it without the zone lock; an empty list is refilled, and a
long one shortened, by a batch under one hold of the lock. What rests on a set is free but cannot merge,
does not count as free, and is invisible to the reporting worker until it is drained.

A list is a plain Python list used as a stack: its end is the kernel list's head, where pages are freed and
taken; its front is the tail, where they are drained. `append` and `pop` are single steps on every build of
CPython, with a GIL or without, so a drain by another thread needs no lock: each page is popped by exactly
one thread. For the same reason there is one bound for each list rather than one for the whole set, whose
counter two threads would share.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from pagealloc.errors import CorruptPageSet
from pagealloc.mmzone import (
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    MIGRATE_PCPTYPES,
    ORDERS_MAX,
    PAGE_SHIFT,
)
from pagealloc.page_flags import ALLOCATED, ON_PAGE_SET, OWNED_MASK
from pagealloc.revision import Revision
from pagealloc.sync import Sync
from pagealloc.zone import Zone

PageSet = list[list[int]]  # pfns, by (zone, order, migratetype); see PcpLists

# The kernel shares a zone's low watermark out to the node's CPUs. How many threads will come is not known.
EXPECTED_THREADS = 4


def zone_batchsize(managed_pages: int) -> int:
    """Return how many pages move between a set and a zone at once: 63 in any zone of 1 GiB and more."""
    batch = max(1, min(managed_pages // 1024, (1 << 20) >> PAGE_SHIFT) // 4)
    return max(1, (1 << ((batch + batch // 2).bit_length() - 1)) - 1)


def zone_highsize(managed_pages: int, low_wmark_pages: int) -> int:
    """Return how many pages a thread's set of a zone may hold."""
    return max(low_wmark_pages // EXPECTED_THREADS, 4 * zone_batchsize(managed_pages))


class PcpLists(NamedTuple):
    """One order's lists of a zone, and what of the zone a block on its way to or from them is looked up in."""

    first: int  # list of a set, that of migratetype 0
    high: int  # blocks that a list may hold
    batch: int  # blocks that move at once
    state: bytearray
    base_pfn: int
    pageblock_types: bytearray
    pageblock_order: int


class PageSets:
    """The page sets of all threads over the zones of one memory."""

    def __init__(self, zones: Sequence[Zone], revision: Revision, sync: Sync) -> None:
        self._zones = zones
        layout = zones[0].layout
        orders = [order for order in range(layout.nr_orders) if zones[0].pcp_allowed_order(order)]
        self._orders = orders
        self._lists_per_zone = len(orders) * MIGRATE_PCPTYPES
        # For each zone and order: where its lists begin in a set, and their bounds; None for what does not rest.
        self._lists = tuple(
            tuple(self._lists_of(zone, order) for order in range(ORDERS_MAX)) for zone in zones
        )
        self._threads: list[PageSet] = []
        self._mutex = sync.mutex("page sets")
        self._local = sync.local(self._make, self._retire)

    def _lists_of(self, zone: Zone, order: int) -> PcpLists | None:
        # Once, when the memory is built: later changes of the marks do not change the bounds.
        high_pages = zone_highsize(zone.managed_pages, zone.low_wmark_pages())
        if order not in self._orders or not high_pages >> order:
            return None
        first = zone.number * self._lists_per_zone + self._orders.index(order) * MIGRATE_PCPTYPES
        return PcpLists(
            first,
            high_pages >> order,
            max(2, zone_batchsize(zone.managed_pages) >> order),
            zone.state,
            zone.base_pfn,
            zone.pageblock_types,
            zone.pageblock_order,
        )

    def _slots(self, zone: Zone, order: int) -> range:
        lists = self._lists[zone.number][order]
        return range(lists.first, lists.first + MIGRATE_PCPTYPES) if lists is not None else range(0)

    def holds(self, zone: Zone, order: int) -> bool:
        """Whether blocks of this order rest on the sets of this zone at all (`pcp_allowed_order`)."""
        return self._lists[zone.number][order] is not None

    def alloc(self, zone: Zone, order: int, migratetype: int, alloc_flags: int) -> int:
        """Take a block from the calling thread's set, refilled if need be (`rmqueue_pcplist`).

        Returns its pfn, or -1 when the zone gives none, and for orders that do not rest on sets.
        """
        lists = self._lists[zone.number][order]
        if lists is None:
            return -1
        first, _, batch, state, base_pfn, _, _ = lists
        pages = self._local.value[first + migratetype]
        try:
            pfn = pages.pop()
        except IndexError:
            taken = zone.rmqueue_bulk(order, migratetype, batch, alloc_flags)
            if not taken:
                return -1
            pfn = taken[0]
            pages.extend(taken[:0:-1])
        index = pfn - base_pfn
        if state[index] != ON_PAGE_SET | order:
            raise CorruptPageSet(pfn, order, zone.describe_page(pfn), "free on a page set")
        state[index] = ALLOCATED | order
        return pfn

    def free(self, zone: Zone, pfn: int, order: int) -> bool:
        """Put an allocated block of the zone on the calling thread's set (`free_unref_page`).

        Returns False, and changes nothing, for a block that has to go to the zone: of an order that does not
        rest on sets, or of a withheld pageblock. Raises BadPage, and changes nothing, unless exactly this
        block is allocated here.
        """
        if not 0 <= order < ORDERS_MAX:
            return False
        lists = self._lists[zone.number][order]
        if lists is None:
            return False
        first, high, batch, state, base_pfn, pageblock_types, pageblock_order = lists
        index = pfn - base_pfn
        if state[index] & OWNED_MASK != ALLOCATED | order:
            zone.check_range(pfn, order)
            raise zone.bad_free(pfn, order)
        migratetype = pageblock_types[index >> pageblock_order]
        if migratetype >= MIGRATE_PCPTYPES:
            if migratetype == MIGRATE_ISOLATE:
                return False  # nothing of a withheld pageblock may be handed out again
            migratetype = MIGRATE_MOVABLE
        state[index] = ON_PAGE_SET | order
        pages = self._local.value[first + migratetype]
        pages.append(pfn)
        if len(pages) > high:
            self._drain_list(zone, order, pages, batch)
        return True

    def drain_local(self) -> int:
        """Return what the calling thread's set holds to the zones; returns the pages moved."""
        return self._drain(self._local.value)

    def drain_all(self) -> int:
        """Return what all threads' sets hold to the zones; returns the pages moved (`drain_all_pages`)."""
        self._mutex.acquire()
        threads = list(self._threads)
        self._mutex.release()
        return sum(self._drain(lists) for lists in threads)

    def nr_pages(self, zone: Zone) -> int:
        """Count the pages of a zone that rest on the sets of all threads, at about this moment."""
        self._mutex.acquire()
        threads = list(self._threads)
        self._mutex.release()
        return sum(
            len(lists[slot]) << order
            for lists in threads
            for order in self._orders
            for slot in self._slots(zone, order)
        )

    def _drain(self, lists: PageSet) -> int:
        moved = 0
        for zone in self._zones:
            for order in self._orders:
                for slot in self._slots(zone, order):
                    moved += self._drain_list(zone, order, lists[slot], len(lists[slot])) << order
        return moved

    @staticmethod
    def _drain_list(zone: Zone, order: int, pages: list[int], count: int) -> int:
        """Return up to `count` blocks from a list's tail to the zone; returns how many."""
        pfns: list[int] = []
        with suppress(IndexError):  # another thread took the rest
            while len(pfns) < count:
                pfns.append(pages.pop(0))
        if pfns:
            zone.free_pcppages_bulk(pfns, order)
        return len(pfns)

    def _make(self) -> PageSet:
        lists: PageSet = [[] for _ in range(len(self._zones) * self._lists_per_zone)]
        self._mutex.acquire()
        self._threads.append(lists)
        self._mutex.release()
        return lists

    def _retire(self, lists: PageSet) -> None:
        """Drain the set of a thread that has ended."""
        self._drain(lists)
        self._mutex.acquire()
        # By identity: two empty sets are equal.
        self._threads = [other for other in self._threads if other is not lists]
        self._mutex.release()
