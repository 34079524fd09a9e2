"""The context manager around reporting, reporters that misbehave, and a worker that has died."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from pagealloc import GFP_KERNEL, Memory, ZoneSpec, validate
from pagealloc.errors import PageAllocError
from pagealloc.zone import Zone
from workers import Discard, Null, PageReportingDevice, WorkerDied, Workqueue, reporting
from workers.errors import TEXT_MAX, describe_error
from workers.page_reporting import Batch, PageReporting

NR_PAGES = 8192


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


def build(reporter: object) -> tuple[Memory, PageReporting, Workqueue]:
    memory = Memory([ZoneSpec("Normal", NR_PAGES)], ram=None, page_sets=False)
    queue = Workqueue(memory.sync, "reporting")
    core = PageReporting(memory.zones, memory.revision, memory.sync, queue, delay_s=0)
    core.register(PageReportingDevice(reporter, capacity=4))  # type: ignore[arg-type]
    return memory, core, queue


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
