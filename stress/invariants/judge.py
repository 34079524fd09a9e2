"""The judge: hears events one after the other and says which invariant one of them breaks.

What is judged where:

* `ShadowZone`, one for each zone: S1 .. S7, S10 .. S14 (its blocks and batches), S16, S18 .. S20, S26, and snapshots of
  the zone;
* here, what spans zones and threads: S9 (who holds which zone lock), S10 and S15 (one batch at a time), S16 (zones a
  pass may visit), S17 (report calls of a visit), S21 and S24 (who asks for a report), S22 and S23 (devices and
  passes), L1 .. L4 (requests, rest).

Of the others, S8 has no event of its own: the snapshots would show a page that is Reported and not free. S25 is
checked by the page's owner, who logs a `violation`. L5 holds when `page_reporting_unregister` is logged, L6 is in the
lock's figures, L7 needs a caller who tries again, and L8 is L1 for the request behind the failure.

The permitted cases of starvation are not flagged: a failed report, a refused isolation, a lost scatterlist and a zone
below its marks each excuse what stays unreported.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

from pagealloc.mmzone import MIGRATE_ISOLATE, WMARK_LOW
from stress.invariants.lists import Blocks, Fail, copies, frozen
from stress.invariants.rules import REST_PASSES_MAX, calls_of_visit, starting_mark
from stress.invariants.shadow import ShadowZone

Handler = Callable[..., None]
Change = Callable[..., None]  # a method of ShadowZone

# What an event under a zone lock changes in the zone's shadow; the method takes the event's fields.
CHANGES: dict[str, Change] = {
    "mm_page_alloc_zone_locked": ShadowZone.alloc,
    "mm_page_free_zone_locked": ShadowZone.free_block,
    "mm_page_pcpu_drain": ShadowZone.drained,
    "move_to_free_list": ShadowZone.move,
    "set_pageblock_migratetype": ShadowZone.set_type,
    "set_watermarks": ShadowZone.set_watermarks,
    "rmqueue_claim": ShadowZone.claim,
    "rmqueue_steal": ShadowZone.steal,
    "split_large_buddy": ShadowZone.split_large,
    "split_page": ShadowZone.split,
    "try_to_claim_block": ShadowZone.try_to_claim,
    "unset_migratetype_isolate": ShadowZone.begin_to_give_back,
    "page_reporting_isolate": ShadowZone.isolate,
    "page_reporting_putback": ShadowZone.putback,
    "page_reporting_refused": ShadowZone.refused,
    "page_reporting_reported": ShadowZone.set_reported,
    "page_reporting_rotate": ShadowZone.rotate,
}


class UnknownEvent(Exception):
    """A zone tells of an event that no list here has: somebody added a tracepoint."""

    def __init__(self, event: str) -> None:
        super().__init__(
            f"a zone tells of {event}, which the judge has never heard of; expected it in CHANGES, if it changes the "
            "zone, or else in BEYOND_CHANGES or ZONE_EVENTS of stress/invariants/judge.py"
        )


class Copies(dict[int, ShadowZone]):
    """Another judge's shadows, each copied when somebody comes to it: most events are about one zone, or none."""

    def __init__(self, shadows: dict[int, ShadowZone], fail: Fail) -> None:
        super().__init__(shadows)
        self._fail = fail
        self._own: set[int] = set()

    def __getitem__(self, zone: int, /) -> ShadowZone:
        if zone in self and zone not in self._own:
            self[zone] = super().__getitem__(zone).twin(self._fail)
        return super().__getitem__(zone)

    def __setitem__(self, zone: int, shadow: ShadowZone, /) -> None:
        self._own.add(zone)
        super().__setitem__(zone, shadow)

    def get(self, zone: int, default: Any = None, /) -> Any:
        return self[zone] if zone in self else default  # noqa: SIM401 - this is that `get`

    def values(self) -> list[ShadowZone]:  # type: ignore[override]
        return [self[zone] for zone in self]

    def items(self) -> list[tuple[int, ShadowZone]]:  # type: ignore[override]
        return [(zone, self[zone]) for zone in self]

    def settled(self, keep: Callable[[ShadowZone], ShadowZone]) -> dict[int, ShadowZone]:
        """Return the shadows as they are now, those that somebody came to by way of `keep`."""
        return {zone: keep(shadow) if zone in self._own else shadow for zone, shadow in super().items()}


