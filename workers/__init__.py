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
from workers.policies import POLICIES, load_policy
from workers.policy import ReportingPolicy
from workers.reporters import Discard, FaultInjector, Null, Sleep, load_reporter
from workers.workqueue import DelayedWork, Workqueue

__all__ = [
    "POLICIES",
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
    "ReportingPolicy",
    "Sleep",
    "Workqueue",
    "load_policy",
    "load_reporter",
]
