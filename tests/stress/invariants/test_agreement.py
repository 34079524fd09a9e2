"""What the records of a log say of each other, held against what a real zone does under one hold."""

from __future__ import annotations

from typing import Any

import pytest

from pagealloc import Layout, Memory, Zone, ZoneSpec
from pagealloc.mmzone import ALLOC_HIGHATOMIC, MIGRATE_HIGHATOMIC, MIGRATE_MOVABLE, MIGRATE_UNMOVABLE
from stress.log.hearing import Heard, Hearing
from stress.log.snapshot import begin_zone

SMALL = Layout(nr_orders=5, pageblock_order=3)
PAGEBLOCKS = 200  # a reserve is whole pageblocks of a percent of the zone


def half_full() -> Zone:
    """Return a zone in which every pageblock has half its pages free, all of them movable."""
    (zone,) = Memory([ZoneSpec("Normal", PAGEBLOCKS << 3)], layout=SMALL, ram=None, page_sets=False).zones
    taken = [zone.rmqueue_buddy(2, MIGRATE_MOVABLE) for _ in range(2 * PAGEBLOCKS)]
    for pfn in taken:
        if pfn & 4:
            zone.free_pages_ok(pfn, 2)
    return zone


def mostly_full() -> Zone:
    """Return a zone in which every pageblock has 3 of its 8 pages free: too few for another type to claim it."""
    (zone,) = Memory([ZoneSpec("Normal", PAGEBLOCKS << 3)], layout=SMALL, ram=None, page_sets=False).zones
    taken = [zone.rmqueue_buddy(0, MIGRATE_MOVABLE) for _ in range(PAGEBLOCKS << 3)]
    for pfn in taken:
        if pfn & 7 < 3:
            zone.free_pages_ok(pfn, 0)
        else:
            zone.lru_add(pfn)  # movable: not of a kind with what another type wants
    return zone


def get_and_reserve(zone: Zone) -> list[Heard]:
    """Return the records of a request that claims or steals a block and then keeps the pageblock as reserve."""
    records: list[Heard] = []

    def trace(event: str, *fields: Any) -> None:
        records.append((event, 0, (zone.number, len(records), *fields)))

    begin_zone(zone, trace)
    zone.trace = trace
    assert zone.rmqueue_buddy(1, MIGRATE_UNMOVABLE, ALLOC_HIGHATOMIC) >= 0
    trace("lock_release", 0, 0, "rmqueue_buddy")
    return records


def judged(records: list[Heard]) -> list[str]:
    broken: list[str] = []
    Hearing(lambda invariant, text: broken.append(f"{invariant}: {text}")).hear(records)
    return broken


def moves(records: list[Heard]) -> list[int]:
    return [at for at, (event, *_) in enumerate(records) if event == "move_to_free_list"]


def test_a_pageblock_may_be_claimed_and_reserved_under_one_hold() -> None:
    records = get_and_reserve(half_full())
    assert [records[at][2][-2] for at in moves(records)] == [MIGRATE_UNMOVABLE, MIGRATE_HIGHATOMIC]
    assert judged(records) == []


def test_what_can_only_be_stolen_may_be_reserved_under_the_same_hold() -> None:
    records = get_and_reserve(mostly_full())
    assert [fields[-1] for event, _, fields in records if event == "try_to_claim_block"] == [False]
    assert [records[at][2][-2] for at in moves(records)] == [MIGRATE_HIGHATOMIC]
    assert judged(records) == []


def test_what_moves_with_the_rest_of_a_pageblock_moves_once() -> None:
    (zone,) = Memory([ZoneSpec("Normal", 32)], layout=SMALL, ram=None, page_sets=False).zones
    zone.set_watermarks(0, 0, 0)
    first = zone.rmqueue_buddy(3, MIGRATE_MOVABLE)
    for pfn, order in ((first + 1, 0), (first + 3, 0), (first + 4, 2)):
        zone.claim_range(pfn, order)
        zone.free_pages_ok(pfn, order)
    records: list[Heard] = []

    def trace(event: str, *fields: Any) -> None:
        records.append((event, 0, (zone.number, len(records), *fields)))

    begin_zone(zone, trace)
    zone.trace = trace
    with zone.lock:
        assert zone.isolate_free_page(first + 4, 2)
    trace("lock_release", 0, 0, "cycle")
    one, other = moves(records)
    assert [records[at][2][2] for at in (one, other)] == [first + 1, first + 3]
    complaint = f"log: pfn {first + 3:#x} is moved behind pfn {first + 3:#x}: a walk over a pageblock ascends"
    assert complaint not in judged(records)
    records[one] = records[other]
    assert complaint in judged(records)


def test_a_claim_that_came_to_nothing_moves_no_page() -> None:
    records = get_and_reserve(mostly_full())
    retyped = next(at for at, (event, *_) in enumerate(records) if event == "set_pageblock_migratetype")
    event, thread, fields = records[retyped]
    records[retyped] = event, thread, (*fields[:-1], MIGRATE_UNMOVABLE)
    assert any("the claim of its pageblock came to nothing" in text for text in judged(records))


@pytest.mark.parametrize("which", [0, 1])
def test_a_move_to_another_list_than_the_pageblocks_is_noticed(which: int) -> None:
    records = get_and_reserve(half_full())
    at = moves(records)[which]
    event, thread, fields = records[at]
    records[at] = event, thread, (*fields[:-2], MIGRATE_MOVABLE, fields[-1])
    assert judged(records) != []


def test_of_two_requests_at_once_the_second_may_find_that_somebody_has_asked() -> None:
    """Two zones' frees look at the state, both see that nobody asked, and then exchange it one after the other."""
    requests: list[Heard] = [
        ("page_reporting_request", task, (state,)) for task, state in ((1, "idle"), (2, "requested"))
    ]
    assert judged(requests) == []
    assert judged([("page_reporting_request", 1, ("gone",))]) == ["log: a request met the state gone"]
