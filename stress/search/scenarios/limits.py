"""Scenarios for exact sizes of page sets: what rests on them after each call, and where it goes.

Nobody else runs, so one execution says everything. Expected values are worked out from the kernel's rules: of v5.7,
of v6.1 and of v6.12, which keep page sets in three ways (see `pagealloc/per_cpu_pages.py`).
"""

from __future__ import annotations

from pagealloc.gfp import GFP_KERNEL, GFP_RECLAIMABLE
from pagealloc.memory import Memory, ZoneSpec
from pagealloc.mmzone import MIGRATE_HIGHATOMIC, MIGRATE_RECLAIMABLE, Layout
from stress.search.kit import LAYOUT, Kit
from stress.search.scenarios.catalogue import scenario
from stress.search.scenarios.sets import GFP, alloc, set_bounds
from stress.search.scenarios.vectors import expect, expect_list, expect_types


def _build(kit: Kit, pages: int, bounds: tuple[int, int, int], layout: Layout = LAYOUT) -> None:
    """Build one zone with page sets of these bounds: batch, least and largest limit."""
    kit.build(("Normal", pages), page_sets=True, layout=layout)
    set_bounds(kit, *bounds)


def _resting(kit: Kit) -> int:
    return kit.memory.nr_page_set_pages(kit.zones[0])


def _free(kit: Kit, pfns: list[int], order: int = 0) -> list[int]:
    """Free blocks one by one; returns how many pages rest on the set after each."""
    resting = []
    for pfn in pfns:
        kit.memory.free_pages(pfn, order)
        resting.append(_resting(kit))
    return resting


def _limit(kit: Kit) -> int:
    """Return the limit of the first CPU's set, as `/proc/zoneinfo` tells it."""
    assert kit.memory.page_sets is not None
    return kit.memory.page_sets.holdings(kit.zones[0])[0].high


def _free_one(kit: Kit, pfn: int, order: int = 0) -> tuple[int, int]:
    """Free a block; returns how many pages rest then, and the limit."""
    kit.memory.free_pages(pfn, order)
    return _resting(kit), _limit(kit)


def _alloc_elsewhere(kit: Kit, count: int) -> list[int]:
    """Allocate on the second CPU, and come back to the first, whose set is as new."""
    kit.memory.run_on_cpu(1)
    pfns = alloc(kit, count)
    kit.memory.drain_all_pages()
    kit.memory.run_on_cpu(0)
    return pfns


def _refill(kit: Kit, gfp: int, order: int = 0) -> int:
    """Allocate from an empty list; returns how many blocks came from the zone."""
    before = _resting(kit)
    alloc(kit, 1, gfp, order)
    return (_resting(kit) - before >> order) + 1


# -- how many ------------------------------------------------------------------------------------------------


@scenario
def page_sets_hold_their_orders(kit: Kit) -> None:
    """Single pages rest on sets in every kernel; three more orders, and whole pageblocks, since v5.13."""
    _build(kit, 64, (32, 64, 64))
    memory, zone = kit.memory, kit.zones[0]
    held = []
    for order in range(zone.layout.nr_orders):
        pfns = alloc(kit, 1, order=order)
        memory.drain_all_pages()
        if _free(kit, pfns, order) != [0]:
            held.append(order)
        memory.drain_all_pages()
    since_5_13 = kit.revision.pcp_pageblock_order  # the other field of that change is what is tried here
    expected = sorted({0, 1, 2, 3, zone.layout.pageblock_order}) if since_5_13 else [0]
    expect(kit, "vectors", "orders that rest on page sets", held, expected)


@scenario
def page_sets_hold_their_limit(kit: Kit) -> None:
    """A set that reaches its limit gives a batch back at once (`nr_pcp_free`): after a free it is below."""
    limit = 4
    _build(kit, 64, (1, limit, limit))
    pfns = alloc(kit, 3 * limit)
    kit.memory.drain_all_pages()
    expect(kit, "vectors", "pages that rest on a set at most", max(_free(kit, pfns)), limit - 1)


