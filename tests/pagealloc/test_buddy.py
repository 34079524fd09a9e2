"""Splitting, merging, and which end of a list a block comes to: the kernel's rules, case by case."""

from __future__ import annotations

import pytest
from zone_kit import SMALL, START_PFN, assert_sound, exhaust, fields_of, free_blocks, free_lists, make_zone

from pagealloc import Zone
from pagealloc.errors import NotInFlight
from pagealloc.inventory import block_types
from pagealloc.mmzone import (
    FPI_SKIP_REPORT_NOTIFY,
    FPI_TO_TAIL,
    MIGRATE_HIGHATOMIC,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    MIGRATE_RECLAIMABLE,
    MIGRATE_UNMOVABLE,
)
from pagealloc.page_flags import ALLOCATED, IN_FLIGHT, UPTODATE
from pagealloc.revision import PRESETS, V5_7, V6_1, Revision


def give(zone: Zone, index: int, order: int, migratetype: int = MIGRATE_MOVABLE, fpi_flags: int = 0) -> None:
    """Free a block of a zone that was built empty."""
    zone.free_one_page(index, order, migratetype, fpi_flags)


# -- boot ----------------------------------------------------------------------------------------------


def test_a_zone_boots_with_the_largest_blocks_in_rising_order() -> None:
    zone = make_zone(64)

    assert free_lists(zone) == {(4, MIGRATE_MOVABLE): [16, 32, 48, 64]}
    assert zone.nr_free_pages == 64


def test_before_v5_10_a_zone_boots_with_descending_lists() -> None:
    zone = make_zone(64, revision=V5_7)

    assert free_lists(zone) == {(4, MIGRATE_MOVABLE): [64, 48, 32, 16]}


def test_a_zone_with_ragged_ends_boots_with_every_page_once() -> None:
    zone = make_zone(21, start_pfn=19)

    assert free_blocks(zone) == {(0, 19), (2, 20), (3, 24), (3, 32)}
    assert zone.nr_free_pages == 21
    assert_sound(zone)


def test_a_zone_may_begin_at_pfn_0() -> None:
    zone = make_zone(32, start_pfn=0)

    assert free_lists(zone) == {(4, MIGRATE_MOVABLE): [0, 16]}
    assert zone.rmqueue_buddy(4, MIGRATE_MOVABLE) == 0


def test_the_pageblock_in_whose_middle_a_zone_starts_is_unmovable() -> None:
    zone = make_zone(29, start_pfn=19)

    assert list(block_types(zone)) == [MIGRATE_UNMOVABLE, MIGRATE_MOVABLE, MIGRATE_MOVABLE, MIGRATE_MOVABLE]


# -- merging -------------------------------------------------------------------------------------------


def test_a_freed_block_merges_with_its_free_buddy() -> None:
    zone = make_zone(16, boot=False)
    give(zone, 4, 1)
    give(zone, 6, 1)

    assert free_blocks(zone) == {(2, START_PFN + 4)}


def test_a_freed_block_does_not_merge_with_a_neighbour_that_is_not_its_buddy() -> None:
    zone = make_zone(16, boot=False)
    give(zone, 2, 1)
    give(zone, 4, 1)

    assert free_blocks(zone) == {(1, START_PFN + 2), (1, START_PFN + 4)}


def test_a_freed_block_does_not_merge_with_a_free_buddy_of_another_order() -> None:
    zone = make_zone(16, boot=False)
    give(zone, 0, 1)
    give(zone, 4, 2)
    give(zone, 2, 0)

    assert free_blocks(zone) == {(1, START_PFN), (0, START_PFN + 2), (2, START_PFN + 4)}


def test_merging_goes_up_to_the_largest_block_and_no_further() -> None:
    zone = make_zone(32)
    pfns = exhaust(zone, 0, MIGRATE_MOVABLE)
    for pfn in pfns:
        zone.free_pages_ok(pfn, 0)

    assert free_blocks(zone) == {(4, 16), (4, 32)}


