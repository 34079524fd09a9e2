"""What belongs to a lock: whoever touches it without is named, and nobody else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pagealloc.sync_real import gil_enabled

if not gil_enabled():
    pytest.skip("importing greenlet would give this interpreter its GIL back", allow_module_level=True)
pytest.importorskip("greenlet", reason="schedule search needs greenlet")

from stress.controlled.strategy import DepthFirst, Replay
from stress.controlled.sync import ControlledLock, ControlledSync
from stress.controlled.world import Violation, World
from stress.search import replay
from stress.search.explore import Failure, explore, program
from stress.search.guarded import guard


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

    field = f"of {kind.__name__}"
    where = "by main, who does not hold its mutex (in "
    read, written = touch(kind, careless)
    assert read.startswith(f"looked_at {field} is read {where}")
    assert written.startswith(f"changed {field} is written {where}")
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
