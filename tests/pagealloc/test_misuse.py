"""Misuse is answered by an exception that names the page, and nothing has changed afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from zone_kit import SMALL, make_zone, memory_state, zone_state

import pagealloc.errors
from pagealloc import (
    GFP_KERNEL,
    BadPage,
    CorruptPageSet,
    DoubleFree,
    ForeignPfn,
    Memory,
    NotAllocated,
    PageInFlight,
    PageOnPageSet,
    UnalignedPfn,
    WrongOrder,
    Zone,
    ZoneSpec,
)
from pagealloc.mmzone import MIGRATE_MOVABLE, MIGRATE_UNMOVABLE


@pytest.fixture(params=[True, False], ids=["page sets", "no page sets"])
def memory(request: pytest.FixtureRequest) -> Iterator[Memory]:
    specs = [ZoneSpec("DMA32", 64), ZoneSpec("Normal", 77)]
    with Memory(specs, layout=SMALL, ram=None, page_sets=request.param, min_free_kbytes=0) as memory:
        yield memory


class Misuse(NamedTuple):
    """A free that must be refused: what it names, which error it gets, and words of its message."""

    pfn: int
    order: int
    error: type[BadPage]
    state: str
    expected: str


def allocate(memory: Memory, order: int) -> int:
    pfn = memory.alloc_pages(GFP_KERNEL, order)
    assert pfn is not None
    return pfn


def isolated(memory: Memory) -> int:
    """Put the largest block of the first zone in flight."""
    zone = memory.zones[0]
    pfn = zone.first_in_list(4, MIGRATE_MOVABLE)
    zone.lock.acquire()
    assert zone.isolate_free_page(pfn, 4)
    zone.lock.release()
    return pfn


def freed_twice(memory: Memory) -> Misuse:
    pfn = allocate(memory, 2)
    memory.free_pages(pfn, 2)
    memory.drain_all_pages()
    return Misuse(pfn, 2, DoubleFree, "free on a free list", "a block of order 2 allocated at this pfn")


def freed_inside_a_free_block(memory: Memory) -> Misuse:
    pfn = memory.zones[0].first_in_list(4, MIGRATE_MOVABLE)
    return Misuse(pfn + 3, 0, DoubleFree, f"as part of the block at pfn {pfn:#x}", "a block of order 0")


def freed_with_a_smaller_order(memory: Memory) -> Misuse:
    pfn = allocate(memory, 2)
    return Misuse(pfn, 1, WrongOrder, "allocated (order 2)", "a block of order 1 allocated at this pfn")


def freed_with_a_larger_order(memory: Memory) -> Misuse:
    pfn = allocate(memory, 2)
    return Misuse(pfn, 3, WrongOrder, "allocated (order 2)", "a block of order 3 allocated at this pfn")


def freed_in_the_middle(memory: Memory) -> Misuse:
    pfn = allocate(memory, 2)
    return Misuse(pfn + 1, 0, WrongOrder, f"as part of the block at pfn {pfn:#x}", "a block of order 0")


def freed_with_no_order(memory: Memory) -> Misuse:
    return Misuse(allocate(memory, 0), 5, WrongOrder, "an order that no block has", "an order of 0 .. 4")


def freed_with_a_negative_order(memory: Memory) -> Misuse:
    return Misuse(allocate(memory, 0), -1, WrongOrder, "an order that no block has", "an order of 0 .. 4")


def freed_unaligned(memory: Memory) -> Misuse:
    pfn = allocate(memory, 3)
    return Misuse(pfn + 2, 2, UnalignedPfn, "allocated (order 3)", "a multiple of 0x4")


def freed_below_every_zone(memory: Memory) -> Misuse:
    return Misuse(memory.zones[0].start_pfn - 1, 0, ForeignPfn, "in no zone", "DMA32 0x10 .. 0x4f")


def freed_above_every_zone(memory: Memory) -> Misuse:
    return Misuse(memory.zones[-1].end_pfn, 0, ForeignPfn, "in no zone", "Normal 0x50 .. 0x9c")


def freed_with_a_negative_pfn(memory: Memory) -> Misuse:
    del memory
    return Misuse(-16, 0, ForeignPfn, "in no zone", "a pfn of")


def freed_across_the_end_of_the_zone(memory: Memory) -> Misuse:
    pfn = memory.zones[-1].end_pfn - 1
    return Misuse(pfn, 1, ForeignPfn, "not wholly in zone Normal", "a block within pfn 0x50 .. 0x9c")


def freed_in_flight(memory: Memory) -> Misuse:
    return Misuse(
        isolated(memory), 4, PageInFlight, "in flight to the reporter (order 4)", "a block of order 4"
    )


def freed_inside_a_block_in_flight(memory: Memory) -> Misuse:
    pfn = isolated(memory)
    return Misuse(pfn + 1, 0, PageInFlight, f"as part of the block at pfn {pfn:#x}", "a block of order 0")


FREES: list[Callable[[Memory], Misuse]] = [
    freed_twice,
    freed_inside_a_free_block,
    freed_with_a_smaller_order,
    freed_with_a_larger_order,
    freed_in_the_middle,
    freed_with_no_order,
    freed_with_a_negative_order,
    freed_unaligned,
    freed_below_every_zone,
    freed_above_every_zone,
    freed_with_a_negative_pfn,
    freed_across_the_end_of_the_zone,
    freed_in_flight,
    freed_inside_a_block_in_flight,
]


@pytest.mark.parametrize("prepare", FREES, ids=lambda prepare: prepare.__name__)
def test_a_page_is_not(memory: Memory, prepare: Callable[[Memory], Misuse]) -> None:
    misuse = prepare(memory)
    before = memory_state(memory)
    with pytest.raises(BadPage) as raised:
        memory.free_pages(misuse.pfn, misuse.order)

    assert type(raised.value) is misuse.error
    assert_names(raised.value, misuse.pfn, misuse.order, misuse.state, misuse.expected)
    assert memory_state(memory) == before


def assert_names(error: BadPage, pfn: int, order: int, state: str, expected: str) -> None:
    """Fail unless the message names the page, the order, the page's state and what was expected."""
    assert (error.pfn, error.order) == (pfn, order)
    assert state in error.state
    assert expected in error.expected
    for words in (error.problem, f"pfn {pfn:#x}", f"order {order}", error.state, error.expected):
        assert words in str(error)


