"""The driver of a virtio-balloon: set it up, and hand free ranges to its reporting queue.

**A batch is never given up while QEMU lives.** A driver that timed out and returned would let QEMU discard, later,
pages that are in use again by then: their data is lost. So a batch waits as long as QEMU does, as the kernel's
does for its device; or, with a timeout, QEMU is ended first, and only then has the batch failed. After a failure
the device is gone for good.
"""

from __future__ import annotations

import mmap
from typing import Protocol

from pagealloc.sync import Sync
from workers.errors import DeviceGone, DeviceRefused, DeviceSilent
from workers.qemu.qtest import QTest, QTestEnded, QTestRefused, QTestSilent
from workers.qemu.virtio_mmio import CONFIG, VIRTIO_F_VERSION_1, VirtioMmio
from workers.qemu.virtqueue import SplitQueue

RAM_BASE = 0x40000000  # where the RAM of arm's virt machine begins
SLOTS = range(0x0A000000 + 31 * 0x200, 0x0A000000 - 1, -0x200)  # virtio-mmio, filled from the last one

DEVICE_ID = 5
F_STATS_VQ, F_FREE_PAGE_HINT, F_PAGE_POISON, F_REPORTING = 1 << 1, 1 << 3, 1 << 4, 1 << 5
FEATURE_NAMES = {
    F_PAGE_POISON: "page poison",
    F_REPORTING: "free page reporting",
    VIRTIO_F_VERSION_1: "virtio 1",
}
POISON_VAL = CONFIG + 12
QUEUE_SIZE_MAX = 1024

START_PATIENCE_S = 30.0  # a hundred times what it takes on a busy machine
POLL_S = 0.001  # for a device that works behind the kick's back; QEMU's does not


class Process(Protocol):
    """What runs the device (`Child`)."""

    def end(self) -> None: ...
    def how_it_ended(self) -> str: ...


class BalloonDriver:
    """The driver of the balloon that `process` runs, with its queue in `rings`, at the beginning of its RAM.

    Offsets of ranges count from behind the rings. `poison` is what the driver says that free pages are filled
    with; None says nothing. Raises DeviceRefused when there is no such device, and ends the process then.
    One thread uses it; `end` may come from another one.
    """

    def __init__(
        self, qtest: QTest, process: Process, rings: mmap.mmap, sync: Sync, *, poison: int | None = None
    ) -> None:
        self._qtest = qtest
        self._process = process
        self._rings = rings
        self._sync = sync
        self._ram_base = RAM_BASE + len(rings)
        try:
            self._set_up(poison)
        except BaseException:
            self.close()
            raise

    def _set_up(self, poison: int | None) -> None:
        """Shake hands with the device, and give it a queue."""
        self._qtest.set_timeout(START_PATIENCE_S)
        try:
            self._device = device = VirtioMmio.find(self._qtest, SLOTS, DEVICE_ID)
            wanted = VIRTIO_F_VERSION_1 | F_REPORTING | (0 if poison is None else F_PAGE_POISON)
            offered = device.negotiate(wanted, FEATURE_NAMES)
            # Inflate and deflate have numbers 0 and 1. QEMU numbers the others over what it offers.
            self._queue = 2 + bool(offered & F_STATS_VQ) + bool(offered & F_FREE_PAGE_HINT)
            size = device.queue_size(self._queue, QUEUE_SIZE_MAX)
            self._ring = SplitQueue(self._rings, RAM_BASE, size)
            device.use_queue(self._queue, self._ring)
            if poison is not None:
                device.write(POISON_VAL, poison)
            device.driver_ok()
        except QTestEnded:
            self.end()
            raise DeviceRefused(f"QEMU ended at once ({self._process.how_it_ended()})") from None
        except (QTestRefused, QTestSilent) as error:
            raise DeviceRefused(f"QEMU does not do as it is told: {error}") from error

    def discard(self, ranges: list[tuple[int, int]], timeout_s: float | None) -> None:
        """Hand (offset, length) over, in chains; return when the device has given all of them back.

        Raises DeviceGone, or DeviceSilent when one chain takes longer than `timeout_s`. Whatever it raises,
        QEMU has ended.
        """
        self._qtest.set_timeout(timeout_s)
        try:
            for at in range(0, len(ranges), self._ring.size):
                chain = ranges[at : at + self._ring.size]
                self._ring.post([(self._ram_base + offset, length) for offset, length in chain])
                self._device.kick(self._queue)
                self._await_chain(timeout_s)
        except BaseException as error:
            self.end()
            if isinstance(error, QTestEnded):
                raise DeviceGone(f"QEMU has ended ({self._process.how_it_ended()})") from None
            if isinstance(error, QTestSilent):
                raise DeviceSilent(f"QEMU did not answer within {timeout_s:g} s, and was killed") from None
            if isinstance(error, QTestRefused):
                raise DeviceGone(f"QEMU was killed: {error}") from None
            raise

    def _await_chain(self, timeout_s: float | None) -> None:
        """Return when the device has given the chain back; it has, by the time that the kick is answered."""
        deadline_s = None if timeout_s is None else self._sync.monotonic() + timeout_s
        while not self._ring.done():
            if self._device.broken():
                raise DeviceGone("QEMU was killed: its device broke, and would need a reset")
            if deadline_s is not None and self._sync.monotonic() > deadline_s:
                raise QTestSilent
            self._sync.sleep(POLL_S)

    def end(self) -> None:
        """Kill QEMU, and return when it is gone; a `discard` that waits for it raises."""
        self._process.end()

    def close(self) -> None:
        """End QEMU and leave no descriptor; nobody is in `discard` any more."""
        self.end()
        self._qtest.close()
        self._rings.close()
