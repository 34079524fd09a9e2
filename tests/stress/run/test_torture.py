"""Torture, and a harness that judges itself: what disturbs, what hangs, who gets too little, what stays flat."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pagealloc.sync import Sync
from pagealloc.zone import Zone
from stress.cli import main
from stress.run.conductor import StressRun
from stress.run.crew import Crew
from stress.run.fairness import Fairness, unfair
from stress.run.footprint import SAMPLES_MAX, Footprints
from stress.run.manners import Manners
from stress.run.params import Phase, RunParams
from stress.run.reach import Reach
from stress.run.scenario import shipped
from stress.run.status import Status
from stress.run.summary import Summary
from stress.run.torture import Torture
from stress.run.violations import Violations
from stress.run.watchdog import Watchdog, stacks
from workers.allocators import Allocator
from workers.page_reporting import Batch
from workers.reporters import InjectedError, Null

SMALL: dict[str, Any] = {
    "allocators": 3,
    "seconds": 0.8,
    "zones": "Normal=96MiB",
    "order": 3,
    "capacity": 8,
    "delay": 0.02,
}
PATIENCE_S = 30.0  # far more than anything here takes
ROOT = Path(__file__).parents[3]


class Made:
    """A run, with what it showed and told."""

    def __init__(self, sync: Sync, reporter: Any = None, **changes: object) -> None:
        self.statuses: list[Status] = []
        self.events: list[str] = []
        self.enough: Callable[[Status], bool] = lambda _status: False
        params = RunParams(**{**SMALL, **changes})
        self.run = StressRun(params, sync, reporter or Null(), self.show)
        self.run.rig.reporting.trace = lambda event, *fields: self.events.append(event)

    def show(self, status: Status) -> None:
        self.statuses.append(status)
        if self.enough(status):
            self.run.interrupt()  # as Ctrl-C does

    def run_until(self, enough: Callable[[Status], bool]) -> Summary:
        """Make the run, and end its load as soon as a status is what was waited for."""
        self.enough = enough
        return self.run.run()


@pytest.fixture
def make(sync: Sync) -> Callable[..., Made]:
    return lambda reporter=None, **changes: Made(sync, reporter, **changes)


def words(**changes: object) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in {**SMALL, **changes}.items()]


# -- scenarios that run --------------------------------------------------------------------------------------


def test_one_run_goes_through_all_dangers_with_one_verdict_and_one_log(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    interval_s = sys.getswitchinterval()
    command = ["run", "all", "--seconds", "4", "--allocators", "4", "--run-dir", str(tmp_path / "run")]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("SUCCESS ")
    assert lines[-1].endswith(lines[0].removeprefix("stress run: ")), "all parameters first and last"
    assert "scenario=all" in lines[0]
    log = (tmp_path / "run" / "events-0001.ndjson").read_text(encoding="utf-8")
    events = [json.loads(line) for line in log.splitlines() if '"phase_' in line]
    told = [(event["event"], event["name"]) for event in events]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    names = [phase["name"] for phase in summary["params"]["phases"]]
    assert told == [(edge, name) for name in names for edge in ("phase_begin", "phase_end")]
    assert set(names) == set(shipped()) - {"all"}
    assert summary["reported_blocks"] > 0
    assert sys.getswitchinterval() == interval_s


def test_the_seconds_are_shared_out_among_the_phases() -> None:
    short, long = Phase("short", 1.0, {}), Phase("long", 3.0, {"handover": 0.9})
    assert RunParams(seconds=8.0, phases=(short, long)).timetable() == [(short, 2.0), (long, 8.0)]
    assert [(phase.name, end_s) for phase, end_s in RunParams().timetable()] == [("load", 8.0)]


def test_a_phase_changes_the_reporters_manners_and_lost_batches_come_back(make: Callable[..., Made]) -> None:
    phases = (Phase("lost", 1.0, {"lose_rate": 1.0}), Phase("good", 1.0, {}))
    summary = make(phases=phases, seconds=2.0).run.run()
    assert (summary.verdict, summary.stuck_batches) == ("SUCCESS", 0)
    assert summary.failed_batches >= 1
    assert summary.reported_blocks > 0


def test_what_failed_before_the_end_excuses_nothing_that_is_left_at_the_end(
    make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    class FailsAtFirst:
        calls = 0

        def report(self, zone: Zone, batch: Batch) -> None:
            self.calls += 1
            if self.calls < 3:
                raise InjectedError("not yet")

    def run() -> Summary:
        reporter = FailsAtFirst()
        return make(reporter, seconds=60.0).run_until(lambda status: reporter.calls > 3)

    assert run().verdict == "SUCCESS"
    monkeypatch.setattr(Reach, "nr_unreported", lambda _reach, _zone: 1)
    summary = run()
    assert summary.failed_batches == 2
    assert any("a request was lost (L1)" in text for text in summary.violations)


# -- disturbances --------------------------------------------------------------------------------------------


@pytest.fixture
def tortured(make: Callable[..., Made], sync: Sync) -> Iterator[Callable[..., StressRun]]:
    """Start the disturbances over a run that has no load, and end them when the test is over."""
    begun: list[tuple[StressRun, Torture]] = []

    def start(**changes: object) -> StressRun:
        run: StressRun = make(**changes).run
        run.rig.workqueue.start()
        torture = Torture(run.rig.params, run.rig, run.crew)
        begun.append((run, torture))
        torture.start()
        return run

    yield start
    for run, torture in begun:
        torture.stop(10.0, lambda: None)
        assert run.crew.go.is_set()
        assert run.rig.reporting.device is run.rig.device
        run.abandon()
        assert run.rig.violations.texts == []


def test_stutter_stops_all_and_lets_all_go(
    tortured: Callable[..., StressRun], until: Callable[..., None]
) -> None:
    run = tortured(stutter=0.02)
    for _ in range(3):
        until(lambda: not run.crew.go.is_set(), "all stop")
        until(run.crew.go.is_set, "all go")


def test_a_long_hold_keeps_a_zone_lock(
    tortured: Callable[..., StressRun], until: Callable[..., None]
) -> None:
    run = tortured(long_hold=0.05, long_hold_interval=0.01)
    (zone,) = run.rig.memory.zones
    for _ in range(3):
        until(zone.lock.locked, "the lock is held")
        until(lambda: not zone.lock.locked(), "the lock is free")


def test_the_switch_interval_is_drawn_anew_within_its_range(
    tortured: Callable[..., StressRun], until: Callable[..., None]
) -> None:
    before_s = sys.getswitchinterval()
    try:
        tortured(switch_interval=(1e-4, 1e-3), shuffle_interval=0.01)
        seen: set[float] = set()

        def another() -> bool:
            seen.add(sys.getswitchinterval())
            return len(seen) > 3

        until(another, "three intervals are drawn")
        assert all(9e-5 < interval_s < 1.1e-3 for interval_s in seen - {before_s})
    finally:
        sys.setswitchinterval(before_s)


def test_threads_come_and_go_but_never_fewer_than_the_least(make: Callable[..., Made]) -> None:
    made = make(onoff_interval=0.01, allocators_min=2, allocators=6, seconds=PATIENCE_S)
    summary = made.run_until(lambda status: status.allocators == 3)
    assert summary.verdict == "SUCCESS"
    counts = {status.allocators for status in made.statuses if status.phase == "load"}
    assert 3 in counts
    assert min(counts) >= 2
    assert summary.allocs == summary.frees


def test_a_device_that_leaves_and_comes_back_is_registered_at_the_end(make: Callable[..., Made]) -> None:
    made = make(register_interval=0.02, reporter_sleep_s=(0.0, 0.01), seconds=PATIENCE_S)

    def registered() -> int:
        return made.events.count("page_reporting_register")

    summary = made.run_until(lambda status: registered() > 5)
    assert summary.verdict == "SUCCESS", summary.violations
    assert registered() > 5
    assert made.statuses[-1].zones[0].reported > 0.9 * made.statuses[-1].zones[0].free


def test_a_call_of_the_reporter_after_its_device_has_left_is_a_violation(
    sync: Sync, make: Callable[..., Made]
) -> None:
    violations = Violations(sync, lambda _text: None)
    manners = Manners(Null(), RunParams(), sync, violations)
    (zone,) = make().run.rig.memory.zones
    manners.report(zone, [])
    assert violations.count == 0
    manners.parted = True
    manners.report(zone, [])
    assert "after its device was unregistered (S22)" in violations.texts[0]


def test_a_device_that_leaves_without_waiting_for_its_work_is_found_out(make: Callable[..., Made]) -> None:
    made = make(register_interval=0.02, mutant="M-54", seconds=PATIENCE_S)
    summary = made.run_until(lambda status: status.violations > 0)
    assert summary.verdict == "FAILURE"
    assert any("after its device was unregistered (S22)" in text for text in summary.violations)


def test_a_disturbance_that_dies_makes_the_run_fail(
    make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(torture: Torture, rng: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(Torture, "_stutter", breaks)
    summary = make(stutter=0.01).run.run()
    assert summary.violations == ["torture-stutter died: ZeroDivisionError: planted"]


# -- hangs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plant an allocator that stands still after some work, until the test is over."""
    end = threading.Event()
    allocate = Allocator._allocate

    def stands_still_at_last(allocator: Allocator) -> None:
        if allocator.number == 1 and allocator.stats.allocs > 50:
            end.wait()
        allocate(allocator)

    monkeypatch.setattr(Allocator, "_allocate", stands_still_at_last)
    yield
    end.set()


