"""Who makes the choices of an execution.

A strategy makes a chooser for each execution and hears how it went. It says what it covered: that is the
difference between "nothing was found" and "there is nothing".
"""

from __future__ import annotations

from typing import Protocol

from pagealloc.sync import Rng
from pagealloc.sync_real import RealRng
from stress.controlled.world import Abandoned, Chooser, ScheduleError, Task, World


class Strategy(Protocol):
    """A source of executions."""

    name: str
    executions: int
    complete: bool  # whether every schedule within its bounds was executed, or found equal to one that was

    def begin(self) -> Chooser | None:
        """Return the chooser of the next execution, or None when there is nothing left to try."""
        ...

    def end(self, world: World) -> None:
        """Hear of the execution that the last chooser made."""
        ...

    def covered(self) -> str:
        """Say what all executions so far amount to."""
        ...


class Replay:
    """Chooses what a schedule says. Raises ScheduleError where the schedule does not fit.

    Beyond the schedule's end the current task goes on, or the first that can.
    """

    def __init__(self, schedule: list[int]) -> None:
        self._schedule = schedule
        self._at = 0

    @property
    def left(self) -> int:
        """Entries that were not asked for."""
        return len(self._schedule) - self._at

    def pick(self, world: World, candidates: list[Task], current: Task | None) -> int:
        if self._at < len(self._schedule):
            at = self._next()
            if at < len(candidates):
                return at
            raise ScheduleError(f"entry {self._at} of the schedule picks task {at} of {len(candidates)}")
        return stay(candidates, current)

    def draw(self, world: World, n: int) -> int:
        if self._at < len(self._schedule):
            value = self._next()
            if value < n:
                return value
            raise ScheduleError(f"entry {self._at} of the schedule draws {value} of {n}")
        return 0

    def _next(self) -> int:
        self._at += 1
        return self._schedule[self._at - 1]


def stay(candidates: list[Task], current: Task | None) -> int:
    """Return the position of the current task, or of the first candidate whose timer need not fire."""
    if current is not None:
        return candidates.index(current)
    for at, task in enumerate(candidates):
        if task.waits_for is None:
            return at
    return 0


class RandomWalk:
    """Every candidate is as likely as every other, at every point."""

    def __init__(self, seed: int) -> None:
        self.name = "random"
        self.complete = False
        self._random = RealRng(seed).random
        self.executions = 0

    def begin(self) -> Chooser:
        return self

    def end(self, world: World) -> None:
        self.executions += 1

    def covered(self) -> str:
        return f"random: {self.executions} executions"

    def pick(self, world: World, candidates: list[Task], current: Task | None) -> int:
        random = self._random  # an attribute is called twice as quickly by a local name
        return int(random() * len(candidates))

    def draw(self, world: World, n: int) -> int:
        return int(self._random() * n)


class Pct:
    """Probabilistic concurrency testing (Burckhardt et al., ASPLOS 2010).

    Tasks get random priorities, and the highest that can go on does; at depth - 1 random steps the running
    task falls below all others. A bug of that depth in a program of n tasks and k choices is hit by one
    execution with probability 1 / (n * k**(depth - 1)) at least. k is measured, the longest execution so far,
    so the figure that is printed is an estimate. A task that waits for a timer falls back too, every other
    time: a timer that fires late is likely, one that never fires would hide what comes after it.
    """

    def __init__(self, seed: int, depth: int) -> None:
        self.name = f"pct(depth={depth})"
        self.complete = False
        self._depth = depth
        self._rng: Rng = RealRng(seed)
        self.executions = 0
        self._choices_max = 50
        self._tasks_max = 1
        self._priorities: dict[int, float] = {}
        self._change_points: dict[int, int] = {}
        self._choices = 0

    def begin(self) -> Chooser:
        self._priorities = {}
        self._choices = 0
        self._change_points = {self._rng.choose(self._choices_max): n for n in range(self._depth - 1)}
        return self

    def end(self, world: World) -> None:
        self.executions += 1
        self._choices_max = max(self._choices_max, self._choices)
        self._tasks_max = max(self._tasks_max, len(world.tasks))

    def covered(self) -> str:
        odds = self._tasks_max * self._choices_max ** (self._depth - 1)
        missed = (1 - 1 / odds) ** self.executions
        return (
            f"{self.name}: {self.executions} executions, n = {self._tasks_max}, k = {self._choices_max}: a bug of "
            f"depth {self._depth} is missed with probability {missed:.2g} or so"
        )

    def pick(self, world: World, candidates: list[Task], current: Task | None) -> int:
        priorities = self._priorities
        if current is not None and self._choices in self._change_points:
            priorities[current.number] = -1.0 - self._change_points[self._choices]
        self._choices += 1
        best, best_priority = 0, -1e9
        for at, task in enumerate(candidates):
            priority = priorities.get(task.number)
            if priority is None:
                priority = priorities[task.number] = 1.0 + self._rng.random()
            if task.waits_for is not None and self._rng.random() < 0.5:
                priority -= 1000.0
            if priority > best_priority:
                best, best_priority = at, priority
        return best

    def draw(self, world: World, n: int) -> int:
        return self._rng.choose(n)


