"""How a figure comes about: contenders take turns, each round gives a ratio, and the median of these counts.

A machine that others use too disturbs neighbours in time alike, so ratios inside one round hold where
absolute figures do not. One thread is timed by the processor time that it used; several threads by the
clock, after a warm-up, for the lock convoy of an interpreter with a GIL needs a moment to form.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, TypeVar

from pagealloc import COMPILED
from pagealloc.sync_real import RealSync

Chunk = Callable[[], int]  # does some work and returns how many operations that were

T = TypeVar("T")

SYNC = RealSync()


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: `rounds` turns of every contender, with windows of so many seconds."""

    rounds: int = 5
    window_s: float = 0.5
    threads_s: float = 1.5  # the window of several threads: a convoy forms and dissolves
    warm_up_s: float = 0.5  # of threads, before their window
    churn_s: float = 2.0  # long enough for several passes of the worker
    largest_zone_pages: int = 1 << 24  # 64 GiB


QUICK = Effort(
    rounds=1, window_s=0.05, threads_s=0.05, warm_up_s=0.0, churn_s=0.1, largest_zone_pages=1 << 18
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: `ratio` is `ours` divided by `theirs`, as the median over the rounds.

    `goal` is the least that the ratio should be, or with `at_most` the most; None where this interpreter or
    machine has none. `spread` is the distance of the extreme ratios, as a share of the median. A row that
    could not be measured has no ratio, and `skipped` says why. `figures` is what it was measured from.
    """

    name: str
    goal: float | None = None
    ratio: float | None = None
    at_most: bool = False
    ours: float | None = None
    theirs: float | None = None
    unit: str = ""
    against: str = ""
    spread: float | None = None
    skipped: str | None = None
    figures: Mapping[str, object] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without a ratio or a goal."""
        if self.ratio is None or self.goal is None:
            return None
        return self.ratio <= self.goal if self.at_most else self.ratio >= self.goal

    def as_dict(self) -> dict[str, object]:
        names = [name for name in self.__slots__ if name != "figures"]
        return {**{name: getattr(self, name) for name in names}, "met": self.met, "figures": self.figures}

    def without_goal(self) -> Row:
        """Return the row with nothing to be held against."""
        return replace(self, goal=None)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Row:
        """Make the row again that `as_dict` describes."""
        return cls(**{name: fields[name] for name in cls.__slots__})


def goal_of_build(*, interpreted: float | None, compiled: float | None) -> float | None:
    """Return the goal of a row that asks more of the compiled build than of the interpreted one."""
    return compiled if COMPILED else interpreted


def compare(
    name: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    goal: float | None,
    unit: str,
    against: str,
    at_most: bool = False,
    figures: Mapping[str, object] | None = None,
) -> Row:
    """Make the row of two contenders from what they reached in each round."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    middle = median(ratios)
    return Row(
        name,
        goal,
        middle,
        at_most,
        median(ours),
        median(theirs),
        unit,
        against,
        (max(ratios) - min(ratios)) / middle,
        figures=figures or {},
    )


def take_turns(contenders: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Measure every contender once a round; returns each one's results."""
    results: dict[str, list[T]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, measure in contenders.items():
            results[name].append(measure())
    return results


def processor_seconds() -> float:
    """Return the processor time that the calling thread has used."""
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return usage.ru_utime + usage.ru_stime


def one_thread(chunk: Chunk, window_s: float) -> float:
    """Return the operations per second of processor time of the calling thread."""
    operations = 0
    begin_s = now_s = processor_seconds()
    while now_s - begin_s < window_s:
        operations += chunk()
        now_s = processor_seconds()
    return operations / (now_s - begin_s)


@dataclass(frozen=True, slots=True)
class Window:
    """What some threads did together, per second of the clock and per second of the process's processor time.

    The latter counts every thread of the process, and does not depend on who else uses the machine.
    """

    operations: float
    per_processor_second: float
    context_switches: float


def several_threads(chunks: Sequence[Chunk], window_s: float, warm_up_s: float) -> Window:
    """Let each chunk be repeated by a thread of its own, and look at a window after the warm-up."""
    counts = [0] * len(chunks)
    failures: list[BaseException] = []
    stop = SYNC.event("stop")

    def run(number: int, chunk: Chunk) -> None:
        try:
            while not stop.is_set():
                counts[number] += chunk()
        except BaseException as error:
            failures.append(error)

    threads = [
        SYNC.spawn(f"bench {number}", lambda number=number, chunk=chunk: run(number, chunk))  # type: ignore[misc]
        for number, chunk in enumerate(chunks)
    ]
    looks: list[tuple[float, float, int, int]] = []
    for pause_s in (warm_up_s, window_s):
        seen = sum(counts)
        SYNC.sleep(pause_s)
        while looks and sum(counts) == seen and not failures:
            SYNC.sleep(pause_s)  # a window too short to see any work is no window
        usage = resource.getrusage(resource.RUSAGE_SELF)
        switches = usage.ru_nvcsw + usage.ru_nivcsw
        looks.append((SYNC.monotonic(), usage.ru_utime + usage.ru_stime, sum(counts), switches))
    stop.set()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    seconds, processor_s, operations, switches = (
        after - before for before, after in zip(*looks, strict=True)
    )
    return Window(operations / seconds, operations / max(processor_s, 1e-6), switches / seconds)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
