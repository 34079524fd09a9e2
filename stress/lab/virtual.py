"""Virtual time: a `Sync` for one thread, and Linux's timer wheel.

Nothing runs at the same time as anything else here, so locks do nothing and an atomic is an int. Time stands still
until the engine moves it. What the kernel keeps for each CPU is kept for each *virtual* CPU: whoever acts says on
which.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor
from types import FrameType
from typing import Generic, TypeVar

from pagealloc.sync import Thread
from pagealloc.sync_real import RealRng, RealSync
from workers.workqueue import DelayedWork, Workqueue

T = TypeVar("T")

LVL_CLK_SHIFT = 3  # each level of the wheel is eight times as coarse as the one below it
LVL_DEPTH = 9
LVL_ENTRIES = 63  # buckets of a level that a timer may use: one of 64 is the current one


@dataclass(frozen=True, slots=True)
class Wheel:
    """When a timer fires that was set for `delay_s` (`kernel/time/timer.c`, `calc_index`).

    A timer expires on a tick, rounded up to the granularity of its level: at HZ 250 two seconds are 500 jiffies, one
    tick too many for the finest level, so they fire on a grid of 32 ms. `phase_s` is where the grid lies on the clock.
    """

    hz: int | None = 250  # ticks a second; None for timers that fire to the point
    phase_s: float = 0.0

    def fires_at(self, now_s: float, delay_s: float) -> float:
        """Return the time at which a timer fires that is set at `now_s`."""
        if self.hz is None:
            return now_s + delay_s
        jiffies = floor((now_s - self.phase_s) * self.hz + 1e-6)
        delta = ceil(delay_s * self.hz - 1e-6)
        if delta <= 0:
            return now_s  # no timer: the work is queued at once
        shift = LVL_CLK_SHIFT * next(
            level
            for level in range(LVL_DEPTH + 1)
            if delta < LVL_ENTRIES << LVL_CLK_SHIFT * level or level == LVL_DEPTH
        )
        bucket = (jiffies + delta + (1 << shift)) >> shift
        return self.phase_s + (bucket << shift) / self.hz

    def grid_s(self, delay_s: float) -> float:
        """Return how far apart the moments are at which a timer of this delay can fire, in seconds."""
        if self.hz is None:
            return 0.0
        delta = ceil(delay_s * self.hz - 1e-6)
        level = 0
        while level < LVL_DEPTH and delta >= LVL_ENTRIES << LVL_CLK_SHIFT * level:
            level += 1
        return (1 << LVL_CLK_SHIFT * level) / self.hz


class NoLock:
    """A lock, a condition and an event of a world with one thread. It excludes nobody, and knows whether it is held."""

    __slots__ = ("_holds", "_set")

    def __init__(self) -> None:
        self._holds = 0
        self._set = False

    def acquire(self, blocking: bool = True, /) -> bool:
        self._holds += 1
        return True

    def release(self) -> None:
        self._holds -= 1

    def locked(self) -> bool:
        return self._holds > 0

    def owned(self) -> bool:
        return self._holds > 0

    def holds(self) -> int:
        return self._holds

    def __enter__(self) -> None:
        self._holds += 1

    def __exit__(self, *exc: object) -> None:
        self._holds -= 1

    def wait(self, timeout_s: float | None = None, /) -> bool:
        """Return at once: nobody else could bring about what is waited for."""
        return self._set

    def notify_all(self) -> None:
        pass

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True

    def clear(self) -> None:
        self._set = False


class VirtualAtomic:
    """An integer that one thread changes."""

    __slots__ = ("_value",)

    def __init__(self, value: int) -> None:
        self._value = value

    def load(self) -> int:
        return self._value

    def store(self, value: int, /) -> None:
        self._value = value

    def xchg(self, value: int, /) -> int:
        old, self._value = self._value, value
        return old

    def cmpxchg(self, old: int, new: int, /) -> int:
        found = self._value
        if found == old:
            self._value = new
        return found

    def add(self, delta: int, /) -> int:
        self._value += delta
        return self._value


class VirtualLocal(Generic[T]):
    """One value for each virtual CPU."""

    __slots__ = ("_make", "_sync", "_values")

    def __init__(self, sync: VirtualSync, make: Callable[[], T]) -> None:
        self._sync = sync
        self._make = make
        self._values: dict[int, T] = {}

    @property
    def value(self) -> T:
        try:
            return self._values[self._sync.cpu]
        except KeyError:
            value = self._values[self._sync.cpu] = self._make()
            return value


class VirtualSync:
    """The primitives of virtual time. `now_s` is the clock and `cpu` the acting CPU; the engine sets both."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.cpu = 0

    def spinlock(self, name: str) -> NoLock:
        return NoLock()

    def mutex(self, name: str) -> NoLock:
        return NoLock()

    def condition(self, name: str) -> NoLock:
        return NoLock()

    def event(self, name: str) -> NoLock:
        return NoLock()

    def atomic(self, name: str, value: int) -> VirtualAtomic:
        return VirtualAtomic(value)

    def local(self, make: Callable[[], T], retire: Callable[[T], None]) -> VirtualLocal[T]:
        return VirtualLocal(self, make)

    def spawn(self, name: str, target: Callable[[], None]) -> Thread:
        raise no_threads(name)

    def sleep(self, seconds: float) -> None:
        raise no_threads("sleep")

    def monotonic(self) -> float:
        return self.now_s

    def monotonic_ns(self) -> int:
        return round(self.now_s * 1e9)

    def wall_clock(self) -> float:
        return self.now_s

    def rng(self, seed: int, stream: str = "") -> RealRng:
        return RealRng(seed, stream)

    def thread_name(self) -> str:
        return f"cpu-{self.cpu}"

    def frame(self, depth: int, /) -> FrameType:
        return RealSync.frame(depth + 1)


def no_threads(name: str) -> RuntimeError:
    """Build the error for a part that wants to wait or to start a thread in virtual time."""
    return RuntimeError(f"{name}: nothing waits in virtual time, and it has no threads")


class VirtualWorkqueue(Workqueue):
    """A workqueue whose timers fire where Linux's would; whoever moves the clock asks `next_deadline`."""

    def __init__(self, sync: VirtualSync, wheel: Wheel) -> None:
        super().__init__(sync, "virtual")
        self._clock = sync
        self._wheel = wheel
        self._next_at_s: float | None = None
        self.cpu = 0  # that work was queued on last: its timer fires there, and there it runs

    def fire_next_at(self, due_s: float) -> None:
        """Let the next timer that is set fire at a given moment: it was set before the run began."""
        self._next_at_s = due_s

    def queue_delayed_work(self, work: DelayedWork, delay_s: float) -> bool:
        """Arm `work`; it is due when the wheel's timer fires."""
        now_s = self._clock.now_s
        due_s = self._next_at_s if self._next_at_s is not None else self._wheel.fires_at(now_s, delay_s)
        self._next_at_s = None
        self.cpu = self._clock.cpu
        return super().queue_delayed_work(work, due_s - now_s)
