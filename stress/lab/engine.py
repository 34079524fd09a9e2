"""The engine: one thread that moves the clock from one event to the next.

Two things can be next: a step of the load, or the reporter's timer. While the reporter has a batch, time goes on,
and so does the load: its steps up to the end of the call run inside the call, with the blocks in flight. That is
how another CPU meets a batch in the kernel. Between two calls of one pass no time passes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf

from pagealloc.gfp import GFP_HIGHUSER_MOVABLE
from pagealloc.memory import Memory
from pagealloc.mmzone import MIGRATE_PCPTYPES, MIGRATE_UNMOVABLE
from pagealloc.pcp import VMSTAT_INTERVAL_S
from pagealloc.zone import Zone
from stress.lab.guest import Guest, build_memory, free_blocks, mark_reported
from stress.lab.host import QUIET, Cost, Host
from stress.lab.virtual import VirtualSync, VirtualWorkqueue, Wheel
from workers.page_reporting import Batch, PageReporting, PageReportingDevice
from workers.policies import load_policy
from workers.policy import ReportingPolicy

Load = Callable[["Machine"], Iterator[float]]
"""A load: called with the machine it yields the time of its next step, in seconds, and acts when it is resumed then."""

SAMPLES = 300  # of the curves of one run, each with one more where time jumps on


@dataclass(frozen=True, slots=True)
class Setting:
    """What is to be chosen: the knobs of reporting."""

    order: int | None = None  # smallest order to report; None for the pageblock order
    delay_s: float = 2.0
    capacity: int = 32
    budget: int = 16
    policy: str = "kernel"


def policy_of(setting: Setting) -> ReportingPolicy:
    """Make the setting's policy; the budget is the kernel's own knob. Raises PolicyError."""
    return (
        ReportingPolicy(budget_divisor=setting.budget)
        if setting.policy == "kernel"
        else load_policy(setting.policy)
    )


@dataclass(slots=True)
class Pass:
    """A pass of the reporter."""

    t_s: float
    end_s: float = 0.0
    calls: int = 0
    blocks: int = 0
    pages: int = 0
    taken_pages: int = 0  # of these, what the host had backed


@dataclass(frozen=True, slots=True)
class Sample:
    """The guest and its host at one moment, in pages."""

    t_s: float
    used: int
    used_2m: int  # what is not free in whole blocks of 2 MiB
    resident: int


class Machine:
    """One guest on its host, in virtual time; it is its device's reporter too."""

    def __init__(
        self,
        guest: Guest,
        setting: Setting,
        *,
        wheel: Wheel,
        host: Host | None = None,
        thp: bool = True,
        cost: Cost = QUIET,
        seed: int = 0,
        page_sets: bool = True,
        start_s: float = 0.0,
        scale: int = 1,
    ) -> None:
        self.sync = VirtualSync()
        self.sync.now_s = start_s
        self.rng = self.sync.rng(seed)
        self.memory: Memory = build_memory(guest, self.sync, self.rng, page_sets=page_sets)
        self.host = host if host is not None else Host(self.memory.zones[-1].end_pfn, thp=thp)
        self.cost = cost
        self.call_s: Callable[[int, Batch], float] | None = (
            None  # how long call number n lasts, if that is known
        )
        self.starts_at: Callable[[float, int], float] | None = (
            None  # when a CPU lets in what is due, if known
        )
        self.passes: list[Pass] = []
        self.samples: list[Sample] = []
        self.failed_allocations = 0
        self.in_flight_max = 0  # pages that nobody could allocate at one time
        self.unseen_touches: list[tuple[float, int]] = []  # (time, pages) of allocations that were inferred
        self.page_set_high = 0  # pages that the CPUs' lists may hold, where that is known
        if guest.state is not None:
            self.page_set_high = sum(
                each.high for zone in guest.state.zones.values() for each in zone.page_sets
            )
        self.report_s = 0.0  # spent in report calls
        self.last_free_s = start_s
        self.start_s = start_s
        self._exact = bool(guest.lists)
        self.begin_log: Callable[[Machine], None] = lambda _: None  # told when the start state is complete
        self._scale = scale  # each call stands for so many blocks of the real guest
        self._steps: Iterator[float] = iter(())
        self._next_step_s = inf
        self._sampled_s = start_s
        self._sample_every_s = 0.0
        self.resident_page_s = 0.0  # integral over time
        self.used_page_s = 0.0
        self.peak_pages = 0
        self._nr_pages = self.memory.nr_pages()
        self.workqueue = VirtualWorkqueue(self.sync, wheel)
        self.reporting = PageReporting(
            self.memory.zones,
            guest.revision,
            self.sync,
            self.workqueue,
            delay_s=setting.delay_s,
            policy=policy_of(setting),
        )
        self.device = PageReportingDevice(self, order=setting.order, capacity=setting.capacity, name="lab")
        self._back_what_is_used()
        self.order = setting.order if setting.order is not None else self.memory.layout.pageblock_order
        self._calls = 0
        # Only limits that tune themselves come down again, and that is all a visit of the vmstat worker does here.
        tunes = page_sets and guest.revision.pcp_tunes_high
        self._next_refresh_s = start_s + VMSTAT_INTERVAL_S if tunes else inf

    def _back_what_is_used(self) -> None:
        """Let the host hold what is in use at the start, and no free page: that was reported, or never touched."""
        for zone in self.memory.zones:
            pfn = zone.start_pfn
            for free, order in sorted(free_blocks(zone)):
                self.host.back(pfn, free - pfn)
                pfn = free + (1 << order)
            self.host.back(pfn, zone.end_pfn - pfn)

    def use(self, nr_pages: int) -> None:
        """Begin with so many pages in use, of the zone that allocations prefer: the kernel's, and the page cache's."""
        zones = sorted(self.memory.zones, key=lambda zone: zone.number, reverse=True)
        order = self.memory.layout.pageblock_order
        for zone in zones:
            while nr_pages >= 1 << order and zone.nr_free_pages > zone.managed_pages // 10:
                pfn = zone.rmqueue_buddy(order, MIGRATE_UNMOVABLE)
                if pfn < 0:
                    break
                self.host.touch(pfn, order)
                nr_pages -= 1 << order

    # -- what loads call -----------------------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        """The virtual time."""
        return self.sync.now_s

    def alloc(self, order: int = 0, gfp: int = GFP_HIGHUSER_MOVABLE) -> int | None:
        """Allocate a block and write to it; returns its pfn, or None."""
        pfn = self.memory.alloc_pages(gfp, order)
        if pfn is None:
            self.failed_allocations += 1
        else:
            self.host.touch(pfn, order)
        return pfn

    def free(self, pfn: int, order: int = 0) -> None:
        """Free a block that `alloc` returned."""
        self.memory.free_pages(pfn, order)
        self.last_free_s = self.sync.now_s

    # -- running -------------------------------------------------------------------------------------------

    def register(self) -> None:
        """Load the driver: from here on there are reports, and a first pass is asked for."""
        self.reporting.register(self.device)

    def register_quietly(self, *, armed_s: float | None = None, reported: bool = True) -> None:
        """Begin with a driver that was loaded long ago, and has reported every block.

        Not those that exact lists say it does not know, and none if `reported` is False: the host backs them. With
        `armed_s` a pass is due then: a free of a pageblock at least has asked for it before the run.
        """
        for zone in self.memory.zones:
            if reported and not self._exact:
                mark_reported(zone, self.order)
            for pfn, order in free_blocks(zone):
                if not reported or (self._exact and order >= self.order and not zone.is_reported(pfn)):
                    self.host.back(pfn, 1 << order)
        if armed_s is not None:
            self._forget_one_block()
        self.begin_log(self)
        # Its first pass looks at no zone, for none has enough. So it takes nothing, whatever the lists say.
        marks = [list(zone.watermark) for zone in self.memory.zones]
        for zone in self.memory.zones:
            zone.set_watermarks(*[zone.end_pfn] * 3)
        self.reporting.register(self.device)
        self.reporting.run_now()
        for zone, (min_pages, low, high) in zip(self.memory.zones, marks, strict=True):
            zone.set_watermarks(min_pages, low, high)
        if armed_s is not None:
            self.workqueue.fire_next_at(armed_s)
            self.ask()

    def ask(self) -> None:
        """Ask for a report on behalf of a free that is not in the model; a log has nothing of it."""
        trace, self.reporting.trace = self.reporting.trace, None
        self.reporting.notify()
        self.reporting.trace = trace

    def _forget_one_block(self) -> None:
        """Let the host not know of one free block, the smallest that could have asked."""
        for order in range(self.order, self.memory.layout.nr_orders):
            for zone in reversed(self.memory.zones):
                for migratetype in range(MIGRATE_PCPTYPES):
                    index = zone.get_page_from_free_area(order, migratetype)
                    if index >= 0:
                        zone.del_page_from_free_list(index, order)
                        zone.add_to_free_list(index, order, migratetype)
                        return

    def run(self, load: Load, until_s: float) -> None:
        """Run the load, and the reporter, up to a time."""
        self._sample_every_s = max(until_s - self.start_s, 1e-9) / SAMPLES
        self._sample()
        self._steps = load(self)
        self._next_step_s = next(self._steps, inf)
        while True:
            due_s = self.workqueue.next_deadline()
            due_s = inf if due_s is None else max(due_s, self.sync.now_s)
            if self.starts_at is not None:
                due_s = self.starts_at(due_s, self.workqueue.cpu)
            next_s = min(due_s, self._next_step_s, self._next_refresh_s)
            if next_s > until_s:
                break
            if next_s == self._next_refresh_s:
                self._move_to(next_s)
                self._next_refresh_s += VMSTAT_INTERVAL_S
                self.memory.refresh_vm_stats()
            elif next_s == due_s:
                self._move_to(due_s)
                self._pass()
            else:
                self._step()
        self._move_to(until_s)
        self._sample()

    def _step(self) -> None:
        """Let the load make its next step."""
        self._move_to(self._next_step_s)
        self._next_step_s = next(self._steps, inf)

    def _move_to(self, now_s: float) -> None:
        elapsed_s = now_s - self.sync.now_s
        if elapsed_s <= 0:
            return
        samples = now_s - self._sampled_s >= self._sample_every_s
        if samples and self.sync.now_s > self._sampled_s:
            self._sample()  # what has held since the last event holds until now
        resident = self.host.resident_pages
        self.resident_page_s += resident * elapsed_s
        self.used_page_s += (self._nr_pages - self.memory.nr_free_pages()) * elapsed_s
        self.peak_pages = max(self.peak_pages, resident)
        self.sync.now_s = now_s
        if samples:
            self._sample()

    def resident_at(self, t_s: float) -> int:
        """Return the resident pages at a time, as far as samples tell."""
        return self.samples[
            max(0, bisect_right(self.samples, t_s, key=lambda sample: sample.t_s) - 1)
        ].resident

    def _sample(self) -> None:
        self._sampled_s = self.sync.now_s
        huge = sum(
            sum(count << order for order, count in enumerate(zone.nr_free) if order >= 9)
            for zone in self.memory.zones
        )
        used = self._nr_pages - self.memory.nr_free_pages()
        self.samples.append(Sample(self.sync.now_s, used, self._nr_pages - huge, self.host.resident_pages))

    # -- the reporter --------------------------------------------------------------------------------------

    def _pass(self) -> None:
        self.passes.append(Pass(self.sync.now_s))
        self.sync.cpu = self.workqueue.cpu
        self.reporting.run_now()
        self.passes[-1].end_s = self.sync.now_s

    def report(self, zone: Zone, batch: Batch) -> None:
        """Take a batch for as long as the host needs, block after block, while the load goes on."""
        done = self.passes[-1]
        begin_s = clock_s = self.sync.now_s
        whole_s = self.call_s(self._calls, batch) if self.call_s is not None else None
        self._calls += 1
        self.in_flight_max = max(self.in_flight_max, sum(1 << block.order for block in batch))
        if whole_s is None:
            clock_s += self.cost.call_s * self._scale
        for block in batch:
            if whole_s is not None:
                clock_s += whole_s / len(batch)
                self._run_load_until(clock_s)
            taken = self.host.discard(block.pfn, block.order)
            if whole_s is None:
                clock_s += (self.cost.block_s + self.host.discard_s(self.cost, taken)) * self._scale
                self._run_load_until(clock_s)
            done.pages += 1 << block.order
            done.taken_pages += taken
        done.calls += 1
        done.blocks += len(batch)
        self.report_s += self.sync.now_s - begin_s
        self.sync.cpu = self.workqueue.cpu  # the load may have acted elsewhere

    def _run_load_until(self, clock_s: float) -> None:
        while self._next_step_s <= clock_s:
            self._step()
        self._move_to(clock_s)
