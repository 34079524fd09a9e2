"""`Sync` in a controlled world: the same meaning as the real primitives, with every order a choice.

Points lie before an operation and, where others can see that something was given up, after it: between a
release and the task's next operation the product may peek at shared data without a lock, and somebody else
may have changed it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Generic, TypeVar

from greenlet import GreenletExit

from pagealloc.sync import Local, Rng
from pagealloc.sync_real import RealRng
from stress.controlled.lockdep import Lockdep
from stress.controlled.memory import StoreBuffers
from stress.controlled.world import Subject, Task, World

T = TypeVar("T")

RANDOM_STEPS = 4  # a real number drawn in [0, 1) is one of so many, so that searches can enumerate it


class ControlledLock:
    """A lock; `owner` is the task that holds it. Misuse is a violation, not an exception to be caught."""

    __slots__ = ("_lockdep", "on_release", "owner", "subject", "world")

    def __init__(self, world: World, name: str, lockdep: Lockdep | None = None) -> None:
        self.world = world
        self.subject = Subject(name)
        self.owner: Task | None = None
        self.on_release: Callable[[], None] | None = None  # looks at what the lock protects
        self._lockdep = lockdep

    def acquire(self, blocking: bool = True, /) -> bool:
        world = self.world
        task = world.current
        subject = self.subject
        world.point("acquire", subject)
        if self.owner is not None:
            if not blocking:
                return False
            self._wait(task)
        self.owner = task
        held = task.held
        if held and self._lockdep is not None and not world.aborting:
            self._lockdep.acquired(world, task, subject.name)
        held.append(subject)
        return True

    def _wait(self, task: Task) -> None:
        """Stay until nobody has the lock."""
        world = self.world
        if self.owner is task and not world.aborting:
            world.fail("deadlock", f"{task.name} acquires {self}, which it holds already")
        while self.owner is not None and not world.aborting:
            world.block(self.subject, "acquire")

    def release(self) -> None:
        world = self.world
        if world.aborting:
            return
        owner = self.owner
        if owner is None:
            raise RuntimeError(f"release of {self}, which nobody holds")
        look = self.on_release
        if look is not None:
            look()
        subject = self.subject
        self.owner = None
        owner.held.remove(subject)
        world.give_up(owner, subject)
        world.point("release", subject)

    def give_up(self) -> None:
        """Let others see what was written under the lock, and have it."""
        owner = self.owner
        assert owner is not None
        self.owner = None
        owner.held.remove(self.subject)
        self.world.give_up(owner, self.subject)

    def regain(self, task: Task) -> None:
        """Have the lock again, for a task that was woken: no point, for waking was one."""
        if self.owner is not None:
            self._wait(task)
        self.owner = task
        task.held.append(self.subject)
        if not self.world.aborting:
            self.world.step(task, "acquire", self.subject)

    def __str__(self) -> str:
        return self.subject.name

    def locked(self) -> bool:
        return self.owner is not None

    def owned(self) -> bool:
        return self.owner is self.world.current and not self.world.aborting

    __enter__ = acquire

    def __exit__(self, exc_type: object, exc: object, tb: object, /) -> None:
        self.release()


class ControlledCondition:
    """A condition variable, and its lock."""

    # It has a lock and is none, as all primitives have subjects: CPython reads an attribute the quick way where it
    # meets one class only, and all of them come by the same lines.
    __slots__ = ("_changed", "lock")

    def __init__(self, world: World, name: str, lockdep: Lockdep | None) -> None:
        self.lock = ControlledLock(world, f"lock of {name}", lockdep)
        self._changed = Subject(name)

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, exc_type: object, exc: object, tb: object, /) -> None:
        self.lock.release()

    def wait(self, timeout_s: float | None = None, /) -> bool:
        lock = self.lock
        world = lock.world
        task = world.current
        if lock.owner is not task:
            self._refuse("wait for")
        if world.aborting:
            raise GreenletExit
        lock.give_up()
        notified = world.block(self._changed, "wait", timeout_s)
        lock.regain(task)
        return notified

    def sleepers(self) -> list[Task]:
        """Return the tasks that wait here and were not woken."""
        if not self._changed.waiters:
            return []
        return [task for task in self.lock.world.tasks if task.waits_for is self._changed]

    def notify_all(self) -> None:
        lock = self.lock
        if lock.owner is not lock.world.current:
            self._refuse("notify")
        lock.world.wake(self._changed)

    def _refuse(self, what: str) -> None:
        if not self.lock.world.aborting:
            raise RuntimeError(f"{what} {self._changed.name} without its lock")


class ControlledEvent:
    """A flag that tasks wait for."""

    __slots__ = ("flag", "subject", "world")

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.subject = Subject(name)
        self.flag = False

    def is_set(self) -> bool:
        self.world.point("is_set", self.subject)
        return self.flag

    def set(self) -> None:
        self.world.point("set", self.subject)
        self.flag = True
        self.world.wake(self.subject)

    def clear(self) -> None:
        self.world.point("clear", self.subject)
        self.flag = False

    def wait(self, timeout_s: float | None = None, /) -> bool:
        self.world.point("wait", self.subject)
        # Who was woken was told so, although the flag may be down again by now.
        return self.flag or self.world.block(self.subject, "wait", timeout_s)


class ControlledAtomic:
    """`atomic_t`: each operation is one step."""

    __slots__ = ("subject", "value", "world")

    def __init__(self, world: World, name: str, value: int) -> None:
        self.world = world
        self.subject = Subject(name)
        self.value = value

    def load(self) -> int:
        self.world.point("load", self.subject)
        return self.value

    def store(self, value: int, /) -> None:
        self.world.point("store", self.subject)
        self.value = value

    def xchg(self, value: int, /) -> int:
        self.world.point("xchg", self.subject)
        old, self.value = self.value, value
        return old

    def cmpxchg(self, old: int, new: int, /) -> int:
        self.world.point("cmpxchg", self.subject)
        found = self.value
        if found == old:
            self.value = new
        return found

    def add(self, delta: int, /) -> int:
        self.world.point("add", self.subject)
        self.value += delta
        return self.value


class BufferedAtomic(ControlledAtomic):
    """An atomic whose plain stores may wait in the storing task's buffer."""

    __slots__ = ()

    world: StoreBuffers

    def load(self) -> int:
        self.world.point("load", self.subject)
        own = self.world.buffered(self.subject)
        return self.value if own is None else own

    def store(self, value: int, /) -> None:
        self.world.point("store", self.subject)
        self.world.store(self.subject, value, self._write)

    def _write(self, value: int) -> None:
        self.value = value


