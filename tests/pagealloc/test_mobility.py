"""Falling back to foreign migratetypes, stealing pageblocks, the boost, the reserve and page isolation."""

from __future__ import annotations

import pytest
from zone_kit import SMALL, START_PFN, assert_sound, exhaust, free_blocks, free_lists, make_zone

from pagealloc import Layout, Zone
from pagealloc.inventory import block_types
from pagealloc.mmzone import (
    ALLOC_HIGHATOMIC,
    ALLOC_KSWAPD,
    ALLOC_NOFRAGMENT,
    ALLOC_NON_BLOCK,
    ALLOC_OOM,
    MIGRATE_HIGHATOMIC,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    MIGRATE_RECLAIMABLE,
    MIGRATE_UNMOVABLE,
)
from pagealloc.revision import V5_7

UNMOVABLE, MOVABLE, RECLAIMABLE = MIGRATE_UNMOVABLE, MIGRATE_MOVABLE, MIGRATE_RECLAIMABLE


def zone_of_types(*blocks: tuple[int, int, int], layout: Layout = SMALL) -> Zone:
    """Build a zone whose free blocks are the given (index, order, migratetype), and the rest in use."""
    zone = make_zone(64, layout=layout)
    exhaust(zone, 0, MOVABLE)
    for index, _, migratetype in blocks:
        zone.set_block_type(START_PFN + index, migratetype, move=False)
    for index, order, _ in blocks:
        zone.claim_range(START_PFN + index, order)
        zone.free_pages_ok(START_PFN + index, order)
    return zone


# -- whom to take from ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "first", "second"),
    [
        (UNMOVABLE, RECLAIMABLE, MOVABLE),
        (MOVABLE, RECLAIMABLE, UNMOVABLE),
        (RECLAIMABLE, UNMOVABLE, MOVABLE),
    ],
)
def test_a_type_falls_back_in_the_kernels_order(wanted: int, first: int, second: int) -> None:
    """Each foreign type has a free pageblock; the preferred one goes first."""
    zone = zone_of_types((0, 3, second), (16, 3, first))

    assert zone.rmqueue_buddy(3, wanted) == START_PFN + 16
    assert zone.rmqueue_buddy(3, wanted) == START_PFN
    assert zone.rmqueue_buddy(0, wanted) == -1


def test_own_lists_go_before_foreign_ones() -> None:
    zone = zone_of_types((0, 3, UNMOVABLE), (16, 4, MOVABLE))

    assert zone.rmqueue_buddy(2, UNMOVABLE) == START_PFN


def test_the_largest_foreign_block_is_taken() -> None:
    zone = zone_of_types((0, 1, MOVABLE), (8, 2, MOVABLE), (16, 0, MOVABLE))

    assert zone.rmqueue_buddy(0, UNMOVABLE) == START_PFN + 8


def test_a_movable_request_that_cannot_claim_a_pageblock_takes_the_smallest_block() -> None:
    """Order 0 is below half a pageblock's order, so what remains of the search is the smallest that fits."""
    zone = zone_of_types((0, 0, UNMOVABLE))

    assert zone.rmqueue_buddy(0, MOVABLE) == START_PFN
    assert zone.pageblock_migratetype(START_PFN) == UNMOVABLE


@pytest.mark.parametrize(
    ("order", "start_type", "can_steal"),
    [
        (0, MOVABLE, False),
        (1, MOVABLE, True),  # 3 // 2, half a pageblock's order
        (3, MOVABLE, True),
        (0, UNMOVABLE, True),
        (0, RECLAIMABLE, True),
    ],
)
def test_what_justifies_trying_for_a_pageblock(order: int, start_type: int, can_steal: bool) -> None:
    assert make_zone(64).can_steal_fallback(order, start_type) == can_steal


def test_without_grouping_everything_is_unmovable_and_anything_is_stolen() -> None:
    zone = make_zone(64)
    zone.mobility_disabled = True
    zone.set_pageblock_migratetype(0, MOVABLE)

    assert zone.can_steal_fallback(0, MOVABLE)
    assert zone.get_pageblock_migratetype(0) == UNMOVABLE


