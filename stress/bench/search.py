"""How fast schedules are executed, and what coroutines are worth against threads that pass a baton.

All figures come from one process and one run, interleaved, so that a noisy machine disturbs them alike; the
ratio is what counts. The program named *locks* is the scheduler alone: three tasks and a lock. *protocol* is
a scenario with the allocator, the worker and every invariant, in one process, and in one for each processor
as `explore` uses them. One process is timed by the processor time that it used, like everything here that runs on one
thread; against threads, and in several processes, the clock counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from statistics import median
from typing import NamedTuple, cast

from greenlet import greenlet

from pagealloc.revision import PRESETS
from pagealloc.sync_real import RealSync
from stress.bench.measure import Row, compare, processor_seconds
from stress.controlled.strategy import RandomWalk
from stress.controlled.world import World
from stress.pool import worker_processes
from stress.search.explore import Program
from stress.search.kit import Kit
from stress.search.scenarios import SCENARIOS

ROUNDS = 5
EXECUTIONS = {"locks": 2000, "protocol": 1000}
LOCK_ROUNDS = 13  # of an acquire and a release, in each of three tasks: 78 points
# 81 points, the boot of the machine not counted. Of these 26 come before the worker, and only the first execution of a
# search takes them (`stress.search.setup`).
PROTOCOL = "every-call-may-fail"
GOALS_PER_SECOND = {"locks": 5000, "protocol": 6000}
GOAL_RATIO = 3.0


class Baton:
    """A thread that runs only while it has the baton: what a greenlet is, on threads (as far as `World` goes)."""

    _sync = RealSync()
    _current: Baton

    def __init__(self, run: Callable[[], None] | None, parent: Baton | None = None) -> None:
        self._run = run
        self._parent = parent
        self._turn: SimpleQueue[None] = SimpleQueue()  # no lock, which only its owner can give back
        self._thrown: type[BaseException] | None = None
        self._started = run is None
        self.dead = False

    @classmethod
    def current(cls) -> Baton:
        """Return who has the baton; the first who asks is the hub."""
        if not hasattr(cls, "_current"):
            cls._current = Baton(None)
        return cls._current

    def switch(self) -> None:
        """Hand the baton over, and wait to get it back."""
        mine = Baton._current
        Baton._current = self
        if self._started:
            self._turn.put(None)
        else:
            self._started = True
            self._sync.spawn("baton", self._live)
        mine._turn.get()  # noqa: SLF001 - one of us
        if mine._thrown is not None:  # noqa: SLF001
            raise mine._thrown  # noqa: SLF001

    def throw(self, error: type[BaseException]) -> None:
        """Have the other one raise an exception where it waits."""
        if not self._started:
            self.dead = True
            return
        self._thrown = error
        self.switch()

    def _live(self) -> None:
        assert self._run is not None
        assert self._parent is not None
        self._run()
        self.dead = True
        Baton._current = self._parent
        self._parent._turn.put(None)  # noqa: SLF001


class ThreadWorld(World):
    """The same world, on threads."""

    coroutine = cast("type[greenlet]", Baton)
    running = cast("Callable[[], greenlet]", staticmethod(Baton.current))


def _locks(kit: Kit) -> None:
    lock = kit.sync.spinlock("zone->lock bench")

    def work() -> None:
        for _ in range(LOCK_ROUNDS):
            lock.acquire()
            lock.release()

    for name in ("a", "b", "c"):
        kit.sync.spawn(name, work)


class Measured(NamedTuple):
    """What some random walks came to, per second of the clock and of this thread's processor time."""

    per_second: float
    per_processor_second: float
    points: float  # of one execution


def _measure(program: Program, world_class: type[World], executions: int, seed: int) -> Measured:
    sync = RealSync()
    walk = RandomWalk(seed)
    steps = 0
    begin_s, begin_processor_s = sync.monotonic(), processor_seconds()
    with program.reusing():
        for _ in range(executions):
            steps += program.execute(walk, world_class=world_class).steps
    return Measured(
        executions / (sync.monotonic() - begin_s),
        executions / (processor_seconds() - begin_processor_s),
        steps / executions,
    )


def run_bench() -> list[Row]:
    """Measure, in turn and several times; returns the rows."""
    revision = PRESETS["v6.1"]
    programs = {
        "locks": Program("locks", _locks, revision),
        "protocol": Program(PROTOCOL, SCENARIOS[PROTOCOL].body, revision),
    }
    kinds: list[tuple[str, type[World], int]] = [
        ("locks", World, EXECUTIONS["locks"]),
        ("locks", ThreadWorld, EXECUTIONS["locks"] // 10),
        ("protocol", World, EXECUTIONS["protocol"]),
        ("protocol", ThreadWorld, EXECUTIONS["protocol"] // 10),
    ]
    figures: dict[tuple[str, type[World]], list[Measured]] = {}
    for seed in range(ROUNDS):
        for name, world_class, executions in kinds:
            figure = _measure(programs[name], world_class, executions, seed)
            figures.setdefault((name, world_class), []).append(figure)
    rows = [row for name in programs for row in _rows(name, partial(_of, figures, name))]
    points = median(measured.points for measured in figures["protocol", World])
    return [*rows, _on_all_processors(points)]


def _protocol_part(seed: int) -> None:
    program = Program(PROTOCOL, SCENARIOS[PROTOCOL].body, PRESETS["v6.1"])
    _measure(program, World, EXECUTIONS["protocol"], seed)


def _on_all_processors(points: float) -> Row:
    """Measure the protocol in as many processes as there are processors, all of them busy from the start."""
    processes = os.cpu_count() or 1
    sync = RealSync()
    rates = []
    with worker_processes(processes) as executor:
        list(executor.map(_protocol_part, range(processes)))  # the processes have started, and are warm
        for round_ in range(ROUNDS):
            begin_s = sync.monotonic()
            list(executor.map(_protocol_part, [round_ * processes + part for part in range(processes)]))
            rates.append(processes * EXECUTIONS["protocol"] / (sync.monotonic() - begin_s))
    return _row("protocol", rates, points, f" in {processes} processes")


def _of(
    figures: dict[tuple[str, type[World]], list[Measured]], name: str, world_class: type[World]
) -> list[Measured]:
    return figures[name, world_class]


def _rows(name: str, of: Callable[[type[World]], list[Measured]]) -> list[Row]:
    rates = [measured.per_processor_second for measured in of(World)]
    points = median(measured.points for measured in of(World))
    return [
        _row(name, rates, points),
        compare(
            f"schedule search: {name}: coroutines against a baton",
            [measured.per_second for measured in of(World)],
            [measured.per_second for measured in of(ThreadWorld)],
            goal=GOAL_RATIO,
            unit="executions/s",
            against="threads that pass a baton",
            figures={"points per execution": points},
        ),
    ]


def _row(name: str, rates: list[float], points: float, where: str = "") -> Row:
    """Make the row of a rate that is held against the goal, the one absolute figure of the benchmark."""
    per_second = GOALS_PER_SECOND[name]
    return compare(
        f"schedule search: {name}: executions per second{where}, of {per_second}",
        rates,
        [per_second] * len(rates),
        goal=1.0,
        unit="executions/s",
        against="goal",
        figures={"points per execution": points},
    )
