"""What lockdep says of a single schedule, though no deadlock happened in it; and of locks that nobody gives back."""

from __future__ import annotations

import pytest

from pagealloc.sync_real import gil_enabled

if not gil_enabled():
    pytest.skip("importing greenlet would give this interpreter its GIL back", allow_module_level=True)
pytest.importorskip("greenlet", reason="the controlled world needs greenlet")

from collections.abc import Callable
from functools import partial

from stress.controlled.lockdep import Lockdep
from stress.controlled.strategy import Replay
from stress.controlled.sync import ControlledSync
from stress.controlled.world import Violation, World

Body = Callable[[ControlledSync], None]


def violation(*bodies: Body) -> str | None:
    """Run each body in an execution of its own, in one order of tasks; returns what lockdep said."""
    lockdep = Lockdep()
    for body in bodies:
        world = World(Replay([]))
        sync = ControlledSync(world, lockdep)
        try:
            world.run(partial(body, sync))
        except Violation as found:
            return str(found)
    return None


def take(*names: str) -> Body:
    """Take locks in this order, and give them back."""

    def body(sync: ControlledSync) -> None:
        locks = [sync.spinlock(name) for name in names]
        for lock in locks:
            lock.acquire()
        for lock in reversed(locks):
            lock.release()

    return body


def test_two_orders_in_two_executions_are_a_deadlock_that_did_not_happen() -> None:
    assert violation(take("a one", "b one"), take("b other", "a other")) == (
        "lockdep: main takes a after b; elsewhere before it"
    )


def test_a_circle_of_three_classes_is_found() -> None:
    found = violation(take("a", "b"), take("b", "c"), take("c", "a"))
    assert found == "lockdep: main takes a after c; elsewhere before it"


def test_two_locks_of_one_class_may_not_be_held_together() -> None:
    assert violation(take("zone->lock DMA32", "zone->lock Normal")) == (
        "lockdep: main holds zone->lock DMA32 and takes zone->lock Normal: same class"
    )


def test_one_order_everywhere_is_silent() -> None:
    assert violation(take("a", "b", "c"), take("a", "c"), take("b", "c")) is None


def test_who_ends_with_a_lock_is_told() -> None:
    def body(sync: ControlledSync) -> None:
        lock = sync.spinlock("zone->lock Normal")

        def careless() -> None:
            lock.acquire()

        sync.spawn("careless", careless)

    assert violation(body) == "lockdep: careless has ended and holds zone->lock Normal"
