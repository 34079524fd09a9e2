"""The device: a virtio-balloon behind vhost-user, with a reporting queue, and what the guest says of poison.

Free page hinting is not offered, and refused when a driver takes it all the same. The balloon itself stays empty:
`num_pages` is 0, so whatever the guest puts into the first two queues is given back as it is.
"""

from __future__ import annotations

import os
import struct

from stress.host import wire
from stress.host.device_queue import DeviceQueue
from stress.host.guest_memory import GuestMemory
from stress.host.wire import Message, PeerError

F_FREE_PAGE_HINT, F_PAGE_POISON, F_REPORTING = 1 << 3, 1 << 4, 1 << 5
F_PROTOCOL, F_VERSION_1 = 1 << 30, 1 << 32
OFFERED = F_PAGE_POISON | F_REPORTING | F_PROTOCOL | F_VERSION_1
PROTOCOL_OFFERED = wire.F_REPLY_ACK | wire.F_BACKEND_REQ | wire.F_CONFIG

CONFIG = struct.Struct("<IIII")  # num_pages, actual, free_page_hint_cmd_id, poison_val
POISON_VAL = 3
NR_QUEUES = 3
REPORTING_QUEUE = 2  # behind inflate and deflate: Linux numbers the queues over what is offered
QUEUE_SIZE_MAX = 1024


