"""M-200 and on: what belongs to a lock is touched without it, and locks and atomics that do not keep their word."""

from __future__ import annotations

from pagealloc.sync_real import RealAtomic, SpinLock
from pagealloc.zone import Zone
from stress.mutants.planting import Mutant, edited
from workers.page_reporting import PageReporting
from workers.workqueue import Workqueue

LOCKS = {
    "M-200": Mutant(
        "looks at a work without the lock of its queue: between the two looks it begins",
        "lockdep",
        (
            edited(
                Workqueue,
                "idle",
                """
                - with self._changed:
                -     idle = work.due is None and not work.running
                + idle = not work.running and work.due is None
                """,
            ),
        ),
    ),
    "M-201": Mutant(
        "takes a boost back before it has the zone's lock",
        "lockdep",
        (
            edited(
                Zone,
                "wakeup_kswapd",
                """
                - with suppress(ZoneBusy), self.lock:
                -     self.boosted = False
                -     self.watermark_boost = 0
                + self.watermark_boost = 0
                + with suppress(ZoneBusy), self.lock:
                +     self.boosted = False
                """,
            ),
        ),
    ),
    "M-202": Mutant(
        "takes the device back before it has the mutex",
        "lockdep",
        (
            edited(
                PageReporting,
                "unregister",
                """
                - self._mutex.acquire()
                - try:
                -     if self.begin_unregister(device):
                + leaving = self.begin_unregister(device)
                + self._mutex.acquire()
                + try:
                +     if leaving:
                """,
            ),
        ),
    ),
    "M-203": Mutant(
        "exchanges the value of an atomic without the atomic's lock",
        "vectors",
        (
            edited(
                RealAtomic,
                "xchg",
                """
                - with self._lock:
                -     old = self._value
                -     self._value = value
                -     return old
                + old = self._value
                + self._value = value
                + return old
                """,
            ),
        ),
    ),
    "M-204": Mutant(
        "goes on without a spinlock whose holder stays away for long",
        "lockdep",
        (
            edited(
                SpinLock,
                "_wait",
                """
                - return acquire()
                + return acquire(False)
                """,
            ),
        ),
    ),
}