def test_every_free_of_a_block_that_is_not_owned_is_refused(memory: Memory) -> None:
    """Exhaustive: every pfn from below to above the zones, every order and one more at each end."""
    owned = {(allocate(memory, order), order) for order in (0, 0, 0, 1, 2, 3, 0, 4, 2, 0)}
    freed = {(pfn, order) for pfn, order in owned if pfn % 3 == 0}
    for pfn, order in freed:
        memory.free_pages(pfn, order)
    isolated(memory)
    before = memory_state(memory)
    first, behind = memory.zones[0].start_pfn, memory.zones[-1].end_pfn
    for pfn in range(first - 2, behind + 2):
        for order in range(-1, SMALL.nr_orders + 1):
            if (pfn, order) not in owned - freed:
                with pytest.raises(BadPage):
                    memory.free_pages(pfn, order)
    assert memory_state(memory) == before

    for pfn, order in owned - freed:
        memory.free_pages(pfn, order)


# -- page sets -----------------------------------------------------------------------------------------


@pytest.fixture
def with_page_sets() -> Memory:
    """A memory whose marks are high enough for page sets that hold large blocks."""
    return Memory([ZoneSpec("Normal", 1024)], layout=SMALL, ram=None, min_free_kbytes=1024)


@pytest.mark.parametrize("order", [0, 3])
def test_a_block_on_a_page_set_is_not_freed_again(with_page_sets: Memory, order: int) -> None:
    pfn = allocate(with_page_sets, order)
    with_page_sets.free_pages(pfn, order)
    before = memory_state(with_page_sets)
    with pytest.raises(PageOnPageSet) as raised:
        with_page_sets.free_pages(pfn, order)

    assert_names(raised.value, pfn, order, "free on a page set", f"a block of order {order} allocated")
    assert memory_state(with_page_sets) == before


def test_a_page_inside_a_block_on_a_page_set_is_not_freed(with_page_sets: Memory) -> None:
    pfn = allocate(with_page_sets, 2)
    with_page_sets.free_pages(pfn, 2)
    before = memory_state(with_page_sets)
    with pytest.raises(PageOnPageSet) as raised:
        with_page_sets.free_pages(pfn + 3, 0)

    assert_names(raised.value, pfn + 3, 0, f"as part of the block at pfn {pfn:#x}", "a block of order 0")
    assert memory_state(with_page_sets) == before


def test_a_page_freed_twice_at_the_same_time_is_not_handed_out_twice(with_page_sets: Memory) -> None:
    """Two frees that both passed the check leave the page on the set twice: planted here by hand."""
    pfn = allocate(with_page_sets, 0)
    with_page_sets.free_pages(pfn)
    sets = with_page_sets.page_sets
    assert sets is not None
    holding = next(pages for pages in sets._local.value[0].lists if pfn in pages)
    holding.append(pfn)
    assert allocate(with_page_sets, 0) == pfn
    before = zone_state(with_page_sets.zones[0])
    with pytest.raises(CorruptPageSet) as raised:
        allocate(with_page_sets, 0)

    assert_names(raised.value, pfn, 0, "allocated (order 0)", "free on a page set")
    assert zone_state(with_page_sets.zones[0]) == before


