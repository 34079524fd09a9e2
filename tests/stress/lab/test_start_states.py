"""Start states: from counts, from marks, from exact lists; and texts that were cut off."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pagealloc.memory import Memory, ZoneSpec
from pagealloc.revision import V6_12
from pagealloc.sync_real import RealRng
from pagealloc.validate import validate
from stress.errors import BadInput
from stress.golden.state import zone_state
from stress.lab.engine import Machine, Setting
from stress.lab.exact_state import read_exact
from stress.lab.guest import Guest, build_memory
from stress.lab.options import Options
from stress.lab.predict import run_machine
from stress.lab.proc_state import BadState, ProcState, read_state
from stress.lab.validate import RECORDED
from stress.lab.virtual import VirtualSync, Wheel

STATE = RECORDED / "v6.12-state1.txt.gz"  # pagetypeinfo, buddyinfo and zoneinfo of one moment
LINES = gzip.decompress(STATE.read_bytes()).decode().splitlines()
SIZE = 3 << 29 - 12  # pages

PAGETYPEINFO = """Page block order: 9
Pages per block:  512

Free pages count per migrate type at order       0      1      2      3      4      5      6      7      8      9     10
Node    0, zone    DMA32, type    Unmovable      3      1      0      2      0      0      1      0      0      1      0
Node    0, zone    DMA32, type      Movable      7      2      5      0      1      0      0      2      0      3     40
Node    0, zone    DMA32, type  Reclaimable      0      4      0      0      0      0      0      0      1      0      0
Node    0, zone    DMA32, type   HighAtomic      0      0      0      0      0      0      0      0      0      0      0
Node    0, zone    DMA32, type      Isolate      0      0      0      0      0      0      0      0      0      0      0

