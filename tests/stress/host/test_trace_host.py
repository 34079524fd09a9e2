"""QEMU's trace as a host: lines as QEMU 7.2 writes them, what is read from them, and a whole guest."""

from __future__ import annotations

import json
import mmap
import os
import shutil
from pathlib import Path

import pytest

from pagealloc.sync import Sync
from stress.cli import main
from stress.errors import BadArgument
from stress.host import qemu_guest
from stress.host.trace_host import TraceHost

RAM_AT = 0x7F7CA0000000
BLOCK = 4 << 20
REPORTING, INFLATE = "0x7f7d1722d1d8", "0x7f7d1722d140"


class Trace:
    """Lines of a trace, with times that count from the host's beginning."""

    def __init__(self, sync: Sync, order: int = 9) -> None:
        self.told: list[tuple[object, ...]] = []
        self.resident = 100 << 20
        self._begin_s = sync.wall_clock()
        self.host = TraceHost(
            sync,
            lambda *event: self.told.append(event),
            lambda status: None,
            order=order,
            capacity=32,
            delay_s=2.0,
            ram_address=lambda: RAM_AT,
            resident_bytes=lambda: self.resident,
            total_bytes=512 << 20,
        )

    def line(self, at_s: float, text: str) -> None:
        assert self.host.hear(f"9835@{self._begin_s + at_s:.6f}:{text}")

    def pop(self, at_s: float, entries: int, queue: str = REPORTING, out: int = 0) -> None:
        self.line(at_s, f"virtqueue_pop vq {queue} elem 0x7f7ca85234c0 in_num {entries} out_num {out}")

    def discard(self, at_s: float, gpa: int, length: int = BLOCK, result: int = 0) -> None:
        where = f"ram@{RAM_AT + gpa:#x} + {length:#x}"
        self.line(at_s, f"ram_block_discard_range {where}: madvise: 1 fallocate: 1 ret: {result}")

    def flush(self, at_s: float, queue: str = REPORTING) -> None:
        self.line(at_s, f"virtqueue_flush vq {queue} count 1")

    def report(self, at_s: float, *gpas: int) -> None:
        self.pop(at_s, len(gpas))
        for gpa in gpas:
            self.discard(at_s, gpa)
        self.flush(at_s + 0.01)


@pytest.fixture
def trace(sync: Sync) -> Trace:
    return Trace(sync)


def test_a_report_is_a_chain_its_ranges_and_its_answer(trace: Trace) -> None:
    trace.pop(1.0, 2)
    trace.discard(1.0, 8 * BLOCK)
    trace.discard(1.1, BLOCK)
    trace.resident -= 2 * BLOCK
    trace.flush(1.25)
    status = trace.host.status
    assert (status.batches, status.reported_blocks, status.reported_bytes, status.kept_blocks) == (
        1,
        2,
        2 * BLOCK,
        0,
    )
    assert status.longest_flight_s == pytest.approx(0.25, abs=1e-4)
    assert trace.told == [
        ("page_reporting_pass_begin", 1),
        ("page_reporting_report_begin", 1, 0, [(8 * BLOCK >> 12, 10), (BLOCK >> 12, 10)]),
        (
            "guest_report",
            1,
            [(8 * BLOCK, BLOCK), (BLOCK, BLOCK)],
            100 << 20,
            (100 << 20) - 2 * BLOCK,
            "given back",
        ),
        ("page_reporting_report_end", 1, 0, None),
    ]
    assert trace.host.violations == []


def test_passes_are_told_from_the_times_of_the_trace(trace: Trace) -> None:
    for at_s, gpa in ((1.0, 0), (1.1, BLOCK), (3.2, 2 * BLOCK), (5.3, 3 * BLOCK)):
        trace.report(at_s, gpa)
    assert trace.host.contract.passes == 3
    assert trace.host.violations == []
    trace.report(6.8, 4 * BLOCK)
    (found,) = trace.host.violations
    assert "a pass begins 1.49 s after the one before" in found


def test_a_report_without_a_discard_was_kept(trace: Trace) -> None:
    """What QEMU does for a guest with page poison."""
    trace.pop(1.0, 32)
    trace.flush(1.1)
    assert (trace.host.status.kept_blocks, trace.host.status.reported_bytes) == (32, 0)
    assert trace.told[2][5] == "kept"


