"""M-65 .. M-79: what shows only when all is quiet, or beside somebody else: works, sets, locks and counts."""

from __future__ import annotations

from pagealloc.buddy import Buddy
from pagealloc.pcp import PageSets
from pagealloc.per_cpu_pages import PerCpuPages
from pagealloc.zone import Zone
from stress.mutants.planting import Mutant, edited
from workers.allocators import Allocator
from workers.page_reporting import PageReporting
from workers.workqueue import Workqueue

REST = {
    "M-65": Mutant(
        "a cancel in vain lets the work be armed again",
        "S22",
        (
            edited(
                Workqueue,
                "cancel_delayed_work_sync",
                """
                + work.barred = False
                  return False
                """,
            ),
        ),
    ),
    "M-66": Mutant(
        "a cancel takes any wake-up for the end of its work",
        "S22",
        (
            edited(
                Workqueue,
                "cancel_delayed_work_sync",
                """
                - while work.running:
                + if work.running:
                """,
            ),
        ),
    ),
    "M-67": Mutant(
        "queueing wakes the thread only if nothing else is pending: an earlier deadline is slept over",
        "L1",
        (
            edited(
                Workqueue,
                "queue_delayed_work",
                """
                - self._changed.notify_all()
                + if len(self._timers) == 1:
                +     self._changed.notify_all()
                """,
            ),
        ),
    ),
    "M-68": Mutant(
        "a thread that ends takes its page set along",
        "S2",
        (
            edited(
                PageSets,
                "_retire",
                """
                - with suppress(TornZone, AnotherProcess, MemoryClosed):
                -     self._drain(self._sets[cpu])
                """,
            ),
        ),
    ),
    "M-69": Mutant(
        "giving back what is not withheld keeps the zone lock",
        "lockdep",
        (
            edited(
                Zone,
                "unisolate_pageblock",
                """
                - with self.lock:
                -     if self.get_pageblock_migratetype(index) != MIGRATE_ISOLATE:
                -         return False
                + self.lock.acquire()
                + if self.get_pageblock_migratetype(index) != MIGRATE_ISOLATE:
                +     return False
                + self.lock.release()
                + with self.lock:
                """,
            ),
        ),
    ),
    "M-70": Mutant(
        "a drain cuts a copy off the set, and what the owner took in between goes out twice",
        "vectors",
        (
            edited(
                PerCpuPages,
                "take_coldest",
                """
                - with suppress(IndexError):  # another thread took the rest
                -     while nr_pages > 0:
                -         taken.append((pages.popleft(), order, migratetype))
                -         nr_pages -= 1 << order
                + taken += [(pfn, order, migratetype) for pfn in list(pages)]
                + pages.clear()
                """,
            ),
        ),
    ),
    "M-71": Mutant(
        "a drain frees whatever is on the set, resting or not",
        "S2",
        (
            edited(
                Zone,
                "_free_resting",
                """
                - if self.state[index] != ON_PAGE_SET | order:
                -     corrupt = CorruptPageSet(pfn, order, self.describe_page(pfn), "free on a page set")
                -     continue
                """,
            ),
        ),
    ),
    "M-72": Mutant(
        "the reporter is handed the worker's own list, which is emptied behind it",
        "S11",
        (
            edited(
                PageReporting,
                "_report",
                """
                - batch = tuple([self._block(zone, pfn, order) for pfn, order in blocks])
                + batch = [self._block(zone, pfn, order) for pfn, order in blocks]

                - self.flight = None
                + self.flight = None
                + batch.clear()
                """,
            ),
        ),
    ),
    "M-73": Mutant(
        "failed batches count as reported",
        "stats",
        (
            edited(
                PageReporting,
                "_report",
                """
                - if error is None:
                -     self.stats.reported_blocks += len(batch)
                + self.stats.reported_blocks += len(batch)
                + if error is None:
                """,
            ),
        ),
    ),
    "M-74": Mutant(
        "kswapd brings the marks in use up to date behind the lock",
        "S1..S5",
        (
            edited(
                Zone,
                "wakeup_kswapd",
                """
                  with suppress(ZoneBusy), self.lock:
                      self.boosted = False
                      self.watermark_boost = 0
                -     self.marks_changed()
                + self.marks_changed()
                """,
            ),
        ),
    ),
    "M-75": Mutant(
        "a page set gives pages back only when it is beyond its limit",
        "vectors",
        (
            edited(
                PageSets,
                "_shorten",
                """
                - if count >= high:
                + if count > high:
                """,
            ),
        ),
    ),
    "M-76": Mutant(
        "page sets hold orders up to 3 in every kernel",
        "log",
        (
            edited(
                Buddy,
                "pcp_allowed_order",
                """
                - return order <= revision.pcp_max_order or (
                + return order <= 3 or (
                """,
            ),
            edited(
                PageSets,
                "__init__",
                """
                - self._nr_small_orders = min(revision.pcp_max_order + 1, layout.nr_orders)
                + self._nr_small_orders = min(4, layout.nr_orders)
                """,
            ),
        ),
    ),
    "M-77": Mutant(
        "an owner looks at the first page of its block only",
        "witness",
        (
            edited(
                Allocator,
                "_check_and_free",
                """
                - if found.count(stamp) != len(found):
                + if found[0] != stamp:
                """,
            ),
        ),
    ),
    "M-78": Mutant(
        "a block that was handed over stays in its giver's account",
        "livelock",
        (
            edited(
                Allocator,
                "_hand_over",
                """
                - self._held_pages -= 1 << block.order
                """,
            ),
        ),
    ),
    "M-79": Mutant(
        "an allocation goes on without the zone lock when the first try does not get it",
        "S9",
        (
            edited(
                Zone,
                "rmqueue_buddy",
                """
                - lock.take(lock.may_wait) or lock.raw.acquire()
                - if lock.inside:
                -     lock.turn_away()
                -     return -1
                + lock.take(lock.may_wait)
                """,
            ),
        ),
    ),
}
