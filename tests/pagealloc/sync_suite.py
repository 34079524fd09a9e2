"""What every `Sync` must do, as checks that use nothing but the `Sync` they are given.

Another world is held to the same promises by running each of `CHECKS` in it. The idea, and some of the
cases, are those of CPython's `lock_tests`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

from pagealloc.sync import Condition, Event, Lock, Sync, Thread

PATIENCE_S = 20.0  # only a hang takes so long
SHORT_S = 0.01  # a wait that is meant to time out
NR_THREADS = 4
ROUNDS = 200

CHECKS: list[Callable[[Sync], None]] = []


def check(function: Callable[[Sync], None]) -> Callable[[Sync], None]:
    """Enter a function into the suite."""
    CHECKS.append(function)
    return function


class Crew:
    """Threads of a `Sync`; `finish` joins them, within bounds, and raises what one of them raised."""

    def __init__(self, sync: Sync) -> None:
        self._sync = sync
        self._threads: list[Thread] = []
        self._raised: list[BaseException] = []

    def spawn(self, target: Callable[[], None]) -> None:
        def run() -> None:
            try:
                target()
            except BaseException as error:
                self._raised.append(error)

        self._threads.append(self._sync.spawn(f"crew {len(self._threads)}", run))

    def finish(self) -> None:
        left = [thread.name for thread in self._threads if not thread.join(PATIENCE_S)]
        if self._raised:
            raise self._raised[0]
        assert not left, f"{', '.join(left)} did not end"


def run_crew(sync: Sync, *targets: Callable[[], None]) -> None:
    crew = Crew(sync)
    for target in targets:
        crew.spawn(target)
    crew.finish()


def until(sync: Sync, holds: Callable[[], bool]) -> None:
    """Wait until something holds, within bounds."""
    deadline_s = sync.monotonic() + PATIENCE_S
    while not holds():
        assert sync.monotonic() < deadline_s, "waited in vain"
        sync.sleep(0.001)


def raises_runtime_error(function: Callable[[], object]) -> bool:
    try:
        function()
    except RuntimeError:
        return True
    return False


def both_locks(sync: Sync) -> list[Lock]:
    return [sync.spinlock("spinlock"), sync.mutex("mutex")]


# -- locks ---------------------------------------------------------------------------------------------


@check
def a_lock_is_locked_between_acquire_and_release(sync: Sync) -> None:
    for lock in both_locks(sync):
        assert not lock.locked()
        assert lock.acquire()
        assert lock.locked()
        lock.release()
        assert not lock.locked()


@check
def trying_takes_a_free_lock_and_not_a_held_one(sync: Sync) -> None:
    for lock in both_locks(sync):
        assert lock.acquire(False)
        assert not lock.acquire(False)
        lock.release()
        assert lock.acquire(False)
        lock.release()


@check
def another_thread_cannot_take_a_held_lock(sync: Sync) -> None:
    for lock in both_locks(sync):
        got: list[bool] = []
        lock.acquire()
        run_crew(sync, partial(_try, lock, got))
        lock.release()
        assert got == [False]


def _try(lock: Lock, got: list[bool]) -> None:
    got.append(lock.acquire(False))


@check
def a_free_lock_cannot_be_released(sync: Sync) -> None:
    for lock in both_locks(sync):
        assert raises_runtime_error(lock.release)
        assert lock.acquire(False)
        lock.release()


@check
def who_waits_for_a_lock_gets_it_after_its_release(sync: Sync) -> None:
    for lock in both_locks(sync):
        order: list[str] = []
        waits = sync.event("waits")
        crew = Crew(sync)

        def waiter(lock: Lock = lock, order: list[str] = order, waits: Event = waits) -> None:
            waits.set()
            lock.acquire()
            order.append("taken")
            lock.release()

        lock.acquire()
        crew.spawn(waiter)
        assert waits.wait(PATIENCE_S)
        sync.sleep(SHORT_S)  # the longer, the more a lock that does not lock is given the chance to show
        order.append("released")
        lock.release()
        crew.finish()
        assert order == ["released", "taken"]


@check
def everybody_who_waits_for_a_lock_gets_it_in_the_end(sync: Sync) -> None:
    for lock in both_locks(sync):
        served: list[int] = []

        def waiter(number: int, lock: Lock = lock, served: list[int] = served) -> None:
            lock.acquire()
            served.append(number)
            sync.sleep(0)
            lock.release()

        lock.acquire()
        crew = Crew(sync)
        for number in range(NR_THREADS):
            crew.spawn(partial(waiter, number))
        lock.release()
        crew.finish()
        assert sorted(served) == list(range(NR_THREADS))


@check
def a_lock_admits_one_thread_at_a_time(sync: Sync) -> None:
    for lock in both_locks(sync):
        inside = [0]
        most = [0]
        total = [0]

        def enter(
            lock: Lock = lock, inside: list[int] = inside, most: list[int] = most, total: list[int] = total
        ) -> None:
            for _ in range(ROUNDS):
                lock.acquire()
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                before = total[0]
                sync.sleep(0)
                total[0] = before + 1
                inside[0] -= 1
                lock.release()

        run_crew(sync, *[enter] * NR_THREADS)
        assert (most[0], total[0]) == (1, NR_THREADS * ROUNDS)


@check
def a_lock_knows_whether_the_calling_thread_has_it(sync: Sync) -> None:
    for lock in both_locks(sync):
        elsewhere: list[bool] = []
        assert not lock.owned()
        lock.acquire()
        assert lock.owned()
        run_crew(sync, lambda lock=lock, elsewhere=elsewhere: elsewhere.append(lock.owned()))  # type: ignore[misc]
        assert elsewhere == [False]
        lock.release()
        assert not lock.owned()


@check
def locks_are_independent(sync: Sync) -> None:
    locks = [*both_locks(sync), *both_locks(sync)]
    for lock in locks:
        assert lock.acquire(False)
    for lock in locks:
        lock.release()


# -- atomics -------------------------------------------------------------------------------------------


@check
def an_atomic_does_what_it_says(sync: Sync) -> None:
    atomic = sync.atomic("atomic", 7)
    assert atomic.load() == 7
    atomic.store(-3)
    assert atomic.load() == -3
    assert atomic.xchg(5) == -3
    assert atomic.load() == 5
    assert atomic.cmpxchg(4, 9) == 5
    assert atomic.load() == 5
    assert atomic.cmpxchg(5, 9) == 5
    assert atomic.load() == 9
    assert atomic.add(2) == 11
    assert atomic.add(-12) == -1
    assert atomic.load() == -1


@check
def additions_at_the_same_time_take_effect_one_by_one(sync: Sync) -> None:
    """Every sum from 1 to the total is returned once: so each addition was one step."""
    atomic = sync.atomic("atomic", 0)
    sums: list[list[int]] = [[] for _ in range(NR_THREADS)]

    def add(mine: list[int]) -> None:
        for _ in range(ROUNDS):
            total = atomic.add(1)
            mine.append(total)

    run_crew(sync, *[partial(add, mine) for mine in sums])
    assert sorted(total for mine in sums for total in mine) == list(range(1, NR_THREADS * ROUNDS + 1))
    assert all(mine == sorted(mine) for mine in sums)


@check
def exchanges_at_the_same_time_form_one_chain(sync: Sync) -> None:
    """Each value stored is returned once, by the exchange behind it, but for the last, which stays."""
    atomic = sync.atomic("atomic", 0)
    pairs: list[list[tuple[int, int]]] = [[] for _ in range(NR_THREADS)]

    def exchange(number: int) -> None:
        for value in range(number * ROUNDS + 1, (number + 1) * ROUNDS + 1):
            pairs[number].append((atomic.xchg(value), value))

    run_crew(sync, *[partial(exchange, number) for number in range(NR_THREADS)])
    behind = {old: new for mine in pairs for old, new in mine}
    assert len(behind) == NR_THREADS * ROUNDS
    at, steps = 0, 0
    while at in behind:
        at, steps = behind[at], steps + 1
    assert (at, steps) == (atomic.load(), NR_THREADS * ROUNDS)


@check
def of_those_who_compare_and_exchange_one_wins(sync: Sync) -> None:
    atomic = sync.atomic("atomic", 0)
    won: list[list[int]] = [[] for _ in range(NR_THREADS)]

    def decided(value: int) -> bool:
        return atomic.load() > value

    def compete(mine: list[int]) -> None:
        for value in range(ROUNDS):
            if atomic.cmpxchg(value, value + 1) == value:
                mine.append(value)
            until(sync, partial(decided, value))

    run_crew(sync, *[partial(compete, mine) for mine in won])
    assert sorted(value for mine in won for value in mine) == list(range(ROUNDS))
    assert atomic.load() == ROUNDS


@check
def a_store_is_seen_by_others(sync: Sync) -> None:
    """A message written before a flag is there when the flag is seen."""
    flag = sync.atomic("flag", 0)
    message: list[str] = []

    def read() -> None:
        until(sync, lambda: flag.load() == 1)
        assert message == ["hello"]

    def write() -> None:
        message.append("hello")
        flag.store(1)

    run_crew(sync, read, write)


# -- events --------------------------------------------------------------------------------------------


@check
def an_event_is_set_until_it_is_cleared(sync: Sync) -> None:
    event = sync.event("event")
    assert not event.is_set()
    event.set()
    event.set()
    assert event.is_set()
    assert event.wait(0)
    assert event.wait(None)
    event.clear()
    assert not event.is_set()


@check
def waiting_for_an_event_that_does_not_come_times_out(sync: Sync) -> None:
    event = sync.event("event")
    before_s = sync.monotonic()
    assert not event.wait(SHORT_S)
    assert sync.monotonic() - before_s >= SHORT_S * 0.9
    assert not event.wait(0)


@check
def an_event_wakes_everybody_who_waits(sync: Sync) -> None:
    event = sync.event("event")
    waiting = sync.atomic("waiting", 0)
    woken = sync.atomic("woken", 0)

    def wait() -> None:
        waiting.add(1)
        assert event.wait(PATIENCE_S)
        woken.add(1)

    crew = Crew(sync)
    for _ in range(NR_THREADS):
        crew.spawn(wait)
    until(sync, lambda: waiting.load() == NR_THREADS)
    assert woken.load() == 0
    event.set()
    crew.finish()
    assert woken.load() == NR_THREADS


@check
def an_event_that_is_cleared_at_once_has_woken_who_waited(sync: Sync) -> None:
    event = sync.event("event")
    woken = sync.atomic("woken", 0)

    def wait() -> None:
        assert event.wait(PATIENCE_S), "woken, and told that the time was over"
        woken.add(1)

    def pulse() -> bool:
        event.set()
        event.clear()
        return woken.load() == NR_THREADS

    crew = Crew(sync)
    for _ in range(NR_THREADS):
        crew.spawn(wait)
    until(sync, pulse)
    crew.finish()
    assert not event.is_set()
    assert not event.wait(SHORT_S)


# -- conditions ----------------------------------------------------------------------------------------


@check
def waiting_for_a_condition_that_does_not_come_times_out(sync: Sync) -> None:
    condition = sync.condition("condition")
    with condition:
        before_s = sync.monotonic()
        assert not condition.wait(SHORT_S)
        assert sync.monotonic() - before_s >= SHORT_S * 0.9
        condition.notify_all()  # which needs the lock: so the wait took it back


@check
def a_condition_without_its_lock_is_an_error(sync: Sync) -> None:
    condition = sync.condition("condition")
    assert raises_runtime_error(lambda: condition.wait(0))
    assert raises_runtime_error(condition.notify_all)


@check
def a_condition_lets_go_of_its_lock_while_it_waits(sync: Sync) -> None:
    condition = sync.condition("condition")
    steps: list[str] = []

    def wait() -> None:
        with condition:
            steps.append("waits")
            assert condition.wait(PATIENCE_S)
            steps.append("goes on")

    crew = Crew(sync)
    crew.spawn(wait)
    until(sync, lambda: bool(steps))
    with condition:
        steps.append("notifies")
        condition.notify_all()
        steps.append("leaves")
    crew.finish()
    assert steps == ["waits", "notifies", "leaves", "goes on"]


@check
def a_condition_wakes_everybody_who_waits(sync: Sync) -> None:
    condition = sync.condition("condition")
    waiting = [0]
    woken: list[bool] = []

    def wait() -> None:
        with condition:
            waiting[0] += 1
            woken.append(condition.wait(PATIENCE_S))

    crew = Crew(sync)
    for _ in range(NR_THREADS):
        crew.spawn(wait)
    until(sync, lambda: _read(condition, waiting) == NR_THREADS)
    with condition:
        assert woken == []
        condition.notify_all()
    crew.finish()
    assert woken == [True] * NR_THREADS


def _read(condition: Condition, cell: list[int]) -> int:
    with condition:
        return cell[0]


@check
def a_notification_that_nobody_waited_for_is_forgotten(sync: Sync) -> None:
    condition = sync.condition("condition")
    with condition:
        condition.notify_all()
        assert not condition.wait(SHORT_S)


@check
def who_waits_after_a_notification_needs_another_one(sync: Sync) -> None:
    condition = sync.condition("condition")
    waiting, woken = [0], [0]

    def wait_twice() -> None:
        with condition:
            for _ in range(2):
                waiting[0] += 1
                assert condition.wait(PATIENCE_S)
                woken[0] += 1

    crew = Crew(sync)
    for _ in range(NR_THREADS):
        crew.spawn(wait_twice)
    for round_ in (1, 2):
        until(sync, lambda total=round_ * NR_THREADS: _read(condition, waiting) == total)  # type: ignore[misc]
        assert _read(condition, woken) == (round_ - 1) * NR_THREADS
        with condition:
            condition.notify_all()
    crew.finish()
    assert woken == [2 * NR_THREADS]


@check
def a_condition_releases_its_lock_when_its_body_raises(sync: Sync) -> None:
    condition = sync.condition("condition")

    def raise_inside() -> None:
        with condition:
            raise RuntimeError

    assert raises_runtime_error(raise_inside)
    run_crew(sync, lambda: _enter(condition))


def _enter(condition: Condition) -> None:
    with condition:
        pass


# -- values of a thread --------------------------------------------------------------------------------


@check
def each_thread_has_a_value_of_its_own_made_once(sync: Sync) -> None:
    made = sync.atomic("made", 0)
    local = sync.local(lambda: [made.add(1)], lambda value: None)
    mine = local.value
    seen: list[list[int]] = []

    def look() -> None:
        value = local.value
        assert local.value is value
        seen.append(value)

    run_crew(sync, look, look, look)
    assert local.value is mine
    assert len({id(value) for value in [mine, *seen]}) == len(seen) + 1
    assert len({number for value in [mine, *seen] for number in value}) == len(seen) + 1


@check
def a_value_is_retired_when_its_thread_ends(sync: Sync) -> None:
    made = sync.atomic("made", 0)
    retired: list[int] = []
    local = sync.local(lambda: made.add(1), retired.append)
    mine = local.value
    looked, leave = sync.event("looked"), sync.event("leave")
    theirs: list[int] = []

    def look() -> None:
        theirs.append(local.value)
        looked.set()
        assert leave.wait(PATIENCE_S)

    crew = Crew(sync)
    crew.spawn(look)
    assert looked.wait(PATIENCE_S)
    assert retired == []
    leave.set()
    crew.finish()
    until(sync, lambda: bool(retired))
    assert retired == theirs
    assert local.value == mine


@check
def a_thread_that_does_not_look_has_nothing_to_retire(sync: Sync) -> None:
    retired: list[int] = []
    local = sync.local(lambda: 1, retired.append)
    assert local.value == 1
    run_crew(sync, lambda: None)
    assert retired == []


# -- threads and time ----------------------------------------------------------------------------------


@check
def a_thread_can_be_joined_once_it_ends_and_not_before(sync: Sync) -> None:
    leave = sync.event("leave")
    thread = sync.spawn("guest", lambda: _wait_for(leave))
    assert thread.name == "guest"
    assert thread.is_alive()
    assert not thread.join(SHORT_S)
    assert not thread.join(0)
    leave.set()
    assert thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert thread.join(0)
    assert thread.join(None)


def _wait_for(event: Event) -> None:
    assert event.wait(PATIENCE_S)


@check
def sleeping_takes_its_time_and_the_clock_never_goes_back(sync: Sync) -> None:
    times_s = [sync.monotonic()]
    for _ in range(3):
        sync.sleep(SHORT_S)
        times_s.append(sync.monotonic())
    assert all(after - before >= SHORT_S * 0.9 for before, after in pairwise(times_s))


# -- random numbers ------------------------------------------------------------------------------------


@check
def a_seed_decides_what_is_drawn(sync: Sync) -> None:
    def draws(seed: int) -> list[float]:
        rng = sync.rng(seed)
        return [rng.random() for _ in range(5)] + [rng.choose(1000) for _ in range(5)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
    assert draws(8) != draws(-8)


@check
def streams_of_two_names_have_nothing_to_do_with_each_other(sync: Sync) -> None:
    def draws(stream: str) -> list[float]:
        rng = sync.rng(1, stream)
        return [rng.random() for _ in range(5)]

    assert draws("beat") == draws("beat")
    assert draws("beat") != draws("failures")


@check
def draws_stay_within_their_bounds_and_reach_them(sync: Sync) -> None:
    rng = sync.rng(3)
    assert {rng.choose(4) for _ in range(200)} == {0, 1, 2, 3}
    assert rng.choose(1) == 0
    drawn = [rng.random() for _ in range(1000)]
    assert all(0 <= value < 1 for value in drawn)
    assert math.isclose(sum(drawn) / len(drawn), 0.5, abs_tol=0.1)