@pytest.mark.usefixtures("hanging")
def test_a_thread_that_stands_still_ends_the_run_with_all_stacks_and_status_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["run", *words(hang_after=1.0, seconds=600), "--run-dir", str(tmp_path / "run")]
    assert main(command) == 1
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[-1].startswith("FAILURE ")
    assert "!!! hang: allocator-1 took no step for 1 s" in lines
    assert "allocator-1:\n" in captured.err
    assert "stands_still_at_last" in captured.err
    assert "conductor:\n" in captured.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["verdict"], summary["seconds"] < 60) == ("FAILURE", True)


def test_a_zone_lock_that_is_never_released_ends_the_run(make: Callable[..., Made]) -> None:
    end = threading.Event()

    class Keeper:
        """Lets another thread keep the lock: who holds it himself is told so, and does not wait."""

        thread: threading.Thread | None = None

        def report(self, zone: Zone, batch: Batch) -> None:
            if self.thread is None:
                held = threading.Event()

                def keep() -> None:
                    with zone.lock:
                        held.set()
                        end.wait()

                self.thread = threading.Thread(target=keep, daemon=True)
                self.thread.start()
                held.wait()

    keeper = Keeper()
    try:
        summary = make(keeper, hang_after=1.0, seconds=600).run.run()
    finally:
        end.set()
        assert keeper.thread is not None
        keeper.thread.join()
    assert summary.verdict == "FAILURE"
    assert any(text.startswith("hang: ") for text in summary.violations)
    assert summary.seconds < 60


