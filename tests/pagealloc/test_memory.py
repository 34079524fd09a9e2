"""The front: which zone a request gets, what it may use up, and the bytes behind a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from zone_kit import SMALL, assert_sound, memory_state

from pagealloc import (
    GFP_ATOMIC,
    GFP_DMA,
    GFP_DMA32,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    GFP_MOVABLE,
    GFP_NOWAIT,
    GFP_RECLAIMABLE,
    GFP_USER,
    GFP_ZERO,
    PAGE_SIZE,
    ForeignPfn,
    Layout,
    Memory,
    MemoryClosed,
    ZoneSpec,
)
from pagealloc.gfp import (
    GFP_HIGH,
    GFP_HIGHMEM,
    GFP_THISNODE,
    GFP_TRANSHUGE,
    GFP_TRANSHUGE_LIGHT,
    gfp_migratetype,
    gfp_to_alloc_flags,
    gfp_zone,
)
from pagealloc.inventory import block_types
from pagealloc.mmzone import (
    ALLOC_HIGHATOMIC,
    ALLOC_KSWAPD,
    ALLOC_MIN_RESERVE,
    ALLOC_NON_BLOCK,
    MIGRATE_HIGHATOMIC,
    MIGRATE_MOVABLE,
    MIGRATE_RECLAIMABLE,
    MIGRATE_UNMOVABLE,
    WMARK_MIN,
    ZONE_NAMES,
)
from pagealloc.revision import V6_1

DMA, DMA32, NORMAL = ZoneSpec("DMA", 64), ZoneSpec("DMA32", 64), ZoneSpec("Normal", 64)


def make_memory(*specs: ZoneSpec, page_sets: bool = False, min_free_kbytes: int = 0) -> Memory:
    """Build a memory without RAM, and unless told otherwise without page sets and marks."""
    return Memory(specs, layout=SMALL, ram=None, page_sets=page_sets, min_free_kbytes=min_free_kbytes)


def allocate(memory: Memory, gfp: int, order: int = 0, node: int = 0) -> int:
    pfn = memory.alloc_pages(gfp, order, node)
    assert pfn is not None
    return pfn


def exhaust(memory: Memory, gfp: int, order: int = 0, node: int = 0) -> list[int]:
    taken = []
    while (pfn := memory.alloc_pages(gfp, order, node)) is not None:
        taken.append(pfn)
    return taken


def zones_in_turn(memory: Memory, gfp: int, node: int = 0) -> list[str]:
    """Allocate until nothing is left; return the zones in the order in which they were used."""
    used: list[str] = []
    for pfn in exhaust(memory, gfp, node=node):
        zone = memory.zone_of(pfn)
        if not used or used[-1] != f"{zone.node}:{zone.name}":
            used.append(f"{zone.node}:{zone.name}")
    return used


# -- what the flags mean -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gfp", "name"),
    [
        (GFP_KERNEL, "Normal"),
        (GFP_ATOMIC, "Normal"),
        (GFP_KERNEL | GFP_MOVABLE, "Normal"),
        (GFP_KERNEL | GFP_DMA, "DMA"),
        (GFP_KERNEL | GFP_DMA32, "DMA32"),
        (GFP_KERNEL | GFP_HIGHMEM, "HighMem"),
        (GFP_HIGHUSER_MOVABLE, "Movable"),
        (GFP_TRANSHUGE, "Movable"),
        (GFP_TRANSHUGE_LIGHT, "Movable"),
    ],
)
def test_flags_name_the_highest_zone(gfp: int, name: str) -> None:
    assert ZONE_NAMES[gfp_zone(gfp)] == name


@pytest.mark.parametrize(
    ("gfp", "migratetype"),
    [
        (GFP_KERNEL, MIGRATE_UNMOVABLE),
        (GFP_USER, MIGRATE_UNMOVABLE),
        (GFP_HIGHUSER_MOVABLE, MIGRATE_MOVABLE),
        (GFP_KERNEL | GFP_RECLAIMABLE, MIGRATE_RECLAIMABLE),
    ],
)
def test_flags_name_the_migratetype(gfp: int, migratetype: int) -> None:
    assert gfp_migratetype(gfp) == migratetype


@pytest.mark.parametrize(
    ("gfp", "order", "alloc_flags"),
    [
        (GFP_KERNEL, 0, WMARK_MIN | ALLOC_KSWAPD),
        (GFP_NOWAIT, 0, WMARK_MIN | ALLOC_KSWAPD | ALLOC_NON_BLOCK),
        (GFP_ATOMIC, 0, WMARK_MIN | ALLOC_KSWAPD | ALLOC_NON_BLOCK | ALLOC_MIN_RESERVE),
        (GFP_ATOMIC, 1, WMARK_MIN | ALLOC_KSWAPD | ALLOC_NON_BLOCK | ALLOC_MIN_RESERVE | ALLOC_HIGHATOMIC),
        (GFP_NOWAIT, 1, WMARK_MIN | ALLOC_KSWAPD | ALLOC_NON_BLOCK),
        (GFP_KERNEL | GFP_HIGH, 1, WMARK_MIN | ALLOC_KSWAPD | ALLOC_MIN_RESERVE),
    ],
)
def test_flags_open_the_reserves_of_the_slow_path(gfp: int, order: int, alloc_flags: int) -> None:
    assert gfp_to_alloc_flags(gfp, order) == alloc_flags


def test_a_request_cannot_have_two_mobilities() -> None:
    memory = make_memory(NORMAL)
    before = memory_state(memory)
    with pytest.raises(ValueError, match="both GFP_MOVABLE and GFP_RECLAIMABLE"):
        memory.alloc_pages(GFP_KERNEL | GFP_MOVABLE | GFP_RECLAIMABLE)

    assert memory_state(memory) == before


@pytest.mark.parametrize("order", [-1, 5])
def test_an_order_that_no_block_has_is_refused(order: int) -> None:
    with pytest.raises(ValueError, match=rf"order is {order}, expected 0 \.\. 4"):
        make_memory(NORMAL).alloc_pages(GFP_KERNEL, order)


@pytest.mark.parametrize(
    ("gfp", "migratetype"),
    [
        (GFP_KERNEL, MIGRATE_UNMOVABLE),
        (GFP_HIGHUSER_MOVABLE, MIGRATE_MOVABLE),
        (GFP_KERNEL | GFP_RECLAIMABLE, MIGRATE_RECLAIMABLE),
    ],
)
def test_a_request_gets_a_page_of_its_own_kind(gfp: int, migratetype: int) -> None:
    memory = make_memory(NORMAL)

    assert memory.zones[0].pageblock_migratetype(allocate(memory, gfp)) == migratetype


# -- which zone ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gfp", "zones"),
    [
        (GFP_HIGHUSER_MOVABLE, ["0:Movable", "0:Normal", "0:DMA32", "0:DMA"]),
        (GFP_KERNEL, ["0:Normal", "0:DMA32", "0:DMA"]),
        (GFP_KERNEL | GFP_DMA32, ["0:DMA32", "0:DMA"]),
        (GFP_KERNEL | GFP_DMA, ["0:DMA"]),
    ],
)
def test_a_request_goes_down_from_the_zone_it_would_like_best(gfp: int, zones: list[str]) -> None:
    memory = make_memory(DMA, DMA32, NORMAL, ZoneSpec("Movable", 32))
    movable = memory.zones[-1]
    movable.set_watermarks(0, 0, 0)  # high zones keep 32 pages, which is all that this one has
    for zone in memory.zones:
        zone.set_lowmem_reserve([0] * len(ZONE_NAMES))

    assert zones_in_turn(memory, gfp) == zones


@pytest.mark.parametrize(
    ("node", "zones"),
    [
        (0, ["0:Normal", "0:DMA32", "1:Normal", "2:Normal"]),
        (1, ["1:Normal", "2:Normal", "0:Normal", "0:DMA32"]),
        (2, ["2:Normal", "0:Normal", "0:DMA32", "1:Normal"]),
    ],
)
def test_a_request_goes_on_to_the_next_node(node: int, zones: list[str]) -> None:
    memory = make_memory(DMA32, NORMAL, replace(NORMAL, node=1), replace(NORMAL, node=2))

    assert zones_in_turn(memory, GFP_KERNEL, node) == zones


def test_a_request_for_one_node_stays_there() -> None:
    memory = make_memory(DMA32, NORMAL, replace(NORMAL, node=1))

    assert zones_in_turn(memory, GFP_KERNEL | GFP_THISNODE, 1) == ["1:Normal"]
    assert zones_in_turn(memory, GFP_KERNEL | GFP_THISNODE, 0) == ["0:Normal", "0:DMA32"]


def test_a_request_that_no_zone_may_serve_fails() -> None:
    assert make_memory(NORMAL).alloc_pages(GFP_KERNEL | GFP_DMA) is None


def test_a_node_that_does_not_exist_is_refused() -> None:
    memory = make_memory(NORMAL, replace(NORMAL, node=2))
    with pytest.raises(ValueError, match="node 1, expected one of 0, 2"):
        memory.alloc_pages(GFP_KERNEL, node=1)


def normal_with_one_movable_page() -> tuple[Memory, int]:
    """Build DMA32 and Normal, and leave in Normal one free page, of a movable pageblock in use."""
    memory = make_memory(DMA32, NORMAL)
    pfns = [allocate(memory, GFP_HIGHUSER_MOVABLE) for _ in range(64)]
    assert all(memory.zone_of(pfn).name == "Normal" for pfn in pfns)
    memory.free_pages(pfns[0])
    return memory, pfns[0]


def test_a_lower_zone_is_preferred_to_mixing_types() -> None:
    memory, page = normal_with_one_movable_page()

    assert memory.zone_of(allocate(memory, GFP_KERNEL)).name == "DMA32"
    assert memory.zones[1].first_in_list(0, MIGRATE_MOVABLE) == page


@pytest.mark.parametrize(
    ("below", "serves"), [(DMA32, "DMA32"), (DMA, "Normal")], ids=["its own node", "another node"]
)
def test_of_several_nodes_only_one_with_dma32_keeps_types_apart(below: ZoneSpec, serves: str) -> None:
    other = DMA32 if below is DMA else DMA
    memory = make_memory(other, NORMAL, replace(below, node=1), replace(NORMAL, node=1))
    for zone in memory.zones:
        zone.set_lowmem_reserve([0] * len(ZONE_NAMES))
    pfns = [memory.alloc_pages(GFP_HIGHUSER_MOVABLE, node=1) for _ in range(64)]
    assert pfns[0] is not None
    memory.free_pages(pfns[0])
    pfn = memory.alloc_pages(GFP_KERNEL, node=1)
    assert pfn is not None
    assert (memory.zone_of(pfn).node, memory.zone_of(pfn).name) == (1, serves)


def test_mixing_types_is_preferred_to_failing() -> None:
    memory, page = normal_with_one_movable_page()
    exhaust(memory, GFP_KERNEL | GFP_DMA32)

    assert allocate(memory, GFP_KERNEL) == page


def test_mixing_types_comes_before_the_slow_path() -> None:
    memory, page = normal_with_one_movable_page()
    exhaust(memory, GFP_KERNEL | GFP_DMA32)
    memory.zones[0].set_watermark_boost(7)  # the slow path would wake kswapd, which takes it back

    assert allocate(memory, GFP_KERNEL) == page
    assert memory.zones[0].watermark_boost == 7


# -- what is kept back ---------------------------------------------------------------------------------


def test_low_memory_is_reserved_against_those_who_could_go_higher() -> None:
    memory = make_memory(DMA32, ZoneSpec("Normal", 1024))
    dma32, normal = memory.zones
    normal.set_watermarks(0, 0, 0)
    exhaust(memory, GFP_KERNEL)
    assert (normal.nr_free_pages, dma32.nr_free_pages) == (0, 1024 // 256)

    exhaust(memory, GFP_KERNEL | GFP_DMA32)
    assert dma32.nr_free_pages == 0


@pytest.mark.parametrize(
    ("gfp", "left"),
    [
        (GFP_KERNEL, 32),
        (GFP_NOWAIT, 32),
        (GFP_KERNEL | GFP_HIGH, 16),
        (GFP_ATOMIC, 12),
    ],
)
def test_the_more_urgent_a_request_the_lower_it_may_go(gfp: int, left: int) -> None:
    memory = make_memory(NORMAL)
    memory.zones[0].set_watermarks(32, 40, 48)
    exhaust(memory, gfp)

    assert memory.nr_free_pages() == left


def test_a_single_urgent_page_may_ignore_a_boost() -> None:
    memory = make_memory(NORMAL)
    zone = memory.zones[0]
    exhaust(memory, GFP_KERNEL)[:1]
    for pfn in range(64, 76):
        memory.free_pages(pfn)
    zone.set_watermarks(10, 10, 10)
    zone.set_watermark_boost(20)

    assert memory.alloc_pages(GFP_HIGH, 1) is None
    assert memory.alloc_pages(GFP_HIGH) is not None
    assert zone.watermark_boost == 20


def test_a_boost_is_taken_back_when_an_allocation_finds_no_room() -> None:
    memory = make_memory(NORMAL)
    zone = memory.zones[0]
    zone.set_watermark_boost(1000)

    assert memory.alloc_pages(GFP_KERNEL) is not None
    assert zone.watermark_boost == 0


def test_an_allocation_that_mixed_types_wakes_kswapd_which_ends_the_boost() -> None:
    memory, _ = normal_with_one_movable_page()
    exhaust(memory, GFP_KERNEL | GFP_DMA32)
    normal = memory.zones[1]
    normal.set_watermarks(0, 0, 20)
    assert memory.alloc_pages(GFP_KERNEL) is not None

    assert not normal.boosted
    assert normal.watermark_boost == 0


def test_who_must_not_wake_kswapd_leaves_the_boost() -> None:
    memory = make_memory(NORMAL)
    memory.zones[0].set_watermark_boost(1000)

    assert memory.alloc_pages(0) is None
    assert memory.zones[0].watermark_boost == 1000


# -- the slow path -------------------------------------------------------------------------------------


def memory_with_pages_on_sets() -> Memory:
    """Build a memory in which every page is free, but some rest on this thread's set and cannot merge."""
    memory = make_memory(ZoneSpec("Normal", 32), page_sets=True)
    for pfn in exhaust(memory, GFP_KERNEL)[::-1]:
        memory.free_pages(pfn)
    assert memory.nr_page_set_pages(memory.zones[0]) > 0
    assert memory.zones[0].nr_free[4] < 2
    return memory


