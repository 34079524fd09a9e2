"""The real world: operating system threads, `threading` locks and the machine's clock.

The zone lock has two disciplines. On an interpreter with a global lock (GIL), a thread that parks in
`Lock.acquire` is woken owning the zone lock but not the GIL, so the running thread meets a held lock at
its next operation and every operation from then on costs two context switches: the *lock convoy*, worth a
factor of eight with eight threads. `SpinLock` therefore never parks at first: it tries, yields the
processor, and tries again, which is also what a kernel spinlock does. Without a GIL the interpreter's own
lock already spins, and the plain `threading.Lock` is quicker.
"""

from __future__ import annotations

import _thread
import inspect
import os
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from pagealloc.fork import belongs_to_this_process
from pagealloc.sync import Local, Lock

T = TypeVar("T")

# A holder that has not come back after so many yields is asleep or switched out for long: waiting for it
# in `acquire` costs less than burning the processor it may need.
YIELDS_BEFORE_PARKING = 2000

_sched_yield: Callable[[], None] = getattr(os, "sched_yield", lambda: time.sleep(0))


def thread_names() -> dict[int, str]:
    """Return the names of all threads, by the numbers that `sys._current_frames` knows them by."""
    return {thread.ident: thread.name for thread in threading.enumerate() if thread.ident is not None}


def gil_enabled() -> bool:
    """Whether this interpreter runs one thread of Python code at a time."""
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def _nothing_else() -> None:
    """Do nothing."""


def _holds_told(lock: object) -> int:
    """Return how often a lock's owner has it, by what it says of itself; 3.11.2 of Debian 12 has no other way."""
    return int(repr(lock).partition("count=")[2].partition(" ")[0])


class SpinLock:
    """A lock taken by trying and yielding; it parks only when the holder stays away.

    `try_once` is the inner lock's own `acquire`: `try_once(False)` tries without the cost of a Python call, and
    lets the owner in once more. Who comes back into his own operation must look where he is (`zone_lock`); the
    interpreter's own lock that knows its owner costs no more than the one that does not.
    """

    __slots__ = ("__weakref__", "_lock", "holds", "in_child", "owned", "release", "try_once")

    may_wait = False  # of `try_once`: it would park

    def __init__(self) -> None:
        self._lock = lock = threading.RLock()
        self.try_once = lock.acquire
        self.release = lock.release
        # What threading.Condition asks of its lock, too.
        self.owned: Callable[[], bool] = lock._is_owned  # type: ignore[attr-defined]  # noqa: SLF001
        self.holds: Callable[[], int] = getattr(lock, "_recursion_count", partial(_holds_told, lock))
        # Told in the child of a fork, when the lock is free: what it guards may have been left half done.
        self.in_child: Callable[[], None] = _nothing_else
        belongs_to_this_process(self)

    def acquire(self, blocking: bool = True, /) -> bool:
        if self.owned():
            if blocking:
                raise RuntimeError("the calling thread holds this lock already")
            return False
        acquire = self.try_once
        if acquire(False):
            return True
        return self._wait() if blocking else False

    def _wait(self) -> bool:
        acquire = self.try_once
        for _ in range(YIELDS_BEFORE_PARKING):
            _sched_yield()
            if acquire(False):
                return True
        return acquire()

    def locked(self) -> bool:
        if self.owned():
            return True
        if self.try_once(False):
            self.release()
            return False
        return True

    def part(self) -> None:
        """Be free in the child of a fork, whoever held it."""
        self._lock._at_fork_reinit()  # type: ignore[attr-defined]  # noqa: SLF001 - what threading does for its own
        self.in_child()


class ParkingLock(SpinLock):
    """The same where the interpreter's own lock spins before it parks."""

    __slots__ = ()

    may_wait = True

    def _wait(self) -> bool:
        return self.try_once()


class RealMutex(_thread.RLock):  # type: ignore[misc]  # final by typeshed, not by CPython
    """A lock that lets its owner in again. As a context manager it is the interpreter's own, in one step each way."""

    def __init__(self) -> None:
        belongs_to_this_process(self)

    def acquire(self, blocking: bool = True, /) -> bool:  # type: ignore[override]
        return (blocking or not self.owned()) and super().acquire(blocking)

    def owned(self) -> bool:
        return bool(self._is_owned())  # type: ignore[attr-defined]

    def locked(self) -> bool:
        if self.owned():
            return True
        if super().acquire(False):
            self.release()
            return False
        return True

    def part(self) -> None:
        """Be free in the child of a fork, whoever held it."""
        self._at_fork_reinit()  # type: ignore[attr-defined]


class RealAtomic:
    """`atomic_t`: Python has no atomic exchange, so a private lock makes each operation one step.

    A finalizer or a signal handler may come back into an operation of its own thread, but only at a call or at
    the end of a loop, where CPython looks for them: between the first look at the value and the last store
    there is neither.
    """

    __slots__ = ("_lock", "_value")

    def __init__(self, value: int) -> None:
        self._value = value
        self._lock = RealMutex()

    def load(self) -> int:
        with self._lock:  # without a GIL a bare read is not ordered after what this thread wrote before
            return self._value

    def store(self, value: int, /) -> None:
        with self._lock:
            self._value = value

    def xchg(self, value: int, /) -> int:
        with self._lock:
            old = self._value
            self._value = value
            return old

    def cmpxchg(self, old: int, new: int, /) -> int:
        with self._lock:
            found = self._value
            if found == old:
                self._value = new
            return found

    def add(self, delta: int, /) -> int:
        with self._lock:
            self._value += delta
            return self._value


