"""The one door to everything that blocks, waits, spawns, sleeps, reads a clock or draws a number.

Every part of pagealloc that could behave differently from one run to the next asks a `Sync` object,
handed to its constructor, instead of importing `threading`, `time` or `random`. The same allocator and
worker then run, unchanged, on real threads (`sync_real.RealSync`) or under a scheduler that chooses
every interleaving. A test holds that no other module imports those three.

The vocabulary is the kernel's where it has one: a *spinlock* is held for a handful of list operations
and never across anything that sleeps (`zone->lock`); a *mutex* may be held for long; an *atomic* is
`atomic_t` with sequentially consistent operations.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Lock(Protocol):
    """A lock that knows its owner. `acquire(False)` only tries, and fails for the owner too.

    To acquire a spinlock twice is an error; a real mutex lets its owner in again, who can only be a finalizer
    or a signal handler in the middle of what the owner does.
    """

    def acquire(self, blocking: bool = True, /) -> bool: ...
    def release(self) -> None: ...
    def locked(self) -> bool: ...
    def owned(self) -> bool:
        """Whether the calling thread holds the lock."""
        ...


class Mutex(Lock, Protocol):
    """A lock for a `with`, which gives it back on every way out."""

    def __enter__(self) -> object: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> object: ...


class Condition(Protocol):
    """A condition variable with a lock of its own. `wait` returns False when it timed out."""

    def __enter__(self) -> object: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> object: ...
    def wait(self, timeout_s: float | None = None, /) -> bool: ...
    def notify_all(self) -> None: ...


class Event(Protocol):
    """A flag that threads wait for. `wait` returns False when it timed out."""

    def is_set(self) -> bool: ...
    def set(self) -> None: ...
    def clear(self) -> None: ...
    def wait(self, timeout_s: float | None = None, /) -> bool: ...


class Atomic(Protocol):
    """An integer with atomic, sequentially consistent operations (`atomic_t`)."""

    def load(self) -> int: ...
    def store(self, value: int, /) -> None: ...
    def xchg(self, value: int, /) -> int:
        """Store `value` and return what was there."""
        ...

    def cmpxchg(self, old: int, new: int, /) -> int:
        """Store `new` if `old` is there; return what was there either way."""
        ...

    def add(self, delta: int, /) -> int:
        """Add `delta` and return the sum."""
        ...


class Thread(Protocol):
    """A started thread. `join` returns False when the thread still ran after `timeout_s`."""

    @property
    def name(self) -> str: ...
    def is_alive(self) -> bool: ...
    def join(self, timeout_s: float | None = None, /) -> bool: ...


class Local(Protocol, Generic[T_co]):
    """One value for each thread, made at the thread's first look and retired when the thread ends."""

    @property
    def value(self) -> T_co: ...


class Rng(Protocol):
    """A seeded stream of random numbers; one thread uses it."""

    def random(self) -> float:
        """Draw from [0, 1)."""
        ...

    def choose(self, n: int) -> int:
        """Draw from 0 .. n - 1."""
        ...


class Sync(Protocol):
    """What a world must offer; see the module's text. Names appear in reports and in stacks."""

    def spinlock(self, name: str) -> Lock: ...
    def mutex(self, name: str) -> Mutex: ...
    def condition(self, name: str) -> Condition: ...
    def event(self, name: str) -> Event: ...
    def atomic(self, name: str, value: int) -> Atomic: ...
    def local(self, make: Callable[[], T], retire: Callable[[T], None]) -> Local[T]: ...
    def spawn(self, name: str, target: Callable[[], None]) -> Thread: ...
    def sleep(self, seconds: float) -> None: ...
    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds on the same clock, for records that must not lose their order to rounding."""
        ...

    def wall_clock(self) -> float:
        """Seconds since the epoch: for records that people read, never for deadlines."""
        ...

    def rng(self, seed: int, stream: str = "") -> Rng:
        """Begin a stream of numbers; two names have nothing to do with each other, whatever the seeds."""
        ...

    def thread_name(self) -> str:
        """Return the calling thread's name."""
        ...

    def frame(self, depth: int, /) -> FrameType:
        """Return the caller's frame, or the one `depth` calls further out: a lock's call site."""
        ...
