"""Every planted fault is found: where it is known to show at once there, and the others by the hunt of `mutants`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pagealloc.sync_real import gil_enabled

if not gil_enabled():
    pytest.skip("importing greenlet would give this interpreter its GIL back", allow_module_level=True)
pytest.importorskip("greenlet", reason="schedule search needs greenlet")

from stress.cli import main
from stress.controlled.strategy import make_strategy
from stress.hunt import command
from stress.invariants import INVARIANTS
from stress.mutants import MUTANTS, NOT_EXPRESSIBLE, StaleMutant, planted
from stress.mutants.planting import edited, install
from stress.search.explore import Result, explore, program
from workers.page_reporting import PageReporting

ROOT = Path(__file__).parents[3]

# Where faults show that a hunt through all scenarios, one after the other, is long in coming to. A new one needs no
# row: it is hunted, as `stress mutants` does with all.
SHOWN_BY = {
    "a-boost-comes-and-goes": "M-83b M-93 M-201 M-209",
    "a-closed-memory-refuses": "M-89",
    "a-guest-on-a-cpu-leaves-it-alone": "M-90",
    "a-lock-that-is-taken-is-waited-for": "M-79",
    "a-lost-batch-has-failed": "M-111",
    "a-pass-before-the-device-is-known": "M-215",
    "a-second-device-keeps-what-was-told": "M-139",
    "a-sleep-is-as-long-as-asked": "M-140",
    "allocate-the-rotated": "M-5c M-12 M-45",
    "an-age-counts-from-the-last-free": "M-110",
    "an-owner-looks-at-every-page": "M-77 M-78",
    "another-one-drains-first": "M-210",
    "close-at-any-time": "M-170",
    "discarded-memory-is-gone": "M-219",
    "every-call-may-fail-in-two-zones": "M-44",
    "free-one-block-past-the-sets-twice-at-once": "M-206",
    "free-the-buddy": "M-2 M-4 M-202",
    "free-the-buddy-while-others-wait": "M-217",
    "free-while-a-pass-comes-and-goes": "M-205",
    "free-while-a-policy-takes-stock": "M-175",
    "free-while-its-pageblock-changes": "M-207",
    "give-back-beside-a-buddy": "M-5d M-15b",
    "give-back-what-is-not-withheld": "M-81 M-81a M-85",
    "gone-for-good": "M-54a",
    "isolate-in-flight": "M-37",
    "large-blocks-are-zeroed-whole": "M-134",
    "limits-of-nodes": "M-103",
    "memory-goes-while-somebody-looks": "M-212",
    "mixed-types": "M-80",
    "no-block-over-the-border": "M-113",
    "nothing-else-is-left": "M-17b",
    "notify-without-a-delay": "M-172",
    "page-sets-come-down": "M-101 M-102",
    "page-sets-come-down-for-rows-of-blocks": "M-192 M-196",
    "page-sets-count-a-refill-in-pages": "M-214",
    "page-sets-count-refills": "M-99",
    "page-sets-do-not-grow-below-the-high-mark": "M-191",
    "page-sets-drain": "M-64",
    "page-sets-drain-more-and-more": "M-96",
    "page-sets-drain-whole-pageblocks": "M-107",
    "page-sets-empty-for-rows-of-blocks": "M-100",
    "page-sets-hold-reserved-pages": "M-105",
    "page-sets-hold-their-limit": "M-75",
    "page-sets-refill-in-doubles": "M-97",
    "page-sets-refill-two-large-blocks": "M-98",
    "page-sets-shrink-below-the-high-mark": "M-190",
    "page-sets-tune-their-limit-up": "M-109",
    "real-atomics-take-one-step": "M-203",
    "real-spinlocks-are-waited-for": "M-204",
    "resident-memory-of-a-range": "M-132 M-133",
    "retag-in-flight": "M-8 M-14",
    "return-while-freeing": "M-56",
    "somebody-asks-whether-all-is-settled": "M-200 M-223",
    "somebody-asks-while-the-worker-dies": "M-218",
    "split-what-is-freed": "M-92",
    "tear-beside-another": "M-211",
    "the-reporter-allocates": "M-34a",
    "two-urgent-pages-of-one-pageblock": "M-208",
    "two-zones": "M-5a",
    "unregister-as-a-pass-begins": "M-222",
    "unregister-at-any-time": "M-54b M-59",
    "unregister-beside-a-notifier": "M-216",
    "unregister-with-a-timeout": "M-171",
    "vector-a-boost-yields-to-an-urgent-page": "M-138",
    "vector-a-busy-region-ends-at-its-end": "M-136",
    "vector-a-parent-in-the-zone-below": "M-114",
    "vector-a-rate-after-a-long-rest": "M-137 M-142",
    "vector-a-request-in-distress": "M-95",
    "vector-a-reserved-block-is-for-the-urgent": "M-117",
    "vector-a-stop-turns-the-list": "M-173",
    "vector-an-order-that-no-block-has": "M-121",
    "vector-budget-of-an-exact-multiple": "M-135",
    "vector-capacity-three": "M-27",
    "vector-claiming-counts-lru-pages": "M-83a M-129",
    "vector-failed-claims-boost-each": "M-83d M-84a",
    "vector-high-atomic": "M-38 M-42a M-86 M-86a",
    "vector-high-atomic-whole-percent": "M-87",
    "vector-isolation-leaves-the-reserve-out": "M-119",
    "vector-isolation-refused": "M-25 M-43",
    "vector-lost-records-are-counted": "M-141",
    "vector-marks": "M-39a M-40",
    "vector-marks-of-nodes": "M-125 M-127",
    "vector-marks-of-tokens": "M-124",
    "vector-no-fragment": "M-84b",
    "vector-no-fragment-of-large-orders": "M-120",
    "vector-nodes-without-dma32": "M-118 M-118a",
    "vector-one-torn-zone-is-enough": "M-177",
    "vector-order-is-settled-once": "M-88",
    "vector-pages-of-64-kib": "M-152",
    "vector-pieces-of-an-lru-block": "M-131",
    "vector-reported-in-front": "M-33",
    "vector-rest-of-a-taken-block": "M-82",
    "vector-steal-leaves-the-rest": "M-83 M-84",
    "vector-the-kept-back-block": "M-122",
    "vector-the-last-pageblock-of-a-zone": "M-115",
    "vector-the-next-device-is-another-one": "M-220 M-221",
    "vector-the-smallest-zone-with-a-boost": "M-128",
    "vector-types-of-taken-blocks": "M-25a M-36 M-42b",
    "vector-urgent-requests": "M-150 M-151",
    "vector-what-a-worker-counts": "M-153 M-154",
    "vector-who-is-refused-settles-no-order": "M-176",
    "vector-who-wakes-kswapd": "M-94",
    "vector-zones-of-requests": "M-123",
    "what-was-freed-twice-is-in-use-again": "M-213",
    "who-frees-for-others-keeps-to-his-own": "M-112",
    "withhold-and-give-back-twice-at-once": "M-91",
    "withhold-in-flight": "M-16",
    "zeroed-pages-are-zero": "M-61",
}  # fmt: skip
# In corners: what is broken there is said, too.
CORNERS = {
    "M-65": ("unregister-with-a-timeout", "S22"),
    "M-66": ("unregister-beside-another-work", "S22"),
    "M-67": ("crossing-deadlines", "L1"),
    "M-68": ("threads-come-and-go", "S2"),
    "M-69": ("give-back-what-is-not-withheld", "lockdep"),
    "M-70": ("drain-beside-the-owner", "exception"),
    "M-71": ("two-frees-of-one-block", "S2"),
    "M-72": ("the-reporter-exits", "S11"),
    "M-73": ("the-reporter-exits", "stats"),
    "M-74": ("a-boost-comes-and-goes", "S1..S5"),
}
OLDER = {  # of these kernels alone
    "M-76": ("page-sets-hold-their-orders", "v5.7"),
    "M-104": ("limits-of-a-tiny-zone", "v5.7"),
    "M-106": ("page-sets-hold-reserved-pages", "v6.1"),
    "M-108": ("page-sets-empty-for-blocks-after-drains", "v6.1"),
    "M-193": ("page-sets-drain-some-of-each-list", "v5.7"),
    "M-194": ("page-sets-empty-for-blocks-after-drains", "v6.1"),
    "M-195": ("page-sets-empty-for-blocks-after-drains", "v6.1"),
    "M-116": ("vector-the-last-pageblock-of-a-zone", "v6.1"),
    "M-126": ("vector-marks-of-tokens", "v6.1"),
    "M-130": ("vector-a-reserved-pageblock-keeps-its-type", "v6.1"),
}
SHOWN = {name: scenario for scenario, names in SHOWN_BY.items() for name in names.split()}
HUNTED = [name for name in MUTANTS if name not in SHOWN | CORNERS | OLDER]


def search(scenario: str, mutant: str, executions: int = 300, preset: str = "v6.12") -> Result:
    strategy = make_strategy("portfolio", 1, executions, 2)
    return explore(program(scenario, preset), strategy, executions, mutant)


def test_every_invariant_that_a_fault_is_expected_to_break_has_words() -> None:
    assert {mutant.invariant for mutant in MUTANTS.values()} <= set(INVARIANTS)
    assert {f"S{n}" for n in range(1, 27)} | {f"L{n}" for n in range(1, 9)} <= set(INVARIANTS)


def test_every_number_is_a_planted_fault_or_says_why_not() -> None:
    for number in range(1, 65):
        names = [name for name in (*MUTANTS, *NOT_EXPRESSIBLE) if name.rstrip("abcdefgh") == f"M-{number}"]
        assert names, f"M-{number} is missing"


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_fault_fits_the_product_and_leaves_no_trace(name: str) -> None:
    owners = {patch[0] for patch in MUTANTS[name].patches}
    before = {owner: dict(vars(owner)) for owner in owners}
    with planted(name):
        assert any(dict(vars(owner)) != before[owner] for owner in owners)
    assert {owner: dict(vars(owner)) for owner in owners} == before


def test_a_fault_whose_method_has_changed_is_an_error_and_not_silent() -> None:
    stale = edited(PageReporting, "pending", "- return never_written()\n+ return False")
    with pytest.raises(StaleMutant, match="has 0 places"), install((stale,)):
        pass


@pytest.mark.parametrize(
    ("mutant", "scenario"),
    [
        ("M-17", "free-the-buddy"),
        ("M-45", "notify-at-the-end"),
        ("M-10", "free-the-buddy"),
        ("M-14", "retag-in-flight"),
    ],
)
def test_the_dangerous_faults_are_found_within_a_thousand_executions(mutant: str, scenario: str) -> None:
    result = search(scenario, mutant, 1000, "v6.1")
    assert result.failure is not None
    assert result.failure.mutant == mutant


@pytest.mark.parametrize("mutant", CORNERS)
def test_a_fault_in_a_corner_is_found_by_the_scenario_that_goes_there(mutant: str) -> None:
    scenario, invariant = CORNERS[mutant]
    failure = search(scenario, mutant, 1000, "v6.1").failure
    assert failure is not None
    assert failure.invariant == invariant


@pytest.mark.parametrize("mutant", SHOWN)
def test_a_fault_is_found_in_the_scenario_that_is_known_to_show_it(mutant: str) -> None:
    assert search(SHOWN[mutant], mutant).failure is not None


@pytest.mark.parametrize("mutant", OLDER)
def test_a_fault_of_older_kernels_is_found_in_one_of_them(mutant: str) -> None:
    scenario, preset = OLDER[mutant]
    assert search(scenario, mutant, preset=preset).failure is not None
    assert search(scenario, mutant).failure is None


@pytest.mark.parametrize("mutant", HUNTED)
def test_every_other_fault_is_found_by_the_hunt(mutant: str) -> None:
    assert command.hunt((mutant, "portfolio", 1)).found_by is not None


def test_a_fault_is_found_by_an_interpreter_without_asserts() -> None:
    """M-5d was found by an assert alone."""
    words = [sys.executable, "-OO", "-m", "stress", "mutants", "M-5d"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


# -- the command -------------------------------------------------------------------------------------------------


def test_a_fault_that_nothing_finds_is_a_survivor_and_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "HUNT_ROUNDS", ((1, ("v6.12",)),))
    assert main(["mutants", "M-1", "M-17b", "--jobs", "2", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["total"], told["survived"], told["survivors"]) == (2, 1, ["M-17b"])


def test_mutants_say_how_much_shrinking_is_worth(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["mutants", "M-1", "M-13a", "--strategy", "random", "--jobs", "1"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"total", "found", "survived", "not_expressible", "mutants"} <= set(told)
    for mutant in told["mutants"]:
        assert {"id", "invariant", "found_by", "executions", "seconds"} <= set(mutant)
    one, other = (mutant["switches_shrunk"] / mutant["switches_found"] for mutant in told["mutants"])
    assert told["switches_ratio_median"] == pytest.approx((one + other) / 2)
    assert main(words) == 0
    *_, shrinking, verdict = capsys.readouterr().out.splitlines()
    assert shrinking.startswith(f"shrinking: {told['switches_ratio_median']:.2f} of the switches are left")
    assert verdict == f"2 found, 0 survived, {len(NOT_EXPRESSIBLE)} not expressible"


def test_the_table_of_stories_has_every_fault_and_what_its_story_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = (ROOT / "docs" / "STORIES.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (M-\w+) \|", table, re.MULTILINE) == list(MUTANTS)
    assert main(["mutants", "M-1", "M-10", "M-53a", "--stories", "--jobs", "1"]) == 0
    _, _, *told = capsys.readouterr().out.splitlines()
    assert len(told) == 3
    assert [row for row in told if row not in table.splitlines()] == []