def test_the_smallest_block_is_preferred_only_while_the_pageblock_cannot_be_claimed() -> None:
    """With a pageblock order of 5, order 1 does not justify a movable claim and order 2 does."""
    layout = Layout(nr_orders=6, pageblock_order=5)
    zone = zone_of_types((16, 1, UNMOVABLE), (20, 0, UNMOVABLE), layout=layout)
    assert zone.rmqueue_buddy(0, MOVABLE) == START_PFN + 20
    assert free_lists(zone) == {(1, UNMOVABLE): [START_PFN + 16]}

    zone.claim_range(START_PFN + 24, 2)
    zone.free_pages_ok(START_PFN + 24, 2)
    assert zone.rmqueue_buddy(2, MOVABLE) == START_PFN + 24
    assert free_lists(zone) == {(1, MOVABLE): [START_PFN + 16]}


# -- stealing pageblocks -------------------------------------------------------------------------------


def test_a_stolen_block_of_several_pageblocks_retags_them_all() -> None:
    zone = make_zone(64)
    assert zone.rmqueue_buddy(0, UNMOVABLE) == 16

    assert list(block_types(zone)) == [UNMOVABLE, UNMOVABLE, *[MOVABLE] * 6]
    assert free_lists(zone)[3, UNMOVABLE] == [24]
    assert_sound(zone)


def test_a_pageblock_that_is_half_free_is_claimed_with_all_its_free_pages() -> None:
    zone = zone_of_types((0, 1, MOVABLE), (4, 1, MOVABLE))
    assert zone.rmqueue_buddy(0, UNMOVABLE) == START_PFN

    assert zone.pageblock_migratetype(START_PFN) == UNMOVABLE
    assert free_lists(zone) == {(0, UNMOVABLE): [START_PFN + 1], (1, UNMOVABLE): [START_PFN + 4]}


def test_a_pageblock_full_of_movable_pages_lends_its_free_pages_and_keeps_its_type() -> None:
    zone = zone_of_types((0, 1, MOVABLE), (16, 0, MOVABLE))
    for index in range(2, 8):
        zone.lru_add(START_PFN + index)
    zone.rmqueue_buddy(0, UNMOVABLE)

    assert zone.pageblock_migratetype(START_PFN) == MOVABLE
    assert free_lists(zone)[0, UNMOVABLE] == [START_PFN + 1]


def test_pages_in_use_that_are_not_movable_count_for_an_unmovable_claim() -> None:
    """The same pageblock as above, but its pages in use are on no LRU list: they are alike."""
    zone = zone_of_types((0, 1, MOVABLE), (16, 0, MOVABLE))
    zone.rmqueue_buddy(0, UNMOVABLE)

    assert zone.pageblock_migratetype(START_PFN) == UNMOVABLE


def test_movable_pages_in_use_count_for_a_movable_claim() -> None:
    zone = zone_of_types((0, 1, UNMOVABLE))
    for index in (2, 3):
        zone.lru_add(START_PFN + index)
    zone.rmqueue_buddy(0, MOVABLE)

    assert zone.pageblock_migratetype(START_PFN) == MOVABLE


def test_too_few_movable_pages_do_not_make_a_movable_claim() -> None:
    zone = zone_of_types((0, 1, UNMOVABLE))
    zone.lru_add(START_PFN + 2)
    zone.rmqueue_buddy(0, MOVABLE)

    assert zone.pageblock_migratetype(START_PFN) == UNMOVABLE
    assert free_lists(zone)[0, MOVABLE] == [START_PFN + 1]


def test_a_pageblock_that_reaches_beyond_the_zone_lends_single_blocks_only() -> None:
    zone = make_zone(6)
    for pfn in exhaust(zone, 0, MOVABLE):
        if pfn in (16, 17, 20):
            zone.free_pages_ok(pfn, 0)
    zone.rmqueue_buddy(0, UNMOVABLE)

    assert zone.pageblock_migratetype(START_PFN) == MOVABLE
    assert free_lists(zone) == {(0, UNMOVABLE): [17], (0, MOVABLE): [20]}


