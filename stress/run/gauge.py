"""The figures of a run: a sample a few times a second for whoever watches, and the sums at the end."""

from __future__ import annotations

from collections.abc import Callable

from stress.errors import Verdict, one_line
from stress.run.crew import Crew
from stress.run.fairness import Fairness, unfair
from stress.run.footprint import Footprints, take
from stress.run.notes import notes_on_reporting, notes_on_the_rest
from stress.run.rig import Rig
from stress.run.settle import STUCK_AFTER_S
from stress.run.status import Status, zone_status
from stress.run.summary import Summary

SAMPLE_INTERVAL_S = 0.2
FOOTPRINTS_PER_RUN = 1000
THREAD_END_S = 0.5
NOTE_MAX = 500  # characters

Watcher = Callable[[Status], None]


class Gauge:
    """Reads the counts of a run, and tells `watch` of each sample."""

    def __init__(self, rig: Rig, crew: Crew, summary: Summary, watch: Watcher) -> None:
        self.samples = 0  # for whoever looks whether the conductor moves
        self.reporter_sleep_s = rig.params.reporter_sleep_s[1]  # the longest that a batch takes in this phase
        self.fairness = Fairness(rig.params.fair_interval)
        self._rig = rig
        self._crew = crew
        self._summary = summary
        self._watch = watch
        self._start_s = rig.sync.monotonic()
        self._footprints = Footprints(max(SAMPLE_INTERVAL_S, rig.params.seconds / FOOTPRINTS_PER_RUN))
        self._last_sample = (self._start_s, 0)
        self._ops_per_second = 0.0
        self._withheld_pages = 0  # on page sets, in the last look at the load

    def elapsed_s(self) -> float:
        return self._rig.sync.monotonic() - self._start_s

    # -- the run's own footprint -------------------------------------------------------------------------

    def begin(self) -> None:
        """Take what the machine gives before anything moves."""
        self._summary.resident_bytes_start = self._rig.memory.resident_bytes()
        self._footprints.before = take(self._summary.resident_bytes_start)

    def end(self) -> None:
        """Take what is left when everything has ended; a thread that was joined may take a moment to be gone."""
        deadline_s = self.elapsed_s() + THREAD_END_S
        while True:
            self._footprints.after = take(self._rig.memory.resident_bytes())
            if (
                self._footprints.after.threads <= self._footprints.before.threads
                or self.elapsed_s() > deadline_s
            ):
                return
            self._rig.sync.sleep(THREAD_END_S / 10)

    # -- samples -----------------------------------------------------------------------------------------

    def look(self, phase: str) -> None:
        """Sample the load, and take stock of what the run itself keeps and how fair it is."""
        self.fairness.look(self.elapsed_s(), self._crew.operations_of_spells())
        status = self.sample(phase)
        self._withheld_pages = sum(zone.on_page_sets for zone in status.zones)
        self._footprints.look(status.seconds, status.resident_bytes)
        for name, count in (
            ("blocks in inboxes", self._crew.inbox_blocks()),
            ("ranges in the ledger", self._rig.ledger.nr_ranges()),
        ):
            self._summary.kept_max[name] = max(self._summary.kept_max.get(name, 0), count)

    def sample(self, phase: str) -> Status:
        """Read all counts at about this moment, show them, and note them in the log."""
        self.samples += 1
        status = self._status(phase)
        self._summary.resident_bytes_peak = max(self._summary.resident_bytes_peak, status.resident_bytes)
        held_back = sum(zone.on_page_sets * zone.page_size for zone in status.zones)
        self._summary.page_set_bytes_peak = max(self._summary.page_set_bytes_peak, held_back)
        self._watch(status)
        self._rig.trace(
            "sample",
            status.resident_bytes,
            status.total_bytes,
            status.allocs,
            status.frees,
            status.failed_allocs,
            [(z.free, z.allocated, z.on_page_sets, z.in_flight, z.reported) for z in status.zones],
        )
        return status

    def _status(self, phase: str) -> Status:
        memory, reporting = self._rig.memory, self._rig.reporting
        now_s = self._rig.sync.monotonic()
        flight = reporting.flight
        away = flight is not None and now_s - flight.since_s > self.reporter_sleep_s + STUCK_AFTER_S
        allocs, frees = self._crew.allocs, self._crew.frees
        return Status(
            seconds=now_s - self._start_s,
            phase=phase,
            zones=tuple(zone_status(zone, memory, reporting) for zone in memory.zones),
            allocs=allocs,
            frees=frees,
            failed_allocs=self._crew.failed_allocs,
            ops_per_second=self._rate(now_s, allocs + frees),
            resident_bytes=memory.resident_bytes(),
            total_bytes=memory.ram.nr_bytes if memory.ram is not None else 0,
            passes=reporting.stats.passes,
            batches=reporting.stats.batches,
            failed_batches=reporting.stats.failed_batches,
            reported_bytes=reporting.stats.reported_bytes,
            state=reporting.state_name(),
            stuck=reporting.describe_flight() if away else None,
            violations=self._rig.violations.count,
            allocators=len(self._crew.alive()),
            unfair=self.fairness.unfair,
            kept_bytes=self._rig.host.kept_bytes,
        )

    def _rate(self, now_s: float, operations: int) -> float:
        """Return operations per second since the last sample that is long enough ago to tell."""
        last_s, last_operations = self._last_sample
        if now_s - last_s >= SAMPLE_INTERVAL_S:
            self._ops_per_second = (operations - last_operations) / (now_s - last_s)
            self._last_sample = (now_s, operations)
        return self._ops_per_second

    # -- sums --------------------------------------------------------------------------------------------

    def sum_up(self) -> None:
        """Fill the summary, its verdict included."""
        summary, stats, crew = self._summary, self._rig.reporting.stats, self._crew
        summary.seconds = summary.seconds or self.elapsed_s()
        summary.allocs = crew.allocs
        summary.frees = crew.frees
        summary.failed_allocs = crew.failed_allocs
        summary.passes = stats.passes
        summary.batches = stats.batches
        summary.failed_batches = stats.failed_batches
        summary.reported_blocks = stats.reported_blocks
        summary.reported_bytes = stats.reported_bytes
        summary.kept_blocks = self._rig.host.kept_blocks
        summary.kept_bytes = self._rig.host.kept_bytes
        self._sum_up_the_long_view()
        notes = (*notes_on_reporting(self._rig), *notes_on_the_rest(self._rig, summary, self._withheld_pages))
        summary.notes += [one_line(note, NOTE_MAX) for note in notes]
        violations = self._rig.violations
        summary.violations = violations.texts
        summary.violation_count = violations.count
        summary.verdict = Verdict.of(failed=bool(summary.violation_count))

    def _sum_up_the_long_view(self) -> None:
        """Sum up whether all threads got their turn, and what the run took from the machine."""
        summary, params = self._summary, self._rig.params
        numbers = range(params.allocators)
        summary.operations = [self._crew.operations(number) for number in numbers]
        summary.unfair_intervals = self.fairness.unfair_intervals
        come_and_go = any(params.during(phase).onoff_interval for phase in params.phases)
        if not come_and_go and not params.onoff_interval:
            whole = unfair(dict(zip(numbers, summary.operations, strict=True)))
            if whole is not None:
                summary.notes.append(f"??? unfair over the whole run: {whole}")
        summary.footprint = self._footprints.summary()
        summary.kept_max["violations in words"] = len(self._rig.violations.texts)
