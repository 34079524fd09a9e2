"""The QEMU process: what it is called with, how it ends, and that it never outlives us.

A QEMU that lives on after its driver has given up a batch, or has died, may still give back memory that somebody
uses again. So it is ended by SIGKILL, and waited for, before anybody is told that a batch failed; and the kernel
kills it when we end, whatever ends us (PR_SET_PDEATHSIG). That signal follows the *thread* that started the
process, so the thread stays: it reads what QEMU says, and waits for its end.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence

from pagealloc.sync import Sync
from workers.errors import DeviceRefused

PROGRAM = "qemu-system-aarch64"
PACKAGE_OF = {PROGRAM: "qemu-system-arm", "setpriv": "util-linux"}

# The signal is armed first, and then it is made sure that whom it waits for was still there.
ARMED = ("setpriv", "--pdeathsig", "KILL", "sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"')


def find_programs() -> None:
    """Raise DeviceRefused, with the package to install, for a program that is missing."""
    for program, package in PACKAGE_OF.items():
        if shutil.which(program) is None:
            raise DeviceRefused(f"reporter qemu: {program} is not installed: apt-get install {package}")


def balloon_arguments(
    *, rings: tuple[int, int], ram: tuple[int, int], qtest_fd: int, device: str
) -> list[str]:
    """Return the arguments for a machine with one virtio-balloon and two stretches of RAM, one behind the other.

    Each stretch is a descriptor and a size in bytes: the rings', and then the pages'. They are two NUMA nodes,
    because QEMU takes RAM from several files only so; and the machine is arm's `virt`, whose RAM has no hole.
    """
    nodes = []
    for name, (fd, nr_bytes) in (("rings", rings), ("ram", ram)):
        backend = f"memory-backend-file,id={name},size={nr_bytes},mem-path=/proc/self/fd/{fd},share=on"
        nodes += ["-object", backend, "-numa", f"node,memdev={name}"]
    return [
        *("-M", "virt", "-accel", "tcg", "-S", "-m", f"{rings[1] + ram[1]}b", "-display", "none"),
        *("-nodefaults", "-no-user-config", *nodes),
        *("-global", "virtio-mmio.force-legacy=false", "-device", device),
        *("-chardev", f"socket,id=qtest,fd={qtest_fd}", "-qtest", "chardev:qtest", "-qtest-log", "none"),
    ]


class QemuProcess:
    """A QEMU that runs, with `fds` passed to it. Raises DeviceRefused when it cannot be started."""

    def __init__(self, sync: Sync, arguments: Sequence[str], fds: Sequence[int]) -> None:
        self._command = [*ARMED, str(os.getpid()), PROGRAM, *arguments]
        self._fds = tuple(fds)
        self._process: subprocess.Popen[bytes] | None = None
        self._refusal: OSError | None = None
        self._last_words = ""
        self._started = sync.event("qemu has started")
        self._ended = sync.event("qemu has ended")
        sync.spawn("qemu", self._attend)
        self._started.wait()
        if self._refusal is not None:
            raise DeviceRefused(f"{PROGRAM} cannot be started: {self._refusal}")

    def _attend(self) -> None:
        try:
            self._process = process = subprocess.Popen(  # noqa: S603 - our own words
                self._command,
                pass_fds=self._fds,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the run, which ends QEMU when it has no batch any more
            )
        except OSError as error:
            self._refusal = error
            self._ended.set()
            return
        finally:
            self._started.set()
        with process:
            assert process.stderr is not None
            for line in process.stderr:
                self._last_words = line.decode(errors="replace").strip() or self._last_words
        self._ended.set()

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process is not None
        return self._process.pid

    def end(self) -> None:
        """Kill QEMU if it still runs, and return when it is gone and touches no memory any more."""
        if self._process is not None:
            self._process.kill()  # a process that has ended is let alone
        self._ended.wait()

    def how_it_ended(self) -> str:
        """Say how it ended, with its last words, once it has."""
        assert self._process is not None
        status = self._process.returncode
        how = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
        return f"{how}: {self._last_words}" if self._last_words else how