Number of blocks type     Unmovable      Movable  Reclaimable   HighAtomic      Isolate
Node 0, zone    DMA32           12          232            4            0            0
"""
UNMOVABLE, MOVABLE, RECLAIMABLE = 0, 1, 2
LAID_DOWN = {  # of the pagetypeinfo above, by type
    UNMOVABLE: [3, 1, 0, 2, 0, 0, 1, 0, 0, 1, 0],
    MOVABLE: [7, 2, 5, 0, 1, 0, 0, 2, 0, 3, 40],
    RECLAIMABLE: [0, 4, 0, 0, 0, 0, 0, 0, 1, 0, 0],
}


def read(tmp_path: Path, *texts: str) -> ProcState:
    paths = []
    for number, text in enumerate(texts):
        paths.append(tmp_path / f"{number}.txt")
        paths[-1].write_text(text)
    return read_state(paths)


def memory_of(guest: Guest, *, seed: int = 0, page_sets: bool = False) -> Memory:
    return build_memory(guest, VirtualSync(), RealRng(seed), page_sets=page_sets)


def counts(memory: Memory, zone: int, migratetype: int) -> list[int]:
    of_zone = memory.zones[zone]
    return [
        sum(1 for _ in of_zone.list_pfns(order, migratetype)) for order in range(of_zone.layout.nr_orders)
    ]


def section(begin: str, end: str = "never") -> str:
    """Cut one of the texts out of a recorded state."""
    first = next(at for at, line in enumerate(LINES) if line.startswith(begin))
    behind = next((at for at in range(first + 1, len(LINES)) if LINES[at].startswith(end)), len(LINES))
    return "\n".join(LINES[first:behind]) + "\n"


def exact_lists(memory: Memory) -> Iterator[dict[str, Any]]:
    for zone in memory.zones:
        place = {"name": zone.name, "start": zone.start_pfn, "pages": zone.end_pfn - zone.start_pfn}
        min_pages, low, high = zone.watermark
        yield place | zone_state(zone) | {"min": min_pages, "low": low, "high": high}


# -- counts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pagetypeinfo_gives_so_many_blocks_of_each_order_and_type_and_none_beside_its_buddy(
    tmp_path: Path, seed: int
) -> None:
    state = read(tmp_path, PAGETYPEINFO)
    memory = memory_of(Guest(1 << 17, state=state), seed=seed)
    zone = memory.zones[0]
    for migratetype, laid_down in LAID_DOWN.items():
        assert counts(memory, 0, migratetype) == laid_down
    validate(zone)  # two free buddies on lists are one of the things that it refuses
    assert zone.nr_free_pages == state.zones["DMA32"].free_pages()


def test_another_seed_puts_the_same_blocks_elsewhere(tmp_path: Path) -> None:
    guest = Guest(1 << 17, state=read(tmp_path, PAGETYPEINFO))
    one, again, other = (
        list(memory_of(guest, seed=seed).zones[0].list_pfns(10, MOVABLE)) for seed in (0, 0, 1)
    )
    assert one == again != other
    assert len(one) == len(other) == 40


def test_buddyinfo_knows_no_types_and_pagetypeinfo_beside_it_knows_better(tmp_path: Path) -> None:
    row = "Node 0, zone    DMA32 " + " ".join(
        str(sum(laid_down[order] for laid_down in LAID_DOWN.values())) for order in range(11)
    )
    alone = read(tmp_path, row + "\n")
    assert not alone.types_known
    memory = memory_of(Guest(1 << 17, state=alone))
    assert sum(counts(memory, 0, MOVABLE)) == sum(map(sum, LAID_DOWN.values()))

    both = read(tmp_path, row + "\n", PAGETYPEINFO)
    assert both.types_known
    assert counts(memory_of(Guest(1 << 17, state=both)), 0, MOVABLE) == LAID_DOWN[MOVABLE]


def test_a_state_of_a_larger_guest_does_not_fit_and_says_so(tmp_path: Path) -> None:
    state = read(tmp_path, PAGETYPEINFO.replace("    40\n", "   400\n"))
    with pytest.raises(BadInput, match="its free blocks do not fit into its 126976 pages"):
        memory_of(Guest(1 << 17, state=state))


# -- marks and limits ----------------------------------------------------------------------------------


def test_zoneinfo_gives_the_place_the_marks_and_the_limits_of_the_cpus_lists() -> None:
    state = read_state([STATE])
    assert state.cpus() == 1
    memory = memory_of(Guest(SIZE, state=state, revision=V6_12, cpus=4), page_sets=True)
    zone = memory.zones[1]
    assert (zone.name, zone.start_pfn, zone.end_pfn) == ("DMA32", 4096, 4096 + 389084)
    assert zone.watermark == [11148, 13935, 16722]
    sets = memory.page_sets
    assert sets is not None
    batch, high_min, high_max = sets.bounds[zone.number]
    assert (batch, high_min, high_max) == (
        63,
        13935,
        372383 // 8,
    )  # the low mark, an eighth of what is managed
    assert sets.set_of(zone, 0).count() == 3603  # as its zoneinfo has it: "count: 3603"
    assert sets.set_of(zone, 0).high == 13935
    validate(zone)


def test_a_cpus_lists_hold_nothing_where_no_zoneinfo_tells_of_them(tmp_path: Path) -> None:
    state = read(tmp_path, section("Page block order", "Node 0, zone      DMA\n"))
    state.zones["DMA32"].page_sets.clear()
    memory = memory_of(Guest(SIZE, state=replace(state, promo_mark=True)), page_sets=True)
    assert memory.page_sets is not None
    assert sum(memory.page_sets.nr_pages(zone) for zone in memory.zones) == 0


def test_huge_pages_raise_the_marks_where_zoneinfo_does_not_tell_them(tmp_path: Path) -> None:
    text = PAGETYPEINFO.replace("    40\n", "   100\n")
    plain, raised = (
        memory_of(Guest(1 << 18, state=read(tmp_path, text), huge_pages=huge)) for huge in (False, True)
    )
    assert (
        raised.zones[0].watermark[0] == 11 * 512
    )  # one zone: two pageblocks, and one for each pair of types
    assert plain.zones[0].watermark[0] < 1100


# -- exact lists ---------------------------------------------------------------------------------------


def test_exact_lists_are_on_the_lists_in_their_order_with_their_flags() -> None:
    lists = {
        "lists": {"10.1": [4096, 2048, 1024], "9.1": [3072], "0.0": [3585, 3600], "3.2": [3584 + 64]},
        "reported": [2048, 3072],
        "blocks": "1111" + "1" + "2" * 0 + "11111",
    }
    zones = (ZoneSpec("Normal", 4096, start_pfn=1024),)
    lists["blocks"] = "1" * 5 + "2" + "1" * 2
    memory = memory_of(Guest(zones=zones, lists=(lists,)))
    state = zone_state(memory.zones[0])
    assert {key: state[key] for key in lists} == lists
    assert state["free"] == 3 * 1024 + 512 + 2 + 8


def test_a_machine_begins_with_the_blocks_unreported_that_exact_lists_say() -> None:
    lists = {"lists": {"10.1": [4096, 2048, 1024]}, "reported": [2048], "blocks": "1" * 8}
    guest = Guest(zones=(ZoneSpec("Normal", 4096, start_pfn=1024),), lists=(lists,))
    machine = Machine(guest, Setting(capacity=2), wheel=Wheel(None))
    machine.register_quietly()
    resident = machine.host.resident_pages
    assert resident == 1024 + 2 * 1024  # what is in use, and what is free and was not given back

    machine.reporting.notify()
    machine.run(lambda _: iter(()), 10.0)
    assert [each.blocks for each in machine.passes] == [2]
    assert machine.host.resident_pages == 1024


def test_a_state_that_was_written_is_read_as_it_was(tmp_path: Path) -> None:
    before = memory_of(Guest(SIZE, state=read_state([STATE]), revision=V6_12))
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"zones": list(exact_lists(before))}))
    point = Options(load="idle", state=(str(path),), preset="v6.12")
    machine, notes = run_machine(replace(point, until=0.5))
    after = [zone_state(zone) for zone in machine.memory.zones]
    assert after == [zone_state(zone) for zone in before.zones]
    assert [zone.watermark for zone in machine.memory.zones] == [zone.watermark for zone in before.zones]
    assert "start lists, block for block, from state.json" in notes


# -- what is cut off, or is none -----------------------------------------------------------------------


@pytest.mark.parametrize("lines", range(1, len(PAGETYPEINFO.splitlines())))
def test_a_pagetypeinfo_that_ends_at_any_line_is_refused(tmp_path: Path, lines: int) -> None:
    cut = "\n".join(PAGETYPEINFO.splitlines()[:lines]) + "\n"
    with pytest.raises(BadState, match=r"no free blocks|ends early|cut off"):
        read(tmp_path, cut)


def test_a_row_that_ends_early_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadState, match=r"line 6: 10 counts, expected 11"):
        read(tmp_path, PAGETYPEINFO.replace("      3     40\n", "      3\n"))
    with pytest.raises(BadState, match=r"line 12: 4 counts, expected 5"):
        read(tmp_path, PAGETYPEINFO.replace("4            0            0\n", "4            0\n"))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"lists": {"10.1": [1025]}}, "block 0x401 on list '10.1'"),
        ({"lists": {"10.1": [8192]}}, "block 0x2000 on list '10.1'"),
        ({"lists": {"10.1": [1024], "9.1": [1536]}}, "block 0x600 lies in another one"),
        ({"lists": {"12.1": []}}, "a list '12.1', expected orders below 11"),
        ({"lists": {"10.1": [1024]}, "reported": [2048]}, "block 0x800 is reported and on no list"),
        ({"lists": None}, "a zone without lists"),
    ],
)
def test_lists_that_cannot_be_are_refused(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    zone: dict[str, Any] = {"name": "Normal", "start": 1024, "pages": 4096, "blocks": "1" * 8} | change
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"zones": [{key: value for key, value in zone.items() if value is not None}]}))
    with pytest.raises(BadState, match=complaint):
        read_exact(path)


def test_a_case_that_loads_no_lists_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "case.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"flavour": "v6.1", "name": "one", "ops": 1}\n{"op": {"op": "init"}}\n'))
    with pytest.raises(BadState, match="expected one with init and load_state"):
        read_exact(path)
