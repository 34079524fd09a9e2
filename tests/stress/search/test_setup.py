"""What is done once for all executions comes to what it would come to in each of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pagealloc.revision import PRESETS
from pagealloc.sync_real import gil_enabled

if not gil_enabled():
    pytest.skip("importing greenlet would give this interpreter its GIL back", allow_module_level=True)
pytest.importorskip("greenlet", reason="schedule search needs greenlet")

from pagealloc.zone import Zone
from stress.controlled.strategy import RandomWalk
from stress.controlled.world import Violation, World
from stress.search import known
from stress.search.explore import Program, program
from stress.search.kit import Kit
from stress.search.scenarios import SCENARIOS
from stress.search.setup import step_of_setup


def executed(body: Callable[[Kit], None], executions: int = 3) -> list[World]:
    subject = Program("setup", body, PRESETS["v6.1"])
    walk = RandomWalk(1)
    return [subject.execute(walk) for _ in range(executions)]


def told(world: World) -> tuple[object, ...]:
    return world.schedule, world.steps, world.switches, world.history, str(world.failure)


@pytest.mark.parametrize("memory", ["sc", "tso"])
def test_executions_that_take_every_step_themselves_are_the_same(memory: str) -> None:
    for name in SCENARIOS:
        subject = program(name, "v6.1", memory=memory)
        remembering, alone = RandomWalk(7), RandomWalk(7)
        for _ in range(3):
            kept_for_its_story = subject.execute(alone, log=True)
            assert told(subject.execute(remembering)) == told(kept_for_its_story), name


def test_a_step_of_setup_is_taken_by_the_first_execution_only(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    real = Zone.rmqueue_buddy

    def rmqueue_buddy(zone: Zone, *arguments: int) -> int:
        taken.append(1)
        return real(zone, *arguments)

    monkeypatch.setattr(Zone, "rmqueue_buddy", rmqueue_buddy)

    def body(kit: Kit) -> None:
        kit.build(("Normal", 64))
        pfns = kit.alloc_all(3)
        assert len(pfns) == 8
        kit.free(pfns.pop(), 3)  # the list is the execution's own

    first, *others = executed(body)
    assert len(taken) == 9
    assert [told(world) for world in others] == [told(first)] * 2
    assert first.steps == 20


def test_who_comes_to_the_machine_finds_it_behind_all_steps_and_is_followed() -> None:
    def body(kit: Kit) -> None:
        kit.build(("Normal", 64))
        first = kit.alloc(3)
        zone = kit.zones[0]
        assert zone.nr_free_pages == 56
        zone.free_pages_ok(first, 3)  # nobody tells the kit
        assert kit.alloc(3) == first
        assert zone.nr_free_pages == 56

    assert [world.failure for world in executed(body)] == [None] * 3


def test_a_step_beside_another_task_is_taken_where_it_stands() -> None:
    def body(kit: Kit) -> None:
        kit.build(("Normal", 64))
        got: list[int] = []
        kit.spawn("other", lambda: got.append(kit.alloc(3)))
        got.append(kit.alloc(3))
        kit.sync.await_idle()
        assert len(set(got)) == 2

    worlds = executed(body, 20)
    assert [world.failure for world in worlds] == [None] * 20
    assert len({world.history for world in worlds}) > 1


def test_a_step_in_which_something_is_chosen_is_taken_by_each_execution() -> None:
    tossed = set()

    @step_of_setup
    def toss(kit: Kit) -> int:
        return kit.world.draw(2)

    def body(kit: Kit) -> None:
        kit.build(("Normal", 64))
        tossed.add(toss(kit))

    assert len({world.history for world in executed(body, 20)}) == 2
    assert tossed == {0, 1}


def test_a_step_that_fails_fails_in_each_execution() -> None:
    def body(kit: Kit) -> None:
        kit.build(("Normal", 64))
        pfn = kit.alloc(3)
        kit.free(pfn, 3)
        kit.free(pfn, 3)

    failures = [world.failure for world in executed(body)]
    assert len({str(failure) for failure in failures}) == 1
    assert isinstance(failures[0], Violation)
    assert "DoubleFree" in failures[0].text


def test_a_step_that_breaks_an_invariant_breaks_it_in_each_execution(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Zone.free_one_page

    def free_one_page(zone: Zone, index: int, *arguments: int) -> None:
        real(zone, index, *arguments)
        zone.nr_free_pages += 1

    def body(kit: Kit) -> None:
        kit.build(("Normal", 64))
        pfn = kit.alloc(3)
        monkeypatch.setattr(Zone, "free_one_page", free_one_page)
        kit.free(pfn, 3)

    failures = [world.failure for world in executed(body)]
    monkeypatch.undo()
    assert [isinstance(failure, Violation) and failure.invariant for failure in failures] == ["S1..S5"] * 3


def test_steps_are_forgotten_when_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "STEPS_MAX", 5)
    orders = iter([*range(4)] * 5)

    def body(kit: Kit) -> None:
        kit.build(("Normal", 64))
        order = next(orders)
        kit.free(kit.alloc(order), order)

    subject = Program("many", body, PRESETS["v6.1"])
    walk = RandomWalk(1)
    for _ in range(20):
        assert subject.execute(walk).failure is None
        assert 0 < subject._known.steps <= 7


def test_a_second_machine_takes_the_place_of_the_first() -> None:
    def body(kit: Kit) -> None:
        for pages in (32, 64):
            kit.build(("Normal", pages))
            assert kit.zones[0].nr_free_pages == pages

    assert [world.failure for world in executed(body)] == [None] * 3


def test_a_kit_without_a_machine_says_so() -> None:
    messages = []

    def body(kit: Kit) -> None:
        for name in ("memory", "zones", "workqueue", "reporting"):
            with pytest.raises(AttributeError) as caught:
                getattr(kit, name)
            messages.append(str(caught.value))

    executed(body, 1)
    assert messages == ["the kit has no machine; expected `build` to come first"] * 4