class Judge:
    """Feed it events in a possible order; `fail` hears of every invariant that one breaks."""

    def __init__(self, fail: Fail) -> None:
        self.fail = fail
        self.zones: dict[int, ShadowZone] = {}
        # By zone: the thread that holds its lock, by the events since the last release.
        self.holders: dict[int, int] = {}
        self._asking: dict[int, int] = {}  # threads whose last free must ask for a report: the zone
        self._may_ask: dict[int, int] = {}  # threads whose last zone event was a free: the zone
        self.device: str | None = None
        self.order = 0
        self.capacity = 0
        self.order_is_settled = False
        self._had_device = False
        self._leaving = False
        self._one_more_pass = False  # of a device that leaves: its work may have begun, and not told so yet
        self.passing = False
        self.unserved = False  # a report was asked for, and no pass has begun since
        self.batch: Blocks | None = None
        self._host_speaks = False  # whether the log tells what the host itself does
        self.errors = 0
        self.lost_passes = 0
        self.refused_in_pass = 0
        self.refused_ever = 0
        self._visit: tuple[int, int] | None = None  # zone, and how many calls its visit may make
        self._calls = 0
        self._passes_since_free = 0
        self._at_rest = False
        self.rested = False
        self.unseen: set[int] = set()  # zones that were not looked at since

    def twin(self, fail: Fail) -> Judge:
        """Return another judge that knows the same."""
        judge = object.__new__(type(self))
        judge.__dict__ = copies(vars(self))
        judge.fail = fail
        judge.zones = Copies(self.zones, fail)
        return judge

    def key(self) -> tuple[Any, ...]:
        """Return what tells judges apart: with equal keys they judge alike whatever may come."""
        return frozen(vars(self), {"fail"})

    @property
    def handlers(self) -> dict[str, Handler]:
        """What to call for each event, with the fields of its record: thread, zone and number, and its own."""
        return {
            **{event: self._zone_handler(event) for event in ZONE_EVENTS},
            "zone_begin": self.zone_begin,
            "zone_snapshot": self.zone_snapshot,
            "zone_state": self.zone_state,
            **{event: MethodType(handler, self) for event, handler in THREAD_EVENTS.items()},
        }

    # -- zones and their locks -------------------------------------------------------------------------

    def zone_begin(self, thread: int, zone: int, seq: int, *fields: object) -> None:
        self.zones[zone] = ShadowZone(*fields, fail=self.fail)

    def zone_of(self, pfn: int) -> ShadowZone | None:
        """Return the zone that holds a page."""
        for shadow in self.zones.values():
            if shadow.start_pfn <= pfn < shadow.end_pfn:
                return shadow
        return None

    def hear(self, event: str, thread: int, zone: int | None, fields: tuple[Any, ...]) -> None:
        """Hear what happens to a thread, if a rule is about it, or to a zone under its lock.

        Raises UnknownEvent for an event of a zone that is none.
        """
        if zone is not None:
            if event not in ZONE_EVENTS:
                raise UnknownEvent(event)
            self._zone_handler(event)(thread, zone, 0, *fields)
        elif event in THREAD_EVENTS:
            THREAD_EVENTS[event](self, thread, *fields)

    def _zone_handler(self, event: str) -> Handler:
        change, beyond = CHANGES.get(event), BEYOND_CHANGES.get(event)

        def handle(thread: int, zone: int, seq: int, *fields: Any) -> None:
            self._locked(thread, zone)
            if change is not None:
                change(self.zones[zone], *fields)
            if beyond is not None:
                beyond(self, thread, zone, *fields)

        return handle

    def _locked(self, thread: int, zone: int) -> None:
        """Account for an event under a zone lock."""
        holder = self.holders.setdefault(zone, thread)
        if holder != thread:
            self.fail(
                "S9",
                f"thread {thread} changes zone {self.zones[zone].name} inside thread {holder}'s hold of its lock",
            )
        if thread in self._asking:
            del self._asking[thread]
            self.fail("S24", f"thread {thread} freed a block large enough, and asked nobody for a report")
        if thread in self._may_ask:
            del self._may_ask[thread]

    def released(self, thread: int, zone: int, *figures: object) -> None:
        self.zones[zone].released()
        del self.holders[zone]

    def zone_snapshot(self, thread: int, zone: int, seq: int, *fields: object) -> None:
        shadow = self.zones[zone]
        if shadow.loaded:
            self._locked(thread, zone)
        shadow.snapshot(*fields)  # type: ignore[arg-type]
        if self.rested:
            self.unseen.discard(zone)
        if self._at_rest and not (self.errors or self.lost_passes or self.refused_in_pass):
            left = self.unreported(shadow)
            if left:
                self.fail("L1", left)

    def zone_state(
        self, thread: int, zone: int, seq: int, nr_free_pages: int, nr_free: list[int], nr_reported: list[int]
    ) -> None:
        self._locked(thread, zone)
        self.zones[zone].counts(nr_free_pages, nr_free, nr_reported)

    # -- pages -----------------------------------------------------------------------------------------

    def mm_page_alloc(self, thread: int, pfn: int, order: int, migratetype: int, gfp: object) -> None:
        if pfn != NO_PAGE:
            shadow = self.zone_of(pfn)
            if shadow is None:
                self.fail("S25", f"thread {thread} gets pfn {pfn:#x}, which is in no zone")
            else:
                shadow.owner(thread, pfn, order)

    def mm_page_free(self, thread: int, pfn: int, order: int) -> None:
        self._passes_since_free = 0
        shadow = self.zone_of(pfn)
        if shadow is None:
            self.fail("S2", f"thread {thread} frees pfn {pfn:#x}, which is in no zone")
        else:
            shadow.disown(thread, pfn, order)

    def freed(
        self,
        thread: int,
        zone: int,
        pfn: int,
        order: int,
        migratetype: int,
        merged_pfn: int,
        merged_order: int,
        to_tail: bool,
    ) -> None:
        self._passes_since_free = 0
        if not self._had_device:
            return
        if not self.order_is_settled:
            self._may_ask[thread] = zone
        elif merged_order >= self.order:
            self._asking[thread] = zone

    # -- devices and requests --------------------------------------------------------------------------

    def register(self, thread: int, device: str, order: int, capacity: int) -> None:
        if self.device is not None:
            self.fail("S22", f"device {device} registers while {self.device} is there")
        self.device = device
        self.order = order
        self.capacity = capacity
        self.order_is_settled = False
        self._had_device = True
        self._leaving = False
        self.unserved = True  # registering asks for a first pass
        self._passes_since_free = 0

    def registered(self, thread: int, device: str) -> None:
        self.order_is_settled = True

    def leave(self, thread: int, device: str) -> None:
        self._leaving = True
        self._one_more_pass = not self.passing

    def unregister(self, thread: int, device: str) -> None:
        if self.batch is not None:
            self.fail("S22", f"device {device} has left, and its reporter still runs")
        self.device = None
        self.unserved = False

    def notify(self, thread: int) -> None:
        zone = self._asking.pop(thread, None)
        if zone is None and self._may_ask.pop(thread, None) is None:
            self.fail("S24", f"thread {thread} asks for a report, and has not just freed a large block")
        if self.device is not None and self.order_is_settled:  # before that a notifier may not know of it
            self.unserved = True

    # -- passes ----------------------------------------------------------------------------------------

    def pass_begin(self, thread: int, number: int) -> None:
        if self.passing:
            self.fail("S23", f"pass {number} begins inside another one")
        if self.device is None and self._had_device and self.order_is_settled:
            self.fail("S22", f"pass {number} begins after the device has left")
        if self._leaving and not self._one_more_pass:
            self.fail("S22", f"pass {number} begins for a device that is leaving: its work was armed again")
        self._one_more_pass = False
        self.passing = True
        self.unserved = False
        # A pass takes up what an earlier one had to leave: only the last one's failures excuse anything (L8).
        self.refused_in_pass = self.errors = self.lost_passes = 0
        self._visit = None
        self._passes_since_free += 1
        if self._passes_since_free > REST_PASSES_MAX:
            self.fail("L3", f"{self._passes_since_free} passes since the last free: no end")
        self._expect_nothing_in_flight("a pass begins")

    def pass_end(self, thread: int, number: int, state: str, lost: bool) -> None:
        self._end_visit(leftover=True)
        self._expect_nothing_in_flight("the pass ends")
        self.passing = False
        self.lost_passes += lost

    def pass_zone(self, thread: int, zone: int, usable: int, mark: int, visited: bool) -> None:
        self._end_visit(leftover=True)
        self._expect_nothing_in_flight("the pass goes on to the next zone")
        shadow = self.zones[zone]
        shadow.visited = visited
        if visited != (usable > mark):
            what = "visited" if visited else "passed over"
            self.fail("S16", f"zone {shadow.name} is {what} with {usable} usable pages, the mark is {mark}")
        if mark < starting_mark(shadow.watermark[WMARK_LOW], self.order, self.capacity):
            self.fail("S16", f"zone {shadow.name} is held to {mark} pages, less than low and a whole batch")

    def _expect_nothing_in_flight(self, when: str) -> None:
        for shadow in self.zones.values():
            if shadow.in_flight:
                self.fail(
                    "S15",
                    f"{when} with {sorted(shadow.in_flight.items())[:4]} of zone {shadow.name} in flight",
                )

    def visited(self, thread: int, zone: int, order: int, migratetype: int, nr_free: int) -> None:
        shadow = self.zones[zone]
        self._end_visit(leftover=False)
        if nr_free != shadow.nr_free[order]:
            self.fail(
                "S4",
                f"a visit finds {nr_free} free blocks of order {order}, there are {shadow.nr_free[order]}",
            )
        if self.device is None:
            self.fail("S22", "a list is visited for no device")
        if migratetype == MIGRATE_ISOLATE or order < self.order:
            self.fail(
                "S11", f"list {order}.{migratetype} is visited, order {self.order} and more are reported"
            )
        self._calls = 0
        self._visit = (zone, calls_of_visit(nr_free, self.capacity)) if shadow.revision.budget else None

    def _end_visit(self, *, leftover: bool) -> None:
        """Judge the calls of the visit that is over; one more is due when a zone is left with a partial batch."""
        if self._visit is not None:
            _, calls_max = self._visit
            if self._calls > calls_max + leftover:
                self.fail("S17", f"{self._calls} report calls in one visit, {calls_max} allowed")
        self._visit = None

    # -- batches ---------------------------------------------------------------------------------------

    def refused(self, thread: int, zone: int, pfn: int, order: int, usable_pages: int) -> None:
        self.refused_in_pass += 1
        self.refused_ever += 1

    def report_begin(self, thread: int, batch: int, zone: int, blocks: Blocks) -> None:
        if self.batch is not None:
            self.fail("S10", f"batch {batch} begins while another one is with the reporter")
        if self.device is None and self._had_device:
            self.fail("S22", f"batch {batch} goes to a reporter whose device has left")
        for held, holder in self.holders.items():
            if holder == thread:
                self.fail(
                    "S9",
                    f"the reporter is called while its thread holds the lock of zone {self.zones[held].name}",
                )
        self.zones[zone].report_begin(tuple(blocks), self.order, self.capacity)
        self.batch = blocks
        self._calls += 1

    def report_end(self, thread: int, batch: int, zone: int, error: str | None) -> None:
        failed = error is not None
        if self.batch is None:
            self.fail("S10", f"batch {batch} ends, and none has begun")
        else:
            self.zones[zone].report_end(tuple(self.batch), failed, self._host_speaks)
        self.batch = None
        self.errors += failed

    def host_begin(self, thread: int, zone: int, blocks: Blocks) -> None:
        if self.device is None and self._had_device:
            self.fail("S22", "the host is given a batch, and its device has left")
        self._host_speaks = True
        self.zones[zone].host_begin(tuple(blocks))

    def host_end(self, thread: int, zone: int, blocks: Blocks) -> None:
        self.zones[zone].host_end(tuple(blocks))

    # -- the end ---------------------------------------------------------------------------------------

    def violation(self, thread: int, text: str) -> None:
        self.fail("witness", text)

    def run_end(self, thread: int, verdict: str, violations: int) -> None:
        if verdict != "SUCCESS":
            self.fail("witness", f"the run's own verdict is {verdict}, with {violations} violations")

    def rest(self, thread: int, settled: bool) -> None:
        """Judge a system at rest: snapshots that follow must be wholly reported."""
        self.rested = True
        self.unseen = set(self.zones)
        if not settled:
            return
        if self.unserved:
            self.fail("L1", "a report was asked for, and no pass has begun since")
        if self.batch is not None:
            self.fail("L4", "a batch is with the reporter at rest")
        self._expect_nothing_in_flight("rest is reached")
        self._at_rest = True

    def unreported(self, shadow: ShadowZone, *, in_reach: bool = False) -> str:
        """Say what a zone at rest has left to report (L1), though it is free and large enough; "" for nothing.

        `in_reach`: whoever asks knows that the zone is above its mark now, and that a pass was asked for since.
        """
        if not (shadow.visited or in_reach):
            return ""  # its free pages were below the mark at the last pass, which is nobody's fault
        for pfn, order in shadow.free.items():
            withheld = shadow.type_of[pfn] == MIGRATE_ISOLATE
            if order >= self.order and pfn not in shadow.reported and not withheld:
                return f"pfn {pfn:#x} order {order} of zone {shadow.name} is free, and nobody will report it"
        return ""


