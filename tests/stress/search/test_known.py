"""What a search remembers from one execution to the next changes no verdict, and hides no fault."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from pagealloc.revision import PRESETS
from pagealloc.sync_real import gil_enabled

if not gil_enabled():
    pytest.skip("importing greenlet would give this interpreter its GIL back", allow_module_level=True)
pytest.importorskip("greenlet", reason="schedule search needs greenlet")

from pagealloc.memory import Memory, ZoneSpec
from pagealloc.page_flags import REPORTED
from pagealloc.zone import Zone
from stress.controlled.strategy import RandomWalk, make_strategy
from stress.controlled.world import Violation, World
from stress.invariants import Judge, ShadowZone
from stress.mutants import planted
from stress.search import known
from stress.search.explore import Program, program
from stress.search.kit import LAYOUT, Kit
from stress.search.known import Known
from stress.search.machine import Build, WatchedZone, boot

SLOTS = {name for cls in WatchedZone.__mro__ for name in getattr(cls, "__slots__", ())}


class Forgetful(Program):
    """A program whose executions share nothing."""

    def execute(self, *args: object, **kwargs: object) -> World:
        self._known = Known()
        return super().execute(*args, **kwargs)  # type: ignore[arg-type]


def verdicts(subject: Program, executions: int) -> list[tuple[int, str]]:
    walk = RandomWalk(7)
    worlds = [subject.execute(walk) for _ in range(executions)]
    return [(world.history, str(world.failure)) for world in worlds]


@pytest.mark.parametrize("mutant", [None, "M-1", "M-13a", "M-17a", "M-34"])
def test_who_remembers_judges_as_who_forgets(mutant: str | None) -> None:
    with planted(mutant):
        remembering = program("allocate-the-rotated", "v6.1")
        forgetful = Forgetful("forgetful", remembering._body, PRESETS["v6.1"])
        found = verdicts(remembering, 60)
        assert found == verdicts(forgetful, 60)
    assert any(failure != "None" for _, failure in found) == (mutant is not None)
    assert remembering._known.after
    assert len(forgetful._known.after) < len(remembering._known.after)


def test_what_takes_too_much_memory_is_forgotten_and_found_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = verdicts(program("free-the-buddy", "v6.1"), 40)
    monkeypatch.setattr(known, "EVENTS_MAX", 50)
    monkeypatch.setattr(known, "FRAMES_MAX", 2)
    monkeypatch.setattr(known, "STATES_MAX", 1)
    assert verdicts(program("free-the-buddy", "v6.1"), 40) == whole


def state_of(zone: WatchedZone) -> dict[str, object]:
    names = SLOTS - {"_acquire", "_release", "lock", "zones_below"}
    return {name: getattr(zone, name) for name in names}


def test_every_execution_begins_with_the_machine_as_it_boots() -> None:
    subject = program("two-zones", "v6.1")
    verdicts(subject, 5)
    ((build, machine),) = subject._known.machines.items()
    fresh = boot(build, subject.revision)
    assert list(map(state_of, machine.memory.zones)) == list(map(state_of, fresh.memory.zones))
    assert machine.judge.key()[1:] == fresh.judge.key()[1:]  # the first is the zones, by their shadows
    assert [one.key() for one in machine.judge.zones.values()] == [
        one.key() for one in fresh.judge.zones.values()
    ]


def test_a_copy_shares_nothing_that_changes() -> None:
    machine = boot(Build((("DMA32", 32), ("Normal", 32)), (0, 0, 0), False, LAYOUT, 0), PRESETS["v6.1"])
    twin = machine.memory.twin(machine.memory.sync)
    for zone, copy in zip(machine.memory.zones, twin.zones, strict=True):
        shared = [name for name in SLOTS if isinstance(value := getattr(copy, name), list | bytearray)
                  and value is getattr(zone, name)]  # fmt: skip
        assert shared == []
        assert copy.lock is not zone.lock
        assert [name for name in sorted(SLOTS) if not hasattr(copy, name)] == []
    assert twin.zones[1].zones_below == (twin.zones[0],)


# -- what no event tells, and what events tell wrongly -----------------------------------------------------------


def violation(change: Callable[[Zone], None], *, locked: bool = True) -> str:
    """Let a task change a zone of four blocks; returns the invariant that is found broken."""

    def body(kit: Kit) -> None:
        kit.build(("Normal", 64))
        zone = kit.zones[0]
        if locked:
            zone.lock.acquire()
        change(zone)
        if locked:
            zone.lock.release()

    subject = Program("change", body, PRESETS["v6.1"])
    broken = []
    for _ in range(2):  # what was found once is not taken for known
        failure = subject.execute(RandomWalk(1)).failure
        assert isinstance(failure, Violation)
        broken.append(failure.invariant)
    assert broken[0] == broken[1]
    return broken[0]


def exchange_two_blocks(zone: Zone) -> None:
    """Exchange a list's first two entries, without a word."""
    first, second = list(zone.free_list(zone.top_order, 1))[:2]
    zone.del_page_from_free_list(first, zone.top_order)
    third = zone._next[second]
    zone._next[second] = zone._prev[third] = first
    zone._prev[first], zone._next[first] = second, third
    zone.state[first] = zone.state[second]
    zone.nr_free[zone.top_order] += 1


