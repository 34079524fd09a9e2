"""The real world keeps the promises that every world makes, and a few of its own."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

import pytest
import sync_suite
from sync_suite import CHECKS, SHORT_S

from pagealloc import RealSync, Sync, sync_real
from pagealloc.sync_real import ParkingLock, SpinLock, gil_enabled

PATIENCE_S = 20.0
CROWDED_ROUNDS = 20_000


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_in_the_real_world(check: Callable[[Sync], None]) -> None:
    check(RealSync())


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_in_the_real_world_without_spinning(
    check: Callable[[Sync], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every lock that is held parks its waiters at once."""
    monkeypatch.setattr(sync_real, "YIELDS_BEFORE_PARKING", 0)
    monkeypatch.setattr(RealSync, "spinlock", lambda _self, _name: SpinLock())
    check(RealSync())


class LockedAtomics(RealSync):
    """A world with the atomics of an interpreter without a GIL, whichever this one is."""

    def atomic(self, name: str, value: int) -> sync_real.RealAtomic:
        return sync_real.RealAtomic(value)


@pytest.mark.parametrize(
    "check",
    [
        sync_suite.additions_at_the_same_time_take_effect_one_by_one,
        sync_suite.exchanges_at_the_same_time_form_one_chain,
    ],
    ids=lambda check: check.__name__,
)
def test_atomics_lose_nothing_in_a_crowd(
    check: Callable[[Sync], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enough rounds that threads without a GIL are at it together, whoever starts first."""
    monkeypatch.setattr(sync_suite, "ROUNDS", CROWDED_ROUNDS)
    check(LockedAtomics())


# -- a check that cannot fail proves nothing -----------------------------------------------------------


TRIES_MAX = 50


class NoLock:
    """A lock that locks nobody out."""

    def __init__(self) -> None:
        self._held = 0

    def acquire(self, blocking: bool = True, /) -> bool:
        self._held += 1
        return True

    def release(self) -> None:
        if not self._held:
            raise RuntimeError
        self._held -= 1

    def locked(self) -> bool:
        return bool(self._held)

    def owned(self) -> bool:
        return bool(self._held)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc: object) -> None:
        self.release()


class TornAtomic(sync_real.RealAtomic):
    """An atomic whose operations are two steps, with room for others between them."""

    def xchg(self, value: int, /) -> int:
        old = self.load()
        time.sleep(0)
        self.store(value)
        return old

    def cmpxchg(self, old: int, new: int, /) -> int:
        found = self.load()
        time.sleep(0)
        if found == old:
            self.store(new)
        return found

    def add(self, delta: int, /) -> int:
        total = self.load() + delta
        time.sleep(0)
        self.store(total)
        return total


class BrokenSync(RealSync):
    """A world without mutual exclusion."""

    def spinlock(self, name: str) -> NoLock:
        return NoLock()

    def mutex(self, name: str) -> NoLock:  # type: ignore[override]
        return NoLock()

    def atomic(self, name: str, value: int) -> sync_real.RealAtomic:
        return TornAtomic(value)


@pytest.mark.parametrize(
    "name",
    [
        "trying_takes_a_free_lock_and_not_a_held_one",
        "another_thread_cannot_take_a_held_lock",
        "who_waits_for_a_lock_gets_it_after_its_release",
        "a_lock_admits_one_thread_at_a_time",
        "additions_at_the_same_time_take_effect_one_by_one",
        "exchanges_at_the_same_time_form_one_chain",
        "of_those_who_compare_and_exchange_one_wins",
    ],
)
def test_a_world_without_mutual_exclusion_fails(name: str) -> None:
    """Real threads need not collide each time, but they do not miss each other for long."""
    (check,) = (check for check in CHECKS if check.__name__ == name)

    def try_often() -> None:
        for _ in range(TRIES_MAX):
            check(BrokenSync())

    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        # The stand-in for a lock notices some collisions itself, when it is released once too often.
        with pytest.raises((AssertionError, RuntimeError)):
            try_often()
    finally:
        sys.setswitchinterval(usual_s)


# -- the spinlock --------------------------------------------------------------------------------------


def test_the_zone_lock_spins_under_a_gil_only() -> None:
    assert isinstance(RealSync().spinlock("zone"), ParkingLock) != gil_enabled()


def test_a_lock_tells_how_often_its_owner_has_it_where_the_interpreter_does_not() -> None:
    lock = threading.RLock()
    for expected in range(3):
        assert sync_real._holds_told(lock) == expected
        lock.acquire()


@pytest.mark.parametrize("yields", [0, 5])
def test_who_has_spun_long_enough_parks(
    yields: int, monkeypatch: pytest.MonkeyPatch, join_all: Callable[..., None]
) -> None:
    monkeypatch.setattr(sync_real, "YIELDS_BEFORE_PARKING", yields)
    yielded: list[None] = []
    monkeypatch.setattr(sync_real, "_sched_yield", lambda: yielded.append(None))
    lock = SpinLock()
    lock.acquire()
    about_to_park = threading.Event()
    take = lock.try_once

    def acquire(*blocking: bool) -> bool:
        if not blocking:
            about_to_park.set()
        return take(*blocking)

    lock.try_once = acquire  # type: ignore[assignment]
    said: list[bool] = []

    def wait() -> None:
        said.append(lock.acquire())
        lock.release()

    thread = RealSync().spawn("waiter", wait)
    assert about_to_park.wait(PATIENCE_S)
    assert len(yielded) == yields
    lock.release()
    join_all(thread)
    assert said == [True], "who parked has the lock, and is told so"


# -- threads, clocks -----------------------------------------------------------------------------------


def test_a_thread_that_never_ends_does_not_keep_the_process_alive() -> None:
    seen: list[bool] = []
    thread = RealSync().spawn("guest", lambda: seen.append(threading.current_thread().daemon))
    assert thread.join(PATIENCE_S)

    assert seen == [True]


def test_a_value_that_a_finalizer_made_superfluous_is_retired_at_once(
    join_all: Callable[..., None], until: Callable[..., None]
) -> None:
    """The finalizer looks while its thread's value is made, so there are two, and the thread keeps the first."""
    sync = RealSync()
    made, seen = [0], [0]
    retired: list[int] = []
    alive: list[int] = []

    def make() -> int:
        number = made[-1] + 1
        made.append(number)
        if number == 2:  # the first is this thread's own
            seen.append(local.value)
        return number

    local = sync.local(make, retired.append)

    def look() -> None:
        seen.append(local.value)
        alive.extend(retired)

    join_all(sync.spawn("looks", look))
    assert (made, seen, alive) == ([0, 1, 2, 3], [0, 3, 3], [2])
    until(lambda: retired == [2, 3], "the thread's value is retired, too")


def test_the_clocks_are_the_machines() -> None:
    sync = RealSync()
    before_s, wall_before_s = time.monotonic(), time.time()

    assert before_s <= sync.monotonic() <= time.monotonic()
    assert wall_before_s - 1 < sync.wall_clock() < time.time() + 1


def test_a_wait_with_a_notification_ends_before_its_timeout() -> None:
    condition = RealSync().condition("condition")
    with condition:
        timer = threading.Timer(SHORT_S, lambda: _notify(condition))
        timer.start()
        assert condition.wait(PATIENCE_S)
    timer.join(PATIENCE_S)


def _notify(condition: threading.Condition) -> None:
    with condition:
        condition.notify_all()


def test_interpreters_without_the_question_have_a_gil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys, "_is_gil_enabled", raising=False)

    assert gil_enabled()


def test_the_lock_of_a_condition_lets_its_owner_in_again(join_all: Callable[..., None]) -> None:
    """Who comes back is a finalizer or a signal handler, and the thread would wait for itself."""
    sync = RealSync()
    condition = sync.condition("queue")
    came_back: list[bool] = []

    def come_back() -> None:
        with condition, condition:
            condition.notify_all()
            came_back.append(True)

    join_all(sync.spawn("comes back", come_back))
    assert came_back
