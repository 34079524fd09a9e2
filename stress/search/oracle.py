"""The invariants, held against every step of an execution.

`WatchedZone` and `WatchedReporting` are the product's own classes; each method here only looks before and
after the product's method does the work. What is judged where:

* at every change of a list: the zone lock is held (S9);
* when a zone lock is released: structure and counts (S1 .. S5, by `pagealloc.validate`), and that Reported
  stands only on blocks that the device was told about, whole, since they were last in use (S13, S14);
* at isolation and putback: S10, S11, S16, S18, S20, S24, S26; at a rotation: S19; at every call of the
  reporter: S9, S11, S12, S15, S22; over a visit to a list: S17;
* at the end (`Oracle.check_rest`): S2, S15, S23, L1, L3, L4.

The permitted cases of starvation are no violations: a scenario that gives the reporter errors, or a zone
below its marks, does not ask for everything to be reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, cast

from pagealloc.memory import Memory
from pagealloc.mmzone import FPI_SKIP_REPORT_NOTIFY, MIGRATE_ISOLATE, ORDERS_MAX, WMARK_MIN
from pagealloc.page_flags import BUDDY, ORDER_MASK, REPORTED
from pagealloc.validate import validate
from pagealloc.zone import Zone
from stress.search.controlled import ControlledLock, ControlledSync
from workers.page_reporting import (
    BUDGET_DIVISOR,
    Batch,
    Block,
    PageReporting,
    Registration,
    Scatterlist,
)

Key = tuple[int, int]  # (pfn, order)

# A loop over the frames costs ten times as much.
REPORTED_HEADS = re.compile(b"[%s]" % re.escape(bytes(BUDDY | REPORTED | n for n in range(ORDERS_MAX))))


class Oracle:
    """What the checks of one execution know, and the verdict."""

    def __init__(self, sync: ControlledSync, sound: set[object]) -> None:
        self.sync = sync
        self.world = sync.world
        self.in_flight: dict[Zone, dict[int, int]] = {}  # isolated and not put back: order by pfn
        self.owned: dict[int, str] = {}  # who owns a frame
        self.told: dict[Zone, set[Key]] = {}  # blocks told to the device, and whole and free ever since
        self.notified: dict[int, int] = {}  # how often each task's frees asked for a report
        self.errors = 0
        self.refused = 0  # isolations that the watermark forbade
        self.retired = False  # unregister has returned: no reporter may run
        self.calls = 0
        self.giving_back: set[int] = set()  # tasks in `unisolate_pageblock`, which isolates blocks of its own
        self._zones: list[WatchedZone] = []
        self._sound = sound  # fingerprints of zone states that were validated before, in any execution

    def fail(self, invariant: str, text: str) -> None:
        self.world.fail(invariant, text)

    def expect(self, holds: bool, invariant: str, text: Callable[[], str]) -> None:
        if not holds and not self.world.aborting:
            self.world.fail(invariant, text())

    def excuses_isolation(self) -> bool:
        """Whether what the running task isolates is not for the reporter, and not to be judged as such."""
        return self.world.aborting or self.world.current.number in self.giving_back

    def watch(self, zone: WatchedZone) -> None:
        """Judge the zone whenever its lock is given back."""
        self.in_flight[zone] = {}
        self.told[zone] = set()
        zone.judged_by(self)
        self._zones.append(zone)
        lock = cast("ControlledLock", zone.lock)
        lock.on_release = lambda: self.check_zone(zone)

    def check_zone(self, zone: WatchedZone) -> None:
        """Structure and flag truth; the zone's state is whole, its lock about to be released."""
        if self.world.aborting or not zone.changed:
            return
        zone.changed = False
        fingerprint = (
            bytes(zone.state),
            tuple(zone._next),  # noqa: SLF001 - the lists themselves are what is judged
            tuple(zone.nr_free),
            tuple(zone.nr_reported),
            zone.nr_free_pages,
        )
        if fingerprint not in self._sound:
            problems = validate(zone).problems
            if problems:
                self.fail("S1..S5", "; ".join(problems[:3]))
            self._sound.add(fingerprint)
        told = self.told[zone]
        if told or any(zone.nr_reported):
            self._check_told(zone, told)

    def check_zones(self) -> None:
        """Judge every zone; no lock is held."""
        for zone in self._zones:
            zone.changed = True
            self.check_zone(zone)

    def _check_told(self, zone: Zone, told: set[Key]) -> None:
        base, state = zone.base_pfn, zone.state
        flying = self.in_flight[zone]
        for pfn, order in list(told):
            if state[pfn - base] & ~REPORTED != BUDDY | order and flying.get(pfn) != order:
                told.discard((pfn, order))
        for match in REPORTED_HEADS.finditer(state):
            key = (base + match.start(), state[match.start()] & ORDER_MASK)
            if key not in told:
                self.fail(
                    "S13", f"pfn {key[0]} order {key[1]} is Reported, but no device was told of this block"
                )

    # -- owners --------------------------------------------------------------------------------------

    def allocated(self, zone: Zone, pfn: int, order: int) -> None:
        """Hear of an allocation: nobody else may own, or fly, any of its frames."""
        frames = range(pfn, pfn + (1 << order))
        for flying, flying_order in self.in_flight[zone].items():
            if flying < frames.stop and frames.start < flying + (1 << flying_order):
                self.fail(
                    "S10",
                    f"pfn {pfn} order {order} is allocated while pfn {flying} order {flying_order} is in flight",
                )
        self.world.note("allocates", zone.name, pfn, order)
        name = self.world.current.name
        for frame in frames:
            if frame in self.owned:
                self.fail("S2", f"pfn {frame} is given to {name}, but {self.owned[frame]} owns it")
            self.owned[frame] = name
        value = zone.state[pfn - zone.base_pfn]
        self.expect(not value & REPORTED, "S25", lambda: f"pfn {pfn} is allocated with the Reported bit set")

    def freed(self, pfn: int, order: int) -> None:
        """Hear of a free, right before it."""
        self.world.note("frees", "", pfn, order)
        for frame in range(pfn, pfn + (1 << order)):
            self.owned.pop(frame, None)

    # -- the reporter ----------------------------------------------------------------------------------

    def report_begins(self, zone: Zone, batch: Batch, capacity: int, min_order: int) -> None:
        """Judge a batch as it is handed over."""
        self.calls += 1
        for block in batch:
            self.world.note("hands to the reporter", zone.name, block.pfn, block.order)
        self.expect(not self.retired, "S22", lambda: "the reporter is called after unregister has returned")
        for lock in self.sync.spinlocks:
            if lock.owner is self.world.current:
                self.fail("S9", f"the reporter is called while {lock} is held")
        keys = {(block.pfn, block.order) for block in batch}
        self.expect(
            1 <= len(batch) <= capacity, "S11", lambda: f"a batch of {len(batch)}, capacity {capacity}"
        )
        self.expect(len(keys) == len(batch), "S10", lambda: f"a block is in the batch twice: {sorted(keys)}")
        flying = set(self.in_flight[zone].items())
        self.expect(
            keys == flying,
            "S11",
            lambda: f"the batch is {sorted(keys)}, in flight are {sorted(flying)} of {zone.name}",
        )
        for pfn, order in keys:
            fits = min_order <= order < zone.layout.nr_orders and pfn % (1 << order) == 0
            if not fits:
                self.fail("S11", f"pfn {pfn} order {order} may not be in a batch")
        self.nobody_owns(batch)

    def nobody_owns(self, batch: Batch) -> None:
        """The host has the blocks now: whoever owns a frame of them loses data (S12)."""
        for block in batch:
            for frame in range(block.pfn, block.pfn + (1 << block.order)):
                if frame in self.owned:
                    self.fail("S12", f"pfn {frame} is with the host, and {self.owned[frame]} owns it")

    def report_succeeded(self, zone: Zone, batch: Batch) -> None:
        self.told[zone].update((block.pfn, block.order) for block in batch)
        for block in batch:
            self.world.note("has it reported", zone.name, block.pfn, block.order)

    # -- the end -----------------------------------------------------------------------------------------

    def check_rest(self, reporting: PageReporting, *, all_reported: bool) -> None:
        """Judge a system at rest: no task can go on, no timer is armed."""
        self.check_zones()
        for flying in self.in_flight.values():
            if flying:
                self.fail("L4", f"still in flight at rest: {sorted(flying.items())}")
        state = reporting.state_name()
        idle = state in ("idle", "none") and not reporting.pending() and not reporting.running()
        self.expect(idle, "S23", lambda: f"at rest the state is {state}, pending {reporting.pending()}")
        if all_reported and not self.errors and not self.refused and reporting.device is not None:
            for zone in reporting.zones:
                self._expect_all_reported(zone)

    def _expect_all_reported(self, zone: Zone) -> None:
        for order in range(zone.page_reporting_order, zone.layout.nr_orders):
            for migratetype in range(MIGRATE_ISOLATE):
                for pfn in zone.list_pfns(order, migratetype):
                    if not zone.page_reported(pfn - zone.base_pfn):
                        self.fail(
                            "L1",
                            f"pfn {pfn} order {order} of zone {zone.name} is free, and nobody will report it",
                        )


