"""What belongs to a lock: whoever touches it without is named, and nobody else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from pagealloc.revision import preset
from pagealloc.sync_real import gil_enabled

if not gil_enabled():
    pytest.skip("importing greenlet would give this interpreter its GIL back", allow_module_level=True)
pytest.importorskip("greenlet", reason="schedule search needs greenlet")

from stress.controlled.strategy import DepthFirst, Replay
from stress.controlled.sync import ControlledLock, ControlledSync
from stress.controlled.world import Violation, World
from stress.search import replay
from stress.search.explore import Failure, Program, Result, explore, program
from stress.search.fields import watch
from stress.search.guarded import guard
from stress.search.kit import Kit
from workers.workqueue import DelayedWork


class InSlots:
    __slots__ = ("changed", "looked_at")

    def __init__(self) -> None:
        self.changed = self.looked_at = 0


class InDictionary:
    def __init__(self) -> None:
        self.changed = self.looked_at = 0


Thing = InSlots | InDictionary


def touch(kind: type[Thing], touched: Callable[[Thing, ControlledLock], None]) -> list[str]:
    """Let a task do something to a guarded thing; returns what was wrong with it."""
    world = World(Replay([]))
    wrong: list[str] = []

    def main() -> None:
        lock = ControlledSync(world).mutex("its mutex")
        thing = kind()
        guard(thing, lock, lambda _, text: wrong.append(text), reads=("looked_at",), writes=("changed",))
        touched(thing, lock)

    world.run(main)
    return wrong


@pytest.mark.parametrize("kind", [InSlots, InDictionary])
def test_a_field_that_is_touched_without_its_lock_is_named(kind: type[Thing]) -> None:
    def careless(thing: Thing, _: ControlledLock) -> None:
        thing.changed = thing.looked_at

    where = "by main, who does not hold its mutex (in "
    read, written = touch(kind, careless)
    assert read.startswith(f"{kind.__name__}.looked_at is read {where}")
    assert written.startswith(f"{kind.__name__}.changed is written {where}")
    assert read.endswith("careless)")


@pytest.mark.parametrize("kind", [InSlots, InDictionary])
def test_whoever_holds_the_lock_may_do_all_and_others_what_is_harmless(kind: type[Thing]) -> None:
    seen: list[int] = []

    def careful(thing: Thing, lock: ControlledLock) -> None:
        with lock:
            thing.looked_at = 2
            thing.changed = thing.looked_at + 1
        seen.append(thing.changed)

    assert touch(kind, careful) == []
    assert seen == [3]


def test_a_search_goes_on_behind_a_look_without_a_lock_and_tells_of_what_it_led_to() -> None:
    found = fail("somebody-asks-whether-all-is-settled", "M-200")
    assert found.invariant == "lockdep"
    world = replay.execute(found)
    assert isinstance(world.failure, Violation)
    assert world.failure.text == found.text
    # Beside another one who parts with the device a race comes of it, and says more than the look alone.
    assert fail("unregister-twice-at-once", "M-202").invariant != "lockdep"


def fail(scenario: str, mutant: str) -> Failure:
    failure = explore(program(scenario, "v6.12"), DepthFirst(2), 400, mutant).failure
    assert failure is not None
    return failure


def of_a_test(body: Callable[[Kit], None]) -> Result:
    """Search in a body that somebody else has written."""
    return explore(Program("a test", body, preset("v6.12")), DepthFirst(2), 1000)


def test_a_work_may_be_queued_by_keywords() -> None:
    def body(kit: Kit) -> None:
        kit.build(("Normal", 32))
        work = DelayedWork("mine", lambda: None)
        kit.workqueue.start()
        kit.workqueue.queue_delayed_work(work=work, delay_s=0.0)
        kit.workqueue.cancel_delayed_work_sync(work, timeout_s=1.0)
        kit.stop()

    assert of_a_test(body).failure is None


def test_a_field_that_is_watched_twice_tells_both() -> None:
    told: list[str] = []
    thing = InSlots()
    for who in ("one", "other"):
        watch(
            thing, {"changed": (partial(told.append, f"{who} reads"), partial(told.append, f"{who} writes"))}
        )
    thing.changed += 1
    assert thing.changed == 1
    assert told[:4] == ["other reads", "one reads", "other writes", "one writes"]


def test_code_that_does_not_repeat_is_told_of_what_it_touched() -> None:
    executions: list[int] = []

    def body(kit: Kit) -> None:
        kit.build(("Normal", 32))
        executions.append(kit.world.draw(8 if not executions else 2))
        kit.world.draw(2 + len(executions))
        kit.zones[0].watermark_boost = 0

    failure = of_a_test(body).failure
    assert failure is not None
    assert failure.text.startswith(
        "Zone.watermark_boost is written by main, who does not hold zone->lock Normal"
    )


def test_a_notifier_that_cannot_know_the_device_yet_is_nobodys_fault() -> None:
    """With a delay of 0 the first pass may be over before the device is known, and a free in between asks nobody."""

    def body(kit: Kit) -> None:
        kit.build(("Normal", 32), capacity=1, delay_s=0.0)
        pfns = kit.alloc_nearly_all(3)
        kit.start()
        kit.settle()
        kit.reporting.unregister(kit.device)
        kit.spawn("free", partial(kit.free, pfns[0], 3))
        kit.reporting.register(kit.device)
        kit.rest()

    result = of_a_test(body)
    assert result.failure is None
    assert result.complete