def test_without_fragmenting_only_whole_pageblocks_are_taken() -> None:
    zone = zone_of_types((0, 2, MOVABLE))
    assert zone.rmqueue_buddy(0, UNMOVABLE, ALLOC_NOFRAGMENT) == -1

    assert free_lists(zone) == {(2, MOVABLE): [START_PFN]}
    assert zone.rmqueue_buddy(0, UNMOVABLE) == START_PFN


def test_a_retag_with_its_free_pages_moves_each_of_them() -> None:
    zone = zone_of_types((0, 1, MOVABLE), (4, 0, MOVABLE), (8, 1, MOVABLE))
    moved = zone.set_block_type(START_PFN + 3, RECLAIMABLE, move=True)

    assert moved == 3
    assert free_lists(zone) == {
        (1, RECLAIMABLE): [START_PFN],
        (0, RECLAIMABLE): [START_PFN + 4],
        (1, MOVABLE): [START_PFN + 8],
    }


def test_a_retag_without_its_free_pages_leaves_them_listed_as_they_were() -> None:
    zone = zone_of_types((0, 1, MOVABLE))

    assert zone.set_block_type(START_PFN, RECLAIMABLE, move=False) == 0
    assert free_lists(zone) == {(1, MOVABLE): [START_PFN]}
    assert zone.pageblock_migratetype(START_PFN) == RECLAIMABLE


# -- the boost -----------------------------------------------------------------------------------------


def boosting_zone(nr_pages: int = 64, high_pages: int = 20, factor: int = 15_000) -> Zone:
    zone = make_zone(nr_pages, watermark_boost_factor=factor)
    zone.set_watermarks(0, 0, high_pages)
    return zone


def test_a_boost_adds_a_pageblock_up_to_one_and_a_half_high_marks() -> None:
    zone = boosting_zone()
    boosts = []
    for _ in range(5):
        assert zone.boost_watermark()
        boosts.append(zone.watermark_boost)

    assert boosts == [8, 16, 24, 30, 30]


def test_a_boost_is_one_pageblock_at_least() -> None:
    zone = boosting_zone(high_pages=1)
    for _ in range(2):
        assert zone.boost_watermark()

    assert zone.watermark_boost == 8


@pytest.mark.parametrize(
    ("nr_pages", "high_pages", "factor"), [(31, 20, 15_000), (64, 0, 15_000), (64, 20, 0)]
)
def test_a_small_zone_or_one_without_marks_or_factor_is_not_boosted(
    nr_pages: int, high_pages: int, factor: int
) -> None:
    zone = boosting_zone(nr_pages, high_pages, factor)

    assert not zone.boost_watermark()
    assert zone.watermark_boost == 0


@pytest.mark.parametrize(("alloc_flags", "boosted"), [(ALLOC_KSWAPD, True), (0, False)])
def test_mixing_types_boosts_the_marks_and_flags_the_zone_for_kswapd(alloc_flags: int, boosted: bool) -> None:
    zone = zone_of_types((0, 2, MOVABLE))
    zone.watermark_boost_factor = 15_000
    zone.set_watermarks(0, 0, 20)
    zone.rmqueue_buddy(0, UNMOVABLE, alloc_flags)

    assert zone.watermark_boost == 8
    assert zone.boosted == boosted


def test_taking_whole_pageblocks_boosts_nothing() -> None:
    zone = boosting_zone()
    zone.rmqueue_buddy(0, UNMOVABLE, ALLOC_KSWAPD)

    assert zone.watermark_boost == 0
    assert not zone.boosted


# -- the high-atomic reserve ---------------------------------------------------------------------------


def test_a_high_atomic_allocation_reserves_its_pageblock_with_its_free_pages() -> None:
    zone = make_zone(64)
    pfn = zone.rmqueue_buddy(1, MOVABLE, ALLOC_HIGHATOMIC)

    assert pfn == 16
    assert zone.pageblock_migratetype(pfn) == MIGRATE_HIGHATOMIC
    assert zone.nr_reserved_highatomic == 8
    assert free_lists(zone)[1, MIGRATE_HIGHATOMIC] == [18]
    assert free_lists(zone)[2, MIGRATE_HIGHATOMIC] == [20]
    assert_sound(zone)