def test_below_the_pageblock_order_types_merge_and_the_freed_type_wins() -> None:
    zone = make_zone(16, boot=False)
    give(zone, 0, 1, MIGRATE_RECLAIMABLE)
    give(zone, 2, 1, MIGRATE_UNMOVABLE)

    assert free_lists(zone) == {(2, MIGRATE_UNMOVABLE): [START_PFN]}


def pair_of_pageblocks(first: int, second: int, revision: Revision) -> Zone:
    """Free two pageblocks of one largest block, each with its own type."""
    zone = make_zone(16, boot=False, revision=revision)
    for index, migratetype in ((0, first), (8, second)):
        zone.set_pageblock_migratetype(index, migratetype)
    give(zone, 0, 3, first)
    give(zone, 8, 3, second)
    return zone


@pytest.mark.parametrize("revision", [V5_7, V6_1], ids=lambda revision: revision.name)
def test_pageblocks_of_ordinary_types_merge(revision: Revision) -> None:
    zone = pair_of_pageblocks(MIGRATE_MOVABLE, MIGRATE_UNMOVABLE, revision)

    assert free_lists(zone) == {(4, MIGRATE_UNMOVABLE): [START_PFN]}


@pytest.mark.parametrize("revision", [V5_7, V6_1], ids=lambda revision: revision.name)
@pytest.mark.parametrize(
    ("first", "second"), [(MIGRATE_ISOLATE, MIGRATE_MOVABLE), (MIGRATE_MOVABLE, MIGRATE_ISOLATE)]
)
def test_a_withheld_pageblock_does_not_merge_with_another(
    first: int, second: int, revision: Revision
) -> None:
    zone = pair_of_pageblocks(first, second, revision)

    assert free_lists(zone) == {(3, first): [START_PFN], (3, second): [START_PFN + 8]}
    assert zone.nr_free_pages == 8


def test_two_withheld_pageblocks_merge() -> None:
    zone = pair_of_pageblocks(MIGRATE_ISOLATE, MIGRATE_ISOLATE, V6_1)

    assert free_lists(zone) == {(4, MIGRATE_ISOLATE): [START_PFN]}
    assert zone.nr_free_pages == 0


@pytest.mark.parametrize(
    ("revision", "merges"), [(V5_7, True), (V6_1, False)], ids=lambda value: getattr(value, "name", value)
)
def test_high_atomic_pageblocks_merge_with_others_before_v5_18_only(revision: Revision, merges: bool) -> None:
    zone = pair_of_pageblocks(MIGRATE_HIGHATOMIC, MIGRATE_MOVABLE, revision)

    expected = {(4, START_PFN)} if merges else {(3, START_PFN), (3, START_PFN + 8)}
    assert free_blocks(zone) == expected


def test_a_block_does_not_merge_across_the_end_of_the_zone() -> None:
    zone = make_zone(8, boot=False)
    give(zone, 0, 3)

    assert free_blocks(zone) == {(3, START_PFN)}


def test_a_block_does_not_merge_with_pages_in_flight() -> None:
    zone = make_zone(16, boot=False)
    give(zone, 0, 2)
    give(zone, 8, 3)
    assert zone.isolate_free_page(START_PFN, 2)
    give(zone, 4, 2)

    assert free_blocks(zone) == {(2, START_PFN + 4), (3, START_PFN + 8)}


# -- head or tail --------------------------------------------------------------------------------------


def test_a_freed_block_comes_to_the_head_of_its_list() -> None:
    zone = make_zone(64, boot=False)
    for index in (0, 8, 16):
        give(zone, index, 1)

    assert free_lists(zone)[1, MIGRATE_MOVABLE] == [START_PFN + 16, START_PFN + 8, START_PFN]


def test_a_block_whose_buddy_would_merge_further_is_kept_back_at_the_tail() -> None:
    zone = make_zone(64, boot=False)
    give(zone, 0, 1)
    give(zone, 20, 0)
    give(zone, 2, 0)  # its buddy, 3, would make 2..3, whose buddy 0..1 is free

    assert free_lists(zone)[0, MIGRATE_MOVABLE] == [START_PFN + 20, START_PFN + 2]


