"""Free page reporting: telling the host which free blocks it may take back (`mm/page_reporting.c`).

A free that leaves a block of `page_reporting_order` or more on a list asks for a report. The request arms a delayed
work; two seconds later, with whatever was freed meanwhile, the work makes one *pass* over all zones. For each
list it goes through four phases:

*fill*    under the zone lock, blocks that are not Reported are isolated from the list into a scatterlist;
*report*  the zone lock is **dropped** and the device's reporter gets the full scatterlist. It may sleep. The
          blocks are in flight: on no list, of no owner, merging with nothing;
*drain*   the zone lock is taken again and every block goes back, on the list of its pageblock's type as it
          is *now*. Unless it merged on the way, and if the reporter did not fail, it becomes Reported;
*idle*    when the pass is over and nobody asked meanwhile.

What was known before the lock was dropped is not known after it. Each place that relies on a fresh look says so.

The state of a device is IDLE (nothing armed), REQUESTED (a pass is wanted) or ACTIVE (a pass runs):

    request: x -> REQUESTED, and arms the work if x was IDLE. If x was ACTIVE, the pass that runs sees it.
    pass begins: -> ACTIVE. A plain store loses nothing: whoever asked before it is served by this pass.
    pass ends: ACTIVE -> IDLE in one step; if that finds REQUESTED, somebody asked: arm the work again.

`Revision` says in which details the kernel revisions differ, `ReportingPolicy` what else could be decided otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Protocol
from weakref import proxy

from pagealloc.errors import MemoryClosed, PageAllocError
from pagealloc.fork import belongs_to_this_process, refuse_everything
from pagealloc.mmzone import MIGRATE_ISOLATE, MIGRATE_TYPES
from pagealloc.revision import Revision
from pagealloc.sync import Sync
from pagealloc.tracepoints import Trace
from pagealloc.zone import Zone
from workers.errors import describe_error, only_promised
from workers.policy import STOP, ReportingPolicy
from workers.scatterlist import Scatterlist
from workers.stats import PageReportingStats
from workers.workqueue import DelayedWork, Workqueue

PAGE_REPORTING_CAPACITY = 32  # entries of a scatterlist
DELAY_MAX_S = 1e6  # what is longer is no delay, and no clock's either
CAPACITY_MAX = 1 << 16  # a batch is memory that nobody can allocate; the kernel's limit is 32
PAGE_REPORTING_DELAY_S = 2.0
PAGE_REPORTING_IDLE, PAGE_REPORTING_REQUESTED, PAGE_REPORTING_ACTIVE = range(3)
STATE_NAMES = ("idle", "requested", "active")


class Block(NamedTuple):
    """One entry of a scatterlist: a block in flight, and where it is in the zone's `Ram` (or file), in bytes."""

    pfn: int
    order: int
    offset: int
    length: int


Batch = Sequence[Block]


class Reporter(Protocol):
    """What a device does with a batch of free blocks.

    `report` is called without any lock held, by one thread. It may sleep. Returning means that the blocks
    were handed over; raising an Exception means that they were not, and ends the pass. Until it returns it
    owns the blocks' memory; the next allocation may hand it out at once after that.

    It may allocate and free, but what it frees asks for a report like any other free: one that does so in
    every call is called for ever. It must not unregister its own device, which would wait for itself.
    """

    def report(self, zone: Zone, batch: Batch) -> None: ...


class PageReportingError(PageAllocError):
    """Base of what registering and unregistering raise."""


class DeviceBusy(PageReportingError):
    """There is one device at a time, and another one is registered or still leaving (-EBUSY)."""


class ReporterStuck(PageReportingError):
    """Unregistering gave up: the reporter has not returned. Its blocks stay in flight."""