def test_the_reserve_serves_the_next_high_atomic_allocation_first() -> None:
    zone = make_zone(64)
    zone.rmqueue_buddy(1, MOVABLE, ALLOC_HIGHATOMIC)

    assert zone.rmqueue_buddy(1, MOVABLE, ALLOC_HIGHATOMIC) == 18
    assert zone.nr_reserved_highatomic == 8


def test_ordinary_allocations_do_not_touch_the_reserve() -> None:
    zone = make_zone(16)
    zone.rmqueue_buddy(1, MOVABLE, ALLOC_HIGHATOMIC)
    ordinary = exhaust(zone, 0, MOVABLE)

    assert sorted(ordinary) == list(range(24, 32))
    assert zone.nr_free_pages == 6


@pytest.mark.parametrize("alloc_flags", [ALLOC_OOM, ALLOC_NON_BLOCK])
def test_the_urgent_may_use_the_reserve_when_all_else_is_gone(alloc_flags: int) -> None:
    zone = make_zone(16)
    zone.rmqueue_buddy(1, MOVABLE, ALLOC_HIGHATOMIC)
    exhaust(zone, 0, MOVABLE)

    assert zone.rmqueue_buddy(1, MOVABLE, alloc_flags) == 18


def test_the_reserve_is_about_a_hundredth_of_the_zone() -> None:
    """64 pages: 0 and a pageblock is the limit, so a second one is reserved no more."""
    zone = make_zone(64)
    first = zone.rmqueue_buddy(3, MOVABLE, ALLOC_HIGHATOMIC)
    second = zone.rmqueue_buddy(3, MOVABLE, ALLOC_HIGHATOMIC)

    assert zone.nr_reserved_highatomic == 8
    assert zone.pageblock_migratetype(first) == MIGRATE_HIGHATOMIC
    assert zone.pageblock_migratetype(second) == MOVABLE


def test_a_larger_zone_reserves_more() -> None:
    zone = make_zone(1600)
    for _ in range(9):
        zone.rmqueue_buddy(3, MOVABLE, ALLOC_HIGHATOMIC)

    assert zone.nr_reserved_highatomic == 24


def test_a_reserved_pageblock_with_free_pages_is_given_back() -> None:
    zone = make_zone(64)
    zone.rmqueue_buddy(1, MOVABLE, ALLOC_HIGHATOMIC)

    assert zone.unreserve_highatomic_pageblock(UNMOVABLE)
    assert zone.nr_reserved_highatomic == 0
    assert zone.pageblock_migratetype(16) == UNMOVABLE
    assert free_lists(zone)[1, UNMOVABLE] == [18]
    assert not any(migratetype == MIGRATE_HIGHATOMIC for _, migratetype in free_lists(zone))


def test_a_reserved_pageblock_without_free_pages_stays() -> None:
    zone = make_zone(64)
    zone.rmqueue_buddy(3, MOVABLE, ALLOC_HIGHATOMIC)

    assert not zone.unreserve_highatomic_pageblock(UNMOVABLE)
    assert zone.nr_reserved_highatomic == 8


def test_stealing_from_a_reserved_pageblock_leaves_it_reserved() -> None:
    """A free page of the reserve can be on an ordinary list after a retag that did not move it."""
    zone = zone_of_types((0, 2, MOVABLE), (4, 0, MOVABLE))
    zone.set_block_type(START_PFN, MIGRATE_HIGHATOMIC, move=False)

    assert zone.rmqueue_buddy(0, UNMOVABLE) == START_PFN
    assert free_lists(zone)[0, MOVABLE] == [START_PFN + 4]
    assert zone.pageblock_migratetype(START_PFN) == MIGRATE_HIGHATOMIC


# -- page isolation ------------------------------------------------------------------------------------


def zone_of_pageblocks(nr_pages: int = 32) -> Zone:
    """Build a zone whose free blocks are single pageblocks: every second one is in use."""
    zone = make_zone(nr_pages)
    for pfn in exhaust(zone, 3, MOVABLE):
        if pfn & 8 == 0:
            zone.free_pages_ok(pfn, 3)
    return zone