class ControlledThread:
    """A task, seen from others."""

    __slots__ = ("_subject", "_task", "_world")

    def __init__(self, world: World, task: Task, subject: Subject) -> None:
        self._world = world
        self._task = task
        self._subject = subject

    @property
    def name(self) -> str:
        return self._task.name

    def is_alive(self) -> bool:
        return not self._task.done

    def join(self, timeout_s: float | None = None, /) -> bool:
        self._world.point("join", self._subject)
        if not self._task.done:
            self._world.block(self._subject, "join", timeout_s)
        return self._task.done


class ControlledLocal(Generic[T]):
    """One value for each task, retired when the task ends."""

    __slots__ = ("_make", "_retire", "_sync", "_values")

    def __init__(self, sync: ControlledSync, make: Callable[[], T], retire: Callable[[T], None]) -> None:
        self._sync = sync
        self._make = make
        self._retire = retire
        self._values: dict[int, T] = {}

    @property
    def value(self) -> T:
        number = self._sync.world.current.number
        if number not in self._values:
            self._values[number] = self._make()
            self._sync.at_exit.setdefault(number, []).append(self._exit)
        return self._values[number]

    def _exit(self, number: int) -> None:
        self._retire(self._values.pop(number))


class ControlledRng:
    """Draws are entries of the schedule; a seed has no meaning here."""

    __slots__ = ("_world",)

    def __init__(self, world: World) -> None:
        self._world = world

    def random(self) -> float:
        return (self._world.draw(RANDOM_STEPS) + 0.5) / RANDOM_STEPS

    def choose(self, n: int) -> int:
        return self._world.draw(n)


class ControlledSync:
    """The `Sync` of one execution.

    With a `lockdep` the rules of locking are judged: their order, and that nobody sleeps with a spinlock held.
    It may be shared by many executions: it remembers orders, not locks.
    """

    def __init__(self, world: World, lockdep: Lockdep | None = None) -> None:
        self.world = world
        self._lockdep = lockdep
        self.at_exit: dict[int, list[Callable[[int], None]]] = {}
        self.spinlocks: list[ControlledLock] = []
        self._clock = Subject("clock")

    def spinlock(self, name: str) -> ControlledLock:
        lock = ControlledLock(self.world, name, self._lockdep)
        self.spinlocks.append(lock)
        return lock

    def mutex(self, name: str) -> ControlledLock:
        return ControlledLock(self.world, name, self._lockdep)

    def condition(self, name: str) -> ControlledCondition:
        return ControlledCondition(self.world, name, self._lockdep)

    def event(self, name: str) -> ControlledEvent:
        return ControlledEvent(self.world, name)

    def atomic(self, name: str, value: int) -> ControlledAtomic:
        if isinstance(self.world, StoreBuffers):
            return BufferedAtomic(self.world, name, value)
        return ControlledAtomic(self.world, name, value)

    def local(self, make: Callable[[], T], retire: Callable[[T], None]) -> Local[T]:
        return ControlledLocal(self, make, retire)

    def spawn(self, name: str, target: Callable[[], None]) -> ControlledThread:
        subject = Subject(f"thread {name}")

        def body() -> None:
            try:
                target()
                for leave in self.at_exit.pop(task.number, ()):
                    leave(task.number)
                if task.held and self._lockdep is not None and not self.world.aborting:
                    held = ", ".join(map(str, task.held))
                    self.world.fail("lockdep", f"{task.name} has ended and holds {held}")
            finally:
                self.world.wake(subject)

        task = self.world.spawn(name, body)
        return ControlledThread(self.world, task, subject)

    def sleep(self, seconds: float) -> None:
        task = self.world.current
        if task.held and self._lockdep is not None and any(lock.owner is task for lock in self.spinlocks):
            self.world.fail("S9", f"{task.name} sleeps while it holds a zone lock")
        self.world.block(self._clock, "sleep", seconds)

    def await_idle(self) -> None:
        """Stay until no other task can go on and no timer is armed."""
        self.world.block(self._clock, "await idle", quiet=True)

    def monotonic(self) -> float:
        return self.world.now_s

    def monotonic_ns(self) -> int:
        return round(self.world.now_s * 1e9)

    def wall_clock(self) -> float:
        return self.world.now_s

    def thread_name(self) -> str:
        return self.world.current.name

    def frame(self, depth: int, /) -> FrameType:
        return sys._getframe(depth + 1)  # noqa: SLF001 - the one way that costs no traceback

    def rng(self, seed: int, stream: str = "") -> Rng:
        """Return a stream that the schedule decides; in a virtual world, where nobody searches, the seed's."""
        return RealRng(seed, stream) if self.world.virtual else ControlledRng(self.world)
