"""A run's log as the kernel's trace text."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from stress.cli import main
from stress.formats.ftrace import format_event, page_fields, parse_ftrace

KMEM = (
    "mm_page_alloc", "mm_page_free", "mm_page_alloc_zone_locked", "mm_page_pcpu_drain", "mm_page_alloc_extfrag",
)  # fmt: skip

# A line that a guest's tracefs printed (Linux 6.12, hashed pointer aside).
KERNELS = (
    "             hog-161     [000] .....    27.488902: mm_page_alloc: page=ffffea0000118000 pfn=0x4600 order=9 "
    "migratetype=1 gfp_flags=GFP_TRANSHUGE_LIGHT|__GFP_NORETRY|__GFP_THISNODE"
)


@pytest.fixture
def text(recorded_run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    pytest.importorskip("msgspec", reason="reading logs needs msgspec (the extra 'analysis')")
    assert main(["proc", str(recorded_run), "ftrace"]) == 0
    return capsys.readouterr().out


def test_a_line_is_the_kernels_to_the_letter() -> None:
    (event,) = parse_ftrace([KERNELS])
    rest = event.text.partition("pfn=0x4600 ")[2]
    line = format_event("hog", 161, 0, 27_488_902_999, "mm_page_alloc", f"{page_fields(0x4600)} {rest}")

    assert line == KERNELS


def test_every_kmem_event_of_the_log_is_there_and_is_read_again(text: str, recorded_run: Path) -> None:
    records = [json.loads(line) for line in (recorded_run / "events-0001.ndjson").read_text().splitlines()]
    logged = [record for record in records if record["event"] in KMEM]
    events = list(parse_ftrace(text.splitlines()))
    assert Counter(event.name for event in events) == Counter(record["event"] for record in logged)
    assert {event.name for event in events} >= set(KMEM[:4])
    for event, record in zip(events, logged, strict=True):
        assert (event.cpu, event.pid) == (record["thread"], 1000 + record["thread"])
        assert event.time_s == pytest.approx(record["t"] / 1e9, abs=1e-6)
        if record["pfn"] >= 0:
            assert event.number("pfn") == record["pfn"]
        for name in ("order", "migratetype", "alloc_order", "fallback_order", "percpu_refill", "fragmenting"):
            if name in record:
                assert event.number(name) == record[name]
        if event.name == "mm_page_alloc":
            assert event.fields["gfp_flags"] == record["gfp_flags"]


def test_a_failed_allocation_is_a_null_pointer(text: str) -> None:
    for line in text.splitlines():
        assert "pfn=-" not in line
        if "mm_page_alloc: " in line:
            assert re.search(
                r"page=[0-9a-f]{16} pfn=0x[0-9a-f]+ order=\d+ migratetype=\d gfp_flags=[A-Z0-9_|]+$", line
            )


def test_the_trace_ends_at_the_time_that_is_asked_for(
    recorded_run: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    events = list(parse_ftrace(text.splitlines()))
    middle_s = events[len(events) // 2].time_s
    assert main(["proc", str(recorded_run), "ftrace", f"--at={middle_s!r}"]) == 0
    cut = list(parse_ftrace(capsys.readouterr().out.splitlines()))

    assert 0 < len(cut) < len(events)
    assert cut == events[: len(cut)]


def test_the_other_files_need_a_time(recorded_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("msgspec", reason="reading logs needs msgspec (the extra 'analysis')")
    assert main(["proc", str(recorded_run), "zoneinfo"]) == 2
    assert "--at: none, expected the time that zoneinfo is to tell of" in capsys.readouterr().err


# -- what readers expect -----------------------------------------------------------------------------------------

# Task and pid in letters, digits and dashes, the CPU, and at once the time: of trace-pagealloc-postprocess.pl.
SCRIPTS_LINE = re.compile(
    r"\s*(?P<task>[-A-Za-z0-9]+-\d+)\s*\[\d+\]\s*\d+\.\d+:\s*(?P<event>[a-z_]+):\s*(?P<rest>\S.*)"
)
SCRIPTS_EXTFRAG = re.compile(
    r"page=[0-9a-f]+ pfn=\d+ "
    + " ".join(
        rf"{name}=-?\d+"
        for name in (
            "alloc_order", "fallback_order", "pageblock_order", "alloc_migratetype", "fallback_migratetype",
            "fragmenting", "change_ownership",
        )
    )
)  # fmt: skip

# The pid behind the last dash, up to five flags or none, and the time in seconds: of Perfetto's importer.
PERFETTOS_LINE = re.compile(r".{1,16}-\d+\s+\[\d{3}\]\s+(?:[.a-zA-Z0-9]{1,5}\s+)?\d+\.\d{6}: \w+: .*")


def lines_of(run: Path, capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(["proc", str(run), "ftrace", *words]) == 0
    return [line for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]


def test_the_script_that_comes_with_the_kernel_reads_every_line(
    recorded_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("msgspec", reason="reading logs needs msgspec (the extra 'analysis')")
    found = [SCRIPTS_LINE.fullmatch(line) for line in lines_of(recorded_run, capsys, "--decimal")]
    assert found
    assert all(found)
    extfrag = [match["rest"] for match in found if match and match["event"] == "mm_page_alloc_extfrag"]
    assert extfrag
    assert all(map(SCRIPTS_EXTFRAG.fullmatch, extfrag))


def test_perfettos_importer_knows_the_text_by_its_head_and_reads_every_line(text: str) -> None:
    assert text.startswith("# tracer")
    assert all(PERFETTOS_LINE.fullmatch(line) for line in text.splitlines() if not line.startswith("#"))


@pytest.mark.parametrize(
    "line",
    [
        KERNELS,  # with the column of flags
        "   a_thread-1  [000]     1.000000: mm_page_free: page=0 pfn=1 order=0",
        "   thread-1  [000]     1.000000: mm_page_free:",
    ],
)
def test_the_script_would_not_read(line: str) -> None:
    assert SCRIPTS_LINE.fullmatch(line) is None
    assert SCRIPTS_EXTFRAG.fullmatch("page=0 pfn=0x20 alloc_order=0") is None


def test_pfns_are_the_same_in_either_notation(recorded_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("msgspec", reason="reading logs needs msgspec (the extra 'analysis')")
    hexadecimal = list(parse_ftrace(lines_of(recorded_run, capsys)))
    decimal = list(parse_ftrace(lines_of(recorded_run, capsys, "--decimal")))
    assert [event.fields for event in hexadecimal] == [event.fields for event in decimal]
