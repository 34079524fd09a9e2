"""Whole runs, small and short: sound ones succeed, every planted fault is told, and no end is without a verdict."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pagealloc.errors import DoubleFree
from pagealloc.revision import PRESETS
from pagealloc.sync import Sync
from pagealloc.zone import Zone
from stress.cli import main
from stress.errors import EXIT_CANNOT
from stress.mutants import MUTANTS, planted
from stress.run import directory
from stress.run.conductor import StressRun
from stress.run.inspection import Inspection
from stress.run.params import RunParams
from stress.run.status import Status
from stress.run.summary import Summary
from workers.allocators import Allocator
from workers.page_reporting import Batch, PageReporting, Reporter
from workers.reporters import load_reporter

SMALL: dict[str, Any] = {
    "allocators": 2,
    "seconds": 0.5,
    "zones": "Normal=96MiB",
    "order": 3,
    "capacity": 8,
    "delay": 0.02,
}
KEYS = {
    "verdict",
    "violations",
    "seconds",
    "allocators",
    "allocs",
    "frees",
    "failed_allocs",
    "passes",
    "batches",
    "reported_blocks",
    "reported_bytes",
    "stuck_batches",
    "resident_bytes_start",
    "resident_bytes_peak",
    "resident_bytes_end",
    "params",
}
MIB = 1 << 20

Start = Callable[..., subprocess.Popen[str]]
Run = Callable[..., Summary]


class Watched:
    """What a run showed and told while it ran."""

    def __init__(self) -> None:
        self.statuses: list[Status] = []


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
def stress(sync: Sync, watched: Watched) -> Run:
    """Make one run with small parameters, changed as told, and return its summary."""

    def run(reporter: Reporter | None = None, **changes: object) -> Summary:
        params = RunParams(**{**SMALL, **changes})
        made = reporter if reporter is not None else load_reporter(params.reporter)
        watch = watched.statuses.append
        return StressRun(params, sync, made, watch).run()

    return run


def arguments(run_dir: Path, *more: str, **changes: object) -> list[str]:
    words = [f"--{name}={value}" for name, value in {**SMALL, **changes}.items()]
    return ["run", "--run-dir", str(run_dir), *words, *more]


def assert_success(summary: Summary) -> None:
    assert summary.violations == []
    assert (summary.verdict, summary.violation_count) == ("SUCCESS", 0)
    assert summary.allocs == summary.frees > 0
    assert not summary.interrupted


# -- sound runs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("allocators", [1, 16])
def test_few_and_many_allocators_and_a_reporter_never_collide(stress: Run, allocators: int) -> None:
    summary = stress(allocators=allocators, seconds=1.0)
    assert_success(summary)
    assert summary.allocators == allocators
    assert summary.batches > 0
    assert summary.reported_blocks > 0


@pytest.mark.parametrize("preset", PRESETS)
def test_every_kernel_that_can_be_followed_makes_a_sound_run(stress: Run, preset: str) -> None:
    summary = stress(preset=preset)
    assert_success(summary)
    assert summary.params["preset"] == preset
    assert summary.reported_blocks > 0


@pytest.mark.parametrize("ram", ["anonymous", "memfd"])
def test_discarded_memory_really_goes_back(stress: Run, ram: str) -> None:
    summary = stress(ram=ram, seconds=1.0)
    assert_success(summary)
    assert summary.resident_bytes_start < MIB
    assert summary.resident_bytes_peak > 20 * MIB
    assert summary.resident_bytes_end < summary.resident_bytes_peak // 4


def test_null_takes_reports_and_gives_nothing_back(stress: Run) -> None:
    summary = stress(load_reporter("null"))
    assert_success(summary)
    assert summary.reported_blocks > 0
    assert summary.resident_bytes_end == summary.resident_bytes_peak


def test_a_host_that_keeps_what_it_acknowledges_is_told_of_and_is_a_failure_on_request(stress: Run) -> None:
    summary = stress(load_reporter("null"))
    assert_success(summary)
    assert summary.kept_blocks > 0
    assert summary.kept_bytes > summary.kept_blocks << 12
    summary = stress(load_reporter("null"), must_release=True)
    assert summary.verdict == "FAILURE"
    assert summary.violations == [
        (
            f"the reporter acknowledged {summary.kept_blocks} blocks and kept {summary.kept_bytes >> 20} MiB of them "
            "(--must-release)"
        )
    ]


@pytest.mark.parametrize("ram", ["anonymous", "memfd"])
def test_a_host_that_gives_everything_back_has_kept_nothing(stress: Run, ram: str) -> None:
    summary = stress(ram=ram, must_release=True)
    assert_success(summary)
    assert (summary.kept_blocks, summary.kept_bytes) == (0, 0)


def test_a_reporter_that_sleeps_makes_fewer_batches_and_none_is_lost(stress: Run) -> None:
    summary = stress(load_reporter("sleep"), reporter_sleep_s=(0.02, 0.03))
    assert_success(summary)
    assert 0 < summary.batches <= summary.seconds / 0.02
    assert summary.stuck_batches == 0


def test_several_zones_and_nodes_are_loaded_and_reported(stress: Run, watched: Watched) -> None:
    zones = "DMA32=48MiB,Normal=48MiB,1:Normal=48MiB"
    summary = stress(zones=zones, allocators=4)
    assert_success(summary)
    assert [zone.name for zone in watched.statuses[-1].zones] == ["DMA32", "Normal", "1:Normal"]
    assert all(zone.reported for zone in watched.statuses[-1].zones)


def test_a_zone_that_no_pass_can_reach_is_noted(stress: Run) -> None:
    summary = stress(zones="DMA=16MiB,Normal=96MiB", order=9, capacity=32)
    assert_success(summary)
    assert len([note for note in summary.notes if "zone DMA is never reported" in note]) == 1


def test_everything_within_reach_is_reported_at_the_end(stress: Run, watched: Watched) -> None:
    assert_success(stress())
    (zone,) = watched.statuses[-1].zones
    assert (zone.allocated, zone.in_flight, zone.on_page_sets) == (0, 0, 0)
    assert zone.free == zone.managed
    assert zone.reported > zone.managed * 0.9


def test_a_status_is_shown_a_few_times_a_second_and_its_parts_make_up_the_zone(
    stress: Run, watched: Watched
) -> None:
    stress()
    assert {status.phase for status in watched.statuses} >= {"load", "end"}
    assert len(watched.statuses) >= 4
    seconds = [status.seconds for status in watched.statuses]
    assert seconds == sorted(seconds)
    for status in watched.statuses:
        (zone,) = status.zones
        assert zone.managed == 96 * MIB >> 12
        assert min(zone.free, zone.allocated, zone.on_page_sets, zone.in_flight, zone.reported) >= 0


# -- faults of the reporter ----------------------------------------------------------------------------------


def test_failing_batches_are_counted_and_the_run_is_sound(stress: Run) -> None:
    summary = stress(fail_rate=0.3)
    assert_success(summary)
    assert 0 < summary.failed_batches < summary.batches
    assert summary.reported_blocks > 0


def test_a_reporter_that_always_fails_reports_nothing_and_loses_nothing(stress: Run) -> None:
    summary = stress(fail_rate=1.0)
    assert_success(summary)
    assert summary.failed_batches == summary.batches > 0
    assert (summary.reported_blocks, summary.reported_bytes) == (0, 0)


def test_late_batches_hold_nobody_up(stress: Run) -> None:
    summary = stress(delay_rate=0.5)
    assert_success(summary)
    assert summary.reported_blocks > 0


def test_a_lost_batch_is_told_as_stuck_with_its_age_and_loses_no_page(stress: Run, watched: Watched) -> None:
    summary = stress(lose_rate=1.0)
    assert_success(summary)
    assert summary.stuck_batches == 1
    (note,) = [note for note in summary.notes if note.startswith("stuck: ")]
    assert "batch 1 (8 blocks of zone Normal" in note
    assert "has been with the reporter for" in note
    assert watched.statuses[-1].zones[0].in_flight > 0
    assert watched.statuses[-1].stuck is not None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_reporter_that_ends_the_worker_makes_the_run_fail(sync: Sync) -> None:
    """The load goes on until there is something to report, however slow the machine is."""

    class Murderer:
        def report(self, zone: Zone, batch: Batch) -> None:
            run.interrupt()
            raise GeneratorExit(3)

    run = StressRun(RunParams(**{**SMALL, "seconds": 600.0}), sync, Murderer(), lambda _status: None)
    summary = run.run()
    assert summary.verdict == "FAILURE"
    (death,) = [text for text in summary.violations if "worker died" in text]
    assert death.startswith("the reporting worker died: GeneratorExit: 3 (test_run.py:")
    assert death.endswith(", in report)")


# -- planted faults ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mutant", "message"),
    [
        ("M-1", "Reported"),
        ("M-17", "is in flight, but"),
        ("M-26", "pages are in flight after everything was freed, expected 0"),
    ],
)
def test_a_planted_fault_ends_in_failure_with_words_that_a_person_understands(
    sync: Sync, mutant: str, message: str
) -> None:
    """The load goes on until something is seen, however slow the machine is; M-26 is seen at the end."""
    params = RunParams(**{**SMALL, "mutant": mutant, "seconds": 60.0, "allocators": 4})

    def watch(status: Status) -> None:
        if status.violations or (mutant == "M-26" and status.batches > 2):
            run.interrupt()

    run = StressRun(params, sync, load_reporter("discard"), watch)
    summary = run.run()
    assert summary.verdict == "FAILURE"
    assert any(message in text for text in summary.violations), summary.violations[:5]
    assert 0 < len(summary.violations) <= summary.violation_count


def test_a_failure_is_told_with_its_first_violations_what_to_do_and_the_verdict_last(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(inspection: Inspection) -> None:
        checks(inspection)
        for number in range(8):
            inspection._rig.violations.add(f"pfn {number} is lost")

    checks = Inspection.final_checks
    monkeypatch.setattr(Inspection, "final_checks", lose)
    path = tmp_path / "run"
    assert main(arguments(path, seconds=0.5)) == 1
    *_, violation, following, verdict = capsys.readouterr().out.splitlines()
    assert violation == "!!! pfn 0 is lost (7 more like it)"
    assert following.startswith(f"next: `python -m stress verify {path}` names the records")
    assert verdict.startswith("FAILURE ")
    assert json.loads((path / "summary.json").read_text(encoding="utf-8"))["verdict"] == "FAILURE"


def test_a_planted_fault_is_gone_when_its_run_is_over(stress: Run) -> None:
    before = [getattr(owner, name) for mutant in MUTANTS.values() for owner, name, _ in mutant.patches]
    with planted("M-1"):
        assert PageReporting.drain is not before[0]
    assert [
        getattr(owner, name) for mutant in MUTANTS.values() for owner, name, _ in mutant.patches
    ] == before
    assert_success(stress())


def test_an_allocator_that_dies_makes_the_run_fail(stress: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    allocate = Allocator._allocate

    def dies_soon(allocator: Allocator) -> None:
        if allocator.number == 1 and allocator.stats.allocs > 50:
            raise ZeroDivisionError("planted")
        allocate(allocator)

    monkeypatch.setattr(Allocator, "_allocate", dies_soon)
    summary = stress()
    assert summary.verdict == "FAILURE"
    assert "allocator 1 died: ZeroDivisionError: planted" in summary.violations
    assert any("pages are allocated after everything was freed" in text for text in summary.violations)


def test_what_breaks_only_when_the_leftovers_are_freed_is_a_finding_too(
    stress: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The conductor empties the inboxes after the allocators have left; a DoubleFree there is no crash."""
    empty_inbox = Allocator.empty_inbox

    def breaks(allocator: Allocator) -> None:
        if threading.current_thread().name == "conductor":
            raise DoubleFree(1, 0, "free on a free list", "planted")
        empty_inbox(allocator)

    monkeypatch.setattr(Allocator, "empty_inbox", breaks)
    summary = stress()
    assert summary.verdict == "FAILURE"
    assert any("double free" in text for text in summary.violations)