def test_blocks_just_below_the_largest_are_never_kept_back() -> None:
    zone = make_zone(64, boot=False)
    give(zone, 0, 4)
    give(zone, 32, 3)
    give(zone, 16, 3)

    assert free_lists(zone)[3, MIGRATE_MOVABLE] == [START_PFN + 16, START_PFN + 32]


def test_blocks_two_below_the_largest_can_be_kept_back() -> None:
    zone = make_zone(64, boot=False)
    give(zone, 0, 3)
    give(zone, 32, 2)
    give(zone, 8, 2)

    assert free_lists(zone)[2, MIGRATE_MOVABLE] == [START_PFN + 32, START_PFN + 8]


def test_a_free_to_the_tail_comes_to_the_tail() -> None:
    zone = make_zone(64, boot=False)
    give(zone, 0, 1)
    give(zone, 8, 1, fpi_flags=FPI_TO_TAIL)

    assert free_lists(zone)[1, MIGRATE_MOVABLE] == [START_PFN, START_PFN + 8]


@pytest.mark.parametrize("with_zone_below", [True, False])
def test_the_guess_about_a_merge_looks_into_the_zone_below(with_zone_below: bool) -> None:
    """Pfn 19 is the zone's first; its buddy and the free pair 16..17 beyond lie in the zone below."""
    below = make_zone(3, start_pfn=16, name="DMA32", boot=False)
    give(below, 0, 1)
    zone = make_zone(13, start_pfn=19, boot=False, zones_below=(below,) if with_zone_below else ())
    give(zone, 21 - 16, 0)
    give(zone, 19 - 16, 0)

    assert free_lists(zone)[0, MIGRATE_MOVABLE] == ([21, 19] if with_zone_below else [19, 21])


# -- taking --------------------------------------------------------------------------------------------


def test_an_allocation_takes_the_first_block_of_the_smallest_order_that_fits() -> None:
    zone = make_zone(64, boot=False)
    give(zone, 0, 3)
    give(zone, 16, 2)
    give(zone, 24, 2)
    give(zone, 32, 0)

    assert zone.rmqueue_buddy(1, MIGRATE_MOVABLE) == START_PFN + 24
    assert free_blocks(zone) == {
        (3, START_PFN),
        (2, START_PFN + 16),
        (1, START_PFN + 26),
        (0, START_PFN + 32),
    }


def test_a_split_returns_the_lowest_pages_and_leaves_one_piece_of_each_order() -> None:
    zone = make_zone(16)

    assert zone.rmqueue_buddy(0, MIGRATE_MOVABLE) == 16
    assert free_blocks(zone) == {(0, 17), (1, 18), (2, 20), (3, 24)}
    assert zone.nr_free_pages == 15


def test_an_empty_zone_gives_nothing() -> None:
    zone = make_zone(16)
    exhaust(zone, 4, MIGRATE_MOVABLE)

    assert zone.rmqueue_buddy(0, MIGRATE_MOVABLE) == -1
    assert zone.rmqueue_bulk(0, MIGRATE_MOVABLE, 3, 0) == []
    assert zone.nr_free_pages == 0


def test_a_bulk_take_stops_when_the_zone_is_empty() -> None:
    zone = make_zone(4)

    assert sorted(zone.rmqueue_bulk(0, MIGRATE_MOVABLE, 9, 0)) == [16, 17, 18, 19]


def test_a_freed_page_is_scrubbed_of_uptodate() -> None:
    """Uptodate on a page in use is Reported on a free one: without the scrub it would never be reported."""
    zone = make_zone(16)
    pfn = zone.rmqueue_buddy(4, MIGRATE_MOVABLE)
    zone.state[0] = ALLOCATED | UPTODATE | 4
    zone.free_pages_ok(pfn, 4)

    assert not zone.page_reported(0)
    assert zone.nr_reported == [0] * SMALL.nr_orders


# -- who is told ---------------------------------------------------------------------------------------