def test_a_conductor_that_waits_for_ever_is_ended_too(
    make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever watches the run never returns."""
    end = threading.Event()
    made = make(hang_after=1.0, seconds=600)
    monkeypatch.setattr(made.run._gauge, "_watch", lambda _status: end.wait())
    try:
        summary: Summary = made.run.run()
    finally:
        end.set()
    assert summary.verdict == "FAILURE"
    assert summary.violations == ["hang: conductor took no step for 1 s"]
    assert any(stack.startswith("conductor:\n") for stack in summary.stacks)


@pytest.mark.slow
def test_a_reporter_that_never_returns_is_no_hang(make: Callable[..., Made]) -> None:
    patience_s = 2.0  # a busy machine keeps an allocator waiting for more than one second
    made = make(lose_rate=1.0, hang_after=patience_s, seconds=600)

    def long_enough(status: Status) -> bool:
        since = next((seen.seconds for seen in made.statuses if seen.stuck), status.seconds)
        return status.seconds > since + patience_s + 1.0

    summary = made.run_until(long_enough)
    assert (summary.verdict, summary.stuck_batches) == ("SUCCESS", 1)
    assert summary.stacks == []


def test_only_who_stands_still_for_longer_than_the_patience_is_late() -> None:
    dog = Watchdog(2.0)
    for second in range(6):
        late = dog.look(float(second), [("moves", second), ("stands", 7), ("rests", None)])
        assert late == (["stands"] if second > 2 else [])
    assert dog.look(6.0, [("stands", 8)]) == []


def test_a_process_that_was_stopped_for_an_hour_has_not_hung() -> None:
    dog = Watchdog(2.0)
    dog.look(0.0, [("thread", 1)])
    assert dog.look(3600.0, [("thread", 1)]) == []


def test_the_stacks_name_every_thread(sync: Sync) -> None:
    end = threading.Event()
    thread = sync.spawn("somebody", end.wait)  # type: ignore[arg-type]
    told = "\n".join(stacks())
    end.set()
    thread.join()
    assert "somebody:\n" in told
    assert "test_the_stacks_name_every_thread" in told


def test_a_thread_caught_between_two_values_of_a_generator_keeps_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody calls the generator's frame by then, so the frames do not lead to the thread."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="somebody")
    thread.start()
    values = (number for number in range(2))
    next(values)
    monkeypatch.setattr(sys, "_current_frames", lambda: {thread.ident: values.gi_frame})  # type: ignore[attr-defined]
    (told,) = stacks()
    end.set()
    thread.join()
    assert told.startswith("somebody:\n")


# -- fairness ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        ({0: 1000, 1: 500}, None),
        ({0: 1000, 1: 499}, "allocator 1 made 499 operations, allocator 0 1,000"),
        ({0: 3, 1: 1000, 2: 900}, "allocator 0 made 3 operations, allocator 1 1,000"),
        ({0: 150, 1: 0}, None),
        ({0: 1000}, None),
        ({}, None),
    ],
)
def test_it_is_unfair_when_half_of_the_most_is_more_than_the_least(
    operations: dict[int, int], expected: str | None
) -> None:
    assert unfair(operations) == expected


def test_each_interval_is_judged_by_itself_and_who_came_meanwhile_is_left_out() -> None:
    fairness = Fairness(5.0)
    fairness.look(0.0, {(0, 1): 0, (1, 1): 0})
    fairness.look(1.0, {(0, 1): 9000, (1, 1): 0})
    assert fairness.unfair is None, "the interval is not over"
    fairness.look(5.0, {(0, 1): 9000, (1, 1): 10})
    assert fairness.unfair == "allocator 1 made 10 operations, allocator 0 9,000"
    fairness.look(10.0, {(0, 1): 10_000, (1, 2): 20})
    assert fairness.unfair is None, "allocator 1 left and came back"
    assert fairness.unfair_intervals == 1


def test_an_unfair_load_is_shown_and_is_no_failure(
    make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    allocate = Allocator._allocate

    def dawdles(allocator: Allocator) -> None:
        if allocator.number == 2:
            allocator._sync.sleep(0.01)
        allocate(allocator)

    monkeypatch.setattr(Allocator, "_allocate", dawdles)
    made = make(fair_interval=0.3, seconds=PATIENCE_S)
    summary = made.run_until(lambda status: status.unfair is not None)
    assert summary.verdict == "SUCCESS"
    assert summary.unfair_intervals >= 1
    assert any((status.unfair or "").startswith("allocator 2 made ") for status in made.statuses)
    assert any(note.startswith("??? unfair over the whole run: allocator 2 made ") for note in summary.notes)


# -- what stays flat -----------------------------------------------------------------------------------------


def test_a_run_of_any_length_keeps_a_bounded_number_of_footprints_spread_over_all_of_it() -> None:
    footprints = Footprints(0.5)
    for step in range(8 * SAMPLES_MAX):
        footprints.look(step * 0.5, 0)
    assert SAMPLES_MAX // 4 < len(footprints._samples) <= SAMPLES_MAX


def test_a_leak_can_be_read_off_the_tenths(tmp_path: Path) -> None:
    footprints = Footprints(1.0)
    leaked = []
    for second in range(30):
        leaked.append((tmp_path / str(second)).open("w"))
        footprints.look(float(second), 0)
    for file in leaked:
        file.close()
    summary: dict[str, Any] = footprints.summary()
    first, middle, last = (
        summary[f"{part}_tenth"]["file_descriptors"] for part in ("first", "middle", "last")
    )
    assert first < middle < last
    assert last - first == 27
    assert summary["peak_rss_bytes"] >= summary["last_tenth"]["own_bytes"] > 1 << 20


def test_the_summary_counts_what_the_run_keeps_and_ends_with_what_it_began(make: Callable[..., Made]) -> None:
    summary = make(handover=0.9, inbox_max=5).run.run()
    assert summary.verdict == "SUCCESS"
    footprint: dict[str, Any] = summary.footprint
    assert footprint["after"]["file_descriptors"] == footprint["before"]["file_descriptors"]
    assert footprint["last_tenth"]["threads"] >= footprint["before"]["threads"] + 3
    assert 0 < summary.kept_max["blocks in inboxes"] <= 3 * 5
    assert 0 < summary.kept_max["ranges in the ledger"] <= 96 << 8
    assert len(summary.operations) == 3


# -- Ctrl-C --------------------------------------------------------------------------------------------------


def interrupted(
    start_stress: Callable[..., subprocess.Popen[str]], folder: Path, phases: list[str], *more: str
) -> tuple[int, str, str]:
    """Start a run whose reporter is slow, and send Ctrl-C in each of these phases."""
    slow = words(reporter_sleep=20, stat_interval=0.05, seconds=1.0)
    process = start_stress("run", *slow, *more, "--run-dir", str(folder))
    assert process.stdout is not None
    for phase in phases:
        for line in process.stdout:
            if f" s  {phase} " in line:
                break
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err


def test_control_c_while_the_worker_settles_ends_with_a_verdict(
    tmp_path: Path, start_stress: Callable[..., subprocess.Popen[str]]
) -> None:
    status, out, _ = interrupted(start_stress, tmp_path / "run", ["settle"])
    assert status == 130
    last = out.splitlines()[-1]
    assert last.startswith("SUCCESS interrupted after ")
    assert float(last.split()[3]) < 15


def test_a_second_control_c_leaves_at_once(
    tmp_path: Path, start_stress: Callable[..., subprocess.Popen[str]]
) -> None:
    status, _, err = interrupted(start_stress, tmp_path / "run", ["load", "settle"], "--seconds=600")
    assert (status, err.splitlines()[-1]) == (130, "stress: interrupted")


def test_somebody_who_is_late_to_go_is_still_on(sync: Sync, make: Callable[..., Made]) -> None:
    crew: Crew = make().run.crew
    end = threading.Event()
    allocator = crew.allocators[0]
    allocator.run = end.wait  # type: ignore[method-assign,assignment]
    crew.start(0)
    crew.dismiss(0, 0.01)
    assert crew.is_on(0)
    end.set()
    crew.dismiss(0, 10.0)
    assert not crew.is_on(0)
