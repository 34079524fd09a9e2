"""Page sets: a few free pages at every CPU's hand, in front of the zone lock (`zone->per_cpu_pageset`).

Each thread has a CPU to itself, unless it is put on another one (`run_on_cpu`). Small orders, and since v5.13 whole
pageblocks, are freed to the CPU's set and taken from it without the zone lock; an empty list is refilled, and a set
that reaches its limit shortened, by a batch under one hold of the lock. What rests on a set is free but cannot merge,
does not count as free, and is invisible to the reporting worker until it is drained.

How many pages, which, and in which order is in `per_cpu_pages`. The kernel looks at a set under its lock, and goes past
it when that is taken; these sets have none.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import NamedTuple

from pagealloc.errors import AnotherProcess, CorruptPageSet, MemoryClosed, TornZone
from pagealloc.mmzone import MIGRATE_ISOLATE, MIGRATE_MOVABLE, MIGRATE_PCPTYPES, ORDERS_MAX
from pagealloc.page_flags import ALLOCATED, ON_PAGE_SET, OWNED_MASK
from pagealloc.per_cpu_pages import (
    CPUS,
    PAGE_ALLOC_COSTLY_ORDER,
    Bounds,
    PerCpuPages,
    zone_batchsize,
    zone_bounds,
    zone_highsize,
)
from pagealloc.revision import Revision
from pagealloc.sync import Sync
from pagealloc.zone import Zone

__all__ = ["CPUS", "VMSTAT_INTERVAL_S", "Holding", "PageSet", "PageSets", "zone_batchsize", "zone_highsize"]

VMSTAT_INTERVAL_S = 1.0  # between two visits of the vmstat worker (vm.stat_interval)

PageSet = list[PerCpuPages]  # a CPU's, by the numbers of the zones


_SHARED: PageSet = []  # in the place of an owner: threads were put on the CPU


class Holding(NamedTuple):
    """What one CPU's set of one zone holds and may hold, in pages, as `/proc/zoneinfo` tells it."""

    cpu: int
    pages: int
    high: int
    batch: int


