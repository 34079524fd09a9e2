"""The threads around the memory: delayed work, the reporting device and its worker, reporters, allocators.

page_reporting  the worker and the device: start here
scatterlist     the blocks of a batch in flight
policy          what the worker may decide, and what the kernel decides
policies        what others decide
managed         all of it in one context manager, for programs
workqueue       delayed work on one thread
reporters       what a device does with a batch, and how to load one
qemu            one of them: QEMU's own balloon
allocators      the load
child           a program that never outlives us
stats           what the worker has done so far, in numbers
errors          what a reporter raises
"""

from __future__ import annotations

from workers.errors import WorkerDied
from workers.managed import reporting
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
    "WorkerDied",
    "Workqueue",
    "load_policy",
    "load_reporter",
    "reporting",
]
