"""What a running kernel's users called goes through our page sets, and what comes out is held against the record.

A recording has the calls of users (`mm_page_alloc`, `mm_page_free`) and what the zone gave and got back
(`mm_page_alloc_zone_locked`, `mm_page_pcpu_drain`). Only the calls go in, on the CPU that made them. Which of them
refills a list or shortens a set, by how many blocks of which orders and types, is then predicted, call by call; a zone
stands behind the sets that gives the recorded pages and asks for nothing itself. After a call that came out
differently the sets are set right, so that each one is judged by itself.

Three things the recording does not say, and are taken from it: a pageblock's type, from the list on which a page that
was freed is met again; which pages rested on the sets at the beginning, from those that come out without having gone
in; and how many more rest there throughout, from the first call of a CPU that shortens its set, which is then not
judged. A free of many pages is one call: the kernel traces all of them before it goes through them.

A limit that tunes itself (6.7 and later) follows every call, those for single pages, too: a recording with a filter on
the order agrees less, for the sets hold pages of which it does not tell.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from pagealloc.mmzone import MIGRATE_MOVABLE, MIGRATE_PCPTYPES, Layout
from pagealloc.page_flags import ALLOCATED, KIND_MASK, ON_PAGE_SET, TAIL
from pagealloc.pcp import VMSTAT_INTERVAL_S, PageSets
from pagealloc.per_cpu_pages import PAGE_ALLOC_COSTLY_ORDER, PerCpuPages
from pagealloc.revision import Revision
from pagealloc.sync_real import RealSync
from pagealloc.zone import Zone
from stress.errors import BadInput
from stress.formats.ftrace import TraceEvent
from stress.formats.procfs import ZoneCounts

Block = tuple[int, int, int]  # pfn, order, migratetype of the list
FALLBACK_TYPE = MIGRATE_MOVABLE  # of a page that is never met again


@dataclass(slots=True)
class Call:
    """An allocation, or a run of frees, on one CPU, with what the zone gave or got back at it."""

    cpu: int
    time_s: float
    pid: int
    alloc: Block | None
    frees: list[tuple[int, int]] = field(default_factory=list)  # pfn, order
    zone_events: list[Block] = field(default_factory=list)  # in their order
    past_the_sets: bool = False  # the block came from the zone itself
    refill: bool = False  # the zone events are a refill that no traced allocation asked for

    def pfns(self) -> list[int]:
        """Return the pages that the call names."""
        allocated = [] if self.alloc is None else [self.alloc[0]]
        return allocated + [pfn for pfn, _ in self.frees] + [pfn for pfn, _, _ in self.zone_events]


@dataclass(slots=True)
class Difference:
    """A call that came out differently."""

    call: Call
    predicted: list[Block]


@dataclass(slots=True)
class Agreement:
    """How many calls came out as recorded, of all, and of those with a zone event on either side."""

    calls: int = 0
    agree: int = 0
    zone_calls: int = 0
    zone_agree: int = 0
    same_pages: int = 0  # calls that agree to the page
    unasked: int = 0  # refills and drains that no traced call asked for
    unseen: dict[int, int] = field(
        default_factory=dict
    )  # pages that rest throughout, by CPU, from its first drain
    differences: list[Difference] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Share of the calls with a zone event, recorded or predicted, that agree in kind, number, orders and types."""
        return self.zone_agree / self.zone_calls if self.zone_calls else 1.0


# -- the recording -----------------------------------------------------------------------------------------


