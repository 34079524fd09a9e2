"""A world in which one thread of control runs at a time, and a strategy says which.

A task is a greenlet. It runs until it comes to a *point*: an operation on a primitive that other tasks can
see. There the strategy picks among the tasks that could go on, and the world switches. Between two points a
task runs alone, so the product needs no change and no lock is real.

Time belongs to the schedule too. A task that sleeps, or waits with a timeout, can always be picked: picking
it lets its timer fire, and the clock jumps to the deadline. Real threads can be late by any amount, so this
allows exactly what they may do. A task that waits for quiet (`await_idle`) is picked only when nothing else
can run.

Every pick with more than one candidate, and every number drawn, is one entry of the *schedule*: a list of
ints that replays the execution.

**Which executions are the same?** Two schedules that differ only in the order of steps that cannot see each
other's effects lead to the same state. Each step's hash covers its task's past, the past of the object that
it operates on, and the past of the shared data: every step may read that data, because the product peeks
without locks, and whoever holds a lock may have written it. The clock is shared data, too. `history` puts the
tasks' hashes together; equal `history` and `data_history` mean equal states, whatever order was taken (a
Mazurkiewicz trace, fingerprinted).
"""

# Why it is like this
#
# Threads of which one runs at a time, each with a baton to wait for, need no library, and everybody thinks of them
# first. `stress bench` still measures that scheduler beside this one: it executes less than a third as many schedules
# a second. Generators would be as quick as greenlets, but then every function between a task and a lock has to yield,
# and the product would no longer be the product. A greenlet switches in the middle of a plain call. Making one costs
# as much as twenty switches, so a search hands in `Coroutines`, which are used again.
#
# Who can go on was computed at every point, then kept until somebody blocked or woke, and is now kept from step to
# step (`_ready`): a point is the unit in which a search pays.
#
# What a task does while there never was another one (`alone`) is no part of any history: it is the same in every
# execution but for the numbers that it draws, and those are.
#
# What is the same was wrong three times, each time by pruning more than was the same; a search that prunes too much
# looks fast and finds nothing, so nobody complains.
#
#   1. A critical section's writes counted for its lock alone. But the worker looks at lists and counts without the
#      lock, so two states that differ to such a look passed for one. Now whoever holds a lock publishes, before anybody
#      else can look; where data is written without one (`lockless_writes`), every task does at every point.
#   2. The clock was left out. It is shared data: whoever moves it publishes.
#   3. The hashes of the tasks were summed, because a sum is cheap to keep. See `history`, beside the line.
#
# Open questions. All shared data is one: a write to one zone makes every later step of everybody differ, so states that
# are equal in truth are executed again. A history for each zone would need to know what a look without a lock looks
# at. Equal schedules are recognised when they have met; partial-order reduction would not begin most of them. And two
# states could have one hash of 64 bits: nobody would ever know.

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from operator import attrgetter
from typing import NamedTuple, NoReturn, Protocol

from greenlet import GreenletExit, getcurrent, greenlet

STEPS_MAX = 5000  # of one execution; the scenarios need a few hundred
LAST_STEPS = 400  # of an execution that does not end, remembered to name what is repeated


class ScheduleError(BaseException):
    """A recorded schedule does not fit this program."""


class Abandoned(BaseException):
    """A chooser gives this execution up: what follows was seen before."""


class Violation(BaseException):
    """An invariant does not hold; `invariant` is its name.

    No Exception: the product, which outlives a reporter that raises, must not outlive this.
    """

    def __init__(self, invariant: str, text: str) -> None:
        super().__init__(f"{invariant}: {text}")
        self.invariant = invariant
        self.text = text


class Chooser(Protocol):
    """Whoever makes the choices of one execution."""

    def pick(self, world: World, candidates: list[Task], current: Task | None) -> int:
        """Return the position of the task to run next; `current` is None if it cannot go on."""
        ...

    def draw(self, world: World, n: int) -> int:
        """Return a number of 0 .. n - 1."""
        ...


class Task:
    """One coroutine. `waits_for` is what it cannot go on without; `deadline_s` is its timer."""

    __slots__ = (
        "deadline_s",
        "done",
        "greenlet",
        "held",
        "history",
        "name",
        "number",
        "op",
        "wait_is_quiet",
        "waits_for",
    )

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.greenlet: greenlet
        self.done = False
        self.waits_for: Subject | None = None
        self.wait_is_quiet = False
        self.deadline_s: float | None = None
        self.held: list[Subject] = []  # the locks that it has
        self.op = ""  # what it does while it waits
        self.history = hash((number, name))


