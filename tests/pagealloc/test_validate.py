"""The judge on trial: each structural fault, planted by hand, is found and named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from zone_kit import START_PFN, exhaust, make_zone

from pagealloc import Zone, validate
from pagealloc.mmzone import MIGRATE_MOVABLE, MIGRATE_TYPES, WMARK_LOW
from pagealloc.page_flags import ALLOCATED, BUDDY, IN_FLIGHT, ON_PAGE_SET, REPORTED, TAIL, UPTODATE
from pagealloc.validate import MAX_PROBLEMS


def used_zone() -> Zone:
    """Build a zone with a block of every kind: the first pages are split up, the largest block is in flight."""
    zone = make_zone(64)
    for order in (0, 1):
        zone.rmqueue_buddy(order, MIGRATE_MOVABLE)
    zone.rmqueue_bulk(0, MIGRATE_MOVABLE, 1, 0)
    assert zone.isolate_free_page(32, 4)
    zone.set_reported(48)
    zone.lru_add(START_PFN)
    return zone


# -- silence -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start_pfn", [0, 16, 19])
@pytest.mark.parametrize("nr_pages", [1, 7, 64, 77])
def test_a_fresh_zone_is_sound(start_pfn: int, nr_pages: int) -> None:
    census = validate(make_zone(nr_pages, start_pfn))

    assert census.problems == []
    assert census.free == nr_pages


def test_a_zone_in_use_is_sound_and_every_page_is_counted() -> None:
    census = validate(used_zone())

    assert census.problems == []
    assert (census.free, census.allocated, census.on_page_sets, census.in_flight) == (44, 3, 1, 16)
    assert census.reported == 16
    assert census.largest_free_order == 4


def test_a_full_zone_has_no_largest_free_block() -> None:
    zone = make_zone(64)
    exhaust(zone, 4, MIGRATE_MOVABLE)
    census = validate(zone)

    assert census.problems == []
    assert (census.allocated, census.largest_free_order) == (64, -1)


def test_uptodate_on_a_page_in_use_is_not_reported() -> None:
    zone = make_zone(16)
    zone.rmqueue_buddy(4, MIGRATE_MOVABLE)
    zone.state[0] |= UPTODATE
    census = validate(zone)

    assert census.problems == []
    assert census.reported == 0


# -- faults --------------------------------------------------------------------------------------------


def lose_a_page(zone: Zone) -> None:
    zone.state[0] = TAIL


def begin_a_block_inside_another(zone: Zone) -> None:
    zone.state[34] = ALLOCATED


def begin_a_block_off_its_grid(zone: Zone) -> None:
    zone.state[0] = ALLOCATED | 2
    zone.state[1] = ALLOCATED | 1


def let_a_block_end_outside(zone: Zone) -> None:
    zone.state[48] = ALLOCATED | 5


def leave_buddies_unmerged(zone: Zone) -> None:
    zone.free_pages_ok(18, 1)
    zone.del_page_from_free_list(4, 2)
    zone.add_to_free_list(4, 1, MIGRATE_MOVABLE)
    zone.add_to_free_list(6, 1, MIGRATE_MOVABLE)


def raise_a_mark_behind_the_back_of_the_fast_ones(zone: Zone) -> None:
    zone.watermark[WMARK_LOW] += 1


def flag_a_block_in_flight(zone: Zone) -> None:
    zone.state[16] |= REPORTED


def flag_a_page_on_a_set(zone: Zone) -> None:
    assert zone.state[1] == ON_PAGE_SET
    zone.state[1] |= REPORTED


def flag_a_tail(zone: Zone) -> None:
    zone.state[33] |= REPORTED


def flag_without_counting(zone: Zone) -> None:
    zone.state[48] |= REPORTED


def count_without_flagging(zone: Zone) -> None:
    zone.nr_reported[4] += 1


def take_a_block_off_its_list(zone: Zone) -> None:
    before, after = zone._prev[48], zone._next[48]
    zone._next[before], zone._prev[after] = after, before


def list_a_block_twice(zone: Zone) -> None:
    zone._insert_after(zone._anchors[4 * MIGRATE_TYPES + MIGRATE_MOVABLE], 48)


def list_a_block_in_use(zone: Zone) -> None:
    zone._insert_after(zone._anchors[MIGRATE_MOVABLE], 0)


def list_a_block_at_another_order(zone: Zone) -> None:
    zone.state[48] = BUDDY | 3
    zone.state[56] = ALLOCATED | 3


def close_a_list_into_a_ring(zone: Zone) -> None:
    zone._next[48] = 48


def miscount_the_blocks(zone: Zone) -> None:
    zone.nr_free[4] -= 1


def miscount_the_pages(zone: Zone) -> None:
    zone.nr_free_pages += 1


def miscount_the_withheld_pageblocks(zone: Zone) -> None:
    zone.nr_isolate_pageblock += 1


def hand_out_a_listed_block(zone: Zone) -> None:
    zone.state[48] = IN_FLIGHT | 4


FAULTS: list[tuple[Callable[[Zone], None], str]] = [
    (lose_a_page, "lost page: pfn 0x10 of zone Normal belongs to no block (S2)"),
    (begin_a_block_inside_another, "pfn 0x30 of zone Normal: another block begins inside this one (S2)"),
    (begin_a_block_off_its_grid, "pfn 0x10 of zone Normal: another block begins inside this one (S2)"),
    (let_a_block_end_outside, "pfn 0x40 of zone Normal: no block of order 5 can begin here (S3)"),
    (leave_buddies_unmerged, "pfn 0x14 of zone Normal and its buddy are both free at order 1 (S3)"),
    (flag_a_block_in_flight, "pfn 0x20 of zone Normal is in flight to the reporter (order 4; Uptodate)"),
    (flag_a_page_on_a_set, "pfn 0x11 of zone Normal is free on a page set (order 0; Uptodate), and Reported"),
    (flag_a_tail, "pfn 0x30 of zone Normal: another block begins inside this one (S2)"),
    (flag_without_counting, "counts 1 Reported blocks of order 4, its lists hold 2"),
    (count_without_flagging, "counts 2 Reported blocks of order 4, its lists hold 1"),
    (take_a_block_off_its_list, "pfn 0x40 of zone Normal is free but on no list (S1)"),
    (list_a_block_twice, "is broken at pfn 0x40: its links disagree (S4)"),
    (list_a_block_in_use, "pfn 0x10 on list 0.1 of zone Normal is allocated, on an LRU list (order 0)"),
    (list_a_block_at_another_order, "pfn 0x40 on list 4.1 of zone Normal is free on a free list (order 3)"),
    (close_a_list_into_a_ring, "is broken at pfn 0x40: its links disagree (S4)"),
    (raise_a_mark_behind_the_back_of_the_fast_ones, "zone Normal has its fast marks at [0, 0, 0, 0, 0]"),
    (miscount_the_blocks, "counts 1 free blocks of order 4, its lists hold 2 (S4)"),
    (miscount_the_pages, "zone Normal counts 45 free pages, its lists hold 44 (S5)"),
    (miscount_the_withheld_pageblocks, "zone Normal counts 1 withheld pageblocks, there are 0 (S5)"),
    (hand_out_a_listed_block, "pfn 0x40 on list 4.1 of zone Normal is in flight to the reporter (order 4)"),
]


@pytest.mark.parametrize(("plant", "expected"), FAULTS, ids=[plant.__name__ for plant, _ in FAULTS])
def test_it_is_found_when_somebody_should(plant: Callable[[Zone], None], expected: str) -> None:
    zone = used_zone()
    plant(zone)
    problems = validate(zone).problems

    assert any(expected in problem for problem in problems), problems


def test_a_block_that_begins_off_its_grid_is_named() -> None:
    zone = make_zone(16)
    exhaust(zone, 0, MIGRATE_MOVABLE)
    zone.state[1], zone.state[2] = ALLOCATED | 1, TAIL

    assert validate(zone).problems == ["pfn 0x11 of zone Normal: no block of order 1 can begin here (S3)"]


def test_a_block_that_ends_behind_the_zone_is_named() -> None:
    zone = make_zone(24)
    exhaust(zone, 3, MIGRATE_MOVABLE)
    zone.state[16] = ALLOCATED | 4

    expected = "pfn 0x20 of zone Normal: no block of order 4 can begin here (S3)"
    assert expected in validate(zone).problems


def test_a_withheld_list_is_not_counted_as_free() -> None:
    zone = make_zone(64)
    exhaust(zone, 3, MIGRATE_MOVABLE)
    zone.free_pages_ok(16, 3)
    zone.isolate_pageblock(16)
    assert validate(zone).problems == []

    zone.nr_free_pages += 8
    assert validate(zone).problems == ["zone Normal counts 8 free pages, its lists hold 0 (S5)"]


def test_a_zone_in_ruins_is_described_in_a_few_lines() -> None:
    zone = make_zone(64)
    exhaust(zone, 0, MIGRATE_MOVABLE)
    for index in range(64):
        zone.state[index] = TAIL

    assert len(validate(zone).problems) == MAX_PROBLEMS
