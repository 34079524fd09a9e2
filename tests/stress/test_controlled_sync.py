"""The controlled primitives mean what the real ones do: one suite is run in both worlds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pagealloc.sync_real import gil_enabled

if not gil_enabled():
    pytest.skip("importing greenlet would give this interpreter its GIL back", allow_module_level=True)
pytest.importorskip("greenlet", reason="schedule search needs greenlet")

from pagealloc.sync import Sync
from stress.search.controlled import ControlledSync
from stress.search.lockdep import Lockdep
from stress.search.strategy import RandomWalk
from stress.search.world import Violation, World

sys.path.insert(0, str(Path(__file__).parents[1] / "pagealloc"))
from sync_suite import CHECKS

STEPS_MAX = 200_000  # the suite goes round hundreds of times
SEEDS = 5


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_in_the_virtual_world(check: Callable[[Sync], None]) -> None:
    for seed in range(SEEDS):
        world = World(RandomWalk(seed), virtual=True, steps_max=STEPS_MAX)
        sync = ControlledSync(world)
        world.run(lambda sync=sync: check(sync))  # type: ignore[misc]


def run(body: Callable[[ControlledSync], None], seed: int = 1) -> World:
    world = World(RandomWalk(seed))
    sync = ControlledSync(world, Lockdep())
    world.run(lambda: body(sync))
    return world


def test_a_timer_may_fire_while_others_run() -> None:
    """What the virtual world never shows: somebody is late."""
    outcomes = set()
    for seed in range(200):
        seen: list[bool] = []

        def body(sync: ControlledSync, seen: list[bool] = seen) -> None:
            event = sync.event("event")
            sync.spawn("waiter", lambda: seen.append(event.wait(1.0)))
            sync.spawn("setter", event.set)

        run(body, seed)
        outcomes.add(seen[0])
    assert outcomes == {True, False}


def test_whoever_waits_for_ever_is_a_deadlock_that_names_the_holder() -> None:
    def body(sync: ControlledSync) -> None:
        one, two = sync.mutex("one"), sync.mutex("two")

        def take(first: object, second: object) -> None:
            first.acquire()  # type: ignore[attr-defined]
            second.acquire()  # type: ignore[attr-defined]

        sync.spawn("a", lambda: take(one, two))
        sync.spawn("b", lambda: take(two, one))

    texts = []
    for seed in range(200):
        try:
            run(body, seed)
        except Violation as violation:
            texts.append(str(violation))
    assert any(
        "deadlock: " in text and "a waits for ever at acquire two (held by b)" in text for text in texts
    )


def test_an_execution_without_end_is_a_livelock() -> None:
    def body(sync: ControlledSync) -> None:
        while True:
            sync.sleep(1.0)

    with pytest.raises(Violation, match="livelock"):
        run(body)


def test_an_execution_that_failed_leaves_no_task_behind() -> None:
    unwound: list[str] = []

    def body(sync: ControlledSync) -> None:
        def stay() -> None:
            try:
                sync.event("never").wait()
            finally:
                unwound.append("stay")

        sync.spawn("stay", stay)
        raise ValueError("on purpose")

    world = World(RandomWalk(1))
    sync = ControlledSync(world)

    def main() -> None:
        sync.spawn("other", lambda: None)
        body(sync)

    with pytest.raises(ValueError, match="on purpose"):
        world.run(main)
    assert all(task.done and task.greenlet.dead for task in world.tasks)


def test_sleeping_with_a_spinlock_held_is_a_violation() -> None:
    def body(sync: ControlledSync) -> None:
        lock = sync.spinlock("zone->lock")
        lock.acquire()
        sync.sleep(0.1)

    with pytest.raises(Violation, match="S9"):
        run(body)