def flag_a_block(zone: Zone) -> None:
    index = zone.get_page_from_free_area(zone.top_order, 1)
    zone.state[index] |= REPORTED
    zone.nr_reported[zone.top_order] += 1


def retag_a_pageblock(zone: Zone) -> None:
    zone.pageblock_types[0] = 2


def let_a_sum_of_marks_go_stale(zone: Zone) -> None:
    zone.lock.release()  # it is looked at as it should be, and
    zone.lock.acquire()  # what was found right must not hide what follows
    zone.fast_marks[0] += 1


@pytest.mark.parametrize(
    ("change", "invariant"),
    [
        (exchange_two_blocks, "S19"),
        (flag_a_block, "S13"),
        (retag_a_pageblock, "S6"),
        (let_a_sum_of_marks_go_stale, "S1..S5"),
    ],
)
def test_a_change_that_no_event_tells_is_seen_when_the_lock_is_given_back(
    change: Callable[[Zone], None], invariant: str
) -> None:
    assert violation(change) == invariant


def test_an_event_of_a_zone_without_its_lock_is_a_violation() -> None:
    assert violation(lambda zone: zone.set_pageblock_migratetype(0, 2), locked=False) == "S9"


def test_an_event_of_a_zone_that_is_none_is_no_event() -> None:
    def misspell(zone: Zone) -> None:
        assert zone.trace is not None
        zone.trace("page_reporting_putbak", zone.start_pfn, 3)

    assert violation(misspell) == "exception"


def test_an_exit_of_the_product_is_a_finding_and_does_not_end_the_search() -> None:
    def leave(zone: Zone) -> None:
        raise SystemExit(0)

    assert violation(leave) == "exception"


def test_page_sets_are_as_large_in_a_search_as_in_the_memory_that_was_built() -> None:
    held = []

    def body(kit: Kit) -> None:
        kit.build(("Normal", 64), page_sets=True)
        sets = kit.memory.page_sets
        assert sets is not None
        held.append([order for order in range(LAYOUT.nr_orders) if sets.holds(order)])

    Program("sizes", body, PRESETS["v6.1"]).execute(RandomWalk(1))
    memory = Memory([ZoneSpec("Normal", 64)], layout=LAYOUT, ram=None)
    assert memory.page_sets is not None
    assert held == [[order for order in range(LAYOUT.nr_orders) if memory.page_sets.holds(order)]]
    assert held[0], "a memory of this size has page sets"


@pytest.mark.parametrize("strategy", ["random", "dfs"])
@pytest.mark.parametrize("scenario", ["free-the-buddy", "every-call-may-fail", "unregister-at-any-time"])
def test_an_execution_leaves_nothing_for_the_garbage_collector(scenario: str, strategy: str) -> None:
    chooser = make_strategy(strategy, 3, 30, 1)
    subject = program(scenario, "v6.1")
    ended = []
    gc.disable()
    try:
        with subject.reusing():
            for _ in range(30):
                turn = chooser.begin()
                assert turn is not None
                world = subject.execute(turn)
                chooser.end(world)
                ended.append(weakref.ref(world))
                del world
            assert [ref() for ref in ended] == [None] * 30
    finally:
        gc.enable()


def test_a_search_keeps_no_execution_alive() -> None:
    subject = program("failure-is-retried", "v6.1")
    verdicts(subject, 20)
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, World)]


# -- judges that know the same -----------------------------------------------------------------------------------


def told_machine() -> tuple[Known, Judge]:
    remembered = Known()
    machine = boot(Build((("DMA32", 32), ("Normal", 32)), (0, 0, 0), False, LAYOUT, 0), PRESETS["v6.1"])
    return remembered, remembered.keep(machine.judge)


@pytest.mark.parametrize(
    "look",
    [
        lambda zones: zones[1],
        lambda zones: zones.get(1),
        lambda zones: list(zones.values())[1],
        lambda zones: dict(zones.items())[1],
    ],
    ids=["by number", "by get", "among all", "among all with their numbers"],
)
def test_whoever_comes_to_a_zone_of_another_judge_gets_a_copy(look: Callable[[Any], ShadowZone]) -> None:
    _, before = told_machine()
    key = before.zones[1].key()
    twin = before.twin(lambda invariant, text: None)
    look(twin.zones).free.clear()
    assert look(twin.zones).free == {}, "the same copy every time"
    assert before.zones[1].key() == key


def test_a_zone_that_an_event_is_not_about_is_not_copied() -> None:
    remembered, before = told_machine()
    pfn = before.zones[1].start_pfn
    taken = (before, "mm_page_alloc_zone_locked", 0, 1, (pfn, 4, 1, False, 4))
    after = remembered.judge(taken, lambda invariant, text: pytest.fail(text))
    assert type(after.zones) is dict
    assert after.zones[0] is before.zones[0]
    assert after.zones[1] is not before.zones[1]
    assert pfn in before.zones[1].free
    assert pfn not in after.zones[1].free