def test_the_slow_path_drains_the_page_sets() -> None:
    memory = memory_with_pages_on_sets()

    assert len(exhaust(memory, GFP_KERNEL, 4)) == 2
    assert_sound(memory.zones[0])


def test_who_may_not_sleep_does_not_drain_the_page_sets() -> None:
    memory = memory_with_pages_on_sets()
    resting = memory.nr_page_set_pages(memory.zones[0])

    assert len(exhaust(memory, GFP_NOWAIT, 4)) < 2
    assert memory.nr_page_set_pages(memory.zones[0]) == resting


def test_the_slow_path_drains_the_sets_of_other_threads(run_together: Callable[..., None]) -> None:
    memory = make_memory(ZoneSpec("Normal", 32), page_sets=True)
    exhausted: list[int] = []

    def in_another_thread() -> None:
        exhausted.extend(exhaust(memory, GFP_KERNEL, 4))

    for pfn in exhaust(memory, GFP_KERNEL)[::-1]:
        memory.free_pages(pfn)
    run_together(in_another_thread)

    assert sorted(exhausted) == [16, 32]


def memory_with_a_reserve() -> Memory:
    """Build a memory whose only free pages are the rest of a high-atomic pageblock."""
    # Of a zone this small kernels since 6.12 reserve nothing.
    memory = Memory(
        [ZoneSpec("Normal", 16)], layout=SMALL, revision=V6_1, ram=None, page_sets=False, min_free_kbytes=0
    )
    assert memory.zones[0].rmqueue_buddy(1, MIGRATE_MOVABLE, ALLOC_HIGHATOMIC) >= 0
    while memory.zones[0].rmqueue_buddy(0, MIGRATE_MOVABLE) >= 0:
        pass
    assert memory.nr_free_pages() == 6
    return memory