class Listener:
    """Counts notifications, and looks at the zone while it is told."""

    def __init__(self, zone: Zone, order: int) -> None:
        self.seen: list[set[tuple[int, int]]] = []
        zone.page_reporting_order = order
        zone.page_reporting_notify = lambda _pfn, _order: self.seen.append(free_blocks(zone))


def test_a_free_of_the_reporting_order_notifies_after_the_block_is_listed() -> None:
    zone = make_zone(64, boot=False)
    listener = Listener(zone, 2)
    give(zone, 0, 2)

    assert listener.seen == [{(2, START_PFN)}]


def test_the_order_that_counts_is_the_merged_one() -> None:
    zone = make_zone(64, boot=False)
    listener = Listener(zone, 2)
    give(zone, 0, 1)
    assert listener.seen == []

    give(zone, 2, 1)
    assert len(listener.seen) == 1


def test_until_a_device_registers_nobody_is_told() -> None:
    zone = make_zone(64, boot=False)
    told: list[None] = []
    zone.page_reporting_notify = lambda _pfn, _order: told.append(None)
    give(zone, 0, 4)

    assert told == []


def test_a_free_that_skips_the_notification_notifies_nobody() -> None:
    zone = make_zone(64, boot=False)
    listener = Listener(zone, 2)
    give(zone, 0, 3, fpi_flags=FPI_SKIP_REPORT_NOTIFY)

    assert listener.seen == []


def test_splitting_isolating_and_putting_back_notify_nobody() -> None:
    zone = make_zone(64)
    listener = Listener(zone, 0)
    zone.rmqueue_buddy(0, MIGRATE_MOVABLE)
    assert zone.isolate_free_page(32, 4)
    zone.putback_isolated_page(32, 4, MIGRATE_MOVABLE)
    zone.set_block_type(64, MIGRATE_RECLAIMABLE, move=True)

    assert listener.seen == []


# -- pages in flight -----------------------------------------------------------------------------------


def test_a_block_put_back_comes_to_the_tail() -> None:
    zone = make_zone(64)
    assert zone.isolate_free_page(32, 4)
    zone.putback_isolated_page(32, 4, MIGRATE_MOVABLE)

    assert free_lists(zone) == {(4, MIGRATE_MOVABLE): [16, 48, 64, 32]}


def test_before_v5_10_a_large_block_put_back_comes_to_the_head() -> None:
    zone = make_zone(64, revision=V5_7)
    assert zone.isolate_free_page(32, 4)
    zone.putback_isolated_page(32, 4, MIGRATE_MOVABLE)

    assert free_lists(zone) == {(4, MIGRATE_MOVABLE): [32, 64, 48, 16]}


def test_an_isolated_block_is_on_no_list_and_does_not_count_as_free() -> None:
    zone = make_zone(64)
    assert zone.isolate_free_page(32, 4)

    assert free_lists(zone) == {(4, MIGRATE_MOVABLE): [16, 48, 64]}
    assert zone.nr_free_pages == 48
    assert zone.state[16] == IN_FLIGHT | 4
    assert assert_sound(zone).in_flight == 16


def test_a_block_put_back_merges_with_what_was_freed_meanwhile() -> None:
    zone = make_zone(16, boot=False)
    give(zone, 0, 2)
    give(zone, 8, 3)
    assert zone.isolate_free_page(START_PFN, 2)
    give(zone, 4, 2)
    zone.putback_isolated_page(START_PFN, 2, MIGRATE_MOVABLE)

    assert free_blocks(zone) == {(4, START_PFN)}


def test_a_block_put_back_goes_to_the_list_of_the_type_given() -> None:
    zone = make_zone(64)
    assert zone.isolate_free_page(32, 4)
    zone.putback_isolated_page(32, 4, MIGRATE_RECLAIMABLE)

    assert free_lists(zone)[4, MIGRATE_RECLAIMABLE] == [32]


def test_only_a_block_in_flight_can_be_put_back() -> None:
    zone = make_zone(64)
    with pytest.raises(NotInFlight, match=r"it is free.*expected a block of order 4 in flight"):
        zone.putback_isolated_page(32, 4, MIGRATE_MOVABLE)


