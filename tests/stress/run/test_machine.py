"""What machine a run stands for: pages and pageblocks of other sizes, CPUs, the reserve."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pagealloc import Layout, Memory, ZoneSpec
from stress.cli import main
from stress.errors import BadArgument
from stress.run.params import RunParams, parse_changes

ARM64 = ("--page-size=64KiB", "--pageblock-order=13", "--zones=Normal=1GiB")


def run(tmp_path: Path, *words: str) -> int:
    return main(["run", "--seconds=0.3", "--allocators=2", f"--run-dir={tmp_path / 'run'}", *words])


def test_nothing_is_ever_reported_on_arm64_below_16_gib_and_the_run_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With pages of 64 KiB a batch of 32 pageblocks is 16 GiB, which would have to be free at once."""
    assert run(tmp_path, *ARM64, "--delay=0.05") == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "a pass needs more than 262" in words
    assert "capacity << order: 16" in words  # GiB and some, in MiB
    assert "the zone has 16384 (1024 MiB)" in words
    assert "reported 0 blocks" in words


@pytest.mark.parametrize(("capacity", "told"), [(32, False), (33, True)])
def test_a_batch_that_no_kernel_makes_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], capacity: int, told: bool
) -> None:
    assert run(tmp_path, f"--capacity={capacity}", "--zones=Normal=64MiB", "--order=2") == 0
    words = " ".join(capsys.readouterr().out.split())
    assert ("batches of up to 33 blocks are ours: no kernel makes one of more than 32" in words) == told


def test_a_smaller_order_reports_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, *ARM64, "--order=5", "--delay=0.05", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["reported_blocks"] > 0
    assert summary["reported_bytes"] % (1 << 21) == 0  # blocks of 2 MiB and more


def test_a_zone_of_large_pages_has_as_many_bytes() -> None:
    params = RunParams(page_size="64KiB", pageblock_order=13, zones="Normal=1GiB")
    layout = params.layout()
    assert (layout.nr_orders, layout.pageblock_order, layout.page_size) == (14, 13, 1 << 16)
    (spec,) = params.zone_specs()
    assert spec.nr_pages == 1 << 14
    with Memory([spec], layout=layout, min_free_kbytes=4096) as memory:
        assert memory.ram is not None
        assert memory.ram.nr_bytes == 1 << 30
        assert memory.zones[0].watermark[0] == 64  # 4 MiB
        pfn = memory.alloc_pages(0, 1)
        assert pfn is not None
        assert len(memory.view(pfn, 1)) == 1 << 17
        assert memory.page_sets is not None
        assert memory.page_sets.bounds[0].batch == 3  # a quarter of a MiB of pages at most


def test_a_page_set_holds_a_cpus_share() -> None:
    bounds = []
    for cpus in (1, 4):
        memory = Memory([ZoneSpec("Normal", 1 << 18)], ram=None, cpus=cpus, min_free_kbytes=67584)
        assert memory.page_sets is not None
        bounds.append(memory.page_sets.bounds[0].high_min)

    assert bounds == [21120, 5280]


def test_an_order_of_0_is_single_pages_and_none_the_pageblocks() -> None:
    assert RunParams().order is None
    assert parse_changes({"order": "0"}) == {"order": 0}
    assert RunParams(order=0).order == 0
    assert RunParams(order=13, pageblock_order=13).layout().top_order == 13


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"page_size": "8KiB"}, "--page-size: '8KiB', expected one of 4KiB, 16KiB, 64KiB"),
        ({"page_size": "64KiB", "zones": "Normal=100KiB"}, "a size of whole pages of 65536 bytes"),
        ({"pageblock_order": 0}, "--pageblock-order: 0, expected 1 .. 15"),
        ({"pageblock_order": 16}, "--pageblock-order: 16, expected 1 .. 15"),
        ({"order": 11}, "--order: 11, expected 0 .. 10"),
        ({"cpus": 0}, "--cpus: 0, expected 1 .. 8192"),
        ({"min_free_kbytes": -1}, "--min-free-kbytes: -1, expected 0 .."),
    ],
)
def test_a_machine_that_cannot_be_is_named(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(BadArgument, match=complaint):
        RunParams(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("page_shift", [11, 17])
def test_a_page_is_no_smaller_than_4_kib_and_no_larger_than_64(page_shift: int) -> None:
    with pytest.raises(ValueError, match=rf"page_shift is {page_shift}, expected 12 .. 16"):
        Layout(page_shift=page_shift)
