"""How much a zone keeps back, from whom, and what counts as above the mark."""

from __future__ import annotations

from dataclasses import replace

import pytest
from zone_kit import exhaust, make_zone

from pagealloc import Layout, Memory, Zone, ZoneSpec
from pagealloc.mmzone import (
    ALLOC_HIGHATOMIC,
    ALLOC_MIN_RESERVE,
    ALLOC_NON_BLOCK,
    ALLOC_OOM,
    MIGRATE_HIGHATOMIC,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    ZONE_NAMES,
)
from pagealloc.revision import V5_7, Revision
from pagealloc.watermark import default_min_free_kbytes, setup_per_zone_wmarks

# -- the test of a mark --------------------------------------------------------------------------------


@pytest.mark.parametrize(("mark", "ok"), [(63, True), (64, False), (65, False)])
def test_as_many_free_pages_as_the_mark_are_not_enough(mark: int, ok: bool) -> None:
    assert make_zone(64).zone_watermark_ok(0, mark) == ok


@pytest.mark.parametrize(("mark", "ok"), [(56, True), (57, False)])
def test_a_larger_request_is_counted_but_for_its_last_page(mark: int, ok: bool) -> None:
    assert make_zone(64).zone_watermark_ok(3, mark) == ok


@pytest.mark.parametrize(("reserve", "ok"), [(3, True), (4, False)])
def test_the_lowmem_reserve_is_added_to_the_mark(reserve: int, ok: bool) -> None:
    assert make_zone(64).zone_watermark_ok(0, 60, reserve) == ok


@pytest.mark.parametrize(
    ("alloc_flags", "effective_mark"),
    [
        (0, 48),
        (ALLOC_NON_BLOCK, 48),
        (ALLOC_MIN_RESERVE, 24),
        (ALLOC_MIN_RESERVE | ALLOC_NON_BLOCK, 18),
        (ALLOC_OOM, 24),
        (ALLOC_MIN_RESERVE | ALLOC_NON_BLOCK | ALLOC_OOM, 9),
    ],
)
def test_urgent_requests_may_use_part_of_the_mark(alloc_flags: int, effective_mark: int) -> None:
    zone = make_zone(64)
    zone.nr_free_pages = effective_mark + 1
    assert zone.zone_watermark_ok(0, 48, alloc_flags=alloc_flags)

    zone.nr_free_pages = effective_mark
    assert not zone.zone_watermark_ok(0, 48, alloc_flags=alloc_flags)


def test_the_high_atomic_reserve_counts_as_taken_for_ordinary_requests() -> None:
    zone = make_zone(64)
    zone.nr_reserved_highatomic = 8

    assert zone.zone_watermark_ok(0, 55)
    assert not zone.zone_watermark_ok(0, 56)
    assert zone.zone_watermark_ok(0, 56, alloc_flags=ALLOC_NON_BLOCK)


def test_enough_single_pages_do_not_make_a_large_block() -> None:
    zone = make_zone(64)
    for pfn in exhaust(zone, 0, MIGRATE_MOVABLE)[::2]:
        zone.free_pages_ok(pfn, 0)

    assert zone.zone_watermark_ok(0, 20)
    assert not zone.zone_watermark_ok(1, 20)


def zone_with_one_free_pageblock(migratetype: int) -> Zone:
    zone = make_zone(8, boot=False)
    zone.set_pageblock_migratetype(0, migratetype)
    zone.free_one_page(0, 3, migratetype, 0)
    zone.nr_free_pages = 8
    return zone


@pytest.mark.parametrize(
    ("alloc_flags", "ok"), [(0, False), (ALLOC_NON_BLOCK, False), (ALLOC_HIGHATOMIC, True), (ALLOC_OOM, True)]
)
def test_a_reserved_block_satisfies_the_entitled_only(alloc_flags: int, ok: bool) -> None:
    zone = zone_with_one_free_pageblock(MIGRATE_HIGHATOMIC)

    assert zone.zone_watermark_ok(2, 0, alloc_flags=alloc_flags) == ok


def test_a_withheld_block_satisfies_nobody() -> None:
    zone = zone_with_one_free_pageblock(MIGRATE_ISOLATE)
    everything = ALLOC_HIGHATOMIC | ALLOC_OOM | ALLOC_NON_BLOCK | ALLOC_MIN_RESERVE

    assert not zone.zone_watermark_ok(2, 0, alloc_flags=everything)


def test_a_boost_raises_every_mark() -> None:
    zone = make_zone(64)
    zone.set_watermarks(10, 20, 30)
    zone.set_watermark_boost(5)

    assert (zone.min_wmark_pages(), zone.low_wmark_pages(), zone.high_wmark_pages()) == (15, 25, 35)
    assert [zone.wmark_pages(mark) for mark in range(3)] == [15, 25, 35]
    assert zone.watermark == [10, 20, 30]


# -- how the marks are set -----------------------------------------------------------------------------


def make_memory(*specs: ZoneSpec, min_free_kbytes: int | None = None) -> Memory:
    return Memory(specs, layout=Layout(), ram=None, page_sets=False, min_free_kbytes=min_free_kbytes)


def huge_zone(name: str, managed_pages: int) -> Zone:
    """Build a zone of a few pages that believes to have many."""
    zone = make_zone(16, name=name)
    zone.managed_pages = managed_pages
    return zone


