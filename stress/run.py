"""A stress run: real threads, real locks and real memory, with reporting in between, judged as it goes.

The main thread builds a memory, registers the reporter, starts the allocators, and then only looks: it
samples counts for whoever watches, and walks a zone under its lock now and then. When the time is over it
lets the allocators free everything, waits until the worker has nothing left to do, and holds what is left
against what must be: no page lost, none with two owners, nothing in flight but what a reporter never gave
back.
"""

from __future__ import annotations

import faulthandler
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from pagealloc.gfp import GFP_HIGHUSER_MOVABLE
from pagealloc.memory import Memory
from pagealloc.policy import PRESETS
from pagealloc.ram import RamKind
from pagealloc.sync import Sync, Thread
from pagealloc.tracepoints import Trace
from pagealloc.validate import Census, validate
from pagealloc.zone import Zone
from stress.ledger import CheckedReporter, Ledger, Violations
from stress.mutants import planted
from stress.params import RunParams
from stress.recorder import Recorder
from stress.snapshot import record_counts, snapshot_zone
from workers.allocators import Allocator, Held
from workers.page_reporting import (
    PageReporting,
    PageReportingDevice,
    Reporter,
    ReporterStuck,
)
from workers.reporters import FaultInjector, Sleep
from workers.workqueue import Workqueue

SAMPLE_INTERVAL_S = 0.2
CENSUS_SHARE = 0.05  # of the run's time at most goes into walking zones
CENSUS_INTERVAL_S = 1.0
QUOTA_SHARE = 0.85  # of all pages, shared out to the allocators
ALLOCATOR_SEEDS = 10_007  # keeps the threads' streams apart for neighbouring seeds
JOIN_TIMEOUT_S = 30.0
STUCK_AFTER_S = 2.0  # beyond the time that a batch is known to take
SETTLE_DELAY_MAX_S = 10.0  # a pass that is due later than this is not waited for
SETTLE_INTERVAL_S = 0.05
KNOCKS_IN_VAIN_MAX = 10
SETTLE_PASSES_MAX = 64  # lists settle in 16 passes; a worker that goes on after four times that never ends


@dataclass(frozen=True, slots=True)
class ZoneStatus:
    """Pages of one zone, by what they are at about one moment."""

    name: str
    managed: int
    free: int
    allocated: int
    on_page_sets: int
    in_flight: int
    reported: int


@dataclass(frozen=True, slots=True)
class Status:
    """What a run looks like at about one moment; counts are since its beginning."""

    seconds: float
    phase: str
    zones: tuple[ZoneStatus, ...]
    allocs: int
    frees: int
    failed_allocs: int
    ops_per_second: float
    resident_bytes: int
    total_bytes: int
    passes: int
    batches: int
    failed_batches: int
    reported_bytes: int
    state: str
    stuck: str | None
    violations: int


@dataclass(slots=True)
class Summary:
    """How a run ended."""

    verdict: str = "FAILURE"
    violations: list[str] = field(default_factory=list)
    violation_count: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    allocators: int = 0
    allocs: int = 0
    frees: int = 0
    failed_allocs: int = 0
    passes: int = 0
    batches: int = 0
    failed_batches: int = 0
    reported_blocks: int = 0
    reported_bytes: int = 0
    stuck_batches: int = 0
    resident_bytes_start: int = 0
    resident_bytes_peak: int = 0
    resident_bytes_end: int = 0
    notes: list[str] = field(default_factory=list)
    params: dict[str, object] = field(default_factory=dict)


Watcher = Callable[[Status], None]


def _no_trace(event: str, /, *fields: object) -> None:
    """Let an event go unrecorded."""


