"""Reporting as a context manager: made in the right order, and undone on every way out.

    with Memory([ZoneSpec("Normal", nr_pages=65536)]) as memory, reporting(memory, Discard()) as core:
        ...

The worker has stopped before the memory closes, whatever the body raised.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from pagealloc.memory import Memory
from workers.page_reporting import (
    PAGE_REPORTING_CAPACITY,
    PAGE_REPORTING_DELAY_S,
    PageReporting,
    PageReportingDevice,
    Reporter,
)
from workers.reporters import close_reporter, start_reporter
from workers.workqueue import Workqueue

PATIENCE_S = 30.0  # with a reporter that has a batch; then it is left to itself, and the memory with it


@contextmanager
def reporting(
    memory: Memory,
    reporter: Reporter,
    *,
    delay_s: float = PAGE_REPORTING_DELAY_S,
    order: int | None = None,
    capacity: int = PAGE_REPORTING_CAPACITY,
    timeout_s: float = PATIENCE_S,
) -> Iterator[PageReporting]:
    """Report the memory's free blocks to `reporter` while the body runs; gives the reporting core.

    `order` is the smallest order to report, None for the pageblock order; `delay_s` passes between a free and its
    report; `capacity` is the blocks of a batch. On the way out no pass runs any more, or ReporterStuck is raised
    when the reporter did not come back within `timeout_s`. In the child of a fork the way out touches nothing.
    """
    process = os.getpid()
    for zone in memory.zones:
        zone.lock.check()
    start_reporter(reporter, memory)
    queue = Workqueue(memory.sync, "page_reporting")
    core = PageReporting(memory.zones, memory.revision, memory.sync, queue, delay_s=delay_s)
    device = PageReportingDevice(reporter, order=order, capacity=capacity)
    try:
        queue.start()
        core.register(device)
        yield core
    finally:
        if os.getpid() == process:
            try:
                core.unregister(device, timeout_s)
            finally:
                queue.stop(timeout_s)
                close_reporter(reporter)
