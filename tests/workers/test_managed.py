"""The context manager around reporting, reporters that misbehave, and a worker that has died."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from pagealloc import GFP_KERNEL, Memory, ZoneSpec, validate
from pagealloc.errors import AnotherProcess, PageAllocError, RamError
from pagealloc.sync import Sync
from pagealloc.zone import Zone
from workers import Discard, Null, PageReportingDevice, WorkerDied, Workqueue, reporting
from workers.child import Child
from workers.errors import TEXT_MAX, ReporterError, describe_error
from workers.page_reporting import Batch, DeviceBusy, PageReporting, ReporterStuck
from workers.workqueue import DelayedWork

NR_PAGES = 8192

InChild = Callable[[Callable[[], None]], int]


class Stop(BaseException):
    """What ends a thread."""


class Raising:
    """A reporter that raises what it is made with."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def report(self, zone: Zone, batch: Batch) -> None:
        raise self.error


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("leaving", [None, AssertionError, KeyboardInterrupt, SystemExit])
def test_the_worker_has_stopped_before_the_memory_closes_on_every_way_out(
    leaving: type[BaseException] | None, until: Callable[[Callable[[], bool], str], None]
) -> None:
    core = None

    def body() -> None:
        nonlocal core
        with (
            Memory([ZoneSpec("Normal", NR_PAGES)]) as memory,
            reporting(memory, Discard(), delay_s=0, capacity=4) as core,
        ):
            until(lambda: core is not None and core.stats.batches > 0, "something is reported")
            if leaving is not None:
                raise leaving

    if leaving is None:
        body()
    else:
        with pytest.raises(leaving):
            body()
    assert core is not None
    assert core.device is None
    assert not core.running()


class Stuck:
    """A reporter that does not come back before it is let go."""

    def __init__(self) -> None:
        self.entered, self.leave = threading.Event(), threading.Event()
        self.closed = False

    def report(self, zone: Zone, batch: Batch) -> None:
        self.entered.set()
        self.leave.wait()

    def close(self) -> None:
        self.closed = True


def test_a_reporter_that_does_not_come_back_is_left_to_itself_after_the_time_that_was_given(
    sync: Sync, join_all: Callable[..., None]
) -> None:
    memory, reporter = Memory([ZoneSpec("Normal", NR_PAGES)], ram=None), Stuck()
    told: list[str] = []

    def leave() -> None:
        with (
            pytest.raises(ReporterStuck),
            reporting(memory, reporter, delay_s=0, capacity=1, timeout_s=0.1),
        ):
            assert reporter.entered.wait(20)
        told.append("left")

    try:
        join_all(sync.spawn("leaves", leave))
    finally:
        reporter.leave.set()
    assert told
    assert reporter.closed  # it gives back what it has, all the same


def build(reporter: object) -> tuple[Memory, PageReporting, Workqueue]:
    memory = Memory([ZoneSpec("Normal", NR_PAGES)], ram=None, page_sets=False)
    queue = Workqueue(memory.sync, "reporting")
    core = PageReporting(memory.zones, memory.revision, memory.sync, queue, delay_s=0)
    core.register(PageReportingDevice(reporter, capacity=4))  # type: ignore[arg-type]
    return memory, core, queue


