"""Does a zone's state add up? The structural invariants, checked by walking everything.

The caller holds the zone lock, or is alone. Page sets move pages between *allocated* and *on a page set*
without the lock, which changes what a block is, never where it lies, so a walk under the lock is sound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pagealloc.errors import MemoryClosed
from pagealloc.mmzone import MIGRATE_HIGHATOMIC, MIGRATE_ISOLATE, MIGRATE_TYPES
from pagealloc.page_flags import (
    ALLOCATED,
    BUDDY,
    IN_FLIGHT,
    KIND_MASK,
    LRU,
    OFFLINE,
    ON_PAGE_SET,
    ORDER_MASK,
    REPORTED,
    TAIL,
    describe,
)
from pagealloc.zone import Zone

MAX_PROBLEMS = 20  # one fault may show in every block; a person reads the first few


@dataclass(slots=True)
class Census:
    """What a walk over a zone found: pages of each kind, and what is wrong, in words."""

    free: int = 0
    allocated: int = 0
    on_page_sets: int = 0
    in_flight: int = 0
    reported: int = 0
    largest_free_order: int = -1
    problems: list[str] = field(default_factory=list)

    def problem(self, text: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text)


def validate(zone: Zone) -> Census:
    """Walk every block and every list of a zone (S1 .. S6 of the free lists' invariants).

    Finds: a frame that belongs to no block or to two, a block that is not aligned, Reported on anything but
    the head of a listed free block, a list that is broken or longer than its count, a free count that is
    not what the lists hold, a count of withheld pageblocks that is not their number, a list of another type than
    its blocks' pageblocks where the kernel keeps them together, free buddies below pageblock order that did not
    merge, and that the zone is shut (`zone_lock`).
    """
    census = Census()
    if zone.lock.refusal not in (None, MemoryClosed):  # a closed zone is as whole as it was
        census.problem(str(zone.lock.refused()))
    heads = _walk_blocks(zone, census)
    _walk_lists(zone, census, heads)
    return census


def _walk_blocks(zone: Zone, census: Census) -> dict[int, int]:
    """Walk the frames, block by block; returns the free blocks' orders by index."""
    state = zone.state
    heads: dict[int, int] = {}
    index, end = zone.start_pfn - zone.base_pfn, zone.end_pfn - zone.base_pfn
    while index < end:
        kind, order = state[index] & KIND_MASK, state[index] & ORDER_MASK
        pages = 1 << order
        pfn = zone.base_pfn + index
        if kind in (TAIL, OFFLINE):
            census.problem(f"lost page: pfn {pfn:#x} of zone {zone.name} belongs to no block (S2)")
            index += 1
            continue
        if index & (pages - 1) or index + pages > end:
            census.problem(f"pfn {pfn:#x} of zone {zone.name}: no block of order {order} can begin here (S3)")
        if pages > 1 and state.count(TAIL, index + 1, index + pages) != pages - 1:
            census.problem(f"pfn {pfn:#x} of zone {zone.name}: another block begins inside this one (S2)")
        if kind == BUDDY:
            heads[index] = order
            census.free += pages
            census.reported += pages if state[index] & REPORTED else 0
            census.largest_free_order = max(census.largest_free_order, order)
            buddy = index ^ pages
            if order < zone.layout.pageblock_order and zone.is_buddy(buddy, order):
                census.problem(
                    f"pfn {pfn:#x} of zone {zone.name} and its buddy are both free at order {order} (S3)"
                )
        elif kind in (ALLOCATED, LRU):
            census.allocated += pages
        elif state[index] & REPORTED:
            census.problem(f"pfn {pfn:#x} of zone {zone.name} is {describe(state[index])}, and Reported (S1)")
        census.on_page_sets += pages if kind == ON_PAGE_SET else 0
        census.in_flight += pages if kind == IN_FLIGHT else 0
        index += pages
    return heads


def _walk_lists(zone: Zone, census: Census, heads: dict[int, int]) -> None:
    """Walk the free lists and compare them with the free blocks found by `_walk_blocks`."""
    pages = highatomic = 0
    unlisted = dict(heads)
    for order in range(zone.layout.nr_orders):
        blocks = reported = 0
        for migratetype in range(MIGRATE_TYPES):
            for index in _entries(zone, census, order, migratetype):
                blocks += 1
                pages += (1 << order) if migratetype != MIGRATE_ISOLATE else 0
                highatomic += (1 << order) if migratetype == MIGRATE_HIGHATOMIC else 0
                reported += bool(zone.state[index] & REPORTED)
                if unlisted.pop(index, None) != order:
                    where = (
                        f"pfn {zone.base_pfn + index:#x} on list {order}.{migratetype} of zone {zone.name}"
                    )
                    census.problem(f"{where} is {describe(zone.state[index])} (S1)")
                _check_types(zone, census, index, order, migratetype)
        if blocks != zone.nr_free[order]:
            census.problem(
                f"zone {zone.name} counts {zone.nr_free[order]} free blocks of order {order}, "
                f"its lists hold {blocks} (S4)"
            )
        if reported != zone.nr_reported[order]:
            census.problem(
                f"zone {zone.name} counts {zone.nr_reported[order]} Reported blocks of order {order}, "
                f"its lists hold {reported}"
            )
    for index in list(unlisted)[:3]:
        census.problem(f"pfn {zone.base_pfn + index:#x} of zone {zone.name} is free but on no list (S1)")
    if zone.fast_marks != zone.sum_marks():
        census.problem(
            f"zone {zone.name} has its fast marks at {zone.fast_marks}, which is not what they sum up"
        )
    if zone.revision.highatomic_free_withheld and highatomic != zone.nr_free_highatomic:
        census.problem(
            f"zone {zone.name} counts {zone.nr_free_highatomic} free high-atomic pages, "
            f"its lists hold {highatomic} (S5)"
        )
    withheld = zone.pageblock_types.count(MIGRATE_ISOLATE)
    if withheld != zone.nr_isolate_pageblock:
        census.problem(
            f"zone {zone.name} counts {zone.nr_isolate_pageblock} withheld pageblocks, there are {withheld} (S5)"
        )
    if pages != zone.nr_free_pages:
        census.problem(
            f"zone {zone.name} counts {zone.nr_free_pages} free pages, its lists hold {pages} (S5)"
        )


def _check_types(zone: Zone, census: Census, index: int, order: int, migratetype: int) -> None:
    """Compare a list's type with those of a block's pageblocks: since v6.10 they are one."""
    if not zone.revision.list_type_is_block_type or zone.mobility_disabled:
        return
    first = index >> zone.pageblock_order
    behind = ((index + (1 << order) - 1) >> zone.pageblock_order) + 1
    types = zone.pageblock_types[first:behind]
    if types.count(migratetype) != len(types):
        census.problem(
            f"pfn {zone.base_pfn + index:#x} on list {order}.{migratetype} of zone {zone.name} is of pageblocks "
            f"of type {', '.join(map(str, types))} (S6)"
        )


def _entries(zone: Zone, census: Census, order: int, migratetype: int) -> Iterator[int]:
    """Yield a list's entries as far as its links can be trusted.

    Links that agree both ways form one ring through the anchor: no entry is met twice, and the walk ends.
    """
    nr_frames = len(zone.state)
    anchor = before = zone.list_anchor(order, migratetype)
    index = zone.list_links(anchor)[0]
    while index != anchor:
        where = f"list {order}.{migratetype} of zone {zone.name}"
        if index >= nr_frames:
            census.problem(f"{where} runs into another list (S4)")
            return
        after, back = zone.list_links(index)
        if back != before:
            census.problem(f"{where} is broken at pfn {zone.base_pfn + index:#x}: its links disagree (S4)")
            return
        yield index
        before, index = index, after
    if zone.list_links(anchor)[1] != before:
        census.problem(f"list {order}.{migratetype} of zone {zone.name} is broken at its tail (S4)")
