"""A real Linux as the guest: what its `page_reporting` and `virtio_balloon` do, with a host of good and of bad manners.

Each bad manner is a row of the table in docs/HOST.md, and what is asserted here is what stands there.
"""

from __future__ import annotations

import json
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pagealloc.sync import Sync
from stress.cli import main
from stress.host import uml
from stress.host.initrd import initrd
from workers.child import Child

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.timeout(700)  # whichever test comes first boots all guests
MIB = 1 << 20
MEMORY_MIB = 192
ORDER = 5  # so that a guest this small is above the starting mark

# The first pass comes 2 s behind the module, while the memory is in use, and the next one 2 s behind its free.
LOAD = "fill 100 a\nsleep 2\ndrop a\nsleep 3\n"
# On a busy machine the memory may be free again before the first pass, which is the only one then: so once more.
TWICE = LOAD + "fill 100 b\ndrop b\nsleep 3\n"
SHORT = "sleep 3\n"
# Ask what every thread waits for until these functions are among those that they stand in; some minutes at most.
UNTIL_IN = """echo 8 > /proc/sysrq-trigger
for n in $(seq 400); do
    echo w > /proc/sysrq-trigger
    missing=
    for name in {names}; do dmesg | grep -q $name || missing=$name; done
    [ -z $missing ] && break
    sleep 0.5
done
"""
WORKER_WAITS = UNTIL_IN.format(names="virtballoon_free_page_report")
BOTH_WAIT = UNTIL_IN.format(names="virtballoon_free_page_report page_reporting_unregister")
POWER_OFF_S = 4.0  # a guest that can needs a tenth of a second
HANG_S = 300.0  # no guest meets it, however busy the machine is

# One guest for each row: its load, how its host behaves, and whether it ends by itself.
ROWS: dict[str, tuple[str, list[str], bool]] = {
    "good": (TWICE, [], True),
    "keeps": (LOAD, ["--fail-rate=1"], True),
    "holds": (LOAD, ["--hold=1"], True),
    "reverse": (SHORT, ["--reverse=2"], True),
    "loses": (WORKER_WAITS, ["--lose-rate=1"], False),
    "garbles": (WORKER_WAITS, ["--garble-rate=1"], False),
    "deaf": (WORKER_WAITS, ["--deaf-at=1"], False),
    "dies": (BOTH_WAIT, ["--die-at=1"], False),
}
AT_A_TIME = 4  # a guest mostly sleeps


@dataclass(frozen=True)
class Ended:
    """A guest that has ended: the command's exit status, its summary, what the guest said, where the log is."""

    status: int
    summary: dict[str, Any]
    said: str
    run: Path

    def noted(self, text: str) -> bool:
        return any(text in note for note in self.summary["notes"])


def boot(folder: Path, load: str, words: list[str], ends: bool) -> Ended:
    """Boot a guest, and follow it to its end; one that does not power off behind its load is interrupted."""
    script, run = folder / "load", folder / "run"
    script.write_text(load)
    command = [
        *(sys.executable, "-m", "stress", "guest", str(script), f"--memory={MEMORY_MIB}", f"--order={ORDER}"),
        *("--json", f"--seconds={HANG_S}", f"--run-dir={run}", *words),
    ]
    said = []
    with (
        (folder / "summary").open("w+") as out,
        subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True, cwd=ROOT) as running,
    ):
        assert running.stderr is not None
        for line in running.stderr:
            said.append(line)
            if not ends and "guest: load ends" in line:
                with suppress(subprocess.TimeoutExpired):
                    running.wait(POWER_OFF_S)
                running.send_signal(signal.SIGTERM)
        out.seek(0)
        summary = out.read()
    assert summary, "".join(said)
    return Ended(running.returncode, json.loads(summary), "".join(said), run)


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """Boot all guests, a few at a time."""
    folders = [tmp_path_factory.mktemp(name) for name in ROWS]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        ended = pool.map(lambda folder, row: boot(folder, *row), folders, ROWS.values())
        return dict(zip(ROWS, ended, strict=True))


Guests = dict[str, Ended]