def calls_of(events: Iterable[TraceEvent], revision: Revision) -> list[Call]:
    """Return the calls of users in the order in which they ended. Raises BadInput for a recording with a gap.

    A kernel that claims or steals (v6.14, 6.12.y) tells of a page only by `mm_page_alloc_extfrag` when it comes from a
    whole pageblock or from another type's list. After a claim of less, and in all kernels before,
    `mm_page_alloc_zone_locked` is there for the same page, too.
    """
    calls: list[Call] = []
    refills: dict[int, list[Block]] = defaultdict(list)  # by CPU, of the allocation that has not ended
    last: dict[int, Call] = {}  # the last call of each CPU
    past: set[int] = set()
    given: dict[int, int] = {}  # by CPU, the last page that the zone gave
    for event in events:
        cpu = event.cpu
        if event.name == "lost_events":
            raise BadInput(f"the recording lost {event.number('events')} events of CPU {cpu}, expected all")
        if event.name == "mm_page_alloc_zone_locked":
            block = _block(event)
            given[cpu] = block[0]
            if event.number("percpu_refill"):
                refills[cpu].append(block)
            else:
                past.add(block[0])
        elif event.name == "mm_page_alloc_extfrag" and revision.claim_then_steal:
            pfn, order = event.number("pfn"), event.number("alloc_order")
            if given.get(cpu) == pfn:
                continue  # a claim of less than a pageblock, told already
            given[cpu] = pfn
            # It does not say whether a set asked: an order that sets hold is taken for a refill.
            if order <= revision.pcp_max_order or order == event.number("pageblock_order"):
                refills[cpu].append((pfn, order, event.number("alloc_migratetype")))
            else:
                past.add(pfn)
        elif event.name == "mm_page_alloc" and event.number("pfn"):
            block = _block(event)
            refill = refills.pop(cpu, [])
            if refill and refill[0] != block:
                # An allocation of many pages at once, which is not traced: the first page goes to who asked.
                calls.append(Call(cpu, event.time_s, event.pid, None, zone_events=refill, refill=True))
                refill = []
            call = last[cpu] = Call(cpu, event.time_s, event.pid, block, zone_events=refill)
            call.past_the_sets = block[0] in past
            past.discard(block[0])
            calls.append(call)
        elif event.name == "mm_page_free":
            call = last.get(cpu)  # type: ignore[assignment]
            if call is None or call.alloc is not None or call.zone_events or call.pid != event.pid:
                call = last[cpu] = Call(cpu, event.time_s, event.pid, None)
                calls.append(call)
            call.frees.append((event.number("pfn"), event.number("order")))
        elif event.name == "mm_page_pcpu_drain":
            call = last.get(cpu)  # type: ignore[assignment]
            if call is None or call.alloc is not None or call.pid != event.pid:
                call = last[cpu] = Call(cpu, event.time_s, event.pid, None)  # no free asked for it
                calls.append(call)
            call.zone_events.append(_block(event))
    return calls


def _block(event: TraceEvent) -> Block:
    return event.number("pfn"), event.number("order"), event.number("migratetype")


# -- what it does not say ----------------------------------------------------------------------------------


ListName = tuple[int, int, int]  # CPU, order, migratetype of a list


@dataclass(slots=True)
class Inferred:
    """What the recording gives away: the types that pages were freed as, and what rested at the beginning."""

    freed_as: dict[tuple[int, int], int] = field(default_factory=dict)  # by (number of the call, pfn)
    # pfns as they were taken from a list's head, and drained from its tail, without having gone in
    taken: dict[ListName, list[int]] = field(default_factory=lambda: defaultdict(list))
    drained: dict[ListName, list[int]] = field(default_factory=lambda: defaultdict(list))


def infer(calls: Sequence[Call], pageblock_order: int) -> Inferred:
    """Follow every page from where it is freed to where it is met again."""
    inferred = Inferred()
    resting: dict[int, int] = {}  # number of the call that put a page on a set, by pfn; -1 for a refill
    block_types: dict[int, int] = {}

    def leaves(cpu: int, block: Block, came: dict[ListName, list[int]]) -> None:
        pfn, order, migratetype = block
        call = resting.pop(pfn, None)
        if call is None:
            came[cpu, order, list_type(migratetype)].append(pfn)
        elif call >= 0:
            inferred.freed_as[call, pfn] = migratetype
            block_types[pfn >> pageblock_order] = migratetype

    for number, call in enumerate(calls):
        if call.alloc is not None or call.refill:
            resting.update((pfn, -1) for pfn, _, _ in call.zone_events)
            if call.alloc is not None and not call.past_the_sets:
                leaves(call.cpu, call.alloc, inferred.taken)
            continue
        resting.update((pfn, number) for pfn, _ in call.frees)
        for block in call.zone_events:
            leaves(call.cpu, block, inferred.drained)
    for pfn, number in resting.items():
        if number >= 0:
            inferred.freed_as[number, pfn] = block_types.get(pfn >> pageblock_order, FALLBACK_TYPE)
    return inferred


def list_type(migratetype: int) -> int:
    """Return the type of the list on which a block rests: a reserved pageblock's pages lie with the movable ones."""
    return migratetype if migratetype < MIGRATE_PCPTYPES else MIGRATE_MOVABLE


# -- the zone behind the sets ------------------------------------------------------------------------------


class RecordedZone(Zone):
    """A zone that gives the recorded pages, and keeps what comes back."""

    __slots__ = ("gives", "got_back", "was_asked")

    def recall(self, counts: ZoneCounts) -> None:
        """Take sizes and marks from the guest."""
        self.managed_pages = counts.managed
        self.set_watermarks(counts.min, counts.low, counts.high)
        self.gives: list[Block] = []
        self.was_asked: list[Block] = []  # a block without a pfn for each that a refill asked for
        self.got_back: list[Block] = []

    def rmqueue_bulk(self, order: int, migratetype: int, count: int, alloc_flags: int) -> list[int]:
        """Give what the recorded call was given, whatever is asked for."""
        self.was_asked += [(-1, order, migratetype)] * count
        for pfn, of_order, _ in self.gives:
            self.set_block_state(pfn, ON_PAGE_SET | of_order)
        return [pfn for pfn, _, _ in self.gives]

    def free_pcppages_bulk(self, blocks: Sequence[Block]) -> None:
        """Keep what comes back apart."""
        self.got_back += blocks


