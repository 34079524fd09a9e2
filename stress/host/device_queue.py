"""A split virtqueue as the device sees it: chains are taken from the available ring, and given back as used."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from typing import NamedTuple

from stress.host.guest_memory import GuestMemory
from stress.host.wire import PeerError

DESC = struct.Struct("<QIHH")  # address, length, flags, next
USED_ELEMENT = struct.Struct("<II")
INDEX = struct.Struct("<H")
DESC_F_NEXT = 1
AVAIL_F_NO_INTERRUPT = 1
INDEX_AT = 2
ENTRIES_AT = 4
WRAP = 1 << 16
ONE = (1).to_bytes(8, "little")  # what an eventfd takes


class Chain(NamedTuple):
    """What the driver handed over at once: the number to give back, and ranges of (gpa, bytes)."""

    head: int
    ranges: tuple[tuple[int, int], ...]


class DeviceQueue:
    """One queue: set up by the front's messages, used when it is started."""

    def __init__(self) -> None:
        self.size = 0
        self.addresses: tuple[int, int, int] | None = None  # descriptors, available, used: the front's
        self.next_avail = 0
        self.next_used = 0
        self.kick_fd = -1
        self.call_fd = -1

    def set_fd(self, name: str, fd: int) -> None:
        """Take a new `kick_fd` or `call_fd`; -1 for none. The old one is closed."""
        old = getattr(self, name)
        if old >= 0:
            os.close(old)
        setattr(self, name, fd)

    def close(self) -> None:
        self.set_fd("kick_fd", -1)
        self.set_fd("call_fd", -1)

    def pop(self, memory: GuestMemory) -> Chain | None:
        """Take the next chain; None when there is none. Raises PeerError for a chain that is none."""
        if self.addresses is None or not self.size:
            return None
        desc_address, avail_address, _ = self.addresses
        avail, avail_at = memory.at_front_address(avail_address, ENTRIES_AT + INDEX.size * self.size)
        (posted,) = INDEX.unpack_from(avail, avail_at + INDEX_AT)
        if posted == self.next_avail:
            return None
        entry = avail_at + ENTRIES_AT + INDEX.size * (self.next_avail % self.size)
        (head,) = INDEX.unpack_from(avail, entry)
        table, table_at = memory.at_front_address(desc_address, DESC.size * self.size)
        ranges: list[tuple[int, int]] = []
        at, flags = head, DESC_F_NEXT
        while flags & DESC_F_NEXT:
            if at >= self.size or len(ranges) == self.size:
                raise PeerError(
                    f"the chain at descriptor {head} leaves its queue of {self.size}, or is a circle"
                )
            gpa, length, flags, following = DESC.unpack_from(table, table_at + DESC.size * at)
            ranges.append((gpa, length))
            at = following
        self.next_avail = (self.next_avail + 1) % WRAP
        return Chain(head, tuple(ranges))

    def push(self, memory: GuestMemory, head: int) -> None:
        """Give a chain back, and interrupt the driver unless it does not want that."""
        assert self.addresses is not None
        _, avail_address, used_address = self.addresses
        used, used_at = memory.at_front_address(used_address, ENTRIES_AT + USED_ELEMENT.size * self.size)
        entry = used_at + ENTRIES_AT + USED_ELEMENT.size * (self.next_used % self.size)
        USED_ELEMENT.pack_into(used, entry, head, 0)
        self.next_used = (self.next_used + 1) % WRAP
        INDEX.pack_into(used, used_at + INDEX_AT, self.next_used)
        avail, avail_at = memory.at_front_address(avail_address, ENTRIES_AT)
        (flags,) = INDEX.unpack_from(avail, avail_at)
        if not flags & AVAIL_F_NO_INTERRUPT and self.call_fd >= 0:
            with suppress(OSError):  # whoever waits there is gone
                os.write(self.call_fd, ONE)
