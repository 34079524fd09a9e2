"""Walking through the memory of a run: a census now and then, and what must be left at the end."""

from __future__ import annotations

from collections.abc import Iterator

from pagealloc.validate import Census, validate
from pagealloc.zone import Zone
from stress.log.snapshot import record_counts, snapshot_zone
from stress.run.notes import SEEMS_DEAD
from stress.run.rig import Rig

CENSUS_SHARE = 0.05  # of the run's time at most goes into walking zones
CENSUS_INTERVAL_S = 1.0


class Inspection:
    """Holds what there is against what must be; whatever is not so becomes a violation."""

    def __init__(self, rig: Rig) -> None:
        self.walks = 0  # zones walked through, for whoever looks whether the inspector moves
        self.walking = False  # a zone's lock is held for long, and whoever wants it may wait
        self._rig = rig
        self._next_census_s = rig.sync.monotonic() + CENSUS_INTERVAL_S

    # -- meanwhile ---------------------------------------------------------------------------------------

    def census_if_due(self) -> None:
        """Walk every zone under its lock, but not so often that the walk becomes the load."""
        before_s = self._rig.sync.monotonic()
        if before_s < self._next_census_s:
            return
        for zone in self._rig.memory.zones:
            self._census(zone)
        now_s = self._rig.sync.monotonic()
        self._next_census_s = now_s + max(CENSUS_INTERVAL_S, (now_s - before_s) / CENSUS_SHARE)

    def _census(self, zone: Zone, *, snapshot: bool = False) -> Census:
        self.walks += 1
        zone.lock.acquire()
        self.walking = True
        try:
            census = validate(zone)
            if zone.trace is not None:
                (snapshot_zone if snapshot else record_counts)(zone, zone.trace)
        finally:
            zone.lock.release()
            self.walking = False
        counted = census.free + census.allocated + census.on_page_sets + census.in_flight
        if counted != zone.managed_pages and not census.problems:
            census.problem(
                f"zone {zone.name} has {zone.managed_pages} pages, {counted} of them have a place (S2)"
            )
        for problem in census.problems:
            self._rig.violations.add(problem)
        return census

    # -- before and after --------------------------------------------------------------------------------

    def zones_out_of_reach(self) -> Iterator[str]:
        """Say which zones can never be reported: even wholly free they are below the starting mark."""
        reach = self._rig.reach
        for zone in self._rig.memory.zones:
            if not reach.holds(zone):
                needed, size = reach.pages_needed(zone), zone.layout.page_size
                yield (
                    f"zone {zone.label} is never reported: a pass needs more than {needed} free pages (low watermark + "
                    f"capacity << order: {needed * size >> 20} MiB), the zone has {zone.managed_pages} "
                    f"({zone.managed_pages * size >> 20} MiB)"
                )

    def final_checks(self) -> None:
        """Hold the memory against what must be left when everybody has freed everything."""
        flight = self._rig.reporting.flight
        for zone in self._rig.memory.zones:
            census = self._census(zone, snapshot=True)
            in_flight = 0
            if flight is not None and flight.zone is zone:
                in_flight = sum(1 << block.order for block in flight.batch)
            for what, found, expected in (
                ("allocated", census.allocated, 0),
                ("on page sets", census.on_page_sets, 0),
                ("in flight", census.in_flight, in_flight),
                ("owned by the ledger", self._rig.ledger.live_pages(zone), 0),
            ):
                if found != expected:
                    self._rig.violations.add(
                        f"zone {zone.name}: {found} pages are {what} after everything was freed, expected {expected}"
                    )

    def expect_all_reported(self) -> None:
        """Hold a run at rest without any failure to L1: nothing in reach is left unreported."""
        for zone in self._rig.memory.zones:
            waiting = self._rig.reach.nr_unreported(zone)
            if waiting:
                self._rig.violations.add(
                    f"zone {zone.label}: {waiting} blocks are free, and nobody will report them, after "
                    f"{self._rig.reporting.stats.passes} passes, the last ones without a failure: a request was lost "
                    "(L1)"
                )

    def expect_released(self) -> None:
        """With --must-release, hold the host to it: it took batches to the end, and gave back what it acknowledged."""
        if not self._rig.params.must_release:
            return
        host, stats = self._rig.host, self._rig.reporting.stats
        if host.kept_blocks:
            self._rig.violations.add(
                f"the reporter acknowledged {host.kept_blocks} blocks and kept {host.kept_bytes >> 20} MiB of them "
                "(--must-release)"
            )
        if stats.batches and stats.failed_batches == stats.batches:
            self._rig.violations.add(
                f"the reporter failed every one of its {stats.batches} batches (--must-release)"
            )
        elif host.failed_in_a_row >= SEEMS_DEAD:
            self._rig.violations.add(
                f"the reporter failed its last {host.failed_in_a_row} batches (--must-release)"
            )
