"""Plausible mistakes, planted one at a time: each makes one of the kernel's runs fail.

What is replaced here is the product's own; that the cases see it is what makes their agreement worth something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pagealloc.buddy import Buddy
from pagealloc.free_area import FreeArea
from pagealloc.mmzone import FPI_TO_TAIL, MIGRATE_MOVABLE, WMARK_LOW, WMARK_MIN
from pagealloc.mobility import FALLBACKS, Mobility
from pagealloc.revision import PRESETS
from pagealloc.zone import Zone
from stress.golden.cases import CorruptCase, find_cases
from stress.golden.comparison import replay
from stress.mutants import MUTANTS, Edit
from stress.mutants.planting import install
from workers.page_reporting import PageReporting
from workers.policy import ReportingPolicy
from workers.scatterlist import Scatterlist

pytestmark = pytest.mark.interpreted("nothing can be planted")

GOLDEN = Path(__file__).parents[2] / "golden"


def mutate_revision(field: str, *, value: bool) -> Callable[[pytest.MonkeyPatch], None]:
    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        changes: Any = {field: value}
        monkeypatch.setitem(PRESETS, "v6.1", replace(PRESETS["v6.1"], **changes))

    return plant


def fills_upwards(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Scatterlist.batch
    monkeypatch.setattr(Scatterlist, "batch", lambda sgl: batch(sgl)[::-1])


def flags_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    drain = PageReporting.drain

    def always(reporting: PageReporting, zone: Zone, sgl: Scatterlist, *, reported: bool) -> None:
        drain(reporting, zone, sgl, reported=True)

    monkeypatch.setattr(PageReporting, "drain", always)


def never_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Zone, "set_reported", lambda _zone, _pfn: None)


def flags_what_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test Buddy, but not the order (M-2)."""
    monkeypatch.setattr(
        Zone, "page_is_buddy", lambda zone, pfn, _order: zone.state[pfn - zone.base_pfn] & 0xF0 == 0x10
    )


def caches_the_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put every block back as movable, which is what isolating made of it (M-14)."""
    putback = Zone.putback_isolated_page

    def movable(zone: Zone, pfn: int, order: int, _migratetype: int) -> None:
        putback(zone, pfn, order, MIGRATE_MOVABLE)

    monkeypatch.setattr(Zone, "putback_isolated_page", movable)


def does_not_skip_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def just_it(_zone: Zone, pfn: int, _order: int, _migratetype: int) -> int:
        return pfn

    monkeypatch.setattr(Zone, "unreported_from", just_it)


def rotates_the_wrong_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Move the one entry to the front instead of turning the ring (M-34)."""

    def move(area: FreeArea, order: int, migratetype: int, index: int) -> None:
        area.del_page_from_free_list(index, order)
        area.add_to_free_list(index, order, migratetype)

    monkeypatch.setattr(FreeArea, "list_rotate_to_front", move)


def lists_are_used_from_their_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    def last(area: FreeArea, order: int, migratetype: int) -> int:
        return next(iter([*area.free_list(order, migratetype)][::-1]), -1)

    monkeypatch.setattr(FreeArea, "get_page_from_free_area", last)


def tail_rule_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a block at the tail only where the caller says so."""
    forgotten = Edit(
        """
        - if order < top_order - 1 and not to_tail:
        + if False:
        """
    )
    monkeypatch.setattr(Buddy, "free_one_page", forgotten.apply(Buddy, "free_one_page"))


def notifies_with_the_order_before_the_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for a report only if the freed block itself was large enough (M-50)."""
    free_one_page = Buddy.free_one_page

    def free(area: Buddy, index: int, order: int, migratetype: int, fpi_flags: int) -> None:
        free_one_page(area, index, order, migratetype, fpi_flags | (order < area.page_reporting_order))

    monkeypatch.setattr(Buddy, "free_one_page", free)