@pytest.mark.parametrize(
    ("managed_pages", "kbytes"),
    [
        (16, 128),  # never less
        (1 << 14, 1024),  # 64 MiB: sqrt(16 * 65536)
        (1 << 18, 4096),  # 1 GiB
        (1 << 20, 8192),  # 4 GiB
        (1 << 31, 262_144),  # never more
    ],
)
def test_the_default_reserve_grows_with_the_square_root_of_memory(managed_pages: int, kbytes: int) -> None:
    assert default_min_free_kbytes([huge_zone("Normal", managed_pages)]) == kbytes


def test_the_default_reserve_looks_at_low_memory_only() -> None:
    zones = [huge_zone("Normal", 1 << 14), huge_zone("HighMem", 1 << 20), huge_zone("Movable", 1 << 20)]

    assert default_min_free_kbytes(zones) == 1024


# linux-mm, March 2020: /proc/zoneinfo of a machine with two nodes and a Movable zone, Linux 5.6.
POSTED = {
    ("DMA", 0): (3977, [5, 8, 11]),
    ("DMA32", 0): (758_116, [1129, 1887, 2645]),
    ("Normal", 0): (503_620, [750, 1253, 1756]),
    ("Movable", 0): (131_072, [195, 326, 457]),
    ("Normal", 1): (257_744, [383, 640, 897]),
}


def test_the_marks_are_those_of_a_posted_machine_of_2020() -> None:
    specs = [ZoneSpec(name, pages, node) for (name, node), (pages, _) in POSTED.items()]
    memory = Memory(specs, ram=None, page_sets=False, min_free_kbytes=9857, revision=V5_7)

    assert [zone.watermark for zone in memory.zones] == [marks for _, marks in POSTED.values()]


def test_a_movable_zone_has_its_share_of_the_reserve_or_a_token() -> None:
    specs = [ZoneSpec("Normal", 1 << 16), ZoneSpec("Movable", 1 << 16)]

    def marks(revision: Revision) -> list[int]:
        memory = Memory(specs, ram=None, page_sets=False, min_free_kbytes=4096, revision=revision)
        return [zone.watermark[0] for zone in memory.zones]

    assert marks(replace(V5_7, movable_keeps_token=False)) == [512, 512]
    assert marks(replace(V5_7, movable_keeps_token=True)) == [1024, 64]


def test_a_single_zone_gets_the_whole_reserve() -> None:
    """64 MiB: 1024 KiB are 256 pages; a quarter of that lies between two marks."""
    assert make_memory(ZoneSpec("Normal", 1 << 14)).zones[0].watermark == [256, 320, 384]


def test_zones_share_the_reserve_by_size() -> None:
    memory = make_memory(ZoneSpec("DMA32", 1024), ZoneSpec("Normal", 3072), min_free_kbytes=1600)

    assert [zone.watermark for zone in memory.zones] == [[100, 125, 150], [300, 375, 450]]


def test_the_distance_of_the_marks_is_a_thousandth_of_the_zone_at_least() -> None:
    assert make_memory(ZoneSpec("Normal", 20_000), min_free_kbytes=0).zones[0].watermark == [0, 20, 40]


@pytest.mark.parametrize(("managed_pages", "min_pages"), [(1 << 10, 32), (1 << 16, 64), (1 << 20, 128)])
def test_high_zones_keep_little(managed_pages: int, min_pages: int) -> None:
    normal, highmem = huge_zone("Normal", 1 << 14), huge_zone("HighMem", managed_pages)
    setup_per_zone_wmarks([normal, highmem], 1024)

    step = 256 * managed_pages // (1 << 14) // 4
    step = max(step, managed_pages // 1000)
    assert highmem.watermark == [min_pages, min_pages + step, min_pages + 2 * step]
    assert normal.watermark == [256, 320, 384]


def test_a_memory_of_high_zones_only_has_marks_too() -> None:
    memory = make_memory(ZoneSpec("Movable", 4096))

    assert memory.zones[0].watermark[0] == 32


def test_low_zones_are_reserved_against_requests_that_may_go_higher() -> None:
    memory = make_memory(ZoneSpec("DMA", 4096), ZoneSpec("DMA32", 8192), ZoneSpec("Normal", 16384))
    dma, dma32, normal = memory.zones
    names = dict(enumerate(ZONE_NAMES))

    assert {names[k]: pages for k, pages in enumerate(dma.lowmem_reserve)} == {
        "DMA": 0,
        "DMA32": 8192 // 256,
        "Normal": (8192 + 16384) // 256,
        "HighMem": (8192 + 16384) // 256,
        "Movable": (8192 + 16384) // 256,
    }
    assert dma32.lowmem_reserve == [0, 0, 64, 64, 64]
    assert normal.lowmem_reserve == [0, 0, 0, 0, 0]


def test_normal_memory_is_reserved_by_a_larger_share() -> None:
    memory = make_memory(ZoneSpec("Normal", 4096), ZoneSpec("Movable", 8192))

    assert memory.zones[0].lowmem_reserve == [0, 0, 0, 0, 8192 // 32]
    assert memory.zones[1].lowmem_reserve == [0] * 5


def test_zones_of_other_nodes_reserve_nothing() -> None:
    memory = make_memory(ZoneSpec("DMA32", 4096), ZoneSpec("Normal", 16384, node=1))

    assert memory.zones[0].lowmem_reserve == [0] * 5