@pytest.mark.parametrize(("min_pages", "isolated"), [(47, True), (48, False), (49, False)])
def test_isolation_is_refused_when_the_min_mark_would_be_reached(min_pages: int, isolated: bool) -> None:
    """64 pages are free; 48 would stay, and that must be more than the mark."""
    zone = make_zone(64)
    zone.set_watermarks(min_pages, min_pages, min_pages)
    before = free_lists(zone)

    assert zone.isolate_free_page(32, 4) == isolated
    assert (free_lists(zone) == before) == (not isolated)
    assert zone.nr_free_pages == (48 if isolated else 64)


def test_isolation_looks_at_the_mark_without_the_boost() -> None:
    zone = make_zone(64)
    zone.set_watermarks(40, 40, 40)
    zone.set_watermark_boost(1000)

    assert zone.isolate_free_page(32, 4)


def test_isolating_half_a_pageblock_or_more_makes_it_movable() -> None:
    zone = make_zone(48, boot=False)
    for index in range(0, 48, 8):
        zone.set_pageblock_migratetype(index, MIGRATE_UNMOVABLE)
    for index, order in ((0, 2), (8, 1), (16, 4), (32, 4)):
        give(zone, index, order, MIGRATE_UNMOVABLE)
    for index, order in ((0, 2), (8, 1), (16, 4)):
        assert zone.isolate_free_page(START_PFN + index, order)

    unmovable, movable = MIGRATE_UNMOVABLE, MIGRATE_MOVABLE
    assert list(block_types(zone)) == [movable, unmovable, movable, movable, unmovable, unmovable]


def test_isolating_a_reserved_pageblock_leaves_it_reserved() -> None:
    zone = make_zone(32, boot=False)
    zone.set_pageblock_migratetype(0, MIGRATE_HIGHATOMIC)
    give(zone, 0, 3, MIGRATE_HIGHATOMIC)
    give(zone, 16, 4)

    assert zone.isolate_free_page(START_PFN, 3)
    assert zone.pageblock_migratetype(START_PFN) == MIGRATE_HIGHATOMIC


def test_a_withheld_block_is_isolated_whatever_the_marks() -> None:
    zone = make_zone(16, boot=False)
    zone.set_pageblock_migratetype(0, MIGRATE_ISOLATE)
    give(zone, 0, 3, MIGRATE_ISOLATE)
    zone.set_watermarks(1000, 1000, 1000)

    assert zone.isolate_free_page(START_PFN, 3)
    assert zone.nr_free_pages == 0


# -- walking lists by pfn ------------------------------------------------------------------------------


def test_a_list_is_walked_and_turned_by_pfn() -> None:
    zone = make_zone(64)
    assert zone.first_in_list(4, MIGRATE_MOVABLE) == 16
    assert zone.next_in_list(16, 4, MIGRATE_MOVABLE) == 32
    assert zone.next_in_list(64, 4, MIGRATE_MOVABLE) == -1
    assert zone.first_in_list(3, MIGRATE_MOVABLE) == -1

    zone.rotate_to_front(48, 4, MIGRATE_MOVABLE)
    assert free_lists(zone) == {(4, MIGRATE_MOVABLE): [48, 64, 16, 32]}


def test_reported_blocks_are_skipped_by_pfn() -> None:
    zone = make_zone(64)
    zone.set_reported(16)

    assert zone.unreported_from(16, 4, MIGRATE_MOVABLE) == 32
    assert zone.unreported_from(-1, 4, MIGRATE_MOVABLE) == -1


# -- revisions ------------------------------------------------------------------------------------------


def test_the_presets_are_the_kernels_of_the_recordings() -> None:
    assert set(PRESETS) == {"36e66c55", "02cf8719", "v5.7", "v6.1", "v6.12", "seed"}
    assert all(name == revision.name for name, revision in PRESETS.items())


def test_no_two_presets_are_the_same_rules() -> None:
    fields = fields_of(Revision) - {"name"}
    rules = [tuple(getattr(revision, field) for field in fields) for revision in PRESETS.values()]

    assert len(set(rules)) == len(rules)