@scenario
def page_sets_drain_more_and_more(kit: Kit) -> None:
    """Free page after page: each drain takes more than the one before, until it leaves a batch (`nr_pcp_free`)."""
    _build(kit, 64, (2, 8, 8))
    pfns = alloc(kit, 20)
    kit.memory.drain_all_pages()
    below = [1, 2, 3, 4, 5, 6, 7]
    if kit.revision.pcp_tunes_high:  # as many as were freed in a row: at the first drain all but a batch
        expected = [*below, 2, *below[2:], 2, *below[2:], 2]
    elif kit.revision.pcp_high_by_marks:  # 2, 4, and then all but a batch
        expected = [*below, 6, 7, 4, *below[4:], 2, *below[2:], 2]
    else:  # 2 each time
        expected = [*below, *[6, 7] * 6, 6]
    expect(kit, "vectors", "pages that rest after each free", _free(kit, pfns), expected)


@scenario
def page_sets_refill_in_doubles(kit: Kit) -> None:
    """Allocate page after page: since 6.7 each refill doubles, up to what fits below the limit (`nr_pcp_alloc`)."""
    _build(kit, 64, (4, 16, 16))
    others = alloc(kit, 4)
    _free(kit, others)  # they rest, on another list, and after frees the next refill is a batch again
    sizes = [_refill(kit, GFP_KERNEL)]
    alloc(kit, sizes[-1] - 1, GFP_KERNEL)
    sizes.append(
        _refill(kit, GFP_KERNEL)
    )  # 8 pages, which is just what fits: 16, less 4 that rest, less a batch
    alloc(kit, sizes[-1] - 1, GFP_KERNEL)
    alloc(kit, len(others))
    expect(kit, "vectors", "pages that rest before the third refill", _resting(kit), 0)
    sizes.append(_refill(kit, GFP_KERNEL))  # 16 would be due, and 12 fit
    expected = [4, 8, 12] if kit.revision.pcp_tunes_high else [4, 4, 4]
    expect(kit, "vectors", "pages of each refill", sizes, expected)


@scenario
def page_sets_refill_two_large_blocks(kit: Kit) -> None:
    """Allocate blocks of each small order: a refill is as many as make a batch of pages, and at least two."""
    _build(kit, 64, (4, 64, 64))
    sizes = []
    for order in range(4):
        sizes.append(_refill(kit, GFP, order))
        kit.memory.drain_all_pages()
    expected = [4, 2, 2, 2] if kit.revision.pcp_max_order else [4, 1, 1, 1]  # before v5.13 only pages rest
    expect(kit, "vectors", "blocks of a refill", sizes, expected)


@scenario
def page_sets_count_refills(kit: Kit) -> None:
    """Free pages, and let an allocation refill another list meanwhile: one limit holds for all lists together."""
    _build(kit, 64, (4, 12, 12))
    pfns = alloc(kit, 9)
    kit.memory.drain_all_pages()
    resting = _free(kit, pfns[:2])
    expect(kit, "vectors", "pages of a refill", _refill(kit, GFP_KERNEL), 4)
    resting += _free(kit, pfns[2:])
    # The last one reaches the limit: since 6.7 as many go as were freed in a row, 8, and in older kernels a batch.
    expected = [1, 2, 6, 7, 8, 9, 10, 11, 4 if kit.revision.pcp_tunes_high else 8]
    expect(kit, "vectors", "pages that rest after each free", resting, expected)


@scenario
def page_sets_empty_for_rows_of_blocks(kit: Kit) -> None:
    """Free pages and blocks of order 1: since 6.7 two blocks in a row, after a batch of frees, empty the set."""
    _build(kit, 64, (4, 64, 64))
    pages, pairs = alloc(kit, 9), alloc(kit, 3, order=1)
    kit.memory.drain_all_pages()
    *_, resting = _free(kit, pages[:8])
    found = [resting]
    for pfns, order in ((pairs[:1], 1), (pages[8:], 0), (pairs[1:], 1)):
        found += _free(kit, pfns, order)
    if kit.revision.pcp_tunes_high:
        expected = [8, 10, 11, 13, 0]
    elif kit.revision.pcp_max_order:  # here only a drain before could have that effect
        expected = [8, 10, 11, 13, 15]
    else:  # blocks do not rest
        expected = [8, 8, 9, 9, 9]
    expect(kit, "vectors", "pages that rest after each free", found, expected)


