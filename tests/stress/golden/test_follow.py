"""Calls of a running kernel's users go in: what reaches the zone is what reached it there.

`calls-6.1.txt.gz` is the trace of a guest with Linux 6.1, two CPUs and 1 GiB, all of whose kmem events are there: THPs,
single pages and the kernel's own blocks, allocated and freed by two processes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pagealloc.revision import V5_7, V6_1, V6_12, Revision
from stress.cli import main
from stress.errors import BadInput
from stress.formats.ftrace import parse_ftrace, read_ftrace
from stress.formats.procfs import PageSetCounts, ZoneCounts, parse_zoneinfo
from stress.golden.follow import Agreement, Call, calls_of, follow

pytestmark = pytest.mark.interpreted("a zone gives nothing but its own pages")

TRACE = Path(__file__).parent / "calls-6.1.txt.gz"
ZONEINFO = Path(__file__).parents[1] / "formats" / "proc" / "zoneinfo.txt"

# One zone with sets of four batches of three pages.
ONE_ZONE = [
    ZoneCounts(
        "Normal",
        managed=16384,
        spanned=16384,
        low=12,
        min=10,
        high=14,
        page_sets=[PageSetCounts(0, 0, 12, 3)],
    )
]


@pytest.fixture(scope="module")
def guest() -> list[ZoneCounts]:
    return parse_zoneinfo(ZONEINFO.read_text())


@pytest.fixture(scope="module")
def recorded_calls() -> list[Call]:
    return calls_of(read_ftrace(TRACE), V6_1)


def trace(*events: str, revision: Revision = V6_1) -> list[Call]:
    """Read events of one task on one CPU, each a second's thousandth after the other."""
    lines = (f"t-1 [000] ..... 1.{at:03d}000: mm_page_{event}" for at, event in enumerate(events))
    return calls_of(parse_ftrace(lines), revision)


def alloc(pfn: int, order: int = 0) -> str:
    return f"alloc: pfn={pfn:#x} order={order} migratetype=1 gfp_flags=GFP_KERNEL"


def refill(*pfns: int, order: int = 0) -> list[str]:
    return [f"alloc_zone_locked: pfn={pfn:#x} order={order} migratetype=1 percpu_refill=1" for pfn in pfns]


def free(pfn: int, order: int = 0) -> str:
    return f"free: pfn={pfn:#x} order={order}"


def extfrag(pfn: int, order: int = 0, fallback_order: int = 10) -> str:
    """Say that a page comes from a block of another type."""
    return (
        f"alloc_extfrag: pfn={pfn:#x} alloc_order={order} fallback_order={fallback_order} pageblock_order=9 "
        "alloc_migratetype=1 fallback_migratetype=0 fragmenting=0 change_ownership=1"
    )


def drain(*pfns: int, order: int = 0) -> list[str]:
    return [f"pcpu_drain: pfn={pfn:#x} order={order} migratetype=1" for pfn in pfns]


def one_zone(calls: Sequence[Call], revision: Revision = V6_1) -> Agreement:
    return follow(ONE_ZONE, revision, calls)


# -- a running kernel ------------------------------------------------------------------------------------------


def test_what_reaches_the_zone_is_what_reached_it_in_the_guest(
    guest: list[ZoneCounts], recorded_calls: list[Call]
) -> None:
    agreement = follow(guest, V6_1, recorded_calls)

    assert agreement.zone_calls > 90
    assert agreement.share >= 0.99
    assert agreement.agree / agreement.calls >= 0.999
    assert agreement.same_pages / agreement.calls >= 0.999
    assert not agreement.unseen  # the guest's sets are emptied once, so all that rested there is known


@pytest.mark.parametrize(
    "revision",
    [
        V5_7,
        replace(V6_1, pcp_tunes_high=True),
        replace(V6_1, pcp_high_by_marks=False),
        replace(V6_1, pcp_pageblock_order=False),
    ],
    ids=["v5.7", "tuned", "six batches", "no THPs"],
)
def test_another_kernels_sets_do_otherwise(
    guest: list[ZoneCounts], recorded_calls: list[Call], revision: Revision
) -> None:
    assert follow(guest, revision, recorded_calls).share < 0.9


def test_a_guest_with_another_number_of_cpus_does_otherwise(
    guest: list[ZoneCounts], recorded_calls: list[Call]
) -> None:
    four = [replace(zone, page_sets=[*zone.page_sets, *zone.page_sets]) for zone in guest]

    assert follow(four, V6_1, recorded_calls).share < 0.99


def test_a_recording_that_was_altered_is_found_out(guest: list[ZoneCounts]) -> None:
    events = list(read_ftrace(TRACE))
    refills = [at for at, event in enumerate(events) if event.name == "mm_page_alloc_zone_locked"]
    drains = [at for at, event in enumerate(events) if event.name == "mm_page_pcpu_drain"]
    del events[drains[100]], events[refills[100]]

    agreement = follow(guest, V6_1, calls_of(events, V6_1))

    # Either page is missed once, and a page too many or too few on a list is noticed when that ends.
    assert 2 <= len(agreement.differences) < 10


