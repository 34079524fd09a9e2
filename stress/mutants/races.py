"""M-10 .. M-18: what is wrong only because the zone lock is dropped for the report."""

from __future__ import annotations

from pagealloc.zone import Zone
from stress.mutants.planting import Mutant, edited
from workers.page_reporting import PageReporting


def _isolate_but_leave_listed(zone: Zone, pfn: int, order: int) -> bool:
    return zone.zone_watermark_ok(0, zone.min_wmark_pages() + (1 << order))


def _no_putback(zone: Zone, pfn: int, order: int, migratetype: int) -> None:
    del zone, pfn, order, migratetype


RACES = {
    "M-10": Mutant(
        "calls the reporter with the zone lock held",
        "S9",
        (
            edited(
                PageReporting,
                "cycle",
                """
                - zone.lock.release()
                - try:
                -     error = self._report(registration, zone, sgl)
                - finally:
                -     zone.lock.acquire()
                + error = self._report(registration, zone, sgl)
                """,
            ),
        ),
    ),
    "M-11": Mutant(
        "goes on after the report with the successor that it had looked up before",
        "L1",
        (
            edited(
                PageReporting,
                "cycle",
                """
                      zone.rotate_to_front(pfn, order, migratetype)
                + successor = zone.next_in_list(pfn, order, migratetype) if pfn >= 0 else -1
                  zone.lock.release()

                - pfn = -1 if error is not None else self._first_unreported(zone, order, migratetype)
                + pfn = -1 if error is not None else zone.unreported_from(successor, order, migratetype)
                """,
            ),
        ),
    ),
    "M-12": Mutant(
        "goes on after the report with the very block that it stopped at",
        "S26",
        (
            edited(
                PageReporting,
                "cycle",
                """
                - pfn = -1 if error is not None else self._first_unreported(zone, order, migratetype)
                + pfn = -1 if error is not None else pfn
                """,
            ),
        ),
    ),
    "M-13": Mutant(
        "puts the leftover batch back without the zone lock",
        "S9",
        (
            edited(
                PageReporting,
                "process_zone",
                """
                - with zone.lock:
                -     self.drain(zone, sgl, reported=error is None)
                + self.drain(zone, sgl, reported=error is None)
                """,
            ),
        ),
    ),
    "M-13a": Mutant(
        "gives the zone lock away between the putback of a block and its flag",
        "S1..S5",
        (
            edited(
                PageReporting,
                "drain",
                """
                - if reported and zone.page_is_buddy(pfn, order):
                -     zone.set_reported(pfn)
                + whole = zone.page_is_buddy(pfn, order)
                + zone.lock.release()
                + zone.lock.acquire()
                + if reported and whole:
                +     zone.state[pfn - zone.base_pfn] |= REPORTED
                +     zone.nr_reported[order] += 1
                """,
            ),
        ),
    ),
    "M-14": Mutant(
        "puts a block back on the list of the type that its pageblock had when it was isolated",
        "S20",
        (
            edited(
                PageReporting,
                "cycle",
                """
                + vars(self).setdefault('types', {})[pfn] = zone.pageblock_migratetype(pfn)
                  blocks_left -= 1
                """,
            ),
            edited(
                PageReporting,
                "drain",
                """
                - migratetype = zone.pageblock_migratetype(pfn)
                + migratetype = self.types[pfn]
                """,
            ),
        ),
    ),
    "M-15": Mutant(
        "does not take an isolated block out of the count of free pages",
        "S5",
        (
            edited(
                Zone,
                "isolate_free_page",
                """
                - self.nr_free_pages -= 1 << order
                """,
            ),
        ),
    ),
    "M-15a": Mutant(
        "takes an isolated block out of the count of free pages twice",
        "S5",
        (
            edited(
                Zone,
                "isolate_free_page",
                """
                - self.nr_free_pages -= 1 << order
                + self.nr_free_pages -= 2 << order
                """,
            ),
        ),
    ),
    "M-15b": Mutant(
        "takes a block of an ISOLATE pageblock out of the count of free pages, where it was not",
        "S1..S5",
        (
            edited(
                Zone,
                "isolate_free_page",
                """
                  if migratetype != MIGRATE_ISOLATE:
                      if self.usable_pages() <= self.watermark[WMARK_MIN] + (1 << order):
                          if trace is not None:
                              trace("page_reporting_refused", pfn, order, self.usable_pages())
                          return False
                -     self.nr_free_pages -= 1 << order
                + self.nr_free_pages -= 1 << order
                """,
            ),
        ),
    ),
    "M-16": Mutant(
        "counts a block as free that comes back to a pageblock which turned ISOLATE in flight",
        "S1..S5",
        (
            edited(
                Zone,
                "putback_isolated_page",
                """
                + if migratetype == MIGRATE_ISOLATE:
                +     self.nr_free_pages += 1 << order
                  self.free_one_page(index, order, migratetype, fpi_flags)
                """,
            ),
        ),
    ),
    "M-17": Mutant(
        "leaves the reporter's batch on the free list",
        "S5",
        (
            (Zone, "isolate_free_page", _isolate_but_leave_listed),
            (Zone, "putback_isolated_page", _no_putback),
        ),
    ),
    "M-17a": Mutant(
        "leaves a block in flight marked Buddy, so that a neighbour being freed merges with it",
        "S1..S5",
        (
            edited(
                Zone,
                "isolate_free_page",
                """
                - self.state[index] = IN_FLIGHT | order
                + self.state[index] = BUDDY | order
                """,
            ),
            edited(
                Zone,
                "putback_isolated_page",
                """
                - if self.state[index] != IN_FLIGHT | order:
                + if self.state[index] != BUDDY | order:
                """,
            ),
        ),
    ),
    "M-17b": Mutant(
        "lets an allocation that finds nothing else take a block in flight",
        "S10",
        (
            edited(
                Zone,
                "rmqueue_buddy",
                """
                + if index < 0:
                +     index = self.state.find(IN_FLIGHT | order)
                +     self.nr_free_pages += (1 << order) if index >= 0 else 0
                  if index >= 0:
                      self.nr_free_pages -= 1 << order
                """,
            ),
        ),
    ),
    "M-18": Mutant(
        "puts a batch back the way an owner frees pages",
        "S21",
        (
            edited(
                Zone,
                "putback_isolated_page",
                """
                - fpi_flags = FPI_SKIP_REPORT_NOTIFY
                + fpi_flags = 0

                - fpi_flags |= FPI_TO_TAIL
                + fpi_flags = 0
                """,
            ),
        ),
    ),
}
