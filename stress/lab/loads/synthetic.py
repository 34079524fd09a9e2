"""Made-up loads: nothing, one burst, a churn, functions that come and go, memory with holes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from math import log

from pagealloc.mmzone import PAGE_SHIFT
from stress.lab.engine import Machine

BEGIN_S = 1.0  # the guest has come to rest by then
SETTLE_S = 60.0  # after a load's last free: more than the sixteen passes that two seconds apart can need


@dataclass(frozen=True, slots=True)
class Idle:
    """A guest that does nothing, with free memory that the host backs and has not been told of."""

    span_s: float = SETTLE_S
    unreported: bool = True

    def __call__(self, machine: Machine) -> Iterator[float]:
        yield BEGIN_S
        machine.ask()


@dataclass(frozen=True, slots=True)
class Burst:
    """Memory that is used for a second and freed at once."""

    nr_pages: int
    order: int = 9
    span_s: float = BEGIN_S + 2 + SETTLE_S

    def __call__(self, machine: Machine) -> Iterator[float]:
        yield BEGIN_S
        blocks = allocate(machine, self.nr_pages, self.order)
        yield BEGIN_S + 1  # of several guests all at once; where each one's timers stand is drawn
        for pfn in blocks:
            machine.free(pfn, self.order)


@dataclass(frozen=True, slots=True)
class Churn:
    """Memory that is allocated every `period_s`, and freed after half of that."""

    nr_pages: int
    period_s: float
    order: int = 0
    span_s: float = BEGIN_S + 60 + SETTLE_S

    def __call__(self, machine: Machine) -> Iterator[float]:
        at_s = BEGIN_S + machine.rng.random() * self.period_s
        while at_s < self.span_s - SETTLE_S:
            yield at_s
            blocks = allocate(machine, self.nr_pages, self.order)
            yield at_s + self.period_s / 2
            for pfn in blocks:
                machine.free(pfn, self.order)
            at_s += self.period_s


@dataclass(frozen=True, slots=True)
class Functions:
    """Functions that start `rate` times a second, hold their memory for `hold_s` on average, and end."""

    rate: float
    nr_pages: int
    hold_s: float
    order: int = 9
    span_s: float = BEGIN_S + 120 + SETTLE_S

    def __call__(self, machine: Machine) -> Iterator[float]:
        random = machine.rng.random
        running: list[tuple[float, int, list[int]]] = []  # by the time at which they end
        started = 0
        start_s = BEGIN_S + exponential(random(), 1 / self.rate)
        while running or start_s < self.span_s - SETTLE_S:
            if running and (running[0][0] <= start_s or start_s >= self.span_s - SETTLE_S):
                end_s, _, blocks = heappop(running)
                yield end_s
                for pfn in blocks:
                    machine.free(pfn, self.order)
            else:
                yield start_s
                end_s = start_s + exponential(random(), self.hold_s)
                heappush(running, (end_s, started, allocate(machine, self.nr_pages, self.order)))
                started += 1
                start_s += exponential(random(), 1 / self.rate)


@dataclass(frozen=True, slots=True)
class Holes:
    """Small pages of which all but every `keep`-th are freed after two seconds, and these at the end."""

    nr_pages: int
    keep: int
    hold_s: float = 10.0
    span_s: float = BEGIN_S + 12 + SETTLE_S

    def __call__(self, machine: Machine) -> Iterator[float]:
        yield BEGIN_S
        blocks = allocate(machine, self.nr_pages, 0)
        yield BEGIN_S + 2 + machine.rng.random()
        for at, pfn in enumerate(blocks):
            if at % self.keep:
                machine.free(pfn)
        yield BEGIN_S + 2 + self.hold_s
        for pfn in blocks[:: self.keep]:
            machine.free(pfn)


def allocate(machine: Machine, nr_pages: int, order: int) -> list[int]:
    """Allocate so many pages in blocks of one order, as far as they go."""
    blocks = []
    for _ in range(nr_pages >> order):
        pfn = machine.alloc(order)
        if pfn is None:
            break
        blocks.append(pfn)
    return blocks


def exponential(uniform: float, mean: float) -> float:
    """Turn a draw from [0, 1) into one of an exponential distribution."""
    return -log(1 - uniform) * mean


def pages(size_bytes: int) -> int:
    """Return a size in whole pages."""
    return size_bytes >> PAGE_SHIFT