@pytest.mark.needs("uml")
def test_a_real_kernel_reports_what_it_frees_and_keeps_its_promises(
    guests: Guests, capsys: pytest.CaptureFixture[str]
) -> None:
    guest = guests["good"]
    summary = guest.summary
    assert summary["violations"] == []
    assert guest.status == 0
    assert "guest: load ends" in guest.said
    assert summary["passes"] >= 2
    assert summary["resident_bytes_peak"] > 110 * MIB
    assert summary["resident_bytes_end"] < summary["resident_bytes_peak"] - 80 * MIB
    assert summary["kept_blocks"] == summary["stuck_batches"] == 0
    assert guest.noted("the guest ended with exit status 0")
    assert main(["analyze", str(guest.run)]) == 0
    assert "the host watched its guest for" in " ".join(capsys.readouterr().out.split())
    assert main(["verify", str(guest.run)]) == 2
    assert "the log describes no zone: it is of a guest seen from its host" in capsys.readouterr().out


@pytest.mark.needs("uml")
def test_a_host_that_keeps_everything_is_not_noticed(guests: Guests) -> None:
    """A device has no way to say that it failed: the driver takes every answer for success."""
    guest = guests["keeps"]
    summary = guest.summary
    assert summary["violations"] == []
    assert "guest: load ends" in guest.said
    assert summary["failed_batches"] == summary["batches"] > 1
    assert summary["kept_bytes"] > 80 * MIB
    assert summary["resident_bytes_end"] > 110 * MIB


@pytest.mark.needs("uml")
def test_a_batch_that_is_held_delays_its_pass_and_nothing_else(guests: Guests) -> None:
    guest = guests["holds"]
    summary = guest.summary
    assert summary["violations"] == []
    assert "guest: load ends" in guest.said
    assert 2 <= summary["batches"] <= 8, "one batch a second, and never two at once"
    assert guest.noted("the guest ended with exit status 0")


@pytest.mark.needs("uml")
def test_the_real_driver_has_one_batch_in_flight_so_there_is_no_order_to_break(guests: Guests) -> None:
    guest = guests["reverse"]
    assert guest.summary["violations"] == []
    assert "guest: load ends" in guest.said
    assert guest.summary["batches"] >= 1
    assert guest.noted("at most 1 batch was in flight")


@pytest.mark.needs("uml")
@pytest.mark.parametrize("name", ["loses", "garbles", "deaf"])
def test_the_worker_waits_for_ever_and_the_load_goes_on(guests: Guests, name: str) -> None:
    guest = guests[name]
    assert "virtballoon_free_page_report" in guest.said
    assert "guest: load ends" in guest.said
    assert guest.summary["batches"] == 1, "the worker waits in its first batch"
    assert guest.noted("the guest ended with SIGKILL"), "it does not power off"
    assert guest.summary["interrupted"], "the host was told to leave, and said what it saw"
    assert guest.status == 128 + signal.SIGTERM


@pytest.mark.needs("uml")
def test_when_the_device_dies_the_driver_waits_for_the_worker_and_the_worker_for_the_device(
    guests: Guests,
) -> None:
    """A deadlock of the kernel's own: removing the device cancels the work that waits for its answer."""
    guest = guests["dies"]
    assert guest.summary["batches"] == 1
    assert guest.noted("the device ended at batch 1")
    assert "virtballoon_free_page_report" in guest.said
    assert "page_reporting_unregister" in guest.said
    assert "guest: load ends" in guest.said
    assert guest.noted("the guest ended with SIGKILL"), "it does not power off"


