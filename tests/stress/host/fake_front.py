"""A front end of vhost-user with a driver behind it, which can have any manners: a virtual machine, without one."""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct
from collections.abc import Sequence

from stress.host import wire
from stress.host.balloon import REPORTING_QUEUE

GPA = 0x4000_0000
FRONT_ADDRESS = 0x7F00_0000_0000
NR_BYTES = 64 << 20
RINGS_AT = NR_BYTES - (1 << 20)  # the last block is the driver's own
QUEUE_SIZE = 64
DESC, AVAIL, USED = RINGS_AT, RINGS_AT + 4096, RINGS_AT + 8192
BLOCK = 4 << 20
ANSWER_S = 5.0


class FakeFront:
    """The guest's end of a connection: memory of 64 MiB, and one queue that reports."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.settimeout(ANSWER_S)
        self.fd = os.memfd_create("guest")
        os.ftruncate(self.fd, NR_BYTES)
        self.memory = mmap.mmap(self.fd, NR_BYTES)
        self.kick_fd = os.eventfd(0)
        self.call_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.posted = 0

    def close(self) -> None:
        if self.memory.closed:
            return
        self.connection.close()
        self.memory.close()
        for fd in (self.fd, self.kick_fd, self.call_fd):
            os.close(fd)

    # -- messages --------------------------------------------------------------------------------------------

    def send(self, request: int, payload: bytes = b"", fds: Sequence[int] = (), flags: int = 1) -> None:
        head = wire.HEAD.pack(request, flags, len(payload))
        socket.send_fds(self.connection, [head + payload], list(fds))

    def ask(self, request: int, payload: bytes = b"", fds: Sequence[int] = (), flags: int = 1) -> bytes:
        """Send a message and return the reply's payload."""
        self.send(request, payload, fds, flags)
        head = self.connection.recv(wire.HEAD.size)
        assert head, "the device closed the connection"
        answered, _, size = wire.HEAD.unpack(head)
        assert answered == request
        return self.connection.recv(size) if size else b""

    def word(self, request: int) -> int:
        return int.from_bytes(self.ask(request), "little")

    def do(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send a message that wants to be acknowledged."""
        assert self.ask(request, payload, fds, flags=wire.VERSION | wire.NEEDS_REPLY) == bytes(8)

    def shake_hands(self, features: int = 1 << 5 | 1 << 32) -> None:
        self.do(wire.SET_OWNER)
        self.do(wire.SET_FEATURES, wire.U64.pack(features))
        region = wire.REGION.pack(GPA, NR_BYTES, FRONT_ADDRESS, 0)
        self.do(wire.SET_MEM_TABLE, struct.pack("<II", 1, 0) + region, [self.fd])
        queue = REPORTING_QUEUE
        self.do(wire.SET_VRING_NUM, wire.VRING_STATE.pack(queue, QUEUE_SIZE))
        self.do(wire.SET_VRING_BASE, wire.VRING_STATE.pack(queue, 0))
        addresses = [FRONT_ADDRESS + at for at in (DESC, USED, AVAIL)]
        self.do(wire.SET_VRING_ADDR, wire.VRING_ADDRESS.pack(queue, 0, *addresses, 0))
        self.do(wire.SET_VRING_CALL, wire.U64.pack(queue), [self.call_fd])
        self.do(wire.SET_VRING_KICK, wire.U64.pack(queue), [self.kick_fd])

    # -- the driver --------------------------------------------------------------------------------------------

    def fill(self, gpa: int, nr_bytes: int) -> None:
        at = gpa - GPA
        self.memory[at : at + nr_bytes] = b"x" * nr_bytes

    def post(self, ranges: Sequence[tuple[int, int]], head: int = 0) -> None:
        """Make a chain available, from descriptor `head` on, and kick."""
        for number, (gpa, length) in enumerate(ranges):
            last = number == len(ranges) - 1
            following = 0 if last else head + number + 1
            struct.pack_into(
                "<QIHH", self.memory, DESC + 16 * (head + number), gpa, length, 2 | (not last), following
            )
        self.offer(head)

    def offer(self, head: int) -> None:
        """Make the chain that begins at a descriptor available as it stands, and kick."""
        struct.pack_into("<H", self.memory, AVAIL + 4 + 2 * (self.posted % QUEUE_SIZE), head)
        self.posted += 1
        struct.pack_into("<H", self.memory, AVAIL + 2, self.posted)
        os.eventfd_write(self.kick_fd, 1)

    def used(self) -> list[int]:
        """Return the first descriptors of all chains that were given back, in their order."""
        (count,) = struct.unpack_from("<H", self.memory, USED + 2)
        return [struct.unpack_from("<I", self.memory, USED + 4 + 8 * at)[0] for at in range(count)]

    def await_call(self, seconds: float = ANSWER_S) -> bool:
        """Wait for an interrupt; False when there is none."""
        ready, _, _ = select.select([self.call_fd], [], [], seconds)
        if ready:
            os.eventfd_read(self.call_fd)
        return bool(ready)

    def report(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Hand a batch over and wait until it comes back."""
        before = len(self.used())
        self.post(ranges)
        # The interrupt in any case: it comes after the batch, and would be taken for another one's.
        assert self.await_call(), "the batch does not come back"
        while len(self.used()) == before:
            assert self.await_call(), "the batch does not come back"
