"""Page sets: refilled and drained in batches, bounded, and emptied by whoever needs the pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

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
from pagealloc.mmzone import (
    MIGRATE_HIGHATOMIC,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    MIGRATE_RECLAIMABLE,
)
from pagealloc.page_flags import ON_PAGE_SET
from pagealloc.pcp import zone_batchsize, zone_highsize
from pagealloc.revision import V5_7, V6_1

PATIENCE_S = 20.0

# 64 MiB: batch 3, a low mark of 320 pages and so 80 pages for each of 4 CPUs at most.
NR_PAGES, BATCH, HIGH = 16384, 3, 80


def make_memory(revision: Revision = V6_1, cpus: int = 4) -> Memory:
    return Memory([ZoneSpec("Normal", NR_PAGES)], revision=revision, ram=None, cpus=cpus)


def allocate(memory: Memory, order: int = 0, gfp: int = GFP_HIGHUSER_MOVABLE) -> int:
    pfn = memory.alloc_pages(gfp, order)
    assert pfn is not None
    return pfn


def resting(memory: Memory) -> int:
    return memory.nr_page_set_pages(memory.zones[0])


# -- sizes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pages", "batch"),
    [(1, 0), (4096, 0), (16384, 3), (65536, 15), (131_072, 31), (262_144, 63), (1 << 24, 63)],
)
def test_a_batch_grows_with_the_zone_up_to_63(pages: int, batch: int) -> None:
    assert zone_batchsize(pages) == batch


def test_a_set_may_hold_its_share_of_the_low_mark_and_four_batches_at_least() -> None:
    assert zone_highsize(1 << 18, 4000) == 1000
    assert zone_highsize(1 << 18, 4000, cpus=2) == 2000
    assert zone_highsize(1 << 18, 100) == 4 * 63


def test_v5_7_sets_hold_single_pages_only() -> None:
    memory = make_memory(V5_7)
    sets = memory.page_sets
    assert sets is not None

    assert [order for order in range(11) if sets.holds(order)] == [0]


def test_v6_1_sets_hold_orders_up_to_3_and_whole_pageblocks() -> None:
    memory = make_memory(V6_1)
    sets = memory.page_sets
    assert sets is not None

    assert [order for order in range(11) if sets.holds(order)] == [0, 1, 2, 3, 9]


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


def test_a_set_is_shortened_by_a_batch_from_its_cold_end_when_it_reaches_its_limit() -> None:
    memory = make_memory()
    pfns = [allocate(memory) for _ in range(2 * HIGH)]
    memory.drain_local_pages()
    for pfn in pfns[: HIGH - 1]:
        memory.free_pages(pfn)
    assert resting(memory) == HIGH - 1
    memory.free_pages(pfns[HIGH - 1])

    assert resting(memory) == HIGH - BATCH
    zone = memory.zones[0]
    assert [zone.state[pfn - zone.base_pfn] == ON_PAGE_SET for pfn in pfns[: BATCH + 1]] == [
        *[False] * BATCH,
        True,
    ]


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_a_set_never_holds_its_limit(order: int) -> None:
    memory = make_memory()
    pfns = [allocate(memory, order) for _ in range(3 * HIGH)]
    memory.drain_local_pages()
    most = 0
    for pfn in pfns:
        memory.free_pages(pfn, order)
        most = max(most, resting(memory))

    assert most == HIGH - (1 << order)


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


@pytest.mark.parametrize("remembers", [True, False], ids=["before v6.7", "since v6.7"])
def test_a_page_drains_as_the_type_that_it_was_freed_as_or_that_its_pageblock_has_now(
    remembers: bool,
) -> None:
    revision = replace(V6_1, pcp_remembers_type=remembers)
    memory = Memory(
        [ZoneSpec("Normal", 16)], layout=SMALL, ram=None, min_free_kbytes=0, cpus=1, revision=revision
    )
    zone = memory.zones[0]
    pfns = [allocate(memory) for _ in range(16)]
    memory.drain_local_pages()
    memory.free_pages(pfns[0])
    zone.set_block_type(pfns[0], MIGRATE_RECLAIMABLE, move=False)
    memory.drain_local_pages()

    assert free_lists(zone) == {(0, MIGRATE_MOVABLE if remembers else MIGRATE_RECLAIMABLE): [pfns[0]]}


def test_a_page_of_a_withheld_pageblock_goes_to_its_lists_whatever_it_was_freed_as() -> None:
    memory = Memory([ZoneSpec("Normal", 16)], layout=SMALL, ram=None, min_free_kbytes=0, cpus=1)
    zone = memory.zones[0]
    pfns = [allocate(memory) for _ in range(16)]
    memory.drain_local_pages()
    memory.free_pages(pfns[0])
    zone.isolate_pageblock(pfns[0])
    memory.drain_local_pages()

    assert free_lists(zone) == {(0, MIGRATE_ISOLATE): [pfns[0]]}


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
    assert memory.nr_page_set_pages(dma32) == 1  # a zone this small is refilled one by one
    assert memory.drain_all_pages() == BATCH + 1
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
    assert memory.page_sets._owners.count(None) >= 1  # its CPU waits for the next thread


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


# -- CPUs ----------------------------------------------------------------------------------------------


def test_a_thread_that_is_put_on_a_cpu_leaves_its_pages_there() -> None:
    memory = make_memory(cpus=2)
    for cpu in (0, 1, 0):
        memory.run_on_cpu(cpu)
        memory.free_pages(allocate(memory))

    sets = memory.page_sets
    assert sets is not None
    assert [(each.cpu, each.pages) for each in sets.holdings(memory.zones[0])] == [(0, BATCH), (1, BATCH)]


def test_threads_on_one_cpu_share_its_set(run_together: Callable[..., None]) -> None:
    memory = make_memory()
    memory.run_on_cpu(2)
    pfn = allocate(memory)
    memory.free_pages(pfn)
    got: list[int] = []

    def in_another_thread() -> None:
        memory.run_on_cpu(2)
        got.append(allocate(memory))

    run_together(in_another_thread)

    assert got == [pfn]
    assert resting(memory) == BATCH - 1  # it has ended, and left what the CPU holds


def test_a_thread_takes_nobodys_cpu_that_others_were_put_on(run_together: Callable[..., None]) -> None:
    memory = make_memory()
    memory.run_on_cpu(0)
    pfn = allocate(memory)
    memory.free_pages(pfn)
    got: list[int] = []
    run_together(lambda: got.append(allocate(memory)))

    assert got != [pfn]


def test_a_thread_that_is_put_on_a_cpu_takes_nothing_along() -> None:
    memory = make_memory()
    memory.free_pages(allocate(memory))  # on a CPU of its own, the first
    memory.run_on_cpu(1)

    assert resting(memory) == 0


@pytest.mark.parametrize("cpu", [-1, 4])
def test_a_cpu_that_is_not_there_is_named(cpu: int) -> None:
    with pytest.raises(ValueError, match=rf"CPU {cpu}, expected 0 .. 3"):
        make_memory().run_on_cpu(cpu)


def test_a_memory_has_a_cpu() -> None:
    with pytest.raises(ValueError, match="cpus is 0, expected 1 or more"):
        make_memory(cpus=0)