def putback_notifies(monkeypatch: pytest.MonkeyPatch) -> None:
    def putback(zone: Zone, pfn: int, order: int, migratetype: int) -> None:
        zone.state[pfn - zone.base_pfn] = 0
        zone.free_one_page(pfn - zone.base_pfn, order, migratetype, FPI_TO_TAIL)

    monkeypatch.setattr(Zone, "putback_isolated_page", putback)


def starting_mark_is_min(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Zone, "low_wmark_pages", lambda zone: zone.wmark_pages(WMARK_MIN))


def starting_mark_has_no_boost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Zone, "low_wmark_pages", lambda zone: zone.watermark[WMARK_LOW])


def watermark_allows_equality(monkeypatch: pytest.MonkeyPatch) -> None:
    holds = Zone.zone_watermark_ok

    def ok(zone: Zone, order: int, mark: int, reserve: int = 0, alloc_flags: int = 0) -> bool:
        return holds(zone, order, mark - 1, reserve, alloc_flags)

    monkeypatch.setattr(Zone, "zone_watermark_ok", ok)


def isolating_keeps_the_type(monkeypatch: pytest.MonkeyPatch) -> None:
    isolate = Zone.isolate_free_page

    def isolated(zone: Zone, pfn: int, order: int) -> bool:
        types = bytes(zone.pageblock_types)
        taken = isolate(zone, pfn, order)
        zone.pageblock_types[:] = types
        return taken

    monkeypatch.setattr(Zone, "isolate_free_page", isolated)


def stealing_clears_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    move = FreeArea.move_to_free_list

    def moved(area: FreeArea, index: int, order: int, migratetype: int) -> None:
        if area.page_reported(index):
            area.state[index] &= 0x7F
            area.nr_reported[order] -= 1
        move(area, index, order, migratetype)

    monkeypatch.setattr(FreeArea, "move_to_free_list", moved)


def fallback_prefers_the_other_type(monkeypatch: pytest.MonkeyPatch) -> None:
    for migratetype, preference in list(FALLBACKS.items()):
        monkeypatch.setitem(FALLBACKS, migratetype, preference[::-1])


def stealing_never_claims_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mobility, "can_steal_fallback", lambda _area, _order, _type: False)


def an_error_does_not_end_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    cycle = PageReporting.cycle

    def ignoring(*arguments: Any) -> None:
        cycle(*arguments)

    monkeypatch.setattr(PageReporting, "cycle", ignoring)


