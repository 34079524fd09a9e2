"""The reporter `qemu`: QEMU's virtio-balloon gives back the memory of every block.

QEMU acknowledges ranges that it does not give back: what is not aligned to the pages of the backing file, and all
ranges if the guest said that it poisons free pages. The kernel cannot know, and neither does this reporter; whoever
wants to asks `Ram.resident_in`.
"""

from __future__ import annotations

import mmap
import os
import socket

from pagealloc.memory import Memory
from pagealloc.ram import Ram
from pagealloc.sync import Sync
from pagealloc.zone import Zone
from workers.child import Child
from workers.errors import DeviceGone, DeviceRefused
from workers.page_reporting import Batch
from workers.qemu.balloon import BalloonDriver
from workers.qemu.process import balloon_command, find_programs
from workers.qemu.qtest import QTest

RINGS_BYTES = 2 << 20
SIZE_STEP_BYTES = 8192  # QEMU rounds the size of its RAM up to this
DEVICE = "virtio-balloon-device,free-page-reporting=on"


def start_balloon(
    ram: Ram, sync: Sync, *, device: str = DEVICE, poison: int | None = None
) -> tuple[Child, BalloonDriver]:
    """Start a QEMU whose guest's RAM is `ram`, a memfd, and set its balloon up. Raises DeviceRefused."""
    nr_bytes = RINGS_BYTES + -ram.nr_bytes % SIZE_STEP_BYTES
    ours, theirs = socket.socketpair()
    rings_fd = os.memfd_create("virtqueues", os.MFD_CLOEXEC)
    try:
        os.ftruncate(rings_fd, nr_bytes)
        rings = mmap.mmap(rings_fd, nr_bytes)
        command = balloon_command(
            rings=(rings_fd, nr_bytes), ram=(ram.fd, ram.nr_bytes), qtest_fd=theirs.fileno(), device=device
        )
        process = Child(sync, command, fds=(rings_fd, ram.fd, theirs.fileno()))
    except OSError as error:
        ours.close()
        raise DeviceRefused(f"QEMU cannot be started: {error}") from error
    finally:
        os.close(rings_fd)
        theirs.close()
    return process, BalloonDriver(QTest(ours), process, rings, sync, poison=poison)


class QemuReporter:
    """Hands batches to a QEMU of its own. `timeout_s` is for one batch; with 0 it waits as long as QEMU lives.

    `device` is the word behind QEMU's `-device`, and `poison` what the guest says that free pages are filled with.
    Raises DeviceRefused, with the package to install, when there is no QEMU.
    """

    def __init__(
        self, sync: Sync, timeout_s: float = 0.0, *, device: str = DEVICE, poison: int | None = None
    ) -> None:
        find_programs()
        self.process: Child | None = None
        self._sync = sync
        self._timeout_s = timeout_s or None
        self._device = device
        self._poison = poison
        self._driver: BalloonDriver | None = None
        self._over = "it was not started"
        self._busy = sync.mutex("qemu has a batch")

    def start(self, memory: Memory) -> None:
        """Start QEMU over a memory's RAM. Raises DeviceRefused, with what is missing."""
        ram = memory.ram
        try:
            if ram is None or ram.kind != "memfd":
                kind = "absent" if ram is None else ram.kind
                raise DeviceRefused(f"the RAM is {kind}, expected memfd, which QEMU can map")
            self.process, self._driver = start_balloon(
                ram, self._sync, device=self._device, poison=self._poison
            )
        except DeviceRefused as refused:
            raise DeviceRefused(f"reporter qemu: {refused}") from refused

    def report(self, zone: Zone, batch: Batch) -> None:
        self._busy.acquire()
        try:
            if self._driver is None:
                raise DeviceGone(f"QEMU takes no batches: {self._over}")
            try:
                self._driver.discard([(block.offset, block.length) for block in batch], self._timeout_s)
            except BaseException as error:
                self._over = str(error) or type(error).__name__
                self._driver.close()
                self._driver = None
                raise
        finally:
            self._busy.release()

    def close(self) -> None:
        """End QEMU. A batch that it still has fails, and then nothing is left of it."""
        if self.process is not None:
            self.process.end()
        self._busy.acquire()
        try:
            if self._driver is not None:
                self._driver.close()
                self._driver = None
                self._over = "it was closed"
        finally:
            self._busy.release()
