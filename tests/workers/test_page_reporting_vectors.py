"""What a visit to one list does to it, letter by letter: the vectors worked out from the kernel's source.

One movable list of blocks `a`, `b`, ... that cannot merge, capacity 2. A list is written head first, `*`
stands for Reported; a batch is written in the order of its entries.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pagealloc.mmzone import MIGRATE_MOVABLE, Layout
from pagealloc.revision import PRESETS
from pagealloc.zone import Zone
from workers.page_reporting import Batch, PageReporting, PageReportingDevice

ORDER = 3
CAPACITY = 2
LAYOUT = Layout(nr_orders=5, pageblock_order=3)  # blocks of order 3 always go to the head of their list
LETTERS = "abcdefghijklmnopqrstuvwxyz"

Build = Callable[..., Zone]
BuildReporting = Callable[..., PageReporting]


class Scribe:
    """A device's reporter that writes every batch and the list beside it down, and fails when told to."""

    def __init__(self, zone: Zone, failing_call: int = 0) -> None:
        self.batches: list[str] = []
        self.lists: list[str] = []
        self._zone = zone
        self._failing_call = failing_call

    def report(self, zone: Zone, batch: Batch) -> None:
        self.batches.append(" ".join(letter(block.pfn) for block in batch))
        self.lists.append(written(self._zone))
        if len(self.batches) == self._failing_call:
            raise OSError("the device refuses")


def letter(pfn: int) -> str:
    return LETTERS[pfn // 16]


def written(zone: Zone) -> str:
    return " ".join(
        letter(pfn) + ("*" if zone.page_reported(pfn - zone.base_pfn) else "")
        for pfn in zone.list_pfns(ORDER, MIGRATE_MOVABLE)
    )


def zone_with_list(build_zone: Build, preset: str, letters: str, allocated: str = "") -> Zone:
    """Build a zone whose only free blocks of order 3 are the letters', with smaller ones to stay above the marks."""
    first_filler = 16 * len(letters + allocated)
    zone = build_zone(2 * first_filler, layout=LAYOUT, revision=PRESETS[preset], free=False)
    for pfn in range(first_filler, 2 * first_filler, 8):
        free_part(zone, pfn, 2)
    for name in reversed(letters):
        free_part(zone, 16 * LETTERS.index(name), ORDER)
    assert written(zone) == " ".join(letters)
    return zone


def free_part(zone: Zone, pfn: int, order: int) -> None:
    zone.claim_range(pfn, order)
    zone.free_pages_ok(pfn, order)


def one_pass(
    build_reporting: BuildReporting, zone: Zone, failing_call: int = 0
) -> tuple[Scribe, PageReporting]:
    scribe = Scribe(zone, failing_call)
    reporting = build_reporting(zone)
    reporting.register(PageReportingDevice(scribe, order=ORDER, capacity=CAPACITY))
    assert reporting.run_now()
    assert not list(zone.list_pfns(ORDER, 0)), "nothing turns up on another list"
    return scribe, reporting


@pytest.mark.parametrize(
    ("preset", "batches", "list_at_leftover", "final", "state"),
    [
        pytest.param(
            "36e66c55",
            ["b a", "d c", "f e", "g"],
            "e* f* c* d* a* b*",
            "g* e* f* c* d* a* b*",
            "idle",
            id="36e66c55: no rotation, no budget",
        ),
        pytest.param(
            "02cf8719",
            ["b a", "d c", "f e", "g"],
            "e* f* a* b* c* d*",
            "g* e* f* a* b* c* d*",
            "idle",
            id="02cf8719: rotation",
        ),
        pytest.param(
            "v5.7", ["b a", "d c"], None, "e f g a* b* c* d*", "requested", id="v5.7: rotation and budget"
        ),
        pytest.param(
            "v6.1", ["b a", "d c"], None, "e f g b* a* d* c*", "requested", id="v6.1: putback to the tail"
        ),
        pytest.param(
            "seed",
            ["b a", "d c", "f e", "g"],
            "e* f* a* b* c* d*",
            "g* e* f* a* b* c* d*",
            "idle",
            id="seed: as the message words it",
        ),
    ],
)
def test_a_list_of_seven_ends_as_each_kernel_leaves_it(
    build_zone: Build,
    build_reporting: BuildReporting,
    preset: str,
    batches: list[str],
    list_at_leftover: str | None,
    final: str,
    state: str,
) -> None:
    zone = zone_with_list(build_zone, preset, "abcdefg")
    scribe, reporting = one_pass(build_reporting, zone)
    assert scribe.batches == batches
    if list_at_leftover is not None:
        assert scribe.lists[-1] == list_at_leftover
    assert written(zone) == final
    assert reporting.state_name() == state


@pytest.mark.parametrize(("preset", "final"), [("v5.7", "c d e a* b*"), ("v6.1", "e b* a* d c")])
def test_a_failing_second_call_returns_its_blocks_unreported(
    build_zone: Build, build_reporting: BuildReporting, preset: str, final: str
) -> None:
    zone = zone_with_list(build_zone, preset, "abcde")
    scribe, reporting = one_pass(build_reporting, zone, failing_call=2)
    assert scribe.batches == ["b a", "d c"]
    assert written(zone) == final
    assert reporting.state_name() == "idle"


@pytest.mark.parametrize(
    ("preset", "list_at_leftover", "final"),
    [
        ("36e66c55", "a* b* d e f", "c* a* b* d e f"),
        ("v5.7", "d e f a* b*", "c* d e f a* b*"),
        ("v6.1", "d e f b* a*", "d e f b* a* c*"),
    ],
)
def test_a_refused_block_leads_the_list_that_is_left(
    build_zone: Build,
    build_reporting: BuildReporting,
    monkeypatch: pytest.MonkeyPatch,
    preset: str,
    list_at_leftover: str,
    final: str,
) -> None:
    zone = zone_with_list(build_zone, preset, "abcdef")
    isolate = Zone.isolate_free_page

    def refuse_d(zone: Zone, pfn: int, order: int) -> bool:
        return letter(pfn) != "d" and isolate(zone, pfn, order)

    monkeypatch.setattr(Zone, "isolate_free_page", refuse_d)
    scribe, reporting = one_pass(build_reporting, zone)
    assert scribe.batches == ["b a", "c"]
    assert scribe.lists[-1] == list_at_leftover
    assert written(zone) == final
    assert reporting.state_name() == "idle", "a refusal asks for nothing"


# -- the budget ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("blocks", "passes"),
    # With capacity 32 these are lists of 64, 65, 80, 512, 528 and 1024 blocks.
    [(4, 1), (5, 2), (8, 2), (32, 8), (33, 6), (64, 11)],
)
def test_a_list_settles_in_as_many_passes_as_its_budget_says(
    build_zone: Build, build_reporting: BuildReporting, blocks: int, passes: int
) -> None:
    zone = build_zone(16 * blocks * 2, layout=LAYOUT, free=False)
    for block in range(blocks):
        free_part(zone, 16 * block, ORDER)
        free_part(zone, 16 * (blocks + block), 2)
    reporting = build_reporting(zone)
    scribe = CallCounter()
    reporting.register(PageReportingDevice(scribe, order=ORDER, capacity=CAPACITY))
    while reporting.run_now():
        assert reporting.stats.passes <= passes
    assert reporting.stats.passes == passes
    assert zone.nr_reported[ORDER] == blocks
    assert reporting.state_name() == "idle"