@scenario
def page_sets_come_down(kit: Kit) -> None:
    """A limit that was tuned up comes down, by an eighth or to 32 batches below what rests (`decay_pcp_high`).

    From 320 that is to 280, and then to 248 (245 would be an eighth), 217 and 190. The next free finds the new limit.
    """
    tunes = kit.revision.pcp_tunes_high
    _build(kit, 512, (1, 4 if tunes else 320, 320))
    pfns = alloc(
        kit, 319
    )  # refills of 1, 2, 4, ... 32 pages, and 32 each then: so far is the limit raised by them
    _free(kit, pfns[:300])
    resting = []
    for _ in range(4):
        kit.memory.refresh_vm_stats()
        resting.append(_resting(kit))
    resting += _free(kit, pfns[300:301])  # 32 pages go back: no more frees are remembered
    expected = [280, 248, 217, 190, 191 - 32] if tunes else [*[300] * 4, 301]
    expect(
        kit, "vectors", "pages that rest after each look of the vmstat worker, and a free", resting, expected
    )


@scenario
def page_sets_empty_for_blocks_after_drains(kit: Kit) -> None:
    """Free pages until a drain was doubled: from v5.13 to 6.6 each small block then empties the set, at its limit too.

    A whole pageblock does not, and since 6.7 no block that follows a page or a whole pageblock.
    """
    _build(kit, 128, (4, 24, 24), Layout(nr_orders=6, pageblock_order=4))
    pages, pairs, blocks = alloc(kit, 30), alloc(kit, 2, order=1), alloc(kit, 1, order=4)
    kit.memory.drain_all_pages()
    resting = _free(kit, pages[:24])[22:]
    for pfns, order in ((pairs[:1], 1), (blocks, 4), (pages[24:], 0), (pairs[1:], 1)):
        resting += _free(kit, pfns, order)
    if (
        kit.revision.pcp_tunes_high
    ):  # 20 pages go when the limit is reached: 6 single, a pair, and the pageblock
        expected = [23, 4, 6, 22, 23, 0, 1, 2, 3, 4, 6]
    elif kit.revision.pcp_pageblock_order:  # the last pair is the one that reaches the limit
        expected = [23, 20, 0, 16, 17, 18, 19, 20, 21, 22, 0]
    else:  # blocks do not rest
        expected = [23, 20, 20, 20, 21, 22, 23, 20, 21, 22, 22]
    expect(kit, "vectors", "pages that rest after each free", resting, expected)


@scenario
def page_sets_tune_their_limit_up(kit: Kit) -> None:
    """Free page after page: since 6.7 a limit that is reached becomes what was freed in a row, and a batch more.

    Frees in a row are counted to 32 batches. A drain leaves one batch, and goes by the limit that was reached.
    """
    _build(kit, 128, (1, 4, 64))
    resting = _free(kit, _alloc_elsewhere(kit, 64))
    if kit.revision.pcp_tunes_high:  # reached after 4, 8, 16, 32 and 64 frees
        expected = [0]
        for reached in (4, 5, 9, 17, 33):
            expected += [*range(expected[-1] + 1, reached), 1]
        expected, limit = expected[1:], 33
    elif kit.revision.pcp_high_by_marks:  # drains of 1, 2, and then 3 pages
        expected, limit = [1, 2, 3, 3, 2, 3, *[1, 2, 3] * 19, 1], 4
    else:
        expected, limit = [1, 2, *[3] * 62], 4
    expect(kit, "vectors", "pages that rest after each free", resting, expected)
    expect(kit, "vectors", "the limit", _limit(kit), limit)


