"""What every execution does before anybody else is there: done once for all of them.

A scenario begins alone. It builds a machine, allocates and frees, and only then lets the worker and other tasks loose.
Until then there is nothing to choose, so what a step comes to depends on the steps before it and on nothing else: it
is taken once, with every look of the oracle, and whoever takes the same steps gets a copy of the machine behind them.

So a kit has no machine until somebody comes to it, by one of its cached properties. From then on nobody knows what else
is done to it, and every step is taken where it stands. So it is in an execution that is kept for its story, or that is
looked at with records, and in one with a user's own reporter, which may do things before it is registered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, wraps
from typing import Any, TypeVar, cast

from pagealloc.revision import Revision
from pagealloc.sync_real import RealSync
from pagealloc.zone import Zone
from stress.controlled.strategy import Replay
from stress.controlled.sync import ControlledSync
from stress.controlled.world import Violation, World
from stress.invariants.lists import copied
from stress.search.known import Known
from stress.search.machine import After, Machine, WatchedMemory
from stress.search.oracle import Oracle

Operation = TypeVar("Operation", bound=Callable[..., Any])


class Setup:
    """A machine that is made when somebody comes to it: a kit, as far as that goes."""

    # No `__getattr__`: CPython 3.11 reads every attribute of such a class the slow way.

    def __init__(self, world: World, revision: Revision, known: Known, *, records: bool = False) -> None:
        self.world = world
        self.revision = revision
        self.known = known
        self.sync = ControlledSync(world, known.lockdep)
        self.records = (
            records  # whether events are held against each other, too, and what is touched against locks
        )
        self.oracle = Oracle(self.sync, known, records=records)
        self.two_zones = False  # whether another zone stands below those that a scenario asks for
        self.resting: Machine | None = None  # a copy of it is to become the machine

    @cached_property
    def memory(self) -> WatchedMemory:
        self.make_machine()
        return self.memory

    @cached_property
    def zones(self) -> Sequence[Zone]:
        self.make_machine()
        return self.zones

    def make_machine(self) -> None:
        """Become what `resting` is, with all that is made late; nothing is resting any more."""
        raise NotImplementedError

    def copy(self, machine: Machine) -> None:
        """Have a memory as it is in a machine."""
        self.memory = machine.memory.twin(self.sync)
        self.zones = self.memory.zones[self.two_zones :]

    def take(self, operation: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Take a step, or have what it came to before."""
        before = self.resting
        assert before is not None, "nobody has come to the machine yet"
        step = operation.__name__, arguments, tuple(named.items()) if named else ()
        after = before.after.get(step)
        if after is None:
            after = self._take_apart(before, operation, arguments, named)
            if after is None:
                return operation(self, *arguments, **named)
            before.after[step] = after
            self.known.steps += 1
        self.resting = after.machine
        self.world.steps += after.points
        return copied(after.result)

    def _take_apart(
        self,
        before: Machine,
        operation: Callable[..., Any],
        arguments: tuple[Any, ...],
        named: dict[str, Any],
    ) -> After | None:
        """Take a step in a world and on a machine of its own; None if it fails there, or something is chosen."""
        world = World(Replay([]))
        kit = type(self)(world, self.revision, self.known)
        kit.two_zones = self.two_zones
        taken = []

        def main() -> None:
            kit.copy(before)
            kit.oracle.watch(kit.memory, before.judge)
            result = operation(kit, *arguments, **named)
            behind = Machine(kit.memory.twin(RealSync()), kit.oracle.judge)
            taken.append(After(result, world.steps, behind))

        try:
            world.run(main)
        except (Exception, SystemExit, Violation):
            return None
        finally:
            kit.close()
        return None if world.schedule else taken[0]

    def close(self) -> None:
        """Part those who know each other: what is left behind goes at once, without the garbage collector."""
        self.oracle.part()
        vars(self).clear()


def step_of_setup(operation: Operation) -> Operation:
    """Have a method of a kit taken once for all executions, as long as the scenario is alone with a fresh machine."""

    @wraps(operation)
    def step(kit: Setup, *arguments: Any, **named: Any) -> Any:
        if kit.resting is None or not kit.world.alone:
            return operation(kit, *arguments, **named)
        return kit.take(operation, arguments, named)

    return cast("Operation", step)