@pytest.mark.parametrize(("blocks", "calls"), [(5, 2), (32, 2), (33, 3), (64, 3), (65, 4)])
def test_one_visit_makes_a_call_more_than_the_budget(
    build_zone: Build, build_reporting: BuildReporting, blocks: int, calls: int
) -> None:
    zone = build_zone(16 * blocks * 2, layout=LAYOUT, free=False)
    for block in range(blocks):
        free_part(zone, 16 * block, ORDER)
        free_part(zone, 16 * (blocks + block), 2)
    reporting = build_reporting(zone)
    counter = CallCounter()
    reporting.register(PageReportingDevice(counter, order=ORDER, capacity=CAPACITY))
    reporting.run_now()
    assert counter.calls == calls
    assert reporting.pending()


class CallCounter:
    def __init__(self) -> None:
        self.calls = 0

    def report(self, zone: Zone, batch: Batch) -> None:
        self.calls += 1


# -- a list that grows while it is visited -------------------------------------------------------------------


class Feeder:
    """Frees as many blocks as it gets during each of its first calls."""

    def __init__(self, letters: str) -> None:
        self.blocks = 0
        self._letters = list(letters)

    def report(self, zone: Zone, batch: Batch) -> None:
        self.blocks += len(batch)
        for _ in batch[: len(self._letters)]:
            free_part(zone, 16 * LETTERS.index(self._letters.pop(0)), ORDER)


@pytest.mark.parametrize(
    ("preset", "blocks_in_first_pass"),
    [
        pytest.param("36e66c55", 12, id="36e66c55 goes on until nothing is unreported"),
        pytest.param("02cf8719", 12, id="02cf8719 goes on until nothing is unreported"),
        pytest.param("v5.7", 4, id="v5.7 stops at its budget"),
        pytest.param("v6.1", 4, id="v6.1 stops at its budget"),
        pytest.param("seed", 6, id="seed stops at what the list held when the visit began"),
    ],
)
def test_steady_frees_hold_the_worker_only_where_nothing_limits_a_visit(
    build_zone: Build, build_reporting: BuildReporting, preset: str, blocks_in_first_pass: int
) -> None:
    zone = zone_with_list(build_zone, preset, "abcdef", allocated="ghijkl")
    feeder = Feeder("ghijkl")
    reporting = build_reporting(zone)
    reporting.register(PageReportingDevice(feeder, order=ORDER, capacity=CAPACITY))
    reporting.run_now()
    assert feeder.blocks == blocks_in_first_pass
    assert reporting.pending(), "frees during a pass ask for another one"
    while reporting.run_now():
        assert reporting.stats.passes < 20
    assert zone.nr_reported[ORDER] == 12
