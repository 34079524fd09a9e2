"""M-205 and on: two who do the same, or the opposite, at once; and those who come when another one has left."""

from __future__ import annotations

from pagealloc.memory import Memory
from pagealloc.mobility import Mobility
from pagealloc.pcp import PageSets
from pagealloc.ram import Ram
from pagealloc.zone import Zone
from pagealloc.zone_lock import ZoneLock
from stress.mutants.planting import Mutant, edited
from workers.page_reporting import PageReporting
from workers.reporters import Discard
from workers.workqueue import Workqueue

PAIRS = {
    "M-205": Mutant(
        "stores ACTIVE once more at each zone that it visits: what was asked meanwhile is forgotten",
        "L1",
        (
            edited(
                PageReporting,
                "process_zone",
                """
                - if not visited:
                -     return None
                + if not visited:
                +     return None
                + registration.state.store(PAGE_REPORTING_ACTIVE)
                """,
            ),
        ),
    ),
    "M-206": Mutant(
        "checks a block that is freed in pieces before it has the lock, and not again",
        "S1..S5",
        (
            edited(
                Zone,
                "_free_in_pieces",
                """
                - with self.lock:
                -     if self.state[index] & OWNED_MASK != ALLOCATED | order:
                -         raise self.bad_free(pfn, order)
                -     self.state[index] = TAIL
                + with self.lock:
                +     self.state[index] = TAIL
                """,
            ),
        ),
    ),
    "M-207": Mutant(
        "looks at the type of a block's pageblock before it has the lock that keeps it",
        "S6",
        (
            edited(
                Zone,
                "free_pages_ok",
                """
                - entered = False
                - try:
                + entered = False
                + migratetype = self.pageblock_types[index >> self.pageblock_order]
                + try:

                - self.free_one_page(index, order, self.pageblock_types[index >> self.pageblock_order], fpi_flags)
                + self.free_one_page(index, order, migratetype, fpi_flags)
                """,
            ),
        ),
    ),
    "M-208": Mutant(
        "looks whether a pageblock may be reserved before it has the lock, and not again",
        "S5",
        (
            edited(
                Mobility,
                "reserve_highatomic_pageblock",
                """
                - if self.get_pageblock_migratetype(index) >= MIGRATE_PCPTYPES:
                -     return
                - nr_pages = pageblock_pages
                + nr_pages = pageblock_pages
                """,
            ),
            edited(
                Zone,
                "reserve_highatomic",
                """
                - with suppress(ZoneBusy), self.lock:
                + if self.pageblock_migratetype(pfn) >= MIGRATE_PCPTYPES:
                +     return
                + with suppress(ZoneBusy), self.lock:
                """,
            ),
        ),
    ),
    "M-209": Mutant(
        "forgets that a zone was boosted after it gave the lock back: a boost in between wakes nobody",
        "lockdep",
        (
            edited(
                Zone,
                "wakeup_kswapd",
                """
                - with suppress(ZoneBusy), self.lock:
                -     self.boosted = False
                -     self.watermark_boost = 0
                -     self.marks_changed()
                + with suppress(ZoneBusy), self.lock:
                +     self.watermark_boost = 0
                +     self.marks_changed()
                + self.boosted = False
                """,
            ),
        ),
    ),
    "M-210": Mutant(
        "looks at the lists again only if its own drain moved something",
        "L7",
        (
            edited(
                Memory,
                "_alloc_pages_slowpath",
                """
                - self.drain_all_pages()
                - pfn = self._get_page_from_freelist(request, order, alloc_flags)
                - while pfn < 0 and self._unreserve_highatomic(request):
                + if self.drain_all_pages():
                +     pfn = self._get_page_from_freelist(request, order, alloc_flags)
                + while pfn < 0 and self._unreserve_highatomic(request):
                """,
            ),
        ),
    ),
    "M-211": Mutant(
        "shuts a torn zone without its lock: whoever is inside opens it again",
        "vectors",
        (
            edited(
                ZoneLock,
                "tear",
                """
                - if not self.owned():
                -     self.raw.acquire()
                -     self.inside = True
                -     self.raw.release()
                + self.inside = True
                """,
            ),
        ),
    ),
    "M-212": Mutant(
        "gives the bytes behind the pages up before it says that there are none",
        "S12",
        (
            edited(
                Ram,
                "close",
                """
                - self.nr_bytes = 0
                - self._mmap = self._descriptor = None
                + self._mmap = self._descriptor = None
                + self.nr_bytes = 0
                """,
            ),
        ),
    ),
    "M-213": Mutant(
        "drains what has come into use again since it was freed twice",
        "S2",
        (
            edited(
                Zone,
                "_free_resting",
                """
                - if self.state[index] != ON_PAGE_SET | order:
                + if self.state[index] & KIND_MASK in (TAIL, BUDDY):
                """,
            ),
        ),
    ),
    "M-214": Mutant(
        "counts a refill in blocks where its room is in pages",
        "vectors",
        (
            edited(
                PageSets,
                "_refill",
                """
                - pcp.room -= len(taken) << order
                + pcp.room -= len(taken)
                """,
            ),
        ),
    ),
    "M-215": Mutant(
        "arms the next pass only for a device that is known already",
        "S23",
        (
            edited(
                PageReporting,
                "process",
                """
                - if found == PAGE_REPORTING_REQUESTED:
                + if found == PAGE_REPORTING_REQUESTED and registration is self._registered:
                """,
            ),
        ),
    ),
    "M-216": Mutant(
        "looks twice for the device that it asks: between the two looks it leaves",
        "exception",
        (
            edited(
                PageReporting,
                "notify",
                """
                - registration = self._registered
                - if registration is not None:
                -     self.request(registration)
                + if self._registered is not None:
                +     self.request(self._registered)
                """,
            ),
        ),
    ),
    "M-217": Mutant(
        "chooses the block to go on with before the batch goes back, and merges with it",
        "S26",
        (
            edited(
                PageReporting,
                "cycle",
                """
                - self.drain(zone, sgl, reported=error is None)
                - # The list changed while the lock was dropped: no pfn from before is worth anything.
                - pfn = -1 if error is not None else self._first_unreported(zone, order, migratetype)
                + pfn = -1 if error is not None else self._first_unreported(zone, order, migratetype)
                + self.drain(zone, sgl, reported=error is None)
                """,
            ),
        ),
    ),
    "M-218": Mutant(
        "says that nothing runs before it says that the worker has died",
        "S23",
        (
            edited(
                Workqueue,
                "_run",
                """
                - self.failure = failure
                - if work is not None:
                -     with self._changed:
                -         self._end(work)
                + if work is not None:
                +     with self._changed:
                +         self._end(work)
                + self.failure = failure
                """,
            ),
        ),
    ),
    "M-219": Mutant(
        "discards as much of each block as the batch's first one has",
        "S13",
        (
            edited(
                Discard,
                "report",
                """
                - for block in batch:
                -     zone.ram.discard(block.offset, block.length)
                + for block in batch:
                +     zone.ram.discard(block.offset, batch[0].length)
                """,
            ),
        ),
    ),
    "M-220": Mutant(
        "makes one scatterlist for all devices, of the first one's size",
        "S11",
        (
            edited(
                PageReporting,
                "process",
                """
                - sgl = self._alloc_scatterlist(registration.capacity)
                + sgl = vars(self).setdefault("sgl", Scatterlist(registration.capacity))
                """,
            ),
        ),
    ),
    "M-221": Mutant(
        "lets a zone's frees ask whom they asked before, if the order is the same",
        "vectors",
        (
            edited(
                PageReporting,
                "register",
                """
                - zone.page_reporting_notify = self._listener(zone)
                - zone.page_reporting_order = order
                + if zone.page_reporting_order != order:
                +     zone.page_reporting_notify = self._listener(zone)
                +     zone.page_reporting_order = order
                """,
            ),
        ),
    ),
    "M-222": Mutant(
        "waits for the pass only if it says that it runs: one that has just begun does not",
        "S22",
        (
            edited(
                PageReporting,
                "finish_unregister",
                """
                - if not self._workqueue.cancel_delayed_work_sync(leaving, timeout_s):
                + if self._running is leaving and not self._workqueue.cancel_delayed_work_sync(leaving, timeout_s):
                """,
            ),
        ),
    ),
    "M-223": Mutant(
        "asks in two looks whether all is settled: between them the pass begins",
        "S23",
        (
            edited(
                PageReporting,
                "settled",
                """
                - return registration is None or self._workqueue.idle(registration)
                + return registration is None or not (self._workqueue.pending(registration) or self.running())
                """,
            ),
        ),
    ),
}