class StressRun:
    """One run. `watch` is called with a fresh status a few times a second; `recorder` keeps the log."""

    def __init__(
        self,
        params: RunParams,
        sync: Sync,
        reporter: Reporter,
        watch: Watcher,
        recorder: Recorder | None = None,
    ) -> None:
        self._params = params
        self._sync = sync
        self._watch = watch
        self._recorder = recorder
        self._trace: Trace = recorder.trace if recorder is not None else _no_trace
        self._start_s = sync.monotonic()
        self._summary = Summary(allocators=params.allocators, params=params.as_dict())
        self._violations = Violations(sync, lambda text: self._trace("violation", text))
        ram: RamKind = "memfd" if params.ram == "memfd" else "anonymous"
        self._memory = Memory(params.zone_specs(), policy=PRESETS[params.preset], sync=sync, ram=ram)
        self._ledger = Ledger(self._memory, sync, self._violations)
        self._injector = FaultInjector(
            reporter,
            sync,
            sync.rng(params.seed),
            fail_rate=params.fail_rate,
            delay_rate=params.delay_rate,
            lose_rate=params.lose_rate,
        )
        slow = Sleep(self._injector, sync, sync.rng(params.seed + 1), *params.reporter_sleep_s)
        self._device = PageReportingDevice(
            CheckedReporter(slow, self._ledger),
            order=params.order,
            capacity=params.capacity,
            name=params.reporter,
        )
        self._workqueue = Workqueue(sync, "page_reporting")
        self._reporting = PageReporting(
            self._memory.zones,
            self._memory.policy,
            sync,
            self._workqueue,
            delay_s=params.delay,
        )
        self._stop = sync.event("stop")
        self._allocators = self._build_allocators()
        self._threads: list[Thread] = []
        self._next_census_s = self._start_s + CENSUS_INTERVAL_S
        self._last_sample = (self._start_s, 0)
        self._ops_per_second = 0.0
        self._came_to_rest = False

    def _build_allocators(self) -> list[Allocator]:
        params, memory = self._params, self._memory
        inboxes: list[deque[Held]] = [deque() for _ in range(params.allocators)]
        quota_pages = int(memory.nr_pages() * QUOTA_SHARE) // params.allocators
        nodes = sorted({zone.node for zone in memory.zones})
        return [
            Allocator(
                number,
                memory,
                self._sync,
                self._sync.rng(params.seed * ALLOCATOR_SEEDS + number),
                self._sync.rng(params.seed),
                quota_pages=quota_pages,
                audit=self._ledger,
                inboxes=inboxes,
                stop=self._stop,
                node=nodes[number % len(nodes)],
            )
            for number in range(params.allocators)
        ]

    # -- the run, from start to verdict ------------------------------------------------------------------

    def run(self) -> Summary:
        """Run to the end and return the summary; Ctrl-C ends the load early, not the checks."""
        summary = self._summary
        with planted(self._params.mutant):
            try:
                self._begin()
                self._unless_interrupted(self._load)
                self._note_worker_death()
                alive = self._stop_allocators()
                if not alive:
                    self._unless_interrupted(self._settle)
                self._came_to_rest = not alive and self._reporting.settled()
                summary.seconds = self._elapsed_s()
                self._part_with_device()
                if not alive:
                    self._final_checks()
                summary.resident_bytes_end = self._sample("end").resident_bytes
                self._tear_down(alive=alive)
            except BaseException:
                self._abandon()
                raise
        self._fill_summary()
        self._trace("run_end", summary.verdict, summary.violation_count)
        return summary

    def _begin(self) -> None:
        self._summary.resident_bytes_start = self._memory.resident_bytes()
        self._note_zones_out_of_reach()
        if self._recorder is not None:
            self._recorder.attach(self._memory, self._reporting)
        self._workqueue.start()
        self._reporting.register(self._device)
        self._threads = [
            self._sync.spawn(f"allocator-{allocator.number}", self._guarded(allocator))
            for allocator in self._allocators
        ]

    def _unless_interrupted(self, phase: Callable[[], None]) -> None:
        """Go through a phase; Ctrl-C ends it, and the run goes on with the next one."""
        try:
            phase()
        except KeyboardInterrupt:
            self._summary.interrupted = True

    def _abandon(self) -> None:
        """End all threads of a run that cannot be judged any more, because nobody listens or Ctrl-C came twice."""
        self._stop.set()
        self._injector.release()
        for thread in self._threads:
            thread.join(STUCK_AFTER_S)
        self._workqueue.stop(STUCK_AFTER_S)

    def _guarded(self, allocator: Allocator) -> Callable[[], None]:
        def target() -> None:
            try:
                allocator.run()
            except Exception as error:
                self._violations.add(f"allocator {allocator.number} died: {type(error).__name__}: {error}")

        return target

    def _note_worker_death(self) -> None:
        """Name the worker's death before whatever follows from it."""
        failure = self._workqueue.failure
        if failure is not None:
            self._violations.add(f"the reporting worker died: {type(failure).__name__}: {failure}")

    def _load(self) -> None:
        end_s = self._start_s + self._params.seconds
        while (now_s := self._sync.monotonic()) < end_s and self._workqueue.failure is None:
            self._sync.sleep(min(SAMPLE_INTERVAL_S, end_s - now_s))
            self._sample("load")
            self._census_if_due()

    def _stop_allocators(self) -> list[Thread]:
        """Stop the load and free everything; returns the threads that did not end."""
        self._stop.set()
        deadline_s = self._sync.monotonic() + JOIN_TIMEOUT_S
        alive = [
            thread
            for thread in self._threads
            if not thread.join(max(0.1, deadline_s - self._sync.monotonic()))
        ]
        for thread in alive:
            self._violations.add(
                f"hang: {thread.name} did not end within {JOIN_TIMEOUT_S:g} s of the load's end"
            )
        if alive:
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
            return alive
        try:
            for allocator in self._allocators:
                allocator.empty_inbox()  # what was handed over after its thread had left
            self._memory.drain_all_pages()
        except Exception as error:
            self._violations.add(f"freeing what was left over failed: {type(error).__name__}: {error}")
        return alive

    def _settle(self) -> None:
        """Wait until the worker is idle and everything that can be reported is.

        A failed batch is retried only when somebody frees a large block again (L8), so after a failure a
        block is allocated and freed, until there is nothing unreported or the patience for it is used up.
        """
        stats = self._reporting.stats
        in_vain = 0
        while in_vain < KNOCKS_IN_VAIN_MAX:
            reported_before = stats.reported_blocks
            self._await_idle()
            if not self._reporting.settled() or not self._knock_is_due():
                return
            in_vain = 0 if stats.reported_blocks > reported_before else in_vain + 1
            self._knock()

    def _await_idle(self) -> None:
        stats = self._reporting.stats
        patience_s = (
            min(self._params.delay, SETTLE_DELAY_MAX_S) + self._params.reporter_sleep_s[1] + STUCK_AFTER_S
        )
        passes_before = stats.passes
        progress, progress_s = (stats.passes, stats.batches), self._sync.monotonic()
        while not self._reporting.settled():
            self._sync.sleep(SETTLE_INTERVAL_S)
            now_s = self._sync.monotonic()
            if (stats.passes, stats.batches) != progress:
                progress, progress_s = (stats.passes, stats.batches), now_s
            elif now_s - progress_s > patience_s:
                return  # the reporter is away; unregistering will say so
            if stats.passes - passes_before > SETTLE_PASSES_MAX:
                self._violations.add(
                    f"the worker made {stats.passes - passes_before} passes after the last free, state "
                    f"{self._reporting.state_name()}: a quiet system must come to rest (L3)"
                )
                return
            self._sample("settle")

    def _knock_is_due(self) -> bool:
        """Whether blocks stay unreported because of failed batches, not because of their zone."""
        waiting = any(self._nr_unreported(zone) for zone in self._memory.zones)
        return waiting and self._reporting.stats.failed_batches > 0

    def _nr_unreported(self, zone: Zone) -> int:
        """Count the free blocks that a pass should have reported; none in a zone that no pass visits."""
        if not self._in_reach(zone):
            return 0
        order = self._params.order or self._memory.layout.pageblock_order
        orders = range(order, self._memory.layout.nr_orders)
        return sum(zone.nr_free[o] - zone.nr_reported[o] for o in orders)

    def _knock(self) -> None:
        """Allocate a block of the reporting order and free it, so that the worker is asked again."""
        order = self._params.order or self._memory.layout.pageblock_order
        pfn = self._memory.alloc_pages(GFP_HIGHUSER_MOVABLE, order)
        if pfn is not None:
            self._memory.free_pages(pfn, order)
            self._memory.drain_local_pages()

    def _part_with_device(self) -> None:
        """Unregister; a reporter that does not come back is noted, not waited for."""
        try:
            self._reporting.unregister(self._device, STUCK_AFTER_S)
        except ReporterStuck as stuck:
            if self._reporting.flight is not None:
                self._summary.stuck_batches = 1
                self._summary.notes.append(f"stuck: {stuck}")
            else:
                self._violations.add(f"hang: {stuck}; the worker does not end by itself")
                faulthandler.dump_traceback(file=sys.stderr, all_threads=True)

    def _final_checks(self) -> None:
        """Hold the memory against what must be left when everybody has freed everything."""
        flight = self._reporting.flight
        self._trace("rest", self._came_to_rest)
        for zone in self._memory.zones:
            census = self._census(zone, snapshot=True)
            in_flight = 0
            if flight is not None and flight.zone is zone:
                in_flight = sum(1 << block.order for block in flight.batch)
            for what, found, expected in (
                ("allocated", census.allocated, 0),
                ("on page sets", census.on_page_sets, 0),
                ("in flight", census.in_flight, in_flight),
                ("owned by the ledger", self._ledger.live_pages(zone), 0),
            ):
                if found != expected:
                    self._violations.add(
                        f"zone {zone.name}: {found} pages are {what} after everything was freed, expected {expected}"
                    )
        self._expect_all_reported()

    def _expect_all_reported(self) -> None:
        """With everything free, at rest and never failed, nothing in reach may be left unreported (L1).

        A block that the last pass was not allowed to take may stay: when nearly the whole zone fits into one
        batch, the min watermark keeps the last block back, and nobody asks again.
        """
        stats = self._reporting.stats
        excused = (
            stats.failed_batches or stats.lost_passes or stats.refused_in_pass or self._summary.stuck_batches
        )
        if excused or not self._came_to_rest:
            return
        for zone in self._memory.zones:
            waiting = self._nr_unreported(zone)
            if waiting:
                self._violations.add(
                    f"zone {zone.label}: {waiting} blocks are free, and nobody will report them, after {stats.passes} "
                    "passes without a failure: a request was lost (L1)"
                )

    def _tear_down(self, *, alive: list[Thread]) -> None:
        """Let lost batches come back, end the worker, and return the memory if nobody can touch it any more."""
        self._injector.release()
        worker_ended = self._workqueue.stop(STUCK_AFTER_S)
        if worker_ended and not alive:
            self._memory.close()

    def _fill_summary(self) -> None:
        summary, stats = self._summary, self._reporting.stats
        summary.allocs = sum(allocator.stats.allocs for allocator in self._allocators)
        summary.frees = sum(allocator.stats.frees for allocator in self._allocators)
        summary.failed_allocs = sum(allocator.stats.failed_allocs for allocator in self._allocators)
        summary.passes = stats.passes
        summary.batches = stats.batches
        summary.failed_batches = stats.failed_batches
        summary.reported_blocks = stats.reported_blocks
        summary.reported_bytes = stats.reported_bytes
        if stats.first_error is not None:
            summary.notes.append(f"{stats.failed_batches} batches failed, the first with {stats.first_error}")
        if not stats.reported_blocks:
            summary.notes.append("nothing was reported")
        summary.violations = self._violations.texts
        summary.violation_count = self._violations.count
        summary.verdict = "FAILURE" if summary.violation_count else "SUCCESS"

    # -- looking -----------------------------------------------------------------------------------------

    def _note_zones_out_of_reach(self) -> None:
        """Say which zones can never be reported: even wholly free they are below the starting mark."""
        order = self._params.order or self._memory.layout.pageblock_order
        for zone in self._memory.zones:
            if not self._in_reach(zone):
                needed = zone.low_wmark_pages() + (self._params.capacity << order)
                self._summary.notes.append(
                    f"zone {zone.label} is never reported: a pass needs more than {needed} free pages "
                    f"(low watermark + capacity << order), the zone has {zone.managed_pages}"
                )

    def _in_reach(self, zone: Zone) -> bool:
        """Whether a pass ever visits the zone: wholly free, it must be above the starting mark."""
        order = self._params.order or self._memory.layout.pageblock_order
        return zone.managed_pages > zone.low_wmark_pages() + (self._params.capacity << order)

    def _census_if_due(self) -> None:
        """Walk every zone under its lock, but not so often that the walk becomes the load."""
        before_s = self._sync.monotonic()
        if before_s < self._next_census_s:
            return
        for zone in self._memory.zones:
            self._census(zone)
        now_s = self._sync.monotonic()
        self._next_census_s = now_s + max(CENSUS_INTERVAL_S, (now_s - before_s) / CENSUS_SHARE)

    def _census(self, zone: Zone, *, snapshot: bool = False) -> Census:
        zone.lock.acquire()
        try:
            census = validate(zone)
            if zone.trace is not None:
                (snapshot_zone if snapshot else record_counts)(zone, zone.trace)
        finally:
            zone.lock.release()
        counted = census.free + census.allocated + census.on_page_sets + census.in_flight
        if counted != zone.managed_pages and not census.problems:
            census.problem(
                f"zone {zone.name} has {zone.managed_pages} pages, {counted} of them have a place (S2)"
            )
        for problem in census.problems:
            self._violations.add(problem)
        return census

    def _sample(self, phase: str) -> Status:
        now_s = self._sync.monotonic()
        stats = self._reporting.stats
        allocs = sum(allocator.stats.allocs for allocator in self._allocators)
        frees = sum(allocator.stats.frees for allocator in self._allocators)
        last_s, last_ops = self._last_sample
        if now_s - last_s >= SAMPLE_INTERVAL_S:
            self._ops_per_second = (allocs + frees - last_ops) / (now_s - last_s)
            self._last_sample = (now_s, allocs + frees)
        resident_bytes = self._memory.resident_bytes()
        self._summary.resident_bytes_peak = max(self._summary.resident_bytes_peak, resident_bytes)
        flight = self._reporting.flight
        patience_s = self._params.reporter_sleep_s[1] + STUCK_AFTER_S
        away = flight is not None and now_s - flight.since_s > patience_s
        status = Status(
            seconds=now_s - self._start_s,
            phase=phase,
            zones=tuple(self._zone_status(zone) for zone in self._memory.zones),
            allocs=allocs,
            frees=frees,
            failed_allocs=sum(allocator.stats.failed_allocs for allocator in self._allocators),
            ops_per_second=self._ops_per_second,
            resident_bytes=resident_bytes,
            total_bytes=self._memory.ram.nr_bytes if self._memory.ram is not None else 0,
            passes=stats.passes,
            batches=stats.batches,
            failed_batches=stats.failed_batches,
            reported_bytes=stats.reported_bytes,
            state=self._reporting.state_name(),
            stuck=self._reporting.describe_flight() if away else None,
            violations=self._violations.count,
        )
        self._watch(status)
        self._trace(
            "sample",
            status.resident_bytes,
            status.total_bytes,
            status.allocs,
            status.frees,
            status.failed_allocs,
            [(z.free, z.allocated, z.on_page_sets, z.in_flight, z.reported) for z in status.zones],
        )
        return status

    def _zone_status(self, zone: Zone) -> ZoneStatus:
        flight = self._reporting.flight
        in_flight = 0
        if flight is not None and flight.zone is zone:
            in_flight = sum(1 << block.order for block in flight.batch)
        free, on_page_sets = zone.nr_free_pages, self._memory.nr_page_set_pages(zone)
        return ZoneStatus(
            name=zone.label,
            managed=zone.managed_pages,
            free=free,
            allocated=max(0, zone.managed_pages - free - on_page_sets - in_flight),
            on_page_sets=on_page_sets,
            in_flight=in_flight,
            reported=sum(count << order for order, count in enumerate(zone.nr_reported)),
        )

    def _elapsed_s(self) -> float:
        return self._sync.monotonic() - self._start_s
