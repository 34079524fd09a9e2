"""M-44 .. M-53: requests that are lost, doubled, or made in the wrong place."""

from __future__ import annotations

from pagealloc.buddy import Buddy
from pagealloc.zone import Zone
from stress.mutants.planting import Mutant, edited
from workers.page_reporting import PageReporting

STATES = {
    "M-44": Mutant(
        "reads the state and writes it in two steps when a report is asked for",
        "S23",
        (
            edited(
                PageReporting,
                "request",
                """
                - old = registration.state.xchg(PAGE_REPORTING_REQUESTED)
                + old = registration.state.load()
                + registration.state.store(PAGE_REPORTING_REQUESTED)
                """,
            ),
        ),
    ),
    "M-45": Mutant(
        "ends a pass with a plain store of IDLE",
        "L1",
        (
            edited(
                PageReporting,
                "process",
                """
                - found = registration.state.cmpxchg(PAGE_REPORTING_ACTIVE, PAGE_REPORTING_IDLE)
                + found = registration.state.load()
                + if found != PAGE_REPORTING_REQUESTED:
                +     registration.state.store(PAGE_REPORTING_IDLE)
                """,
            ),
        ),
    ),
    "M-46": Mutant(
        "does not arm the work again when somebody asked during the pass",
        "S23",
        (
            edited(
                PageReporting,
                "process",
                """
                - if found == PAGE_REPORTING_REQUESTED:
                -     self._arm(registration, self.policy.delay_s("again"))
                """,
            ),
        ),
    ),
    "M-47": Mutant(
        "begins a pass without storing ACTIVE",
        "livelock",
        (
            edited(
                PageReporting,
                "process",
                """
                - registration.state.store(PAGE_REPORTING_ACTIVE)
                + pass
                """,
            ),
        ),
    ),
    "M-48": Mutant(
        "stores ACTIVE only after the zones were scanned",
        "L1",
        (
            edited(
                PageReporting,
                "process",
                """
                - registration.state.store(PAGE_REPORTING_ACTIVE)
                + pass

                +     registration.state.store(PAGE_REPORTING_ACTIVE)
                  except MemoryError:
                """,
            ),
        ),
    ),
    "M-49": Mutant(
        "asks for a report before the freed block is on its list",
        "L1",
        (
            edited(
                Buddy,
                "free_one_page",
                """
                - if order >= self.page_reporting_order and not fpi_flags & FPI_SKIP_REPORT_NOTIFY:
                -     self.page_reporting_notify(self.base_pfn + index, order)

                + if order >= self.page_reporting_order and not fpi_flags & FPI_SKIP_REPORT_NOTIFY:
                +     self.page_reporting_notify(self.base_pfn + index, order)
                  to_tail = fpi_flags & FPI_TO_TAIL != 0
                """,
            ),
        ),
    ),
    "M-50": Mutant(
        "goes by the order of what was freed, not of what it merged into, when it asks for a report",
        "S24",
        (
            edited(
                Buddy,
                "free_one_page",
                """
                - if order >= self.page_reporting_order and not fpi_flags & FPI_SKIP_REPORT_NOTIFY:
                + if freed_order >= self.page_reporting_order and not fpi_flags & FPI_SKIP_REPORT_NOTIFY:
                """,
            ),
        ),
    ),
    "M-51": Mutant(
        "asks for a report of the blocks that a report put back",
        "S21",
        (
            edited(
                Zone,
                "putback_isolated_page",
                """
                - fpi_flags = FPI_SKIP_REPORT_NOTIFY
                + fpi_flags = 0
                """,
            ),
        ),
    ),
    "M-52": Mutant(
        "arms the work while its pass runs",
        "vectors",
        (
            edited(
                PageReporting,
                "request",
                """
                - if old != PAGE_REPORTING_IDLE:
                + if old == PAGE_REPORTING_REQUESTED:
                """,
            ),
        ),
    ),
    "M-53": Mutant(
        "takes the registration mutex to ask for a report, under the zone lock",
        "lockdep",
        (
            edited(
                PageReporting,
                "notify",
                """
                + self._mutex.acquire()
                  registration = self._registered

                + self._mutex.release()
                  if registration is not None:
                """,
            ),
        ),
    ),
    "M-53a": Mutant(
        "makes the pass right where a report is asked for, under the zone lock",
        "deadlock",
        (
            edited(
                PageReporting,
                "notify",
                """
                - self.request(registration)
                + self.process(registration)
                """,
            ),
        ),
    ),
}
