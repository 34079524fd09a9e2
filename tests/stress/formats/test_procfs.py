"""`/proc` text: a real guest's files are printed again as they were, and ours are those of the zones.

`proc/` has files of a guest with Linux 6.1, two processors and 1 GiB.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pagealloc.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL
from pagealloc.memory import Memory, ZoneSpec
from pagealloc.revision import V6_1
from pagealloc.sync import Sync
from stress import procfs as first_place
from stress.cli import main
from stress.formats import procfs
from stress.formats.procfs import (
    FILES,
    MIGRATETYPE_NAMES,
    PageSetCounts,
    ZoneCounts,
    buddyinfo,
    memory_zones,
    pagetypeinfo,
    parse_zoneinfo,
    zoneinfo,
)

GUEST = Path(__file__).parent / "proc"


def numbers(text: str) -> list[int]:
    return [int(word) for word in re.findall(r"-?\d+", text)]


def parse_pagetypeinfo(text: str) -> list[ZoneCounts]:
    """Read what a script would read from pagetypeinfo."""
    order = int(re.findall(r"Page block order: (\d+)", text)[0])
    free: dict[tuple[int, str], list[list[int]]] = {}
    for node, name, counts in re.findall(r"Node +(\d+), zone +(\w+), type +\w+ (.*)", text):
        free.setdefault((int(node), name), []).append(numbers(counts))
    blocks = {
        (int(node), name): numbers(counts)
        for node, name, counts in re.findall(r"Node (\d+), zone +(\w+) +([\d ]+)$", text, re.MULTILINE)
        if len(numbers(counts)) == len(MIGRATETYPE_NAMES)
    }
    return [
        ZoneCounts(
            name, node, present=1, pageblock_order=order, free_by_type=lists, pageblocks=blocks[node, name]
        )
        for (node, name), lists in free.items()
    ]


# -- the kernel's own text ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["state0", "state2"])
def test_a_guests_buddyinfo_and_pagetypeinfo_are_printed_again_as_they_were(name: str) -> None:
    text = (GUEST / f"{name}.txt").read_text()
    zones = parse_pagetypeinfo(text)
    assert [zone.name for zone in zones] == ["DMA", "DMA32"]
    assert pagetypeinfo(zones) == text[text.index("Page block order") :]
    # Not read from the file: the sums over the types. The guest was idle in between.
    theirs = text[text.index("Node") : text.index("Page block order")].splitlines()
    ours = buddyinfo(zones).splitlines()
    assert ours[0] == theirs[0]
    assert len(ours[1]) == len(theirs[1])
    order = slice(len("Node 0, zone    DMA32 "), None)
    zone = replace(zones[1], free_by_type=[numbers(theirs[1][order])])
    assert buddyinfo([zone]).splitlines() == theirs[1:]


def test_a_guests_zoneinfo_is_printed_again_as_it_was() -> None:
    text = (GUEST / "zoneinfo.txt").read_text()
    zones = parse_zoneinfo(text)
    assert [zone.name for zone in zones] == ["DMA", "DMA32", "Normal", "Movable", "Device"]
    assert zones[0].node_counters
    assert len(zones[1].page_sets) == 2
    assert zoneinfo(zones) == text


def test_the_kernel_stops_counting_a_list_at_100000() -> None:
    zone = ZoneCounts("Normal", present=1, free_by_type=[[99_999, 100_000, 100_001]] * 5, pageblocks=[0] * 5)
    assert " 99999 >100000 >100000 \n" in pagetypeinfo([zone])


def test_a_zone_without_pages_is_in_zoneinfo_only() -> None:
    zone = ZoneCounts("Movable", free_by_type=[[0] * 11] * 5, pageblocks=[0] * 5)
    assert buddyinfo([zone]) == ""
    assert zoneinfo([zone]).endswith("        protection: (0)\n")


# -- a live memory -----------------------------------------------------------------------------------------


def test_a_live_memory_reads_like_a_guest(sync: Sync) -> None:
    with Memory([ZoneSpec("DMA32", 4096), ZoneSpec("Normal", 1 << 15)], sync=sync, ram=None) as memory:
        memory.alloc_pages(GFP_KERNEL, 3)
        memory.alloc_pages(GFP_HIGHUSER_MOVABLE, 9)
        zones = memory_zones(memory)
        assert [zone.name for zone in zones] == ["DMA", "DMA32", "Normal", "Movable", "Device"]
        read = parse_pagetypeinfo(pagetypeinfo(zones))
        info = [zone for zone in parse_zoneinfo(zoneinfo(zones)) if zone.managed]
        lines = buddyinfo(zones).splitlines()
        for zone, counts, marks, line in zip(memory.zones, read, info, lines, strict=True):
            assert numbers(line.partition(zone.name)[2]) == list(zone.nr_free)
            assert counts.nr_free == list(zone.nr_free)
            assert sum(counts.pageblocks) == zone.managed_pages >> 9
            assert (marks.free, marks.min, marks.low, marks.high) == (
                zone.nr_free_pages,
                zone.min_wmark_pages(),
                zone.low_wmark_pages(),
                zone.high_wmark_pages(),
            )
            assert (marks.start_pfn, marks.managed) == (zone.start_pfn, zone.managed_pages)
            assert marks.page_sets[0].count == memory.nr_page_set_pages(zone)
        assert sum(marks.page_sets[0].count for marks in info) > 0
        reserve = memory.zones[0].lowmem_reserve  # without HighMem, and Device after Movable
        assert info[0].protection == [*reserve[:3], reserve[4], reserve[4]]
        assert [marks.node_counters is not None for marks in info] == [True, False]


def test_every_node_has_every_zone_down_to_its_protection() -> None:
    specs = [ZoneSpec("DMA32", 4096), ZoneSpec("Normal", 4096), ZoneSpec("Normal", 4096, node=1)]
    for movable_keeps_token in (False, True):
        revision = replace(V6_1, movable_keeps_token=movable_keeps_token)
        text = zoneinfo(memory_zones(Memory(specs, ram=None, revision=revision)))
        heads = re.findall(r"^Node (\d), zone +(\w+)$", text, re.MULTILINE)
        assert heads == [
            (node, name) for node in "01" for name in ("DMA", "DMA32", "Normal", "Movable", "Device")
        ]
        # The kernel's unpopulated Movable zone has a min mark of 32 pages since 6.6.
        mark = 32 if movable_keeps_token else 0
        empty = text[text.index("Node 1, zone  Movable") : text.rindex("Node 1, zone   Device")]
        assert empty == (
            "Node 1, zone  Movable\n"
            "  pages free     0\n"
            "        boost    0\n"
            f"        min      {mark}\n"
            f"        low      {mark}\n"
            f"        high     {mark}\n"
            "        spanned  0\n"
            "        present  0\n"
            "        managed  0\n"
            "        cma      0\n"
            "        protection: (0, 0, 0, 0, 0)\n"
        )
        # Each node's figures stand in its first zone that has pages, as parsers expect.
        assert re.findall(r"^Node (\d), zone +(\w+)\n  per-node stats$", text, re.MULTILINE) == [
            ("0", "DMA32"),
            ("1", "Normal"),
        ]


def test_zones_are_printed_by_node_whatever_their_addresses() -> None:
    specs = [ZoneSpec("Normal", 4096, node=1), ZoneSpec("Normal", 4096), ZoneSpec("HighMem", 4096)]
    zones = memory_zones(Memory(specs, ram=None))

    assert [(zone.node, zone.name) for zone in zones if zone.present] == [
        (0, "Normal"),
        (0, "HighMem"),
        (1, "Normal"),
    ]
    assert len(zones[0].protection) == 6


def test_a_processors_page_set_is_printed_for_each_in_their_order() -> None:
    specs = [ZoneSpec("Normal", 1 << 18)]
    memory = Memory(specs, revision=V6_1, ram=None, cpus=3, min_free_kbytes=67584)
    memory.run_on_cpu(1)
    memory.alloc_pages(GFP_KERNEL)
    (zone,) = [zone for zone in parse_zoneinfo(zoneinfo(memory_zones(memory))) if zone.managed]

    assert zone.page_sets == [
        PageSetCounts(0, 0, 7040, 63),
        PageSetCounts(1, 62, 7040, 63),
        PageSetCounts(2, 0, 7040, 63),
    ]


# -- a log -------------------------------------------------------------------------------------------------


def text_at(run: Path, file: str, at_s: float, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["proc", str(run), file, f"--at={at_s!r}"]) == 0
    return capsys.readouterr().out


def test_a_log_gives_the_zones_as_they_were(recorded_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("msgspec", reason="reading logs needs msgspec (the extra 'analysis')")
    lines = [json.loads(line) for line in (recorded_run / "events-0001.ndjson").read_text().splitlines()]
    told = [line for line in lines if line["event"] in ("zone_state", "zone_snapshot")]
    assert {line["event"] for line in told} == {"zone_state", "zone_snapshot"}
    for line in (told[2], told[-1]):  # one while all threads are at work, and the last
        rows = text_at(recorded_run, "buddyinfo", line["t"] / 1e9, capsys).splitlines()
        assert (
            numbers(rows[line["zone"]].partition(",")[2].partition("zone")[2].split(maxsplit=1)[1])
            == line["nr_free"]
        )
    last = told[-1]
    read = parse_pagetypeinfo(text_at(recorded_run, "pagetypeinfo", 1e6, capsys))[last["zone"]]
    lists = {(order, migratetype): len(pfns) for order, migratetype, pfns in last["lists"]}
    assert {
        (order, migratetype): count
        for migratetype, counts in enumerate(read.free_by_type)
        for order, count in enumerate(counts)
        if count
    } == lists
    assert read.pageblocks == [last["block_types"].count(str(k)) for k in range(5)]
    text = text_at(recorded_run, "zoneinfo", 1e6, capsys)
    info = [zone for zone in parse_zoneinfo(text) if zone.managed][last["zone"]]
    assert (info.free, info.min, info.low, info.high) == (last["nr_free_pages"], *last["watermark"])
    assert info.page_sets[0].count == 0


@pytest.mark.parametrize("at", ["-1", "nan", "inf"])
def test_a_time_that_is_none_is_told(recorded_run: Path, at: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("msgspec", reason="reading logs needs msgspec (the extra 'analysis')")
    assert main(["proc", str(recorded_run), "buddyinfo", f"--at={at}"]) == 2
    assert "expected seconds since the run began" in capsys.readouterr().err


def test_all_three_files_are_there() -> None:
    assert list(FILES) == ["buddyinfo", "pagetypeinfo", "zoneinfo"]


def test_the_texts_are_found_where_they_were_first() -> None:
    assert all(getattr(procfs, name) is getattr(first_place, name) for name in first_place.__all__)