def budget_rounds_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReportingPolicy, "calls", lambda _, nr_free, capacity: -(-nr_free // (32 * capacity)))


def worker_forgets_to_arm_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Go idle at the end of a pass even if somebody asked meanwhile (M-46)."""
    process = PageReporting.process

    def forgetful(reporting: PageReporting, registration: Any) -> None:
        process(reporting, registration)
        reporting._workqueue.bar(registration)
        registration.barred = False

    monkeypatch.setattr(PageReporting, "process", forgetful)


def split_keeps_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave what was known of the whole on its pieces (M-6)."""
    smallest, expand = Buddy.rmqueue_smallest, Buddy.expand
    before: list[bytes] = []

    def remembering(area: Buddy, order: int, migratetype: int) -> int:
        before[:] = [bytes(area.state)]
        return smallest(area, order, migratetype)

    def keeping(area: Buddy, index: int, low: int, high: int, migratetype: int) -> None:
        expand(area, index, low, high, migratetype)
        if before[0][index] & 0x80:
            for order in range(low, high):
                area.set_page_reported(index + (1 << order))

    monkeypatch.setattr(Buddy, "rmqueue_smallest", remembering)
    monkeypatch.setattr(Buddy, "expand", keeping)


MISTAKES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "a full batch is sent at once": mutate_revision("report_when_full", value=True),
    "no rotation": mutate_revision("rotate", value=False),
    "no budget": mutate_revision("budget", value=False),
    "leaves after nr_free blocks": mutate_revision("leave_after_nr_free", value=True),
    "putback to the head": mutate_revision("putback_to_tail", value=False),
    "moves to the head": mutate_revision("move_to_tail", value=False),
    "boots to the head": mutate_revision("boot_to_tail", value=False),
    "high-atomic blocks merge": mutate_revision("highatomic_merges", value=True),
    "the scatterlist is filled upwards": fills_upwards,
    "flags after an error": flags_after_an_error,
    "never flags": never_flags,
    "flags what merged": flags_what_merged,
    "puts back by a type known from before": caches_the_type,
    "does not skip Reported blocks": does_not_skip_reported,
    "moves one entry instead of rotating": rotates_the_wrong_way,
    "lists are used from their tail": lists_are_used_from_their_tail,
    "split pieces stay Reported": split_keeps_the_flag,
    "the tail rule is forgotten": tail_rule_is_forgotten,
    "notifies with the order before the merge": notifies_with_the_order_before_the_merge,
    "putback notifies": putback_notifies,
    "the starting mark is min": starting_mark_is_min,
    "the starting mark has no boost": starting_mark_has_no_boost,
    "a watermark may be reached": watermark_allows_equality,
    "isolating keeps the pageblock's type": isolating_keeps_the_type,
    "stealing clears Reported": stealing_clears_the_flag,
    "fallback prefers the other type": fallback_prefers_the_other_type,
    "stealing never claims a pageblock": stealing_never_claims_a_block,
    "an error does not end the pass": an_error_does_not_end_the_pass,
    "half the budget": budget_rounds_down,
    "the worker does not arm itself again": worker_forgets_to_arm_again,
}


def failing_cases() -> Iterator[str]:
    """Name the cases of v6.1 that fail, whatever way they fail: the designed ones, then those made at random."""
    designed = sorted(find_cases([GOLDEN / "designed"]), key=lambda path: "real_size" in path.name)
    for path in designed + find_cases([GOLDEN / "random"]):
        try:
            failed = replay(path).difference is not None
        except (AssertionError, CorruptCase):
            failed = True
        if failed:
            yield path.name


def test_without_a_mistake_no_case_fails() -> None:
    assert list(failing_cases()) == []


@pytest.mark.parametrize("name", MISTAKES)
def test_a_plausible_mistake_makes_a_case_fail(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    MISTAKES[name](monkeypatch)
    assert next(failing_cases(), None) is not None, f"no case sees it: {name}"


# -- v6.12 ---------------------------------------------------------------------------------------------

# Planted faults in the rules that are new in it, with the runs whose subject they are. No run shows who is asked for
# a report piece by piece (M-81b), a refill (M-84a), or marks while high-atomic pages are away (M-86): unit tests do.
NEW_IN_6_12 = {
    "M-80": "101", "M-80a": "101", "M-81": "106", "M-81a": "106", "M-81c": "106", "M-82": "103", "M-83": "90",
    "M-83a": "118", "M-83b": "117", "M-83c": "101", "M-83d": "97", "M-84": "96", "M-84b": "100", "M-85": "113",
    "M-86a": "108", "M-87": "109", "M-88": "116",
}  # fmt: skip


def fails(number: str) -> bool:
    """Replay a designed run of 6.12; whether it fails, whatever way."""
    (path,) = (GOLDEN / "designed_v6.12").glob(f"{number}_*.jsonl.gz")
    try:
        return replay(path).difference is not None
    except Exception:  # a fault may break whatever it likes
        return True


@pytest.mark.parametrize("number", sorted(set(NEW_IN_6_12.values())))
def test_without_a_fault_the_runs_of_the_new_rules_pass(number: str) -> None:
    assert not fails(number)


@pytest.mark.parametrize("mutant", NEW_IN_6_12)
def test_a_fault_in_a_new_rule_makes_the_run_about_it_fail(mutant: str) -> None:
    with install(MUTANTS[mutant].patches):
        assert fails(NEW_IN_6_12[mutant])
