"""Leaving before the end: a signal ends a command where it stands, with one line and nothing left behind.

An exception at any place, as KeyboardInterrupt is, meets code that is not made for it: a library's C code, another
thread's bookkeeping, a finalizer that can only print it. So the handler itself undoes what would be left behind and
ends the process. A command that has something to say when it is interrupted handles the first signal with `heard_by`.

Everything imports this before anything else, so it imports next to nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

CANNOT = 3  # `errors.EXIT_CANNOT`, which is imported later
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SHOW_CURSOR = b"\r\x1b[K\x1b[?25h"  # a progress display hides it

Undo = Callable[[], object]

_exit = os._exit
_owed: dict[object, Undo] = {}
_owner = 0  # the process that hears signals; a child of it that is told to leave has nothing to undo
_hearer: Callable[[int], bool] | None = None
_is_leaving = False


def hear_signals() -> None:
    """Let the signals end this process from now on; one that it was started to ignore stays ignored (nohup)."""
    global _owner  # noqa: PLW0603 - signals are the process's, and so is who hears them
    _owner = os.getpid()
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def open_standard_streams() -> None:
    """Let a stream that this process was started without go nowhere (`>&-`).

    The next file that is opened would have its number: the log of a run, or its memory, and what is meant for stdout
    or stderr would be written into that.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, and so this one
            os.set_inheritable(opened, True)
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - it is the process's


def deafen() -> None:
    """Hear no more signals: everything is said and done, and the interpreter takes itself apart."""
    for number in SIGNALS:
        if signal.getsignal(number) is _handle:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def heard_by(hearer: Callable[[int], bool]) -> Iterator[None]:
    """Ask `hearer` for each signal within the block; it returns whether to go on nevertheless."""
    global _hearer  # noqa: PLW0603 - see above
    _hearer = hearer
    try:
        yield
    finally:
        _hearer = None


class Interruption(KeyboardInterrupt):
    """A signal as an exception, for commands that clean up and sum up on their way out."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def raised_once() -> Iterator[None]:
    """Raise the first signal within the block as an Interruption; the second one ends the process."""
    heard: list[int] = []

    def hear(number: int) -> bool:
        if heard:
            return False
        heard.append(number)
        raise Interruption(number)

    with heard_by(hear):
        yield


@contextmanager
def owed(undo: Undo) -> Iterator[None]:
    """Undo something at the end of the block, or when a signal ends the process within it.

    It comes before what it undoes, so that there is no moment without it: `undo` may find nothing to do.
    """
    key = object()
    _owed[key] = undo
    try:
        yield
    finally:
        undo()
        _owed.pop(key, None)


def _handle(number: int, frame: FrameType | None) -> None:
    global _is_leaving  # noqa: PLW0603 - see above
    if _is_leaving or os.getpid() != _owner:
        _exit(128 + number)  # told once more, what is left to do takes too long
    if _hearer is not None and _hearer(number):
        return
    _is_leaving = True
    _leave(
        "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}", 128 + number
    )


def hear_of_exits() -> None:
    """Let nobody end this process without a word, or as if it had been a success: a reporter may call `os._exit`."""
    os._exit = _leave_unasked  # what a C library does is out of reach


def _leave_unasked(status: int) -> NoReturn:
    global _is_leaving  # noqa: PLW0603 - see above
    if not _is_leaving and os.getpid() == _owner:
        _is_leaving = True
        _leave(f"something called os._exit({status}): there is no verdict", status or CANNOT)
    _exit(status)


def _leave(why: str, status: int) -> NoReturn:
    for undo in [*reversed(_owed.values())]:
        with suppress(Exception):
            undo()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # it may be closed, or in the middle of a write
            stream.flush()
    with suppress(OSError):
        if os.isatty(2):
            os.write(2, SHOW_CURSOR)
        os.write(2, f"stress: {why}\n".encode())
    _exit(status)
