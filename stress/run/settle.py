"""Waiting until the worker has nothing left to do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from pagealloc.gfp import GFP_HIGHUSER_MOVABLE
from stress.invariants.rules import REST_PASSES_MAX
from stress.run.rig import Rig
from workers.errors import WorkerDied

STUCK_AFTER_S = 2.0  # beyond the time that a batch is known to take
SETTLE_DELAY_MAX_S = 10.0  # a pass that is due later than this is not waited for
SETTLE_INTERVAL_S = 0.05
KNOCKS_IN_VAIN_MAX = 10


class Settling:
    """The end of the load: everything is free, and what can be reported is to be reported.

    `look` is called again and again while it waits.
    """

    def __init__(
        self,
        rig: Rig,
        look: Callable[[], object],
    ) -> None:
        self.failed_before = 0  # batches that had failed when the settling began
        self._params = rig.params
        self._memory = rig.memory
        self._reporting = rig.reporting
        self._reach = rig.reach
        self._sync = rig.sync
        self._violations = rig.violations
        self._look = look

    def settle(self, reporter_sleep_s: float, over: Callable[[], bool]) -> None:
        """Wait until the worker is idle and everything that can be reported is, or until it is `over`.

        A failed batch is retried only when somebody frees a large block again (L8), so after a failure a
        block is allocated and freed, until there is nothing unreported or the patience for it is used up.
        `reporter_sleep_s` is the longest time that a batch takes.
        """
        self.failed_before = self._reporting.stats.failed_batches
        with suppress(WorkerDied):  # the run's verdict tells it
            self._settle(reporter_sleep_s, over)

    def _settle(self, reporter_sleep_s: float, over: Callable[[], bool]) -> None:
        fewest = in_vain = 0
        while not over():
            self._await_idle(reporter_sleep_s, over)
            waiting = sum(self._reach.nr_unreported(zone) for zone in self._memory.zones)
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
            if stats.passes - passes_before > REST_PASSES_MAX:
                self._violations.add(
                    f"the worker made {stats.passes - passes_before} passes after the last free, state "
                    f"{self._reporting.state_name()}: a quiet system must come to rest (L3)"
                )
                return
            self._look()

    def _knock(self) -> None:
        """Allocate a block of the reporting order and free it, so that the worker is asked again."""
        pfn = self._memory.alloc_pages(GFP_HIGHUSER_MOVABLE, self._reach.order)
        if pfn is not None:
            self._memory.free_pages(pfn, self._reach.order)
            self._memory.drain_local_pages()
