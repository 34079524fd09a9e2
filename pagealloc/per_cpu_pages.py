"""One CPU's free pages of one zone (`struct per_cpu_pages`), and the rules of how many there may be.

A list is a deque whose right end is the kernel list's head, where blocks are freed and taken; its left end is the
tail, where they are drained. `append`, `pop` and `popleft` are single steps on every build of CPython, with a GIL or
without, so threads that share a set, or drain it from outside, need no lock: each block is popped by exactly one
thread. For the same reason nobody keeps a count: it is the sum of the lists' lengths, and `room` says for how many
more pages it need not be taken.

The rules are three generations of one idea: up to v5.12 a limit of six batches; up to 6.6 the zone's low mark shared
out to the CPUs, with drains that double while nothing is taken; since 6.7 a limit that tunes itself between that share
and an eighth of the zone. Sizes are in pages.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import Final, NamedTuple

from pagealloc.mmzone import MIGRATE_MOVABLE, MIGRATE_PCPTYPES, PAGE_SHIFT
from pagealloc.revision import Revision

PCP_BATCH_SCALE_MAX: Final = 5  # refills double five times at most, and a tuned drain stays below batch << 5
# Orders above it are whole pageblocks on a set, and no hindrance to merging.
PAGE_ALLOC_COSTLY_ORDER: Final = 3
CPUS: Final = 4  # of a machine that does not say
HIGH_MAX_FRACTION: Final = 8  # of a zone may rest on all sets together (MIN_PERCPU_PAGELIST_HIGH_FRACTION)

Resting = tuple[int, int, int]  # a block on its way to the zone: pfn, order, its list's migratetype or -1


class Bounds(NamedTuple):
    """How large the sets of a zone are, in pages."""

    batch: int
    high_min: int
    high_max: int


def zone_batchsize(managed_pages: int, page_shift: int = PAGE_SHIFT) -> int:
    """Return how many pages move between a set and a zone at once: 63 in any zone of 1 GiB and more; 0: one by one.

    It is a quarter of a MiB at most.
    """
    batch = max(1, min(managed_pages // 1024, (1 << 20) >> page_shift) // 4)
    return (1 << ((batch + batch // 2).bit_length() - 1)) - 1


def zone_highsize(
    managed_pages: int, low_wmark_pages: int, cpus: int = CPUS, page_shift: int = PAGE_SHIFT
) -> int:
    """Return how many pages each of `cpus` sets may hold at least, where the zone's marks say so: since v5.13."""
    return max(low_wmark_pages // cpus, 4 * max(1, zone_batchsize(managed_pages, page_shift)))


def zone_bounds(
    managed_pages: int, low_wmark_pages: int, cpus: int, revision: Revision, page_shift: int = PAGE_SHIFT
) -> Bounds:
    """Return the bounds of each of `cpus` sets over a zone (`zone_set_pageset_high_and_batch`)."""
    batch = zone_batchsize(managed_pages, page_shift)
    if not revision.pcp_high_by_marks:
        return Bounds(max(1, batch), 6 * batch, 6 * batch)
    batch = max(1, batch)
    high_min = zone_highsize(managed_pages, low_wmark_pages, cpus, page_shift)
    if not revision.pcp_tunes_high:
        return Bounds(batch, high_min, high_min)
    return Bounds(batch, high_min, max(managed_pages // HIGH_MAX_FRACTION // cpus, 4 * batch))


class PerCpuPages:
    """The lists of one CPU for one zone, with what it remembers of the calls before."""

    __slots__ = (
        "alloc_factor",
        "batch",
        "freed_high_order",
        "frees",
        "high",
        "high_max",
        "high_min",
        "lists",
        "revision",
        "room",
        "stacks",
    )

    def __init__(
        self, bounds: Bounds, nr_small_orders: int, pageblock_order: int, revision: Revision
    ) -> None:
        self.batch, self.high_min, self.high_max = bounds
        # A set that tunes itself learns its limit from its first call; until then /proc shows a 0.
        self.high = 0 if revision.pcp_tunes_high else self.high_min
        self.revision = revision
        # Pages freed of late, halved by every allocation; between v5.13 and 6.6 how often a drain was doubled.
        self.frees = 0
        self.alloc_factor = 0  # how often the last refill of single pages was doubled
        self.freed_high_order = False  # whether the free before this one was of order 1 .. 3
        self.room = 0  # pages that may be freed for certain before the limit is reached
        small: list[deque[int]] = [deque() for _ in range(nr_small_orders * MIGRATE_PCPTYPES)]
        # In the order of the kernel's list numbers, which is the order of a drain.
        self.stacks: list[tuple[deque[int], int, int]] = [
            (pages, number // MIGRATE_PCPTYPES, number % MIGRATE_PCPTYPES)
            for number, pages in enumerate(small)
        ]
        self.lists = small  # by order * MIGRATE_PCPTYPES + migratetype; whole pageblocks behind them
        if revision.pcp_pageblock_order and pageblock_order >= nr_small_orders:
            other: deque[int] = deque()
            movable: deque[int] = deque()
            self.stacks += [(other, pageblock_order, -1), (movable, pageblock_order, MIGRATE_MOVABLE)]
            self.lists = [*small, other, movable, other]

    def count(self) -> int:
        """Return the pages that rest here, at about this moment."""
        count = 0
        for pages, order, _ in self.stacks:
            if pages:
                count += len(pages) << order
        return count

    # -- how many ------------------------------------------------------------------------------------

    def free_is_high(self, order: int) -> bool:
        """Count a free of a set that tunes itself; whether it is one of many that the set shall not keep.

        Small blocks of order 1 and more hinder merging, so a row of such frees is not kept (`free_unref_page_commit`).
        """
        self.alloc_factor >>= 1
        free_high = False
        if 0 < order <= PAGE_ALLOC_COSTLY_ORDER:
            free_high = self.frees >= self.batch and self.freed_high_order and self.count() >= self.batch
            self.freed_high_order = True
        else:
            self.freed_high_order = False
        if self.frees < self.batch << PCP_BATCH_SCALE_MAX:
            self.frees += 1 << order
        return free_high

    def nr_high(self, count: int, *, free_high: bool, below_high: bool) -> int:
        """Return the limit that holds for this free, and tune it (`nr_pcp_high`)."""
        if not self.revision.pcp_tunes_high:
            return 0 if free_high else self.high
        batch, high_min, high_max = self.batch, self.high_min, self.high_max
        high = self.high = min(max(self.high, high_min), high_max)
        if not high:
            return 0
        if free_high:
            self.high = max(high - (batch << PCP_BATCH_SCALE_MAX), high_min)
            return 0
        if high_min == high_max:
            return high
        if below_high:
            self.high = max(high - max(self.frees, batch), high_min)
            return max(count, high_min)
        if count >= high and high < self.frees + batch:
            self.high = min(max(self.frees + batch, high_min), high_max)
        return high

    def nr_free(self, count: int, high: int, *, free_high: bool) -> int:
        """Return how many pages go back once the limit is reached (`nr_pcp_free`)."""
        batch, revision = self.batch, self.revision
        if free_high:
            return min(count, batch << PCP_BATCH_SCALE_MAX) if revision.pcp_tunes_high else count
        if not revision.pcp_high_by_marks:
            return batch
        if high < batch:
            return 1
        if revision.pcp_tunes_high:
            return min(max(self.frees, batch), high - batch)
        doubled = batch << self.frees
        if doubled < high - batch:
            self.frees += 1
        return min(max(doubled, batch), high - batch)

    def nr_alloc(self, order: int, *, below_high: bool) -> int:
        """Return how many blocks refill an empty list (`nr_pcp_alloc`)."""
        batch = self.batch
        if self.revision.pcp_tunes_high:
            high = self.high = min(max(self.high, self.high_min), self.high_max)
            if high < batch:
                return 1
            wanted = batch if order else batch << self.alloc_factor
            if self.high_min != self.high_max and not below_high:
                high = self.high = min(high + wanted, self.high_max)
            if not order:
                most = max(high - self.count() - batch, batch)
                if wanted <= most and self.alloc_factor < PCP_BATCH_SCALE_MAX:
                    self.alloc_factor += 1
                wanted = min(wanted, most)
            batch = wanted
        return max(batch >> order, 2) if batch > 1 else batch

    def decay_high(self) -> int:
        """Lower a limit that had tuned itself up; returns how many pages are beyond it now (`decay_pcp_high`)."""
        count = self.count()
        if self.high > self.high_min:
            self.high = max(
                count - (self.batch << PCP_BATCH_SCALE_MAX), self.high - (self.high >> 3), self.high_min
            )
        self.room = 0
        return max(0, count - self.high)

    # -- which ---------------------------------------------------------------------------------------

    def take_coldest(self, nr_pages: int, first: int) -> list[Resting]:
        """Take blocks from the lists' tails until `nr_pages` pages are together (`free_pcppages_bulk`).

        `first` is the number of the list to begin with; each is emptied before the next one's turn.
        """
        if first == len(self.stacks):  # whole pageblocks that are not movable have one list
            first -= 2
        if self.revision.pcp_drains_by_turns:
            return self._take_by_turns(nr_pages)
        taken: list[Resting] = []
        for pages, order, migratetype in self.stacks[first:] + self.stacks[:first]:
            if nr_pages <= 0:
                break
            if not pages:
                continue
            with suppress(IndexError):  # another thread took the rest
                while nr_pages > 0:
                    taken.append((pages.popleft(), order, migratetype))
                    nr_pages -= 1 << order
        return taken

    def _take_by_turns(self, nr_pages: int) -> list[Resting]:
        """Take pages as kernels before v5.13 did: in turns, with a quota that grows by one for each list looked at."""
        taken: list[Resting] = []
        stacks = self.stacks
        at = quota = 0
        while len(taken) < nr_pages and self.count():
            at = (at + 1) % len(stacks)
            quota += 1
            pages, order, migratetype = stacks[at]
            if pages and quota == len(stacks):
                quota = nr_pages - len(taken)  # this list is the only one that holds any
            with suppress(IndexError):
                while quota and len(taken) < nr_pages:
                    taken.append((pages.popleft(), order, migratetype))
                    quota -= 1
        return taken
