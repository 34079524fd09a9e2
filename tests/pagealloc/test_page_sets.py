"""Page sets: refilled and drained in batches, bounded, and emptied by whoever needs the pages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from zone_kit import SMALL, assert_sound, free_lists, memory_state

from pagealloc import (
    GFP_DMA32,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    Layout,
    Memory,
    Revision,
    Sync,
    Zone,
    ZoneSpec,
)
from pagealloc.mmzone import MIGRATE_HIGHATOMIC, MIGRATE_MOVABLE, MIGRATE_RECLAIMABLE
from pagealloc.page_flags import ON_PAGE_SET
from pagealloc.pcp import zone_batchsize
from pagealloc.revision import V5_7, V6_1

PATIENCE_S = 20.0

# 64 MiB: batch 3, a low mark of 320 pages and so 80 pages on a list at most.
NR_PAGES, BATCH, HIGH = 16384, 3, 80


def make_memory(revision: Revision = V6_1) -> Memory:
    return Memory([ZoneSpec("Normal", NR_PAGES)], revision=revision, ram=None)


def allocate(memory: Memory, order: int = 0, gfp: int = GFP_HIGHUSER_MOVABLE) -> int:
    pfn = memory.alloc_pages(gfp, order)
    assert pfn is not None
    return pfn


def resting(memory: Memory) -> int:
    return memory.nr_page_set_pages(memory.zones[0])


# -- sizes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pages", "batch"),
    [(1, 1), (4096, 1), (16384, 3), (65536, 15), (131_072, 31), (262_144, 63), (1 << 24, 63)],
)
def test_a_batch_grows_with_the_zone_up_to_63(pages: int, batch: int) -> None:
    assert zone_batchsize(pages) == batch


def test_v5_7_sets_hold_single_pages_only() -> None:
    memory = make_memory(V5_7)
    sets = memory.page_sets
    assert sets is not None

    assert [order for order in range(11) if sets.holds(memory.zones[0], order)] == [0]


def test_v6_1_sets_hold_orders_up_to_3() -> None:
    memory = make_memory(V6_1)
    sets = memory.page_sets
    assert sets is not None

    assert [order for order in range(11) if sets.holds(memory.zones[0], order)] == [0, 1, 2, 3]


@pytest.mark.parametrize(("revision", "holds"), [(V6_1, True), (V5_7, False)], ids=["v6.1", "v5.7"])
def test_sets_of_a_zone_with_high_marks_hold_whole_pageblocks_since_v5_13(
    revision: Revision, holds: bool
) -> None:
    memory = Memory([ZoneSpec("Normal", 65536)], revision=revision, ram=None, min_free_kbytes=16384)
    sets = memory.page_sets
    assert sets is not None
    assert sets.holds(memory.zones[0], 9) == holds

    pfn = allocate(memory, 9)
    before = resting(memory)
    memory.free_pages(pfn, 9)
    assert resting(memory) - before == (512 if holds else 0)


def test_a_layout_with_few_orders_has_sets_for_those() -> None:
    layout = Layout(nr_orders=2, pageblock_order=1)
    memory = Memory([ZoneSpec("Normal", 64)], layout=layout, ram=None, min_free_kbytes=0)
    for order in (0, 1):
        memory.free_pages(allocate(memory, order), order)

    assert resting(memory) > 0
    memory.drain_local_pages()
    assert memory.nr_free_pages() == 64


# -- refill and limits ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "batch"), [(0, BATCH), (1, 2), (2, 2), (3, 2)])
def test_an_empty_list_is_refilled_by_a_batch(order: int, batch: int) -> None:
    memory = make_memory()
    allocate(memory, order)

    assert resting(memory) == (batch - 1) << order
    assert memory.nr_free_pages() == NR_PAGES - (batch << order)


def test_a_refill_is_handed_out_in_the_zones_order() -> None:
    memory = make_memory()

    assert [allocate(memory) for _ in range(2 * BATCH)] == list(range(1024, 1024 + 2 * BATCH))


def test_the_page_freed_last_is_handed_out_first() -> None:
    memory = make_memory()
    pfns = [allocate(memory) for _ in range(BATCH)]
    for pfn in pfns:
        memory.free_pages(pfn)

    assert [allocate(memory) for _ in pfns] == pfns[::-1]


def test_a_list_is_shortened_by_a_batch_from_its_cold_end_when_it_grows_too_long() -> None:
    memory = make_memory()
    pfns = [allocate(memory) for _ in range(2 * HIGH)]
    memory.drain_local_pages()
    for pfn in pfns[:HIGH]:
        memory.free_pages(pfn)
    assert resting(memory) == HIGH
    memory.free_pages(pfns[HIGH])

    assert resting(memory) == HIGH + 1 - BATCH
    zone = memory.zones[0]
    assert [zone.state[pfn - zone.base_pfn] == ON_PAGE_SET for pfn in pfns[: BATCH + 1]] == [
        *[False] * BATCH,
        True,
    ]


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_a_list_never_holds_more_than_its_limit(order: int) -> None:
    memory = make_memory()
    pfns = [allocate(memory, order) for _ in range(3 * HIGH)]
    memory.drain_local_pages()
    most = 0
    for pfn in pfns:
        memory.free_pages(pfn, order)
        most = max(most, resting(memory))

    assert most == HIGH >> order << order


def test_each_type_has_a_list_of_its_own() -> None:
    memory = make_memory()
    unmovable = [allocate(memory, gfp=GFP_KERNEL) for _ in range(BATCH)]
    movable = [allocate(memory) for _ in range(BATCH)]
    for pfn in unmovable + movable:
        memory.free_pages(pfn)

    assert [allocate(memory, gfp=GFP_KERNEL) for _ in unmovable] == unmovable[::-1]


def test_pages_on_a_set_do_not_count_as_free_and_do_not_merge() -> None:
    memory = make_memory()
    zone = memory.zones[0]
    memory.free_pages(allocate(memory))

    assert resting(memory) == BATCH
    assert memory.nr_free_pages() == NR_PAGES - BATCH
    assert assert_sound(zone).on_page_sets == BATCH
    assert zone.nr_free[10] == NR_PAGES // 1024 - 1


def test_a_memory_without_page_sets_frees_straight_to_the_zone() -> None:
    memory = Memory([ZoneSpec("Normal", NR_PAGES)], ram=None, page_sets=False)
    memory.free_pages(allocate(memory))

    assert resting(memory) == memory.drain_local_pages() == memory.drain_all_pages() == 0
    assert memory.zones[0].nr_free[10] == NR_PAGES // 1024


# -- special pageblocks --------------------------------------------------------------------------------


def test_a_page_of_a_reserved_pageblock_rests_with_the_movable_ones() -> None:
    memory = make_memory()
    pfn = allocate(memory, gfp=GFP_KERNEL)
    memory.drain_local_pages()
    memory.zones[0].set_block_type(pfn, MIGRATE_HIGHATOMIC, move=False)
    memory.free_pages(pfn)

    assert allocate(memory) == pfn


def test_a_page_of_a_withheld_pageblock_does_not_rest() -> None:
    memory = make_memory()
    pfn = allocate(memory)
    memory.drain_local_pages()
    memory.zones[0].isolate_pageblock(pfn)
    memory.free_pages(pfn)

    assert resting(memory) == 0
    assert_sound(memory.zones[0])


def test_a_retag_while_a_page_rests_is_honoured_when_it_is_drained() -> None:
    memory = Memory([ZoneSpec("Normal", 16)], layout=SMALL, ram=None, min_free_kbytes=0)
    zone = memory.zones[0]
    pfns = [allocate(memory) for _ in range(16)]
    memory.drain_local_pages()
    memory.free_pages(pfns[0])
    zone.set_block_type(pfns[0], MIGRATE_RECLAIMABLE, move=False)
    memory.drain_local_pages()

    assert free_lists(zone) == {(0, MIGRATE_RECLAIMABLE): [pfns[0]]}


# -- draining ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", [V5_7, V6_1], ids=["v5.7", "v6.1"])
def test_a_drain_returns_everything_and_the_zone_is_as_before(revision: Revision) -> None:
    memory = make_memory(revision)
    before = set(memory.zones[0].list_pfns(10, MIGRATE_MOVABLE))
    for pfn in [allocate(memory) for _ in range(50)]:
        memory.free_pages(pfn)
    moved = resting(memory)

    assert moved > 0
    assert memory.drain_local_pages() == moved
    assert memory.nr_free_pages() == NR_PAGES
    assert set(memory.zones[0].list_pfns(10, MIGRATE_MOVABLE)) == before


def test_draining_empty_sets_moves_nothing() -> None:
    memory = make_memory()
    before = memory_state(memory)[0]

    assert memory.drain_local_pages() == memory.drain_all_pages() == 0
    assert memory_state(memory)[0] == before


def test_the_sets_of_several_zones_are_told_apart() -> None:
    memory = Memory([ZoneSpec("DMA32", 4096), ZoneSpec("Normal", NR_PAGES)], ram=None)
    dma32, normal = memory.zones
    memory.free_pages(allocate(memory))
    pfn = memory.alloc_pages(GFP_KERNEL | GFP_DMA32)
    assert pfn is not None
    assert memory.zone_of(pfn) is dma32
    memory.free_pages(pfn)

    assert memory.nr_page_set_pages(normal) == BATCH
    assert memory.nr_page_set_pages(dma32) == 2
    assert memory.drain_all_pages() == BATCH + 2
    assert [zone.nr_free_pages for zone in memory.zones] == [4096, NR_PAGES]


# -- threads -------------------------------------------------------------------------------------------


def test_each_thread_has_a_set_of_its_own(run_together: Callable[..., None]) -> None:
    memory = make_memory()
    freed = allocate(memory)
    memory.free_pages(freed)
    mine = resting(memory)
    theirs: list[int] = []

    def in_another_thread() -> None:
        theirs.append(allocate(memory))
        assert resting(memory) == mine + BATCH - 1
        assert memory.drain_local_pages() == BATCH - 1
        memory.free_pages(theirs[0])

    run_together(in_another_thread)

    assert theirs != [freed]
    assert resting(memory) == mine


def test_a_thread_that_ends_leaves_no_pages_behind(run_together: Callable[..., None]) -> None:
    memory = make_memory()
    seen: list[int] = []

    def in_another_thread() -> None:
        memory.free_pages(allocate(memory))
        seen.append(resting(memory))

    run_together(in_another_thread, in_another_thread)

    assert seen[-1] > 0
    assert resting(memory) == 0
    assert memory.nr_free_pages() == NR_PAGES
    assert memory.page_sets is not None
    assert len(memory.page_sets._threads) == 1  # the set of the thread that built the memory


def test_another_thread_drains_a_set_while_its_owner_is_alive(
    sync: Sync, join_all: Callable[..., None]
) -> None:
    memory = make_memory()
    filled, drained = sync.event("filled"), sync.event("drained")
    found: list[int] = []

    def owner() -> None:
        pfns = [allocate(memory) for _ in range(BATCH)]
        for pfn in pfns:
            memory.free_pages(pfn)
        filled.set()
        assert drained.wait(PATIENCE_S)
        found.append(memory.drain_local_pages())

    thread = sync.spawn("owner", owner)
    assert filled.wait(PATIENCE_S)
    moved = memory.drain_all_pages()
    drained.set()
    join_all(thread)

    assert moved == BATCH
    assert found == [0]
    assert memory.nr_free_pages() == NR_PAGES


def test_a_set_is_drained_by_others_while_its_owner_works(
    sync: Sync, run_together: Callable[..., None]
) -> None:
    memory = make_memory()
    zone: Zone = memory.zones[0]
    finished = sync.event("finished")
    drained_pages: list[int] = []

    def owner() -> None:
        try:
            while sum(drained_pages) < 200:
                pfns = [(allocate(memory, order), order) for order in (0, 1, 0, 2, 3)]
                assert len(set(pfns)) == len(pfns)
                for pfn, order in pfns:
                    memory.free_pages(pfn, order)
                sync.sleep(0)
        finally:
            finished.set()

    def drainer() -> None:
        while not finished.is_set():
            drained_pages.append(memory.drain_all_pages())
            sync.sleep(0)

    run_together(owner, drainer, drainer)

    assert resting(memory) == 0
    assert memory.nr_free_pages() == NR_PAGES
    assert assert_sound(zone).largest_free_order == 10
