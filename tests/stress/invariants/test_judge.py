"""The judge, event by event: a good story passes, and each invariant is broken by an event of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stress.invariants import INVARIANTS, Judge

# A zone of 64 pages from pfn 0, orders 0 .. 5, pageblocks of 8 pages: two free blocks of order 5. Thread 1 allocates,
# thread 2 is the worker.
A, W = 1, 2
MIN, LOW = 2, 4
SNAPSHOT: tuple[Any, ...] = (
    64,
    [0, 0, 0, 0, 0, 2],
    [0] * 6,
    [MIN, LOW, 6],
    0,
    [(5, 1, [0, 32])],
    [],
    [],
    "1" * 8,
)


class Story:
    """A judge that hears a story, and the invariants that it found broken."""

    def __init__(self, revision: str = "v6.1") -> None:
        self.broken: list[str] = []
        self.judge = Judge(lambda invariant, text: self.broken.append(invariant))
        self.told = self.judge.handlers
        self.told["zone_begin"](0, 0, 1, "Normal", 0, 0, 64, 6, 3, revision)
        self.told["zone_snapshot"](0, 0, 2, *SNAPSHOT)

    def zone(self, event: str, thread: int, *fields: object) -> Story:
        self.told[event](thread, 0, 0, *fields)
        return self

    def tell(self, event: str, thread: int, *fields: object) -> Story:
        self.told[event](thread, *fields)
        return self

    def release(self, thread: int) -> Story:
        return self.zone("lock_release", thread, 0, 0, "site")

    def register(self, capacity: int = 2) -> Story:
        self.tell("page_reporting_register", 0, "dev", 3, capacity)
        return self.tell("page_reporting_registered", 0, "dev")

    def alloc(self, pfn: int = 0, order: int = 3, of: int = 5, thread: int = A) -> Story:
        self.zone("mm_page_alloc_zone_locked", thread, pfn, order, 1, False, of).release(thread)
        return self.tell("mm_page_alloc", thread, pfn, order, 1, "GFP_KERNEL")

    def free(self, pfn: int = 0, order: int = 3, merged: tuple[int, int] = (0, 5), thread: int = A) -> Story:
        self.tell("mm_page_free", thread, pfn, order)
        self.zone("mm_page_free_zone_locked", thread, pfn, order, 1, *merged, False)
        if self.judge.order_is_settled:
            self.tell("page_reporting_notify", thread)
        return self.release(thread)

    def isolate(self, pfn: int = 0, order: int = 5, left: int = 32) -> Story:
        return self.zone("page_reporting_isolate", W, pfn, order, 1, left, left)

    def begin(self) -> Story:
        self.tell("page_reporting_pass_begin", W, 1)
        self.tell("page_reporting_zone", W, 0, 64, LOW + (self.judge.capacity << 3), True)
        return self.zone("page_reporting_visit", W, 5, 1, 2)

    def report(self, *blocks: tuple[int, int], error: str | None = None) -> Story:
        self.tell("page_reporting_report_begin", W, 1, 0, blocks)
        self.tell("host_begin", W, 0, blocks).tell("host_end", W, 0, blocks)
        return self.tell("page_reporting_report_end", W, 1, 0, error)

    def putback(self, pfn: int = 0, order: int = 5, migratetype: int = 1) -> Story:
        return self.zone("page_reporting_putback", W, pfn, order, migratetype, pfn, order, True)

    def flag(self, pfn: int = 0, order: int = 5) -> Story:
        return self.zone("page_reporting_reported", W, pfn, order)

    def end(self) -> Story:
        return self.release(W).tell("page_reporting_pass_end", W, 1, "active", False)

    def flown(self, error: str | None = None) -> Story:
        """Take the first block to the host and back, without the flag."""
        self.register().begin().isolate().release(W)
        return self.report((0, 5), error=error).putback()


def test_a_good_story_breaks_nothing() -> None:
    story = Story().alloc().free()
    story.flown().flag().end()
    story.tell("page_reporting_unregister", 0, "dev").tell("rest", 0, True)
    lists = [(5, 1, [32, 0])]
    story.zone(
        "zone_snapshot",
        0,
        64,
        [0, 0, 0, 0, 0, 2],
        [0, 0, 0, 0, 0, 1],
        [MIN, LOW, 6],
        0,
        lists,
        [0],
        [],
        "1" * 8,
    )
    assert story.broken == ["L1"]  # the other block was never reported


Chapter = Callable[[Story], object]

BREAKS: list[tuple[str, str, Chapter]] = [
    ("flags a block that is not free", "S1", lambda s: s.flown().flag(8, 3)),
    ("gives a page to two owners", "S2", lambda s: s.alloc().tell("mm_page_alloc", 3, 0, 3, 1, "")),
    ("takes a block that is not free", "S2", lambda s: s.alloc().alloc(0, 3, 3)),
    ("frees a page twice", "S2", lambda s: s.alloc().free().tell("mm_page_free", A, 0, 3)),
    ("frees a page that nobody took", "S2", lambda s: s.zone("mm_page_free_zone_locked", A, 8, 3, 1, 8, 3, False)),
    ("merges with a block in use", "S3", lambda s: s.alloc().alloc(8, 3, 3).free(0, 3, (0, 4))),
    ("does not merge with a free buddy", "S3", lambda s: s.alloc().free(0, 3, (0, 3))),
    ("miscounts blocks", "S4", lambda s: s.zone("zone_state", A, 64, [0] * 6, [0] * 6)),
    ("miscounts pages", "S5", lambda s: s.zone("zone_state", A, 60, [0, 0, 0, 0, 0, 2], [0] * 6)),
    ("miscounts what it isolates", "S5", lambda s: s.register().begin().isolate(left=64)),
    ("takes from a list that the block is not on", "S6",
     lambda s: s.zone("mm_page_alloc_zone_locked", A, 0, 3, 2, False, 5)),
    ("merges what is kept apart", "S7",
     lambda s: s.alloc().zone("set_pageblock_migratetype", A, 0, 4).zone(
         "mm_page_free_zone_locked", A, 0, 3, 4, 0, 4, False)),
    ("changes a list without the lock", "S9",
     lambda s: s.zone("mm_page_alloc_zone_locked", A, 0, 3, 1, False, 5).zone("split_page", W, 0, 2)),
    ("reports with the lock held", "S9", lambda s: s.register().begin().isolate().report((0, 5))),
    ("allocates a block in flight", "S10", lambda s: s.register().begin().isolate().release(W).alloc(0, 3, 5)),
    ("has a block in a batch twice", "S10",
     lambda s: s.register().begin().isolate().release(W).report((0, 5), (0, 5))),
    ("reports another batch than it isolated", "S11",
     lambda s: s.register().begin().isolate().release(W).report((32, 5))),
    ("reports more than the capacity", "S11",
     lambda s: s.register(1).begin().isolate().isolate(32, 5, 0).release(W).report((0, 5), (32, 5))),
    ("puts a block back while the host has it", "S12",
     lambda s: s.register().begin().isolate().release(W).tell("host_begin", W, 0, [(0, 5)]).putback()),
    ("flags what no device was told of", "S13", lambda s: s.flown().flag(32, 5)),
    ("flags what was in use since", "S13", lambda s: s.flown().release(W).alloc(0, 5, 5).free(0, 5).flag()),
    ("flags after a failed report", "S14", lambda s: s.flown("refused").flag()),
    ("leaves a block in flight", "S15", lambda s: s.register().begin().isolate().end()),
    ("isolates down to the min mark", "S16",
     lambda s: s.register().zone("set_watermarks", 0, 32, 40, 50).release(0).begin().isolate()),
    ("refuses above the min mark", "S16", lambda s: s.register().zone("page_reporting_refused", W, 0, 5, 64)),
    ("visits a zone below the mark", "S16", lambda s: s.register().tell("page_reporting_zone", W, 0, 9, 3, True)),
    ("makes more calls than the budget", "S17",
     lambda s: [s.register().begin()] + [
         s.isolate().release(W).report((0, 5)).putback() for _ in range(4)] + [
         s.release(W).tell("page_reporting_zone", W, 0, 64, 99, True)]),
    ("reports a block again", "S18", lambda s: s.flown().flag().isolate()),
    ("loses the order of a list", "S19",
     lambda s: s.zone("zone_snapshot", A, *SNAPSHOT[:5], [(5, 1, [32, 0])], [], [], "1" * 8)),
    ("puts back on the old type's list", "S20",
     lambda s: s.register().begin().isolate().zone("set_pageblock_migratetype", W, 0, 2).release(W)
     .report((0, 5)).putback()),
    ("calls a reporter whose device has left", "S22",
     lambda s: s.register().tell("page_reporting_unregister", 0, "dev").tell(
         "page_reporting_report_begin", W, 1, 0, [])),
    ("lets two devices in", "S22", lambda s: s.register().register()),
    (
        "arms the work of a device that is leaving",
        "S22",
        lambda s: (
            s.register()
            .tell("page_reporting_pass_begin", W, 1)
            .tell("page_reporting_leave", A, "dev")
            .tell("page_reporting_pass_end", W, 1, "requested", False)
            .tell("page_reporting_pass_begin", W, 2)
        ),
    ),
    ("begins a pass inside another", "S23", lambda s: s.register().begin().tell("page_reporting_pass_begin", W, 2)),
    ("asks nobody after a large free", "S24",
     lambda s: s.register().alloc().tell("mm_page_free", A, 0, 3).zone(
         "mm_page_free_zone_locked", A, 0, 3, 1, 0, 5, False).release(A)),
    ("asks without a free", "S24", lambda s: s.register().tell("page_reporting_notify", A)),
    ("isolates a block that is no more", "S26", lambda s: s.register().begin().isolate(0, 4)),
    ("turns a list to a block that is not on it", "S26", lambda s: s.zone("page_reporting_rotate", W, 3, 1, 0)),
    ("forgets a request", "L1", lambda s: s.register().alloc().free().tell("rest", 0, True)),
    ("makes passes without end", "L3",
     lambda s: [s.register()] + [s.begin().end() for _ in range(70)]),
    ("keeps a batch at rest", "L4",
     lambda s: s.register().begin().isolate().release(W).tell(
         "page_reporting_report_begin", W, 1, 0, [(0, 5)]).tell("rest", 0, True)),
    ("says itself that something is wrong", "witness", lambda s: s.tell("violation", 0, "two owners")),
]  # fmt: skip


@pytest.mark.parametrize(("what", "invariant", "chapter"), BREAKS, ids=[what for what, _, _ in BREAKS])
def test_a_run_is_caught_that(what: str, invariant: str, chapter: Chapter) -> None:
    story = Story()
    chapter(story)
    assert invariant in story.broken
    assert set(story.broken) <= set(INVARIANTS)


def test_an_allocation_and_its_free_leave_the_zone_as_it_was() -> None:
    story = Story().alloc(0, 0, 5).alloc(1, 0, 0).free(0, 0, (0, 0)).free(1, 0, (0, 5))
    story.zone("zone_snapshot", A, *SNAPSHOT)
    assert story.broken == []


def test_what_starvation_permits_is_no_violation() -> None:
    story = Story().flown("refused").end()
    story.tell("rest", 0, True).zone("zone_snapshot", 0, *SNAPSHOT[:5], [(5, 1, [32, 0])], [], [], "1" * 8)
    assert story.broken == []


@pytest.mark.parametrize(("becomes", "broken"), [(2, []), (4, ["S6"])], ids=["reclaimable", "withheld"])
def test_a_drained_block_goes_where_it_was_freed_to_unless_its_pageblock_is_withheld(
    becomes: int, broken: list[str]
) -> None:
    story = Story().alloc()
    story.zone("set_pageblock_migratetype", A, 0, becomes).release(A).tell("mm_page_free", A, 0, 3)
    story.zone("mm_page_free_zone_locked", A, 0, 3, 1, 0, 5, False)
    assert story.zone("mm_page_pcpu_drain", A, 0, 3, 1).broken == broken


def test_half_of_a_block_can_be_freed_once_it_is_split() -> None:
    story = Story().alloc(0, 3, 5)
    story.zone("split_page", A, 4, 2).release(A)
    assert story.judge.zones[0].taken == {0: 2, 4: 2}
    story.zone("split_page", A, 0, 3).release(A)
    assert story.judge.zones[0].taken == {0: 3}
    assert story.broken == []


# -- v6.12: lists go by their pageblocks' types --------------------------------------------------------------------

UNMOVABLE, MOVABLE, RECLAIMABLE = 0, 1, 2


class Story612(Story):
    """A zone of 6.12 whose second block, from page 32 on, is in use."""

    def __init__(self) -> None:
        super().__init__("v6.12")
        self.zone("mm_page_alloc_zone_locked", A, 32, 5, MOVABLE, False, 5).release(A)
        self.tell("mm_page_alloc", A, 32, 5, MOVABLE, "GFP_KERNEL")

    def retype(self, *pageblocks: int, to: int = UNMOVABLE) -> Story612:
        for pfn in pageblocks:
            self.zone("set_pageblock_migratetype", A, pfn, to)
        return self

    def claim(self, order: int = 3, of: int = 5, pfn: int = 0, of_type: int = MOVABLE) -> Story612:
        """Take from a whole block of pageblocks for an unmovable request."""
        self.zone("rmqueue_claim", A, pfn, order, UNMOVABLE, of, of_type)
        return self

    def steal(self, order: int = 0, of: int = 2, pfn: int = 4) -> Story612:
        self.zone("rmqueue_steal", A, pfn, order, UNMOVABLE, of, MOVABLE)
        return self

    def half_a_pageblock(self) -> Story612:
        """Leave pages 4 .. 7 free, and all else of pageblock 0 and behind it taken."""
        self.zone("mm_page_alloc_zone_locked", A, 0, 2, MOVABLE, False, 5)
        for pfn, order in ((8, 3), (16, 4)):
            self.zone("mm_page_alloc_zone_locked", A, pfn, order, MOVABLE, False, order)
        self.release(A)
        return self

    def judged(self, free_pages: int, alike_pages: int, claimed: bool) -> Story612:
        self.zone("try_to_claim_block", A, 0, UNMOVABLE, free_pages, alike_pages, claimed)
        return self

    def moved(self) -> Story612:
        self.zone("move_to_free_list", A, 4, 2, UNMOVABLE, True)
        return self

    def pieces(self, *types: int, asks: bool = False) -> Story612:
        """Free the block of page 32 a pageblock at a time, each merging with those before."""
        self.tell("mm_page_free", A, 32, 5)
        self.zone("split_large_buddy", A, 32, 5)
        for at, migratetype in enumerate(types):
            pfn = 32 + 8 * at
            merged = {1: (32, 4), 3: (32, 5)}.get(at, (pfn, 3))
            self.zone("mm_page_free_zone_locked", A, pfn, 3, migratetype, *merged, False)
            if asks:
                self.tell("page_reporting_notify", A)
        self.release(A)
        return self


GOOD_6_12: list[tuple[str, Callable[[Story612], object]]] = [
    ("claims whole pageblocks", lambda s: s.claim().retype(0, 8, 16, 24).release(A)),
    ("claims half a pageblock", lambda s: s.half_a_pageblock().judged(4, 0, True).retype(0).moved()
     .zone("mm_page_alloc_zone_locked", A, 4, 0, UNMOVABLE, False, 2).release(A)),
    ("steals after a claim in vain", lambda s: s.half_a_pageblock().steal(0).release(A)),
    ("frees in pieces", lambda s: s.pieces(1, 1, 1, 1)),
    ("asks for each piece", lambda s: s.register().pieces(1, 1, 1, 1, asks=True)),  # type: ignore[attr-defined]
    ("moves the rest of a pageblock", lambda s: s.half_a_pageblock().retype(0).moved().release(A)),
]  # fmt: skip

BREAKS_6_12: list[tuple[str, str, Callable[[Story612], object]]] = [
    ("claims pageblocks and leaves their types", "S6", lambda s: s.claim().release(A)),
    ("claims less than a pageblock as if it were whole", "S6", lambda s: s.half_a_pageblock().claim(0, 2, 4)),
    ("claims what is not free", "S2", lambda s: s.claim(3, 5, 32)),
    ("claims from another list than it says", "S6", lambda s: s.claim(of_type=RECLAIMABLE)),
    ("claims what it could have had of its own", "vectors",
     lambda s: s.claim().retype(0, 8, 16, 24).release(A).free(32, 5, (32, 5)) and s.claim(pfn=32)),
    ("steals a block that is not there", "S2", lambda s: s.half_a_pageblock().steal(0, 1)),
    ("retypes the pageblock that it only steals from", "S6",
     lambda s: s.half_a_pageblock().steal().retype(0).release(A)),
    ("miscounts the free pages of a claim", "vectors", lambda s: s.half_a_pageblock().judged(5, 0, True)),
    ("claims less than half a pageblock", "vectors",
     lambda s: s.half_a_pageblock().zone("mm_page_alloc_zone_locked", A, 4, 1, MOVABLE, False, 2)
     and s.judged(2, 1, True)),
    ("does not claim half a pageblock", "vectors", lambda s: s.half_a_pageblock().judged(4, 0, False)),
    ("counts more pages than a pageblock has", "vectors", lambda s: s.half_a_pageblock().judged(4, 5, True)),
    ("moves pages after a claim in vain", "vectors", lambda s: s.half_a_pageblock().judged(4, -1, False).moved()),
    ("retypes a pageblock and leaves its free pages", "S6", lambda s: s.half_a_pageblock().retype(0).release(A)),
    ("leaves a neighbour's type when they merge", "S6",
     lambda s: s.retype(56, to=RECLAIMABLE).pieces(1, 1, 1, 2)),
    ("frees a piece by another pageblock's type", "S6", lambda s: s.retype(40, to=RECLAIMABLE).pieces(1, 1, 1, 1)),
    ("loses a piece of a large free", "S2", lambda s: s.pieces(1, 1, 1)),
    ("frees in pieces what nobody gave up", "S2", lambda s: s.zone("split_large_buddy", A, 8, 4)),
    ("asks for no report of a piece", "S24", lambda s: s.register() and s.pieces(1, 1, 1, 1)),
    ("forgets the high-atomic pages before the marks", "S16",
     lambda s: s.register() and s.retype(0, 8, 16, 24, to=3)
     .zone("move_to_free_list", A, 0, 5, 3, True).release(A).zone("page_reporting_refused", W, 0, 5, 32)),
]  # fmt: skip


@pytest.mark.parametrize(("what", "chapter"), GOOD_6_12, ids=[what for what, _ in GOOD_6_12])
def test_nothing_is_wrong_with_a_kernel_6_12_that(what: str, chapter: Callable[[Story612], object]) -> None:
    story = Story612()
    chapter(story)
    assert story.broken == []


@pytest.mark.parametrize(
    ("what", "invariant", "chapter"), BREAKS_6_12, ids=[what for what, _, _ in BREAKS_6_12]
)
def test_a_kernel_6_12_is_caught_that(
    what: str, invariant: str, chapter: Callable[[Story612], object]
) -> None:
    story = Story612()
    chapter(story)
    assert story.broken[:1] == [invariant]
