"""Many executions of one scenario: searched until one fails.

Executions know nothing of each other but what changes no verdict (see `known`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from traceback import extract_tb

from greenlet import greenlet

from pagealloc import revision
from pagealloc.revision import Revision
from pagealloc.sync_real import RealSync
from stress.controlled.memory import StoreBuffers
from stress.controlled.shrink import shrink
from stress.controlled.strategy import Portfolio, Replay, Strategy
from stress.controlled.world import Abandoned, Chooser, Coroutines, ScheduleError, Violation, World
from stress.mutants import planted
from stress.search.kit import Kit
from stress.search.known import Known
from stress.search.scenarios import SCENARIOS, Body
from stress.search.trial import Trial

# What becomes of a plain store: all see it at once, or it may wait in its task's store buffer.
MEMORY_MODELS: dict[str, type[World]] = {"sc": World, "tso": StoreBuffers}

# What may be broken in an execution with records only: they contradict each other, or a field is touched without its
# lock. (What other executions see of lock order is executed with records once more, too.)
LOOKED_FOR = ("log", "lockdep")


@dataclass(frozen=True, slots=True)
class Failure:
    """An execution that broke an invariant: what, and the schedule that does it again."""

    scenario: str
    preset: str
    mutant: str | None
    memory: str
    invariant: str
    text: str
    schedule: list[int]
    switches: int


@dataclass(slots=True)
class Result:
    """What a search came to."""

    scenario: str
    preset: str
    executions: int = 0
    steps: int = 0
    seconds: float = 0.0
    distinct: int = 0
    complete: bool = False
    covered: str = ""
    found_by: str = ""
    failure: Failure | None = None
    first_switches: int = 0
    histories: set[int] = field(default_factory=set, repr=False)


class Program:
    """A scenario bound to a revision, to be executed again and again.

    Its machine boots once, in the first execution: a fault that shows at boot is planted before that.
    """

    def __init__(
        self,
        name: str,
        body: Body,
        kernel: Revision,
        reporter: Trial | None = None,
        memory: str = "sc",
    ) -> None:
        self.name = name
        self.revision = kernel
        self.reporter = reporter
        self.memory = memory
        self._body = body
        self._known = Known()
        self._coroutines: Coroutines | None = None

    @property
    def preset(self) -> str:
        """The name that `pagealloc.revision.preset` knows the revision by."""
        return self.revision.name + (revision.WITH_BARRIER if self.revision.full_barrier else "")

    @contextmanager
    def reusing(self) -> Iterator[None]:
        """Let all executions of this block share their coroutines, which end with it."""
        self._coroutines = Coroutines()
        try:
            yield
        finally:
            self._coroutines.close()
            self._coroutines = None

    def execute(
        self,
        chooser: Chooser,
        *,
        log: bool = False,
        records: bool = False,
        world_class: type[World] | None = None,
    ) -> World:
        """Execute once; `world.failure` tells how it ended (None, Abandoned, or a violation).

        With `records`, what tracepoints tell of one event is held against what they tell of others, and what is touched
        against the locks that are held.
        """
        world = (world_class or MEMORY_MODELS[self.memory])(chooser, log=log)
        if self._coroutines is not None and world.coroutine is greenlet:
            world.coroutine = self._coroutines
        self._known.trim()
        kit = Kit(world, self.revision, self._known, records=records)
        if self.reporter is not None:
            kit.reporter = self.reporter()
        try:
            world.run(lambda: self._body(kit))
        except ScheduleError:
            raise
        except (Abandoned, Violation) as failure:
            failure.with_traceback(None)  # it knows the world, which knows the failure
        except (Exception, SystemExit) as error:
            # An assertion, an exception or an exit of the product is a finding like any other.
            where = extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            world.failure = Violation("exception", f"{type(error).__name__}: {error} ({place})")
        finally:
            kit.close()
        return world


def program(scenario: str, preset: str, reporter: Trial | None = None, memory: str = "sc") -> Program:
    """Bind a scenario to a preset and a memory model. Raises KeyError for unknown names."""
    return Program(scenario, SCENARIOS[scenario].body, revision.preset(preset), reporter, memory)


def explore(subject: Program, strategy: Strategy, executions: int, mutant: str | None = None) -> Result:
    """Execute up to `executions` schedules; stops at the first violation and shrinks it.

    The first whole execution's records are held against each other, and what it touches against the locks that it
    holds: what is wrong there is wrong in nearly every execution, and to hear of each takes time. It is told in the
    end, if nothing else is found by then.
    """
    sync = RealSync()
    result = Result(subject.name, subject.preset)
    begin_s = sync.monotonic()
    looked_for: World | None = None
    looked = False
    with planted(mutant), subject.reusing():
        while result.executions < executions:
            chooser = strategy.begin()
            if chooser is None:
                break
            world = subject.execute(chooser, records=not looked)
            looked = looked or not isinstance(world.failure, Abandoned)  # it came to an end
            strategy.end(world)
            result.executions += 1
            result.steps += world.steps
            if isinstance(world.failure, Violation):
                result.found_by = strategy.found_by if isinstance(strategy, Portfolio) else strategy.name
            if _is_looked_for(world):
                looked_for, again = world, _without_records(subject, world)
                if again is None:
                    continue
                world = again
            if isinstance(world.failure, Violation):
                looked_for = None
                result.failure = _simplest(subject, world, mutant, result)
                break
            if world.failure is None:
                result.histories.add(world.history)
        if looked_for is not None:
            result.failure = _simplest(subject, looked_for, mutant, result)
    result.seconds = sync.monotonic() - begin_s
    result.distinct = len(result.histories)
    result.complete = strategy.complete
    result.covered = f"{strategy.covered()}; {result.distinct} distinct interleavings"
    return result


def _without_records(subject: Program, world: World) -> World | None:
    """Execute a schedule once more; None for code that takes other steps then."""
    try:
        return subject.execute(Replay(world.schedule))
    except ScheduleError:
        return None


def _is_looked_for(world: World) -> bool:
    return isinstance(world.failure, Violation) and world.failure.invariant in LOOKED_FOR


def _simplest(subject: Program, world: World, mutant: str | None, result: Result) -> Failure:
    """Shrink an execution that broke an invariant."""
    result.first_switches = world.switches
    simplest = shrink(partial(subject.execute, records=_is_looked_for(world)), world)
    assert isinstance(simplest.failure, Violation)
    return Failure(
        subject.name,
        subject.preset,
        mutant,
        subject.memory,
        simplest.failure.invariant,
        simplest.failure.text,
        simplest.schedule,
        simplest.switches,
    )
