"""A split virtqueue (virtio 1.2, section 2.7), as its driver sees it: one chain in flight at a time.

Three tables in memory that both share: *descriptors*, each a range of guest memory; the *available* ring, in
which the driver names the first descriptor of a chain; the *used* ring, in which the device gives it back.
All numbers are little-endian. What is written here is seen by the device, because it looks only after the kick,
which is a system call of ours.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence

DESC_F_NEXT = 1
DESC_F_WRITE = 2  # for the device to write, which is how a guest hands over memory that it does not need
AVAIL_F_NO_INTERRUPT = 1
DESC = struct.Struct("<QIHH")  # address, length, flags, next
INDEX = struct.Struct("<H")
USED_ELEMENT = struct.Struct("<II")  # first descriptor of the chain, bytes written
RING_HEAD_BYTES = 4  # flags and index, in front of the entries of both rings
INDEX_AT = 2
WRAP = 1 << 16  # the rings' indices only count up, in 16 bits
LENGTH_MAX = (1 << 32) - 1


class SplitQueue:
    """A queue of `size` descriptors at the beginning of `memory`, which the device sees at address `base`.

    `size` is a power of two, as the virtio specification wants it.
    """

    def __init__(self, memory: mmap.mmap | bytearray, base: int, size: int) -> None:
        self.size = size
        self._memory = memory
        self._avail_at = DESC.size * size
        used_at = self._avail_at + RING_HEAD_BYTES + INDEX.size * size + INDEX.size
        self._used_at = (used_at + 3) & ~3
        self._posted = 0
        nr_bytes = self._used_at + RING_HEAD_BYTES + USED_ELEMENT.size * size + INDEX.size
        memory[:nr_bytes] = bytes(nr_bytes)
        INDEX.pack_into(memory, self._avail_at, AVAIL_F_NO_INTERRUPT)
        self.desc_address = base
        self.avail_address = base + self._avail_at
        self.used_address = base + self._used_at

    def post(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Make one chain of (address, length in bytes) available. Raises ValueError when it does not fit."""
        if not 0 < len(ranges) <= self.size:
            raise ValueError(f"a chain of {len(ranges)} ranges, expected 1 .. {self.size}")
        last = len(ranges) - 1
        for at, (address, length) in enumerate(ranges):
            if not 0 < length <= LENGTH_MAX:
                raise ValueError(f"a range of {length} bytes, expected 1 .. {LENGTH_MAX}")
            flags = DESC_F_WRITE | (DESC_F_NEXT if at < last else 0)
            DESC.pack_into(self._memory, DESC.size * at, address, length, flags, at + 1 if at < last else 0)
        entry = self._avail_at + RING_HEAD_BYTES + INDEX.size * (self._posted % self.size)
        INDEX.pack_into(self._memory, entry, 0)  # every chain begins with the first descriptor
        self._posted = (self._posted + 1) % WRAP
        INDEX.pack_into(self._memory, self._avail_at + INDEX_AT, self._posted)

    def done(self) -> bool:
        """Whether the device has given the chain back."""
        (used,) = INDEX.unpack_from(self._memory, self._used_at + INDEX_AT)
        return bool(used == self._posted)
