"""M-54 .. M-64: devices that come and go, and what their neighbours may rely on."""

from __future__ import annotations

from pagealloc.buddy import Buddy
from pagealloc.free_area import FreeArea
from pagealloc.memory import Memory
from pagealloc.zone import Zone
from stress.mutants.planting import Mutant, edited
from workers.page_reporting import PageReporting
from workers.workqueue import Workqueue

LIFE = {
    "M-54": Mutant(
        "unregisters without cancelling the work",
        "S22",
        (
            edited(
                PageReporting,
                "begin_unregister",
                """
                - self._workqueue.bar(leaving)
                """,
            ),
            edited(
                PageReporting,
                "finish_unregister",
                """
                - if not self._workqueue.cancel_delayed_work_sync(leaving, timeout_s):
                -     raise ReporterStuck(
                -         f"device {leaving.device.name} cannot be unregistered: {self.describe_flight()}"
                -     )
                """,
            ),
        ),
    ),
    "M-54a": Mutant(
        "cancels the work before it takes the device back, so that a free can arm it again",
        "S22",
        (
            edited(
                PageReporting,
                "begin_unregister",
                """
                + self._workqueue.cancel_delayed_work_sync(leaving)
                  self._registered = None

                - self._workqueue.bar(leaving)
                """,
            ),
            edited(
                PageReporting,
                "finish_unregister",
                """
                - if not self._workqueue.cancel_delayed_work_sync(leaving, timeout_s):
                -     raise ReporterStuck(
                -         f"device {leaving.device.name} cannot be unregistered: {self.describe_flight()}"
                -     )
                """,
            ),
        ),
    ),
    "M-54b": Mutant(
        "does not wait for the frees that have looked the device up already",
        "S22",
        (
            edited(
                PageReporting,
                "begin_unregister",
                """
                - self._synchronize_rcu()
                """,
            ),
        ),
    ),
    "M-55": Mutant(
        "unregisters a device that failed from within its own pass",
        "L4",
        (
            edited(
                PageReporting,
                "_report",
                """
                +     self.unregister(registration.device)
                  what = None if error is None else describe_error(error)
                """,
            ),
        ),
    ),
    "M-56": Mutant(
        "shows the device to everybody before its state and its work are initialised",
        "S22",
        (
            edited(
                PageReporting,
                "register",
                """
                - self.request(registration)

                + registration.state.store(PAGE_REPORTING_IDLE)
                + self._registered = registration = Registration(device, order, self._sync, self.process)
                + self.request(registration)
                  return order
                """,
            ),
        ),
    ),
    "M-57": Mutant(
        "lets a second device take the place of the first",
        "S22",
        (
            edited(
                PageReporting,
                "register",
                """
                - if self._registered is not None:
                -     raise DeviceBusy(f"device {self._registered.device.name} is registered; unregister it first")
                """,
            ),
        ),
    ),
    "M-58": Mutant(
        "turns reporting off with the last device, and then does not clear Reported on removal",
        "S1..S5",
        (
            edited(
                PageReporting,
                "finish_unregister",
                """
                + for zone in self.zones:
                +     zone.page_reporting_order = zone.layout.nr_orders
                  self._tell("page_reporting_unregister", leaving.device.name)
                """,
            ),
            edited(
                FreeArea,
                "del_page_from_free_list",
                """
                - if state[index] & REPORTED:
                + if self.page_reporting_order < self.layout.nr_orders and state[index] & REPORTED:
                """,
            ),
        ),
    ),
    "M-59": Mutant(
        "lets the device go while its pass still runs",
        "S22",
        (
            edited(
                Workqueue,
                "cancel_delayed_work_sync",
                """
                - while work.running:
                -     remaining = None if deadline is None else deadline - self._sync.monotonic()
                -     if remaining is not None and remaining <= 0:
                -         return False
                -     self._changed.wait(remaining)
                """,
            ),
        ),
    ),
    "M-60": Mutant(
        "reads the smallest order to report again for each zone, while somebody changes it",
        "S11",
        (
            edited(
                PageReporting,
                "process_zone",
                """
                - for order in range(registration.order, zone.layout.nr_orders):
                + for order in range(registration.device.order or zone.layout.pageblock_order, zone.layout.nr_orders):
                """,
            ),
        ),
    ),
    "M-61": Mutant(
        "does not clear zeroed allocations of reported orders, as if the host had",
        "S25",
        (
            edited(
                Memory,
                "alloc_pages",
                """
                + if order >= self.zone_of(pfn).page_reporting_order:
                +     return pfn
                  if ram_to_zero is not None:
                """,
            ),
        ),
    ),
    "M-62": Mutant(
        "takes a batch back before the device has completed it",
        "log",
        (
            edited(
                PageReporting,
                "_report",
                """
                - answer: object = registration.device.reporter.report(zone, batch)  # type: ignore[func-returns-value]
                + answer = self._sync.spawn('device', lambda: registration.device.reporter.report(zone, batch))
                """,
            ),
        ),
    ),
    "M-63": Mutant(
        "hands a block of just the right size over without taking it off its list",
        "S1..S5",
        (
            edited(
                Buddy,
                "rmqueue_smallest",
                """
                - if state[index] & REPORTED:
                -     state[index] = BUDDY | current_order
                -     self.nr_reported[current_order] -= 1
                - after = next_[index]
                - next_[anchor] = after
                - prev[after] = anchor
                - state[index] = TAIL
                - nr_free[current_order] -= 1
                + if current_order > order:
                +     self.del_page_from_free_list(index, current_order)
                """,
            ),
        ),
    ),
    "M-64": Mutant(
        "asks for no report when page sets are drained",
        "L1",
        (
            edited(
                Zone,
                "_free_resting",
                """
                - self.free_one_page(index, order, migratetype, 0)
                + self.free_one_page(index, order, migratetype, FPI_SKIP_REPORT_NOTIFY)
                """,
            ),
        ),
    ),
}
