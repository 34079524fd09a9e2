"""The reporter of a run with the manners of the moment: quick, slow, failing, or away for good."""

from __future__ import annotations

from pagealloc.sync import Sync
from pagealloc.zone import Zone
from stress.run.params import RunParams
from stress.run.violations import Violations
from workers.page_reporting import Batch, Reporter
from workers.reporters import FaultInjector, Sleep


class Manners:
    """Another reporter whose manners change from phase to phase.

    While `parted` is set the device is not registered, and a call is a violation: unregistering promised that
    there would be none (S22).
    """

    def __init__(self, inner: Reporter, params: RunParams, sync: Sync, violations: Violations) -> None:
        self.parted = False
        self._inner = inner
        self._sync = sync
        self._violations = violations
        self._tempers = 0  # how often they have changed: each time draws its own numbers
        self._params = params
        self._injector, self._reporter = self._build()

    def change(self, params: RunParams) -> None:
        """Have other manners from the next batch on; batches that are lost until now come back, as failed."""
        self._params = params
        self.relent()

    def relent(self) -> None:
        """Let every lost batch come back, as failed, and go on with the same manners."""
        self._tempers += 1
        before = self._injector
        self._injector, self._reporter = self._build()
        before.release()

    def release(self) -> None:
        """Let every lost batch come back, now and later; for the end of a run."""
        self._injector.release()

    def report(self, zone: Zone, batch: Batch) -> None:
        if self.parted:
            self._violations.add(
                f"the reporter is called with {len(batch)} blocks of zone {zone.label} after its device was "
                "unregistered (S22)"
            )
        self._reporter.report(zone, batch)

    def _build(self) -> tuple[FaultInjector, Reporter]:
        params, sync = self._params, self._sync
        injector = FaultInjector(
            self._inner,
            sync,
            sync.rng(params.seed, f"failures {self._tempers}"),
            fail_rate=params.fail_rate,
            delay_rate=params.delay_rate,
            lose_rate=params.lose_rate,
        )
        return injector, Sleep(
            injector, sync, sync.rng(params.seed, f"sleeps {self._tempers}"), *params.reporter_sleep_s
        )
