"""The free lists: their order is the kernel's `list_head` order, whatever is done to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from zone_kit import SMALL, exhaust, make_zone

from pagealloc import Layout, Zone
from pagealloc.errors import NotUnreported
from pagealloc.free_area import FreeArea
from pagealloc.mmzone import MIGRATE_MOVABLE, MIGRATE_TYPES, MIGRATE_UNMOVABLE
from pagealloc.page_flags import ALLOCATED, BUDDY, IN_FLIGHT, KIND_MASK, ON_PAGE_SET, REPORTED, TAIL

BLOCKS = 24
BLOCK_PAGES = 8
LAYOUT = Layout(nr_orders=4, pageblock_order=2)
ORDERS = st.integers(0, LAYOUT.top_order)
MIGRATETYPES = st.integers(0, MIGRATE_TYPES - 1)


def make_area(nr_blocks: int = BLOCKS, *, move_to_tail: bool = True) -> FreeArea:
    return FreeArea(0, nr_blocks * BLOCK_PAGES, LAYOUT, move_to_tail=move_to_tail)


def filled(nr_blocks: int, order: int = 3, migratetype: int = MIGRATE_MOVABLE) -> FreeArea:
    """Build an area with one list: indices 0, 8, 16, ..."""
    area = make_area(nr_blocks)
    for slot in range(nr_blocks):
        area.add_to_free_list_tail(slot * BLOCK_PAGES, order, migratetype)
    return area


# -- one list ----------------------------------------------------------------------------------------


def test_a_block_added_to_a_list_becomes_its_first() -> None:
    area = make_area()
    for index in (0, 8, 16):
        area.add_to_free_list(index, 1, MIGRATE_MOVABLE)

    assert list(area.free_list(1, MIGRATE_MOVABLE)) == [16, 8, 0]
    assert area.get_page_from_free_area(1, MIGRATE_MOVABLE) == 16


def test_a_block_added_to_the_tail_becomes_the_last() -> None:
    area = make_area()
    area.add_to_free_list(0, 1, MIGRATE_MOVABLE)
    area.add_to_free_list_tail(8, 1, MIGRATE_MOVABLE)
    area.add_to_free_list_tail(16, 1, MIGRATE_MOVABLE)

    assert list(area.free_list(1, MIGRATE_MOVABLE)) == [0, 8, 16]


@pytest.mark.parametrize("removed", [0, 8, 16, 24])
def test_a_block_leaves_from_anywhere_and_the_others_keep_their_order(removed: int) -> None:
    area = filled(4)
    area.del_page_from_free_list(removed, 3)

    assert list(area.free_list(3, MIGRATE_MOVABLE)) == [index for index in (0, 8, 16, 24) if index != removed]
    assert area.state[removed] == TAIL


def test_lists_of_other_orders_and_types_are_not_touched() -> None:
    area = make_area()
    area.add_to_free_list(0, 1, MIGRATE_MOVABLE)
    area.add_to_free_list(8, 2, MIGRATE_MOVABLE)
    area.add_to_free_list(16, 1, MIGRATE_UNMOVABLE)
    area.del_page_from_free_list(0, 1)

    assert area.free_list_empty(1, MIGRATE_MOVABLE)
    assert list(area.free_list(2, MIGRATE_MOVABLE)) == [8]
    assert list(area.free_list(1, MIGRATE_UNMOVABLE)) == [16]


def test_an_empty_list_has_no_first_block() -> None:
    area = make_area()

    assert area.get_page_from_free_area(0, MIGRATE_MOVABLE) == -1
    assert area.free_list_empty(0, MIGRATE_MOVABLE)
    assert list(area.free_list(0, MIGRATE_MOVABLE)) == []


@pytest.mark.parametrize(("move_to_tail", "expected"), [(True, [8, 0]), (False, [0, 8])])
def test_a_block_that_changes_its_type_goes_where_the_revision_says(
    move_to_tail: bool, expected: list[int]
) -> None:
    area = make_area(move_to_tail=move_to_tail)
    area.add_to_free_list(0, 2, MIGRATE_MOVABLE)
    area.add_to_free_list(8, 2, MIGRATE_UNMOVABLE)
    area.move_to_free_list(0, 2, MIGRATE_UNMOVABLE)

    assert list(area.free_list(2, MIGRATE_UNMOVABLE)) == expected
    assert area.free_list_empty(2, MIGRATE_MOVABLE)


def test_a_block_stays_reported_when_it_changes_its_type() -> None:
    area = make_area()
    area.add_to_free_list(0, 2, MIGRATE_MOVABLE)
    area.set_page_reported(0)
    area.move_to_free_list(0, 2, MIGRATE_UNMOVABLE)

    assert area.page_reported(0)
    assert area.nr_reported == [0, 0, 1, 0]


# -- rotation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("front", [0, 8, 16, 24, 32])
def test_rotation_is_a_cyclic_permutation(front: int) -> None:
    area = filled(5)
    area.list_rotate_to_front(3, MIGRATE_MOVABLE, front)

    before = [0, 8, 16, 24, 32]
    at = before.index(front)
    assert list(area.free_list(3, MIGRATE_MOVABLE)) == before[at:] + before[:at]


class CountedStores(list[int]):
    """A list that counts what is stored into it."""

    stores = 0

    def __setitem__(self, key: Any, value: Any) -> None:
        self.stores += 1
        super().__setitem__(key, value)


@pytest.mark.interpreted("a list of Python is not asked for its own way to store")
@pytest.mark.parametrize("nr_blocks", [4, 400])
def test_rotation_costs_the_same_on_a_long_list(nr_blocks: int) -> None:
    area = filled(nr_blocks)
    area._next, area._prev = CountedStores(area._next), CountedStores(area._prev)
    area.list_rotate_to_front(3, MIGRATE_MOVABLE, (nr_blocks // 2) * BLOCK_PAGES)

    assert area._next.stores + area._prev.stores == 6


# -- Reported ----------------------------------------------------------------------------------------


class RecordedStores(bytearray):
    """State bytes that remember every store into a single one."""

    def __init__(self, source: bytearray) -> None:
        super().__init__(source)
        self.stores: list[tuple[int, int]] = []

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        if isinstance(key, int):
            self.stores.append((key, value))

    def of(self, index: int) -> list[int]:
        return [value for at, value in self.stores if at == index]


def record_stores(zone: Zone) -> RecordedStores:
    recorded = zone.state = RecordedStores(zone.state)
    zone._frames = (recorded, *zone._frames[1:])
    return recorded


def allocate_it(zone: Zone) -> None:
    assert zone.rmqueue_buddy(4, MIGRATE_MOVABLE) == zone.base_pfn


def split_it(zone: Zone) -> None:
    assert zone.rmqueue_buddy(0, MIGRATE_MOVABLE) == zone.base_pfn


def isolate_it(zone: Zone) -> None:
    assert zone.isolate_free_page(zone.base_pfn, 4)


REMOVALS: dict[str, tuple[Callable[[Zone], None], list[int]]] = {
    "allocated": (allocate_it, [ALLOCATED | 4]),
    "split": (split_it, [ALLOCATED | 0]),
    "isolated": (isolate_it, [IN_FLIGHT | 4]),
}


@pytest.mark.parametrize("removal", REMOVALS)
def test_reported_is_cleared_before_buddy_when_a_block_is(removal: str) -> None:
    remove, expected_after = REMOVALS[removal]
    zone = make_zone()
    zone.set_reported(zone.base_pfn)
    recorded = record_stores(zone)
    remove(zone)

    assert recorded.of(0) == [BUDDY | 4, TAIL, *expected_after]
    assert zone.nr_reported == [0] * SMALL.nr_orders


def test_reported_is_cleared_before_buddy_when_a_block_is_merged() -> None:
    zone = make_zone(32)
    pfns = exhaust(zone, 3, MIGRATE_MOVABLE)
    zone.free_pages_ok(pfns[0], 3)
    zone.set_reported(pfns[0])
    recorded = record_stores(zone)
    zone.free_pages_ok(pfns[1], 3)

    assert recorded.of(0) == [BUDDY | 3, TAIL, BUDDY | 4]
    assert not zone.page_reported(0)
    assert zone.nr_reported == [0] * SMALL.nr_orders


def test_the_pieces_of_a_reported_block_are_not_reported() -> None:
    zone = make_zone(16)
    zone.set_reported(zone.base_pfn)
    zone.rmqueue_buddy(0, MIGRATE_MOVABLE)

    assert not any(state & REPORTED for state in zone.state)


def test_only_a_free_block_that_is_not_reported_can_be_flagged() -> None:
    zone = make_zone(32)
    zone.set_reported(zone.base_pfn)
    allocated = zone.rmqueue_buddy(4, MIGRATE_MOVABLE)
    zone.free_pages_ok(allocated, 4)

    zone.set_reported(allocated)
    with pytest.raises(NotUnreported, match=r"it is free .*Reported.*expected the head of a free block"):
        zone.set_reported(allocated)
    with pytest.raises(NotUnreported):
        zone.set_reported(allocated + 1)


def test_the_next_unreported_block_is_found_from_any_entry() -> None:
    area = filled(5)
    for index in (0, 8, 24):
        area.set_page_reported(index)

    found = [area.next_unreported(3, MIGRATE_MOVABLE, index) for index in (0, 8, 16, 24, 32)]
    assert found == [16, 16, 16, 32, 32]


def test_there_is_no_next_unreported_block_behind_the_last() -> None:
    area = filled(3)
    area.set_page_reported(16)

    assert area.next_unreported(3, MIGRATE_MOVABLE, 16) == -1


def test_a_fully_reported_list_has_no_unreported_block_though_its_order_has() -> None:
    area = filled(3)
    area.move_to_free_list(16, 3, MIGRATE_UNMOVABLE)
    area.set_page_reported(0)
    area.set_page_reported(8)

    assert area.next_unreported(3, MIGRATE_MOVABLE, 0) == -1
    assert area.next_unreported(3, MIGRATE_UNMOVABLE, 16) == 16


@pytest.mark.parametrize("fresh", [range(3), range(61, 64)], ids=["in front", "behind"])
def test_fresh_blocks_are_found_without_a_walk_over_the_reported_ones(fresh: range) -> None:
    area = filled(64)
    for number in range(64):
        if number not in fresh:
            area.set_page_reported(number * 8)
    steps: list[int] = []

    class Counted(list[int]):
        def __getitem__(self, index: Any) -> Any:
            steps.append(index)
            return super().__getitem__(index)

    state, next_, prev, nr_free = area._frames
    area._frames = state, Counted(next_), Counted(prev), nr_free

    assert area.next_unreported(3, MIGRATE_MOVABLE, 0) == fresh.start * 8
    assert len(steps) < 8


def test_a_fully_reported_order_is_left_without_walking_it() -> None:
    area = filled(3)
    for index in (0, 8, 16):
        area.set_page_reported(index)
    area._next = []  # a step along the list would be out of range

    assert area.next_unreported(3, MIGRATE_MOVABLE, 0) == -1


# -- blocks and frames -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [BUDDY, ALLOCATED, ON_PAGE_SET, IN_FLIGHT])
def test_every_frame_of_a_block_leads_to_its_head(kind: int) -> None:
    area = make_area(2)
    area.state[8] = kind | 3

    assert [area.block_of(index) for index in range(8, 16)] == [(8, 3)] * 8


def test_a_small_block_beside_a_smaller_one_is_told_apart() -> None:
    area = make_area(1)
    area.state[0] = ALLOCATED | 1
    area.state[2] = BUDDY | 0
    area.state[4] = BUDDY | 2

    found = [area.block_of(index) for index in range(BLOCK_PAGES)]
    assert found == [(0, 1), (0, 1), (2, 0), (-1, 0), (4, 2), (4, 2), (4, 2), (4, 2)]


def test_a_frame_outside_the_zone_belongs_to_no_block() -> None:
    area = FreeArea(3, 2, LAYOUT, move_to_tail=True)

    assert area.base_pfn == 0
    assert [area.block_of(index) for index in (0, 2, 5, 7)] == [(-1, 0)] * 4


def test_a_block_is_a_buddy_at_its_own_order_only() -> None:
    area = make_area(1)
    area.add_to_free_list(0, 2, MIGRATE_MOVABLE)
    area.set_page_reported(0)

    assert [area.is_buddy(0, order) for order in range(4)] == [False, False, True, False]


# -- every list against plain lists --------------------------------------------------------------------


class ListsAgainstPlainLists(RuleBasedStateMachine):
    """All operations in any order; the model keeps each free list as a Python list."""

    def __init__(self) -> None:
        super().__init__()
        self.area = make_area()
        self.lists: dict[tuple[int, int], list[int]] = {
            (order, migratetype): []
            for order in range(LAYOUT.nr_orders)
            for migratetype in range(MIGRATE_TYPES)
        }
        self.listed: dict[int, tuple[int, int]] = {}
        self.reported: set[int] = set()

    @initialize(move_to_tail=st.booleans())
    def choose_revision(self, move_to_tail: bool) -> None:
        self.area = make_area(move_to_tail=move_to_tail)

    @precondition(lambda self: len(self.listed) < BLOCKS)
    @rule(data=st.data(), order=ORDERS, migratetype=MIGRATETYPES, tail=st.booleans())
    def add(self, data: st.DataObject, order: int, migratetype: int, tail: bool) -> None:
        unlisted = [slot * BLOCK_PAGES for slot in range(BLOCKS) if slot * BLOCK_PAGES not in self.listed]
        index = data.draw(st.sampled_from(unlisted))
        if tail:
            self.area.add_to_free_list_tail(index, order, migratetype)
            self.lists[order, migratetype].append(index)
        else:
            self.area.add_to_free_list(index, order, migratetype)
            self.lists[order, migratetype].insert(0, index)
        self.listed[index] = (order, migratetype)

    def pick(self, data: st.DataObject) -> tuple[int, int, int]:
        index = data.draw(st.sampled_from(sorted(self.listed)))
        return index, *self.listed[index]

    @precondition(lambda self: self.listed)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        index, order, migratetype = self.pick(data)
        self.area.del_page_from_free_list(index, order)
        self.lists[order, migratetype].remove(index)
        del self.listed[index]
        self.reported.discard(index)

    @precondition(lambda self: self.listed)
    @rule(data=st.data(), new_type=MIGRATETYPES)
    def move(self, data: st.DataObject, new_type: int) -> None:
        index, order, migratetype = self.pick(data)
        self.area.move_to_free_list(index, order, new_type)
        self.lists[order, migratetype].remove(index)
        at = len(self.lists[order, new_type]) if self.area.move_to_tail else 0
        self.lists[order, new_type].insert(at, index)
        self.listed[index] = (order, new_type)

    @precondition(lambda self: self.listed)
    @rule(data=st.data())
    def rotate(self, data: st.DataObject) -> None:
        index, order, migratetype = self.pick(data)
        self.area.list_rotate_to_front(order, migratetype, index)
        turned = self.lists[order, migratetype]
        at = turned.index(index)
        self.lists[order, migratetype] = turned[at:] + turned[:at]

    @precondition(lambda self: set(self.listed) - self.reported)
    @rule(data=st.data())
    def flag(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(sorted(set(self.listed) - self.reported)))
        self.area.set_page_reported(index)
        self.reported.add(index)

    @invariant()
    def lists_are_equal(self) -> None:
        for (order, migratetype), expected in self.lists.items():
            assert list(self.area.free_list(order, migratetype)) == expected
            assert self.backwards(order, migratetype) == expected[::-1]
            assert self.area.get_page_from_free_area(order, migratetype) == (expected[0] if expected else -1)
            assert self.area.free_list_empty(order, migratetype) == (not expected)

    @invariant()
    def counts_are_equal(self) -> None:
        for order in range(LAYOUT.nr_orders):
            here = [index for index, (at, _) in self.listed.items() if at == order]
            assert self.area.nr_free[order] == len(here)
            assert self.area.nr_reported[order] == len(self.reported.intersection(here))

    @invariant()
    def steps_are_equal(self) -> None:
        for (order, migratetype), expected in self.lists.items():
            for at, index in enumerate(expected):
                unreported = next((one for one in expected[at:] if one not in self.reported), -1)
                assert self.area.next_unreported(order, migratetype, index) == unreported

    @invariant()
    def states_are_equal(self) -> None:
        for slot in range(BLOCKS):
            index = slot * BLOCK_PAGES
            if index in self.listed:
                assert self.area.is_buddy(index, self.listed[index][0])
            else:
                assert self.area.state[index] & KIND_MASK == TAIL
            assert self.area.page_reported(index) == (index in self.reported)

    def backwards(self, order: int, migratetype: int) -> list[int]:
        anchor = self.area._anchors[order * MIGRATE_TYPES + migratetype]
        found = []
        index = self.area._prev[anchor]
        while index != anchor:
            found.append(index)
            index = self.area._prev[index]
        return found


ListsAgainstPlainLists.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
TestListsAgainstPlainLists = ListsAgainstPlainLists.TestCase