@scenario
def page_sets_shrink_below_the_high_mark(kit: Kit) -> None:
    """Allocate below the high mark: since 6.7 frees lower the limit, and go if more than the least limit rests.

    So it is until a drain finds the zone above the mark again; then the limit is tuned up as ever (`nr_pcp_high`).
    """
    _build(kit, 64, (4, 8, 64))
    zone = kit.zones[0]
    pfns = alloc(kit, 28)  # refills of 4, 8 and 16 pages, which raise the limit to 36
    _free(kit, pfns[:15])
    zone.set_watermarks(0, 0, 64)
    alloc(kit, 1)  # 7 frees are remembered
    found = [_free_one(kit, pfn) for pfn in pfns[15:19]]
    zone.set_watermarks(0, 0, 0)
    found += [_free_one(kit, pfn) for pfn in pfns[19:25]]
    resting = [7, 4, 5, 6, 7, 4, 5, 6, 7, 4]  # in older kernels by the limit of 8, with drains of 4
    limits = [28, 19, 9, *[8] * 6, 17 + 4] if kit.revision.pcp_tunes_high else [8] * 10
    expected = list(zip(resting, limits, strict=True))
    expect(kit, "vectors", "pages that rest after each free, and the limit", found, expected)


@scenario
def page_sets_do_not_grow_below_the_high_mark(kit: Kit) -> None:
    """Refill above the high mark, and twice below it: since 6.7 the first raises the limit, and no other."""
    _build(kit, 64, (4, 8, 64))
    sizes = [_refill(kit, GFP)]
    kit.zones[0].set_watermarks(0, 0, 64)
    for _ in range(2):
        alloc(kit, sizes[-1] - 1)
        expect(kit, "vectors", "pages that rest before a refill", _resting(kit), 0)
        sizes.append(_refill(kit, GFP))
    # Below a limit of 12 no more than 8 fit, beside a batch.
    expected = ([4, 8, 8], 12) if kit.revision.pcp_tunes_high else ([4, 4, 4], 8)
    expect(kit, "vectors", "pages of each refill, and the limit", (sizes, _limit(kit)), expected)


@scenario
def page_sets_come_down_for_rows_of_blocks(kit: Kit) -> None:
    """Free pages and then blocks of order 1: since 6.7 each but the first sends 32 batches to the zone.

    The limit comes down by as many, to no less than the least one.
    """
    _build(kit, 128, (1, 4, 100))
    # Each refill raises the limit by what it brings, or by a batch for blocks: 4 and 63.
    pairs, pages = alloc(kit, 4, order=1), alloc(kit, 63)
    *_, resting = _free(kit, pages[:40])
    found = [(resting, _limit(kit))]
    found += [_free_one(kit, pfn, 1) for pfn in pairs]
    if kit.revision.pcp_tunes_high:
        expected = [(40, 71), (42, 71), (44 - 32, 39), (0, 7), (0, 4)]
    elif kit.revision.pcp_max_order:  # drains were doubled, so each block empties the set
        expected = [(1, 4), *[(0, 4)] * 4]
    else:  # blocks do not rest
        expected = [(3, 4)] * 5
    expect(kit, "vectors", "pages that rest after each free, and the limit", found, expected)


def _bounds(kit: Kit, specs: list[ZoneSpec], min_free_kbytes: int) -> list[tuple[int, ...]]:
    memory = Memory(specs, revision=kit.revision, sync=kit.sync, ram=None, min_free_kbytes=min_free_kbytes)
    assert memory.page_sets is not None
    return [tuple(bounds) for bounds in memory.page_sets.bounds]


@scenario
def limits_of_nodes(kit: Kit) -> None:
    """Four CPUs and three nodes: the CPUs of its own node share a zone's low mark, the first node has two."""
    found = _bounds(kit, [ZoneSpec("Normal", 8192, node) for node in range(3)], 4096)
    # min: a third of 1024 pages; low: a quarter more; high_max: an eighth of 8192 pages
    if kit.revision.pcp_tunes_high:
        expected = [(1, 213, 512), (1, 426, 1024), (1, 426, 1024)]
    elif kit.revision.pcp_high_by_marks:
        expected = [(1, 213, 213), (1, 426, 426), (1, 426, 426)]
    else:
        expected = [(1, 6, 6)] * 3
    expect(kit, "vectors", "(batch, high_min, high_max) of three nodes", found, expected)


