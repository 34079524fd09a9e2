"""M-89 .. M-95, M-170 .. M-177: what goes wrong only in company: of a second task, thread, zone, pageblock or owner."""

from __future__ import annotations

from pagealloc.memory import Memory
from pagealloc.pageblock import Pageblocks
from pagealloc.pcp import PageSets
from pagealloc.zone import Zone
from pagealloc.zone_lock import ZoneLock
from stress.mutants.planting import Mutant, edited
from workers.page_reporting import PageReporting
from workers.policies import KeepOnSplit

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
        "S1..S5",
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
    "M-170": Mutant(
        "leaves a zone open that somebody is inside of when the memory closes",
        "S2",
        (
            edited(
                ZoneLock,
                "close",
                """
                - if self.refusal is None:
                + if self.refusal is None and not self.inside:
                """,
            ),
        ),
    ),
    "M-171": Mutant(
        "takes a device on its way out for gone: all counts as settled while its reporter has a batch",
        "S23",
        (
            edited(
                PageReporting,
                "settled",
                """
                - registration = self._registered or self._leaving
                + registration = self._registered
                """,
            ),
        ),
    ),
    "M-172": Mutant(
        "takes a delay of 0 for none, as that of a policy that waits for a flush",
        "S23",
        (
            edited(
                PageReporting,
                "_arm",
                """
                - if delay_s is not None:
                + if delay_s:
                """,
            ),
        ),
    ),
    "M-173": Mutant(
        "ends a visit at a policy's word without turning the list",
        "vectors",
        (
            edited(
                PageReporting,
                "cycle",
                """
                - if verdict == STOP:
                -     break
                + if verdict == STOP:
                +     return error
                """,
            ),
        ),
    ),
    "M-174": Mutant(
        "does not count a pageblock that it withholds",
        "S1..S5",
        (
            edited(
                Pageblocks,
                "set_migratetype_isolate",
                """
                - self.nr_isolate_pageblock += 1
                - return True
                + return True
                """,
            ),
        ),
    ),
    "M-175": Mutant(
        "lists what the host has under the zone lock, and notes it without: what is freed meanwhile counts",
        "L2",
        (
            edited(
                KeepOnSplit,
                "registered",
                """
                - with zone.lock:  # frees are heard already: what they say comes before, or after
                -     for pfn, of_order in reported_blocks(zone):
                -         self.reported(zone, pfn, of_order)
                + with zone.lock:
                +     blocks = list(reported_blocks(zone))
                + for pfn, of_order in blocks:
                +     self.reported(zone, pfn, of_order)
                """,
            ),
        ),
    ),
    "M-176": Mutant(
        "settles the order of all devices by one that it then refuses",
        "vectors",
        (
            edited(
                PageReporting,
                "register",
                """
                - if self._registered is not None:
                -     raise DeviceBusy(f"device {self._registered.device.name} is registered; unregister it first")
                + order = self._effective_order(device)
                + if self._registered is not None:
                +     raise DeviceBusy(f"device {self._registered.device.name} is registered; unregister it first")

                - order = self._effective_order(device)
                - registration = Registration(device, order, self._sync, self.process)
                + registration = Registration(device, order, self._sync, self.process)
                """,
            ),
        ),
    ),
    "M-177": Mutant(
        "asks only its last zone whether a memory may be used",
        "vectors",
        (
            edited(
                Memory,
                "_check",
                """
                - for zone in self.zones:
                -     zone.lock.check()
                + self._last_zone.lock.check()
                """,
            ),
        ),
    ),
}
