"""A load that follows a curve of used and cached memory over time.

How much is used says nothing about where it lies, and that decides what order 9 can give back. So memory belongs to
*jobs*: at any time a dozen of them run, one ends now and then, and they allocate in turns, in runs of `mix` pages.
`mix` is the property of the load that fragmentation depends on: small for many small processes (about 128), 8192
and more for a few with large heaps. It is calibrated by one figure that a user can read off a real guest over time:
free memory against free memory in blocks of 2 MiB and more.
"""

from __future__ import annotations

import csv
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from pathlib import Path

from pagealloc.mmzone import (
    ALLOC_KSWAPD,
    MIGRATE_MOVABLE,
    MIGRATE_RECLAIMABLE,
    MIGRATE_UNMOVABLE,
    PAGE_SHIFT,
    WMARK_LOW,
)
from stress.errors import BadInput
from stress.lab.engine import Machine

STEP_S = 0.25
JOBS = 12
KERNEL_MIB = 512.0  # in use since boot
HOLE_FACTOR, HOLE_S = 20.0, 60.0  # a step so much longer than the usual one, and so long, is a gap
PAGES_PER_MIB = 1 << 20 - PAGE_SHIFT
SPAN_S_MAX = 1e6  # as --until has it
MIB_MAX = 1 << 30  # a PiB


class BadCurve(BadInput):
    """A file is no curve; the message names the file, the line and what was expected."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Used and cached memory over time, in MiB; cached is a part of used."""

    source: str
    t_s: tuple[float, ...]
    used_mib: tuple[float, ...]
    cached_mib: tuple[float, ...]

    def at(self, t_s: float) -> tuple[float, float]:
        """Return (used, cached) at a time, linear between two samples."""
        after = bisect_right(self.t_s, t_s)
        if after == 0 or after == len(self.t_s):
            at = 0 if after == 0 else -1
            return self.used_mib[at], self.cached_mib[at]
        before = after - 1
        share = (t_s - self.t_s[before]) / (self.t_s[after] - self.t_s[before])
        return tuple(
            values[before] + share * (values[after] - values[before])
            for values in (self.used_mib, self.cached_mib)
        )  # type: ignore[return-value]


LINE_MAX = 1 << 16  # characters


def read_curve(path: Path) -> Curve:
    """Read a CSV with the columns t_s, used_mib and, if known, cached_mib. Raises BadCurve."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = iter(lambda: file.readline(LINE_MAX), "")  # a device may have no line's end, and no end
            reader = csv.DictReader(line for line in lines if not line.startswith("#"))
            missing = {"t_s", "used_mib"} - set(reader.fieldnames or ())
            if missing:
                raise BadCurve(
                    f"{path}: no column {', '.join(sorted(missing))}, expected t_s and used_mib in its head"
                )
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise BadCurve(f"{path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadCurve(f"{path}: {error}, expected a CSV file") from error
    numbers: list[tuple[float, float, float]] = []
    for line, row in rows:
        try:
            sample = (float(row["t_s"]), float(row["used_mib"]), float(row.get("cached_mib") or 0))
        except (TypeError, ValueError) as error:
            raise BadCurve(
                f"{path}: row {line}: a gap or no number ({error}), expected t_s,used_mib"
            ) from error
        numbers.append(sample)
        _check_sample(f"{path}: row {line}", sample, numbers[0][0])
    _check_times(path, [t_s for t_s, _, _ in numbers])
    t_s, used, cached = zip(*numbers, strict=True)
    return Curve(path.name, tuple(at - t_s[0] for at in t_s), used, cached)


def _check_sample(where: str, sample: tuple[float, float, float], begin_s: float) -> None:
    t_s, used, cached = sample
    if not (isfinite(t_s) and abs(t_s - begin_s) < SPAN_S_MAX):
        raise BadCurve(f"{where}: t_s is {t_s:g}, expected less than {SPAN_S_MAX:g} s after the first row")
    for name, mib in (("used_mib", used), ("cached_mib", cached)):
        if not 0 <= mib < MIB_MAX:
            raise BadCurve(f"{where}: {name} is {mib:g}, expected 0 or more, and less than a PiB")


def _check_times(path: Path, times: list[float]) -> None:
    if len(times) < 2:
        raise BadCurve(f"{path}: {len(times)} rows, expected two or more")
    steps = [after - before for before, after in pairwise(times)]
    usual = sorted(steps)[len(steps) // 2]
    for number, step in enumerate(steps, 2):
        if step <= 0:
            raise BadCurve(
                f"{path}: sample {number} at {times[number - 1]:g} s is not later than the one before it"
            )
        if step > max(HOLE_S, HOLE_FACTOR * usual):
            raise BadCurve(
                f"{path}: a gap of {step:g} s before {times[number - 1]:g} s, where a sample comes every {usual:g} s; "
                "expected a whole curve"
            )


@dataclass(frozen=True, slots=True)
class Follow:
    """Keeps a scaled-down guest's memory at what the curve says."""

    curve: Curve
    scale: int = 1
    mix: int = 128  # pages that one job gets in a row
    slab: float = 0.003  # share of the peak that goes to the kernel's own caches, never given back
    churn: float = 0.2  # jobs that end each second of their own accord

    @property
    def span_s(self) -> float:
        """How long the curve is, in seconds."""
        return self.curve.t_s[-1]

    def __call__(self, machine: Machine) -> Iterator[float]:
        owners = _Owners(self, machine)
        yield 0.0
        owners.boot()
        t_s = STEP_S
        while t_s <= self.span_s:
            yield t_s
            owners.follow(t_s)
            t_s += STEP_S


