"""Verdicts that mean something: a run that shows little says so at its end, and --must-release makes it FAILURE."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from pagealloc import GFP_KERNEL, Memory
from pagealloc.sync import Sync
from pagealloc.zone import Zone
from stress.run.conductor import StressRun
from stress.run.notes import notes_on_the_rest
from stress.run.params import RunParams
from stress.run.summary import Summary
from stress.run.violations import by_kind
from workers.page_reporting import Batch, Reporter
from workers.reporters import Discard

Run = Callable[..., Summary]


@pytest.fixture
def run(sync: Sync) -> Run:
    """Make a short run with many passes."""

    def run_with(reporter: Reporter, **changes: Any) -> Summary:
        small: dict[str, Any] = {
            "zones": "Normal=64MiB",
            "seconds": 0.6,
            "order": 4,
            "delay": 0.01,
            "capacity": 8,
        }
        return StressRun(RunParams(**{**small, **changes}), sync, reporter, lambda status: None).run()

    return run_with


def doubts(summary: Summary) -> list[str]:
    return [note for note in summary.notes if note.startswith("???") and "unfair" not in note]


class WrongSignature:
    def report(self, batch: Batch) -> None:
        """Take what nobody gives."""


class DiesAfterTwo(Discard):
    batches = 0

    def report(self, zone: Zone, batch: Batch) -> None:
        self.batches += 1
        if self.batches > 2:
            raise ConnectionError("gone\nSUCCESS 1 s, 0 violations")
        super().report(zone, batch)


class Forgets:
    def report(self, zone: Zone, batch: Batch) -> None:
        """Acknowledge, and keep the memory."""


class Leaks(Discard):
    def __init__(self) -> None:
        self.end = threading.Event()

    def report(self, zone: Zone, batch: Batch) -> None:
        super().report(zone, batch)
        threading.Thread(target=self.end.wait, daemon=True).start()


class Allocates(Discard):
    def start(self, memory: Memory) -> None:
        self.memory = memory

    def report(self, zone: Zone, batch: Batch) -> None:
        super().report(zone, batch)
        for pfn in [self.memory.alloc_pages(GFP_KERNEL, 0) for _ in range(24)]:
            if pfn is not None:
                self.memory.free_pages(pfn, 0)


def test_a_good_reporter_gives_no_reason_for_doubt(run: Run) -> None:
    assert doubts(run(Discard(), must_release=True)) == []


def test_a_reporter_that_never_succeeds_is_in_doubt_and_a_failure_if_it_must_release(run: Run) -> None:
    summary = run(WrongSignature())
    every = "??? the reporter failed every one of its "
    assert (summary.verdict, len(doubts(summary))) == ("SUCCESS", 1)
    assert doubts(summary)[0].startswith(every)
    assert "TypeError" in doubts(summary)[0]
    strict = run(WrongSignature(), must_release=True)
    assert strict.verdict == "FAILURE"
    assert strict.violations[-1].endswith("batches (--must-release)")


def test_a_reporter_that_dies_on_the_way_is_in_doubt_and_forges_no_line(run: Run) -> None:
    (doubt,) = doubts(run(DiesAfterTwo()))
    assert doubt.startswith("??? the reporter failed its last ")
    assert "\n" not in doubt
    assert run(DiesAfterTwo(), must_release=True).verdict == "FAILURE"


def test_a_host_that_forgets_is_in_doubt_and_a_failure_if_it_must_release(run: Run) -> None:
    (doubt,) = doubts(run(Forgets()))
    assert doubt.startswith("??? the reporter acknowledged ")
    assert doubt.endswith(" MiB were not given back")
    assert run(Forgets(), must_release=True).verdict == "FAILURE"


def test_threads_that_a_reporter_leaks_are_counted(run: Run) -> None:
    leaks = Leaks()
    try:
        (doubt,) = doubts(run(leaks))
    finally:
        leaks.end.set()
    assert "threads are left that were not there before" in doubt


def test_failures_that_were_asked_for_are_no_death(run: Run) -> None:
    assert all("its last" not in doubt for doubt in doubts(run(Discard(), fail_rate=1.0)))


def test_what_page_sets_withhold_at_the_end_of_the_load_is_told(sync: Sync) -> None:
    threads = {"threads": 3}
    summary = Summary(footprint={"before": threads, "after": threads})
    for page_size, withheld in (("4KiB", "2 MiB"), ("64KiB", "32 MiB")):
        params = RunParams(zones="Normal=64MiB", page_size=page_size)
        made = StressRun(params, sync, Discard(), lambda status: None)
        assert list(notes_on_the_rest(made.rig, summary, withheld_pages=5)) == []
        (note,) = notes_on_the_rest(made.rig, summary, withheld_pages=512)
        assert note.startswith(f"{withheld} lay on page sets when the load ended")


def test_a_reporter_may_allocate_and_free_in_report(run: Run) -> None:
    summary = run(Allocates())
    assert (summary.violations, summary.verdict) == ([], "SUCCESS")
    assert summary.reported_blocks > 0


def test_violations_of_one_kind_differ_only_in_figures() -> None:
    texts = ["pfn 0x10 of 3 is lost", "pfn 0xff of 4 is lost", "two owners", "pfn 0x1 of 5 is lost"]
    assert by_kind(texts) == {"pfn 0x10 of 3 is lost": 3, "two owners": 1}
