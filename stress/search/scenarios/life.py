"""Scenarios of devices that come and go, and of the work behind them: every stage of a leave meets something else."""

from __future__ import annotations

from collections.abc import Callable

from pagealloc.zone import Zone
from stress.search.kit import Kit
from stress.search.scenarios.catalogue import scenario
from workers.errors import WorkerDied
from workers.page_reporting import Batch, DeviceBusy, PageReportingDevice, ReporterStuck
from workers.workqueue import DelayedWork


def _hold_back(kit: Kit) -> Callable[[], None]:
    """Let no batch come back before what this returns was called."""
    back = kit.sync.event("the reporter may come back")

    def during(zone: Zone, batch: Batch) -> None:
        del zone, batch
        back.wait()

    kit.host.during = during
    return back.set


def _leave_in_vain(kit: Kit) -> bool:
    """Unregister with little patience; whether that was in vain."""
    try:
        kit.reporting.unregister(kit.device, 1.0)
    except ReporterStuck:
        flight, settled = kit.reporting.flight, kit.reporting.settled()
        busy = flight is not None and kit.reporting.flight is flight  # before and after the question
        kit.expect(not (settled and busy), "S23", lambda: "all is settled, and the reporter has a batch")
        return True
    kit.oracle.retired = True
    return False


@scenario(also_in_two_zones=True)
def unregister_with_a_timeout(kit: Kit) -> None:
    """Unregister while the reporter stays away: from then on no pass begins, and a second try ends it (S22)."""
    kit.build(("Normal", 32), capacity=1)
    pfns = kit.alloc_nearly_all(3)
    kit.free(pfns[0], 3)
    let_back = _hold_back(kit)
    kit.start()
    kit.spawn("free", lambda: kit.free(pfns[2], 3))
    kit.spawn("leave", lambda: _leave_in_vain(kit) and let_back())
    kit.settle(all_reported=False)
    kit.reporting.unregister(kit.device)
    kit.oracle.retired = True
    kit.stop()


@scenario(also_in_two_zones=True)
def register_while_another_leaves(kit: Kit) -> None:
    """Register a device while another one's reporter stays away: it is refused until that one has left (S22)."""
    kit.build(("Normal", 32), capacity=1)
    other = PageReportingDevice(kit.host, capacity=1, name="other")
    let_back = _hold_back(kit)
    kit.start()

    def replace() -> None:
        if _leave_in_vain(kit):
            refused = False
            try:
                kit.reporting.register(other)
            except DeviceBusy:
                refused = True
            kit.expect(refused, "S22", lambda: "a device registers while another one is leaving")
        let_back()
        kit.reporting.unregister(kit.device)
        kit.oracle.retired = False
        kit.reporting.register(other)

    kit.spawn("replace", replace)
    kit.settle()
    kit.reporting.unregister(other)
    kit.oracle.retired = True
    kit.stop()


@scenario(also_in_two_zones=True)
def unregister_twice_at_once(kit: Kit) -> None:
    """Two tasks unregister the same device: when either returns, the reporter does not run (S22)."""
    kit.build(("Normal", 32), capacity=1)

    def leave() -> None:
        kit.reporting.unregister(kit.device)
        kit.oracle.retired = True

    kit.start()
    kit.spawn("one", leave)
    kit.spawn("other", leave)
    kit.settle(all_reported=False)
    kit.stop()


@scenario(also_in_two_zones=True)
def unregister_beside_another_work(kit: Kit) -> None:
    """Queue another work while unregister waits for the pass: its wake-up is not the end of the pass (S22)."""
    kit.build(("Normal", 32), capacity=1)
    other = DelayedWork("another work", lambda: None)

    def leave() -> None:
        kit.reporting.unregister(kit.device)
        kit.oracle.retired = True

    kit.start()
    kit.spawn("queue", lambda: kit.workqueue.queue_delayed_work(other, 0.5))
    kit.spawn("leave", leave)
    kit.settle(all_reported=False)
    kit.stop()


