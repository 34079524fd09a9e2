"""Types and lists as 6.12 has them: claim or steal, frees in pieces, pages that move with their pageblock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from zone_kit import SMALL, START_PFN, assert_sound, exhaust, free_lists, make_zone

from pagealloc import Layout, Zone
from pagealloc.inventory import block_types
from pagealloc.mmzone import (
    ALLOC_HIGHATOMIC,
    ALLOC_NOFRAGMENT,
    MIGRATE_HIGHATOMIC,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    MIGRATE_RECLAIMABLE,
    MIGRATE_UNMOVABLE,
)
from pagealloc.revision import V6_1, V6_12, Revision
from stress.mutants import MUTANTS
from stress.mutants.planting import install

UNMOVABLE, MOVABLE, RECLAIMABLE = MIGRATE_UNMOVABLE, MIGRATE_MOVABLE, MIGRATE_RECLAIMABLE
HIGHATOMIC, ISOLATE = MIGRATE_HIGHATOMIC, MIGRATE_ISOLATE
ROOMY = Layout(nr_orders=6, pageblock_order=5)  # orders 0 and 1 do not justify a movable claim


def zone_of_types(
    *blocks: tuple[int, int, int], layout: Layout = SMALL, revision: Revision = V6_12, nr_pages: int = 64
) -> Zone:
    """Build a zone whose free blocks are the given (index, order, migratetype), and the rest in use."""
    zone = make_zone(nr_pages, layout=layout, revision=revision)
    exhaust(zone, 0, MOVABLE)
    for index, _, migratetype in blocks:
        zone.set_block_type(START_PFN + index, migratetype, move=False)
    for index, order, _ in blocks:
        zone.claim_range(START_PFN + index, order)
        zone.free_pages_ok(START_PFN + index, order)
    return zone


def in_use_by_users(zone: Zone, *indices: int) -> None:
    """Put pages on an LRU list, where only movable ones are."""
    for index in indices:
        zone.lru_add(START_PFN + index)


def boosting(zone: Zone) -> Zone:
    zone.watermark_boost_factor = 15_000
    zone.set_watermarks(0, 0, 100)
    return zone


class Listener:
    """Hears which blocks of `order` and more were left by frees."""

    def __init__(self, zone: Zone, order: int) -> None:
        self.heard: list[tuple[int, int]] = []
        zone.page_reporting_notify = lambda pfn, merged_order: self.heard.append((pfn, merged_order))
        zone.page_reporting_order = order


# -- claim, then steal ---------------------------------------------------------------------------------


def test_a_claim_gives_the_smallest_that_fits_which_need_not_be_what_was_found() -> None:
    zone = zone_of_types((0, 1, MOVABLE), (4, 2, MOVABLE))
    assert zone.rmqueue_buddy(0, UNMOVABLE) == START_PFN

    assert zone.pageblock_migratetype(START_PFN) == UNMOVABLE
    assert free_lists(zone) == {(0, UNMOVABLE): [START_PFN + 1], (2, UNMOVABLE): [START_PFN + 4]}
    assert_sound(zone)


def test_what_a_claim_moves_goes_to_the_tails_in_rising_order_and_stays_reported() -> None:
    zone = zone_of_types((0, 0, MOVABLE), (2, 0, MOVABLE), (4, 2, MOVABLE))
    zone.set_reported(START_PFN + 4)
    assert zone.rmqueue_buddy(0, UNMOVABLE) == START_PFN

    assert free_lists(zone) == {(0, UNMOVABLE): [START_PFN + 2], (2, UNMOVABLE): [START_PFN + 4]}
    assert zone.is_reported(START_PFN + 4)


def test_a_claim_in_vain_moves_nothing_and_the_request_steals() -> None:
    zone = zone_of_types((0, 1, MOVABLE))
    in_use_by_users(zone, *range(2, 8))
    assert zone.rmqueue_buddy(0, UNMOVABLE) == START_PFN

    assert zone.pageblock_migratetype(START_PFN) == MOVABLE
    assert free_lists(zone) == {(0, MOVABLE): [START_PFN + 1]}
    assert_sound(zone)


def test_each_order_that_is_tried_in_vain_boosts_the_marks() -> None:
    zone = boosting(zone_of_types((0, 1, MOVABLE), (8, 0, MOVABLE)))
    in_use_by_users(zone, *range(2, 8), *range(9, 16))
    assert zone.rmqueue_buddy(0, UNMOVABLE) == START_PFN + 8

    assert zone.watermark_boost == 16


def test_stealing_takes_the_smallest_block_where_claiming_looks_for_the_largest() -> None:
    zone = zone_of_types((0, 1, UNMOVABLE), (8, 0, UNMOVABLE), layout=ROOMY)
    assert zone.rmqueue_buddy(0, MOVABLE) == START_PFN + 8

    assert free_lists(zone) == {(1, UNMOVABLE): [START_PFN]}


def test_the_rest_of_a_stolen_block_is_not_the_thiefs_so_the_next_request_steals_again() -> None:
    zone = zone_of_types((0, 1, UNMOVABLE), layout=ROOMY)
    assert zone.rmqueue_buddy(0, MOVABLE) == START_PFN
    assert free_lists(zone) == {(0, UNMOVABLE): [START_PFN + 1]}

    assert zone.rmqueue_buddy(0, MOVABLE) == START_PFN + 1
    assert zone.pageblock_migratetype(START_PFN) == UNMOVABLE


def test_a_refill_that_has_stolen_once_does_not_try_to_claim_again() -> None:
    """The boost counts the tries: one for the first page, and none for those that follow under the same lock."""
    zone = boosting(zone_of_types((0, 0, MOVABLE), (2, 0, MOVABLE)))
    in_use_by_users(zone, 1, *range(3, 8))
    assert zone.rmqueue_bulk(0, UNMOVABLE, 2, 0) == [START_PFN + 2, START_PFN]

    assert zone.watermark_boost == 8


def test_a_claim_of_whole_pageblocks_retypes_them_all_and_boosts_nothing() -> None:
    zone = boosting(make_zone(64, revision=V6_12))
    assert zone.rmqueue_buddy(0, UNMOVABLE) == 16

    assert list(block_types(zone)) == [UNMOVABLE, UNMOVABLE, *[MOVABLE] * 6]
    assert free_lists(zone)[3, UNMOVABLE] == [24]
    assert zone.watermark_boost == 0
    assert_sound(zone)


def test_a_pageblock_that_the_border_cuts_off_is_stolen_from_and_never_claimed() -> None:
    zone = make_zone(6, revision=V6_12)
    for pfn in exhaust(zone, 0, MOVABLE):
        if pfn in (16, 17, 20):
            zone.free_pages_ok(pfn, 0)
    assert zone.rmqueue_buddy(0, UNMOVABLE) == 20

    assert zone.pageblock_migratetype(START_PFN) == MOVABLE
    assert free_lists(zone) == {(1, MOVABLE): [16]}


def test_who_would_rather_fail_than_mix_types_claims_whole_pageblocks_only() -> None:
    zone = zone_of_types((0, 2, MOVABLE))
    assert zone.rmqueue_buddy(0, UNMOVABLE, ALLOC_NOFRAGMENT) == -1
    assert free_lists(zone) == {(2, MOVABLE): [START_PFN]}

    zone = zone_of_types((0, 3, MOVABLE))
    assert zone.rmqueue_buddy(0, UNMOVABLE, ALLOC_NOFRAGMENT) == START_PFN


# -- merging above the pageblock -------------------------------------------------------------------------


@pytest.mark.parametrize("last", [0, 8])
def test_a_neighbour_takes_the_type_of_what_is_freed_when_they_merge(last: int) -> None:
    types = {0: UNMOVABLE, 8: RECLAIMABLE}
    zone = zone_of_types((8 - last, 3, types[8 - last]))
    zone.set_block_type(START_PFN + last, types[last], move=False)
    zone.claim_range(START_PFN + last, 3)
    zone.free_pages_ok(START_PFN + last, 3)

    assert free_lists(zone) == {(4, types[last]): [START_PFN]}
    assert list(block_types(zone))[:2] == [types[last]] * 2
    assert_sound(zone)


def test_what_is_put_back_decides_the_neighbours_type() -> None:
    zone = zone_of_types((0, 3, MOVABLE), (16, 3, MOVABLE))
    assert zone.isolate_free_page(START_PFN, 3)
    zone.set_block_type(START_PFN + 8, UNMOVABLE, move=False)
    zone.claim_range(START_PFN + 8, 3)
    zone.free_pages_ok(START_PFN + 8, 3)
    zone.putback_isolated_page(START_PFN, 3, MOVABLE)

    assert free_lists(zone) == {(3, MOVABLE): [START_PFN + 16], (4, MOVABLE): [START_PFN]}
    assert list(block_types(zone))[:2] == [MOVABLE] * 2


def test_before_a_neighbour_kept_its_type() -> None:
    zone = zone_of_types((0, 3, UNMOVABLE), (8, 3, RECLAIMABLE), revision=V6_1)

    assert free_lists(zone) == {(4, RECLAIMABLE): [START_PFN]}
    assert list(block_types(zone))[:2] == [UNMOVABLE, RECLAIMABLE]


# -- frees above the pageblock -------------------------------------------------------------------------


def freed_whole(first: int, second: int, revision: Revision = V6_12) -> tuple[Zone, Listener]:
    """Free a block of two pageblocks of these types at once, heard from the pageblock order on."""
    zone = make_zone(32, revision=revision)
    exhaust(zone, 0, MOVABLE)
    zone.claim_range(START_PFN, 4)
    zone.set_block_type(START_PFN, first, move=False)
    if second == ISOLATE:
        zone.isolate_pageblock(START_PFN + 8)
    else:
        zone.set_block_type(START_PFN + 8, second, move=False)
    listener = Listener(zone, 3)
    zone.free_pages_ok(START_PFN, 4)
    return zone, listener


def test_a_large_free_goes_in_pieces_and_each_asks_the_reporter() -> None:
    zone, listener = freed_whole(UNMOVABLE, RECLAIMABLE)

    assert listener.heard == [(START_PFN, 3), (START_PFN, 4)]
    assert free_lists(zone) == {(4, RECLAIMABLE): [START_PFN]}  # the last one's type
    assert_sound(zone)


def test_before_a_large_free_went_at_once_by_its_first_pageblocks_type() -> None:
    zone, listener = freed_whole(UNMOVABLE, RECLAIMABLE, V6_1)

    assert listener.heard == [(START_PFN, 4)]
    assert free_lists(zone) == {(4, UNMOVABLE): [START_PFN]}


@pytest.mark.parametrize("special", [HIGHATOMIC, ISOLATE])
def test_a_special_pageblock_inside_a_large_free_stays_apart(special: int) -> None:
    zone, listener = freed_whole(MOVABLE, special)

    assert free_lists(zone) == {(3, MOVABLE): [START_PFN], (3, special): [START_PFN + 8]}
    assert listener.heard == [(START_PFN, 3), (START_PFN + 8, 3)]
    assert_sound(zone)


# -- taking for reporting ------------------------------------------------------------------------------


def test_the_rest_of_a_pageblock_moves_when_half_of_it_is_taken_for_reporting() -> None:
    zone = zone_of_types((0, 0, UNMOVABLE), (2, 0, UNMOVABLE), (4, 2, UNMOVABLE), (8, 0, MOVABLE))
    zone.set_reported(START_PFN)
    assert zone.isolate_free_page(START_PFN + 4, 2)

    assert free_lists(zone) == {(0, MOVABLE): [START_PFN + 8, START_PFN, START_PFN + 2]}
    assert zone.is_reported(START_PFN)
    assert zone.pageblock_migratetype(START_PFN) == MOVABLE


def test_the_rest_moves_to_the_tail_of_the_list_where_it_is_already() -> None:
    zone = zone_of_types((4, 2, MOVABLE), (8, 0, MOVABLE), (0, 0, MOVABLE))
    assert free_lists(zone)[0, MOVABLE] == [START_PFN, START_PFN + 8]
    assert zone.isolate_free_page(START_PFN + 4, 2)

    assert free_lists(zone) == {(0, MOVABLE): [START_PFN + 8, START_PFN]}


def test_before_the_rest_stayed_on_its_lists() -> None:
    zone = zone_of_types((0, 0, UNMOVABLE), (4, 2, UNMOVABLE), revision=V6_1)
    assert zone.isolate_free_page(START_PFN + 4, 2)

    assert free_lists(zone) == {(0, UNMOVABLE): [START_PFN]}


@pytest.mark.parametrize(("revision", "migratetype"), [(V6_12, UNMOVABLE), (V6_1, MOVABLE)])
def test_a_pageblock_that_the_border_cuts_off_keeps_its_type(revision: Revision, migratetype: int) -> None:
    zone = make_zone(6, revision=revision)
    zone.set_block_type(START_PFN, UNMOVABLE, move=False)
    zone.nr_free_pages += 8  # room above the mark
    assert zone.isolate_free_page(START_PFN, 2)

    assert zone.pageblock_migratetype(START_PFN) == migratetype


# -- the high-atomic reserve ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nr_pages", "reserved"),
    [(784, 0), (800, 8), (896, 8), (912, 16)],  # 1 % is 7, 8, 8 and 9 pages, in whole pageblocks of 8
)
def test_the_reserve_is_one_percent_in_whole_pageblocks(nr_pages: int, reserved: int) -> None:
    zone = make_zone(nr_pages, revision=V6_12)
    for _ in range(3):
        zone.rmqueue_buddy(3, MOVABLE, ALLOC_HIGHATOMIC)

    assert zone.nr_reserved_highatomic == reserved


def test_a_large_block_is_reserved_whole_and_may_overshoot() -> None:
    zone = make_zone(800, revision=V6_12)
    pfn = zone.rmqueue_buddy(4, MOVABLE, ALLOC_HIGHATOMIC)

    assert zone.nr_reserved_highatomic == 16
    assert [zone.pageblock_migratetype(pfn), zone.pageblock_migratetype(pfn + 8)] == [HIGHATOMIC] * 2


@pytest.mark.parametrize(("revision", "withheld"), [(V6_12, 6), (V6_1, 8)])
def test_marks_leave_out_what_is_free_of_the_reserve(revision: Revision, withheld: int) -> None:
    zone = make_zone(800, revision=revision)
    zone.rmqueue_buddy(1, MOVABLE, ALLOC_HIGHATOMIC)

    assert zone.nr_reserved_highatomic == 8
    assert zone.usable_pages() == zone.nr_free_pages - withheld
    assert_sound(zone)


def test_a_high_atomic_page_that_the_reporter_takes_is_not_free_any_more() -> None:
    zone = make_zone(800, revision=V6_12)
    zone.rmqueue_buddy(1, MOVABLE, ALLOC_HIGHATOMIC)
    assert zone.isolate_free_page(START_PFN + 4, 2)
    assert zone.withheld_highatomic() == 2

    zone.putback_isolated_page(START_PFN + 4, 2, HIGHATOMIC)
    assert zone.withheld_highatomic() == 6


def test_a_reserve_larger_than_a_pageblock_is_given_back_by_the_block() -> None:
    zone = make_zone(800, revision=V6_12)
    pfn = zone.rmqueue_buddy(4, MOVABLE, ALLOC_HIGHATOMIC)
    zone.free_pages_ok(pfn, 4)
    assert zone.unreserve_highatomic_pageblock(UNMOVABLE, force=False)

    assert zone.nr_reserved_highatomic == 0
    assert free_lists(zone)[4, UNMOVABLE] == [pfn]
    assert_sound(zone)


def test_the_last_reserved_pageblock_is_given_back_by_force_only() -> None:
    zone = make_zone(800, revision=V6_12)
    zone.rmqueue_buddy(1, MOVABLE, ALLOC_HIGHATOMIC)

    assert not zone.unreserve_highatomic_pageblock(UNMOVABLE, force=False)
    assert zone.unreserve_highatomic_pageblock(UNMOVABLE)
    assert zone.nr_reserved_highatomic == 0


# -- isolation -----------------------------------------------------------------------------------------


def test_a_pageblock_inside_a_larger_free_block_is_withheld_by_freeing_that_in_pieces() -> None:
    zone = zone_of_types((0, 4, MOVABLE))
    zone.set_reported(START_PFN)
    listener = Listener(zone, 3)
    assert zone.isolate_pageblock(START_PFN + 8)

    assert free_lists(zone) == {(3, MOVABLE): [START_PFN], (3, ISOLATE): [START_PFN + 8]}
    assert listener.heard == [(START_PFN, 3), (START_PFN + 8, 3)]
    assert not zone.is_reported(START_PFN)
    assert zone.nr_free_pages == 8
    assert_sound(zone)


def test_free_pages_of_a_withheld_pageblock_move_as_they_are_and_ask_for_nothing() -> None:
    zone = zone_of_types((0, 1, MOVABLE), (4, 2, MOVABLE))
    zone.set_reported(START_PFN + 4)
    listener = Listener(zone, 0)
    assert zone.isolate_pageblock(START_PFN)

    assert free_lists(zone) == {(1, ISOLATE): [START_PFN], (2, ISOLATE): [START_PFN + 4]}
    assert zone.is_reported(START_PFN + 4)
    assert listener.heard == []
    assert zone.nr_free_pages == 0


def test_a_pageblock_given_back_retypes_the_neighbour_that_it_merges_with() -> None:
    zone = zone_of_types((8, 3, UNMOVABLE))
    assert zone.isolate_pageblock(START_PFN)
    zone.claim_range(START_PFN, 3)
    zone.free_pages_ok(START_PFN, 3)
    assert zone.unisolate_pageblock(START_PFN, MOVABLE)

    assert free_lists(zone) == {(4, MOVABLE): [START_PFN]}
    assert zone.pageblock_migratetype(START_PFN + 8) == MOVABLE
    assert_sound(zone)


def test_one_of_two_withheld_pageblocks_that_merged_is_given_back_alone() -> None:
    zone = zone_of_types((0, 3, ISOLATE), (8, 3, ISOLATE))
    assert free_lists(zone) == {(4, ISOLATE): [START_PFN]}
    zone.nr_isolate_pageblock = 2
    assert zone.unisolate_pageblock(START_PFN + 8, MOVABLE)

    assert free_lists(zone) == {(3, ISOLATE): [START_PFN], (3, MOVABLE): [START_PFN + 8]}
    assert zone.nr_free_pages == 8


def test_a_part_of_a_larger_block_in_flight_is_not_withheld() -> None:
    zone = zone_of_types((0, 4, MOVABLE), (16, 3, MOVABLE))
    assert zone.isolate_free_page(START_PFN, 4)

    assert not zone.isolate_pageblock(START_PFN + 8)
    assert zone.nr_isolate_pageblock == 0


# -- each rule is a field of the revision ----------------------------------------------------------------

RULES: list[tuple[str, Callable[[], None]]] = [
    ("claim_then_steal", test_each_order_that_is_tried_in_vain_boosts_the_marks),
    ("claim_then_steal", test_a_claim_in_vain_moves_nothing_and_the_request_steals),
    ("list_type_is_block_type", test_what_is_put_back_decides_the_neighbours_type),
    ("list_type_is_block_type", test_a_large_free_goes_in_pieces_and_each_asks_the_reporter),
    ("list_type_is_block_type", test_the_rest_of_a_pageblock_moves_when_half_of_it_is_taken_for_reporting),
    ("list_type_is_block_type", test_a_large_block_is_reserved_whole_and_may_overshoot),
    ("list_type_is_block_type",
     test_a_pageblock_inside_a_larger_free_block_is_withheld_by_freeing_that_in_pieces),
    ("highatomic_free_withheld", test_a_high_atomic_page_that_the_reporter_takes_is_not_free_any_more),
]  # fmt: skip


@pytest.mark.parametrize(("field", "test"), RULES)
def test_a_kernel_without_the_rule_fails_its_test(
    field: str, test: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    without: Any = {field: False}
    kernel = replace(V6_12, **without)
    monkeypatch.setitem(globals(), "V6_12", kernel)
    monkeypatch.setattr(
        zone_of_types, "__kwdefaults__", {"layout": SMALL, "revision": kernel, "nr_pages": 64}
    )
    monkeypatch.setattr(freed_whole, "__defaults__", (kernel,))
    with pytest.raises(AssertionError):
        test()


# The faults that no recorded run shows.
UNSEEN_BY_GOLDEN: list[tuple[str, Callable[[], None]]] = [
    ("M-81b", test_a_large_free_goes_in_pieces_and_each_asks_the_reporter),
    ("M-84a", test_a_refill_that_has_stolen_once_does_not_try_to_claim_again),
    ("M-86", test_a_high_atomic_page_that_the_reporter_takes_is_not_free_any_more),
]


@pytest.mark.interpreted("no fault can be planted")
@pytest.mark.parametrize(("mutant", "test"), UNSEEN_BY_GOLDEN)
def test_a_fault_that_no_recorded_run_shows_fails_its_test(mutant: str, test: Callable[[], None]) -> None:
    with install(MUTANTS[mutant].patches), pytest.raises(AssertionError):
        test()