def test_the_slow_path_gives_up_the_high_atomic_reserve() -> None:
    memory = memory_with_a_reserve()

    assert len(exhaust(memory, GFP_KERNEL)) == 6
    assert memory.zones[0].nr_reserved_highatomic == 0
    assert MIGRATE_HIGHATOMIC not in block_types(memory.zones[0])


def test_an_urgent_request_uses_the_reserve_and_leaves_it_a_reserve() -> None:
    memory = memory_with_a_reserve()

    assert memory.alloc_pages(GFP_ATOMIC, 1) is not None
    assert memory.zones[0].nr_reserved_highatomic == 8


def test_an_allocation_that_fails_changes_nothing() -> None:
    memory = make_memory(NORMAL)
    exhaust(memory, GFP_KERNEL)
    before = memory_state(memory)

    assert memory.alloc_pages(GFP_KERNEL) is None
    assert memory.alloc_pages(GFP_ATOMIC, 3) is None
    assert memory_state(memory) == before


# -- bytes ---------------------------------------------------------------------------------------------


def test_a_page_asked_for_zeroed_is_zero() -> None:
    with Memory([NORMAL], layout=SMALL, min_free_kbytes=0) as memory:
        pfn = allocate(memory, GFP_KERNEL, 4)
        with memory.view(pfn, 4) as view:
            view[:] = b"\xa5" * len(view)
        memory.free_pages(pfn, 4)
        assert allocate(memory, GFP_KERNEL | GFP_ZERO, 4) == pfn
        with memory.view(pfn, 4) as view:
            assert len(view) == PAGE_SIZE << 4
            assert not any(view)