# -- following ---------------------------------------------------------------------------------------------


class Follower:
    """Our page sets over a guest's zones, one for each of its CPUs, that go through a recording's calls once."""

    def __init__(
        self, guest: Sequence[ZoneCounts], revision: Revision, calls: Sequence[Call], unseen: dict[int, int]
    ) -> None:
        populated = sorted((zone for zone in guest if zone.managed), key=lambda zone: zone.start_pfn)
        if not populated or not calls:
            raise BadInput("the guest has no zone with pages, or the recording no call")
        self.layout = Layout()
        self.calls = calls
        self.inferred = infer(calls, self.layout.pageblock_order)
        self.agreement = Agreement(unseen=unseen)
        self.zones: list[RecordedZone] = []
        for counts in populated:
            zone = RecordedZone(
                counts.name,
                counts.start_pfn,
                counts.spanned,
                layout=self.layout,
                revision=revision,
                sync=RealSync(),
                zones_below=self.zones,
                node=counts.node,
            )
            zone.recall(counts)
            self.zones.append(zone)
        self.cpus = max(len(populated[0].page_sets), 1 + max(call.cpu for call in calls))
        self.sets = PageSets(self.zones, revision, RealSync(), self.cpus)
        self.largest = max(self.zones, key=lambda zone: zone.managed_pages)
        for cpu in range(self.cpus):
            self.sets.run_on_cpu(cpu)
            self._fill(cpu)

    def _fill(self, cpu: int) -> None:
        """Put on a CPU's lists what rested there at the beginning."""
        named = {pfn for call in self.calls for pfn in call.pfns()}
        unnamed = (pfn for pfn in range(self.largest.start_pfn, self.largest.end_pfn) if pfn not in named)
        taken, drained = self.inferred.taken, self.inferred.drained
        between = {(cpu, 0, MIGRATE_MOVABLE): list(islice(unnamed, self.agreement.unseen.get(cpu, 0)))}
        for name in {*taken, *drained, *between}:
            if name[0] == cpu:
                pfns = [*drained.get(name, ()), *between.get(name, ()), *taken.get(name, [])[::-1]]
                for rests in pfns:
                    self._put(cpu, (rests, name[1], name[2]), cold=False)

    def follow(self) -> dict[int, int]:
        """Go through all calls; stop, and return what rests throughout, when a CPU's first drain tells it."""
        drained: set[int] = set()
        tick_s = self.calls[0].time_s
        for number, call in enumerate(self.calls):
            while call.time_s >= tick_s + VMSTAT_INTERVAL_S:
                tick_s += VMSTAT_INTERVAL_S
                self.sets.refresh_vm_stats()
                self._got_back()
            self.sets.run_on_cpu(call.cpu)
            first = bool(call.frees and call.zone_events) and call.cpu not in drained
            if call.alloc is not None:
                if not call.past_the_sets and self.sets.holds(call.alloc[1]):
                    self._alloc(call, call.alloc)
                continue
            self.agreement.unasked += not call.frees
            if call.refill:
                self._refill(call)
                continue
            predicted = self._free(number, call)
            if first:
                drained.add(call.cpu)
                known = call.cpu in self.agreement.unseen
                pcp = self._set_of(call.zone_events[0][0], call.cpu)
                if not predicted and not known and pcp.high > pcp.count():
                    return {call.cpu: pcp.high - pcp.count()}
                first = known
            if call.frees and not first:
                self._judge(call, predicted)
            self._set_right(call, predicted)
        return {}

    # -- one call ------------------------------------------------------------------------------------------

    def _alloc(self, call: Call, block: Block) -> None:
        pfn, order, migratetype = block
        zone = self._zone_of(pfn)
        zone.gives, zone.was_asked = call.zone_events, []
        for given, _, _ in call.zone_events:
            self._forget(given)  # it went back past the sets, when an interrupt met one that was in use
        rests = self._list_of(call.cpu, block)
        while rests and zone.block_state(rests[-1]) != ON_PAGE_SET | order:
            rests.pop()  # the recording has shown it elsewhere: another CPU drains a set between two of its calls
        got = self.sets.alloc(zone, order, migratetype, 0)
        self._judge(call, zone.was_asked, got=got)
        if call.zone_events and not zone.was_asked:  # the kernel's list was empty
            if got >= 0:
                self._put(call.cpu, (got, order, migratetype), cold=False)
            self._list_of(call.cpu, block).clear()
            self._refill(call)
            got = self._list_of(call.cpu, block).pop()
        elif got != pfn:
            self._take(call.cpu, block, got)
        zone.set_block_state(pfn, ALLOCATED | order)

    def _take(self, cpu: int, block: Block, got: int) -> None:
        """Give a page that lies deeper: those above it went to allocations of many pages, which are not traced."""
        pfn, order, migratetype = block
        pages = self._list_of(cpu, block)
        if pfn in pages:
            while pages.pop() != pfn:
                pass
        elif got >= 0:
            self._put(cpu, (got, order, migratetype), cold=False)
            self._forget(pfn)

    def _refill(self, call: Call) -> None:
        for block in call.zone_events:
            self._forget(block[0])
            self._put(call.cpu, block, cold=True)

    def _free(self, number: int, call: Call) -> list[Block]:
        """Free the pages of a call; returns what our sets gave back at it."""
        for pfn, order in call.frees:
            zone = self._zone_of(pfn)
            if self.sets.holds(order):
                self._forget(pfn)
                zone.set_block_state(pfn, ALLOCATED | order)
                freed_as = self.inferred.freed_as.get((number, pfn), FALLBACK_TYPE)
                zone.set_block_type(pfn, freed_as, move=False)
                self.sets.free(zone, pfn, order)
        return self._got_back()

    def _got_back(self) -> list[Block]:
        blocks: list[Block] = []
        for zone in self.zones:
            blocks += zone.got_back
            zone.got_back = []
        return blocks

    def _judge(self, call: Call, predicted: Sequence[Block], got: int | None = None) -> None:
        """Count a call whose zone events were predicted."""
        agreement = self.agreement
        agrees = _kinds(predicted) == _kinds(call.zone_events)
        agreement.calls += 1
        agreement.agree += agrees
        if predicted or call.zone_events:
            agreement.zone_calls += 1
            agreement.zone_agree += agrees
        if call.alloc is not None:
            same_pages = got == call.alloc[0]
        else:
            same_pages = sorted(pfn for pfn, *_ in predicted) == sorted(pfn for pfn, *_ in call.zone_events)
        agreement.same_pages += agrees and same_pages
        if not agrees:
            agreement.differences.append(Difference(call, list(predicted)))

    def _set_right(self, call: Call, predicted: Sequence[Block]) -> None:
        """After a drain, leave on the sets what the kernel left."""
        recorded = {pfn for pfn, _, _ in call.zone_events}
        for pfn in recorded - {pfn for pfn, _, _ in predicted}:
            self._forget(pfn)
        for block in reversed(predicted):
            if block[0] not in recorded:
                self._put(call.cpu, block, cold=True)

    # -- our sets ------------------------------------------------------------------------------------------

    def _zone_of(self, pfn: int) -> RecordedZone:
        for zone in self.zones:
            if zone.start_pfn <= pfn < zone.end_pfn:
                return zone
        raise BadInput(f"the recording names pfn {pfn:#x}, which is in no zone of the guest")

    def _set_of(self, pfn: int, cpu: int) -> PerCpuPages:
        return self.sets.set_of(self._zone_of(pfn), cpu)

    def _list_of(self, cpu: int, block: Block) -> deque[int]:
        pfn, order, migratetype = block
        return self._set_of(pfn, cpu).lists[self.sets.first[order] + list_type(migratetype)]

    def _put(self, cpu: int, block: Block, *, cold: bool) -> None:
        """Lay a block on a CPU's list, at its head or, `cold`, at its tail."""
        pfn, order, _ = block
        zone = self._zone_of(pfn)
        zone.set_block_state(pfn, ON_PAGE_SET | order)
        pages = self._list_of(cpu, block)
        (pages.appendleft if cold else pages.append)(pfn)

    def _forget(self, pfn: int) -> None:
        """Take a page off whatever list it rests on."""
        zone = self._zone_of(pfn)
        if zone.block_state(pfn) & KIND_MASK != ON_PAGE_SET:
            return
        zone.set_block_state(pfn, TAIL)
        for cpu in range(self.cpus):
            for pages, _, _ in self._set_of(pfn, cpu).stacks:
                with suppress(ValueError):
                    pages.remove(pfn)
                    return


def follow(guest: Sequence[ZoneCounts], revision: Revision, calls: Sequence[Call]) -> Agreement:
    """Predict the zone events of a recording's calls. Raises BadInput when guest and recording do not fit."""
    unseen: dict[int, int] = {}
    while True:
        follower = Follower(guest, revision, calls, unseen)
        told = follower.follow()
        if not told:
            return follower.agreement
        unseen |= told


def _kinds(blocks: Sequence[Block]) -> Counter[tuple[int, int]]:
    """Count blocks by order and type of the list; whole pageblocks that are not movable have one."""
    return Counter(
        (
            order,
            list_type(migratetype)
            if order <= PAGE_ALLOC_COSTLY_ORDER or migratetype == MIGRATE_MOVABLE
            else -1,
        )
        for _, order, migratetype in blocks
    )