class _Choice:
    """One entry of the path that a depth-first search is on."""

    __slots__ = ("at", "options")

    def __init__(self, options: list[int]) -> None:
        self.options = options
        self.at = 0


class DepthFirst:
    """Every schedule with at most `preemptions` preemptions, each once.

    A preemption takes the processor from a task that could have gone on; switches at a wait are free, and
    so are drawn numbers. An execution is given up as soon as its history, the task that runs and the
    preemptions used so far were met before: what follows from there was explored then.
    """

    def __init__(self, preemptions: int) -> None:
        self.name = f"dfs(preemptions={preemptions})"
        self.complete = False
        self._bound = preemptions
        self._path: list[_Choice] = []
        self._depth = 0
        self._seen: dict[tuple[int, int, int], int] = {}
        self.executions = 0
        self._pruned = 0
        self._started = False

    def begin(self) -> Chooser | None:
        if self._started:
            while self._path and self._path[-1].at + 1 >= len(self._path[-1].options):
                self._path.pop()
            if not self._path:
                self.complete = True
                return None
            self._path[-1].at += 1
        self._started = True
        self._depth = 0
        return self

    def end(self, world: World) -> None:
        self.executions += 1
        if isinstance(world.failure, Abandoned):
            self._pruned += 1

    def covered(self) -> str:
        how_many = f"all {self.executions}" if self.complete else f"the first {self.executions}"
        return (
            f"dfs: {how_many} schedules with at most {self._bound} preemptions, "
            f"{self._pruned} of them only up to a state met before"
        )

    def pick(self, world: World, candidates: list[Task], current: Task | None) -> int:
        if self._depth < len(self._path):
            return self._follow()
        running = -1 if current is None else current.number
        key = (world.history, world.data_history, running)
        used = self._seen.get(key)
        if used is not None and used <= world.preemptions:
            raise Abandoned
        self._seen[key] = world.preemptions
        first = stay(candidates, current)
        options = [first]
        if current is None or world.preemptions < self._bound:
            options += [at for at in range(len(candidates)) if at != first]
        return self._extend(options)

    def draw(self, world: World, n: int) -> int:
        if self._depth < len(self._path):
            return self._follow()
        return self._extend(list(range(n)))

    def _follow(self) -> int:
        choice = self._path[self._depth]
        self._depth += 1
        return choice.options[choice.at]

    def _extend(self, options: list[int]) -> int:
        self._path.append(_Choice(options))
        self._depth += 1
        return options[0]


class Portfolio:
    """One strategy after the other, each with a share: no single one finds everything.

    First every schedule with one and then two preemptions, as far as the share goes; then random walks and
    PCT of growing depth in turn, for what needs more switches.
    """

    def __init__(self, seed: int, executions: int, preemptions: int) -> None:
        self.name = "portfolio"
        self._bounded = [DepthFirst(bound) for bound in range(1, preemptions + 1)]
        self._turns: list[Strategy] = [RandomWalk(seed), Pct(seed + 1, 2), Pct(seed + 2, 3), Pct(seed + 3, 5)]
        self._share = max(1, executions // (2 * max(1, len(self._bounded))))
        self.executions = 0
        self.complete = False
        self._now: Strategy = self._turns[0]

    def begin(self) -> Chooser | None:
        at = self.executions // self._share
        if at < len(self._bounded):
            self._now = self._bounded[at]
            chooser = self._now.begin()
            if chooser is not None:
                return chooser
            if self._now.executions == 1:  # nothing was there to choose
                self.complete = True
                return None
            self.executions = (at + 1) * self._share
            return self.begin()
        self._now = self._turns[self.executions % len(self._turns)]
        return self._now.begin()

    def end(self, world: World) -> None:
        self.executions += 1
        self._now.end(world)

    def covered(self) -> str:
        return "; ".join(one.covered() for one in [*self._bounded, *self._turns] if one.executions)

    @property
    def found_by(self) -> str:
        """The name of the strategy that made the last execution."""
        return self._now.name


def make_strategy(name: str, seed: int, executions: int, preemptions: int, depth: int = 3) -> Strategy:
    """Make a strategy by name: dfs, pct, random or portfolio. Raises ValueError for another name."""
    if name == "dfs":
        return DepthFirst(preemptions)
    if name == "pct":
        return Pct(seed, depth)
    if name == "random":
        return RandomWalk(seed)
    if name == "portfolio":
        return Portfolio(seed, executions, preemptions)
    raise ValueError(f"strategy {name!r}, expected dfs, pct, random or portfolio")
