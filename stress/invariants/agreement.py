"""What the records of one log say of each other, where no rule about memory reads it.

A batch's number, a device's name or a count in a sample break no promise of the allocator's. But a log whose records
contradict each other proves nothing, whoever altered it, so they are judged as well, as the invariant `log`. So is a
tracepoint that says of its event what is not so: a search holds the events of its first execution against each other.

It asks the shadows of a judge for what the zones were up to a record, so the judge must not have heard that one.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

from pagealloc.mmzone import MIGRATE_HIGHATOMIC, MIGRATE_PCPTYPES, WMARK_HIGH, WMARK_LOW, ZONE_NAMES
from stress.invariants.judge import NO_PAGE, Handler, Judge
from stress.invariants.lists import Blocks, Fail
from stress.invariants.rules import FALLBACKS, boost_fits, request_of, starting_mark
from stress.invariants.shadow import ShadowZone


class Agreement:
    """Feed it the records that a judge is about to hear; what contradicts another one breaks the invariant `log`."""

    def __init__(self, judge: Judge, fail: Fail) -> None:
        self._judge = judge
        self._fail: Callable[[str], None] = lambda text: fail("log", text)
        self._zones: set[str] = set()  # that the run was told to build, as [NODE:]NAME; empty if nobody says
        self._asked: dict[int, int] = {}  # zone for whose lock a thread waits
        self._freed: dict[int, tuple[int, int, int]] = {}  # what came to a zone's lists last
        self._taken: dict[int, tuple[int, ...]] = {}  # what a request took of a zone's lists last
        self._claim: dict[
            int, set[tuple[int, int]]
        ] = {}  # (order, type) of the blocks that may have led to a claim
        self._claimant: dict[int, int] = {}  # type that claimed a pageblock, under this hold
        self._wanted: dict[int, int] = {}  # type that a thread's request wants, by what it took from others
        self._moved: dict[
            int, list[tuple[int, int]]
        ] = {}  # (pfn, type) of blocks that changed lists, under this hold
        self._walk: dict[int, int] = {}  # what a walk over a pageblock moved last, under this hold
        self._retyped: dict[int, set[int]] = {}  # pageblocks that got a type, under this hold
        self._left: set[tuple[int, int | None]] = (
            set()
        )  # lists that lost a block since the worker's last visit
        self._given_back: dict[int, tuple[int, int]] = {}  # pageblock and its type to be, under this hold
        self._came_back: dict[int, set[tuple[int, int]]] = {}  # of a batch that the host has, under this hold
        self._device = ""
        self._pass = 0
        self._zones_of_pass = 0
        self._report_failed = False
        self._list = (-1, -1, -1)  # zone, order and type that the pass visits
        self._active = 0  # requests that met a pass, beyond the passes that found one
        self._armed_again = False
        self._batch: tuple[int, int] = (0, -1)  # number and zone
        self._phase = ""
        self._total_bytes = -1
        self._calls = (0, 0, 0)
        self._settled = True
        self._violations = 0

    @property
    def handlers(self) -> dict[str, Handler]:
        """What to call for each event that another one tells of, too."""
        return {event: MethodType(handler, self) for event, handler in HANDLERS.items()}

    def hear(self, judge: Judge, event: str, thread: int, zone: int | None, fields: tuple[Any, ...]) -> None:
        """Hear an event of a search, where another judge comes after each one: `judge` is the one before it."""
        self._judge = judge
        if event == "lock_release":
            assert zone is not None
            self._wanted.pop(thread, None)  # a scenario asks zones, too, past all requests
            self.lock_release(thread, zone, 0, 0, 0, "")
        elif event in HANDLERS and event not in UNTOLD:
            place = () if zone is None else (zone, 0)
            HANDLERS[event](self, thread, *place, *fields)

    def _expect(self, what: str, told: object, known: object) -> None:
        if told != known:
            self._fail(f"{what} is {told}, by the other records {known}")

    # -- zones and their locks -------------------------------------------------------------------------

    def log_begin(self, thread: int, schema: int, params: dict[str, Any], versions: object) -> None:
        words = str(params.get("zones", "")).split(",")
        self._zones = {word.partition("=")[0].removeprefix("0:") for word in words if "=" in word}

    def zone_begin(self, thread: int, zone: int, seq: int, name: str, node: int, *place: object) -> None:
        if self._zones and (name if node == 0 else f"{node}:{name}") not in self._zones:
            self._fail(f"a zone {name} of node {node} is described, the run's are {sorted(self._zones)}")

    def zone_snapshot(self, thread: int, zone: int, seq: int, *fields: Any) -> None:
        shadow = self._judge.zones[zone]
        _, nr_free, nr_reported, marks, highatomic, lists, _, in_use, block_types = fields
        self._expect_even_marks(shadow, *marks)
        self._expect("the number of orders", (len(nr_free), len(nr_reported)), (shadow.nr_orders,) * 2)
        first, last = (pfn >> shadow.pageblock_order for pfn in (shadow.start_pfn, shadow.end_pfn - 1))
        self._expect("the number of pageblocks", len(block_types), last - first + 1)
        pages = sum(len(pfns) << order for order, _, pfns in lists) + sum(
            1 << order for _, order, _ in in_use
        )
        self._expect(f"zone {shadow.name}'s number of pages", pages, shadow.end_pfn - shadow.start_pfn)
        reserved = block_types.count(str(MIGRATE_HIGHATOMIC)) << shadow.pageblock_order
        if highatomic % (1 << shadow.pageblock_order) or (
            shadow.revision.list_type_is_block_type and highatomic != reserved
        ):
            self._expect("the high-atomic reserve", highatomic, reserved)

    def set_watermarks(self, thread: int, zone: int, seq: int, *marks: int) -> None:
        self._expect_even_marks(self._judge.zones[zone], *marks)

    def _expect_even_marks(self, shadow: ShadowZone, low: int, middle: int, high: int) -> None:
        if high - middle != middle - low:
            self._fail(f"the marks of zone {shadow.name} are {low}, {middle} and {high}, expected even steps")

    def lock_contended(self, thread: int, zone: int, site: str) -> None:
        if zone not in self._judge.zones:
            self._fail(f"thread {thread} waits for the lock of zone {zone}, and there is none")
        self._asked[thread] = zone

    def lock_release(self, thread: int, zone: int, seq: int, wait_ns: int, hold_ns: int, site: str) -> None:
        for pfn, migratetype in self._moved.pop(zone, ()) if self._moved else ():
            own = self._judge.zones[zone].block_type(pfn)
            self._expect(f"the list of pfn {pfn:#x}, which moved to that of its pageblock", migratetype, own)
        if self._retyped:
            self._retyped.pop(zone, None)
        if self._walk:
            self._walk.pop(zone, None)
        self._claimant.pop(zone, None)
        asked = self._asked.pop(thread, None) if self._asked else None
        if wait_ns:
            self._expect("the zone whose lock was waited for", asked, zone)
        if wait_ns < 0 or hold_ns < 0:
            self._fail(f"a lock was waited for {wait_ns} ns and held {hold_ns} ns")
        if self._given_back and zone in self._given_back:
            self._fail(f"a pageblock was given back and got no type: {self._given_back.pop(zone)}")
        if self._came_back and zone in self._came_back:
            shadow = self._judge.zones[zone]
            for pfn, order in sorted(self._came_back.pop(zone) & shadow.told):
                if shadow.free.get(pfn) == order and pfn not in shadow.reported:
                    self._fail(
                        f"pfn {pfn:#x} order {order} came back whole, its report succeeded, and it is not Reported"
                    )

    # -- pages -----------------------------------------------------------------------------------------

    def mm_page_alloc(self, thread: int, pfn: int, order: int, migratetype: int, gfp: int | str) -> None:
        asked = request_of(gfp)
        if asked is None:
            self._fail(f"a request with flags {gfp}")
            return
        self._expect(f"the migratetype of a request with {gfp}", migratetype, asked[0])
        if self._wanted:
            self._expect("the type that a request wants", migratetype, self._wanted.pop(thread, migratetype))
        if pfn == NO_PAGE:
            if not 0 <= order < max((shadow.nr_orders for shadow in self._judge.zones.values()), default=0):
                self._fail(f"a request failed for order {order}, which no zone has")
            return
        shadow = self._judge.zone_of(pfn)
        if shadow is not None and ZONE_NAMES.index(shadow.name.rpartition(":")[2]) > asked[1]:
            self._fail(f"a request with {gfp} gets pfn {pfn:#x} of zone {shadow.name}")

    def alloc(
        self,
        thread: int,
        zone: int,
        seq: int,
        pfn: int,
        order: int,
        migratetype: int,
        refill: bool,
        from_order: int,
    ) -> None:
        shadow = self._judge.zones[zone]
        revision = shadow.revision
        rests = order <= revision.pcp_max_order or (
            revision.pcp_pageblock_order and order == shadow.pageblock_order
        )
        if refill != (rests and migratetype < MIGRATE_PCPTYPES):
            self._fail(f"pfn {pfn:#x} order {order} type {migratetype}: percpu_refill is {refill}")
        if self._judge.passing:
            self._left.add((from_order, migratetype))
        if zone in self._claimant:
            self._expect("the type for which a pageblock was claimed", self._claimant.pop(zone), migratetype)
        self._taken[zone] = pfn, order, migratetype

    def took_foreign(self, thread: int, zone: int, seq: int, *taken: int) -> None:
        _, _, migratetype, from_order, from_type = taken
        self._taken[zone] = taken
        self._left.add((from_order, from_type))
        self._expect_wanted(thread, migratetype)

    def _expect_wanted(self, thread: int, migratetype: int) -> None:
        """Expect one request to want one type."""
        self._expect(
            "the type that a request wants", migratetype, self._wanted.setdefault(thread, migratetype)
        )

    def try_to_claim(
        self,
        thread: int,
        zone: int,
        seq: int,
        pfn: int,
        migratetype: int,
        free: int,
        alike: int,
        claimed: bool,
    ) -> None:
        shadow = self._judge.zones[zone]
        size = 1 << shadow.pageblock_order
        if pfn % size or not 0 <= migratetype < MIGRATE_PCPTYPES or not 0 <= alike <= size - free:
            self._fail(
                f"type {migratetype} wants the pageblock at pfn {pfn:#x} with {free} and {alike} pages"
            )
            return
        foreign = [
            (k, shadow.type_of[at], at) for at, k in shadow.free.items() if shadow.type_of[at] != migratetype
        ]
        if (
            shadow.unclaimed or shadow.start_pfn % size or shadow.end_pfn % size
        ):  # larger ones were tried in vain
            self._claim[zone] = {(k, block_type) for k, block_type, at in foreign if pfn <= at < pfn + size}
        else:
            ranks = [
                (-k, FALLBACKS[migratetype].index(t)) for k, t, _ in foreign if t in FALLBACKS[migratetype]
            ]
            self._claim[zone] = {(-k, FALLBACKS[migratetype][rank]) for k, rank in sorted(ranks)[:1]}
        self._expect_wanted(thread, migratetype)
        if claimed:
            self._claimant[zone] = migratetype

    def extfrag(
        self,
        thread: int,
        zone: int,
        seq: int,
        pfn: int,
        alloc_order: int,
        fallback_order: int,
        pageblock_order: int,
        alloc_type: int,
        fallback_type: int,
        fragmenting: bool,
        change_ownership: bool,
    ) -> None:
        shadow = self._judge.zones[zone]
        self._expect("the pageblock order", pageblock_order, shadow.pageblock_order)
        self._expect("fragmenting", fragmenting, fallback_order < pageblock_order)
        self._expect("change_ownership", change_ownership, shadow.block_type(pfn) == alloc_type)
        if not shadow.revision.claim_then_steal:
            self._expect("the order of a block that moved", fallback_order, shadow.free.get(pfn))
            return
        taken = self._taken.get(zone, ())
        if len(taken) > BLOCK_FIELDS:
            told: tuple[int, ...] = pfn, alloc_order, alloc_type, fallback_order, fallback_type
            self._expect("a block that was taken from another type", told, taken)
            return
        self._expect("what was taken from a claimed pageblock", (pfn, alloc_order, alloc_type), taken)
        if (fallback_order, fallback_type) not in self._claim.get(zone, ()):
            self._fail(
                f"a block of order {fallback_order} type {fallback_type} led to a claim, and was not there"
            )

    def free_block(
        self,
        thread: int,
        zone: int,
        seq: int,
        pfn: int,
        order: int,
        migratetype: int,
        at: int,
        k: int,
        to_tail: bool,
    ) -> None:
        self._freed[zone] = pfn, order, migratetype
        shadow = self._judge.zones[zone]
        if self._judge.passing and k > order:
            self._note_left(shadow, pfn, order, k)
        if to_tail != self._merge_likely(shadow, at, k):
            self._fail(f"pfn {at:#x} order {k} comes to the list's {'tail' if to_tail else 'head'}")

    def _merge_likely(self, shadow: ShadowZone, pfn: int, order: int) -> bool:
        """Whether the buddy of a block, once it is free, would merge with it and again (`buddy_merge_likely`)."""
        if order >= shadow.nr_orders - BUDDY_LEVELS:
            return False
        parent = pfn & ~(1 << order)
        other = parent ^ (2 << order)
        if parent < shadow.start_pfn:  # the kernel asks the zone below, and looks there without a lock
            below = self._judge.zone_of(parent)
            return below is not None and below.free.get(other) == order + 1
        return shadow.free.get(other) == order + 1

    def drained(self, thread: int, zone: int, seq: int, *block: int) -> None:
        if self._freed.get(zone) != block:
            self._fail(f"a drain tells of {block}, the block freed just before is {self._freed.get(zone)}")

    def move(
        self, thread: int, zone: int, seq: int, pfn: int, order: int, migratetype: int, to_tail: bool
    ) -> None:
        shadow = self._judge.zones[zone]
        self._expect("the end of the list to which a block moves", to_tail, shadow.revision.move_to_tail)
        self._left.add((order, shadow.type_of.get(pfn)))
        if shadow.revision.list_type_is_block_type:
            self._moved.setdefault(zone, []).append((pfn, migratetype))
            before = self._walk.get(zone, -1)
            if pfn <= before and pfn >> shadow.pageblock_order == before >> shadow.pageblock_order:
                self._fail(f"pfn {pfn:#x} is moved behind pfn {before:#x}: a walk over a pageblock ascends")
            self._walk[zone] = pfn

    def set_type(self, thread: int, zone: int, seq: int, pfn: int, migratetype: int) -> None:
        shadow = self._judge.zones[zone]
        heads = shadow.free.keys() | shadow.in_flight.keys() | shadow.taken.keys() | {shadow.start_pfn}
        if pfn % (1 << shadow.pageblock_order) and pfn not in heads:
            self._fail(f"the pageblock at pfn {pfn:#x} gets a type, and none begins there")
        self._settle_moves(shadow, zone, pfn)
        self._walk.pop(zone, None)
        if zone in self._given_back:
            self._expect("the pageblock that is given back", (pfn, migratetype), self._given_back.pop(zone))

    def _settle_moves(self, shadow: ShadowZone, zone: int, pfn: int) -> None:
        """Compare no later what went to the list of a type that a pageblock got under this hold, and gets again.

        A request for the reserve claims a pageblock for its own type first, and reserves it then.
        """
        block = pfn >> shadow.pageblock_order
        retyped = self._retyped.setdefault(zone, set())
        if block in retyped and zone in self._moved:
            settled = shadow.block_type(pfn)
            self._moved[zone] = [
                (at, migratetype)
                for at, migratetype in self._moved[zone]
                if at >> shadow.pageblock_order != block or migratetype != settled
            ]
        retyped.add(block)

    def split_large(self, thread: int, zone: int, seq: int, pfn: int, order: int) -> None:
        self._left.add((order, self._judge.zones[zone].type_of.get(pfn)))

    def give_back(self, thread: int, zone: int, seq: int, pfn: int, migratetype: int) -> None:
        self._given_back[zone] = pfn, migratetype

    # -- devices and passes ----------------------------------------------------------------------------

    def register(self, thread: int, device: str, order: int, capacity: int) -> None:
        self._device = device

    def same_device(self, thread: int, device: str) -> None:
        self._expect("the device", device, self._device)

    def request(self, thread: int, state: str) -> None:
        if state not in ("idle", "active", "requested"):
            self._fail(f"a request met the state {state}")
        self._active += state == "active"

    def pass_begin(self, thread: int, number: int) -> None:
        if self._pass:
            self._expect("the number of a pass", number, self._pass + 1)
        self._pass = number
        self._zones_of_pass = 0
        self._report_failed = False
        self._armed_again = False

    def pass_end(self, thread: int, number: int, state: str, lost: bool) -> None:
        self._expect("the number of a pass", number, self._pass)
        self._expect("a lost pass", lost, self._zones_of_pass == 0)
        if not (lost or self._report_failed):
            self._expect(
                "the number of zones that a pass came to", self._zones_of_pass, len(self._judge.zones)
            )
        if state not in ("active", "requested"):
            self._fail(f"a pass ends in the state {state}")
        self._armed_again = state == "requested"
        self._active -= self._armed_again

    def pass_zone(self, thread: int, zone: int, usable: int, mark: int, visited: bool) -> None:
        self._zones_of_pass += 1
        self._list = (zone, -1, -1)
        self._left.clear()
        judge, shadow = self._judge, self._judge.zones[zone]
        boost = mark - starting_mark(shadow.watermark[WMARK_LOW], judge.order, judge.capacity)
        if not boost_fits(boost, shadow.watermark[WMARK_HIGH], 1 << shadow.pageblock_order):
            self._fail(
                f"zone {shadow.name} is held to a mark of {mark}, which is no low mark with a batch and a boost"
            )

    def visit(self, thread: int, zone: int, seq: int, order: int, migratetype: int, nr_free: int) -> None:
        if (zone, order, migratetype) <= self._list or zone != self._list[0]:
            self._fail(f"list {order}.{migratetype} of zone {zone} is visited behind {self._list}")
        self._list = zone, order, migratetype
        free, type_of = self._judge.zones[zone].free, self._judge.zones[zone].type_of
        there = any(k == order and type_of[at] == migratetype for at, k in free.items())
        if not there and (order, migratetype) not in self._left:
            self._fail(f"list {order}.{migratetype} of zone {zone} is visited, and empty")
        self._left.clear()

    def _note_left(self, shadow: ShadowZone, pfn: int, order: int, merged_order: int) -> None:
        """Note which lists lose a block by a merge: the worker looks at them without the lock."""
        at = pfn
        for k in range(order, merged_order):
            self._left.add((k, shadow.type_of.get(at ^ (1 << k))))
            at &= ~(1 << k)

    def _expect_own_list(self, zone: int, pfn: int, order: int) -> None:
        """Expect a block to be on the list that is visited."""
        shadow = self._judge.zones[zone]
        if not shadow.giving_back:
            place = zone, shadow.free.get(pfn, order), shadow.type_of.get(pfn, self._list[2])
            self._expect(f"the list of pfn {pfn:#x}", place, self._list)

    def isolate(
        self,
        thread: int,
        zone: int,
        seq: int,
        pfn: int,
        order: int,
        migratetype: int,
        free_pages: int,
        usable: int,
    ) -> None:
        shadow = self._judge.zones[zone]
        self._expect_own_list(zone, pfn, order)
        self._expect(f"the type of pfn {pfn:#x}", migratetype, shadow.block_type(pfn))
        self._left.add((order, shadow.type_of.get(pfn)))
        self._walk.pop(zone, None)
        taken = 0 if shadow.giving_back else 1 << order
        self._expect_usable(shadow, usable, taken, migratetype)

    def refused(self, thread: int, zone: int, seq: int, pfn: int, order: int, usable: int) -> None:
        shadow = self._judge.zones[zone]
        self._expect_own_list(zone, pfn, order)
        self._expect(f"the order of pfn {pfn:#x}", order, shadow.free.get(pfn))
        self._expect_usable(shadow, usable, 0, 0)

    def _expect_usable(self, shadow: ShadowZone, usable: int, taken: int, migratetype: int) -> None:
        """Hold what marks were held against against a reserve of whole pageblocks; the judge knows the other kind."""
        if not shadow.revision.highatomic_free_withheld:
            reserved = shadow.types.count(MIGRATE_HIGHATOMIC) << shadow.pageblock_order
            self._expect("the usable pages", usable, shadow.nr_free_pages - taken - reserved)

    def rotate(self, thread: int, zone: int, seq: int, order: int, migratetype: int, pfn: int) -> None:
        self._expect(f"the list that is turned to pfn {pfn:#x}", (zone, order, migratetype), self._list)

    # -- batches ---------------------------------------------------------------------------------------

    def report_begin(self, thread: int, batch: int, zone: int, blocks: Blocks) -> None:
        if self._batch[0]:
            self._expect("the number of a batch", batch, self._batch[0] + 1)
        self._batch = batch, zone

    def report_end(self, thread: int, batch: int, zone: int, error: str | None) -> None:
        self._expect("the batch and its zone", (batch, zone), self._batch)
        self._report_failed = error is not None

    def host(self, thread: int, zone: int, blocks: Blocks) -> None:
        """Expect of what the host says to have that it is the batch."""
        batch = [tuple(block) for block in self._judge.batch or ()]
        self._expect("what the host has", (zone, [tuple(block) for block in blocks]), (self._batch[1], batch))

    def host_kept(self, thread: int, zone: int, kept: Blocks) -> None:
        batch = {tuple(block) for block in self._judge.batch or ()}
        wrong = [(pfn, order) for pfn, order, _ in kept if (pfn, order) not in batch]
        if zone != self._batch[1] or wrong or any(nr_bytes <= 0 for *_, nr_bytes in kept):
            self._fail(f"the host kept {list(kept)} of zone {zone}, its batch is {sorted(batch)}")

    def putback(self, thread: int, zone: int, seq: int, pfn: int, order: int, *where: Any) -> None:
        shadow = self._judge.zones[zone]
        if (pfn, order) in shadow.told:
            self._came_back.setdefault(zone, set()).add((pfn, order))
        _, at, k, to_tail = where
        self._note_left(shadow, pfn, order, k)
        tail = shadow.revision.putback_to_tail or self._merge_likely(shadow, at, k)
        self._expect(f"the end of the list to which pfn {pfn:#x} comes back", to_tail, tail)

    # -- the harness -----------------------------------------------------------------------------------

    def phase_begin(self, thread: int, name: str, changes: object) -> None:
        self._phase = name

    def phase_end(self, thread: int, name: str) -> None:
        self._expect("the phase", name, self._phase)

    def sample(
        self,
        thread: int,
        resident: int,
        total: int,
        allocs: int,
        frees: int,
        failed: int,
        zones: list[tuple[int, ...]],
    ) -> None:
        calls = allocs, frees, failed
        if any(now < before for now, before in zip(calls, self._calls, strict=True)) or resident < 0:
            self._fail(f"the counts of a sample are {calls}, they were {self._calls}")
        self._calls = calls
        if self._total_bytes >= 0:
            self._expect("the size of the memory", total, self._total_bytes)
        self._total_bytes = total
        if not zones:
            return
        shadows = [self._judge.zones[number] for number in range(len(zones))]
        pages = sum(shadow.end_pfn - shadow.start_pfn for shadow in shadows)
        if total % pages:
            self._fail(f"a memory of {pages} pages has {total} bytes")
        for shadow, (free, allocated, on_sets, in_flight, reported) in zip(shadows, zones, strict=True):
            least = shadow.end_pfn - shadow.start_pfn
            parts = (
                free + allocated + on_sets + in_flight
            )  # read one after the other: a moment's parts may overlap
            if parts < least or (allocated and parts > least) or reported % (1 << self._judge.order):
                self._fail(
                    f"a sample counts {(free, allocated, on_sets, in_flight, reported)} pages of {least}"
                )

    def violation(self, thread: int, text: str) -> None:
        self._violations += 1

    def rest(self, thread: int, settled: bool) -> None:
        judge = self._judge
        quiet = not (judge.passing or judge.unserved or judge.batch is not None or self._armed_again)
        self._settled = settled
        if quiet and not settled:
            self._fail("the worker did not come to rest, and there was nothing left for it to do")
        budget = any(shadow.revision.budget for shadow in judge.zones.values())
        if settled and (self._active > 0 or (self._active < 0 and not budget)):  # a budget asks for itself
            self._fail(f"{self._active} requests more met a pass than passes found one")

    def run_end(self, thread: int, verdict: str, violations: int) -> None:
        self._expect("the number of violations", violations, self._violations)


BLOCK_FIELDS = 3  # pfn, order and type: what was taken of the own lists
UNTOLD = ("set_watermarks",)  # in a search: a scenario chooses marks that no memory comes to by itself
BUDDY_LEVELS = 2  # of the largest orders, which need no guess whether a merge is likely

HANDLERS: dict[str, Handler] = {
    "log_begin": Agreement.log_begin,
    "zone_begin": Agreement.zone_begin,
    "zone_snapshot": Agreement.zone_snapshot,
    "set_watermarks": Agreement.set_watermarks,
    "lock_contended": Agreement.lock_contended,
    "lock_release": Agreement.lock_release,
    "mm_page_alloc": Agreement.mm_page_alloc,
    "mm_page_alloc_zone_locked": Agreement.alloc,
    "rmqueue_claim": Agreement.took_foreign,
    "rmqueue_steal": Agreement.took_foreign,
    "try_to_claim_block": Agreement.try_to_claim,
    "mm_page_alloc_extfrag": Agreement.extfrag,
    "mm_page_free_zone_locked": Agreement.free_block,
    "mm_page_pcpu_drain": Agreement.drained,
    "move_to_free_list": Agreement.move,
    "split_large_buddy": Agreement.split_large,
    "set_pageblock_migratetype": Agreement.set_type,
    "unset_migratetype_isolate": Agreement.give_back,
    "page_reporting_register": Agreement.register,
    "page_reporting_registered": Agreement.same_device,
    "page_reporting_leave": Agreement.same_device,
    "page_reporting_unregister": Agreement.same_device,
    "page_reporting_request": Agreement.request,
    "page_reporting_pass_begin": Agreement.pass_begin,
    "page_reporting_pass_end": Agreement.pass_end,
    "page_reporting_zone": Agreement.pass_zone,
    "page_reporting_visit": Agreement.visit,
    "page_reporting_isolate": Agreement.isolate,
    "page_reporting_refused": Agreement.refused,
    "page_reporting_rotate": Agreement.rotate,
    "page_reporting_report_begin": Agreement.report_begin,
    "page_reporting_report_end": Agreement.report_end,
    "host_begin": Agreement.host,
    "host_end": Agreement.host,
    "host_kept": Agreement.host_kept,
    "page_reporting_putback": Agreement.putback,
    "phase_begin": Agreement.phase_begin,
    "phase_end": Agreement.phase_end,
    "sample": Agreement.sample,
    "violation": Agreement.violation,
    "rest": Agreement.rest,
    "run_end": Agreement.run_end,
}