def test_the_command_says_how_many_agree(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["follow", str(TRACE), str(ZONEINFO), "--preset", "v6.1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"92 of them reach the zone, 92 agree in pages, orders and types", out)
    assert "SUCCESS 100.00% of the calls that reach the zone agree, with v6.1" in out

    assert main(["follow", str(TRACE), str(ZONEINFO), "--preset", "v5.7"]) == 1
    out = capsys.readouterr().out
    assert re.search(
        r"allocates pfn 0x1e2f order 0\n    kernel: 63 of order 0 type 1\n    ours:   no zone event", out
    )
    assert "FAILURE" in out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([str(ZONEINFO), str(ZONEINFO)], "expected a line of trace text"),
        ([str(TRACE), str(TRACE)], f"{TRACE}: no zone in it, expected /proc/zoneinfo text"),
        ([str(TRACE), "/dev/null"], "/dev/null: no zone in it, expected /proc/zoneinfo text"),
        (["/dev/null", str(ZONEINFO)], "/dev/null: no call in it, expected trace text"),
        (["nowhere.txt", str(ZONEINFO)], "nowhere.txt: No such file"),
        ([str(TRACE), "nowhere.txt"], "nowhere.txt: "),
        ([str(TRACE), str(ZONEINFO), "--at-least=7"], "--at-least: 7, expected a share"),
    ],
)
def test_bad_input_is_told_in_one_line(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["follow", *words]) == 2
    err = capsys.readouterr().err
    assert complaint in err
    assert err.count("\n") == 1


# -- what a recording may hold -----------------------------------------------------------------------------------


def test_a_refill_belongs_to_the_allocation_that_gets_its_first_page() -> None:
    agreement = one_zone(
        trace(*refill(8, 9, 10), alloc(8), alloc(9), alloc(10), *refill(11, 12, 13), alloc(11))
    )

    assert (agreement.calls, agreement.agree, agreement.same_pages, agreement.zone_calls) == (4, 4, 4, 2)


def test_a_refill_for_an_allocation_that_is_not_traced_is_not_judged() -> None:
    # Somebody took page 8 and two more, and none of it was traced.
    agreement = one_zone(trace(*refill(8, 9, 10), alloc(99, 5), *refill(11, 12, 13), alloc(12), alloc(13)))

    assert agreement.unasked == 2
    assert (agreement.calls, agreement.agree) == (2, 2)


def test_a_page_that_is_claimed_or_stolen_is_part_of_the_refill_in_6_12() -> None:
    calls = trace(extfrag(8), *refill(9, 10), alloc(8), alloc(9), revision=V6_12)

    assert [call.zone_events for call in calls] == [[(8, 0, 1), (9, 0, 1), (10, 0, 1)], []]
    assert one_zone(calls, replace(V6_12, pcp_tunes_high=False)).agree == 2


def test_a_claim_of_less_than_a_pageblock_is_told_twice_and_counts_once() -> None:
    calls = trace(*refill(8), extfrag(8, fallback_order=5), *refill(9), alloc(8), revision=V6_12)

    assert [call.zone_events for call in calls] == [[(8, 0, 1), (9, 0, 1)]]


def test_a_claim_for_a_block_that_sets_do_not_hold_goes_past_them() -> None:
    (call,) = trace(extfrag(16, 4), alloc(16, 4), revision=V6_12)

    assert (call.past_the_sets, call.zone_events) == (True, [])


def test_a_fallback_before_is_told_by_the_event_that_follows() -> None:
    (call,) = trace(extfrag(8), *refill(8, 9), alloc(8))

    assert call.zone_events == [(8, 0, 1), (9, 0, 1)]


def test_a_recording_that_gives_a_page_twice_differs_and_breaks_nothing() -> None:
    agreement = one_zone(trace(*refill(8, 9, 9), alloc(8), alloc(9), alloc(9)))

    assert [difference.call.pfns() for difference in agreement.differences] == [[9]]


def test_pages_that_were_there_before_count_from_the_beginning() -> None:
    # Ten pages rest there, and the eleventh and twelfth free reach the limit of twelve: three go back, the coldest.
    before = range(20, 30)
    calls = trace(free(8), free(9), *drain(20, 21, 22), alloc(9), alloc(8), *map(alloc, reversed(before[3:])))
    agreement = one_zone(calls)

    assert not agreement.unseen
    assert (agreement.calls, agreement.agree, agreement.same_pages) == (10, 10, 10)


def test_what_rests_there_throughout_is_told_by_the_first_drain_which_is_not_judged() -> None:
    events = [free(8), *drain(20, 21, 22), free(9), free(10), free(11), *drain(8, 9, 10, 11)]
    agreement = one_zone(trace(*events))

    assert agreement.unseen == {0: 8}
    assert agreement.zone_calls == 1
    assert (
        agreement.zone_agree == 0
    )  # the six pages behind the three that went are colder than page 8: one differs


def test_a_recording_with_a_gap_is_refused() -> None:
    with pytest.raises(BadInput, match="lost 7 events of CPU 1, expected all"):
        calls_of(parse_ftrace(["CPU:1 [LOST 7 EVENTS]"]), V6_1)


def test_a_page_of_no_zone_is_bad_input() -> None:
    with pytest.raises(BadInput, match="names pfn 0x99999, which is in no zone"):
        one_zone(trace(alloc(0x99999)))
