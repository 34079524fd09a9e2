"""What a scenario is made of: a small watched machine in a controlled world.

A scenario is a function of a `Kit`. It builds a machine, starts a few tasks, and ends with `kit.rest()`,
which waits until nothing moves and judges what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

from pagealloc.mmzone import Layout
from pagealloc.ram import Ram
from pagealloc.revision import Revision
from pagealloc.zone import Zone
from stress.controlled.sync import ControlledThread
from stress.controlled.world import Abandoned, Subject, World
from stress.search.guarded import guard_reporting, guard_workqueue, guard_zone
from stress.search.known import Known
from stress.search.lockless import LocklessPageSets
from stress.search.machine import Build, boot
from stress.search.narration import narrate_page_sets, narrate_works
from stress.search.setup import Setup, step_of_setup
from stress.search.trial import Tried
from workers.page_reporting import (
    Batch,
    PageReporting,
    PageReportingDevice,
    Reporter,
)
from workers.policy import ReportingPolicy
from workers.reporters import close_reporter, start_reporter
from workers.scatterlist import Scatterlist
from workers.stats import PageReportingStats
from workers.workqueue import Workqueue

LAYOUT = Layout(nr_orders=5, pageblock_order=3)
DELAY_S = 2.0


class HostError(Exception):
    """The host refused a batch."""


class Host:
    """The device of a scenario: every call is judged, may fail by choice, and may take time.

    `during` is called while the batch is in flight, with no lock held.
    """

    def __init__(self, kit: Kit) -> None:
        self.kit = kit
        self.may_fail = False
        self.fail_calls: set[int] = set()
        self.raises: dict[int, BaseException] = {}  # by call, before it has looked at the batch
        self.first_error: str | None = None  # that it raised by itself
        self.sleeps_s = 0.0
        self.capacity = 2
        self.order = LAYOUT.pageblock_order
        self.during: Callable[[Zone, Batch], None] | None = None
        self.inner: Reporter | None = None
        self.batches: list[tuple[tuple[int, int], ...]] = []
        self.taken: list[tuple[tuple[int, int], ...]] = []  # the batches that it did not refuse
        # What it was given, to be looked at again later, and what that was.
        self.kept: list[tuple[Batch, tuple[tuple[int, ...], ...]]] = []

    def report(self, zone: Zone, batch: Batch) -> None:
        oracle, sync = self.kit.oracle, self.kit.sync
        oracle.check_call()
        whole = tuple([tuple(block) for block in batch])
        self.kept.append((batch, whole))
        blocks = tuple([(pfn, order) for pfn, order, _, _ in whole])
        self.batches.append(blocks)
        number = len(self.batches)
        if number in self.raises:
            raise self.raises[number]
        oracle.thread_trace("host_begin", zone.number, blocks)
        if self.during is not None:
            self.during(zone, batch)
        if self.sleeps_s:
            sync.sleep(self.sleeps_s)
        else:
            self.kit.tick()
        try:
            if self.inner is not None:
                self.inner.report(zone, batch)
        finally:
            oracle.thread_trace("host_end", zone.number, blocks)
        if oracle.retired:
            oracle.fail("S22", "the reporter still runs after unregister has returned")
        if number in self.fail_calls or (self.may_fail and sync.world.draw(2)):
            error = HostError(f"batch {number} is refused")
            self.first_error = self.first_error or f"HostError: {error}"
            raise error
        self.taken.append(blocks)

    def check_kept(self) -> None:
        """Look again at every batch: a reporter may keep one as long as it likes (S11)."""
        for number, (batch, blocks) in enumerate(self.kept, 1):
            if tuple(batch) != blocks:
                self.kit.oracle.fail(
                    "S11", f"batch {number} was {blocks}, and the reporter finds {tuple(batch)} in it now"
                )

    def check_stats(self, stats: PageReportingStats) -> None:
        """Hold the worker's own counts against the calls that there were; nothing is in flight."""
        orders = [order for blocks in self.taken for _, order in blocks]
        page_size = self.kit.zones[0].layout.page_size
        # Calls that ended their thread are no failure of the device.
        ended = [
            call for call, raised in self.raises.items() if not isinstance(raised, Exception | SystemExit)
        ]
        failed = len(self.batches) - len(self.taken) - sum([call <= len(self.batches) for call in ended])
        counted = stats.batches, stats.failed_batches, stats.reported_blocks, stats.reported_bytes
        calls = len(self.batches), failed, len(orders), sum([page_size << order for order in orders])
        if counted != calls:
            what = "batches, failed batches, reported blocks and bytes"
            self.kit.oracle.fail("stats", f"{what}: {counted} are counted, there were {calls}")
        if not self.raises and self.inner is None and stats.first_error != self.first_error:
            self.kit.oracle.fail(
                "stats", f"the first error: {stats.first_error} is kept, there was {self.first_error}"
            )
        refused = self.kit.oracle.judge.refused_in_pass
        if stats.refused_in_pass != refused:
            self.kit.oracle.fail(
                "stats",
                f"refusals of the last pass: {stats.refused_in_pass} are counted, there were {refused}",
            )