class LogEntry(NamedTuple):
    """One thing that happened, kept when somebody wants the story.

    `kind` is "step" (an operation on a primitive), "page" (something done to a block) or "switch" (`text`
    says why the processor went from the task to another one).
    """

    kind: str
    task: int
    text: str
    subject: str
    now_s: float
    pfn: int = -1
    order: int = 0


class Reused(greenlet):
    """A greenlet that takes one task after the other: to make one costs as much as twenty switches.

    Between two tasks it is parked in `idle`, and holds nothing of the task that has ended.
    """

    def __init__(self, idle: list[Reused]) -> None:
        super().__init__()
        self.idle = idle
        self.task: Callable[[], None]

    def run(self) -> None:
        while True:
            self.task()
            del self.task
            self.idle.append(self)
            assert self.parent is not None
            self.parent.switch()


class Coroutines:
    """Hands out greenlets to the tasks of one execution after the other.

    `close` ends them: a parked greenlet refers to itself, and no garbage collector would.
    """

    def __init__(self) -> None:
        self._idle: list[Reused] = []

    def __call__(self, task: Callable[[], None], parent: greenlet) -> greenlet:
        coroutine = self._idle.pop() if self._idle else Reused(self._idle)
        coroutine.parent = parent
        coroutine.task = task
        return coroutine

    def close(self) -> None:
        while self._idle:
            self._idle.pop().throw(GreenletExit)


_number = attrgetter("number")


