"""A stress run: real threads, real locks and real memory, with reporting in between, judged as it goes.

One thread *conducts*: it starts the rig and the allocators and goes through the phases of the load, while the
gauge samples counts for whoever watches, and the inspection walks a zone under its lock now and then. When the
time is over it lets the allocators free everything, waits until the worker has nothing left to do, and holds what
is left against what must be: no page lost, none with two owners, nothing in flight but what a reporter never gave
back.

Whoever called `run` only *watches over* that: it takes no lock of the run, so it can end a hang, and it is the
one that hears Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from pagealloc.errors import MemoryClosed
from pagealloc.pcp import VMSTAT_INTERVAL_S
from pagealloc.sync import Sync, Thread
from stress.log.recorder import Recorder
from stress.mutants import planted
from stress.provenance import blind_spots
from stress.run.crew import Crew
from stress.run.gauge import SAMPLE_INTERVAL_S, Gauge, Watcher
from stress.run.inspection import Inspection
from stress.run.params import Phase, RunParams
from stress.run.rig import Rig
from stress.run.settle import STUCK_AFTER_S, Settling
from stress.run.summary import Summary
from stress.run.torture import Torture
from stress.run.watchdog import Watchdog, stacks
from workers.page_reporting import Reporter

WATCH_INTERVAL_S = 0.05
LEAVING_S = 0.5  # for all threads of a run that is given up
CONDUCTOR, WORKER = "conductor", "page_reporting"


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
        self.summary = Summary(allocators=params.allocators, params=params.as_dict())
        self.rig = Rig(params, sync, reporter, recorder)
        self.crew = Crew(params, self.rig.memory, sync, self.rig.ledger, self.rig.violations)
        self._params = params
        self._sync = sync
        self._gauge = Gauge(self.rig, self.crew, self.summary, watch)
        self._inspection = Inspection(self.rig)
        self._settling = Settling(self.rig, lambda: self._gauge.sample("settle"))
        self._start_s = self._vmstat_due_s = sync.monotonic()
        self._now_params = params  # of the phase that the run is in
        self._torture: Torture | None = None
        self._came_to_rest = False
        # What the conductor and whoever watches over it tell each other; each is written by one of them.
        self._ended = False
        self._raised: BaseException | None = None
        self._steps = 0
        self._watchdog = Watchdog(params.hang_after)
        self._interrupted = False
        self._late: list[str] = []

    # -- the run, from start to verdict ------------------------------------------------------------------

    def run(self) -> Summary:
        """Run to the end and return the summary.

        KeyboardInterrupt ends the load early, not the checks; a second one is raised. A hang ends the run.
        """
        switch_interval_s = sys.getswitchinterval()
        with planted(self._params.mutant):
            self._sync.spawn(CONDUCTOR, self._conduct)
            try:
                while not self._ended and not self._given_up():
                    self._watch_over()
            finally:
                sys.setswitchinterval(switch_interval_s)
                if not self._ended:
                    self.abandon()
        if self._raised is not None:
            raise self._raised
        if not self._ended:
            self._sum_up()
        return self.summary

    def interrupt(self) -> None:
        """End the load early, not the checks."""
        self._interrupted = True

    def _conduct(self) -> None:
        try:
            self._go_through()
        except MemoryClosed as closed:  # by a reporter: nobody else has it
            self.abandon()
            self.rig.violations.add(f"the reporter closed the memory of the run: {closed}")
            self._sum_up()
        except BaseException as raised:
            self.abandon()
            self._raised = raised
        finally:
            self._ended = True

    def _go_through(self) -> None:
        self._gauge.begin()
        self.summary.notes += [*blind_spots(), *self._inspection.zones_out_of_reach()]
        self.rig.start()
        self.crew.muster()
        self._load()
        self.rig.note_worker_death()
        alive = self._stop_allocators()
        if not alive:
            self._came_to_rest = self._settle()
            self.rig.trace("rest", self._came_to_rest)
        self.summary.seconds = self._gauge.elapsed_s()
        self._part_with_device()
        if not alive:
            self._final_checks()
        self._inspection.expect_released()
        self.summary.resident_bytes_end = self._gauge.sample("end").resident_bytes
        self._tear_down(alive=alive)
        self._gauge.end()
        self._sum_up()
        self.rig.trace("run_end", self.summary.verdict.value, self.summary.violation_count)

    def abandon(self) -> None:
        """End all threads of a run that cannot be judged any more; whoever does not end is left behind."""
        if self._torture is not None:
            self._torture.stop(LEAVING_S, lambda: None)
        self.crew.stop()
        self.rig.release()
        deadline_s = self._sync.monotonic() + LEAVING_S
        for thread in self.crew.alive():
            thread.join(max(0.0, deadline_s - self._sync.monotonic()))
        self.rig.workqueue.stop(max(0.0, deadline_s - self._sync.monotonic()))

    def _sum_up(self) -> None:
        self.summary.interrupted = self._interrupted
        self._gauge.sum_up()

    # -- the load ----------------------------------------------------------------------------------------

    def _load(self) -> None:
        for phase, end_s in self._params.timetable():
            if self._over():
                return
            self._go_through_phase(phase, self._start_s + end_s)

    def _go_through_phase(self, phase: Phase, end_s: float) -> None:
        params = self._params.during(phase)
        self.rig.trace("phase_begin", phase.name, phase.changes)
        if params != self._now_params:
            self.rig.manners.change(params)
            self._gauge.reporter_sleep_s = params.reporter_sleep_s[1]
            self._now_params = params
        self.crew.follow(params.load(self.rig.memory.nr_pages()))
        self.crew.muster()
        torture = self._torture = Torture(params, self.rig, self.crew)
        torture.start()
        while (now_s := self._sync.monotonic()) < end_s and not self._over():
            self._sync.sleep(min(SAMPLE_INTERVAL_S, end_s - now_s))
            self._gauge.look(phase.name)
            self._refresh_vm_stats(now_s)
            self._inspection.census_if_due()
        torture.stop(self._params.hang_after, lambda: self._gauge.look(phase.name))
        self.rig.trace("phase_end", phase.name)

    def _refresh_vm_stats(self, now_s: float) -> None:
        """Be every CPU's vmstat worker, which lets page sets shrink once in a second."""
        if now_s >= self._vmstat_due_s:
            self._vmstat_due_s = now_s + VMSTAT_INTERVAL_S
            self.rig.memory.refresh_vm_stats()

    def _over(self) -> bool:
        """Whether the load ends before its time."""
        return self._interrupted or bool(self._late) or self.rig.workqueue.failure is not None

    # -- the end -----------------------------------------------------------------------------------------

    def _stop_allocators(self) -> list[Thread]:
        """Stop the load and free everything; returns the threads that did not end."""
        self.crew.stop()
        self._gauge.fairness.unfair = None  # from here on some end before others
        while (alive := self.crew.alive()) and not self._late:
            alive[0].join(SAMPLE_INTERVAL_S)
            self._gauge.sample("stop")
        if alive:
            return alive
        self._drain()
        return alive

    def _drain(self) -> None:
        """Free what nobody frees any more, and what is on page sets."""
        try:
            self.crew.empty_inboxes()
            self.rig.memory.drain_all_pages()
        except Exception as error:
            self.rig.violations.add(f"freeing what was left over failed: {type(error).__name__}: {error}")

    def _settle(self) -> bool:
        """Wait until the worker is at rest; False when it is not, or when Ctrl-C cut that short."""
        before = self._interrupted

        def cut_short() -> bool:
            return self._interrupted != before or bool(self._late)

        self._settling.settle(self._now_params.reporter_sleep_s[1], cut_short)
        reporting = self.rig.reporting
        # A reporter that allocates leaves pages on its page sets again, after the others' were drained.
        withheld = any(self.rig.memory.nr_page_set_pages(zone) for zone in self.rig.memory.zones)
        alive = self.rig.workqueue.failure is None
        at_rest = alive and reporting.settled() and not withheld and not cut_short()
        return reporting.device is not None and at_rest

    def _part_with_device(self) -> None:
        """Unregister; a reporter that does not come back is noted, not waited for."""
        deadline_s = self._sync.monotonic() + STUCK_AFTER_S
        while (stuck := self.rig.unregister(SAMPLE_INTERVAL_S)) is not None:
            self._steps += 1
            if self._late or self._sync.monotonic() > deadline_s:
                break
        if stuck is None:
            return
        if self.rig.reporting.flight is not None:
            self.summary.stuck_batches = 1
            self.summary.notes.append(f"stuck: {stuck}")
        else:
            self.rig.violations.add(f"hang: {stuck}; the worker does not end by itself")
            self.summary.stacks = stacks()

    def _final_checks(self) -> None:
        """Hold the memory against what must be left; with everything at rest, and never failed, to L1 as well.

        A block that the last pass was not allowed to take may stay: when nearly the whole zone fits into one
        batch, the min watermark keeps the last block back, and nobody asks again.
        """
        self._drain()
        self._inspection.final_checks()
        stats = self.rig.reporting.stats
        failed = stats.failed_batches - self._settling.failed_before
        excused = failed or stats.lost_passes or stats.refused_in_pass or self.summary.stuck_batches
        if not excused and self._came_to_rest:
            self._inspection.expect_all_reported()

    def _tear_down(self, *, alive: list[Thread]) -> None:
        """Let lost batches come back, end the worker, and return the memory if nobody can touch it any more."""
        self.rig.release()
        deadline_s = self._sync.monotonic() + STUCK_AFTER_S
        while not (worker_ended := self.rig.workqueue.stop(SAMPLE_INTERVAL_S)):
            self._steps += 1
            if self._sync.monotonic() > deadline_s:
                break
        if worker_ended and not alive:
            self.rig.memory.close()

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
            self.interrupt()

    def _movers(self) -> Iterator[tuple[str, object]]:
        """Yield everybody who must move, by name with a step; None for who may stand still."""
        yield CONDUCTOR, (self._steps, self._gauge.samples, self._inspection.walks)
        if self._inspection.walking:
            return  # it has a zone's lock for a while, and whoever wants it may wait
        for allocator in self.crew.allocators:
            on = self.crew.is_on(allocator.number) and not allocator.resting
            yield f"allocator-{allocator.number}", self.crew.operations(allocator.number) if on else None
        reporting = self.rig.reporting
        busy = reporting.running() and reporting.flight is None
        yield WORKER, (reporting.stats.passes, reporting.stats.batches) if busy else None

    def _hang(self, late: list[str]) -> None:
        """Note who hangs and where everybody stands; the conductor ends the run, unless it hangs itself."""
        self._watchdog = Watchdog(self._params.hang_after)  # whoever is left gets as much time again
        self.summary.stacks = stacks()
        self._late = late
        text = f"hang: {', '.join(late)} took no step for {self._params.hang_after:g} s"
        # On a thread of its own: what is told of a violation may hang as well.
        self._sync.spawn("hang", lambda: self.rig.violations.add(text)).join(LEAVING_S)

    def _given_up(self) -> bool:
        return CONDUCTOR in self._late
