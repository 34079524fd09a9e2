"""Random operations against a naive buddy allocator that knows nothing of lists, types or state bytes."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from zone_kit import assert_sound, free_blocks, make_zone

from pagealloc import Layout, Zone
from pagealloc.mmzone import MIGRATE_PCPTYPES
from pagealloc.page_flags import ALLOCATED, IN_FLIGHT, OWNED_MASK
from pagealloc.revision import V5_7, V6_1, Revision

LAYOUTS = (Layout(nr_orders=4, pageblock_order=2), Layout(nr_orders=5, pageblock_order=3), Layout(2, 1))
ORDERS = st.integers(0, max(layout.top_order for layout in LAYOUTS))
MIGRATETYPES = st.integers(0, MIGRATE_PCPTYPES - 1)

Block = tuple[int, int]  # (order, pfn)


class NaiveBuddy:
    """Free blocks as a set: a freed block unites with its buddy as long as that is in the set."""

    def __init__(self, start_pfn: int, nr_pages: int, top_order: int) -> None:
        self.top_order = top_order
        self.free: set[Block] = set()
        self.owned: set[Block] = set()
        self.in_flight: set[Block] = set()
        self.reported: set[Block] = set()
        for pfn in range(start_pfn, start_pfn + nr_pages):
            self.put(0, pfn)

    def put(self, order: int, pfn: int) -> None:
        while order < self.top_order and (order, pfn ^ (1 << order)) in self.free:
            self.drop(order, pfn ^ (1 << order))
            pfn &= ~(1 << order)
            order += 1
        self.free.add((order, pfn))

    def drop(self, order: int, pfn: int) -> None:
        self.free.remove((order, pfn))
        self.reported.discard((order, pfn))

    def take(self, order: int, pfn: int) -> None:
        """Cut a block out of the free block around it; fails if it is not free."""
        around = [(high, head) for high, head in self.free if head <= pfn < head + (1 << high)]
        assert around, f"pfn {pfn:#x} was handed out, but is not free"
        high, head = around[0]
        assert high >= order, f"order {order} at pfn {pfn:#x} was handed out of a block of order {high}"
        self.drop(high, head)
        while high > order:
            high -= 1
            half = 1 << high
            keep, other = (head, head + half) if pfn < head + half else (head + half, head)
            self.free.add((high, other))
            head = keep
        assert head == pfn, f"pfn {pfn:#x} is no multiple of {1 << order}"

    def has(self, order: int) -> bool:
        return any(high >= order for high, _ in self.free)

    def free_pages(self) -> int:
        return sum(1 << order for order, _ in self.free)


class BuddyAgainstNaiveBuddy(RuleBasedStateMachine):
    zone: Zone
    model: NaiveBuddy

    @initialize(
        layout=st.sampled_from(LAYOUTS),
        revision=st.sampled_from((V5_7, V6_1)),
        start_pfn=st.integers(0, 40),
        nr_pages=st.integers(1, 90),
    )
    def boot(self, layout: Layout, revision: Revision, start_pfn: int, nr_pages: int) -> None:
        self.zone = make_zone(nr_pages, start_pfn, layout=layout, revision=revision)
        self.model = NaiveBuddy(start_pfn, nr_pages, layout.top_order)

    @rule(order=ORDERS, migratetype=MIGRATETYPES)
    def allocate(self, order: int, migratetype: int) -> None:
        order = min(order, self.zone.layout.top_order)
        expected = self.model.has(order)
        pfn = self.zone.rmqueue_buddy(order, migratetype)
        assert (pfn >= 0) == expected
        if pfn >= 0:
            self.model.take(order, pfn)
            self.model.owned.add((order, pfn))

    @rule(count=st.integers(1, 20), migratetype=MIGRATETYPES)
    def allocate_many_single_pages(self, count: int, migratetype: int) -> None:
        for _ in range(count):
            self.allocate(0, migratetype)

    @precondition(lambda self: self.model.owned)
    @rule(data=st.data(), count=st.integers(1, 20))
    def free(self, data: st.DataObject, count: int) -> None:
        for _ in range(min(count, len(self.model.owned))):
            order, pfn = data.draw(st.sampled_from(sorted(self.model.owned)))
            self.zone.free_pages_ok(pfn, order)
            self.model.owned.remove((order, pfn))
            self.model.put(order, pfn)

    @precondition(lambda self: self.model.free - self.model.reported)
    @rule(data=st.data())
    def flag_as_reported(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted(self.model.free - self.model.reported)))
        self.zone.set_reported(block[1])
        self.model.reported.add(block)

    @precondition(lambda self: self.model.free)
    @rule(data=st.data())
    def isolate(self, data: st.DataObject) -> None:
        order, pfn = data.draw(st.sampled_from(sorted(self.model.free)))
        allowed = self.model.free_pages() > 1 << order  # something must stay, even with marks of 0
        assert self.zone.isolate_free_page(pfn, order) == allowed
        if allowed:
            self.model.drop(order, pfn)
            self.model.in_flight.add((order, pfn))

    @precondition(lambda self: self.model.in_flight)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        order, pfn = data.draw(st.sampled_from(sorted(self.model.in_flight)))
        self.zone.putback_isolated_page(pfn, order, self.zone.pageblock_migratetype(pfn))
        self.model.in_flight.remove((order, pfn))
        self.model.put(order, pfn)

    @rule(data=st.data(), migratetype=MIGRATETYPES, move=st.booleans())
    def retag_a_pageblock(self, data: st.DataObject, migratetype: int, move: bool) -> None:
        pfn = data.draw(st.integers(self.zone.start_pfn, self.zone.end_pfn - 1))
        self.zone.set_block_type(pfn, migratetype, move=move)

    @invariant()
    def free_blocks_are_the_naive_ones(self) -> None:
        assert free_blocks(self.zone) == self.model.free
        assert self.zone.nr_free_pages == self.model.free_pages()

    @invariant()
    def exactly_the_flagged_blocks_are_reported(self) -> None:
        reported = {
            (order, pfn) for order, pfn in self.model.free if self.zone.page_reported(self.index(pfn))
        }
        assert reported == self.model.reported

    @invariant()
    def every_frame_has_one_home(self) -> None:
        """Conservation: free, owned and in-flight blocks cover the zone once, aligned."""
        blocks = [*self.model.free, *self.model.owned, *self.model.in_flight]
        covered = [pfn for order, head in blocks for pfn in range(head, head + (1 << order))]
        assert sorted(covered) == list(range(self.zone.start_pfn, self.zone.end_pfn))
        for order, pfn in blocks:
            assert pfn % (1 << order) == 0
            assert self.zone.block_of(self.index(pfn)) == (self.index(pfn), order)

    @invariant()
    def states_name_their_owners(self) -> None:
        state = self.zone.state
        assert all(
            state[self.index(pfn)] & OWNED_MASK == ALLOCATED | order for order, pfn in self.model.owned
        )
        assert all(state[self.index(pfn)] == IN_FLIGHT | order for order, pfn in self.model.in_flight)

    @invariant()
    def the_zone_is_sound(self) -> None:
        census = assert_sound(self.zone)
        assert census.free == self.model.free_pages()
        assert census.allocated == sum(1 << order for order, _ in self.model.owned)
        assert census.in_flight == sum(1 << order for order, _ in self.model.in_flight)
        assert census.reported == sum(1 << order for order, _ in self.model.reported)
        assert census.largest_free_order == max((order for order, _ in self.model.free), default=-1)

    def index(self, pfn: int) -> int:
        return pfn - self.zone.base_pfn


BuddyAgainstNaiveBuddy.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestBuddyAgainstNaiveBuddy = BuddyAgainstNaiveBuddy.TestCase