def test_a_block_shows_its_own_bytes_only() -> None:
    with Memory([NORMAL], layout=SMALL) as memory:
        first, second = allocate(memory, GFP_KERNEL, 1), allocate(memory, GFP_KERNEL, 1)
        for pfn, byte in ((first, b"1"), (second, b"2")):
            with memory.view(pfn, 1) as view:
                view[:] = byte * (PAGE_SIZE << 1)
        with memory.view(first, 1) as one, memory.view(second, 1) as two:
            assert bytes(one) == b"1" * (PAGE_SIZE << 1)
            assert bytes(two) == b"2" * (PAGE_SIZE << 1)


def test_the_bytes_of_every_zone_are_there() -> None:
    with Memory([DMA32, ZoneSpec("Normal", 64, start_pfn=1000)], layout=SMALL) as memory:
        for zone in memory.zones:
            with memory.view(zone.start_pfn) as first, memory.view(zone.end_pfn - 1) as last:
                first[0] = last[-1] = 7
                assert (first[0], last[-1]) == (7, 7)


def test_a_memory_without_ram_has_no_bytes() -> None:
    memory = make_memory(NORMAL)
    with pytest.raises(ValueError, match="without RAM"):
        memory.view(allocate(memory, GFP_KERNEL | GFP_ZERO))

    assert memory.resident_bytes() == 0


