"""Delayed work on one thread (`kernel/workqueue.c`, as far as page reporting leans on it).

A `DelayedWork` is *pending* from the moment it is queued until just before its function starts, so the
function may queue its own work again; queueing what is pending does nothing. One thread runs all works of
a queue, hence no work ever runs twice at the same time. `cancel_delayed_work_sync` bars re-queueing while
it waits, which is what defeats a work that re-arms itself.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from operator import attrgetter

from pagealloc.errors import PageAllocError
from pagealloc.fork import belongs_to_this_process, refuse_everything
from pagealloc.sync import Sync, Thread
from workers.errors import WorkerDied, describe_error

_due = attrgetter("due")


class DelayedWork:
    """A function to be run later. Its fields belong to the queue that it is used with."""

    __slots__ = ("barred", "due", "function", "name", "running")

    def __init__(self, name: str, function: Callable[..., None]) -> None:
        self.name = name
        self.function = function
        self.due: tuple[float, int] | None = None  # (deadline, ticket) while pending
        self.running = False
        self.barred = False  # a cancel waits: nothing may be queued

    def run(self) -> None:
        """Do the work. A work that is part of something larger may hand itself to the function."""
        self.function()


class Workqueue:
    """Runs works at or after their deadlines, on a thread of its own once `start` was called."""

    def __init__(self, sync: Sync, name: str) -> None:
        self._sync = sync
        self._changed = sync.condition(f"workqueue {name}")
        self._timers: list[DelayedWork] = []  # the pending ones, the earliest first
        self._tickets = 0
        self._stopping = False
        self._thread: Thread | None = None
        self.name = name
        self.failure: BaseException | None = None  # what ended the thread, if a work raised
        belongs_to_this_process(self)

    def part(self) -> None:
        """Refuse everything in the child of a fork: it has no thread that runs works."""
        refuse_everything(self, f"workqueue {self.name}")

    def start(self) -> None:
        """Start the thread; call it once."""
        if self._thread is not None:
            raise PageAllocError(f"workqueue {self.name} was started already; expected to be started once")
        self._thread = self._sync.spawn(self.name, self._run)

    def stop(self, timeout_s: float) -> bool:
        """End the thread after the work that runs now; False when that took longer than `timeout_s`."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        return self._thread is None or self._thread.join(timeout_s)

    def queue_delayed_work(self, work: DelayedWork, delay_s: float) -> bool:
        """Arm `work` to run `delay_s` seconds from now; False if it is pending already, barred, or never to run.

        Safe under a zone lock: it never waits for a work.
        """
        with self._changed:
            if work.due is not None or work.barred or self.failure is not None:
                return False
            self._tickets += 1
            work.due = (self._sync.monotonic() + delay_s, self._tickets)
            insort(self._timers, work, key=_due)
            self._changed.notify_all()
            return True

    def next_deadline(self) -> float | None:
        """Return when the earliest pending work is due, on the Sync's monotonic clock; None when none is pending.

        For a queue without a thread: whoever moves the clock asks how far it may go.
        """
        with self._changed:
            due = self._timers[0].due if self._timers else None
            return None if due is None else due[0]

    def pending(self, work: DelayedWork) -> bool:
        """Whether the work is armed. Raises WorkerDied when nobody will run it."""
        pending = work.due is not None
        self.check()  # afterwards: a thread says first that it has ended, and then that nothing runs
        return pending

    def check(self) -> None:
        """Raise WorkerDied, from what ended it, when the queue's thread has ended by an exception."""
        if self.failure is not None:
            raise WorkerDied(
                f"the thread of workqueue {self.name} has ended: {describe_error(self.failure)}"
            ) from self.failure

    def idle(self, work: DelayedWork) -> bool:
        """Whether the work is neither armed nor running, in one look. Raises WorkerDied when nobody will run it."""
        with self._changed:
            idle = work.due is None and not work.running
        self.check()  # see above
        return idle

    def cancel_delayed_work_sync(self, work: DelayedWork, timeout_s: float | None = None) -> bool:
        """Disarm the work and wait until it does not run; False when it still ran after `timeout_s`.

        After False the work stays barred: it can finish, but it is never armed again until a later call
        has seen it end.
        """
        deadline = None if timeout_s is None else self._sync.monotonic() + timeout_s
        with self._changed:
            self._bar(work)
            while work.running:
                remaining = None if deadline is None else deadline - self._sync.monotonic()
                if remaining is not None and remaining <= 0:
                    return False
                self._changed.wait(remaining)
            work.barred = False
            return True

    def disarm(self, work: DelayedWork) -> None:
        """Forget that the work is pending, without waiting and without barring it."""
        with self._changed:
            self._disarm(work)

    def bar(self, work: DelayedWork) -> None:
        """Disarm the work and refuse to arm it until a cancel has completed: the first half of a cancel."""
        with self._changed:
            self._bar(work)

    def run_now(self, work: DelayedWork) -> bool:
        """Run a pending work on the calling thread, whatever its deadline; False if it is not pending.

        For a queue without a thread: whoever replays a recorded run decides when its works run.
        """
        if self._thread is not None:
            raise PageAllocError(f"workqueue {self.name} was started, and its own thread runs its works")
        with self._changed:
            if work.due is None:
                return False
            self._begin(work)
        try:
            work.run()
        finally:
            with self._changed:
                self._end(work)
        return True

    def _bar(self, work: DelayedWork) -> None:
        work.barred = True
        self._disarm(work)

    def _disarm(self, work: DelayedWork) -> None:
        if work.due is not None:
            self._timers.remove(work)
            work.due = None

    def _begin(self, work: DelayedWork) -> None:
        if work.running:
            raise PageAllocError(f"{work.name} runs; expected a work to be run again when it has ended")
        self._disarm(work)
        work.running = True

    def _end(self, work: DelayedWork) -> None:
        work.running = False
        self._changed.notify_all()

    def _run(self) -> None:
        work: DelayedWork | None = None
        try:
            while (work := self._next(work)) is not None:
                work.run()
        except BaseException as failure:
            self.failure = failure
            if work is not None:
                with self._changed:
                    self._end(work)
            raise

    def _next(self, done: DelayedWork | None) -> DelayedWork | None:
        """End the work that is `done`, wait for the earliest deadline and begin its work; None when the queue stops.

        All under one hold of the lock, as in `worker_thread`.
        """
        with self._changed:
            if done is not None:
                self._end(done)
            while not self._stopping:
                if not self._timers:
                    self._changed.wait(None)
                    continue
                work = self._timers[0]
                assert work.due is not None, "it is pending"
                remaining = work.due[0] - self._sync.monotonic()
                if remaining <= 0:
                    self._begin(work)
                    return work
                self._changed.wait(remaining)
            return None