# -- the command ---------------------------------------------------------------------------------------------


def test_a_run_prints_its_parameters_first_and_its_verdict_last(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(arguments(tmp_path / "run")) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert captured.err == ""
    assert lines[0].startswith("stress run: allocators=2 seconds=0.5 zones=Normal=96MiB")
    assert lines[-1].startswith("SUCCESS ")
    assert lines[-1].endswith(lines[0].removeprefix("stress run: "))
    assert f"note: run directory {tmp_path}/run" in lines


def test_json_is_one_object_and_nothing_else(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(arguments(tmp_path / "run", "--json")) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert captured.out.count("\n") == 1
    assert set(summary) >= KEYS
    assert (summary["verdict"], summary["violations"]) == ("SUCCESS", [])
    assert summary["params"]["zones"] == "Normal=96MiB"
    assert summary["seconds"] >= 0.5


def test_json_of_a_failed_run_is_one_object_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(arguments(tmp_path / "run", "--json", mutant="M-26")) == 1
    summary = json.loads(capsys.readouterr().out)
    assert summary["verdict"] == "FAILURE"
    assert summary["violations"]


def test_a_reporter_of_your_own_gets_the_batches(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reporter_that_tells.py").write_text(
        "import os, pathlib\n"
        "class Tell:\n"
        "    def report(self, zone, batch):\n"
        "        pathlib.Path(os.environ['TOLD']).write_text(f'{zone.name} {len(batch)}')\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TOLD", str(tmp_path / "told"))
    assert main(arguments(tmp_path / "run", reporter="reporter_that_tells:Tell")) == 0
    capsys.readouterr()
    name, blocks = (tmp_path / "told").read_text(encoding="utf-8").split()
    assert name == "Normal"
    assert 1 <= int(blocks) <= 8


# -- the run directory ---------------------------------------------------------------------------------------


def test_the_run_directory_tells_the_whole_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "new" / "run"
    assert main(arguments(path, "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    contents = {
        name: json.loads((path / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("params", "versions", "summary")
    }
    assert sorted(file.name for file in path.iterdir()) == [
        "checksums-0001.txt",
        "events-0001.ndjson",
        "harness.ndjson",
        "params.json",
        "summary.json",
        "versions.json",
    ]
    assert contents["params"] == printed["params"]
    assert contents["summary"] == printed
    assert contents["versions"]["python"] == sys.version
    events = [json.loads(line) for line in (path / "events-0001.ndjson").read_text().splitlines()]
    assert [event["event"] for event in events[:2]] == ["thread_begin", "log_begin"]
    assert events[-1]["event"] == "log_end"
    assert [event["verdict"] for event in events if event["event"] == "run_end"] == ["SUCCESS"]
    begun = [event for event in events if event["event"] == "page_reporting_report_begin"]
    ended = [event for event in events if event["event"] == "page_reporting_report_end"]
    batches = list(range(1, printed["batches"] + 1))
    assert [event["batch"] for event in begun] == [event["batch"] for event in ended] == batches
    assert sum(len(event["blocks"]) for event in begun) == printed["reported_blocks"]


def test_without_a_name_the_run_directory_is_named_after_the_time(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word for word in arguments(tmp_path, seconds=0.1) if word not in ("--run-dir", str(tmp_path))]
    assert main(words) == 0
    assert main(words) == 0
    capsys.readouterr()
    made = sorted((tmp_path / "runs").iterdir())
    assert len(made) == 2
    assert all((path / "summary.json").exists() for path in made)


def test_a_run_directory_that_nobody_asked_for_is_done_without_if_need_be(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("in the way", encoding="utf-8")
    words = [word for word in arguments(tmp_path, seconds=0.1) if word not in ("--run-dir", str(tmp_path))]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("stress: no run directory is kept: ")
    assert captured.err.count("\n") == 1
    assert captured.out.splitlines()[-1].startswith("SUCCESS")


WANDERER = """
import os
os.chdir("/")
class Wanderer:
    def report(self, zone, batch):
        os.chdir("/proc")
"""


@pytest.mark.parametrize("named", [True, False], ids=["named", "by default"])
def test_a_reporter_that_goes_to_another_folder_takes_nothing_along(
    named: bool, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "wanderer.py").write_text(WANDERER, encoding="utf-8")
    words = [*arguments(tmp_path, "--reporter", "wanderer:Wanderer", seconds=0.2)]
    at = words.index("--run-dir")
    words[at : at + 2] = ["--run-dir", "mine"] if named else []
    assert main(words) == 0
    assert Path.cwd() == Path("/proc")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("SUCCESS ")
    (folder,) = [tmp_path / "mine"] if named else (tmp_path / "runs").iterdir()
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8"))["verdict"] == "SUCCESS"


CLOSER = """
import os, sys
class Closer:
    def start(self, memory):
        self.memory = memory
    def report(self, zone, batch):
        {close}
"""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_reporter_that_closes_the_memory_fails_the_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "closer.py").write_text(CLOSER.format(close="self.memory.close()"), encoding="utf-8")
    assert main(arguments(tmp_path / "run", "--reporter", "closer:Closer")) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("FAILURE ")
    assert any(line.startswith("!!! ") and "this memory is closed" in line for line in lines)


@pytest.mark.parametrize("close", ["sys.stdout.close(); sys.stderr.close()", "os.close(1); os.close(2)"])
def test_who_can_say_nothing_any_more_has_no_status_of_a_failed_check(
    close: str, tmp_path: Path, start_stress: Start
) -> None:
    (tmp_path / "mute.py").write_text(CLOSER.format(close=close), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    words = arguments(tmp_path / "run", "--reporter", "mute:Closer")
    process = start_stress(*words, env=environment)
    process.communicate(timeout=60)
    assert process.returncode == EXIT_CANNOT


@pytest.fixture
def log_on_a_full_disk() -> Iterator[None]:
    """Let no file grow beyond some kilobytes: the log's writer meets that end as it would a full disk's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("log_on_a_full_disk")
def test_a_full_disk_costs_the_log_and_the_verdict_but_not_the_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(arguments(tmp_path / "run")) == EXIT_CANNOT
    lines = capsys.readouterr().out.splitlines()
    (note,) = [line for line in lines if line.startswith("note: the log lacks ")]
    assert note.endswith(": File too large")
    lost_events = int(note.split()[4])
    assert lost_events > 10
    assert lines[-1].startswith("CANNOT DECIDE ")
    what = note.removeprefix("note: ")
    assert f" ({what}): " in lines[-1]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["verdict"], summary["unkept"], what in summary["notes"]) == ("CANNOT DECIDE", what, True)
    assert main(["verify", str(tmp_path / "run")]) == 2, "the log says so, too"


@pytest.mark.usefixtures("log_on_a_full_disk")
def test_json_says_how_many_events_were_lost(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(arguments(tmp_path / "run", "--json")) == EXIT_CANNOT
    assert "the log lacks " in capsys.readouterr().out


@pytest.mark.usefixtures("log_on_a_full_disk")
def test_a_full_disk_excuses_no_failure(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = arguments(tmp_path / "run", "--mutant", "M-10", "--order", "5")
    assert main(words) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("FAILURE ")
    assert "the log lacks " in last


def test_a_disk_too_full_for_the_summary_leaves_no_success(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text = Path.write_text

    def full(path: Path, *args: Any, **kwargs: Any) -> int:
        if path.name.startswith(directory.SUMMARY_FILE):
            raise OSError(28, "No space left on device")
        return write_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    assert main(arguments(tmp_path / "run")) == EXIT_CANNOT
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("CANNOT DECIDE ")
    assert re.search(r"\(no summary was kept: .*/summary.json: No space left on device\): ", last)


def test_a_disk_too_full_to_begin_is_no_bad_argument(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *args: Any, **kwargs: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert main(arguments(tmp_path / "run")) == EXIT_CANNOT
    assert capsys.readouterr().err == f"stress: --run-dir: {tmp_path / 'run'}: No space left on device\n"


# -- Ctrl-C --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_who_interrupts_a_run_gets_its_verdict_and_the_status_of_the_signal(
    tmp_path: Path, start_stress: Start, number: signal.Signals, status: int
) -> None:
    process = start_stress(*arguments(tmp_path / "run", seconds=600))
    assert process.stdout is not None
    for line in process.stdout:
        if " load " in line:
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (
        status,
        "stress: interrupted: the load ends, the verdict follows; a second Ctrl-C leaves at once\n",
    )
    assert out.splitlines()[-1].startswith("SUCCESS interrupted after ")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["interrupted"] is True
    assert summary["seconds"] < 60


def test_a_run_whose_reader_hangs_up_ends_as_sigpipe_would(tmp_path: Path, start_stress: Start) -> None:
    """`stress run | head -1`: whoever reads the lines goes away."""
    process = start_stress(*arguments(tmp_path / "run", seconds=1.5))
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert (process.stderr.read(), process.wait(60)) == ("", 141)


@pytest.mark.slow
def test_a_longer_run_with_all_faults_but_loss_is_sound(stress: Run) -> None:
    """For as long as one likes: `stress run --allocators 8 --fail-rate 0.1 --delay-rate 0.05 --seconds 600`."""
    summary = stress(
        allocators=8, seconds=8.0, fail_rate=0.1, delay_rate=0.05, zones="DMA32=64MiB,Normal=192MiB"
    )
    assert_success(summary)
