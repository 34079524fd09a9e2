"""Every step of an execution, held against the invariants.

The product tells its tracepoints, here as in a recorded run, and `stress.invariants.Judge` decides from them; an
execution ends at the first event that breaks an invariant. What no event shows is a matter of state, and looked at
where the state is whole:

* at every event of a zone: its lock is held (S9);
* when a zone lock is given back: structure and counts (S1 .. S5, by `pagealloc.validate`), and that the zone is what
  its events say, the blocks which are Reported (S13) and the lists in their order (S19) among it;
* at a rotation: the block that was asked for is the first (S19); at an allocation: its state byte (S25);
* when the reporter is called: no zone lock is held (S9), its device has not left (S22);
* at the end (`Oracle.check_rest`): S23, L1, L4.

The permitted cases of starvation are no violations: a scenario that gives the reporter errors, or a zone
below its marks, does not ask for everything to be reported.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from pagealloc.errors import MemoryClosed
from pagealloc.inventory import blocks_in_use, reported_pfns
from pagealloc.tracepoints import Trace
from pagealloc.validate import validate
from pagealloc.zone import Zone
from stress.controlled.sync import ControlledCondition, ControlledLock, ControlledSync
from stress.controlled.world import Subject
from stress.invariants import Agreement, Judge, ShadowZone
from stress.invariants.lists import copied
from stress.invariants.rules import starting_mark
from stress.log.snapshot import snapshot_zone
from stress.search.known import Heard, Known, State, remember
from stress.search.machine import WatchedMemory, WatchedZone
from workers.page_reporting import PageReporting
from workers.workqueue import Workqueue

NOT_TORN = (None, MemoryClosed)  # what a zone's `refusal` is while its state may be judged

# What a story says of an event, of those that have a block: the first two fields behind zone and number.
TOLD = {
    "mm_page_alloc_zone_locked": "takes",
    "mm_page_free_zone_locked": "frees",
    "page_reporting_isolate": "isolates",
    "page_reporting_putback": "puts back",
    "page_reporting_reported": "flags as Reported",
    "page_reporting_refused": "may not isolate",
    "rmqueue_claim": "claims",
    "rmqueue_steal": "steals",
    "split_large_buddy": "frees in pieces",
    "move_to_free_list": "moves to another type's list",
}


class Oracle:
    """What the checks of one execution know, and the verdict."""

    def __init__(self, sync: ControlledSync, known: Known, *, records: bool = False) -> None:
        self.sync = sync
        self.world = sync.world
        self.judge: Judge  # who has heard all events so far
        self.retired = False  # unregister has returned: no reporter may run
        self.peeked = False  # whether events that are told without a lock are points
        self._events = Subject("tracepoints")
        self._queue_lock: ControlledLock | None = None
        self._zones: list[WatchedZone] = []
        self._known = known
        self._records = records  # whether events are held against each other, too
        self._agreement: Agreement | None = None
        self._after = {} if records else known.after  # whoever holds them has to hear every one
        self._agreed = known.agreed
        self._valid = known.valid

    def fail(self, invariant: str, text: str) -> None:
        if not self.world.aborting:
            self.world.fail(invariant, text)

    def expect(self, holds: bool, invariant: str, text: Callable[[], str]) -> None:
        if not holds and not self.world.aborting:
            self.world.fail(invariant, text())

    # -- listening -------------------------------------------------------------------------------------

    def watch(self, memory: WatchedMemory, judge: Judge) -> None:
        """Hear every tracepoint, and look at a zone whenever its lock is given back.

        `judge` knows the zones as they are.
        """
        self.judge = judge
        if self._records:
            self._agreement = Agreement(judge, self.fail)
        for zone in memory.zones:
            zone.trace = self._zone_trace(zone)
            zone.tell_of_wrongs(self.fail)
            self._zones.append(zone)
            lock = cast("ControlledLock", zone.lock.raw)
            lock.on_release = self._on_release(zone)
        memory.trace = self.thread_trace

    def part(self) -> None:
        """Leave the zones alone, and see that they know nobody any more."""
        for zone in self._zones:
            del zone.trace, zone.page_reporting_notify
            zone.tell_of_wrongs(None)
            cast("ControlledLock", zone.lock.raw).on_release = None
        if self._queue_lock is not None:
            self._queue_lock.on_release = None

    def watch_workqueue(self, workqueue: Workqueue) -> None:
        """Look at the queue whenever its lock is given back: its thread may not sleep past a deadline (L1)."""
        condition = cast("ControlledCondition", workqueue._changed)  # noqa: SLF001 - ours
        timers = workqueue._timers  # noqa: SLF001

        def on_release() -> None:
            if not timers:
                return
            first, (due_s, _) = timers[0], timers[0].due or (0.0, 0)
            for task in condition.sleepers():
                if task.deadline_s is None or task.deadline_s > due_s:
                    until = "for ever" if task.deadline_s is None else f"until {task.deadline_s:g} s"
                    self.fail("L1", f"{first.name} is due at {due_s:g} s, and {task.name} sleeps {until}")

        condition.lock.on_release = on_release
        self._queue_lock = condition.lock

    def thread_trace(self, event: str, /, *fields: Any) -> None:
        """Hear of an event that happens to a task."""
        world = self.world
        if world.aborting:
            return
        if self.peeked:
            world.point("tell", self._events)
        if world.log is not None:
            self._note_batch(event, fields)
        heard = (self.judge, event, world.current.number, None, fields)
        try:
            self.judge = self._after[heard]
        except KeyError:
            self.judge = self._first(heard)

    def _first(self, heard: Heard) -> Judge:
        """Judge an event that nobody who knew the same has heard before."""
        judge = self._known.judge(heard, self.fail)
        if self._agreement is not None:
            self._agreement.hear(*heard)
        return judge

    def _zone_trace(self, zone: Zone) -> Trace:
        world, after, number = self.world, self._after, zone.number
        lock = cast("ControlledLock", zone.lock.raw)

        def trace(event: str, /, *fields: Any) -> None:
            if world.aborting:
                return
            task = world.current
            if lock.owner is not task:
                self.fail("S9", f"{event} happens to zone {zone.name} without its lock")
            if world.log is not None and event in TOLD:
                world.note(TOLD[event], zone.name, fields[0], fields[1])
            heard = (self.judge, event, task.number, number, fields)
            try:
                self.judge = after[heard]
            except KeyError:
                self.judge = self._first(heard)

        return trace

    def _note_batch(self, event: str, fields: tuple[Any, ...]) -> None:
        if event == "page_reporting_report_begin":
            for pfn, order in fields[2]:
                self.world.note("hands to the reporter", self._zones[fields[1]].name, pfn, order)
        elif event == "page_reporting_report_end" and self.judge.batch is not None:
            what = "is told that the host has" if fields[2] is None else "is told that the host refused"
            for pfn, order in self.judge.batch:
                self.world.note(what, self._zones[fields[1]].name, pfn, order)

    # -- looking ---------------------------------------------------------------------------------------

    def _on_release(self, zone: WatchedZone) -> Callable[[], None]:
        world, after, number, check_zone = self.world, self._after, zone.number, self.check_zone

        def on_release() -> None:
            # A torn zone is looked at in the end only: the exception that came in is told by then, and says more.
            if zone.lock.refusal in NOT_TORN:
                check_zone(zone)
            heard = (self.judge, "lock_release", world.current.number, number, ())
            try:
                self.judge = after[heard]
            except KeyError:
                self.judge = self._first(heard)

        return on_release

    def check_zone(self, zone: WatchedZone) -> None:
        """Structure and flag truth; the zone's state is whole, its lock about to be released."""
        if self.world.aborting:
            return
        # All that a look judges. The very state that agreed with this very shadow before agrees again.
        state = (
            zone._frames,  # noqa: SLF001 - the lists themselves are what is judged
            zone.nr_reported,
            zone.nr_free_pages,
            zone.pageblock_types,
            zone.nr_isolate_pageblock,
            zone.watermark,
            zone.watermark_boost,
            zone.nr_reserved_highatomic,
            zone.nr_free_highatomic,
            zone.lowmem_reserve,
            zone.fast_marks,
            zone.lock.refusal,
        )
        shadow = self.judge.zones[zone.number]
        if state not in self._agreed.get(shadow, ()):
            self._look(zone, shadow, state)

    def _look(self, zone: WatchedZone, shadow: ShadowZone, state: State) -> None:
        """Judge a state by itself, unless it was met before, and against its events; remember that both hold."""
        alike = self._valid.setdefault((zone.layout, zone.start_pfn, bytes(zone.state)), [])
        good = next((known for known in alike if known == state), None)
        if good is None:
            problems = validate(zone).problems
            if problems:
                self.fail("S1..S5", "; ".join(problems[:3]))
            frames, *rest = state
            good = (tuple(map(copied, frames)), *map(copied, rest))
            remember(alike, good)
        reported = set(reported_pfns(zone))
        if reported != shadow.reported:
            wrong = min(reported ^ shadow.reported)
            flagged = "is Reported, but no device was told of this block"
            text = flagged if wrong in reported else "is not Reported any more, and nobody took it"
            self.fail("S13", f"pfn {wrong:#x} {text}")
        snapshot_zone(zone, partial(self._compare, shadow))
        remember(self._agreed.setdefault(shadow, []), good)

    def _compare(self, shadow: ShadowZone, event: str, /, *fields: Any) -> None:
        shadow.twin(self.fail).snapshot(*fields)

    def check_zones(self) -> None:
        """Judge every zone; no lock is held."""
        for zone in self._zones:
            self.check_zone(zone)

    def check_call(self) -> None:
        """Judge the moment at which the reporter is called."""
        if self.retired:
            self.fail("S22", "the reporter is called after unregister has returned")
        task = self.world.current
        if task.held:
            for lock in self.sync.spinlocks:
                if lock.owner is task:
                    self.fail("S9", f"the reporter is called while {lock} is held")

    def forgive_errors(self) -> None:
        """Hold what comes against the rules as if no report had failed so far."""
        forgiving = self.judge.twin(self.fail)
        forgiving.errors = 0
        self.judge = self._known.keep(forgiving)

    def check_locks(self) -> None:
        """Judge the locks of a system at rest: all are free."""
        locked = [str(lock) for lock in self.sync.spinlocks if lock.owner is not None]
        if locked or self.world.current.held:
            held = dict.fromkeys([*locked, *map(str, self.world.current.held)])
            self.fail("lockdep", f"at rest {', '.join(held)} is held")

    def check_page_sets(self, memory: WatchedMemory) -> None:
        """Judge who has the pages that rest on page sets: threads that live, and each page once (S2)."""
        if memory.page_sets is None:
            return
        page_sets = memory.page_sets
        resting = []
        for cpu, of_cpu in enumerate(page_sets._sets):  # noqa: SLF001 - ours
            pfns = [pfn for pcp in of_cpu for pages, _, _ in pcp.stacks for pfn in list(pages)]
            if pfns and page_sets._owners[cpu] is None:  # noqa: SLF001
                self.fail("S2", f"pfn {pfns[0]:#x} rests on the page set of a thread that has ended")
            resting += pfns
        marked = {pfn for zone in self._zones for pfn, _, kind in blocks_in_use(zone) if kind == "page set"}
        for pfn in sorted(marked.union(resting)):
            if (count := resting.count(pfn)) != (pfn in marked):
                what = "rests on a page set" if pfn in marked else "does not rest on a page set"
                self.fail("S2", f"pfn {pfn:#x} {what}, and is on {count} lists of page sets")

    def check_rest(self, memory: WatchedMemory, reporting: PageReporting, *, all_reported: bool) -> None:
        """Judge a system at rest: no task can go on, no timer is armed. First that no page is without an owner."""
        self.check_locks()
        self.check_page_sets(memory)
        self.check_zones()
        judge = self.judge
        for shadow in judge.zones.values():
            if shadow.in_flight:
                self.fail("L4", f"still in flight at rest: {sorted(shadow.in_flight.items())}")
        state = reporting.state_name()
        idle = state in ("idle", "none") and not reporting.pending() and not reporting.running()
        self.expect(idle, "S23", lambda: f"at rest the state is {state}, pending {reporting.pending()}")
        excused = judge.errors or judge.refused_ever or judge.lost_passes
        if all_reported and not excused and reporting.device is not None:
            for zone, shadow in zip(self._zones, judge.zones.values(), strict=True):
                # Below its mark at the last pass is an excuse, unless it is above now and a pass was asked for since.
                mark = starting_mark(zone.low_wmark_pages(), judge.order, judge.capacity)
                left = judge.unreported(shadow, in_reach=judge.unserved and zone.usable_pages() > mark)
                if left:
                    self.fail("L1", left)
