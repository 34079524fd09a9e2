"""Store buffers: what x86 and Arm allow, and sequential consistency hides.

A processor may keep a plain store to itself for a while: it reads its own new value, all others the old one. In
a world of `StoreBuffers` a `store` to an atomic (the kernel's `atomic_set`) may wait in its task's buffer until
the task's next full barrier: an acquired lock, `xchg`, `cmpxchg`, `add`. Giving a lock back lets nothing wait
either, since whoever gets the lock next sees all that was stored before (release), and nor does a task that
stops to wait: a context switch is a barrier. Stores leave a buffer in the order in which they came (total store
order).

Whether a store waits is drawn, an entry of the schedule like any other; what waits is taken into the task's
history and what drains into the atomic's, so that two executions count as equal only if their buffers are.

A store waits until the barrier or not at all: one that drains at a moment of its own in between is not
explored.
"""

from __future__ import annotations

from collections.abc import Callable

from stress.controlled.world import Chooser, Subject, Task, World

Store = tuple[Subject, int, Callable[[int], None]]  # where, the value, and what writes it for all to see

# What leaves a task's buffer as it is; all else that a task does to others is a full barrier, or stronger.
NO_BARRIER = frozenset({"load", "store", "tick", "tell", "read", "write", "is_set"})


class StoreBuffers(World):
    """A world in which plain stores may wait."""

    memory = "tso"

    def __init__(self, chooser: Chooser, *, virtual: bool = False, log: bool = False) -> None:
        super().__init__(chooser, virtual=virtual, log=log)
        self._buffers: dict[int, list[Store]] = {}  # what waits, by the task's number, the oldest first

    def point(self, op: str, subject: Subject) -> None:
        super().point(op, subject)
        if op not in NO_BARRIER:
            self.drain(self.current)

    def block(
        self, subject: Subject, op: str, timeout_s: float | None = None, *, quiet: bool = False
    ) -> bool:
        self.drain(self.current)
        return super().block(subject, op, timeout_s, quiet=quiet)

    def publish(self, task: Task) -> None:
        self.drain(task)
        super().publish(task)

    def give_up(self, task: Task, subject: Subject) -> None:
        self.drain(task)
        super().give_up(task, subject)

    def wake(self, subject: Subject) -> None:
        self.drain(self.current)  # whoever is woken, also by a task's end, sees what was stored before
        super().wake(subject)

    def store(self, subject: Subject, value: int, write: Callable[[int], None]) -> None:
        """Store a value, now or, by choice, when the running task's buffer drains."""
        task = self.current
        if not self.draw(2):
            self.drain(task)  # no store overtakes another one
            write(value)
            return
        self._buffers.setdefault(task.number, []).append((subject, value, write))
        if self.log is not None:
            self.tell(task, f"leaves {value} in the store buffer of {task.name}, for", subject)

    def buffered(self, subject: Subject) -> int | None:
        """Return the value of the running task's own last store that waits, if there is one."""
        for stored, value, _ in reversed(self._buffers.get(self.current.number, ())):
            if stored is subject:
                return value
        return None

    def drain(self, task: Task) -> None:
        """Let all others see what waits in a task's buffer."""
        waiting = self._buffers.get(task.number)
        if not waiting or self.aborting:
            return
        stores, waiting[:] = waiting[:], []
        for subject, value, write in stores:
            write(value)
            self.step(task, "drains the store to", subject)