def test_leaving_a_memory_gives_its_ram_back() -> None:
    with Memory([NORMAL], layout=SMALL) as memory:
        pfn = allocate(memory, GFP_KERNEL)
    with pytest.raises(MemoryClosed, match="closed"):
        memory.view(pfn)


def test_resident_bytes_grow_with_the_pages_that_are_written() -> None:
    with Memory([ZoneSpec("Normal", 1024)], ram="memfd", layout=SMALL) as memory:
        before = memory.resident_bytes()
        pfn = allocate(memory, GFP_KERNEL, 4)
        with memory.view(pfn, 4) as view:
            view[:] = b"x" * len(view)

        assert memory.resident_bytes() >= before + (PAGE_SIZE << 4)


# -- building ------------------------------------------------------------------------------------------


def test_zones_follow_each_other_from_the_second_largest_block() -> None:
    memory = make_memory(ZoneSpec("DMA", 20), ZoneSpec("DMA32", 30), ZoneSpec("Normal", 40, start_pfn=100))

    assert [(zone.start_pfn, zone.end_pfn) for zone in memory.zones] == [(16, 36), (36, 66), (100, 140)]
    assert memory.nr_pages() == memory.nr_free_pages() == 90
    for zone in memory.zones:
        assert_sound(zone)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([], "needs a zone"),
        ([NORMAL, NORMAL], "zone Normal of node 0 is given twice"),
        ([ZoneSpec("DMA", 64, start_pfn=0), ZoneSpec("Normal", 64, start_pfn=63)], "inside the zone before"),
        ([ZoneSpec("DMA", 64, start_pfn=100), ZoneSpec("Normal", 64, start_pfn=0)], "inside the zone before"),
    ],
)
def test_zones_that_clash_are_refused(specs: list[ZoneSpec], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_memory(*specs)


@pytest.mark.parametrize(
    ("name", "nr_pages", "message"),
    [
        ("Nirvana", 64, "zone name 'Nirvana', expected one of DMA, DMA32, Normal, HighMem, Movable"),
        ("Normal", 0, "zone Normal has 0 pages"),
        ("Normal", -5, "zone Normal has -5 pages"),
    ],
)
def test_a_zone_that_cannot_be_is_refused(name: str, nr_pages: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ZoneSpec(name, nr_pages)


@pytest.mark.parametrize(
    ("nr_orders", "pageblock_order", "message"),
    [
        (1, 0, "nr_orders is 1"),
        (17, 9, "nr_orders is 17"),
        (11, 0, "pageblock_order is 0"),
        (11, 11, "pageblock_order is 11"),
    ],
)
def test_block_sizes_that_cannot_be_are_refused(nr_orders: int, pageblock_order: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Layout(nr_orders, pageblock_order)


def test_an_unknown_kind_of_ram_is_refused() -> None:
    with pytest.raises(ValueError, match="RAM kind 'disk', expected 'anonymous' or 'memfd'"):
        Memory([NORMAL], ram="disk")  # type: ignore[arg-type]


def test_a_pfn_has_one_zone_or_none() -> None:
    memory = make_memory(DMA32, ZoneSpec("Normal", 64, start_pfn=100))

    assert [memory.zone_of(pfn).name for pfn in (16, 79, 100, 163)] == ["DMA32", "DMA32", "Normal", "Normal"]
    for pfn in (15, 80, 99, 164):
        with pytest.raises(ForeignPfn):
            memory.zone_of(pfn)


def test_a_memory_tells_its_size_and_zones() -> None:
    assert repr(Memory([ZoneSpec("DMA32", 1024), ZoneSpec("Normal", 3072)], ram=None)) == (
        "<Memory 16 MiB in DMA32, Normal>"
    )


def test_programs_that_know_a_revision_as_a_policy_go_on() -> None:
    memory = Memory([ZoneSpec("Normal", 4096)], policy=V6_1, ram=None)
    assert memory.policy is memory.revision is memory.zones[0].revision is V6_1
