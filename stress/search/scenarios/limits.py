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
