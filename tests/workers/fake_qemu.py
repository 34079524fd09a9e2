"""A thread that speaks qtest, with a balloon behind it that can have any manners: QEMU, without QEMU."""

from __future__ import annotations

import mmap
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from pagealloc.sync import Sync
from workers.qemu.balloon import RAM_BASE, SLOTS
from workers.qemu.virtio_mmio import (
    DEVICE_FEATURES,
    DEVICE_FEATURES_SEL,
    DEVICE_ID,
    MAGIC,
    MAGIC_VALUE,
    QUEUE_DESC,
    QUEUE_DEVICE,
    QUEUE_DRIVER,
    QUEUE_NOTIFY,
    QUEUE_NUM,
    QUEUE_NUM_MAX,
    QUEUE_SEL,
    S_NEEDS_RESET,
    STATUS,
    VERSION,
)

REPORTING, VERSION_1, STATS, HINT = 1 << 5, 1 << 32, 1 << 1, 1 << 3
RINGS_BYTES = 1 << 16


class FakeQemu:
    """The other end of a qtest connection, and the process behind it.

    `on_kick` is called in place of the device's work; it answers by returning a line, or None for no answer.
    """

    def __init__(self, sync: Sync, *, features: int = REPORTING | VERSION_1, queue_max: int = 1024) -> None:
        self.ours, self._theirs = socket.socketpair()
        self.rings = mmap.mmap(-1, RINGS_BYTES)
        self.features = features
        self.registers = {MAGIC: MAGIC_VALUE, VERSION: 2, DEVICE_ID: 5}
        self.queue_max = {0: 128, 1: 128, self.reporting_queue(): queue_max}
        self.chains: list[list[tuple[int, int]]] = []  # what the device was told of
        self.on_kick: Callable[[], str | None] = self.work
        self.on_read: Callable[[int], str] | None = None
        self.ended = 0
        self._seen = 0
        self._thread = sync.spawn("fake qemu", self._serve)

    def reporting_queue(self) -> int:
        return 2 + bool(self.features & STATS) + bool(self.features & HINT)

    # -- the process ---------------------------------------------------------------------------------------

    def end(self) -> None:
        self.ended += 1
        with suppress(OSError):  # it hung up by itself
            self._theirs.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def how_it_ended(self) -> str:
        return "exit status 1: no such machine"

    # -- qtest -----------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        with self._theirs, self._theirs.makefile("rb") as lines:
            for line in lines:
                answer = self._answer(line.decode().split())
                if answer == "hang up":
                    return
                if answer is not None:
                    self._theirs.sendall(answer.encode() + b"\n")

    def _answer(self, words: list[str]) -> str | None:
        register = int(words[1], 16) - SLOTS[0]
        if words[0] == "readl":
            return self.on_read(register) if self.on_read is not None else f"OK {self.read(register):#x}"
        value = int(words[2], 16)
        if register == QUEUE_NOTIFY:
            assert value == self.reporting_queue()
            return self.on_kick()
        self.registers[register] = value
        return "OK"

    def read(self, register: int) -> int:
        if register == DEVICE_FEATURES:
            return self.features >> 32 * self.registers[DEVICE_FEATURES_SEL] & 0xFFFFFFFF
        if register == QUEUE_NUM_MAX:
            return self.queue_max.get(self.registers[QUEUE_SEL], 0)
        return self.registers.get(register, 0)

    # -- the device --------------------------------------------------------------------------------------------

    def work(self) -> str:
        """Take the next chain, note its ranges, and give it back."""
        desc, avail, used = (
            self.registers[register] - RAM_BASE for register in (QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE)
        )
        size = self.registers[QUEUE_NUM]
        (posted,) = struct.unpack_from("<H", self.rings, avail + 2)
        assert posted == (self._seen + 1) % (1 << 16), "one chain at a time"
        (head,) = struct.unpack_from("<H", self.rings, avail + 4 + 2 * (self._seen % size))
        ranges, at, more = [], head, 1
        while more:
            address, length, flags, following = struct.unpack_from("<QIHH", self.rings, desc + 16 * at)
            assert flags & 2, "for the device to write"
            ranges.append((address - RAM_BASE - RINGS_BYTES, length))
            at, more = following, flags & 1
        self.chains.append(ranges)
        struct.pack_into("<II", self.rings, used + 4 + 8 * (self._seen % size), head, 0)
        self._seen = (self._seen + 1) % (1 << 16)
        struct.pack_into("<H", self.rings, used + 2, self._seen)
        return "OK"

    def break_down(self) -> str:
        """Meet what it cannot handle."""
        self.registers[STATUS] |= S_NEEDS_RESET
        return "OK"
