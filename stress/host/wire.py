"""vhost-user, the protocol between a virtual machine and a device in a process of its own: messages as they come.

A message is a head of three little-endian words (request, flags, size of the payload), the payload, and file
descriptors beside it. The numbers are those of the protocol's specification (QEMU, docs/interop/vhost-user.rst).
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass, field

HEAD = struct.Struct("<III")
U64 = struct.Struct("<Q")
VRING_STATE = struct.Struct("<II")  # queue, number
VRING_ADDRESS = struct.Struct(
    "<IIQQQQ"
)  # queue, flags, descriptors, used, available, log: the front's addresses
REGION = struct.Struct("<QQQQ")  # guest physical address, bytes, the front's address, offset in the file
CONFIG_HEAD = struct.Struct("<III")  # offset, size, flags

VERSION, VERSION_MASK, IS_REPLY, NEEDS_REPLY = 1, 3, 4, 8
PAYLOAD_MAX = 4096
FDS_MAX = 8
REGIONS_MAX = 8
NO_FD = 1 << 8  # in the payload of a message that may have a descriptor
QUEUE_MASK = 0xFF

GET_FEATURES, SET_FEATURES, SET_OWNER, RESET_OWNER, SET_MEM_TABLE = 1, 2, 3, 4, 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE = 8, 9, 10, 11
SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR = 12, 13, 14
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE = 15, 16, 17, 18
SET_BACKEND_REQ_FD, GET_CONFIG, SET_CONFIG = 21, 24, 25

# Of the protocol itself. The backend's own requests must be offered: without them Linux 6.1 takes interrupt 0, and
# fails.
F_REPLY_ACK, F_BACKEND_REQ, F_CONFIG = 1 << 3, 1 << 5, 1 << 9


class PeerError(Exception):
    """The other end does not keep to the protocol; the message says how."""


@dataclass(slots=True)
class Message:
    """One message of the front end; whoever takes a descriptor out of `fds` closes it."""

    request: int
    flags: int
    payload: bytes
    fds: list[int] = field(default_factory=list)

    @property
    def needs_reply(self) -> bool:
        return bool(self.flags & NEEDS_REPLY)

    def words(self, layout: struct.Struct) -> tuple[int, ...]:
        """Unpack the payload. Raises PeerError when it has another size."""
        if len(self.payload) != layout.size:
            raise PeerError(
                f"request {self.request} has a payload of {len(self.payload)} bytes, expected {layout.size}"
            )
        return layout.unpack(self.payload)

    def take_fd(self) -> int:
        """Return the one descriptor. Raises PeerError for none, or several."""
        if len(self.fds) != 1:
            raise PeerError(f"request {self.request} has {len(self.fds)} file descriptors, expected 1")
        return self.fds.pop()

    def close(self) -> None:
        """Close descriptors that nobody took."""
        while self.fds:
            os.close(self.fds.pop())


def receive(connection: socket.socket) -> Message | None:
    """Return the next message, or None when the other end has closed. Raises PeerError."""
    try:
        head, fds, _, _ = socket.recv_fds(connection, HEAD.size, FDS_MAX)
    except OSError:  # a reset
        return None
    if not head:
        return None
    message = Message(0, 0, b"", list(fds))
    try:
        request, flags, size = HEAD.unpack(head + _exactly(connection, HEAD.size - len(head)))
        if flags & VERSION_MASK != VERSION or size > PAYLOAD_MAX:
            raise PeerError(f"a message's head has flags {flags:#x} and a payload of {size} bytes")
        message.request, message.flags = request, flags
        message.payload = _exactly(connection, size)
    except PeerError:
        message.close()
        raise
    return message


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        try:
            part = connection.recv(size - len(data))
        except OSError as error:
            raise PeerError(f"a message was cut: {error}") from None
        if not part:
            raise PeerError("the connection was closed within a message")
        data += part
    return data


def reply(connection: socket.socket, message: Message, payload: bytes) -> None:
    """Answer a message. A peer that is gone is noticed by the next `receive`."""
    head = HEAD.pack(message.request, VERSION | IS_REPLY, len(payload))
    try:
        connection.sendall(head + payload)
    except OSError:
        return
