"""The threads around the memory: delayed work, the reporting device and its worker, reporters, allocators."""

from __future__ import annotations

from workers.page_reporting import (
    Batch,
    Block,
    DeviceBusy,
    PageReporting,
    PageReportingDevice,
    PageReportingError,
    Reporter,
    ReporterStuck,
)
from workers.reporters import Discard, FaultInjector, Null, Sleep, load_reporter
from workers.workqueue import DelayedWork, Workqueue

__all__ = [
    "Batch",
    "Block",
    "DelayedWork",
    "DeviceBusy",
    "Discard",
    "FaultInjector",
    "Null",
    "PageReporting",
    "PageReportingDevice",
    "PageReportingError",
    "Reporter",
    "ReporterStuck",
    "Sleep",
    "Workqueue",
    "load_reporter",
]
