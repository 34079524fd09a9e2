"""Delayed work: deadlines, one thread, re-queueing, and the two halves of a cancel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from pagealloc.errors import PageAllocError
from pagealloc.sync import Sync
from pagealloc.sync_real import RealSync
from workers.errors import WorkerDied
from workers.workqueue import DelayedWork, Workqueue

PATIENCE_S = 20.0
LONG_S = 3600.0
SHORT_S = 0.1


@pytest.fixture
def unstarted(sync: Sync) -> Workqueue:
    return Workqueue(sync, "unstarted")


@pytest.fixture
def started(sync: Sync) -> Iterator[Workqueue]:
    queue = Workqueue(sync, "started")
    queue.start()
    yield queue
    assert queue.stop(PATIENCE_S)


class Recorder:
    """A function for works: it notes its runs, and can be held inside."""

    def __init__(self) -> None:
        self.runs = 0
        self.entered = threading.Event()
        self.leave = threading.Event()
        self.leave.set()

    def __call__(self) -> None:
        self.runs += 1
        self.entered.set()
        assert self.leave.wait(PATIENCE_S)


class ManualClock(RealSync):
    """A real world whose clock stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


# -- when a work runs ----------------------------------------------------------------------------------------


def test_works_run_in_the_order_of_their_deadlines() -> None:
    clock = ManualClock()
    queue = Workqueue(clock, "deadlines")
    ran: list[str] = []
    done = threading.Event()
    for name, delay_s in (("late", 3.0), ("soon", 1.0), ("middle", 2.0)):
        assert queue.queue_delayed_work(DelayedWork(name, partial(ran.append, name)), delay_s)
    queue.queue_delayed_work(DelayedWork("last", done.set), 4.0)
    clock.now_s += 10.0
    queue.start()
    assert done.wait(PATIENCE_S)
    assert queue.stop(PATIENCE_S)
    assert ran == ["soon", "middle", "late"]


def test_works_of_one_deadline_run_in_the_order_of_queueing() -> None:
    clock = ManualClock()
    queue = Workqueue(clock, "ties")
    ran: list[int] = []
    done = threading.Event()
    for number in range(5):
        queue.queue_delayed_work(DelayedWork(str(number), partial(ran.append, number)), 1.0)
    queue.queue_delayed_work(DelayedWork("last", done.set), 1.0)
    clock.now_s += 1.0
    queue.start()
    assert done.wait(PATIENCE_S)
    assert queue.stop(PATIENCE_S)
    assert ran == [0, 1, 2, 3, 4]


def test_a_work_does_not_run_before_its_delay_is_over(until: Callable[..., None]) -> None:
    clock = ManualClock()
    queue = Workqueue(clock, "clock")
    early, due = Recorder(), Recorder()
    tick = DelayedWork("tick", due)
    queue.queue_delayed_work(DelayedWork("early", early), 2.0)
    queue.start()
    clock.now_s += 1.999
    queue.queue_delayed_work(tick, 0.0)  # wakes the thread, which looks at all deadlines
    assert due.entered.wait(PATIENCE_S)
    until(lambda: queue.idle(tick), "the tick is over")
    assert early.runs == 0
    clock.now_s += 0.001
    queue.queue_delayed_work(tick, 0.0)
    assert early.entered.wait(PATIENCE_S)
    assert queue.stop(PATIENCE_S)


def test_a_work_runs_without_anybody_waking_the_queue_again(started: Workqueue) -> None:
    work = Recorder()
    started.queue_delayed_work(DelayedWork("alone", work), 0.05)
    assert work.entered.wait(PATIENCE_S)


