"""Whole runs whose host is QEMU, and the two optional methods of a reporter, which it was the first to need."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from pagealloc.memory import Memory
from pagealloc.sync import Sync
from pagealloc.zone import Zone
from stress.cli import main
from stress.run.conductor import StressRun
from stress.run.params import RunParams
from stress.run.summary import Summary
from workers.errors import DeviceGone, ReporterError
from workers.page_reporting import Batch, Reporter
from workers.qemu.reporter import QemuReporter

SMALL: dict[str, Any] = {
    "allocators": 2,
    "seconds": 1.0,
    "zones": "Normal=96MiB",
    "order": 3,
    "capacity": 8,
    "delay": 0.02,
    "ram": "memfd",
    "reporter": "qemu",
}
MIB = 1 << 20


def run(sync: Sync, reporter: Reporter, **changes: object) -> Summary:
    return StressRun(RunParams(**{**SMALL, **changes}), sync, reporter, lambda status: None).run()


# -- start and close -----------------------------------------------------------------------------------------


class Listed:
    """Writes down what is called; `flaw` names a method that raises."""

    def __init__(self, flaw: str | None = None) -> None:
        self.calls: list[str] = []
        self._flaw = flaw
        self.parted = threading.Event()

    def _called(self, name: str) -> None:
        if name not in self.calls:
            self.calls.append(name)
        if name == self._flaw:
            raise ReporterError(f"no {name} today")

    def start(self, memory: Memory) -> None:
        assert memory.ram is not None
        self._called("start")

    def report(self, zone: Zone, batch: Batch) -> None:
        self._called("report")

    def close(self) -> None:
        self._called("close")


def test_a_reporter_is_started_before_its_first_batch_and_closed_behind_its_last(sync: Sync) -> None:
    reporter = Listed()
    assert run(sync, reporter).verdict == "SUCCESS"
    assert reporter.calls == ["start", "report", "close"]


def test_a_reporter_that_cannot_start_is_bad_input_and_is_closed_all_the_same(sync: Sync) -> None:
    reporter = Listed("start")
    with pytest.raises(ReporterError, match="no start today"):
        run(sync, reporter)
    assert reporter.calls == ["start", "close"]


def test_a_reporter_that_cannot_start_ends_the_command_with_status_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reporter_without_start.py").write_text(
        "class Broken:\n    def report(self, zone, batch): ...\n    def start(self, memory): 1 / 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = [
        "run",
        "--reporter=reporter_without_start:Broken",
        "--seconds=1",
        f"--run-dir={tmp_path / 'run'}",
    ]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error == "stress: the reporter cannot start: ZeroDivisionError: division by zero\n"


def test_without_qemu_the_command_names_the_package(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert main(["run", "--reporter=qemu", f"--run-dir={tmp_path / 'run'}"]) == 2
    assert capsys.readouterr().err == (
        "stress: reporter qemu: qemu-system-aarch64 is not installed: apt-get install qemu-system-arm\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--reporter=qemu", "--ram=anonymous"], "--ram: 'anonymous', expected memfd"),
        (["--reporter-timeout=1"], "--reporter-timeout: 1.0, expected --reporter qemu"),
        (["--reporter=qemu", "--reporter-timeout=-1"], "--reporter-timeout: -1.0, expected 0 .."),
    ],
)
def test_options_that_do_not_fit_qemu_are_bad_input(
    capsys: pytest.CaptureFixture[str], words: list[str], what: str
) -> None:
    assert main(["run", *words]) == 2
    assert what in capsys.readouterr().err


# -- QEMU as the host ------------------------------------------------------------------------------------------


@pytest.mark.needs("qemu")
def test_a_run_hands_its_memory_to_qemu_and_its_log_is_verified(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = [
        "--allocators=2",
        "--seconds=1.5",
        "--zones=DMA32=32MiB,Normal=96MiB",
        "--order=5",
        "--delay=0.05",
    ]
    assert main(["run", "--reporter=qemu", "--json", f"--run-dir={tmp_path / 'run'}", *words]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["failed_batches"] == summary["kept_blocks"] == 0
    assert summary["resident_bytes_peak"] > 20 * MIB
    assert summary["resident_bytes_end"] < summary["resident_bytes_peak"] // 4
    assert main(["verify", str(tmp_path / "run")]) == 0


@pytest.mark.needs("qemu")
def test_a_device_that_was_told_of_poison_acknowledges_and_keeps_everything(sync: Sync) -> None:
    summary = run(sync, QemuReporter(sync, poison=0xAA), must_release=True)
    assert summary.failed_batches == 0
    assert summary.kept_blocks > 0
    assert summary.resident_bytes_end == summary.resident_bytes_peak
    assert "--must-release" in summary.violations[0]


class Signalled(QemuReporter):
    """QEMU, which gets a signal right before its third batch."""

    def __init__(self, sync: Sync, number: signal.Signals, timeout_s: float = 0.0) -> None:
        super().__init__(sync, timeout_s)
        self._number = number
        self._batches = 0

    def report(self, zone: Zone, batch: Batch) -> None:
        self._batches += 1
        if self._batches == 3:
            assert self.process is not None
            os.kill(self.process.pid, self._number)
        super().report(zone, batch)


def gone(reporter: QemuReporter) -> bool:
    assert reporter.process is not None
    return not Path(f"/proc/{reporter.process.pid}").exists()


@pytest.mark.needs("qemu")
def test_a_run_goes_on_without_a_qemu_that_was_killed(sync: Sync) -> None:
    reporter = Signalled(sync, signal.SIGKILL)
    summary = run(sync, reporter)
    assert summary.violations == []
    assert 0 < summary.failed_batches < summary.batches
    assert any("QEMU has ended (SIGKILL" in note for note in summary.notes)


@pytest.mark.needs("qemu")
def test_a_qemu_that_stops_for_ever_has_its_batch_until_the_end_and_is_shown_as_stuck(sync: Sync) -> None:
    reporter = Signalled(sync, signal.SIGSTOP)
    summary = run(sync, reporter)
    assert summary.violations == []
    assert summary.stuck_batches == 1
    assert gone(reporter)


@pytest.mark.needs("qemu")
def test_with_a_timeout_a_qemu_that_stops_is_killed_and_only_then_has_the_batch_failed(sync: Sync) -> None:
    reporter = Signalled(sync, signal.SIGSTOP, 0.2)
    summary = run(sync, reporter, reporter_timeout=0.2)
    assert summary.violations == []
    assert summary.stuck_batches == 0
    assert any("did not answer within 0.2 s, and was killed" in note for note in summary.notes)
    assert gone(reporter)


class Tormented:
    """QEMU, stopped, continued and killed at random while it has batches; started again for the batch after."""

    def __init__(self, sync: Sync, seed: int) -> None:
        self.signals = self.kills = 0
        self._inner = QemuReporter(sync)
        self._sync = sync
        self._random = random.Random(seed)
        self._memory: Memory | None = None

    def start(self, memory: Memory) -> None:
        self._memory = memory
        self._inner.start(memory)

    def close(self) -> None:
        self._inner.close()

    def report(self, zone: Zone, batch: Batch) -> None:
        process = self._inner.process
        assert process is not None
        # Drawn here: how far the thread comes has no say in what comes next.
        numbers = [signal.SIGSTOP, signal.SIGCONT] * self._random.randint(4, 12)
        if self._random.random() < 0.15:
            numbers[self._random.randrange(len(numbers)) :] = [signal.SIGKILL]
        pauses = [self._random.random() * 0.001 for _ in numbers]
        plan = list(zip(pauses, numbers, strict=True))
        tormentor = self._sync.spawn("tormentor", lambda: self._torment(process.pid, plan))
        try:
            self._inner.report(zone, batch)
        except DeviceGone:
            tormentor.join()
            self._inner.close()
            assert self._memory is not None
            self._inner.start(self._memory)
            raise
        finally:
            tormentor.join()

    def _torment(self, pid: int, plan: list[tuple[float, signal.Signals]]) -> None:
        for pause_s, number in plan:
            self._sync.sleep(pause_s)
            try:
                os.kill(pid, number)
            except ProcessLookupError:  # killed behind its last batch
                return
            self.signals += 1
            self.kills += number == signal.SIGKILL


@pytest.mark.slow
@pytest.mark.needs("qemu")
def test_no_page_in_use_is_lost_whatever_happens_to_qemu(sync: Sync) -> None:
    """Every page bears its owner's stamp, and a run looks for it before each free."""
    reporter = Tormented(sync, 1)
    summary = run(sync, reporter, allocators=4, seconds=8.0, delay=0.005, capacity=4)
    assert summary.violations == []
    assert reporter.signals >= 200
    # A kill that comes right behind an answer is met by the batch after it: the last one may meet none.
    assert reporter.kills > 0
    assert reporter.kills - 1 <= summary.failed_batches < summary.batches