class PageReportingDevice:
    """A device that wants free blocks (`struct page_reporting_dev_info`).

    `order` is the smallest order to report, None for the pageblock order (to kernels before 7.1, 0 meant that);
    `capacity` the entries of one batch. Kernels have 32 (`Revision.capacity_max`), since 7.2 a device may want fewer;
    more is ours.
    """

    def __init__(
        self,
        reporter: Reporter,
        *,
        order: int | None = None,
        capacity: int = PAGE_REPORTING_CAPACITY,
        name: str = "dev",
    ) -> None:
        if isinstance(reporter, type) or not callable(getattr(reporter, "report", None)):
            raise TypeError(f"reporter is {reporter!r:.200}, expected an object with report(zone, batch)")
        if not isinstance(capacity, int) or not isinstance(order, int | None):
            raise TypeError(f"capacity is {capacity!r} and order {order!r}, expected whole numbers")
        if not 1 <= capacity <= CAPACITY_MAX:
            raise ValueError(f"capacity is {capacity}, expected 1 .. {CAPACITY_MAX} entries")
        self.reporter = reporter
        self.order = order
        self.capacity = capacity
        self.name = name


class Flight(NamedTuple):
    """A batch that the reporter has right now."""

    zone: Zone
    batch: Batch
    since_s: float  # on the Sync's monotonic clock
    number: int


class Registration(DelayedWork):
    """One stay of a device: its state and its work in one, new with every `register`.

    It is the work itself, which is how a pass knows whose it is (`container_of`).
    """

    __slots__ = ("capacity", "device", "order", "state")

    def __init__(
        self, device: PageReportingDevice, order: int, sync: Sync, process: Callable[[Registration], None]
    ) -> None:
        super().__init__(f"page_reporting_process {device.name}", process)
        self.device = device
        self.order = order
        self.capacity = device.capacity
        self.state = sync.atomic(f"state of {device.name}", PAGE_REPORTING_IDLE)

    def run(self) -> None:
        self.function(self)