class Wishes(NamedTuple):
    """What a scenario asks for beside a `Build`."""

    lockless: bool
    delay_s: float
    policy: ReportingPolicy | None


class Kit(Setup):
    """The machine of one execution."""

    def __init__(self, world: World, revision: Revision, known: Known, *, records: bool = False) -> None:
        super().__init__(world, revision, known, records=records)
        self.host = Host(self)
        self.device: PageReportingDevice
        self.reporter: Tried | None = None  # a user's own, in the host's place
        self.scatterlists_fail = False
        self._wishes: Wishes | None = None
        self._threads: list[ControlledThread] = []
        self._clock = Subject("tick")

    def build(
        self,
        *zones: tuple[str, int],
        capacity: int = 2,
        order: int | None = None,
        marks: tuple[int, int, int] = (0, 0, 0),
        page_sets: bool = False,
        layout: Layout = LAYOUT,
        delay_s: float = DELAY_S,
        boost_factor: int = 0,
        lockless: bool = False,
        policy: ReportingPolicy | None = None,
    ) -> None:
        """Build zones of (name, pages), with the same marks, and the reporting core; nothing runs yet.

        `lockless`: what page sets touch, and events that are told, without a lock are points (see `lockless`).
        """
        named = tuple((name, pages) for name, pages in zones or (("Normal", 64),))
        if self.two_zones:
            named = (("DMA32", 32), *named)
        min_pages, low_pages, high_pages = marks
        build = Build(named, (min_pages, low_pages, high_pages), page_sets, layout, boost_factor)
        machine = self.known.machines.get(build)
        if machine is None:
            machine = self.known.machines[build] = boot(build, self.revision)
            machine.judge = self.known.keep(machine.judge)
        self.world.lockless_writes = page_sets
        self.oracle.peeked = lockless
        self.host.inner = self.reporter
        another = self._wishes is not None and self.resting is None
        self.resting, self._wishes = machine, Wishes(lockless, delay_s, policy)
        self.device = PageReportingDevice(self.host, order=order, capacity=capacity, name="host")
        if another or self.records or self.world.log is not None or self.reporter is not None:
            self.make_machine()

    @cached_property
    def workqueue(self) -> Workqueue:
        self.make_machine()
        return self.workqueue

    @cached_property
    def reporting(self) -> PageReporting:
        self.make_machine()
        return self.reporting

    def make_machine(self) -> None:
        if self.resting is None or self._wishes is None:
            raise AttributeError("the kit has no machine; expected `build` to come first")
        machine, self.resting = self.resting, None
        lockless, delay_s, policy = self._wishes
        self.copy(machine)
        if lockless and self.memory.page_sets is not None:
            self.memory.page_sets = LocklessPageSets(
                self.memory.page_sets, self.memory.zones, self.revision, self.sync
            )
        if self.reporter is not None:
            self._lend_ram()
            start_reporter(self.reporter.inner, self.memory)
        self.workqueue = Workqueue(self.sync, "worker")
        self.oracle.watch_workqueue(self.workqueue)
        if self.world.log is not None:
            narrate_works(self.world, self.workqueue)
            if self.memory.page_sets is not None:
                narrate_page_sets(self.world, self.memory.page_sets)
        self.reporting = PageReporting(
            self.memory.zones,
            self.revision,
            self.sync,
            self.workqueue,
            delay_s=delay_s,
            policy=policy,
            alloc_scatterlist=self._alloc_scatterlist,
        )
        self.reporting.trace = self.oracle.thread_trace
        self.oracle.watch(self.memory, machine.judge)
        if self.records:
            self._guard()

    def _guard(self) -> None:
        """Have what belongs to a lock touched under it only."""
        guard_workqueue(self.workqueue, self.oracle.fail)
        guard_reporting(self.reporting, self.oracle.fail)
        for zone in self.memory.zones:
            guard_zone(zone, self.oracle.fail)

    def _lend_ram(self) -> None:
        """Put bytes behind the pages: a user's reporter may want to do something with them."""
        first, last = self.memory.zones[0], self.memory.zones[-1]
        ram = self.memory.ram = Ram(first.start_pfn, last.end_pfn - first.start_pfn)
        for zone in self.memory.zones:
            zone.ram = ram

    def start(self) -> None:
        """Start the worker and register the device: the first pass is on its way."""
        if self.resting is not None:
            self.make_machine()
        self.workqueue.start()
        self.reporting.register(self.device)

    def spawn(self, name: str, *steps: Callable[[], object]) -> ControlledThread:
        """Start a task that does `steps` one after the other."""

        def target() -> None:
            for step in steps:
                step()

        thread = self.sync.spawn(name, target)
        self._threads.append(thread)
        return thread

    def tick(self) -> None:
        """Let others run here."""
        self.world.point("tick", self._clock)

    @step_of_setup
    def alloc(self, order: int, migratetype: int = 1, zone: int = 0) -> int:
        """Allocate from a zone, past the page sets; the pfn or -1."""
        return self.zones[zone].rmqueue_buddy(order, migratetype)

    @step_of_setup
    def free(self, pfn: int, order: int) -> None:
        """Free to the zone, past the page sets; nothing for a pfn of -1."""
        if pfn >= 0:
            self.memory.zone_of(pfn).free_pages_ok(pfn, order)

    @step_of_setup
    def alloc_all(self, order: int, migratetype: int = 1, zone: int = 0) -> list[int]:
        """Allocate until nothing is left."""
        pfns = []
        while (pfn := self.alloc(order, migratetype, zone)) >= 0:
            pfns.append(pfn)
        return pfns

    @step_of_setup
    def alloc_nearly_all(self, order: int, migratetype: int = 1, zone: int = 0) -> list[int]:
        """Allocate until a quarter of a pageblock is left.

        A zone is visited, and its last block taken, only when more than that stays free: those frames.
        """
        *pfns, last = self.alloc_all(order, migratetype, zone)
        small = self.zones[zone].layout.pageblock_order - 1
        self.zones[zone].claim_range(last, small)
        self.free(last, small)
        return pfns

    def expect(self, holds: bool, invariant: str, text: Callable[[], str]) -> None:
        """Hold the machine against what the scenario alone knows.

        It counts on a host that takes every batch but those it is told to refuse; of a user's reporter that refused
        one, only the invariants are judged.
        """
        if not holds and self._refused():
            self.world.end(Abandoned())
        self.oracle.expect(holds, invariant, text)

    def forgive_errors(self) -> None:
        """Hold what comes against the rules as if no report had failed so far, if that was the scenario's own doing."""
        if not self._refused():
            self.oracle.forgive_errors()

    def _refused(self) -> bool:
        return self.reporter is not None and self.reporter.refused

    def rest(self, *, all_reported: bool = True) -> None:
        """Wait until nothing moves, judge, unregister, end the worker, and judge again."""
        self.settle(all_reported=all_reported)
        self.reporting.unregister(self.device)
        self.oracle.retired = True
        self.sync.await_idle()  # a timer that is still armed fires now, and is seen
        self.stop()

    def settle(self, *, all_reported: bool = True) -> None:
        """Wait until nothing moves, and judge."""
        self.sync.await_idle()
        for thread in self._threads:
            thread.join()
        failure = self.workqueue.failure
        if failure is not None and not isinstance(failure, self.world.survives):
            raise failure
        self.host.check_kept()
        self.host.check_stats(self.reporting.stats)
        self.oracle.check_rest(self.memory, self.reporting, all_reported=all_reported)

    def stop(self) -> None:
        """End the worker."""
        self.workqueue.stop(10.0)
        self.sync.await_idle()
        self.oracle.check_zones()
        self.oracle.check_locks()

    def close(self) -> None:
        reporter = self.reporter
        super().close()
        if reporter is not None:
            close_reporter(reporter.inner)

    def _alloc_scatterlist(self, capacity: int) -> Scatterlist:
        if self.scatterlists_fail:
            raise MemoryError
        return Scatterlist(capacity)