def tell_refusals(core: PageReporting, queue: Workqueue, device: PageReportingDevice) -> None:
    """Say which operations on the parent's worker a child is not refused with words."""
    work = DelayedWork("mine", lambda: None)
    other = PageReportingDevice(Null())
    uses: dict[str, Callable[[], object]] = {
        "register": lambda: core.register(other),
        "unregister": lambda: core.unregister(device, timeout_s=5),
        "begin_unregister": lambda: core.begin_unregister(device),
        "finish_unregister": lambda: core.finish_unregister(timeout_s=5),
        "notify": lambda: core.notify(0, 9),
        "flush": core.flush,
        "settled": core.settled,
        "pending": core.pending,
        "run_now": core.run_now,
        "queue": lambda: queue.queue_delayed_work(work, 0),
        "cancel": lambda: queue.cancel_delayed_work_sync(work),
        "disarm": lambda: queue.disarm(work),
        "bar": lambda: queue.bar(work),
        "run_now of a queue": lambda: queue.run_now(work),
        "idle": lambda: queue.idle(work),
        "start": queue.start,
        "stop": lambda: queue.stop(5),
    }
    for name, use in uses.items():
        try:
            use()
        except AnotherProcess as error:
            if "parent process's" in str(error):
                continue
        print(f"{name} is not refused", flush=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_is_refused_the_worker_and_the_parent_goes_on(
    in_child: InChild, until: Callable[[Callable[[], bool], str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        Memory([ZoneSpec("Normal", NR_PAGES)]) as memory,
        reporting(memory, Null(), delay_s=0, capacity=4) as core,
    ):
        device = core.device
        assert device is not None

        def child() -> None:
            tell_refusals(core, core._workqueue, device)
            if os.fork() == 0:  # a child of the child is told, too
                tell_refusals(core, core._workqueue, device)
                os._exit(0)
            os.wait()

        assert in_child(child) == 0
        assert capfd.readouterr().out == ""
        passes = core.stats.passes
        pfn = memory.alloc_pages(GFP_KERNEL, 9)
        assert pfn is not None
        memory.free_pages(pfn, 9)
        until(lambda: core.stats.passes > passes, "the parent's worker makes a pass")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_that_leaves_the_body_of_reporting_takes_nothing_along(in_child: InChild) -> None:
    with Memory([ZoneSpec("Normal", NR_PAGES)], ram="memfd") as memory:
        pfn = memory.alloc_pages(GFP_KERNEL, 0)
        assert pfn is not None
        memory.view(pfn)[:5] = b"hello"

        def child() -> None:
            with memory, reporting(Memory([ZoneSpec("Normal", NR_PAGES)]), Null()):
                pass

        assert in_child(child) == 0
        assert bytes(memory.view(pfn)[:5]) == b"hello"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_cannot_end_the_parents_device(in_child: InChild, sync: Sync) -> None:
    process = Child(sync, ["sleep", "60"])

    def child() -> None:
        with pytest.raises(AnotherProcess, match="process sleep is the parent"):
            process.end()

    assert in_child(child) == 0
    assert process.alive()
    process.end()


class Coroutine:
    async def report(self, zone: Zone, batch: Batch) -> None:
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("reporter", "told"),
    [
        (Raising(ValueError("x" * 10_000_000)), "ValueError: xxx"),
        (
            Raising(ValueError("\nSUCCESS 1 s, 0 violations\x1b[2K")),
            r"ValueError: \nSUCCESS 1 s, 0 violations\x1b[2K",
        ),
        (Raising(Speechless()), "Speechless: its text cannot be had: RuntimeError"),
        (Raising(SystemExit(3)), "PageReportingError: the reporter called sys.exit: SystemExit: 3"),
        (Coroutine(), "PageReportingError: report(zone, batch) is a coroutine function, which nobody awaits"),
    ],
)
def test_a_reporter_that_fails_in_its_own_way_is_told_and_loses_no_page(reporter: object, told: str) -> None:
    memory, core, _ = build(reporter)
    assert core.run_now()
    assert core.stats.failed_batches == core.stats.batches == 1
    assert core.stats.reported_blocks == 0
    assert core.stats.first_error is not None
    assert core.stats.first_error.startswith(told)
    assert len(core.stats.first_error) <= TEXT_MAX
    assert validate(memory.zones[0]).in_flight == 0
    assert memory.nr_free_pages() == NR_PAGES


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_whoever_asks_a_dead_worker_is_told_with_its_failure(
    until: Callable[[Callable[[], bool], str], None],
) -> None:
    memory, core, queue = build(Raising(Stop("enough")))
    device = core.device
    assert device is not None
    queue.start()
    until(lambda: queue.failure is not None, "the worker has ended")
    asked: list[Callable[[], object]] = [
        core.settled,
        core.pending,
        lambda: core.register(PageReportingDevice(Null())),
    ]
    for ask in asked:
        with pytest.raises(WorkerDied, match="the thread of workqueue reporting has ended: Stop: enough"):
            ask()
    (zone,) = memory.zones
    assert validate(zone).problems == []
    assert validate(zone).in_flight == 0
    pfn = memory.alloc_pages(GFP_KERNEL, 9)
    assert pfn is not None
    memory.free_pages(pfn, 9)  # asks for a report, which nobody will make: a free goes well all the same
    core.unregister(device, 5)


class RaisingOnce(Raising):
    """The same, and then it takes whatever it is given."""

    raised = False

    def report(self, zone: Zone, batch: Batch) -> None:
        if not self.raised:
            self.raised = True
            raise self.error


def test_what_ended_a_pass_that_was_run_by_hand_ends_no_later_one() -> None:
    memory, core, _ = build(RaisingOnce(Stop("enough")))
    (zone,) = memory.zones
    with pytest.raises(Stop, match="enough"):
        core.run_now()
    for _ in range(2):
        pfn = memory.alloc_pages(GFP_KERNEL, 9)
        assert pfn is not None
        memory.free_pages(pfn, 9)
        assert core.run_now()
    assert core.stats.reported_blocks
    assert validate(zone).in_flight == 0


def test_a_started_queue_says_what_it_cannot_do() -> None:
    _, core, queue = build(Null())
    device = core.device
    assert device is not None
    queue.start()
    with pytest.raises(PageAllocError, match="started"):
        core.run_now()
    with pytest.raises(PageAllocError, match="started"):
        queue.start()
    core.unregister(device, 5)
    assert queue.stop(5)


def test_the_text_of_an_error_is_one_line() -> None:
    assert describe_error(KeyError("a\rb")) == r"KeyError: 'a\rb'"


class Unfinished:
    """Returns what has not been done."""

    def __init__(self, make: Callable[[], object]) -> None:
        self._make = make

    def report(self, zone: Zone, batch: Batch) -> None:
        return self._make()  # type: ignore[return-value]


def generator() -> Iterator[int]:
    yield 1


async def asynchronous_generator() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("make", [generator, asynchronous_generator, Future])
def test_what_a_reporter_has_only_promised_is_not_handed_over(
    make: Callable[[], object], until: Callable[..., None]
) -> None:
    with Memory([ZoneSpec("Normal", NR_PAGES)], ram=None) as memory:
        with reporting(memory, Unfinished(make), delay_s=0.0, capacity=1) as core:
            until(lambda: core.stats.batches, "a batch")
        assert core.stats.failed_batches == core.stats.batches
        assert core.stats.reported_blocks == 0


def test_a_second_core_over_the_same_zones_is_refused_while_the_first_reports() -> None:
    with Memory([ZoneSpec("Normal", 4096)], ram=None) as memory:
        with (
            reporting(memory, Null()),
            pytest.raises(DeviceBusy, match="zone Normal is reported to device"),
            reporting(memory, Null()),
        ):
            pass
        with reporting(memory, Null()):
            pass


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"delay_s": float("nan")}, "delay_s is nan"),
        ({"delay_s": float("inf")}, "delay_s is inf"),
        ({"delay_s": -1.0}, "delay_s is -1.0"),
        ({"order": 3.5}, "capacity is 32 and order 3.5"),
        ({"capacity": 1.5}, "capacity is 1.5 and order None"),
        ({"reporter": None}, "reporter is None, expected an object with report"),
        ({"reporter": Null}, "expected an object with report"),
    ],
)
def test_numbers_and_reporters_that_mean_nothing_are_refused_where_they_are_given(
    arguments: dict[str, Any], error: str
) -> None:
    given: dict[str, Any] = {"reporter": Null(), **arguments}
    with (
        Memory([ZoneSpec("Normal", 4096)], ram=None) as memory,
        pytest.raises((TypeError, ValueError), match=error),
        reporting(memory, **given),
    ):
        pass


class Quits:
    def start(self, memory: Memory) -> None:
        sys.exit(0)

    def report(self, zone: Zone, batch: Batch) -> None:
        """Never called."""


def test_a_reporter_that_leaves_while_it_starts_cannot_start() -> None:
    with (
        Memory([ZoneSpec("Normal", 4096)], ram=None) as memory,
        pytest.raises(ReporterError, match="cannot start: SystemExit"),
        reporting(memory, Quits()),
    ):
        pass


def test_a_closed_memory_says_that_it_is_closed() -> None:
    memory = Memory([ZoneSpec("Normal", 4096)])
    memory.close()
    with pytest.raises(RamError, match="this memory is closed"):
        memory.view(memory.zones[0].start_pfn)