class PageReporting:
    """The reporting core over some zones: one device, one worker."""

    def __init__(
        self,
        zones: Sequence[Zone],
        revision: Revision,
        sync: Sync,
        workqueue: Workqueue,
        *,
        delay_s: float = PAGE_REPORTING_DELAY_S,
        policy: ReportingPolicy | None = None,
        alloc_scatterlist: Callable[[int], Scatterlist] = Scatterlist,
    ) -> None:
        if not 0 <= delay_s <= DELAY_MAX_S:
            raise ValueError(f"delay_s is {delay_s}, expected 0 .. {DELAY_MAX_S:g} seconds")
        self.zones = zones
        self.revision = revision
        self.delay_s = delay_s
        self.policy = policy if policy is not None else ReportingPolicy()
        self.policy.attach(proxy(self))  # the two must not keep each other alive
        # A policy that takes whatever it finds is not asked about every block, or told of it.
        self._chooses = type(self.policy).take is not ReportingPolicy.take
        self._tells = type(self.policy).reported is not ReportingPolicy.reported
        self.stats = PageReportingStats()
        self.flight: Flight | None = None
        self._sync = sync
        self._workqueue = workqueue
        self._mutex = sync.mutex("page_reporting_mutex")
        self._registered: Registration | None = None  # pr_dev_info
        self._settled_order: int | None = None  # page_reporting_order, once a device has registered
        self._leaving: Registration | None = None
        self._running: Registration | None = None
        self._ending: BaseException | None = None  # what a reporter raised to end the worker
        self._alloc_scatterlist = alloc_scatterlist
        self.trace: Trace | None = None  # told of passes, batches and requests
        belongs_to_this_process(self)

    def part(self) -> None:
        """Refuse everything in the child of a fork: zones, worker and device are the parent's."""
        refuse_everything(self, "this reporting core")

    # -- registration ------------------------------------------------------------------------------------

    def register(self, device: PageReportingDevice) -> int:
        """Make `device` the one that gets reports, and ask for a first pass; returns its effective order.

        Blocks that an earlier device was told about stay Reported: this one does not hear of them. Raises DeviceBusy
        when there is a device, or one still leaving, WorkerDied, what a shut zone raises, and what the policy does.
        """
        self._workqueue.check()
        self._mutex.acquire()
        try:
            if self._registered is not None:
                raise DeviceBusy(f"device {self._registered.device.name} is registered; unregister it first")
            if self._leaving is not None:
                raise DeviceBusy(f"device {self._leaving.device.name} is still leaving; unregister it again")
            self._expect_no_other()
            order = self._effective_order(device)
            registration = Registration(device, order, self._sync, self.process)
            self._tell("page_reporting_register", device.name, order, device.capacity)
            self.request(registration)
            self._registered = registration
            try:
                for zone in self.zones:  # the static key: from here on frees of this order notify
                    zone.page_reporting_notify = self._listener(zone)
                    zone.page_reporting_order = order
                self.policy.registered(order)
            except BaseException:  # whoever is told of a failure, or interrupted, has no device
                self.begin_unregister(device)
                with suppress(ReporterStuck):  # its first pass has begun already; `unregister` waits for it
                    self.finish_unregister(0.0)
                raise
            self._tell("page_reporting_registered", device.name)
            return order
        finally:
            self._mutex.release()

    def _expect_no_other(self) -> None:
        """Raise DeviceBusy when another core reports these zones, or its device is still leaving; or a zone is shut."""
        for zone in self.zones:
            zone.lock.check()
            listener = zone.page_reporting_notify
            other = getattr(getattr(listener, "func", listener), "__self__", None)
            device = other.device or other.leaving if isinstance(other, PageReporting) else None
            if other is not self and device is not None:
                raise DeviceBusy(f"zone {zone.name} is reported to device {device.name} already")

    def _effective_order(self, device: PageReportingDevice) -> int:
        """Return its order; since v6.2 what the first device settled. Raises ValueError for one that no block has."""
        layout = self.zones[0].layout
        order = layout.pageblock_order if device.order is None else device.order
        if not 0 <= order < layout.nr_orders:
            if not self.revision.order_settled_once:
                raise ValueError(f"order is {device.order}, expected 0 .. {layout.top_order}")
            order = layout.pageblock_order
        if self.revision.order_settled_once:
            self._settled_order = order = order if self._settled_order is None else self._settled_order
        return order

    def unregister(self, device: PageReportingDevice, timeout_s: float | None = None) -> None:
        """Part with `device`: when this returns, its reporter is not running and never will be again (S22).

        A device that is not registered is ignored. Raises ReporterStuck when the reporter did not return
        within `timeout_s`; the device stays on its way out then, and a later call goes on waiting.
        """
        self._mutex.acquire()
        try:
            if self.begin_unregister(device):
                self.finish_unregister(timeout_s)
        finally:
            self._mutex.release()

    def begin_unregister(self, device: PageReportingDevice) -> bool:
        """Bar new requests and new passes, under the mutex and without waiting; False if it is not the current one."""
        if self._leaving is not None and self._leaving.device is device:
            return True
        leaving = self._registered
        if leaving is None or leaving.device is not device:
            return False
        self._registered = None
        self._synchronize_rcu()
        self._workqueue.bar(leaving)
        self._leaving = leaving
        self._tell("page_reporting_leave", leaving.device.name)
        return True

    def finish_unregister(self, timeout_s: float | None = None) -> None:
        """Wait for the pass that may still run. Raises ReporterStuck after `timeout_s`."""
        leaving = self._leaving
        if leaving is None:
            raise PageReportingError("no device is leaving; expected begin_unregister to come first")
        if not self._workqueue.cancel_delayed_work_sync(leaving, timeout_s):
            raise ReporterStuck(
                f"device {leaving.device.name} cannot be unregistered: {self.describe_flight()}"
            )
        self._leaving = None
        self._tell("page_reporting_unregister", leaving.device.name)

    def _synchronize_rcu(self) -> None:
        """Wait until no notifier can hold on to the device that was registered.

        Notifiers run inside a zone lock and look the device up there, so once every zone lock was free for
        a moment, each of them has either finished or will find nothing.
        """
        for zone in self.zones:
            with suppress(MemoryClosed):  # nobody frees there any more; and a core is undone in any order
                zone.lock.acquire()
                zone.lock.release()

    # -- requests ----------------------------------------------------------------------------------------

    def _listener(self, zone: Zone) -> Callable[[int, int], None]:
        """Return what the zone's frees call; the policy hears of them only if it wants to."""
        if type(self.policy).freed is ReportingPolicy.freed:
            return self.notify
        return partial(self._notify_policy, zone)

    def _notify_policy(self, zone: Zone, pfn: int, order: int) -> None:
        self.policy.freed(zone, pfn, order)
        self.notify(pfn, order)

    def notify(self, pfn: int = -1, order: int = -1) -> None:
        """Hear of a free of `page_reporting_order` or more. Called under a zone lock; never waits."""
        # No call of `_tell`: every large free comes by here under its zone lock, and a call for nobody cost it 50 ns.
        trace = self.trace
        if trace is not None:
            trace("page_reporting_notify")
        registration = self._registered
        if registration is not None:
            self.request(registration)

    def request(self, registration: Registration) -> None:
        """Make sure that a pass begins after this moment (`__page_reporting_request`, L1)."""
        if registration.state.load() == PAGE_REPORTING_REQUESTED:
            return
        old = registration.state.xchg(PAGE_REPORTING_REQUESTED)
        self._tell("page_reporting_request", STATE_NAMES[old])
        if old != PAGE_REPORTING_IDLE:
            return
        self._arm(registration, self.policy.delay_s("request"))

    def flush(self) -> bool:
        """Make a pass begin at once, whatever the delay; False without a device, or while a pass runs."""
        registration = self._registered
        if registration is None or self._running is registration:
            return False
        self._workqueue.disarm(registration)
        registration.state.store(PAGE_REPORTING_REQUESTED)
        return self._workqueue.queue_delayed_work(registration, 0.0)

    def _arm(self, registration: Registration, delay_s: float | None) -> None:
        """Let the pass begin after so many seconds; with None it waits for a `flush`."""
        if delay_s is not None:
            self._workqueue.queue_delayed_work(registration, delay_s)

    def _tell(self, event: str, *fields: object) -> None:
        trace = self.trace
        if trace is not None:
            trace(event, *fields)

    # -- the worker --------------------------------------------------------------------------------------

    def process(self, registration: Registration) -> None:
        """Make one pass over all zones (`page_reporting_process`)."""
        self._running = registration
        self.stats.passes += 1
        self.stats.refused_in_pass = 0
        lost = False
        if self.revision.full_barrier:
            registration.state.xchg(PAGE_REPORTING_ACTIVE)
        else:
            registration.state.store(PAGE_REPORTING_ACTIVE)
        self.policy.begin_pass(self._sync.monotonic())
        self._tell("page_reporting_pass_begin", self.stats.passes)
        try:
            sgl = self._alloc_scatterlist(registration.capacity)
            for zone in self.zones:
                if self.process_zone(registration, zone, sgl) is not None:
                    break
        except MemoryError:
            self.stats.lost_passes += 1
            lost = True
        except BaseException as error:
            for zone in self.zones:
                zone.lock.let_go(error)
            raise
        finally:
            found = registration.state.cmpxchg(PAGE_REPORTING_ACTIVE, PAGE_REPORTING_IDLE)
            again_s = self.policy.end_pass(self._sync.monotonic())
            if found == PAGE_REPORTING_REQUESTED:
                self._arm(registration, self.policy.delay_s("again"))
            if found == PAGE_REPORTING_ACTIVE and again_s is not None:
                self._request_after(registration, again_s)
            self._running = None
            self._tell("page_reporting_pass_end", self.stats.passes, STATE_NAMES[found], lost)
        ending, self._ending = self._ending, None
        if ending is not None:
            raise ending

    def _request_after(self, registration: Registration, delay_s: float) -> None:
        """Ask for a pass that nobody asked for: the policy has left something."""
        if registration.state.cmpxchg(PAGE_REPORTING_IDLE, PAGE_REPORTING_REQUESTED) == PAGE_REPORTING_IDLE:
            self._arm(registration, delay_s)

    def process_zone(self, registration: Registration, zone: Zone, sgl: Scatterlist) -> Exception | None:
        """Report the zone's blocks from the smallest order up; returns the reporter's error, if any.

        A zone is skipped unless a whole batch of the smallest order can be in flight while more than the low watermark
        stays: reporting must not make an allocation fail. The scatterlist is empty on entry and on return (S15).
        """
        watermark = zone.low_wmark_pages() + (registration.capacity << registration.order)
        usable_pages = zone.usable_pages()  # looked at once, without the lock
        visited = usable_pages > watermark
        self._tell("page_reporting_zone", zone.number, usable_pages, watermark, visited)
        if not visited:
            return None
        for order in range(registration.order, zone.layout.nr_orders):
            if not zone.nr_free[order]:
                continue  # every list of the order is empty
            for migratetype in range(MIGRATE_TYPES):
                if migratetype == MIGRATE_ISOLATE:
                    continue
                error = self.cycle(registration, zone, order, migratetype, sgl)
                if error is not None:
                    return error  # it came with a full batch, so nothing is left in the scatterlist
        if not sgl.batch():
            return None
        error = self._report(registration, zone, sgl)
        with zone.lock:
            self.drain(zone, sgl, reported=error is None)
        return error

    # Why one loop, what stood here before, and what is open: docs/CYCLE.md.
    def cycle(
        self, registration: Registration, zone: Zone, order: int, migratetype: int, sgl: Scatterlist
    ) -> Exception | None:
        """Visit one free list: fill the scatterlist, report when it is full, drain, and go on.

        What does not fill a batch stays in `sgl` for the next list. Returns the reporter's error, if any.
        """
        if zone.free_list_empty(order, migratetype):  # without the lock: a miss waits for the next notify
            return None
        revision, policy, chooses = self.revision, self.policy, self._chooses
        error = None
        with zone.lock:
            nr_free = zone.nr_free[order]
            trace = zone.trace
            if trace is not None:
                trace("page_reporting_visit", order, migratetype, nr_free)
            calls_left = policy.calls(nr_free, registration.capacity)
            blocks_left = nr_free
            pfn = self._first_unreported(zone, order, migratetype)
            while pfn >= 0:
                if revision.budget and calls_left < 0:
                    registration.state.store(PAGE_REPORTING_REQUESTED)
                    break
                if revision.leave_after_nr_free and blocks_left == 0:
                    break
                if chooses and sgl.offset and (verdict := policy.take(zone, pfn, order)):
                    if verdict == STOP:
                        break
                    pfn = zone.unreported_from(zone.next_in_list(pfn, order, migratetype), order, migratetype)
                    continue
                if sgl.offset:
                    # The successor first: isolating unlinks the block.
                    successor = zone.next_in_list(pfn, order, migratetype)
                    if not zone.isolate_free_page(pfn, order):
                        self.stats.refused_in_pass += 1
                        break
                    sgl.add(pfn, order)
                    blocks_left -= 1
                    pfn = zone.unreported_from(successor, order, migratetype)
                    if sgl.offset or not revision.report_when_full:
                        continue
                if revision.rotate and pfn >= 0:
                    # The first block to handle becomes the list's first, so nobody walks over the ones in
                    # front again, even though the lock is dropped now and anything may happen.
                    zone.rotate_to_front(pfn, order, migratetype)
                zone.lock.release()
                try:
                    error = self._report(registration, zone, sgl)
                finally:
                    zone.lock.acquire()
                calls_left -= 1
                self.drain(zone, sgl, reported=error is None)
                # The list changed while the lock was dropped: no pfn from before is worth anything.
                pfn = -1 if error is not None else self._first_unreported(zone, order, migratetype)
            if revision.rotate and pfn >= 0:
                zone.rotate_to_front(pfn, order, migratetype)
        return error

    @staticmethod
    def _first_unreported(zone: Zone, order: int, migratetype: int) -> int:
        return zone.unreported_from(zone.first_in_list(order, migratetype), order, migratetype)

    def drain(self, zone: Zone, sgl: Scatterlist, *, reported: bool) -> None:
        """Put every block of the scatterlist back, and flag those that the host knows and that did not merge.

        Runs under the zone lock from the first putback to the last flag: an allocation in between would take a page
        that is flagged a moment later (S1).
        """
        for pfn, order in sgl.batch():
            # Read now: the pageblock may have been retagged while its page was in flight (S20).
            migratetype = zone.pageblock_migratetype(pfn)
            zone.putback_isolated_page(pfn, order, migratetype)
            if reported and self._tells:
                self.policy.reported(zone, pfn, order)
            # A neighbour freed meanwhile has merged with it: the whole was never reported (S14).
            if reported and zone.page_is_buddy(pfn, order):
                zone.set_reported(pfn)
        sgl.reset()

    def _report(self, registration: Registration, zone: Zone, sgl: Scatterlist) -> Exception | None:
        """Call the reporter with the scatterlist's blocks, no lock held; returns what it raised, if anything."""
        blocks = tuple(sgl.batch())
        batch = tuple([self._block(zone, pfn, order) for pfn, order in blocks])
        number = self.stats.batches + 1
        started_s = self._sync.monotonic()
        self._tell("page_reporting_report_begin", number, zone.number, blocks)
        self.flight = Flight(zone, batch, started_s, number)
        error: Exception | None = None
        try:
            answer: object = registration.device.reporter.report(zone, batch)  # type: ignore[func-returns-value]
            if (wrong := only_promised(answer)) is not None:
                error = PageReportingError(wrong)
        except Exception as raised:
            error = raised.with_traceback(None)  # this frame is in it, and would keep itself and all it knows
        except SystemExit as raised:
            error = PageReportingError(f"the reporter called sys.exit: {describe_error(raised)}")
        except BaseException as raised:
            self._ending = raised  # no failure of the device but the end of this thread, when all is put back
            error = PageReportingError(f"the reporter ends the worker: {describe_error(raised)}")
        finally:
            self.flight = None
            self.stats.batches = number
        if error is None:
            self.stats.reported_blocks += len(batch)
            self.stats.reported_bytes += sum([block.length for block in batch])
        elif self._ending is None:  # the end of the worker is no failure of the device
            self.stats.failed_batches += 1
            self.stats.first_error = self.stats.first_error or describe_error(error)
        what = None if error is None else describe_error(error)
        self._tell("page_reporting_report_end", number, zone.number, what)
        return error

    @staticmethod
    def _block(zone: Zone, pfn: int, order: int) -> Block:
        offset = zone.ram.offset(pfn) if zone.ram is not None else pfn << zone.layout.page_shift
        return Block(pfn, order, offset, zone.layout.page_size << order)

    def now_s(self) -> float:
        """Return the time on the monotonic clock, in seconds: a policy's clock."""
        return self._sync.monotonic()

    # -- looking -----------------------------------------------------------------------------------------

    @property
    def device(self) -> PageReportingDevice | None:
        """The registered device."""
        return self._registered.device if self._registered is not None else None

    @property
    def order(self) -> int:
        """The smallest order that is reported; without a device, one that no block has."""
        registration = self._registered or self._running
        return registration.order if registration is not None else self.zones[0].layout.nr_orders

    @property
    def leaving(self) -> PageReportingDevice | None:
        """The device that `unregister` still waits for."""
        return self._leaving.device if self._leaving is not None else None

    def state_name(self) -> str:
        """Return 'idle', 'requested' or 'active', of the device whose pass runs or the registered one; or 'none'."""
        registration = self._running or self._registered
        return "none" if registration is None else STATE_NAMES[registration.state.load()]

    def pending(self) -> bool:
        """Whether a pass is armed."""
        return self._registered is not None and self._workqueue.pending(self._registered)

    def running(self) -> bool:
        """Whether a pass is under way."""
        return self._running is not None

    def settled(self) -> bool:
        """Whether no pass runs and none is armed. Raises WorkerDied, with the failure, when nobody would make one.

        Not all that is free has been reported then: what rests on page sets comes to the lists, and asks for a pass,
        when a set overflows or is drained, and pages may rest there for good (`Memory.drain_all_pages`).
        """
        registration = self._registered or self._leaving
        return registration is None or self._workqueue.idle(registration)

    def run_now(self) -> bool:
        """Make the armed pass on the calling thread, on a workqueue that was not started; False if none is."""
        registration = self._registered
        return registration is not None and self._workqueue.run_now(registration)

    def describe_flight(self) -> str:
        """Say in one line which batch the reporter has, and for how long."""
        flight = self.flight
        if flight is None:
            return "no batch is in flight"
        age_s = self._sync.monotonic() - flight.since_s
        first = flight.batch[0]
        return (
            f"batch {flight.number} ({len(flight.batch)} blocks of zone {flight.zone.name}, the first at pfn "
            f"{first.pfn:#x} order {first.order}) has been with the reporter for {age_s:.1f} s"
        )