class Balloon:
    """The device's side of the handshake; `queues` and `memory` are what it came to."""

    def __init__(self) -> None:
        self.memory = GuestMemory()
        self.queues = [DeviceQueue() for _ in range(NR_QUEUES)]
        self.features = 0
        self._backend_fd = -1  # for requests of ours; there are none, but Linux takes its end for ours
        self._config = bytearray(CONFIG.size)
        self._answers = {
            wire.GET_FEATURES: lambda message: wire.U64.pack(OFFERED),
            wire.GET_PROTOCOL_FEATURES: lambda message: wire.U64.pack(PROTOCOL_OFFERED),
            wire.GET_QUEUE_NUM: lambda message: wire.U64.pack(NR_QUEUES),
            wire.GET_CONFIG: self._get_config,
            wire.GET_VRING_BASE: self._get_vring_base,
        }
        self._doings = {
            wire.SET_FEATURES: self._set_features,
            wire.SET_MEM_TABLE: self._set_mem_table,
            wire.SET_VRING_NUM: self._set_vring_num,
            wire.SET_VRING_ADDR: self._set_vring_addr,
            wire.SET_VRING_BASE: self._set_vring_base,
            wire.SET_VRING_KICK: lambda message: self._set_fd(message, "kick_fd"),
            wire.SET_VRING_CALL: lambda message: self._set_fd(message, "call_fd"),
            wire.SET_BACKEND_REQ_FD: self._set_backend_fd,
            wire.SET_CONFIG: self._set_config,
        }

    @property
    def poisoned(self) -> bool:
        """Whether the guest fills free pages with something else than zeroes: they must stay as they are."""
        return bool(self.features & F_PAGE_POISON and CONFIG.unpack(self._config)[POISON_VAL])

    @property
    def reporting_queue(self) -> DeviceQueue:
        return self.queues[REPORTING_QUEUE]

    def close(self) -> None:
        """Let go of the guest's memory and of all descriptors."""
        for queue in self.queues:
            queue.close()
        self.memory.close()
        if self._backend_fd >= 0:
            os.close(self._backend_fd)
            self._backend_fd = -1

    def handle(self, message: Message) -> bytes | None:
        """Do what a message says; returns what to reply, if anything. Raises PeerError.

        A request that a device without further features may leave undone (an owner, an error descriptor) is one.
        """
        try:
            answer = self._answers.get(message.request)
            if answer is not None:
                return answer(message)
            doing = self._doings.get(message.request)
            if doing is not None:
                doing(message)
            return wire.U64.pack(0) if message.needs_reply else None
        finally:
            message.close()

    # -- features and config -------------------------------------------------------------------------------

    def _set_features(self, message: Message) -> None:
        (features,) = message.words(wire.U64)
        if features & F_FREE_PAGE_HINT:
            raise PeerError("the driver takes free page hinting, which is not offered")
        if features & ~OFFERED:
            raise PeerError(f"the driver takes features {features:#x}, expected some of {OFFERED:#x}")
        self.features = features

    def _config_range(self, message: Message) -> tuple[int, int]:
        if len(message.payload) < wire.CONFIG_HEAD.size:
            raise PeerError(f"request {message.request} has a payload of {len(message.payload)} bytes")
        offset, size, _ = wire.CONFIG_HEAD.unpack_from(message.payload)
        if len(message.payload) != wire.CONFIG_HEAD.size + size:
            raise PeerError(
                f"request {message.request} names {size} bytes, and brings {len(message.payload)}"
            )
        return offset, size

    def _get_config(self, message: Message) -> bytes:
        offset, size = self._config_range(message)
        found = bytes(self._config[offset : offset + size])
        return message.payload[: wire.CONFIG_HEAD.size] + found.ljust(size, b"\0")

    def _set_config(self, message: Message) -> None:
        offset, size = self._config_range(message)
        if offset + size > CONFIG.size:
            raise PeerError(
                f"bytes {offset} .. {offset + size - 1} of the config are written, it has {CONFIG.size}"
            )
        self._config[offset : offset + size] = message.payload[wire.CONFIG_HEAD.size :]

    # -- memory and queues -----------------------------------------------------------------------------------

    def _set_mem_table(self, message: Message) -> None:
        head = wire.U64.size  # the number of regions, and padding
        nr_regions = int.from_bytes(message.payload[:4], "little")
        size = head + wire.REGION.size * nr_regions
        # Linux sends room for more regions than it has.
        if len(message.payload) < size or len(message.fds) != nr_regions or nr_regions > wire.REGIONS_MAX:
            raise PeerError(f"{nr_regions} regions of memory come with {len(message.fds)} descriptors")
        self.memory.close()
        for at in range(nr_regions):
            gpa, size, front_address, offset = wire.REGION.unpack_from(
                message.payload, head + wire.REGION.size * at
            )
            self.memory.add(gpa, size, front_address, offset, message.fds.pop(0))

    def _queue(self, number: int) -> DeviceQueue:
        if number >= NR_QUEUES:
            raise PeerError(f"queue {number}, expected 0 .. {NR_QUEUES - 1}")
        return self.queues[number]

    def _set_vring_num(self, message: Message) -> None:
        number, size = message.words(wire.VRING_STATE)
        if not 0 < size <= QUEUE_SIZE_MAX or size & (size - 1):
            raise PeerError(f"queue {number} of {size}, expected a power of two, {QUEUE_SIZE_MAX} at most")
        self._queue(number).size = size

    def _set_vring_addr(self, message: Message) -> None:
        number, _, desc, used, avail, _ = message.words(wire.VRING_ADDRESS)
        self._queue(number).addresses = desc, avail, used

    def _set_vring_base(self, message: Message) -> None:
        number, base = message.words(wire.VRING_STATE)
        queue = self._queue(number)
        queue.next_avail = queue.next_used = base & 0xFFFF

    def _get_vring_base(self, message: Message) -> bytes:
        """Stop a queue: its driver resets it."""
        number, _ = message.words(wire.VRING_STATE)
        queue = self._queue(number)
        queue.close()
        queue.addresses = None
        return wire.VRING_STATE.pack(number, queue.next_avail)

    def _set_backend_fd(self, message: Message) -> None:
        if self._backend_fd >= 0:
            raise PeerError("the descriptor for our requests comes twice")
        self._backend_fd = message.take_fd()

    def _set_fd(self, message: Message, name: str) -> None:
        (word,) = message.words(wire.U64)
        fd = -1 if word & wire.NO_FD else message.take_fd()
        self._queue(word & wire.QUEUE_MASK).set_fd(name, fd)
