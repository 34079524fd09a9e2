"""M-150 and on: what is told or counted of an event is not so, though the event itself is right."""

from __future__ import annotations

from pagealloc.buddy import Buddy
from pagealloc.mobility import Mobility
from stress.mutants.planting import Mutant, edited

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
}
