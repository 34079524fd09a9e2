"""M-150 and on: what is told or counted of an event is not so, though the event itself is right."""

from __future__ import annotations

from pagealloc.buddy import Buddy
from pagealloc.mobility import Mobility
from stress.mutants.planting import Mutant, edited
from workers.page_reporting import PageReporting

RECORDS = {
    "M-150": Mutant(
        "tells that a fallback which takes a whole pageblock fragments one",
        "log",
        (
            edited(
                Mobility,
                "_trace_extfrag",
                """
                - fallback_order < pageblock_order,
                + fallback_order <= pageblock_order,
                """,
            ),
        ),
    ),
    "M-151": Mutant(
        "tells of a block of the high-atomic reserve that it refills a page set",
        "log",
        (
            edited(
                Buddy,
                "rmqueue_smallest",
                """
                - self.pcp_allowed_order(order) and migratetype < MIGRATE_PCPTYPES,
                + self.pcp_allowed_order(order) and migratetype < MIGRATE_ISOLATE,
                """,
            ),
        ),
    ),
    "M-152": Mutant(
        "hands blocks over in bytes of 4 KiB pages, however large a page is",
        "stats",
        (
            edited(
                PageReporting,
                "_report",
                """
                - batch = tuple([self._block(zone, pfn, order) for pfn, order in blocks])
                + whole = [self._block(zone, pfn, order) for pfn, order in blocks]
                + batch = tuple([block._replace(length=PAGE_SIZE << block.order) for block in whole])
                """,
            ),
        ),
    ),
    "M-153": Mutant(
        "keeps the last error of the device for its first one",
        "stats",
        (
            edited(
                PageReporting,
                "_report",
                """
                - self.stats.first_error = self.stats.first_error or describe_error(error)
                + self.stats.first_error = describe_error(error)
                """,
            ),
        ),
    ),
    "M-154": Mutant(
        "adds up over all passes how many lists one has left at the min watermark",
        "stats",
        (
            edited(
                PageReporting,
                "process",
                """
                - self.stats.refused_in_pass = 0
                """,
            ),
        ),
    ),
}
