"""What a zone holds, page frame by page frame, for whoever looks at one from outside, or lays one out as recorded.

Above this floor a page is its pfn; what is an index inside a zone stays inside. The caller holds the zone lock, or is
alone with the zone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from pagealloc.mmzone import MIGRATE_ISOLATE, MIGRATE_TYPES, ORDERS_MAX
from pagealloc.page_flags import (
    ALLOCATED,
    BUDDY,
    IN_FLIGHT,
    KIND_MASK,
    LRU,
    ON_PAGE_SET,
    ORDER_MASK,
    REPORTED,
    TAIL,
    UPTODATE,
)
from pagealloc.zone import Zone

KINDS = {ALLOCATED: "allocated", LRU: "allocated", ON_PAGE_SET: "page set", IN_FLIGHT: "in flight"}

# Frames of free blocks that bear the bit, on their heads or, which is wrong, behind them. Elsewhere it means Uptodate.
# A loop over the frames costs ten times as much.
BEARS_REPORTED = re.compile(
    b"[%s]" % re.escape(bytes([REPORTED | TAIL, *(REPORTED | BUDDY | order for order in range(ORDERS_MAX))]))
)


def reported_pfns(zone: Zone) -> list[int]:
    """Return the pages of free blocks that bear Reported, rising."""
    return [zone.base_pfn + match.start() for match in BEARS_REPORTED.finditer(zone.state)]


def reported_blocks(zone: Zone) -> list[tuple[int, int]]:
    """Return (pfn, order) of the free blocks that bear Reported, rising."""
    base_pfn = zone.base_pfn
    return [(pfn, zone.state[pfn - base_pfn] & ORDER_MASK) for pfn in reported_pfns(zone)]


def blocks_in_use(zone: Zone) -> Iterator[tuple[int, int, str]]:
    """Yield (pfn, order, kind) of each block that is on no free list; a kind is a value of `KINDS`."""
    state = zone.state
    index, end = zone.start_pfn - zone.base_pfn, zone.end_pfn - zone.base_pfn
    while index < end:
        order = state[index] & ORDER_MASK
        kind = KINDS.get(state[index] & KIND_MASK)
        if kind is not None:
            yield zone.base_pfn + index, order, kind
        index += 1 << order


def block_at(zone: Zone, pfn: int) -> tuple[int, int, int]:
    """Return (head's pfn, order, kind byte of `page_flags`) of the block that a page of the zone belongs to."""
    head, order = zone.block_of(pfn - zone.base_pfn)
    return zone.base_pfn + head, order, zone.state[head] & KIND_MASK


def block_types(zone: Zone) -> bytes:
    """Return the migratetypes of the zone's pageblocks, from the one in which it starts."""
    first = (zone.start_pfn - zone.base_pfn) >> zone.pageblock_order
    last = (zone.end_pfn - 1 - zone.base_pfn) >> zone.pageblock_order
    return bytes(zone.pageblock_types[first : last + 1])


def bears_reported(zone: Zone, pfn: int) -> bool:
    """Whether the page bears the bit, free or not: on a page in use it is Uptodate, which is nobody's lie."""
    return zone.state[pfn - zone.base_pfn] & REPORTED != 0


def set_uptodate(zone: Zone, pfn: int) -> None:
    """Let a page's owner set Uptodate, which has Reported's place in the page's flags."""
    zone.state[pfn - zone.base_pfn] |= UPTODATE


def lay_out(zone: Zone, lists: Iterable[tuple[int, int, list[int]]], types: bytes) -> None:
    """Give a zone other free lists, (order, migratetype, pfns from head to tail), and its pageblocks these types.

    All other pages are allocated then, each for itself, and nothing is Reported or counted twice.
    """
    for order in range(zone.nr_orders):
        for migratetype in range(MIGRATE_TYPES):
            for index in list(zone.free_list(order, migratetype)):
                zone.del_page_from_free_list(index, order)
    first, behind = zone.first_index, zone.end_pfn - zone.base_pfn
    zone.state[first:behind] = bytes([ALLOCATED]) * (behind - first)
    zone.nr_free_pages = zone.nr_free_highatomic = 0
    for order, migratetype, pfns in lists:
        for pfn in pfns:
            index = pfn - zone.base_pfn
            zone.state[index : index + (1 << order)] = bytes([TAIL]) * (1 << order)
            zone.add_to_free_list_tail(index, order, migratetype)
            zone.account_freepages(1 << order, migratetype)
    start = first >> zone.pageblock_order
    zone.pageblock_types[start : start + len(types)] = types
    zone.nr_isolate_pageblock = types.count(MIGRATE_ISOLATE)


def set_lru(zone: Zone, pfn: int, count: int) -> None:
    """Let so many pages be in use, each for itself, and on an LRU list."""
    index = pfn - zone.base_pfn
    zone.state[index : index + count] = bytes([LRU]) * count