class WatchedZone(Zone):
    """A zone whose every step is judged."""

    __slots__ = ("_oracle", "changed", "last_listed")

    _oracle: Oracle | None
    changed: bool  # since the oracle looked last
    last_listed: Key

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._oracle = None
        self.changed = True
        super().__init__(*args, **kwargs)

    def _held(self) -> None:
        self.changed = True
        lock = cast("ControlledLock", self.lock)
        if self._oracle is not None and not lock.held_by_current():
            self._oracle.fail("S9", f"a list of zone {self.name} changes without its lock")

    def judged_by(self, oracle: Oracle) -> None:
        """Let every step be judged from here on."""
        self._oracle = oracle

    def add_to_free_list(self, index: int, order: int, migratetype: int) -> None:
        self._held()
        super().add_to_free_list(index, order, migratetype)
        self.last_listed = (index, order)

    def add_to_free_list_tail(self, index: int, order: int, migratetype: int) -> None:
        self._held()
        super().add_to_free_list_tail(index, order, migratetype)
        self.last_listed = (index, order)

    def del_page_from_free_list(self, index: int, order: int) -> None:
        self._held()
        super().del_page_from_free_list(index, order)

    def move_to_free_list(self, index: int, order: int, migratetype: int) -> None:
        self._held()
        reported = self.page_reported(index)
        super().move_to_free_list(index, order, migratetype)
        if self._oracle is not None:
            kept = self.page_reported(index) == reported
            self._oracle.expect(
                kept, "S18", lambda: f"moving pfn {self.base_pfn + index} changed its Reported flag"
            )

    def set_page_reported(self, index: int) -> None:
        self._held()
        super().set_page_reported(index)
        if self._oracle is not None:
            order = self.state[index] & ORDER_MASK
            self._oracle.world.note("flags as Reported", self.name, self.base_pfn + index, order)

    def free_one_page(self, index: int, order: int, migratetype: int, fpi_flags: int) -> None:
        oracle = self._oracle
        if oracle is None or oracle.world.aborting:
            super().free_one_page(index, order, migratetype, fpi_flags)
            return
        task = oracle.world.current.number
        oracle.notified[task] = 0
        super().free_one_page(index, order, migratetype, fpi_flags)
        listed, final_order = self.last_listed
        oracle.expect(
            self.is_buddy(listed, final_order),
            "S24",
            lambda: f"pfn {self.base_pfn + index} was freed and is not listed",
        )
        asked = oracle.notified[task]
        if fpi_flags & FPI_SKIP_REPORT_NOTIFY:
            oracle.expect(not asked, "S21", lambda: "a putback asked for a report")
        else:
            due = final_order >= self.page_reporting_order
            oracle.expect(
                asked == due,
                "S24",
                lambda: f"a free that ended at order {final_order} asked {asked} times for a report",
            )

    def isolate_free_page(self, pfn: int, order: int) -> bool:
        oracle = self._oracle
        if oracle is None or oracle.excuses_isolation():
            return super().isolate_free_page(pfn, order)
        self._held()
        oracle.expect(
            self.page_is_buddy(pfn, order),
            "S26",
            lambda: f"pfn {pfn} order {order} is taken, but no such block is free",
        )
        isolated_type = self.pageblock_migratetype(pfn) == MIGRATE_ISOLATE
        oracle.expect(not isolated_type, "S11", lambda: f"pfn {pfn} is taken out of an ISOLATE pageblock")
        told = (pfn, order) in oracle.told[self] and self.page_reported(pfn - self.base_pfn)
        oracle.expect(
            not told, "S18", lambda: f"pfn {pfn} order {order} is Reported, and taken to be reported again"
        )
        free_before = self.nr_free_pages
        taken = super().isolate_free_page(pfn, order)
        left = self.nr_free_pages - self.nr_reserved_highatomic
        if taken:
            oracle.in_flight[self][pfn] = order
            oracle.world.note("isolates", self.name, pfn, order)
            oracle.expect(
                left > self.watermark[WMARK_MIN],
                "S16",
                lambda: f"isolating pfn {pfn} leaves {left} pages, the min mark",
            )
            oracle.expect(
                free_before - self.nr_free_pages == 1 << order,
                "S5",
                lambda: f"isolating pfn {pfn} order {order} miscounts",
            )
        else:
            oracle.refused += 1
            due = free_before - self.nr_reserved_highatomic > self.watermark[WMARK_MIN] + (1 << order)
            oracle.expect(
                not due, "S16", lambda: f"isolating pfn {pfn} order {order} is refused above the min mark"
            )
        return taken

    def putback_isolated_page(self, pfn: int, order: int, migratetype: int) -> None:
        oracle = self._oracle
        if oracle is None or oracle.excuses_isolation():
            super().putback_isolated_page(pfn, order, migratetype)
            return
        self._held()
        flying = oracle.in_flight[self]
        oracle.expect(
            flying.get(pfn) == order, "S10", lambda: f"pfn {pfn} order {order} is put back, but not in flight"
        )
        now = self.pageblock_migratetype(pfn)
        oracle.expect(
            migratetype == now,
            "S20",
            lambda: f"pfn {pfn} goes back as type {migratetype}, its pageblock is {now}",
        )
        flying.pop(pfn, None)
        oracle.world.note("puts back", self.name, pfn, order)
        super().putback_isolated_page(pfn, order, migratetype)
        asked = oracle.notified[oracle.world.current.number]
        oracle.expect(not asked, "S21", lambda: f"the putback of pfn {pfn} order {order} asks for a report")

    def rotate_to_front(self, pfn: int, order: int, migratetype: int) -> None:
        oracle = self._oracle
        if oracle is None or oracle.world.aborting:
            super().rotate_to_front(pfn, order, migratetype)
            return
        self._held()
        before = list(self.list_pfns(order, migratetype))
        # Judged first: turning a list to what is not on it leaves a ring without an end.
        oracle.expect(pfn in before, "S26", lambda: f"{before} is turned to pfn {pfn}, which is not on it")
        super().rotate_to_front(pfn, order, migratetype)
        after = list(self.list_pfns(order, migratetype))
        at = before.index(pfn)
        turned = after == before[at:] + before[:at]
        oracle.expect(turned, "S19", lambda: f"rotating {before} to {pfn} gave {after}")

    def unisolate_pageblock(self, pfn: int, migratetype: int) -> bool:
        if self._oracle is None:
            return super().unisolate_pageblock(pfn, migratetype)
        task = self._oracle.world.current.number
        self._oracle.giving_back.add(task)
        try:
            return super().unisolate_pageblock(pfn, migratetype)
        finally:
            self._oracle.giving_back.discard(task)

    def rmqueue_buddy(self, order: int, migratetype: int, alloc_flags: int = 0) -> int:
        pfn = super().rmqueue_buddy(order, migratetype, alloc_flags)
        if pfn >= 0 and self._oracle is not None and not self._oracle.world.aborting:
            self._oracle.allocated(self, pfn, order)
        return pfn

    def free_pages_ok(self, pfn: int, order: int, fpi_flags: int = 0) -> None:
        if self._oracle is not None:
            self._oracle.freed(pfn, order)
        super().free_pages_ok(pfn, order, fpi_flags)