# What an event under a zone lock is beyond the zone's shadow.
BEYOND_CHANGES: dict[str, Handler] = {
    "lock_release": Judge.released,
    "mm_page_free_zone_locked": Judge.freed,
    "page_reporting_visit": Judge.visited,
    "page_reporting_refused": Judge.refused,
}

NO_PAGE = -1  # the pfn of an allocation that failed
ZONE_EVENTS = {*CHANGES, *BEYOND_CHANGES, "mm_page_alloc_extfrag"}

THREAD_EVENTS: dict[str, Handler] = {
    "mm_page_alloc": Judge.mm_page_alloc,
    "mm_page_free": Judge.mm_page_free,
    "page_reporting_register": Judge.register,
    "page_reporting_registered": Judge.registered,
    "page_reporting_leave": Judge.leave,
    "page_reporting_unregister": Judge.unregister,
    "page_reporting_notify": Judge.notify,
    "page_reporting_pass_begin": Judge.pass_begin,
    "page_reporting_pass_end": Judge.pass_end,
    "page_reporting_zone": Judge.pass_zone,
    "page_reporting_report_begin": Judge.report_begin,
    "page_reporting_report_end": Judge.report_end,
    "host_begin": Judge.host_begin,
    "host_end": Judge.host_end,
    "violation": Judge.violation,
    "rest": Judge.rest,
    "run_end": Judge.run_end,
}
