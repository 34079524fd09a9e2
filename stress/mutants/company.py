"""M-89 .. M-95: what goes wrong only in company: of a second task, thread, zone, pageblock or owner."""

from __future__ import annotations

from pagealloc.memory import Memory
from pagealloc.pcp import PageSets
from pagealloc.zone import Zone
from stress.mutants.planting import Mutant, edited

COMPANY = {
    "M-89": Mutant(
        "serves a page from a page set though somebody has closed the memory",
        "vectors",
        (
            edited(
                Memory,
                "alloc_pages",
                """
                - elif zone.lock.refusal is None and (order == 0 or zone.has_fitting(order, migratetype)):
                + elif order == 0 or zone.has_fitting(order, migratetype):
                """,
            ),
        ),
    ),
    "M-90": Mutant(
        "lets a thread that was put on another one's CPU take that CPU with it when it ends",
        "vectors",
        (
            edited(
                PageSets,
                "_retire",
                """
                - left = [cpu for cpu, owner in enumerate(self._owners) if owner is here]
                + left = [cpu for cpu, owner in enumerate(self._owners) if owner == here]
                """,
            ),
        ),
    ),
    "M-91": Mutant(
        "looks whether a pageblock is withheld before it has the lock under which it gives it back",
        "S5",
        (
            edited(
                Zone,
                "unisolate_pageblock",
                """
                - with self.lock:
                -     if self.get_pageblock_migratetype(index) != MIGRATE_ISOLATE:
                -         return False
                + if self.get_pageblock_migratetype(index) != MIGRATE_ISOLATE:
                +     return False
                + with self.lock:
                """,
            ),
        ),
    ),
    "M-92": Mutant(
        "finds out what a range is made of before it has the lock under which it splits it",
        "S1..S5",
        (
            edited(
                Zone,
                "claim_range",
                """
                - with self.lock:
                -     heads = self._allocated_heads(index, order)
                + heads = self._allocated_heads(index, order)
                + with self.lock:
                """,
            ),
        ),
    ),
    "M-93": Mutant(
        "takes a boost back without the zone lock",
        "S9",
        (
            edited(
                Zone,
                "wakeup_kswapd",
                """
                - with suppress(ZoneBusy), self.lock:
                + if True:
                """,
            ),
        ),
    ),
    "M-94": Mutant(
        "wakes kswapd for the first zone that a request may use, and for no other",
        "vectors",
        (
            edited(
                Memory,
                "_alloc_pages_slowpath",
                """
                - for zone in request.zonelist:
                + for zone in request.zonelist[:1]:
                """,
            ),
        ),
    ),
    "M-95": Mutant(
        "gives one reserved pageblock back for a request in distress, and no second one",
        "vectors",
        (
            edited(
                Memory,
                "_alloc_pages_slowpath",
                """
                - while pfn < 0 and self._unreserve_highatomic(request):
                + if pfn < 0 and self._unreserve_highatomic(request):
                """,
            ),
        ),
    ),
}