class WatchedMemory(Memory):
    """A memory of watched zones."""

    zone_class = WatchedZone


class WatchedReporting(PageReporting):
    """The reporting core, with passes and visits judged."""

    def __init__(self, oracle: Oracle, zones: Sequence[Zone], *args: object, **kwargs: object) -> None:
        super().__init__(zones, *args, **kwargs)  # type: ignore[arg-type]  # as the product takes them
        self.oracle = oracle

    def notify(self) -> None:
        task = self.oracle.world.current.number
        self.oracle.notified[task] = self.oracle.notified.get(task, 0) + 1
        super().notify()

    def process_zone(self, registration: Registration, zone: Zone, sgl: Scatterlist) -> Exception | None:
        oracle = self.oracle
        oracle.expect(
            sgl.offset == registration.capacity,
            "S15",
            lambda: f"zone {zone.name} begins with a scatterlist in use",
        )
        free = zone.nr_free_pages - zone.nr_reserved_highatomic
        mark = zone.low_wmark_pages() + (registration.capacity << registration.order)
        calls = oracle.calls
        flying_before = len(oracle.in_flight[zone])
        error = super().process_zone(registration, zone, sgl)
        if free <= mark:
            idle = oracle.calls == calls and len(oracle.in_flight[zone]) == flying_before
            oracle.expect(
                idle, "S16", lambda: f"zone {zone.name} is visited with {free} free pages, the mark is {mark}"
            )
        left = sorted(oracle.in_flight[zone].items())
        oracle.expect(not left, "S15", lambda: f"zone {zone.name} is left with {left} in flight")
        return error

    def cycle(
        self, registration: Registration, zone: Zone, order: int, migratetype: int, sgl: Scatterlist
    ) -> Exception | None:
        oracle = self.oracle
        calls = oracle.calls
        error = super().cycle(registration, zone, order, migratetype, sgl)
        if self.policy.budget:
            blocks_max = zone.managed_pages >> order
            bound = -(-blocks_max // (registration.capacity * BUDGET_DIVISOR)) + 1
            made = oracle.calls - calls
            oracle.expect(
                made <= bound,
                "S17",
                lambda: f"{made} report calls in one visit of order {order}, {bound} allowed",
            )
        return error

    def drain(self, zone: Zone, sgl: Scatterlist, *, reported: bool) -> None:
        batch = sgl.batch()
        super().drain(zone, sgl, reported=reported)
        flying = self.oracle.in_flight[zone]
        lost = [block.pfn for block in batch if block.pfn in flying]
        self.oracle.expect(not lost, "L4", lambda: f"pfns {lost} were not put back")
        if not reported:
            flagged = [
                b.pfn for b in batch if zone.page_reported(b.pfn - zone.base_pfn) and self._fresh(zone, b)
            ]
            self.oracle.expect(
                not flagged, "S14", lambda: f"pfns {flagged} are Reported after a failed report"
            )

    def _fresh(self, zone: Zone, block: Block) -> bool:
        return (block.pfn, block.order) not in self.oracle.told[zone]
