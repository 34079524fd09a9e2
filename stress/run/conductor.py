"""A stress run: real threads, real locks and real memory, with reporting in between, judged as it goes.

One thread *conducts*: it registers the reporter, starts the allocators and goes through the phases of the
load, while it samples counts for whoever watches, and walks a zone under its lock now and then. When the time
is over it lets the allocators free everything, waits until the worker has nothing left to do, and holds what is
left against what must be: no page lost, none with two owners, nothing in flight but what a reporter never gave
back.

Whoever called `run` only *watches over* that: it takes no lock of the run, so it can end a hang, and it is the
one that hears Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from traceback import extract_tb

from pagealloc.memory import Memory
from pagealloc.ram import RamKind
from pagealloc.revision import PRESETS
from pagealloc.sync import Sync, Thread
from pagealloc.tracepoints import Trace
from pagealloc.validate import Census, validate
from pagealloc.zone import Zone
from stress.log.recorder import Recorder
from stress.log.snapshot import record_counts, snapshot_zone
from stress.mutants import planted
from stress.run.crew import Crew
from stress.run.fairness import Fairness, unfair
from stress.run.footprint import Footprints, take
from stress.run.ledger import CheckedReporter, Ledger, Violations
from stress.run.manners import Manners
from stress.run.params import Phase, RunParams
from stress.run.settle import STUCK_AFTER_S, Settling
from stress.run.status import Status, zone_status
from stress.run.torture import Torture
from stress.run.watchdog import Watchdog, stacks
from workers.page_reporting import (
    PageReporting,
    PageReportingDevice,
    Reporter,
    ReporterStuck,
)
from workers.reporters import close_reporter, start_reporter
from workers.workqueue import Workqueue

SAMPLE_INTERVAL_S = 0.2
WATCH_INTERVAL_S = 0.05
CENSUS_SHARE = 0.05  # of the run's time at most goes into walking zones
CENSUS_INTERVAL_S = 1.0
LEAVING_S = 0.5  # for all threads of a run that is given up
FOOTPRINTS_PER_RUN = 1000
CONDUCTOR, WORKER = "conductor", "page_reporting"


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
    operations: list[int] = field(default_factory=list)  # by allocator
    unfair_intervals: int = 0
    footprint: dict[str, object] = field(default_factory=dict)
    kept_max: dict[str, int] = field(default_factory=dict)  # the most that the run itself kept of each
    stacks: list[str] = field(default_factory=list)  # where every thread stood when the run hung
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
        self._memory = Memory(params.zone_specs(), revision=PRESETS[params.preset], sync=sync, ram=ram)
        self._ledger = Ledger(self._memory, sync, self._violations)
        self._reporter = reporter
        self._manners = Manners(reporter, params, sync, self._violations)
        self._device = PageReportingDevice(
            CheckedReporter(self._manners, self._ledger, self._trace),
            order=params.order,
            capacity=params.capacity,
            name=params.reporter,
        )
        self._workqueue = Workqueue(sync, "page_reporting")
        self._reporting = PageReporting(
            self._memory.zones,
            self._memory.revision,
            sync,
            self._workqueue,
            delay_s=params.delay,
        )
        self._crew = Crew(params, self._memory, sync, self._ledger, self._violations)
        self._settling = Settling(
            params, self._memory, self._reporting, sync, self._violations, lambda: self._sample("settle")
        )
        self._fairness = Fairness(params.fair_interval)
        self._footprints = Footprints(max(SAMPLE_INTERVAL_S, params.seconds / FOOTPRINTS_PER_RUN))
        self._now_params = params  # of the phase that the run is in
        self._torture: Torture | None = None
        self._next_census_s = self._start_s + CENSUS_INTERVAL_S
        self._last_sample = (self._start_s, 0)
        self._ops_per_second = 0.0
        self._came_to_rest = False
        # What the conductor and whoever watches over it tell each other; each is written by one of them.
        self._ended = False
        self._raised: BaseException | None = None
        self._steps = 0
        self._watchdog = Watchdog(params.hang_after)
        self._walking = False
        self._interrupted = False
        self._late: list[str] = []

    # -- the run, from start to verdict ------------------------------------------------------------------

    def run(self) -> Summary:
        """Run to the end and return the summary.

        KeyboardInterrupt ends the load early, not the checks; a second one is raised. A hang ends the run.
        """
        switch_interval_s = sys.getswitchinterval()
        with planted(self._params.mutant):
            self._sync.spawn("conductor", self._conduct)
            try:
                while not self._ended and not self._given_up():
                    self._watch_over()
            finally:
                sys.setswitchinterval(switch_interval_s)
                if not self._ended:
                    self._abandon()
        if self._raised is not None:
            raise self._raised
        if not self._ended:
            self._fill_summary()
        return self._summary

    def _conduct(self) -> None:
        try:
            self._go_through()
        except BaseException as raised:
            self._abandon()
            self._raised = raised
        finally:
            self._ended = True

    def _go_through(self) -> None:
        summary = self._summary
        self._begin()
        self._load()
        self._note_worker_death()
        alive = self._stop_allocators()
        if not alive:
            self._came_to_rest = self._settle()
            self._trace("rest", self._came_to_rest)
        summary.seconds = self._elapsed_s()
        self._part_with_device()
        if not alive:
            self._final_checks()
        summary.resident_bytes_end = self._sample("end").resident_bytes
        self._tear_down(alive=alive)
        self._footprints.after = take(self._memory.resident_bytes())
        self._fill_summary()
        self._trace("run_end", summary.verdict, summary.violation_count)

    def _begin(self) -> None:
        self._summary.resident_bytes_start = self._memory.resident_bytes()
        self._footprints.before = take(self._summary.resident_bytes_start)
        self._note_zones_out_of_reach()
        start_reporter(self._reporter, self._memory)
        if self._recorder is not None:
            self._recorder.attach(self._memory, self._reporting)
        self._workqueue.start()
        self._reporting.register(self._device)
        self._crew.muster()

    def _abandon(self) -> None:
        """End all threads of a run that cannot be judged any more; whoever does not end is left behind."""
        if self._torture is not None:
            self._torture.stop(LEAVING_S, lambda: None)
        self._crew.stop()
        self._manners.release()
        close_reporter(self._reporter)
        deadline_s = self._sync.monotonic() + LEAVING_S
        for thread in self._crew.alive():
            thread.join(max(0.0, deadline_s - self._sync.monotonic()))
        self._workqueue.stop(max(0.0, deadline_s - self._sync.monotonic()))

    def _note_worker_death(self) -> None:
        """Name the worker's death before whatever follows from it."""
        failure = self._workqueue.failure
        if failure is not None:
            where = extract_tb(failure.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}, in {where.name}"
            self._violations.add(f"the reporting worker died: {type(failure).__name__}: {failure} ({place})")

    def _load(self) -> None:
        for phase, end_s in self._params.timetable():
            if self._over():
                return
            self._go_through_phase(phase, self._start_s + end_s)

    def _go_through_phase(self, phase: Phase, end_s: float) -> None:
        params = self._params.during(phase)
        self._trace("phase_begin", phase.name, phase.changes)
        if params != self._now_params:
            self._manners.change(params)
            self._now_params = params
        self._crew.follow(params.load(self._memory.nr_pages()))
        self._crew.muster()
        torture = self._torture = Torture(
            params,
            self._sync,
            crew=self._crew,
            zones=self._memory.zones,
            reporting=self._reporting,
            device=self._device,
            manners=self._manners,
            violations=self._violations,
        )
        torture.start()
        while (now_s := self._sync.monotonic()) < end_s and not self._over():
            self._sync.sleep(min(SAMPLE_INTERVAL_S, end_s - now_s))
            self._look(phase.name)
            self._census_if_due()
        torture.stop(self._params.hang_after, lambda: self._look(phase.name))
        self._trace("phase_end", phase.name)

    def _over(self) -> bool:
        """Whether the load ends before its time."""
        return self._interrupted or bool(self._late) or self._workqueue.failure is not None

    def _settle(self) -> bool:
        """Wait until the worker is at rest; False when it is not, or when Ctrl-C cut that short."""
        before = self._interrupted

        def cut_short() -> bool:
            return self._interrupted != before or bool(self._late)

        self._settling.settle(self._now_params.reporter_sleep_s[1], cut_short)
        return self._reporting.device is not None and self._reporting.settled() and not cut_short()

    def _stop_allocators(self) -> list[Thread]:
        """Stop the load and free everything; returns the threads that did not end."""
        self._crew.stop()
        self._fairness.unfair = None  # from here on some end before others
        while (alive := self._crew.alive()) and not self._late:
            alive[0].join(SAMPLE_INTERVAL_S)
            self._sample("stop")
        if alive:
            return alive
        try:
            self._crew.empty_inboxes()
            self._memory.drain_all_pages()
        except Exception as error:
            self._violations.add(f"freeing what was left over failed: {type(error).__name__}: {error}")
        return alive

    def _part_with_device(self) -> None:
        """Unregister; a reporter that does not come back is noted, not waited for."""
        deadline_s = self._sync.monotonic() + STUCK_AFTER_S
        while (stuck := self._unregister()) is not None:
            self._steps += 1
            if self._late or self._sync.monotonic() > deadline_s:
                break
        if stuck is None:
            return
        if self._reporting.flight is not None:
            self._summary.stuck_batches = 1
            self._summary.notes.append(f"stuck: {stuck}")
        else:
            self._violations.add(f"hang: {stuck}; the worker does not end by itself")
            self._summary.stacks = stacks()

    def _unregister(self) -> ReporterStuck | None:
        try:
            self._reporting.unregister(self._device, SAMPLE_INTERVAL_S)
        except ReporterStuck as stuck:
            return stuck
        return None

    def _final_checks(self) -> None:
        """Hold the memory against what must be left when everybody has freed everything."""
        flight = self._reporting.flight
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
        failed = stats.failed_batches - self._settling.failed_before
        excused = failed or stats.lost_passes or stats.refused_in_pass or self._summary.stuck_batches
        if excused or not self._came_to_rest:
            return
        for zone in self._memory.zones:
            waiting = self._settling.nr_unreported(zone)
            if waiting:
                self._violations.add(
                    f"zone {zone.label}: {waiting} blocks are free, and nobody will report them, after {stats.passes} "
                    "passes, the last ones without a failure: a request was lost (L1)"
                )

    def _tear_down(self, *, alive: list[Thread]) -> None:
        """Let lost batches come back, end the worker, and return the memory if nobody can touch it any more."""
        self._manners.release()
        close_reporter(self._reporter)
        deadline_s = self._sync.monotonic() + STUCK_AFTER_S
        while not (worker_ended := self._workqueue.stop(SAMPLE_INTERVAL_S)):
            self._steps += 1
            if self._sync.monotonic() > deadline_s:
                break
        if worker_ended and not alive:
            self._memory.close()

    def _fill_summary(self) -> None:
        summary, stats = self._summary, self._reporting.stats
        summary.interrupted = self._interrupted
        summary.seconds = summary.seconds or self._elapsed_s()
        summary.allocs = self._crew.allocs
        summary.frees = self._crew.frees
        summary.failed_allocs = self._crew.failed_allocs
        summary.passes = stats.passes
        summary.batches = stats.batches
        summary.failed_batches = stats.failed_batches
        summary.reported_blocks = stats.reported_blocks
        summary.reported_bytes = stats.reported_bytes
        if stats.first_error is not None:
            summary.notes.append(f"{stats.failed_batches} batches failed, the first with {stats.first_error}")
        if not stats.reported_blocks:
            summary.notes.append("nothing was reported")
        self._fill_in_the_long_view()
        summary.violations = self._violations.texts
        summary.violation_count = self._violations.count
        summary.verdict = "FAILURE" if summary.violation_count else "SUCCESS"

    def _fill_in_the_long_view(self) -> None:
        """Sum up whether all threads got their turn, and what the run took from the machine."""
        summary, params = self._summary, self._params
        numbers = range(params.allocators)
        summary.operations = [self._crew.operations(number) for number in numbers]
        summary.unfair_intervals = self._fairness.unfair_intervals
        if (
            not any(params.during(phase).onoff_interval for phase in params.phases)
            and not params.onoff_interval
        ):
            whole = unfair(dict(zip(numbers, summary.operations, strict=True)))
            if whole is not None:
                summary.notes.append(f"??? unfair over the whole run: {whole}")
        summary.footprint = self._footprints.summary()
        summary.kept_max["violations in words"] = len(self._violations.texts)

    # -- watching over the conductor -----------------------------------------------------------------------

    def _watch_over(self) -> None:
        """Look whether everybody moves; hear Ctrl-C. Raises KeyboardInterrupt for the second one."""
        try:
            self._sync.sleep(WATCH_INTERVAL_S)
            late = self._watchdog.look(self._sync.monotonic(), self._movers())
            if late:
                self._hang(late)
        except KeyboardInterrupt:
            if self._interrupted:
                raise
            self._interrupted = True

    def _movers(self) -> Iterator[tuple[str, object]]:
        """Yield everybody who must move, by name with a step; None for who may stand still."""
        yield CONDUCTOR, self._steps
        if self._walking:
            return  # it has a zone's lock for a while, and whoever wants it may wait
        for allocator in self._crew.allocators:
            on = self._crew.is_on(allocator.number) and not allocator.resting
            yield f"allocator-{allocator.number}", self._crew.operations(allocator.number) if on else None
        reporting = self._reporting
        busy = reporting.running() and reporting.flight is None
        yield WORKER, (reporting.stats.passes, reporting.stats.batches) if busy else None

    def _hang(self, late: list[str]) -> None:
        """Note who hangs and where everybody stands; the conductor ends the run, unless it hangs itself."""
        self._watchdog = Watchdog(self._params.hang_after)  # whoever is left gets as much time again
        self._summary.stacks = stacks()
        self._late = late
        text = f"hang: {', '.join(late)} took no step for {self._params.hang_after:g} s"
        # On a thread of its own: what is told of a violation may hang as well.
        self._sync.spawn("hang", lambda: self._violations.add(text)).join(LEAVING_S)

    def _given_up(self) -> bool:
        return CONDUCTOR in self._late

    # -- looking -----------------------------------------------------------------------------------------

    def _note_zones_out_of_reach(self) -> None:
        """Say which zones can never be reported: even wholly free they are below the starting mark."""
        for zone in self._memory.zones:
            if not self._settling.in_reach(zone):
                self._summary.notes.append(
                    f"zone {zone.label} is never reported: a pass needs more than "
                    f"{self._settling.pages_needed(zone)} free pages (low watermark + capacity << order), the zone "
                    f"has {zone.managed_pages}"
                )

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
        self._steps += 1
        zone.lock.acquire()
        self._walking = True
        try:
            census = validate(zone)
            if zone.trace is not None:
                (snapshot_zone if snapshot else record_counts)(zone, zone.trace)
        finally:
            zone.lock.release()
            self._walking = False
        counted = census.free + census.allocated + census.on_page_sets + census.in_flight
        if counted != zone.managed_pages and not census.problems:
            census.problem(
                f"zone {zone.name} has {zone.managed_pages} pages, {counted} of them have a place (S2)"
            )
        for problem in census.problems:
            self._violations.add(problem)
        return census

    def _look(self, phase: str) -> None:
        """Show a status of the load, and take stock of what the run itself keeps and how fair it is."""
        self._fairness.look(self._elapsed_s(), self._crew.operations_of_spells())
        status = self._sample(phase)
        self._footprints.look(status.seconds, status.resident_bytes)
        for name, count in (
            ("blocks in inboxes", self._crew.inbox_blocks()),
            ("ranges in the ledger", self._ledger.nr_ranges()),
        ):
            self._summary.kept_max[name] = max(self._summary.kept_max.get(name, 0), count)

    def _sample(self, phase: str) -> Status:
        self._steps += 1
        now_s = self._sync.monotonic()
        stats = self._reporting.stats
        allocs, frees = self._crew.allocs, self._crew.frees
        last_s, last_ops = self._last_sample
        if now_s - last_s >= SAMPLE_INTERVAL_S:
            self._ops_per_second = (allocs + frees - last_ops) / (now_s - last_s)
            self._last_sample = (now_s, allocs + frees)
        resident_bytes = self._memory.resident_bytes()
        self._summary.resident_bytes_peak = max(self._summary.resident_bytes_peak, resident_bytes)
        flight = self._reporting.flight
        patience_s = self._now_params.reporter_sleep_s[1] + STUCK_AFTER_S
        away = flight is not None and now_s - flight.since_s > patience_s
        status = Status(
            seconds=now_s - self._start_s,
            phase=phase,
            zones=tuple(zone_status(zone, self._memory, self._reporting) for zone in self._memory.zones),
            allocs=allocs,
            frees=frees,
            failed_allocs=self._crew.failed_allocs,
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
            allocators=len(self._crew.alive()),
            unfair=self._fairness.unfair,
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

    def _elapsed_s(self) -> float:
        return self._sync.monotonic() - self._start_s