def test_a_withheld_pageblock_is_neither_counted_nor_handed_out() -> None:
    zone = zone_of_pageblocks()
    assert zone.isolate_pageblock(16)

    assert zone.nr_free_pages == 8
    assert zone.nr_isolate_pageblock == 1
    assert free_lists(zone) == {(3, MIGRATE_ISOLATE): [16], (3, MOVABLE): [32]}
    assert exhaust(zone, 0, MOVABLE) == list(range(32, 40))
    assert_sound(zone)


def test_a_pageblock_is_withheld_once() -> None:
    zone = zone_of_pageblocks()

    assert zone.isolate_pageblock(16)
    assert not zone.isolate_pageblock(16)
    assert zone.nr_isolate_pageblock == 1
    assert zone.nr_free_pages == 8


def test_a_page_freed_into_a_withheld_pageblock_is_withheld_too() -> None:
    zone = zone_of_pageblocks()
    pfn = zone.rmqueue_buddy(0, MOVABLE)
    head = pfn & ~7
    zone.isolate_pageblock(head)
    free_before = zone.nr_free_pages
    zone.free_pages_ok(pfn, 0)

    assert zone.nr_free_pages == free_before
    assert free_lists(zone)[3, MIGRATE_ISOLATE] == [head]
    assert_sound(zone)


def test_a_pageblock_given_back_counts_and_can_be_had_again() -> None:
    zone = zone_of_pageblocks()
    zone.isolate_pageblock(16)
    assert zone.unisolate_pageblock(16, MOVABLE)

    assert zone.nr_free_pages == 16
    assert zone.nr_isolate_pageblock == 0
    assert free_lists(zone) == {(3, MOVABLE): [32, 16]}


def test_a_pageblock_that_was_not_withheld_is_not_given_back() -> None:
    zone = zone_of_pageblocks()

    assert not zone.unisolate_pageblock(16, MOVABLE)
    assert not zone.lock.locked()
    assert zone.nr_isolate_pageblock == 0


def test_a_pageblock_given_back_can_change_its_type() -> None:
    zone = zone_of_pageblocks()
    zone.isolate_pageblock(16)
    zone.unisolate_pageblock(16, RECLAIMABLE)

    assert free_lists(zone)[3, RECLAIMABLE] == [16]
    assert zone.pageblock_migratetype(16) == RECLAIMABLE


def test_a_pageblock_given_back_merges_with_the_buddy_that_waited() -> None:
    zone = make_zone(16)
    pfns = exhaust(zone, 3, MOVABLE)
    zone.isolate_pageblock(16)
    for pfn in pfns:
        zone.free_pages_ok(pfn, 3)
    assert free_blocks(zone) == {(3, 16), (3, 24)}
    zone.unisolate_pageblock(16, MOVABLE)

    assert free_lists(zone) == {(4, MOVABLE): [16]}
    assert zone.nr_free_pages == 16
    assert_sound(zone)


def test_a_pageblock_given_back_does_not_merge_with_one_still_withheld() -> None:
    zone = make_zone(16)
    pfns = exhaust(zone, 3, MOVABLE)
    for pfn in pfns:
        zone.isolate_pageblock(pfn)
    zone.free_pages_ok(16, 3)
    assert zone.unisolate_pageblock(16, MOVABLE)
    zone.free_pages_ok(24, 3)

    assert free_lists(zone) == {(3, MOVABLE): [16], (3, MIGRATE_ISOLATE): [24]}


def test_a_high_atomic_neighbour_that_waited_is_no_reason_to_lose_pages() -> None:
    zone = make_zone(16, revision=V5_7)
    pfns = exhaust(zone, 3, MOVABLE)
    zone.isolate_pageblock(16)
    zone.set_block_type(24, MIGRATE_HIGHATOMIC, move=False)
    for pfn in pfns:
        zone.free_pages_ok(pfn, 3)
    zone.unisolate_pageblock(16, MOVABLE)

    assert sum(1 << order for order, _ in free_blocks(zone)) == zone.nr_free_pages == 16
    assert_sound(zone)
