"""A virtio device behind memory-mapped registers (virtio 1.2, section 4.2), set up by its driver."""

from __future__ import annotations

from typing import Protocol

from workers.errors import DeviceRefused
from workers.qemu.virtqueue import SplitQueue

MAGIC, VERSION, DEVICE_ID = 0x000, 0x004, 0x008
DEVICE_FEATURES, DEVICE_FEATURES_SEL = 0x010, 0x014
DRIVER_FEATURES, DRIVER_FEATURES_SEL = 0x020, 0x024
QUEUE_SEL, QUEUE_NUM_MAX, QUEUE_NUM, QUEUE_READY, QUEUE_NOTIFY = 0x030, 0x034, 0x038, 0x044, 0x050
STATUS = 0x070
QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE = 0x080, 0x090, 0x0A0  # the low half; the high one is 4 bytes on
CONFIG = 0x100
HIGH_HALF = 4

MAGIC_VALUE = 0x74726976  # "virt"
MODERN = 2  # of VERSION; 1 is the layout from before virtio 1.0
VIRTIO_F_VERSION_1 = 1 << 32

S_ACKNOWLEDGE, S_DRIVER, S_DRIVER_OK, S_FEATURES_OK, S_NEEDS_RESET = 1, 2, 4, 8, 64


class Registers(Protocol):
    """Where registers of 32 bits are read and written, by their addresses (`QTest`)."""

    def readl(self, address: int) -> int: ...
    def writel(self, address: int, value: int) -> None: ...


class VirtioMmio:
    """The registers of one device, from address `base` on."""

    def __init__(self, registers: Registers, base: int) -> None:
        self._registers = registers
        self._base = base

    @classmethod
    def find(cls, registers: Registers, slots: range, device_id: int) -> VirtioMmio:
        """Return the device with this id in one of the slots. Raises DeviceRefused when there is none."""
        for base in slots:
            device = cls(registers, base)
            if device.read(MAGIC) == MAGIC_VALUE and device.read(DEVICE_ID) == device_id:
                version = device.read(VERSION)
                if version != MODERN:
                    raise DeviceRefused(f"the device speaks virtio-mmio version {version}, expected {MODERN}")
                return device
        raise DeviceRefused(f"there is no virtio device {device_id} in {len(slots)} slots")

    def read(self, register: int) -> int:
        return self._registers.readl(self._base + register)

    def write(self, register: int, value: int) -> None:
        self._registers.writel(self._base + register, value)

    def offered(self) -> int:
        """Return the features that the device offers, as a mask of 64 bits."""
        low, high = (self._offered_half(half) for half in (0, 1))
        return high << 32 | low

    def _offered_half(self, half: int) -> int:
        self.write(DEVICE_FEATURES_SEL, half)
        return self.read(DEVICE_FEATURES)

    def negotiate(self, wanted: int, names: dict[int, str]) -> int:
        """Reset the device and agree on the features `wanted`; returns what it offers.

        Raises DeviceRefused, with the feature's name, when one is not offered, or when the device says no.
        """
        self.write(STATUS, 0)
        self.write(STATUS, S_ACKNOWLEDGE | S_DRIVER)
        offered = self.offered()
        for bit, name in names.items():
            if wanted & ~offered & bit:
                raise DeviceRefused(f"the device does not offer {name}; it offers {offered:#x}")
        for half in (0, 1):
            self.write(DRIVER_FEATURES_SEL, half)
            self.write(DRIVER_FEATURES, wanted >> 32 * half & 0xFFFFFFFF)
        self.write(STATUS, S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK)
        if not self.read(STATUS) & S_FEATURES_OK:
            raise DeviceRefused(f"the device refuses the features {wanted:#x}; it offers {offered:#x}")
        return offered

    def queue_size(self, queue: int, size_max: int) -> int:
        """Return how many descriptors a queue can have, `size_max` at most. Raises DeviceRefused for none."""
        self.write(QUEUE_SEL, queue)
        size = min(self.read(QUEUE_NUM_MAX), size_max)
        if not size:
            raise DeviceRefused(f"the device has no queue {queue}")
        return size

    def use_queue(self, queue: int, rings: SplitQueue) -> None:
        """Tell the device where a queue is."""
        self.write(QUEUE_SEL, queue)
        self.write(QUEUE_NUM, rings.size)
        for register, address in (
            (QUEUE_DESC, rings.desc_address),
            (QUEUE_DRIVER, rings.avail_address),
            (QUEUE_DEVICE, rings.used_address),
        ):
            self.write(register, address & 0xFFFFFFFF)
            self.write(register + HIGH_HALF, address >> 32)
        self.write(QUEUE_READY, 1)

    def driver_ok(self) -> None:
        """End the handshake: the device may work from here on."""
        self.write(STATUS, S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK)

    def kick(self, queue: int) -> None:
        """Make the device look into a queue."""
        self.write(QUEUE_NOTIFY, queue)

    def broken(self) -> bool:
        """Whether the device met what it cannot handle, and works no more until it is reset."""
        return bool(self.read(STATUS) & S_NEEDS_RESET)
