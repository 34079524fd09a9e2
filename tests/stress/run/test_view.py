"""What a run looks like: bars, the picture, the lines, and the table at the end."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from stress.errors import Verdict
from stress.run.status import Status, ZoneStatus
from stress.run.summary import Summary
from stress.run.view import PARTS, LineView, LiveView, bar, mib, picture, print_summary

ZONE = ZoneStatus(
    name="Normal", managed=24576, free=12000, allocated=9000, on_page_sets=76, in_flight=3500, reported=8000
)
STATUS = Status(
    seconds=1.25,
    phase="load",
    zones=(ZONE,),
    allocs=12345,
    frees=12000,
    failed_allocs=67,
    ops_per_second=9876.5,
    resident_bytes=40 << 20,
    total_bytes=96 << 20,
    passes=8,
    batches=21,
    failed_batches=2,
    reported_bytes=300 << 20,
    state="active",
    stuck=None,
    violations=0,
)


def plain(width: int = 100) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=width, force_terminal=False, no_color=True), out


# -- bars ----------------------------------------------------------------------------------------------------

sizes = st.lists(st.integers(0, 1 << 40), min_size=1, max_size=6)


def draw(parts: list[int], width: int) -> str:
    return bar([(size, "red", "abcdef"[at]) for at, size in enumerate(parts)], width).plain


@given(sizes.filter(any), st.integers(10, 200))
def test_the_parts_of_a_bar_add_up_to_its_width(parts: list[int], width: int) -> None:
    assert len(draw(parts, width)) == width


@given(sizes, st.integers(10, 200))
def test_every_part_that_is_not_zero_is_visible_and_no_other(parts: list[int], width: int) -> None:
    assert set(draw(parts, width)) == {"abcdef"[at] for at, size in enumerate(parts) if size}


@given(sizes, st.integers(10, 200))
def test_the_parts_of_a_bar_stand_in_order(parts: list[int], width: int) -> None:
    drawn = draw(parts, width)
    assert drawn == "".join(sorted(drawn))


@given(sizes.filter(any), st.integers(10, 200))
def test_a_part_is_as_long_as_its_share_give_or_take_what_the_small_ones_need(
    parts: list[int], width: int
) -> None:
    drawn = draw(parts, width)
    for at, size in enumerate(parts):
        share = size * width / sum(parts)
        assert abs(drawn.count("abcdef"[at]) - share) <= len(parts)


def test_a_sliver_at_the_end_of_a_full_bar_is_visible() -> None:
    assert draw([1_000_000, 1, 1], 20) == "a" * 18 + "bc"


# -- the picture ---------------------------------------------------------------------------------------------


def drawn(status: Status, width: int = 100) -> str:
    console, out = plain(width)
    console.print(picture(status, width))
    return out.getvalue()


def test_the_picture_can_be_read_without_colour() -> None:
    text = drawn(STATUS)
    assert "\x1b" not in text
    for _, letter, name in PARTS:
        assert f" {letter} {name}" in text, "the legend"
    bar = next(line for line in text.splitlines() if "Normal" in line)
    assert all(letter in bar for _, letter, _ in PARTS)
    for figure in (
        "1.2 s",
        "12,345 allocs",
        "67 failed",
        "8 passes",
        "21 batches (2 failed)",
        "300 MiB given back",
        "40 MiB",
        "worker active",
    ):
        assert figure in text
    assert "!!!" not in text
    assert "stuck" not in text


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_picture_fits_every_width(width: int) -> None:
    assert all(len(line) <= width for line in drawn(STATUS, width).splitlines())


def test_a_stuck_batch_and_violations_stand_out() -> None:
    text = drawn(replace(STATUS, stuck="batch 3 has been with the reporter for 9.0 s", violations=4))
    assert "stuck: batch 3 has been with the reporter for 9.0 s" in text
    assert "!!! 4 violations" in text
    assert "???" not in text


def test_what_a_host_kept_stands_out_and_nothing_does_when_it_kept_nothing() -> None:
    kept = replace(STATUS, kept_bytes=5 << 20)
    assert "kept: 5 MiB acknowledged, still resident" in drawn(kept)
    assert "kept" not in drawn(STATUS)
    console, out = plain()
    LineView(console, 1.0).show(kept)
    assert "  kept: 5 MiB" in out.getvalue()


def test_unfairness_stands_out() -> None:
    assert "??? unfair: allocator 1 made 5" in drawn(replace(STATUS, unfair="allocator 1 made 5"))


def test_a_run_without_ram_and_without_pages_is_drawn_too() -> None:
    empty = ZoneStatus(name="DMA", managed=0, free=0, allocated=0, on_page_sets=0, in_flight=0, reported=0)
    assert "DMA" in drawn(replace(STATUS, zones=(empty,), resident_bytes=0, total_bytes=0))


def test_counts_taken_at_different_moments_draw_a_bar_all_the_same() -> None:
    """More Reported than free: another thread was in between."""
    assert "Normal" in drawn(replace(STATUS, zones=(replace(ZONE, free=10, reported=8000),)))


def test_the_live_view_draws_on_a_terminal_and_clears_up_behind_itself() -> None:
    out = io.StringIO()
    view = LiveView(Console(file=out, width=100, force_terminal=True))
    view.show(STATUS)
    view.close()
    assert "Normal" in out.getvalue()
    assert "\x1b[2K" in out.getvalue(), "the picture is erased at the end"


# -- the lines -----------------------------------------------------------------------------------------------


def test_the_line_view_prints_one_plain_line_a_second() -> None:
    console, out = plain(40)
    view = LineView(console, 1.0)
    for tenths in range(31):
        view.show(replace(STATUS, seconds=tenths / 10))
    view.close()
    lines = out.getvalue().splitlines()
    assert len(lines) == 4, "lines are never wrapped, however narrow the console is"
    assert "\x1b" not in out.getvalue()
    assert lines[1].startswith("   1.0 s  load ")
    for figure in (
        "resident   40 MiB",
        "21 batches",
        "35 MiB allocated",
        "47 MiB free",
        "31 MiB reported",
        "14 MiB in flight",
    ):
        assert figure in lines[1]


def test_a_line_shows_what_is_wrong() -> None:
    console, out = plain()
    status = replace(STATUS, stuck="batch 3", unfair="allocator 1 made 5 operations", violations=2)
    LineView(console, 1.0).show(status)
    line = out.getvalue().rstrip()
    assert line.endswith("stuck: batch 3  ??? unfair: allocator 1 made 5 operations  !!! 2 violations")


# -- the end -------------------------------------------------------------------------------------------------


def end(summary: Summary) -> list[str]:
    console, out = plain(60)
    print_summary(console, summary, "seed=1 zones=Normal=96MiB")
    return out.getvalue().splitlines()


def test_of_many_violations_the_first_of_each_kind_are_shown_and_then_what_to_do() -> None:
    texts = [f"{what}: pfn {pfn:#x}" for pfn in range(10) for what in "abcdefg"]
    summary = Summary(violations=texts, violation_count=700, next_step="verify x")
    told = [line for line in end(summary) if line.startswith(("!!!", "next", "FAILURE"))]
    assert told[:5] == [f"!!! {what}: pfn 0x0 (9 more like it)" for what in "abcde"]
    assert told[5:] == ["!!! and 650 more", "next: verify x", told[-1]]
    assert told[-1].startswith("FAILURE 0.0 s, 700 violations")


def test_the_last_line_is_the_verdict_with_what_it_was_made_of() -> None:
    lines = end(Summary(verdict=Verdict.SUCCESS, seconds=8.04, allocs=1000, frees=1000))
    assert lines[-1] == "SUCCESS 8.0 s, 0 violations: seed=1 zones=Normal=96MiB"
    assert any("1,000 (249 operations per second)" in line for line in lines)


def test_what_must_be_flat_is_told_in_three_tenths_and_both_ends() -> None:
    def part(own_mib: int, threads: int) -> dict[str, int]:
        return {"own_bytes": own_mib << 20, "threads": threads, "file_descriptors": 7}

    footprint: dict[str, object] = {
        "before": part(30, 2),
        "first_tenth": part(40, 11),
        "middle_tenth": part(41, 12),
        "last_tenth": part(42, 13),
        "after": part(43, 3),
        "peak_rss_bytes": 500 << 20,
    }
    text = "\n".join(end(Summary(footprint=footprint, operations=[7, 1900], unfair_intervals=3)))
    words = " ".join(text.split())
    assert "own memory 40 MiB .. 41 MiB .. 42 MiB in the first, middle and last tenth" in words
    assert "with all pages 500 MiB at peak" in words
    assert "threads 11 .. 12 .. 13, 2 before and 3 after" in words
    assert "file descriptors 7 .. 7 .. 7, 7 before and 7 after" in words
    assert "operations 7 .. 1,900 a thread, 3 unfair intervals" in words


def test_an_interrupted_run_says_so_in_its_verdict() -> None:
    lines = end(Summary(verdict=Verdict.SUCCESS, seconds=2.5, interrupted=True))
    assert lines[-1].startswith("SUCCESS interrupted after 2.5 s, 0 violations")


def test_violations_and_notes_are_told_before_the_verdict() -> None:
    summary = Summary(
        violations=["two owners: [red]x[/red]"], violation_count=51, notes=["zone DMA is never reported"]
    )
    lines = end(summary)
    assert "note: zone DMA is never reported" in lines
    assert "!!! two owners: [red]x[/red]" in lines
    assert "!!! and 50 more" in lines
    assert lines[-1].startswith("FAILURE 0.0 s, 51 violations")


@pytest.mark.parametrize(
    ("nr_bytes", "text"), [(0, "0 MiB"), (1 << 20, "1 MiB"), (1.5 * (1 << 30), "1536 MiB")]
)
def test_sizes_are_shown_in_mib(nr_bytes: float, text: str) -> None:
    assert mib(nr_bytes) == text
