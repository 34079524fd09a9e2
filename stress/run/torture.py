"""What disturbs a run on purpose, each on a thread of its own (`kernel/torture.c`).

*stutter*    all allocators stop at once, and go on at once
*long hold*  somebody keeps a zone lock for long
*shuffle*    the interpreter hands itself from thread to thread more often, or less
*onoff*      allocator threads leave, with all they have, and come back
*register*   the device is unregistered and registered again
*release*    batches that a hanging reporter had come back, as failed

How often is a parameter of the run; each interval is drawn between a half and one and a half of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress

from pagealloc.sync import Rng, Thread
from stress.run.crew import Crew
from stress.run.params import RunParams
from stress.run.rig import Rig
from stress.run.settle import STUCK_AFTER_S
from workers.page_reporting import ReporterStuck

STEP_S = 0.05  # how long a thread that is late is waited for before somebody else gets a look
PARTING_S = 0.2  # how long a device is waited for that leaves; it goes on leaving afterwards


class Torture:
    """The disturbances of one phase, from `start` to `stop`."""

    def __init__(
        self,
        params: RunParams,
        rig: Rig,
        crew: Crew,
    ) -> None:
        self._params = params
        self._sync = rig.sync
        self._crew = crew
        self._zones = rig.memory.zones
        self._reporting = rig.reporting
        self._device = rig.device
        self._manners = rig.manners
        self._violations = rig.violations
        self._stop = rig.sync.event("end of the phase")
        self._threads: list[Thread] = []

    def start(self) -> None:
        """Begin everything that the parameters ask for, with the device registered."""
        params = self._params
        self._register()
        self._every(params.stutter, "stutter", self._stutter)
        self._every(params.long_hold_interval if params.long_hold else 0.0, "long-hold", self._hold_long)
        self._every(params.shuffle_interval if any(params.switch_interval) else 0.0, "shuffle", self._shuffle)
        self._every(params.onoff_interval, "onoff", self._come_or_go)
        self._every(params.register_interval, "register", self._part_and_register, at_end=self._register)
        self._every(params.release_interval, "release", lambda rng: self._manners.relent())

    def stop(self, patience_s: float, beat: Callable[[], None]) -> None:
        """End everything, and leave the device registered and all allocators free to go.

        Calls `beat` while it waits. A disturbance that does not end within `patience_s` is a violation.
        """
        self._stop.set()
        deadline_s = self._sync.monotonic() + patience_s
        for thread in self._threads:
            while not thread.join(STEP_S):
                beat()
                if self._sync.monotonic() > deadline_s:
                    self._violations.add(f"hang: {thread.name} did not end within {patience_s:g} s")
                    break
        self._crew.go.set()

    def _every(
        self,
        interval_s: float,
        name: str,
        act: Callable[[Rng], None],
        at_end: Callable[[], None] | None = None,
    ) -> None:
        if not interval_s:
            return
        rng = self._sync.rng(self._params.seed, f"torture {name}")

        def target() -> None:
            try:
                while not self._stop.wait(interval_s * (0.5 + rng.random())):
                    act(rng)
                if at_end is not None:
                    at_end()
            except Exception as error:
                self._violations.add(f"torture-{name} died: {type(error).__name__}: {error}")

        self._threads.append(self._sync.spawn(f"torture-{name}", target))

    # -- what they do ------------------------------------------------------------------------------------

    def _stutter(self, rng: Rng) -> None:
        self._crew.go.clear()
        self._stop.wait(self._params.stutter)
        self._crew.go.set()

    def _hold_long(self, rng: Rng) -> None:
        lock = self._zones[rng.choose(len(self._zones))].lock
        lock.acquire()
        try:
            self._sync.sleep(self._params.long_hold)
        finally:
            lock.release()

    def _shuffle(self, rng: Rng) -> None:
        # As many short intervals as long ones: what is drawn evenly is the exponent.
        low_s, high_s = self._params.switch_interval
        sys.setswitchinterval(low_s * (high_s / low_s) ** rng.random())

    def _come_or_go(self, rng: Rng) -> None:
        crew = self._crew
        number = rng.choose(len(crew.allocators))
        if not crew.is_on(number):
            crew.start(number)
        elif len(crew.alive()) > self._params.allocators_min:
            crew.dismiss(number, self._params.hang_after)

    def _part_and_register(self, rng: Rng) -> None:
        try:
            self._reporting.unregister(self._device, PARTING_S)
        except ReporterStuck:
            return  # it goes on leaving, and the next round waits again
        self._manners.parted = True
        self._stop.wait(self._params.register_interval * 0.5 * rng.random())
        self._register()

    def _register(self) -> None:
        """Have the device registered, unless it is, or cannot leave first because its reporter stays away."""
        params = self._params
        patience_s = min(params.reporter_sleep_s[1] + STUCK_AFTER_S, params.hang_after / 2)
        batches, still_since_s = -1, 0.0
        while self._reporting.leaving is not None:
            if self._reporting.stats.batches != batches:
                batches, still_since_s = self._reporting.stats.batches, self._sync.monotonic()
            if self._sync.monotonic() - still_since_s > patience_s:
                return
            with suppress(ReporterStuck):
                self._reporting.unregister(self._device, PARTING_S)
        if self._reporting.device is None:
            self._manners.parted = False
            self._reporting.register(self._device)
