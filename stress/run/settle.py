"""Waiting until the worker has nothing left to do, and knowing what it should have done by then."""

from __future__ import annotations

from collections.abc import Callable

from pagealloc.gfp import GFP_HIGHUSER_MOVABLE
from pagealloc.memory import Memory
from pagealloc.sync import Sync
from pagealloc.zone import Zone
from stress.run.ledger import Violations
from stress.run.params import RunParams
from workers.page_reporting import PageReporting

STUCK_AFTER_S = 2.0  # beyond the time that a batch is known to take
SETTLE_DELAY_MAX_S = 10.0  # a pass that is due later than this is not waited for
SETTLE_INTERVAL_S = 0.05
KNOCKS_IN_VAIN_MAX = 10
SETTLE_PASSES_MAX = 64  # lists settle in 16 passes; a worker that goes on after four times that never ends


class Settling:
    """The end of the load: everything is free, and what can be reported is to be reported.

    `look` is called again and again while it waits.
    """

    def __init__(
        self,
        params: RunParams,
        memory: Memory,
        reporting: PageReporting,
        sync: Sync,
        violations: Violations,
        look: Callable[[], object],
    ) -> None:
        self.failed_before = 0  # batches that had failed when the settling began
        self._params = params
        self._memory = memory
        self._reporting = reporting
        self._sync = sync
        self._violations = violations
        self._look = look
        self._order = params.order or memory.layout.pageblock_order

    def settle(self, reporter_sleep_s: float, over: Callable[[], bool]) -> None:
        """Wait until the worker is idle and everything that can be reported is, or until it is `over`.

        A failed batch is retried only when somebody frees a large block again (L8), so after a failure a
        block is allocated and freed, until there is nothing unreported or the patience for it is used up.
        `reporter_sleep_s` is the longest time that a batch takes.
        """
        self.failed_before = self._reporting.stats.failed_batches
        fewest = in_vain = 0
        while not over():
            self._await_idle(reporter_sleep_s, over)
            waiting = sum(self.nr_unreported(zone) for zone in self._memory.zones)
            # Blocks that wait because of their zone, and not of failed batches, are waited for in vain.
            if not waiting or not self._reporting.settled() or not self._reporting.stats.failed_batches:
                return
            in_vain = 0 if not fewest or waiting < fewest else in_vain + 1
            fewest = min(waiting, fewest or waiting)
            if in_vain == KNOCKS_IN_VAIN_MAX:
                return
            self._knock()

    def _await_idle(self, reporter_sleep_s: float, over: Callable[[], bool]) -> None:
        stats = self._reporting.stats
        patience_s = min(self._params.delay, SETTLE_DELAY_MAX_S) + reporter_sleep_s + STUCK_AFTER_S
        passes_before = stats.passes
        progress, progress_s = (stats.passes, stats.batches), self._sync.monotonic()
        while not self._reporting.settled() and not over():
            self._sync.sleep(SETTLE_INTERVAL_S)
            now_s = self._sync.monotonic()
            if (stats.passes, stats.batches) != progress:
                progress, progress_s = (stats.passes, stats.batches), now_s
            elif now_s - progress_s > patience_s:
                return  # the reporter is away; unregistering will say so
            if stats.passes - passes_before > SETTLE_PASSES_MAX:
                self._violations.add(
                    f"the worker made {stats.passes - passes_before} passes after the last free, state "
                    f"{self._reporting.state_name()}: a quiet system must come to rest (L3)"
                )
                return
            self._look()

    def _knock(self) -> None:
        """Allocate a block of the reporting order and free it, so that the worker is asked again."""
        pfn = self._memory.alloc_pages(GFP_HIGHUSER_MOVABLE, self._order)
        if pfn is not None:
            self._memory.free_pages(pfn, self._order)
            self._memory.drain_local_pages()

    # -- what can be reported ----------------------------------------------------------------------------

    def nr_unreported(self, zone: Zone) -> int:
        """Count the free blocks that a pass should have reported; none in a zone that no pass visits."""
        if not self.in_reach(zone):
            return 0
        orders = range(self._order, self._memory.layout.nr_orders)
        return sum(zone.nr_free[o] - zone.nr_reported[o] for o in orders)

    def in_reach(self, zone: Zone) -> bool:
        """Whether a pass ever visits the zone: wholly free, it must be above the starting mark.

        The high-atomic reserve counts as taken, and is never given back while nobody is short of memory.
        """
        return zone.managed_pages - zone.nr_reserved_highatomic > self.pages_needed(zone)

    def pages_needed(self, zone: Zone) -> int:
        """Return the free pages that a zone must exceed for a pass to visit it."""
        return zone.low_wmark_pages() + (self._params.capacity << self._order)