class PageSets:
    """The page sets of all CPUs over the zones of one memory."""

    def __init__(self, zones: Sequence[Zone], revision: Revision, sync: Sync, cpus: int = CPUS) -> None:
        self._zones = zones
        self._revision = revision
        self._cpus = cpus
        self._tunes = revision.pcp_tunes_high
        layout = zones[0].layout
        # For each order the number of its first list, -1 for orders that do not rest.
        self._nr_small_orders = min(revision.pcp_max_order + 1, layout.nr_orders)
        self.first = [
            (
                min(order, self._nr_small_orders) * MIGRATE_PCPTYPES
                if zones[0].pcp_allowed_order(order)
                else -1
            )
            for order in range(ORDERS_MAX)
        ]
        # Once, when the memory is built: later changes of the marks do not change the bounds.
        self.bounds = [self._bounds_of(zone) for zone in zones]
        self._sets: list[PageSet] = []  # by CPU
        self._owners: list[PageSet | None] = []  # of each CPU: the thread that has it to itself
        self._mutex = sync.mutex("page sets")
        self._local = sync.local(self._make, self._retire)

    def _bounds_of(self, zone: Zone) -> Bounds:
        nodes = sorted({other.node for other in self._zones})
        of_node = len(
            range(nodes.index(zone.node), self._cpus, len(nodes))
        )  # CPUs are dealt out to the nodes
        cpus = of_node or self._cpus
        return zone_bounds(
            zone.managed_pages, zone.low_wmark_pages(), cpus, self._revision, zone.layout.page_shift
        )

    def holds(self, order: int) -> bool:
        """Whether blocks of this order rest on page sets at all (`pcp_allowed_order`)."""
        return self.first[order] >= 0

    # -- allocating and freeing ------------------------------------------------------------------------

    def alloc(self, zone: Zone, order: int, migratetype: int, alloc_flags: int) -> int:
        """Take a block from the set of the calling thread's CPU, refilled if need be (`rmqueue_pcplist`).

        Returns its pfn, or -1 when the zone gives none, and for orders that do not rest on sets.
        """
        first = self.first[order]
        if first < 0:
            return -1
        try:
            pcp = self._local.value[zone.number]
            if pcp.frees:
                pcp.frees >>= 1
            try:
                pfn = pcp.lists[first + migratetype].pop()
            except IndexError:
                pfn = self._refill(zone, pcp, order, migratetype, alloc_flags)
                if pfn < 0:
                    return -1
            state = zone.state
            index = pfn - zone.base_pfn
            if state[index] != ON_PAGE_SET | order:
                raise CorruptPageSet(pfn, order, zone.describe_page(pfn), "free on a page set")
            state[index] = ALLOCATED | order
        except BaseException as error:
            zone.lock.tear(error)  # a block may be neither on the set nor with the caller
            raise
        return pfn

    def _refill(self, zone: Zone, pcp: PerCpuPages, order: int, migratetype: int, alloc_flags: int) -> int:
        """Take some blocks from the zone, keep all but the first, and return that; -1 when it gives none."""
        count = pcp.nr_alloc(order, below_high=zone.below_high)
        taken = zone.rmqueue_bulk(order, migratetype, count, alloc_flags)
        if not taken:
            return -1
        pcp.room -= len(taken) << order
        # Behind what another thread of this CPU may have freed meanwhile.
        pcp.lists[self.first[order] + migratetype].extendleft(taken[1:])
        return taken[0]

    def free(self, zone: Zone, pfn: int, order: int) -> bool:
        """Put an allocated block of the zone on the set of the calling thread's CPU (`free_unref_page`).

        Returns False, and changes nothing, for a block that has to go to the zone: of an order that does not
        rest on sets, or of a withheld pageblock. Raises BadPage, and changes nothing, unless exactly this
        block is allocated here.
        """
        if not 0 <= order < ORDERS_MAX:
            return False
        first = self.first[order]
        if first < 0:
            return False
        state = zone.state
        index = pfn - zone.base_pfn
        if state[index] & OWNED_MASK != ALLOCATED | order:
            zone.check_range(pfn, order)
            raise zone.bad_free(pfn, order)
        migratetype = zone.pageblock_types[index >> zone.pageblock_order]
        if migratetype >= MIGRATE_PCPTYPES:
            if migratetype == MIGRATE_ISOLATE:
                return False  # nothing of a withheld pageblock may be handed out again
            migratetype = MIGRATE_MOVABLE
        pages: Collection[int] = ()
        try:
            state[index] = ON_PAGE_SET | order
            pcp = self._local.value[zone.number]
            pages = stack = pcp.lists[first + migratetype]
            stack.append(pfn)
        except BaseException as error:
            if state[index] == ON_PAGE_SET | order and pfn not in pages:
                zone.lock.tear(error)
            raise
        pcp.room = room = pcp.room - (1 << order)
        if self._tunes:
            free_high = pcp.free_is_high(order)
            if free_high or room <= 0 or zone.below_high:
                self._shorten(zone, pcp, first + migratetype, free_high=free_high)
        elif order and pcp.frees and order <= PAGE_ALLOC_COSTLY_ORDER:
            self._shorten(zone, pcp, first + migratetype, free_high=True)  # at the limit, too
        elif room <= 0:
            self._shorten(zone, pcp, first + migratetype, free_high=False)
        return True

    def _shorten(self, zone: Zone, pcp: PerCpuPages, number: int, *, free_high: bool) -> None:
        """Return pages to the zone if the set has reached its limit, from list `number` on."""
        count = pcp.count()
        high = pcp.nr_high(count, free_high=free_high, below_high=zone.below_high)
        if count >= high:
            nr_pages = pcp.nr_free(count, high, free_high=free_high)
            count -= self._drain_set(zone, pcp, nr_pages, number)
            if zone.below_high and zone.zone_watermark_ok(
                0, zone.high_wmark_pages(), zone.lowmem_reserve[-1]
            ):
                zone.below_high = False
        pcp.room = pcp.high - count

    # -- CPUs ------------------------------------------------------------------------------------------

    def run_on_cpu(self, cpu: int) -> None:
        """Put the calling thread on a CPU: it uses that one's set from now on, with whoever else is there.

        What the CPU that it had to itself holds goes back to the zones. Raises ValueError for a CPU that the
        machine has not got.
        """
        if not 0 <= cpu < self._cpus:
            raise ValueError(f"CPU {cpu}, expected 0 .. {self._cpus - 1}")
        here = self._local.value
        with self._mutex:
            while len(self._sets) <= cpu:
                self._add_cpu(None)
            if self._owners[cpu] is None or self._owners[cpu] is here:
                self._owners[cpu] = _SHARED
        self._retire(here)
        here[:] = self._sets[cpu]

    def _make(self) -> PageSet:
        """Give a thread that comes the first CPU that nobody is on, or one more than the machine says."""
        with self._mutex:
            cpu = self._owners.index(None) if None in self._owners else self._add_cpu(None)
            here = self._owners[cpu] = list(self._sets[cpu])
        return here

    def _add_cpu(self, owner: PageSet | None) -> int:
        pageblock_order = self._zones[0].layout.pageblock_order
        self._sets.append(
            [
                PerCpuPages(bounds, self._nr_small_orders, pageblock_order, self._revision)
                for bounds in self.bounds
            ]
        )
        self._owners.append(owner)
        return len(self._sets) - 1

    def _retire(self, here: PageSet) -> None:
        """Drain the CPU that a thread had to itself and leaves, by ending or for another one."""
        with self._mutex:
            # By identity: two empty sets are equal.
            left = [cpu for cpu, owner in enumerate(self._owners) if owner is here]
        for cpu in left:
            # A finalizer can tell nobody; the next operation does.
            with suppress(TornZone, AnotherProcess, MemoryClosed):
                self._drain(self._sets[cpu])
            self._owners[cpu] = None

    # -- draining --------------------------------------------------------------------------------------

    def drain_local(self) -> int:
        """Return what the set of the calling thread's CPU holds to the zones; returns the pages moved."""
        return self._drain(self._local.value)

    def drain_all(self) -> int:
        """Return what all CPUs' sets hold to the zones; returns the pages moved (`drain_all_pages`)."""
        # A list, here and below: CPython 3.13 crashes when there is no memory to make a generator.
        return sum([self._drain(of_cpu) for of_cpu in self._all_sets()])

    def refresh_vm_stats(self) -> int:
        """Do what each CPU's vmstat worker does once in a second; returns the pages moved (`decay_pcp_high`).

        Since 6.7 a limit that tuned itself up comes down by an eighth, and what is beyond it goes back. A set below
        the share of the low mark keeps what it holds for good, in all kernels.
        """
        if not self._tunes:
            return 0
        return sum(
            [
                self._drain_set(zone, pcp, pcp.decay_high(), 0)
                for of_cpu in self._all_sets()
                for zone, pcp in zip(self._zones, of_cpu, strict=True)
            ]
        )

    def _all_sets(self) -> list[PageSet]:
        return self._sets.copy()  # one step, of a list that only grows

    def _drain(self, of_cpu: PageSet) -> int:
        moved = 0
        for zone, pcp in zip(self._zones, of_cpu, strict=True):
            moved += self._drain_set(zone, pcp, pcp.count(), 0)
        return moved

    @staticmethod
    def _drain_set(zone: Zone, pcp: PerCpuPages, nr_pages: int, first: int) -> int:
        """Return the coldest pages of a set to the zone, from list `first` on; returns how many."""
        try:
            taken = pcp.take_coldest(nr_pages, first)
            if taken:
                zone.free_pcppages_bulk(taken)
        except BaseException as error:
            zone.lock.tear(error)  # what was taken and did not arrive is on no list
            raise
        return sum([1 << order for _, order, _ in taken])

    # -- looking ---------------------------------------------------------------------------------------

    def set_of(self, zone: Zone, cpu: int) -> PerCpuPages:
        """Return a CPU's set of a zone, for those who look on."""
        return self._all_sets()[cpu][zone.number]

    def nr_pages(self, zone: Zone) -> int:
        """Count the pages of a zone that rest on the sets of all CPUs, at about this moment."""
        return sum([of_cpu[zone.number].count() for of_cpu in self._all_sets()])

    def holdings(self, zone: Zone) -> list[Holding]:
        """Return what each CPU's set of a zone holds and may hold, at about this moment."""
        batch, high_min, _ = self.bounds[zone.number]
        holdings = [
            Holding(cpu, of_cpu[zone.number].count(), of_cpu[zone.number].high, batch)
            for cpu, of_cpu in enumerate(self._all_sets())
        ]
        high = 0 if self._tunes else high_min
        return holdings + [Holding(cpu, 0, high, batch) for cpu in range(len(holdings), self._cpus)]