# -- zones ---------------------------------------------------------------------------------------------


def test_a_zone_refuses_a_page_of_another_zone() -> None:
    below = make_zone(64, name="DMA32")
    zone = make_zone(64, start_pfn=80, zones_below=(below,))
    pfn = below.rmqueue_buddy(0, MIGRATE_MOVABLE)
    before = zone_state(below), zone_state(zone)
    with pytest.raises(BadPage) as raised:
        zone.free_pages_ok(pfn, 0)

    assert_names(raised.value, pfn, 0, "not wholly in zone Normal", "a block within pfn 0x50 .. 0x8f")
    assert (zone_state(below), zone_state(zone)) == before


def test_a_page_of_a_zone_that_was_not_booted_cannot_be_freed() -> None:
    zone = make_zone(64, boot=False)
    before = zone_state(zone)
    with pytest.raises(NotAllocated) as raised:
        zone.free_pages_ok(16, 0)

    assert_names(raised.value, 16, 0, "inside another block", "a block of order 0 allocated at this pfn")
    assert zone_state(zone) == before


def pages_that_nobody_owns(zone: Zone) -> dict[str, int]:
    """Return a page of each kind, by its state in words."""
    allocated = zone.rmqueue_buddy(2, MIGRATE_UNMOVABLE)
    zone.lock.acquire()
    in_flight = zone.first_in_list(4, MIGRATE_MOVABLE)
    assert zone.isolate_free_page(in_flight, 4)
    zone.lock.release()
    return {
        "free on a free list": zone.first_in_list(4, MIGRATE_MOVABLE),
        "as part of the block": allocated + 1,
        "in flight": in_flight,
        "free on a page set": zone.rmqueue_bulk(0, MIGRATE_UNMOVABLE, 1, 0)[0],
    }


@pytest.mark.parametrize(
    "state", ["free on a free list", "as part of the block", "in flight", "free on a page set"]
)
def test_only_the_head_of_an_allocated_block_is_put_on_an_lru_list(state: str) -> None:
    zone = make_zone(64)
    pfn = pages_that_nobody_owns(zone)[state]
    before = zone_state(zone)
    with pytest.raises(NotAllocated) as raised:
        zone.lru_add(pfn)

    assert_names(raised.value, pfn, 0, state, "the head of an allocated block")
    assert zone_state(zone) == before


# -- ranges --------------------------------------------------------------------------------------------


def test_a_range_of_an_allocated_block_is_claimed_and_freed_alone() -> None:
    zone = make_zone(16)
    pfn = zone.rmqueue_buddy(4, MIGRATE_MOVABLE)
    zone.claim_range(pfn + 4, 2)
    zone.free_pages_ok(pfn + 4, 2)

    assert zone.nr_free_pages == 4
    assert [zone.block_of(index) for index in (0, 4, 8)] == [(0, 2), (4, 2), (8, 3)]


def test_several_allocated_blocks_are_claimed_as_one() -> None:
    zone = make_zone(16)
    zone.lru_add(zone.rmqueue_buddy(0, MIGRATE_MOVABLE))
    for order in (0, 1):
        zone.rmqueue_buddy(order, MIGRATE_MOVABLE)
    zone.claim_range(16, 2)
    zone.free_pages_ok(16, 2)

    assert zone.nr_free_pages == 16


@pytest.mark.parametrize(
    ("pfn", "order", "error"),
    [
        (16, 3, BadPage),  # half of it is free
        (24, 2, DoubleFree),
        (18, 2, UnalignedPfn),
        (12, 2, ForeignPfn),
        (16, 5, WrongOrder),
    ],
)
def test_a_range_that_is_not_allocated_is_not_claimed(pfn: int, order: int, error: type[BadPage]) -> None:
    zone = make_zone(16)
    zone.rmqueue_buddy(2, MIGRATE_MOVABLE)
    before = zone_state(zone)
    with pytest.raises(error):
        zone.claim_range(pfn, order)

    assert zone_state(zone) == before


# -- the errors themselves -----------------------------------------------------------------------------


def test_every_kind_of_bad_page_says_what_it_is() -> None:
    kinds = [
        value
        for value in vars(pagealloc.errors).values()
        if isinstance(value, type) and issubclass(value, BadPage)
    ]
    problems = [kind.problem for kind in kinds]

    assert len(set(problems)) == len(kinds) > 8
    assert all(kind.__name__ in pagealloc.__all__ for kind in kinds)
