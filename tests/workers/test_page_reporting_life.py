"""The life of a device: registering, parting, the device after it, and reporters that do not come back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest

from pagealloc.errors import PageAllocError
from pagealloc.mmzone import MIGRATE_MOVABLE
from pagealloc.sync import Sync
from pagealloc.validate import validate
from pagealloc.zone import Zone
from workers.page_reporting import (
    Batch,
    DeviceBusy,
    PageReporting,
    PageReportingDevice,
    PageReportingError,
    Reporter,
    ReporterStuck,
)
from workers.policy import ReportingPolicy
from workers.reporters import FaultInjector, Null
from workers.workqueue import Workqueue

PATIENCE_S = 20.0

Build = Callable[..., Zone]
BuildReporting = Callable[..., PageReporting]


class Gate:
    """A reporter that waits inside its call until it is let go."""

    def __init__(self) -> None:
        self.calls = 0
        self.entered = threading.Event()
        self.leave = threading.Event()

    def report(self, zone: Zone, batch: Batch) -> None:
        self.calls += 1
        self.entered.set()
        assert self.leave.wait(PATIENCE_S)


class Counter:
    """A reporter that counts blocks, and whose calls after `gone` are a broken promise."""

    def __init__(self) -> None:
        self.blocks = 0
        self.gone = False
        self.called_when_gone = 0

    def report(self, zone: Zone, batch: Batch) -> None:
        self.called_when_gone += self.gone
        self.blocks += len(batch)


@pytest.fixture
def zone(build_zone: Build) -> Zone:
    return build_zone(256)


def device(
    reporter: Reporter, name: str = "dev", *, order: int = 3, capacity: int = 4
) -> PageReportingDevice:
    return PageReportingDevice(reporter, order=order, capacity=capacity, name=name)


def settle(reporting: PageReporting) -> None:
    while reporting.run_now():
        assert reporting.stats.passes < 100


def free_a_large_block(zone: Zone) -> None:
    pfn = zone.rmqueue_buddy(4, MIGRATE_MOVABLE)
    assert pfn >= 0
    zone.free_pages_ok(pfn, 4)


# -- registering ---------------------------------------------------------------------------------------------


def test_nobody_hears_of_frees_before_a_device_registers(zone: Zone, build_reporting: BuildReporting) -> None:
    reporting = build_reporting(zone)
    free_a_large_block(zone)
    assert not reporting.pending()
    assert reporting.settled()
    assert not reporting.run_now()


def test_a_second_device_is_refused_and_changes_nothing(zone: Zone, build_reporting: BuildReporting) -> None:
    reporting = build_reporting(zone)
    first = device(Counter(), "first")
    reporting.register(first)
    settle(reporting)
    with pytest.raises(DeviceBusy, match="first is registered"):
        reporting.register(device(Counter(), "second", order=1))
    assert reporting.device is first
    assert zone.page_reporting_order == 3
    assert not reporting.pending()


def test_the_same_device_is_refused_a_second_time_too(zone: Zone, build_reporting: BuildReporting) -> None:
    reporting = build_reporting(zone)
    only = device(Counter())
    reporting.register(only)
    with pytest.raises(DeviceBusy):
        reporting.register(only)


@pytest.mark.parametrize("order", [-1, 6, 99])
def test_an_order_that_no_block_has_is_refused(
    zone: Zone, build_reporting: BuildReporting, order: int
) -> None:
    reporting = build_reporting(zone)
    with pytest.raises(ValueError, match=f"order is {order}, expected 0 .. 5"):
        reporting.register(device(Counter(), order=order))
    assert reporting.device is None
    assert not reporting.pending()
    assert reporting.register(device(Counter(), order=5)) == 5


@pytest.mark.parametrize("capacity", [0, -1, 65537])
def test_a_capacity_out_of_range_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match=f"capacity is {capacity}, expected 1 .. 65536 entries"):
        device(Counter(), capacity=capacity)


def test_of_many_devices_that_register_at_once_one_wins(
    zone: Zone, build_reporting: BuildReporting, run_together: Callable[..., None]
) -> None:
    reporting = build_reporting(zone)
    won: list[str] = []
    busy: list[str] = []

    def register(name: str) -> None:
        try:
            reporting.register(device(Counter(), name))
            won.append(name)
        except DeviceBusy:
            busy.append(name)

    run_together(*[partial(register, f"dev{number}") for number in range(6)])
    assert len(won) == 1
    assert len(busy) == 5
    assert reporting.device is not None
    assert reporting.device.name == won[0]


def test_the_errors_of_registration_are_errors_of_this_package() -> None:
    assert issubclass(DeviceBusy, PageReportingError)
    assert issubclass(ReporterStuck, PageReportingError)
    assert issubclass(PageReportingError, PageAllocError)


# -- parting -------------------------------------------------------------------------------------------------


def test_unregistering_disarms_the_pass_that_was_asked_for(
    zone: Zone, build_reporting: BuildReporting
) -> None:
    counter = Counter()
    reporting = build_reporting(zone)
    only = device(counter)
    reporting.register(only)
    assert reporting.pending()
    reporting.unregister(only)
    assert reporting.device is None
    assert reporting.settled()
    assert (reporting.state_name(), reporting.run_now()) == ("none", False)
    assert counter.blocks == 0


def test_frees_after_unregistering_ask_for_nothing(zone: Zone, build_reporting: BuildReporting) -> None:
    counter = Counter()
    reporting = build_reporting(zone)
    only = device(counter)
    reporting.register(only)
    settle(reporting)
    reporting.unregister(only)
    before = counter.blocks
    free_a_large_block(zone)
    assert not reporting.pending()
    assert counter.blocks == before


def test_while_a_device_is_stuck_no_other_core_registers_over_its_zones(
    zone: Zone, build_reporting: BuildReporting
) -> None:
    gate = Gate()
    reporting, other = (build_reporting(zone, started=True, delay_s=0.0) for _ in range(2))
    stuck, follower = device(gate, "stuck"), device(Null(), "next")
    reporting.register(stuck)
    assert gate.entered.wait(PATIENCE_S)
    try:
        with pytest.raises(ReporterStuck):
            reporting.unregister(stuck, 0.0)
        with pytest.raises(DeviceBusy, match="reported to device stuck already"):
            other.register(follower)
    finally:
        gate.leave.set()
    reporting.unregister(stuck, PATIENCE_S)
    other.register(follower)
    other.unregister(follower, PATIENCE_S)


class Objecting(ReportingPolicy):
    """A policy that does not want any device, the first time."""

    objected = False

    def registered(self, order: int) -> None:
        if not self.objected:
            self.objected = True
            raise KeyboardInterrupt


def test_a_device_whose_registering_fails_half_way_is_not_there(
    zone: Zone, build_reporting: BuildReporting
) -> None:
    reporting = build_reporting(zone, delay_s=0.0, policy=Objecting())
    comer = device(Counter(), "comer")
    with pytest.raises(KeyboardInterrupt):
        reporting.register(comer)
    assert (reporting.device, reporting.leaving, reporting.pending()) == (None, None, False)
    reporting.register(comer)
    assert reporting.run_now()
    assert comer.reporter.blocks > 0  # type: ignore[attr-defined]
    reporting.unregister(comer)


def test_unregistering_a_stranger_does_nothing(zone: Zone, build_reporting: BuildReporting) -> None:
    reporting = build_reporting(zone)
    reporting.unregister(device(Counter()))
    only = device(Counter())
    reporting.register(only)
    reporting.unregister(device(Counter()))
    assert reporting.device is only
    assert reporting.pending()


def test_unregistering_twice_is_the_same_as_once(zone: Zone, build_reporting: BuildReporting) -> None:
    reporting = build_reporting(zone)
    only = device(Counter())
    reporting.register(only)
    reporting.unregister(only)
    reporting.unregister(only)
    assert reporting.leaving is None


def test_unregistering_waits_for_the_call_that_runs(
    zone: Zone,
    sync: Sync,
    build_reporting: BuildReporting,
    join_all: Callable[..., None],
    until: Callable[..., None],
) -> None:
    gate = Gate()
    reporting = build_reporting(zone, started=True, delay_s=0.0)
    only = device(gate)
    reporting.register(only)
    assert gate.entered.wait(PATIENCE_S)
    ended: list[bool] = []

    def unregister() -> None:
        reporting.unregister(only)
        ended.append(gate.leave.is_set())

    thread = sync.spawn("unregister", unregister)
    until(lambda: reporting.leaving is only, "the device is on its way out")
    assert ended == []
    gate.leave.set()
    join_all(thread)
    assert ended == [True]
    assert (reporting.leaving, reporting.device) == (None, None)


def test_a_pass_that_is_under_way_goes_on_to_its_end_but_is_not_armed_again(
    zone: Zone, build_reporting: BuildReporting
) -> None:
    """What a pass does while an unregister waits for it: it makes all its calls, and that is all."""

    class Leaver(Counter):
        def report(self, zone: Zone, batch: Batch) -> None:
            super().report(zone, batch)
            if self.blocks == len(batch):
                assert reporting.begin_unregister(leaver)
                free_a_large_block(zone)

    reporter = Leaver()
    reporting = build_reporting(zone)
    leaver = device(reporter, capacity=1)
    reporting.register(leaver)
    reporting.run_now()
    assert reporter.blocks > 1
    reporting.finish_unregister()
    assert reporting.settled()
    assert reporting.leaving is None
    with pytest.raises(PageReportingError, match="expected begin_unregister to come first"):
        reporting.finish_unregister()


def test_a_reporter_is_never_called_after_its_device_was_unregistered(
    zone: Zone, build_reporting: BuildReporting, sync: Sync, join_all: Callable[..., None]
) -> None:
    """Devices come and go while other threads free large blocks without a pause (S22)."""
    reporting = build_reporting(zone, started=True, delay_s=0.0)
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            pfn = zone.rmqueue_buddy(3, MIGRATE_MOVABLE)
            if pfn >= 0:
                zone.free_pages_ok(pfn, 3)

    threads = [sync.spawn(f"churn-{number}", churn) for number in range(2)]
    counters = [Counter() for _ in range(40)]
    try:
        for counter in counters:
            visitor = device(counter)
            reporting.register(visitor)
            stop.wait(0.002)
            reporting.unregister(visitor, PATIENCE_S)
            counter.gone = True
    finally:
        stop.set()
        join_all(*threads)
    assert sum(counter.called_when_gone for counter in counters) == 0
    assert sum(counter.blocks for counter in counters) > 0
    assert validate(zone).problems == []


# -- the next device -----------------------------------------------------------------------------------------


def test_the_next_device_resumes_where_the_last_one_left_off(
    zone: Zone, build_reporting: BuildReporting
) -> None:
    first, second = Counter(), Counter()
    reporting = build_reporting(zone)
    before = device(first, "before")
    reporting.register(before)
    settle(reporting)
    reporting.unregister(before)
    flagged = list(zone.nr_reported)
    assert sum(flagged) == first.blocks > 0
    reporting.register(device(second, "after"))
    settle(reporting)
    assert second.blocks == 0, "blocks that stayed Reported are not told again"
    assert zone.nr_reported == flagged
    free_a_large_block(zone)
    settle(reporting)
    assert second.blocks > 0


def test_registering_again_asks_for_a_pass_again(zone: Zone, build_reporting: BuildReporting) -> None:
    counter = Counter()
    reporting = build_reporting(zone)
    only = device(counter)
    reporting.register(only)
    reporting.unregister(only)
    reporting.register(only)
    assert (reporting.state_name(), reporting.pending()) == ("requested", True)
    settle(reporting)
    assert counter.blocks > 0


def test_the_next_device_brings_its_own_order_and_capacity(
    zone: Zone, build_reporting: BuildReporting
) -> None:
    batches: list[int] = []

    class Lengths:
        def report(self, zone: Zone, batch: Batch) -> None:
            batches.append(len(batch))

    reporting = build_reporting(zone)
    before = device(Null(), order=5)
    reporting.register(before)
    reporting.unregister(before)
    assert reporting.register(device(Lengths(), order=2, capacity=3)) == 2
    settle(reporting)
    assert zone.page_reporting_order == 2
    assert max(batches) == 3


# -- reporters that do not come back -------------------------------------------------------------------------


def test_a_lost_completion_makes_unregistering_give_up_with_the_batch_and_its_age(
    zone: Zone, sync: Sync, build_reporting: BuildReporting, until: Callable[..., None]
) -> None:
    lost = FaultInjector(Null(), sync, sync.rng(1), lose_rate=1.0)
    reporting = build_reporting(zone, started=True, delay_s=0.0)
    only = device(lost, "balloon")
    reporting.register(only)
    until(lambda: reporting.flight is not None, "the batch is away")
    with pytest.raises(ReporterStuck) as stuck:
        reporting.unregister(only, 0.05)
    assert stuck.match(
        r"device balloon cannot be unregistered: batch 1 \(4 blocks of zone Normal, the first at pfn "
        r"0x[0-9a-f]+ order 5\) has been with the reporter for \d+\.\d s"
    )
    assert reporting.leaving is only
    assert reporting.device is None
    assert not reporting.settled()
    census = validate(zone)
    assert census.problems == []
    assert census.in_flight == 4 * 32

    lost.release()
    reporting.unregister(only, PATIENCE_S)
    assert reporting.leaving is None
    assert reporting.settled()
    assert zone.nr_free_pages == 256
    assert sum(zone.nr_reported) == 0, "the batch came back as failed"


def test_while_a_device_is_stuck_no_other_registers_but_memory_goes_on_working(
    zone: Zone, build_reporting: BuildReporting
) -> None:
    gate = Gate()
    reporting = build_reporting(zone, started=True, delay_s=0.0)
    stuck = device(gate, "stuck")
    reporting.register(stuck)
    assert gate.entered.wait(PATIENCE_S)
    try:
        with pytest.raises(ReporterStuck):
            reporting.unregister(stuck, 0.0)
        with pytest.raises(DeviceBusy, match="stuck is still leaving"):
            reporting.register(device(Null(), "next"))
        free_a_large_block(zone)
        assert not reporting.pending(), "nobody is asked while nobody is registered"
        with pytest.raises(ReporterStuck):
            reporting.unregister(stuck, 0.0)
    finally:
        gate.leave.set()
    reporting.unregister(stuck, PATIENCE_S)
    assert gate.calls >= 1
    follower = device(Null(), "next")
    reporting.register(follower)
    reporting.unregister(follower, PATIENCE_S)


def test_unregistering_a_stranger_does_not_wait_for_the_one_that_is_stuck(
    zone: Zone, build_reporting: BuildReporting
) -> None:
    gate = Gate()
    reporting = build_reporting(zone, started=True, delay_s=0.0)
    stuck = device(gate)
    reporting.register(stuck)
    assert gate.entered.wait(PATIENCE_S)
    try:
        reporting.unregister(device(Null()))
        assert reporting.device is stuck
    finally:
        gate.leave.set()
    reporting.unregister(stuck, PATIENCE_S)


def test_notices_during_a_long_call_lead_to_a_pass_when_it_comes_back(
    zone: Zone, build_reporting: BuildReporting, until: Callable[..., None]
) -> None:
    gate = Gate()
    reporting = build_reporting(zone, started=True, delay_s=0.0)
    slow = device(gate)
    reporting.register(slow)
    assert gate.entered.wait(PATIENCE_S)
    free_a_large_block(zone)
    assert reporting.state_name() == "requested"
    assert not reporting.pending()
    gate.leave.set()
    until(reporting.settled, "the worker is idle")
    assert reporting.stats.passes >= 2
    assert zone.nr_reported == zone.nr_free
    reporting.unregister(slow, PATIENCE_S)


def test_without_a_batch_away_the_flight_is_described_so(zone: Zone, build_reporting: BuildReporting) -> None:
    assert build_reporting(zone).describe_flight() == "no batch is in flight"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_reporter_that_ends_the_worker_is_recorded_and_the_device_can_still_leave(
    zone: Zone, sync: Sync, until: Callable[..., None]
) -> None:
    class Murderer:
        def report(self, zone: Zone, batch: Batch) -> None:
            raise GeneratorExit

    queue = Workqueue(sync, "doomed")
    queue.start()
    reporting = PageReporting([zone], zone.revision, sync, queue, delay_s=0.0)
    only = device(Murderer())
    reporting.register(only)
    until(lambda: queue.failure is not None, "the failure is recorded")
    assert isinstance(queue.failure, GeneratorExit)
    reporting.unregister(only, PATIENCE_S)
    assert zone.nr_free_pages == 256
    assert validate(zone).problems == []
    assert queue.stop(PATIENCE_S)
