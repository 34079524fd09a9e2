"""The controlled primitives mean what the real ones do: one suite is run in both worlds."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pagealloc.sync_real import gil_enabled

if not gil_enabled():
    pytest.skip("importing greenlet would give this interpreter its GIL back", allow_module_level=True)
pytest.importorskip("greenlet", reason="schedule search needs greenlet")

from greenlet import greenlet

from pagealloc.sync import Event, Sync
from stress.controlled.lockdep import Lockdep
from stress.controlled.strategy import RandomWalk
from stress.controlled.sync import ControlledSync
from stress.controlled.world import Violation, World, shortest_cycle
from stress.mutants import planted
from stress.search.explore import program

sys.path.insert(0, str(Path(__file__).parents[2] / "pagealloc"))
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


def test_an_execution_without_end_is_a_livelock_that_names_what_is_repeated() -> None:
    def body(sync: ControlledSync) -> None:
        ping, pong = sync.event("ping"), sync.event("pong")

        def play(mine: Event, other: Event) -> None:
            while True:
                mine.wait()
                mine.clear()
                other.set()

        sync.spawn("a", lambda: play(ping, pong))
        sync.spawn("b", lambda: play(pong, ping))
        ping.set()

    with pytest.raises(Violation, match="livelock") as found:
        run(body)
    words = found.value.text.split("; ")
    assert len(words) == 2
    assert words[0].startswith("5000 steps and no end: a repeats ")
    assert words[1].startswith("b repeats ")
    for operation in ("clear pong", "set ping"):
        assert operation in words[1]
        assert operation not in words[0]


def test_the_shortest_cycle_is_found_behind_what_came_before() -> None:
    assert shortest_cycle(["start", "a", "b", "a", "b", "a", "b"]) == ["a", "b"]
    assert shortest_cycle(["a", "a"]) == ["a"]
    assert shortest_cycle(["a", "b", "b", "a", "c"]) == ["a", "b", "c"]


def test_executions_leave_no_task_and_no_thread_behind() -> None:
    def left() -> tuple[int, int, int]:
        gc.collect()
        kept = gc.get_objects()
        return (
            sum(isinstance(one, greenlet) for one in kept),
            sum(isinstance(one, World) for one in kept),
            len(sys._current_frames()),  # one for each thread
        )

    before = left()
    subject = program("free-the-buddy", "v6.1")
    walk = RandomWalk(1)
    with subject.reusing(), planted("M-13a"):
        failed = sum(subject.execute(walk.begin()).failure is not None for _ in range(50))
        greenlets = left()[0] - before[0]
    finished = sum(subject.execute(walk.begin()).failure is None for _ in range(10))
    assert failed
    assert 0 < greenlets <= 4  # parked for the next execution's tasks
    assert finished == 10
    assert left() == before


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
