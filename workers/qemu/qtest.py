"""QEMU's test protocol: a line asks, a line answers; here for registers of 32 bits.

The device does its work inside the write that kicks it (without KVM nothing else could), and the answer comes
behind it. So waiting for the answer is waiting for the device, and nobody needs to poll.
"""

from __future__ import annotations

import socket

RECV_BYTES = 4096


class QTestEnded(Exception):
    """The other end closed the connection."""


class QTestSilent(Exception):
    """No answer came in time. The connection is of no further use: a late answer would be taken for another's."""


class QTestRefused(Exception):
    """The other end answered something else than OK; the message has the answer."""


class QTest:
    """One connection; one thread uses it. `close` is for whoever owns the socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._unread = b""

    def set_timeout(self, timeout_s: float | None) -> None:
        """Wait so long for each answer, and without a number for ever."""
        self._socket.settimeout(timeout_s)

    def readl(self, address: int) -> int:
        """Return the register at a guest physical address."""
        words = self._ask(f"readl {address:#x}")
        try:
            return int(words[1], 16)
        except (IndexError, ValueError):
            raise QTestRefused(
                f"readl {address:#x} was answered with {words!r}, expected OK and a number"
            ) from None

    def writel(self, address: int, value: int) -> None:
        """Write a register, and return when whatever that sets off has been done."""
        self._ask(f"writel {address:#x} {value:#x}")

    def _ask(self, line: str) -> list[str]:
        try:
            self._socket.sendall(line.encode() + b"\n")
            answer = self._line()
        except TimeoutError:
            raise QTestSilent(f"no answer to {line}") from None
        except OSError as error:  # a broken pipe, a reset: the process at the other end is gone
            raise QTestEnded(f"{line}: {error.strerror}") from None
        words = answer.split()
        if words[:1] != ["OK"]:
            raise QTestRefused(f"{line} was answered with {answer[:80]!r}, expected OK")
        return words

    def _line(self) -> str:
        while b"\n" not in self._unread:
            received = self._socket.recv(RECV_BYTES)
            if not received:
                raise QTestEnded("the connection was closed before the answer")
            self._unread += received
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode(errors="replace")

    def close(self) -> None:
        self._socket.close()