@scenario
def limits_of_a_tiny_zone(kit: Kit) -> None:
    """A zone too small for a batch keeps nothing on page sets; since v5.13 four pages, whatever its share."""
    found = _bounds(kit, [ZoneSpec("Normal", 64)], 32)  # low: 8 pages and a quarter of that, for four CPUs
    expected = [(1, 4, 4) if kit.revision.pcp_high_by_marks else (1, 0, 0)]
    expect(kit, "vectors", "(batch, high_min, high_max) of a tiny zone", found, expected)


# -- which, and where to -------------------------------------------------------------------------------------


@scenario
def page_sets_count_a_refill_in_pages(kit: Kit) -> None:
    """Refill a list of larger blocks between two rows of frees: the set is shortened where it reaches its limit."""
    _build(kit, 128, (4, 16, 16))
    first, *others = alloc(kit, 20)
    kit.memory.drain_all_pages()
    _free(kit, [first])  # from here on the set knows for how many more it has room
    alloc(kit, 1, order=2)
    reached = [resting for resting in _free(kit, others) if resting >= 16]
    expect(kit, "vectors", "pages that rest after a free that reached the limit of 16", reached, [])


@scenario
def page_sets_hold_reserved_pages(kit: Kit) -> None:
    """Free a page of a reserved pageblock: it rests with the movable ones, and a drain brings it to the reserve."""
    _build(kit, 64, (4, 16, 16))
    memory, zone = kit.memory, kit.zones[0]
    pfn, _buddy = alloc(kit, 2)
    memory.drain_all_pages()
    zone.set_block_type(pfn, MIGRATE_HIGHATOMIC, move=True)
    memory.free_pages(pfn)
    expect(kit, "vectors", "the next movable page", alloc(kit, 1), [pfn])
    memory.free_pages(pfn)
    memory.drain_all_pages()
    expect_list(kit, 0, MIGRATE_HIGHATOMIC, [pfn])


@scenario
def page_sets_drain_whole_pageblocks(kit: Kit) -> None:
    """Free a movable pageblock and one that is not, which reaches the limit: its own list is drained first.

    The movable one still rests then, and after it is taken nothing does.
    """
    _build(kit, 128, (16, 32, 32), Layout(nr_orders=6, pageblock_order=4))
    memory = kit.memory
    (movable,), (other,) = alloc(kit, 1, GFP, 4), alloc(kit, 1, GFP_KERNEL | GFP_RECLAIMABLE, 4)
    expect_types(kit, [other], [MIGRATE_RECLAIMABLE])
    memory.drain_all_pages()
    _free(kit, [movable, other], 4)
    alloc(kit, 1, GFP, 4)
    expect(kit, "vectors", "pages that rest", _resting(kit), 0)


@scenario
def page_sets_drain_some_of_each_list(kit: Kit) -> None:
    """Free movable pages, and unmovable ones up to the limit: before v5.13 a drain takes from the lists by turns.

    The movable list gives one, the reclaimable one has none and leaves its share to the unmovable one, which gives
    two; then one each. Later kernels drain the list that the last page went to.
    """
    _build(kit, 64, (5, 10, 10))
    memory = kit.memory
    assert memory.page_sets is not None
    movable, unmovable = alloc(kit, 5), alloc(kit, 5, GFP_KERNEL)
    memory.drain_all_pages()
    _free(kit, movable + unmovable)
    pages = [len(pages) for pages, order, _ in memory.page_sets.set_of(kit.zones[0], 0).stacks if not order]
    expected = [2, 3, 0] if kit.revision.pcp_drains_by_turns else [0, 5, 0]
    expect(kit, "vectors", "unmovable, movable and reclaimable pages that rest", pages, expected)