class GilAtomic(RealAtomic):
    """Under a GIL a bare read is as ordered as everything else; every free of a reportable block makes one."""

    __slots__ = ()

    def load(self) -> int:
        return self._value


class RealCondition(threading.Condition):
    """A condition variable whose lock lets its owner in again."""

    def __init__(self) -> None:
        super().__init__(threading.RLock())
        belongs_to_this_process(self)

    def part(self) -> None:
        """Be free in the child of a fork, where nobody waits."""
        self._at_fork_reinit()  # type: ignore[attr-defined]


class RealThread:
    """A daemon thread: a reporter that never returns must not keep the process alive."""

    __slots__ = ("_thread",)

    def __init__(self, name: str, target: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=target, name=name, daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        return self._thread.name

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, timeout_s: float | None = None, /) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()


class _Retirement(Generic[T]):
    """Dies with its thread's locals, and tells what the thread leaves behind.

    It holds a method weakly: when the method's owner is garbage itself, the collector may run this in the
    middle of anything, even inside a zone lock, and there is nobody left to be told.
    """

    __slots__ = ("_process", "_retire", "_value")

    def __init__(self, value: T, retire: Callable[[T], None]) -> None:
        self._value = value
        self._process = os.getpid()
        self._retire: Callable[[], Callable[[T], None] | None] = (
            weakref.WeakMethod(retire) if inspect.ismethod(retire) else lambda: retire
        )

    def __del__(self) -> None:
        # When the interpreter goes, other threads stand still, with whatever lock they hold: wait for none. In the
        # child of a fork they are gone, and their locals go before anybody is told that this is one.
        alone = sys.is_finalizing() or os.getpid() != self._process
        retire = None if alone else self._retire()
        if retire is not None:
            retire(self._value)


class _Absent(Generic[T]):
    """A thread's value as long as it has none: a finalizer runs in the middle of its making, and looks.

    An attribute of the instance goes before one of the class that only gets, so whoever finds a value pays nothing.
    With `__getattr__` in its place every look took 95 ns instead of 36 (CPython 3.11), twice in each pair of order 0.
    """

    def __get__(self, local: RealLocal[T], _: type) -> T:
        return local.make_again()


class RealLocal(threading.local, Generic[T]):
    """`threading.local` runs this constructor anew in every thread that looks.

    A finalizer that runs in the middle of it looks too, and finds no value: it makes one, which is the thread's.
    """

    value: _Absent[T] = _Absent()

    def __init__(self, make: Callable[[], T], retire: Callable[[T], None]) -> None:
        self._make, self._retire = make, retire
        made = make()
        if self.__dict__.setdefault("value", made) is made:
            self._retirement = _Retirement(made, retire)
        else:
            retire(made)

    def make_again(self) -> T:
        """Make the value of a thread whose constructor an interruption found at work, or left without one."""
        RealLocal.__init__(self, self._make, self._retire)
        return self.value


class RealRng:
    """`random.Random` with the two draws that the project uses.

    It is seeded with a text: of the number -8 and of 8 `random.Random` makes the same stream.
    """

    __slots__ = ("choose", "random")

    def __init__(self, seed: int, stream: str = "") -> None:
        source = random.Random(f"{stream} {seed}")
        self.random: Callable[[], float] = source.random
        self.choose: Callable[[int], int] = source.randrange


class RealSync:
    """Hands out the primitives of the real world; it has no state of its own."""

    def spinlock(self, name: str) -> Lock:
        del name  # a real lock has nowhere to keep it
        return SpinLock() if gil_enabled() else ParkingLock()

    def mutex(self, name: str) -> RealMutex:
        del name
        return RealMutex()

    def condition(self, name: str) -> threading.Condition:
        del name
        return RealCondition()

    def event(self, name: str) -> threading.Event:
        del name
        return threading.Event()

    def atomic(self, name: str, value: int) -> RealAtomic:
        del name
        return GilAtomic(value) if gil_enabled() else RealAtomic(value)

    def local(self, make: Callable[[], T], retire: Callable[[T], None]) -> Local[T]:
        return RealLocal(make, retire)

    def spawn(self, name: str, target: Callable[[], None]) -> RealThread:
        return RealThread(name, target)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def monotonic(self) -> float:
        return time.monotonic()

    monotonic_ns = staticmethod(time.monotonic_ns)

    def wall_clock(self) -> float:
        return time.time()

    def rng(self, seed: int, stream: str = "") -> RealRng:
        return RealRng(seed, stream)

    def thread_name(self) -> str:
        return threading.current_thread().name

    frame = staticmethod(sys._getframe)  # noqa: SLF001 - the one way that costs no traceback
