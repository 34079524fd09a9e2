"""Lock order, judged from single chains: a deadlock that could happen is found without meeting it.

Locks belong to classes; all zone locks are one class, as in the kernel. Each "took B while holding A" is an
edge from A's class to B's, kept over all executions of a search. A cycle among the edges means that some
schedule deadlocks, even if none did yet. Two locks of one class may not be held together at all.
"""

from __future__ import annotations

from functools import cache

from stress.controlled.world import Task, World


@cache
def lock_class(name: str) -> str:
    """Return the class of a lock: its name up to the first blank."""
    return name.partition(" ")[0]


class Lockdep:
    """The order graph of lock classes."""

    def __init__(self) -> None:
        self.edges: dict[str, set[str]] = {}
        # Names of locks of which the second was taken after the first, and may be.
        self._fine: set[tuple[str, str]] = set()

    def acquired(self, world: World, task: Task, name: str) -> None:
        """Note that a task, with others held, took the lock of this name.

        Fails the execution when the order can deadlock.
        """
        for other in task.held:
            if (other.name, name) in self._fine:
                continue
            taken, before = lock_class(name), lock_class(other.name)
            if before == taken:
                world.fail("lockdep", f"{task.name} holds {other.name} and takes {name}: same class")
            if taken not in self.edges.setdefault(before, set()):
                if self._reaches(taken, before):
                    world.fail("lockdep", f"{task.name} takes {taken} after {before}; elsewhere before it")
                self.edges[before].add(taken)
            self._fine.add((other.name, name))

    def _reaches(self, start: str, goal: str) -> bool:
        seen, todo = set(), [start]
        while todo:
            at = todo.pop()
            if at == goal:
                return True
            if at not in seen:
                seen.add(at)
                todo += self.edges.get(at, ())
        return False