def test_a_range_that_qemu_could_not_discard_was_kept(trace: Trace) -> None:
    trace.pop(1.0, 2)
    trace.discard(1.0, 0)
    trace.discard(1.0, BLOCK, result=-22)
    trace.flush(1.1)
    assert trace.host.status.kept_blocks == 1


def test_other_queues_are_no_reports(trace: Trace) -> None:
    trace.pop(1.0, 0, INFLATE, out=1)
    trace.discard(1.0, 0)
    trace.flush(1.1, INFLATE)
    assert trace.host.status.batches == 0


def test_what_the_kernel_does_not_keep_is_a_violation(trace: Trace) -> None:
    trace.report(1.0, BLOCK // 2)
    assert trace.host.violations == [f"batch 1: {BLOCK // 2:#x} + {BLOCK:#x} is not aligned to its size"]


@pytest.mark.parametrize(
    "line",
    ["load begins", "[   18.1] reboot: Power down", "9835@1795852404.4:virtio_set_status vdev 0x1 val 7", ""],
)
def test_what_is_no_line_of_the_trace_is_the_guests(trace: Trace, line: str) -> None:
    assert not trace.host.hear(line)


def test_a_line_in_the_middle_of_the_guests_word_is_heard(trace: Trace) -> None:
    trace.pop(1.0, 1)
    at = f"ram_block_discard_range ram@{RAM_AT:#x} + {BLOCK:#x}: madvise: 1 fallocate: 1 ret: 0"
    assert trace.host.hear(f"load be9835@1795852404.424197:{at}")
    trace.flush(1.1)
    assert trace.host.status.reported_bytes == BLOCK


# -- the command ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--kernel=no-such-image"], "--kernel: no-such-image, expected a kernel's image"),
        (["--kernel=load", "--modules=no-such-folder"], "--modules: no-such-folder, expected"),
        (["--kernel=load", "--modules=."], "has no virtio_balloon.ko"),
        (["--kernel=load", "--modules=.", "--hold=1"], "QEMU's own device has no bad manners"),
        (["--kernel=load", "--modules=.", "--memory=4096"], "--memory: 4096, expected 32 .. 2048"),
    ],
)
def test_what_qemu_cannot_boot_is_bad_input(
    words: list[str],
    what: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: __file__)
    (tmp_path / "load").write_text("sleep 1")
    assert main(["guest", "--qemu", "load", *words]) == 2
    assert what in capsys.readouterr().err


def test_a_kernel_without_qemu_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guest", "--kernel=vmlinuz"]) == 2
    assert "--kernel and --modules: expected with --qemu" in capsys.readouterr().err


def test_without_qemu_the_command_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert main(["guest", "--qemu", f"--kernel={__file__}", f"--modules={tmp_path}"]) == 2
    assert "qemu-system-x86_64 is not installed: apt-get install qemu-system-x86" in capsys.readouterr().err


def bootable() -> bool:
    """Whether this machine has a QEMU for it, and a kernel with the balloon's module."""
    images = sorted(Path("/boot").glob("vmlinuz-*"))
    folder = Path("/lib/modules") / images[-1].name.removeprefix("vmlinuz-") if images else None
    return (
        folder is not None
        and shutil.which(qemu_guest.PROGRAM) is not None
        and any(folder.rglob("virtio_balloon.ko"))
    )


@pytest.mark.slow
@pytest.mark.needs("uml")  # its busybox
@pytest.mark.skipif(
    not bootable(), reason="no kernel to boot: apt-get install qemu-system-x86 linux-image-cloud-amd64"
)
def test_a_distributions_kernel_reports_to_qemu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guest", "--qemu", "--json", "--seconds=90", f"--run-dir={tmp_path / 'run'}"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["passes"] >= 2
    assert summary["resident_bytes_end"] < summary["resident_bytes_peak"] - (100 << 20)


def test_the_guests_ram_is_found_where_a_process_has_mapped_it() -> None:
    with qemu_guest.guest_ram(1) as ram:
        with pytest.raises(BadArgument, match="has not mapped"):
            ram.address_in(os.getpid())
        with mmap.mmap(ram.fd, ram.nr_bytes) as mapped:
            mapped[0] = 1
            assert ram.address_in(os.getpid()) > 0
            assert ram.resident_bytes() == 4096
