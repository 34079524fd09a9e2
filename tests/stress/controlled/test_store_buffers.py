"""Store buffers: a plain store may wait, its own task sees it, and every full barrier lets it out."""

from __future__ import annotations

import pytest

from pagealloc.sync_real import gil_enabled

if not gil_enabled():
    pytest.skip("importing greenlet would give this interpreter its GIL back", allow_module_level=True)
pytest.importorskip("greenlet", reason="the controlled world needs greenlet")

from collections.abc import Callable
from contextlib import suppress

from pagealloc.sync import Atomic
from stress.controlled.memory import StoreBuffers
from stress.controlled.strategy import DepthFirst
from stress.controlled.sync import ControlledSync
from stress.controlled.world import Abandoned, World

Outcome = tuple[int, ...]


def outcomes(
    world_class: type[World], between: Callable[[ControlledSync, Atomic], object], preemptions: int = 3
) -> set[Outcome]:
    """Search Dekker's litmus test: each of two tasks stores 1, does `between`, and loads what the other one stores."""
    found: set[Outcome] = set()
    strategy = DepthFirst(preemptions)
    while (chooser := strategy.begin()) is not None:
        world = world_class(chooser)
        sync = ControlledSync(world)
        x, y, other = sync.atomic("x", 0), sync.atomic("y", 0), sync.atomic("other", 0)
        seen: dict[str, int] = {}

        def dekker(mine: Atomic, theirs: Atomic, name: str) -> None:
            mine.store(1)
            between(sync, other)  # noqa: B023
            assert mine.load() == 1, "a task sees its own stores"
            seen[name] = theirs.load()  # noqa: B023
            theirs.load()  # a point: a task's end drains, and nothing else would lie in between

        def main() -> None:
            threads = [
                sync.spawn("left", lambda: dekker(x, y, "left")),  # noqa: B023
                sync.spawn("right", lambda: dekker(y, x, "right")),  # noqa: B023
            ]
            for thread in threads:
                thread.join()
            assert (x.load(), y.load()) == (1, 1), "what waited has drained with its task"  # noqa: B023

        try:
            world.run(main)
            found.add((seen["left"], seen["right"]))
        except Abandoned:
            pass
        strategy.end(world)
    assert strategy.complete
    return found


def nothing(sync: ControlledSync, other: Atomic) -> None:
    del sync, other


def lock(sync: ControlledSync, other: Atomic) -> None:
    del other
    own = sync.spinlock("own")
    own.acquire()
    own.release()


IN_SOME_ORDER = {(0, 1), (1, 0), (1, 1)}


def test_in_a_sequentially_consistent_world_one_store_comes_first() -> None:
    assert outcomes(World, nothing) == IN_SOME_ORDER


def test_with_store_buffers_both_tasks_may_miss_the_other_ones_store() -> None:
    assert outcomes(StoreBuffers, nothing) == IN_SOME_ORDER | {(0, 0)}


@pytest.mark.parametrize(
    "barrier",
    [
        lock,
        lambda sync, other: other.xchg(1),
        lambda sync, other: other.cmpxchg(0, 1),
        lambda sync, other: other.add(1),
        lambda sync, other: sync.sleep(1.0),
    ],
    ids=["an acquired lock", "xchg", "cmpxchg", "add", "a wait"],
)
def test_a_full_barrier_lets_nothing_wait(barrier: Callable[[ControlledSync, Atomic], object]) -> None:
    assert outcomes(StoreBuffers, barrier) == IN_SOME_ORDER


def test_a_load_is_no_barrier() -> None:
    assert (0, 0) in outcomes(StoreBuffers, lambda sync, other: other.load(), preemptions=2)


def test_whoever_gets_a_lock_sees_what_was_stored_before_it_was_given_back() -> None:
    strategy = DepthFirst(3)
    seen: set[tuple[bool, int]] = set()
    while (chooser := strategy.begin()) is not None:
        world = StoreBuffers(chooser)
        sync = ControlledSync(world)
        shared, lock_ = sync.atomic("x", 0), sync.spinlock("lock")
        left: list[bool] = []

        def store() -> None:
            lock_.acquire()  # noqa: B023
            shared.store(1)  # noqa: B023
            left.append(True)  # noqa: B023
            lock_.release()  # noqa: B023

        def load() -> None:
            lock_.acquire()  # noqa: B023
            seen.add((bool(left), shared.load()))  # noqa: B023
            lock_.release()  # noqa: B023

        def main() -> None:
            for thread in [sync.spawn("store", store), sync.spawn("load", load)]:  # noqa: B023
                thread.join()

        with suppress(Abandoned):
            world.run(main)
        strategy.end(world)
    assert seen == {(False, 0), (True, 1)}