@scenario
def crossing_deadlines(kit: Kit) -> None:
    """Queue a work, and then one that is due before it: the thread may not sleep past the earlier one."""
    kit.build(("Normal", 32))
    ran: list[str] = []
    late = DelayedWork("the late work", lambda: ran.append("late"))
    early = DelayedWork("the early work", lambda: ran.append("early"))
    kit.workqueue.start()
    kit.spawn("queue late", lambda: kit.workqueue.queue_delayed_work(late, 2.0))
    kit.spawn("queue early", lambda: kit.workqueue.queue_delayed_work(early, 1.0))
    kit.settle()
    kit.expect(sorted(ran) == ["early", "late"], "L1", lambda: f"of two works {ran} ran")
    kit.stop()


@scenario
def cancel_among_others(kit: Kit) -> None:
    """Cancel one of two works that are pending: that one never runs, the other one does."""
    kit.build(("Normal", 32))
    ran: list[str] = []
    gone = DelayedWork("the cancelled work", lambda: ran.append("gone"))
    other = DelayedWork("the other work", lambda: ran.append("other"))
    cancelled: list[int] = []
    kit.workqueue.start()
    kit.workqueue.queue_delayed_work(gone, 1.0)
    kit.workqueue.queue_delayed_work(other, 1.0)

    def cancel() -> None:
        kit.workqueue.cancel_delayed_work_sync(gone)
        cancelled.append(ran.count("gone"))

    kit.spawn("cancel", cancel)
    kit.settle()
    kit.expect(ran.count("gone") == cancelled[0], "S22", lambda: "a work ran after its cancel returned")
    kit.expect(ran.count("other") == 1, "L1", lambda: f"of two works {ran} ran")
    kit.stop()


@scenario
def somebody_asks_whether_all_is_settled(kit: Kit) -> None:
    """Ask beside the only pass whether all is settled: a yes means that the pass is over (S23)."""
    kit.build(("Normal", 32), capacity=1)
    kit.alloc_nearly_all(3)
    kit.start()

    def ask() -> None:
        if kit.reporting.settled():
            over = kit.reporting.stats.passes == 1 and not kit.reporting.running()
            kit.expect(over, "S23", lambda: "all is settled, and the pass that was asked for is not over")

    kit.spawn("ask", ask)
    kit.rest()


@scenario(also_in_two_zones=True)
def the_reporter_exits(kit: Kit) -> None:
    """The reporter calls sys.exit: that is a failure like any other, and the next request repairs it (L8)."""
    kit.build(("Normal", 32), capacity=1)
    pfns = kit.alloc_nearly_all(3)
    kit.host.raises = {1: SystemExit(3)}
    kit.start()
    kit.free(pfns[0], 3)
    kit.settle(all_reported=False)
    kit.forgive_errors()
    kit.spawn("free", lambda: kit.free(pfns[2], 3))
    kit.rest()


class EndOfThread(BaseException):
    """What a reporter raises to end the worker."""


def _start_what_dies(kit: Kit) -> list[int]:
    """Start a worker that its reporter ends in the first call; returns the pageblocks, the first of them free."""
    kit.build(("Normal", 32), capacity=1)
    pfns = kit.alloc_nearly_all(3)
    kit.world.survives = (EndOfThread,)
    kit.host.raises = {1: EndOfThread()}
    kit.free(pfns[0], 3)
    kit.start()
    return pfns


@scenario(also_in_two_zones=True)
def the_reporter_ends_its_thread(kit: Kit) -> None:
    """The reporter ends the worker: no block stays in flight, and unregister does not wait for the dead (L4)."""
    pfns = _start_what_dies(kit)
    kit.spawn("free", lambda: kit.free(pfns[2], 3))
    kit.sync.await_idle()
    died = isinstance(kit.workqueue.failure, EndOfThread)
    kit.expect(died, "S15", lambda: "the reporter ended its thread, and the queue knows of no failure")
    kit.reporting.unregister(kit.device)
    kit.oracle.retired = True
    kit.settle(all_reported=False)
    kit.stop()


@scenario
def somebody_asks_while_the_worker_dies(kit: Kit) -> None:
    """The reporter ends the worker: whoever asks whether all is settled hears of that, and never a yes (S23)."""
    _start_what_dies(kit)

    def ask() -> None:
        try:
            yes = kit.reporting.settled()
        except WorkerDied:
            return
        kit.expect(not yes, "S23", lambda: "all is settled, and a pass was asked for that nobody will make")

    kit.spawn("ask", ask)
    kit.sync.await_idle()
    kit.reporting.unregister(kit.device)
    kit.oracle.retired = True
    kit.settle(all_reported=False)
    kit.stop()