def test_a_shorter_delay_queued_later_is_not_slept_over(
    started: Workqueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = DelayedWork("far", Recorder())
    near = Recorder()
    asleep = threading.Event()
    wait = started._changed.wait

    def noted(timeout_s: float | None = None) -> bool:
        if timeout_s is not None:
            asleep.set()  # under the queue's lock: whoever gets that next finds the thread asleep
        return wait(timeout_s)

    monkeypatch.setattr(started._changed, "wait", noted)
    started.queue_delayed_work(far, LONG_S)
    assert asleep.wait(PATIENCE_S)
    started.queue_delayed_work(DelayedWork("near", near), 0.0)
    assert near.entered.wait(PATIENCE_S)
    assert started.pending(far)


# -- pending, running, idle ----------------------------------------------------------------------------------


def test_queueing_a_pending_work_does_nothing(unstarted: Workqueue) -> None:
    recorder = Recorder()
    work = DelayedWork("once", recorder)
    assert unstarted.queue_delayed_work(work, 1.0)
    due = work.due
    assert not unstarted.queue_delayed_work(work, 0.0)
    assert work.due == due
    assert unstarted.run_now(work)
    assert not unstarted.run_now(work)
    assert recorder.runs == 1


def test_a_work_is_not_pending_while_it_runs_but_not_idle_either(unstarted: Workqueue) -> None:
    seen: list[tuple[bool, bool]] = []
    work = DelayedWork("look", lambda: seen.append((unstarted.pending(work), unstarted.idle(work))))
    unstarted.queue_delayed_work(work, 0.0)
    assert unstarted.pending(work)
    assert not unstarted.idle(work)
    unstarted.run_now(work)
    assert seen == [(False, False)]
    assert unstarted.idle(work)


class HalfBegun(DelayedWork):
    """A work that is held where it is armed no more and does not run yet, until somebody has looked or may not."""

    __slots__ = ("_due", "half", "seen")

    def __init__(self) -> None:
        self._due: tuple[float, int] | None = None
        self.half = threading.Event()
        self.seen = threading.Event()
        super().__init__("half begun", lambda: None)

    @property
    def due(self) -> tuple[float, int] | None:
        return self._due

    @due.setter
    def due(self, due: tuple[float, int] | None) -> None:
        begins = self._due is not None and due is None
        self._due = due
        if begins:
            self.half.set()
            # Nobody may see it as it is: that this is waited out is what is hoped for.
            self.seen.wait(SHORT_S)


def test_a_work_that_begins_is_idle_at_no_moment(unstarted: Workqueue) -> None:
    work = HalfBegun()
    unstarted.queue_delayed_work(work, 0.0)
    answers: list[bool] = []

    def look() -> None:
        assert work.half.wait(PATIENCE_S)
        answers.append(unstarted.idle(work))
        work.seen.set()

    looking = threading.Thread(target=look)
    looking.start()
    with unstarted._changed:
        unstarted._begin(work)
    work.seen.wait(PATIENCE_S)
    looking.join(PATIENCE_S)
    assert answers == [False]


def test_a_work_may_queue_itself_again_from_inside(unstarted: Workqueue) -> None:
    runs: list[bool] = []
    work = DelayedWork("again", lambda: runs.append(unstarted.queue_delayed_work(work, 0.0)))
    unstarted.queue_delayed_work(work, 0.0)
    for _ in range(3):
        assert unstarted.run_now(work)
    assert runs == [True, True, True]
    assert unstarted.pending(work)


def test_a_work_never_runs_twice_at_the_same_time(started: Workqueue) -> None:
    inside = peak = runs = 0
    enough = threading.Event()

    def function() -> None:
        nonlocal inside, peak, runs
        inside += 1
        peak = max(peak, inside)
        runs += 1
        if runs < 50:
            started.queue_delayed_work(work, 0.0)
        else:
            enough.set()
        inside -= 1

    work = DelayedWork("self", function)
    started.queue_delayed_work(work, 0.0)
    while not enough.wait(0.001):
        started.queue_delayed_work(work, 0.0)  # from another thread, while it runs
    assert started.cancel_delayed_work_sync(work, PATIENCE_S)
    assert peak == 1


def test_a_request_during_a_run_makes_one_more_run(started: Workqueue, until: Callable[..., None]) -> None:
    recorder = Recorder()
    recorder.leave.clear()
    work = DelayedWork("busy", recorder)
    started.queue_delayed_work(work, 0.0)
    assert recorder.entered.wait(PATIENCE_S)
    assert started.queue_delayed_work(work, 0.0)
    assert not started.queue_delayed_work(work, 0.0)
    recorder.leave.set()
    until(lambda: started.idle(work), "the work is idle")
    assert recorder.runs == 2


# -- cancelling ----------------------------------------------------------------------------------------------


def test_cancel_disarms_a_pending_work(unstarted: Workqueue) -> None:
    recorder = Recorder()
    work = DelayedWork("pending", recorder)
    unstarted.queue_delayed_work(work, 0.0)
    assert unstarted.cancel_delayed_work_sync(work)
    assert not unstarted.run_now(work)
    assert recorder.runs == 0


def test_a_cancelled_work_can_be_queued_again(unstarted: Workqueue) -> None:
    recorder = Recorder()
    work = DelayedWork("again", recorder)
    unstarted.queue_delayed_work(work, 0.0)
    unstarted.cancel_delayed_work_sync(work)
    assert unstarted.queue_delayed_work(work, 0.0)
    assert unstarted.run_now(work)
    assert recorder.runs == 1


def test_cancel_waits_until_the_work_has_ended(
    sync: Sync, started: Workqueue, join_all: Callable[..., None], until: Callable[..., None]
) -> None:
    recorder = Recorder()
    recorder.leave.clear()
    work = DelayedWork("running", recorder)
    started.queue_delayed_work(work, 0.0)
    assert recorder.entered.wait(PATIENCE_S)
    seen: list[bool] = []

    def cancel() -> None:
        assert started.cancel_delayed_work_sync(work)
        seen.append(recorder.leave.is_set())

    canceller = sync.spawn("canceller", cancel)
    until(lambda: work.barred, "the cancel has begun")
    assert seen == []
    recorder.leave.set()
    join_all(canceller)
    assert seen == [True]
    assert started.idle(work)


def test_cancel_defeats_a_work_that_queues_itself_again(
    sync: Sync, started: Workqueue, join_all: Callable[..., None], until: Callable[..., None]
) -> None:
    entered, leave = threading.Event(), threading.Event()
    queued: list[bool] = []

    def function() -> None:
        entered.set()
        assert leave.wait(PATIENCE_S)
        queued.append(started.queue_delayed_work(work, 0.0))

    work = DelayedWork("stubborn", function)
    started.queue_delayed_work(work, 0.0)
    assert entered.wait(PATIENCE_S)
    canceller = sync.spawn("canceller", lambda: assert_true(started.cancel_delayed_work_sync(work)))
    until(lambda: work.barred, "the cancel has begun")
    leave.set()
    join_all(canceller)
    assert queued == [False]
    assert started.idle(work)


def assert_true(value: bool) -> None:
    assert value


def test_a_cancel_out_of_patience_returns_false_and_keeps_the_work_barred(
    started: Workqueue, until: Callable[..., None]
) -> None:
    recorder = Recorder()
    recorder.leave.clear()
    work = DelayedWork("stuck", recorder)
    started.queue_delayed_work(work, 0.0)
    assert recorder.entered.wait(PATIENCE_S)
    assert not started.cancel_delayed_work_sync(work, 0.01)
    assert not started.queue_delayed_work(work, 0.0)
    recorder.leave.set()
    until(lambda: not work.running, "the work has ended")
    assert not started.queue_delayed_work(work, 0.0), "only a cancel that saw the end lifts the bar"
    assert started.cancel_delayed_work_sync(work, PATIENCE_S)
    assert started.queue_delayed_work(work, 0.0)


def test_a_bar_disarms_and_refuses_until_a_cancel_has_completed(unstarted: Workqueue) -> None:
    work = DelayedWork("barred", Recorder())
    unstarted.queue_delayed_work(work, 0.0)
    unstarted.bar(work)
    assert not unstarted.pending(work)
    assert not unstarted.queue_delayed_work(work, 0.0)
    assert unstarted.cancel_delayed_work_sync(work)
    assert unstarted.queue_delayed_work(work, 0.0)


def test_cancelling_one_work_leaves_the_others_armed(unstarted: Workqueue) -> None:
    kept, dropped = DelayedWork("kept", Recorder()), DelayedWork("dropped", Recorder())
    unstarted.queue_delayed_work(kept, 1.0)
    unstarted.queue_delayed_work(dropped, 1.0)
    unstarted.cancel_delayed_work_sync(dropped)
    assert unstarted.pending(kept)
    assert not unstarted.pending(dropped)


# -- the thread ----------------------------------------------------------------------------------------------


def test_stop_waits_for_the_work_that_runs_and_drops_the_rest(sync: Sync) -> None:
    queue = Workqueue(sync, "stopping")
    running, waiting = Recorder(), Recorder()
    running.leave.clear()
    queue.queue_delayed_work(DelayedWork("running", running), 0.0)
    queue.start()
    assert running.entered.wait(PATIENCE_S)
    queue.queue_delayed_work(DelayedWork("waiting", waiting), 0.0)
    assert not queue.stop(0.01)
    running.leave.set()
    assert queue.stop(PATIENCE_S)
    assert waiting.runs == 0


def test_a_queue_that_never_started_stops_at_once(unstarted: Workqueue) -> None:
    assert unstarted.stop(0.0)


def test_a_queue_does_not_start_twice(started: Workqueue) -> None:
    with pytest.raises(PageAllocError, match="expected to be started once"):
        started.start()


def test_a_started_queue_runs_its_works_itself(started: Workqueue) -> None:
    work = DelayedWork("far", Recorder())
    started.queue_delayed_work(work, LONG_S)
    with pytest.raises(PageAllocError, match="own thread"):
        started.run_now(work)


def test_a_work_is_not_run_again_by_itself(unstarted: Workqueue) -> None:
    refusals: list[str] = []

    def again() -> None:
        unstarted.queue_delayed_work(work, 0.0)
        try:
            unstarted.run_now(work)
        except PageAllocError as error:
            refusals.append(str(error))

    work = DelayedWork("again", again)
    unstarted.queue_delayed_work(work, 0.0)
    assert unstarted.run_now(work)
    assert refusals == ["again runs; expected a work to be run again when it has ended"]
    assert unstarted.pending(work)  # the refusal changed nothing


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_a_work_raises_is_kept_as_the_queues_failure(sync: Sync, until: Callable[..., None]) -> None:
    queue = Workqueue(sync, "failing")
    failure = ValueError("of the work")

    def function() -> None:
        raise failure

    work = DelayedWork("failing", function)
    queue.start()
    queue.queue_delayed_work(work, 0.0)
    until(lambda: queue.failure is not None, "the failure is recorded")
    assert queue.failure is failure
    assert queue.stop(PATIENCE_S)
    with pytest.raises(WorkerDied, match="ValueError: of the work"):
        queue.idle(work)


class Door:
    """The condition of a queue, at which whoever asks waits until the queue's thread has ended."""

    def __init__(self, queue: Workqueue, leave: Callable[[], None]) -> None:
        self._inner = queue._changed
        self._asks = threading.get_ident()
        self._leave = leave

    def __enter__(self) -> None:
        if threading.get_ident() == self._asks:
            self._leave()
        self._inner.__enter__()

    def __exit__(self, *exc: object) -> None:
        self._inner.__exit__(*exc)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_who_asks_while_the_thread_ends_is_told_that_it_has(sync: Sync) -> None:
    leave = threading.Event()

    def end() -> None:
        assert leave.wait(PATIENCE_S)
        raise GeneratorExit

    queue, work = Workqueue(sync, "ending"), DelayedWork("end", end)
    queue.queue_delayed_work(work, 0.0)

    def let_it_end() -> None:
        leave.set()
        assert queue._thread is not None
        assert queue._thread.join(PATIENCE_S)

    queue._changed = Door(queue, let_it_end)  # type: ignore[assignment]
    queue.start()
    with pytest.raises(WorkerDied):
        queue.idle(work)


def test_run_now_hands_on_what_the_work_raises_and_leaves_it_idle(unstarted: Workqueue) -> None:
    def function() -> None:
        raise ValueError

    work = DelayedWork("failing", function)
    unstarted.queue_delayed_work(work, 0.0)
    with pytest.raises(ValueError):
        unstarted.run_now(work)
    assert unstarted.idle(work)


def test_works_queued_from_many_threads_all_run(
    started: Workqueue, run_together: Callable[..., None], until: Callable[..., None]
) -> None:
    ran: set[tuple[int, int]] = set()
    works = [[DelayedWork(f"{t}.{n}", partial(ran.add, (t, n))) for n in range(50)] for t in range(4)]

    def queue_all(mine: list[DelayedWork]) -> None:
        for work in mine:
            assert started.queue_delayed_work(work, 0.0)

    run_together(*[partial(queue_all, mine) for mine in works])
    until(lambda: len(ran) == 200, "every work ran")
    assert all(started.idle(work) for mine in works for work in mine)