class World:
    """One execution: tasks, a clock and a schedule.

    In a `virtual` world no timer fires while a task can go on, and then the earliest one does: minutes pass
    in milliseconds, in the order in which they would.
    """

    # What a task runs on; whoever executes often hands in `Coroutines`, and the benchmark threads.
    coroutine: type[greenlet] | Coroutines = greenlet
    memory = "sc"  # the memory model: sequentially consistent; see `memory` for another
    running: Callable[[], greenlet] = staticmethod(getcurrent)

    def __init__(
        self, chooser: Chooser, *, virtual: bool = False, steps_max: int = STEPS_MAX, log: bool = False
    ) -> None:
        self.tasks: list[Task] = []
        self.current: Task
        self.now_s = 0.0
        self.schedule: list[int] = []  # positions among the candidates, and numbers drawn
        self.steps = 0
        self.preemptions = 0
        self.switches = 0
        self.lockless_writes = False  # whether shared data may be written without a lock, as page sets do
        self.survives: tuple[type[BaseException], ...] = ()  # what may end a task without being a finding
        self.survived: list[BaseException] = []
        self.aborting = False
        self.failure: BaseException | None = None
        self.log: list[LogEntry] | None = [] if log else None
        self._chooser = chooser
        self._choose = chooser.pick
        self.virtual = virtual
        self._steps_max = steps_max
        self._steps_unnoted = 0 if log else steps_max - LAST_STEPS  # so many pass without being noted
        self._last_steps: list[tuple[Task, str]] = []
        self._hub = self.running()
        self.data_history = 0  # of the writes to shared data, in their order
        self._ready: list[Task] = []  # who can go on, in the order of their numbers
        self.alone = True  # there was never more than one task

    # -- running -----------------------------------------------------------------------------------------

    def run(self, main: Callable[[], None]) -> None:
        """Run `main` as the first task until every task has ended.

        Raises what a task raised, or Violation for a deadlock or an execution without end.
        """
        self.current = self.spawn("main", main)
        while self.failure is None:
            candidates = self._ready or self._last_resort()
            if not candidates:
                break
            try:
                self._switch_to(self._pick(candidates, None))
            except GreenletExit:
                break
        alive = [task for task in self.tasks if not task.done]
        if self.failure is None and alive:
            self.failure = Violation("deadlock", self._describe_waits(alive))
        self._unwind()
        if self.failure is not None:
            raise self.failure

    def spawn(self, name: str, target: Callable[[], None]) -> Task:
        """Add a task that can be picked from now on."""
        task = Task(len(self.tasks), name)
        task.greenlet = self.coroutine(lambda: self._body(task, target), self._hub)
        self.alone = not self.tasks
        self.tasks.append(task)
        self._ready.append(task)
        return task

    @property
    def history(self) -> int:
        """What has happened so far, whatever order independent steps had: see the module's text."""
        # No sum: a tuple's hash is so nearly linear in its last element that two tasks which swap what they saw can
        # make the same one. It cost days, for nothing fails: a state that was never met before is pruned as known.
        return hash(tuple([task.history for task in self.tasks]))

    def _body(self, task: Task, target: Callable[[], None]) -> None:
        try:
            target()
        except GreenletExit:
            pass
        except BaseException as failure:
            if isinstance(failure, self.survives) and not self.aborting:
                self.survived.append(failure.with_traceback(None))
            elif self.failure is None and not self.aborting:
                self.failure = failure
        task.done = True
        if not self.aborting:
            self._ready.remove(task)

    def _unwind(self) -> None:
        """End every task that is left, so that an execution leaves nothing behind."""
        self.aborting = True
        for task in self.tasks:
            if not task.done:
                self.current = task
                task.greenlet.throw(GreenletExit)
                task.done = True

    # -- what primitives call ----------------------------------------------------------------------------

    def point(self, op: str, subject: Subject) -> None:
        """Come to a choice point before doing `op` on `subject`; others may run first."""
        if self.aborting:
            return
        task = self.current
        # `publish`, `_pick` and `step` without their calls
        if not self.alone:
            if task.held or self.lockless_writes:
                self.data_history = hash((self.data_history, task.history))
            candidates = self._ready
            if len(candidates) > 1:
                choose = self._choose
                try:
                    at = choose(self, candidates, task)
                except (Abandoned, ScheduleError) as failure:
                    self.end(failure)
                self.schedule.append(at)
                chosen = candidates[at]
                if chosen is not task:
                    self.preemptions += 1
                    self._switch_to(chosen)
            task.history = subject.history = hash((task.history, op, subject.history, self.data_history))
        self.steps = steps = self.steps + 1
        if steps > self._steps_unnoted:
            self._note_step(task, op, subject)

    def block(
        self, subject: Subject, op: str, timeout_s: float | None = None, *, quiet: bool = False
    ) -> bool:
        """Stay until `wake` names the subject, or until the timer is picked; False for the timer."""
        if self.aborting:
            raise GreenletExit
        task = self.current
        task.op = op
        if task.held or self.lockless_writes:
            self.data_history = hash((self.data_history, task.history))
        task.waits_for = subject
        subject.waiters += 1
        task.wait_is_quiet = quiet
        if timeout_s is None:
            self._ready.remove(task)
        else:
            task.deadline_s = self.now_s + timeout_s if timeout_s > 0.0 else self.now_s
            if self.virtual:
                self._ready.remove(task)
        candidates = self._ready or self._last_resort()
        if not candidates:
            self._hub.switch()
        else:
            chosen = candidates[0] if len(candidates) == 1 else self._pick(candidates, None)
            if chosen is not task:
                self._switch_to(chosen)
        if task.waits_for is None:
            op = "wake"
        else:
            subject.waiters -= 1
            self._can_go_on(task)
            if task.deadline_s is not None and task.deadline_s > self.now_s:
                self.now_s = task.deadline_s
                self.publish(task)  # whoever looks at the clock from here on sees another time
            op = "wake" if quiet else "timeout"
        task.deadline_s = None
        task.wait_is_quiet = False
        # `step` without its call
        self.steps = steps = self.steps + 1
        if steps > self._steps_unnoted:
            self._note_step(task, op, subject)
        task.history = subject.history = hash((task.history, op, subject.history, self.data_history))
        return op == "wake"

    def wake(self, subject: Subject) -> None:
        """Let every task that waits for `subject` be picked; who comes first is a choice."""
        if subject.waiters:
            for task in self.tasks:
                if task.waits_for is subject:
                    self._can_go_on(task)
            subject.waiters = 0

    def draw(self, n: int) -> int:
        """Let the chooser draw from 0 .. n - 1: one more entry of the schedule."""
        if n == 1 or self.aborting:
            return 0
        try:
            value = self._chooser.draw(self, n)
        except (Abandoned, ScheduleError) as failure:
            self.end(failure)
        self.schedule.append(value)
        task = self.current
        task.history = hash((task.history, "draw", value))
        return value

    def note(self, text: str, subject: str, pfn: int, order: int) -> None:
        """Keep what was done to a block, if somebody wants the story."""
        if self.log is not None:
            self.log.append(LogEntry("page", self.current.number, text, subject, self.now_s, pfn, order))

    def tell(self, task: Task, text: str, subject: Subject) -> None:
        """Keep in words what a task did to something that is no step of its own."""
        if self.log is not None:
            self.log.append(LogEntry("step", task.number, text, subject.name, self.now_s))

    def fail(self, invariant: str, text: str) -> NoReturn:
        """End the execution: an invariant does not hold."""
        self.end(Violation(invariant, text))

    def end(self, failure: BaseException) -> NoReturn:
        """End the execution at once; every task is unwound without running on."""
        if self.failure is None:
            self.failure = failure
        self.aborting = True
        raise GreenletExit

    # -- choosing and switching --------------------------------------------------------------------------

    def _can_go_on(self, task: Task) -> None:
        """Let a task be picked that waited; one with a timer could be before."""
        task.waits_for = None
        ready = self._ready
        if task not in ready:
            if not ready or ready[-1].number < task.number:
                ready.append(task)
            else:
                insort(ready, task, key=_number)

    def _last_resort(self) -> list[Task]:
        """Find who can go on when nobody else can: a virtual world's earliest timer, or who waits for quiet."""
        if self.virtual:
            timed = [task for task in self.tasks if task.deadline_s is not None]
            if timed:
                return [min(timed, key=lambda task: task.deadline_s or 0.0)]
        return [task for task in self.tasks if task.wait_is_quiet]

    def _pick(self, candidates: list[Task], current: Task | None) -> Task:
        if len(candidates) == 1:
            return candidates[0]
        choose = self._choose
        try:
            at = choose(self, candidates, current)
        except (Abandoned, ScheduleError) as failure:
            self.end(failure)
        self.schedule.append(at)
        return candidates[at]

    def _switch_to(self, task: Task) -> None:
        self.switches += 1
        if self.log is not None and self.steps:
            self._log_switch(self.current, task)
        self.current = task
        task.greenlet.switch()
        if self.aborting:
            raise GreenletExit

    def _log_switch(self, task: Task, to: Task) -> None:
        if task.done:
            reason = "has ended"
        elif task.waits_for is not None:
            reason = f"waits: {task.op} {task.waits_for}"
        else:
            reason = "preempted"
        assert self.log is not None
        self.log.append(LogEntry("switch", task.number, reason, to.name, self.now_s))

    def step(self, task: Task, op: str, subject: Subject) -> None:
        """Account for a step that is about to happen, and judge the execution's length."""
        self.steps = steps = self.steps + 1
        if steps > self._steps_unnoted:
            self._note_step(task, op, subject)
        task.history = subject.history = hash((task.history, op, subject.history, self.data_history))

    def _note_step(self, task: Task, op: str, subject: Subject) -> None:
        if self.log is not None:
            self.log.append(LogEntry("step", task.number, op, subject.name, self.now_s))
        if self.steps > self._steps_max - LAST_STEPS:
            self._last_steps.append((task, f"{op} {subject.name}"))
        if self.steps > self._steps_max:
            self.fail("livelock", f"{self._steps_max} steps and no end: {self._describe_cycle()}")

    def publish(self, task: Task) -> None:
        """Account for what a task may have written under a lock, before anybody else can look at it."""
        self.data_history = hash((self.data_history, task.history))

    def give_up(self, task: Task, subject: Subject) -> None:
        """Let others see what a task wrote under a lock that it gives back, and have the lock."""
        if not self.alone:
            self.data_history = hash((self.data_history, task.history))
            if subject.waiters:
                self.wake(subject)

    def _describe_cycle(self) -> str:
        parts = []
        for task in self.tasks:
            steps = [step for who, step in self._last_steps if who is task]
            if steps:
                parts.append(f"{task.name} repeats {', '.join(shortest_cycle(steps))}")
        return "; ".join(parts)

    def _describe_waits(self, alive: list[Task]) -> str:
        waits = []
        for task in alive:
            subject = task.waits_for
            held = "".join(f" (held by {other.name})" for other in self.tasks if subject in other.held)
            waits.append(f"{task.name} waits for ever at {task.op} {subject}{held}")
        return "; ".join(waits)


def shortest_cycle(steps: list[str]) -> list[str]:
    """Return the shortest run of steps that the last ones repeat, or each step once if there is none."""
    for length in range(1, len(steps) // 2 + 1):
        if steps[-length:] == steps[-2 * length : -length]:
            return steps[-length:]
    return list(dict.fromkeys(steps))


class Subject:
    """Something that tasks operate on; its history is that of the operations so far. No class is made from this one."""

    __slots__ = ("history", "name", "waiters")

    def __init__(self, name: str) -> None:
        self.name = name
        self.history = hash(name)
        self.waiters = 0  # tasks that wait for it

    def __str__(self) -> str:
        return self.name
