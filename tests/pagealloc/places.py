"""Something happens in the middle of an operation, between any two bytecodes of the product's."""

from __future__ import annotations

import functools
import gc
import opcode
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType

import pagealloc

HOME = str(Path(pagealloc.__file__).parent)
# CPython 3.14 has it behind each conditional jump, and leaves it out of what a `try` covers. Only who traces sees it:
# no finalizer, signal handler or exception comes there.
NOT_TAKEN = opcode.opmap.get("NOT_TAKEN", -1)


def act_at(place: int, act: Callable[[FrameType], object], operation: Callable[[], object]) -> bool:
    """Do something at one bytecode of the product's in an operation; False if the operation has fewer.

    `act` gets the frame that it comes into, and runs on the operation's own thread, as a finalizer does.
    """
    left = place

    def tracer(frame: FrameType, event: str, arg: object) -> object:
        nonlocal left
        if not frame.f_code.co_filename.startswith(HOME):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and _bytecode(frame.f_code)[frame.f_lasti] != NOT_TAKEN:
            left -= 1
            if left == 0:
                act(frame)
        return tracer

    # CPython 3.12 tells of none if nobody wanted them before the tracing began.
    sys._getframe().f_trace_opcodes = True
    before = sys.gettrace()
    gc.disable()  # what the collector runs is not the operation's
    sys.settrace(tracer)  # type: ignore[arg-type]
    try:
        operation()
    finally:
        sys.settrace(before)
        gc.enable()
    return left <= 0


@functools.cache
def _bytecode(code: CodeType) -> bytes:
    return code.co_code  # a new copy each time


def interrupt_at(place: int, operation: Callable[[], object]) -> bool:
    """Raise KeyboardInterrupt at one bytecode of the product's; False if the operation has fewer."""
    try:
        return act_at(place, _interrupt, operation)
    except KeyboardInterrupt:
        return True


def _interrupt(_: FrameType) -> None:
    raise KeyboardInterrupt