class _Owners:
    """Who has which pages: the jobs, the page cache, the kernel."""

    def __init__(self, load: Follow, machine: Machine) -> None:
        self._load = load
        self._machine = machine
        self._rng = machine.rng
        self._zones = [zone for zone in reversed(machine.memory.zones) if zone.name != "DMA"]
        self._jobs: list[list[int]] = [[] for _ in range(JOBS)]
        self._weights = [
            self._rng.random() for _ in range(JOBS)
        ]  # how much of what is allocated each one gets
        self._cache: deque[int] = deque()
        self._slab_pages = 0
        self._slab_max = self._pages(load.slab * max(load.curve.used_mib))
        self._kernel_pages = 0

    def _pages(self, mib: float) -> int:
        return int(mib * PAGES_PER_MIB / self._load.scale)

    def boot(self) -> None:
        """Take what a kernel has when it has booted: whole large blocks."""
        memory, machine = self._machine.memory, self._machine
        wanted = min(self._pages(KERNEL_MIB), self._pages(self._load.curve.used_mib[0]))
        order = memory.layout.pageblock_order
        while self._kernel_pages < wanted:
            pfn = self._zones[0].rmqueue_buddy(order, MIGRATE_UNMOVABLE)
            if pfn < 0:
                break
            machine.host.touch(pfn, order)
            self._kernel_pages += 1 << order
        self.follow(0.0)

    def follow(self, t_s: float) -> None:
        """Free and allocate until the guest has what the curve says."""
        used_mib, cached_mib = self._load.curve.at(t_s)
        self._grow_slab(t_s)
        cached = self._pages(cached_mib)
        anon = max(0, self._pages(used_mib) - cached - self._kernel_pages - self._slab_pages)
        while len(self._cache) > cached:
            self._free([self._cache.popleft() for _ in range(len(self._cache) - cached)])
        if self._rng.random() < self._load.churn * STEP_S:
            self._end(self._rng.choose(JOBS))
        while (excess := sum(map(len, self._jobs)) - anon) > 0:
            self._give_up(excess)
        self._allocate(anon - sum(map(len, self._jobs)), cached - len(self._cache))

    def _end(self, job: int) -> None:
        self._free(self._jobs[job])
        self._jobs[job] = []
        self._weights[job] = self._rng.random()

    def _give_up(self, excess: int) -> None:
        """End the job whose size is nearest to what is too much; one far larger shrinks instead."""
        sizes = [(abs(len(pages) - excess), job) for job, pages in enumerate(self._jobs) if pages]
        _, job = min(sizes)
        pages = self._jobs[job]
        if len(pages) <= 2 * excess:
            self._end(job)
        else:
            self._free(pages[-excess:])
            del pages[-excess:]

    def _grow_slab(self, t_s: float) -> None:
        wanted = int(self._slab_max * min(1.0, t_s / self._load.span_s))
        missing = wanted - self._slab_pages
        if missing <= 0:
            return
        reclaimable = missing * 6 // 10
        self._slab_pages += len(self._take(reclaimable, MIGRATE_RECLAIMABLE))
        self._slab_pages += len(self._take(missing - reclaimable, MIGRATE_UNMOVABLE))

    def _allocate(self, anon: int, cached: int) -> None:
        """Deal pages out in runs: to jobs, and in between to the page cache in proportion."""
        mix = self._load.mix
        total = max(1, anon)
        while anon > 0:
            taken = self._take(min(mix, anon), MIGRATE_MOVABLE)
            if not taken:
                return
            self._jobs[self._draw()] += taken
            anon -= len(taken)
            share = min(cached, -(-cached * len(taken) // total)) if cached > 0 else 0
            if share:
                self._cache.extend(self._take(share, MIGRATE_MOVABLE))
                cached -= share
        while cached > 0:
            taken = self._take(min(mix, cached), MIGRATE_MOVABLE)
            if not taken:
                return
            self._cache.extend(taken)
            cached -= len(taken)

    def _draw(self) -> int:
        """Draw the job that allocates next."""
        at = self._rng.random() * sum(self._weights)
        for job, weight in enumerate(self._weights):
            at -= weight
            if at < 0:
                return job
        return JOBS - 1

    def _take(self, count: int, migratetype: int) -> list[int]:
        """Take single pages from the first zone that stays above its low mark, and write to them."""
        taken: list[int] = []
        host = self._machine.host
        for zone in self._zones:
            room = zone.nr_free_pages - zone.wmark_pages(WMARK_LOW)
            if count > len(taken) and room > 0:
                taken += zone.rmqueue_bulk(0, migratetype, min(count - len(taken), room), ALLOC_KSWAPD)
        for pfn in taken:
            host.touch(pfn, 0)
        if len(taken) < count:
            self._machine.failed_allocations += count - len(taken)
        return taken

    def _free(self, pages: list[int]) -> None:
        for zone in self._zones:
            start_pfn, end_pfn = zone.start_pfn, zone.end_pfn
            blocks = [(pfn, 0, -1) for pfn in pages if start_pfn <= pfn < end_pfn]
            if blocks:
                zone.free_pcppages_bulk(blocks)
        self._machine.last_free_s = self._machine.now_s