@pytest.mark.needs("uml")
def test_no_process_of_a_guest_outlives_the_command_whatever_ends_it(
    tmp_path: Path, until: Callable[..., None]
) -> None:
    script = tmp_path / "load"
    script.write_text("sleep 60")
    command = [sys.executable, "-m", "stress", "guest", str(script), f"--run-dir={tmp_path / 'run'}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as running:
        assert running.stdout is not None
        assert any("load begins" in line for line in running.stdout)
        (leader,) = [
            pid for pid, parent, _ in processes() if parent == running.pid and "linux.uml" in name_of(pid)
        ]
        running.kill()
    until(
        lambda: not [pid for pid, _, session in processes() if session == leader], "the guest's processes end"
    )


def processes() -> Iterator[tuple[int, int, int]]:
    """Yield (pid, parent, session) of every process that is more than a zombie."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent, _, session = path.read_text().rpartition(")")[2].split()[:4]
            if state != "Z":
                yield int(path.parent.name), int(parent), int(session)


def name_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""


# -- guests that do not come to their end ------------------------------------------------------------------------

# It connects, and dies as a kernel does that panics.
PANICS = "import os, socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); os.abort()"


def test_a_guest_that_crashes_is_no_success(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def crash(sync: Sync, folder: Path, archive: bytes, socket_path: Path, *rest: object) -> Child:
        return Child(sync, [sys.executable, "-c", PANICS, str(socket_path)])

    monkeypatch.setattr(uml, "build_initrd", lambda load, order: b"")
    monkeypatch.setattr(uml, "boot", crash)
    assert main(["guest", "--run-dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().out
    assert "??? the guest ended with SIGABRT" in said
    assert said.splitlines()[-1].startswith("CANNOT DECIDE")


# Of no process there is: whatever gets as far as looking for it says ESRCH.
ASKS = """
import ctypes, errno, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
for request, what in ((0x4204, 0x202), (0x4205, 0x202), (0x4204, 1), (14, 0)):
    libc.ptrace(request, 1 << 30, what, None)
    print(errno.errorcode[ctypes.get_errno()])
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the registers are those of x86-64")
def test_a_guest_may_be_denied_the_registers_that_it_cannot_restore() -> None:
    def ask(*before: str) -> list[str]:
        command = [*before, sys.executable, "-c", ASKS]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert ask() == ["ESRCH"] * 4
    assert ask(*uml.WITHOUT_XSTATE) == ["EIO", "EIO", "ESRCH", "ESRCH"]


# -- without the packages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "package"), [("linux.uml", "user-mode-linux"), ("busybox", "busybox-static")]
)
def test_without_the_programs_the_command_names_the_package(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, missing: str, package: str
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == missing else __file__)
    assert main(["guest"]) == 2
    assert capsys.readouterr().err == f"stress: {missing} is not installed: apt-get install {package}\n"


def test_without_the_module_the_command_names_the_package(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: __file__)
    monkeypatch.setattr(uml, "MODULES", tmp_path)
    assert main(["guest"]) == 2
    assert "has no virtio_balloon.ko: apt-get install user-mode-linux" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["guest", "no-such-file"], "no-such-file: expected lines of shell: No such file or directory"),
        (["guest", "--memory=1"], "--memory: 1, expected 32 .. 1.04858e+06"),
        (["guest", "--memory=much"], "--memory: 'much', expected a number"),
        (["guest", "--order=11"], "--order: 11, expected 0 .. 10"),
        (["guest", "--fail-rate=0.6", "--lose-rate=0.6"], "1 together at most"),
        (["guest", "--fail-rate=2"], "--fail-rate: 2.0, expected a probability, 0 .. 1"),
        (["guest", "--hold=2..1"], "--hold: '2..1', expected S or S..T"),
        (["guest", "--hold=x"], "--hold: 'x', expected seconds S, or a range S..T"),
        (["guest", "--die-at=-1"], "--die-at: -1, expected 0 or more"),
        (["serve-balloon", "no/such/folder/socket"], "no/such/folder/socket: expected a path to listen at"),
    ],
)
def test_a_bad_argument_is_answered_in_one_line(
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    what: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert what in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [], "nothing was begun"


# -- what a guest boots into -----------------------------------------------------------------------------------------


def test_the_archive_is_one_that_cpio_reads(tmp_path: Path) -> None:
    archive = initrd(b"busybox", {"virtio_balloon.ko": b"module" * 100}, "fill 1 a", 5)
    entries = list(read_newc(archive))
    names = [name for name, _, _ in entries]
    assert names == [
        *(
            "bin",
            "dev",
            "dev/console",
            "dev/null",
            "dev/zero",
            "bin/busybox",
            "virtio_balloon.ko",
            "init",
            "TRAILER!!!",
        )
    ]
    content = {name: data for name, _, data in entries}
    assert content["virtio_balloon.ko"] == b"module" * 100
    init = content["init"].decode()
    assert "\nfill 1 a\n" in init
    assert "echo 5 > /sys/module/page_reporting" in init
    assert "@" not in init.replace("$@", "")


def read_newc(archive: bytes) -> Any:
    """Read an archive as cpio's manual describes it."""
    at = 0
    while at < len(archive):
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        data_at = (at + 110 + name_size + 3) & ~3
        yield name, mode, archive[data_at : data_at + size]
        at = (data_at + size + 3) & ~3
