"""What a reporter raises: its batch was not handed over, or there is no such reporter."""

from __future__ import annotations

from pagealloc.errors import PageAllocError

TEXT_MAX = 300  # characters of an exception's text that are told


class ReporterError(PageAllocError):
    """A reporter could not do its work, or could not be loaded."""


class WorkerDied(PageAllocError):
    """The thread that runs the works has ended by an exception: nothing is reported any more."""


class DeviceRefused(ReporterError):
    """There is no device to report to: a program, a machine or a feature is missing. The input was bad."""


class DeviceGone(ReporterError):
    """The device ended or broke, and whatever ran it has ended: it touches no memory any more."""


class DeviceSilent(DeviceGone):
    """The device did not answer in time, and was ended for it."""


def describe_error(error: BaseException) -> str:
    """Return an exception's kind and text on one line, cut to `TEXT_MAX`: it may be anybody's."""
    try:
        text = str(error)[:TEXT_MAX]
    except Exception as worse:
        text = f"its text cannot be had: {type(worse).__name__}"
    if not text.isprintable():
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return f"{type(error).__name__}: {text}"[:TEXT_MAX]


def is_promise(promise: object) -> bool:
    """Whether what a function returned is work that has not been done: of a coroutine, a generator or an executor."""
    return any(hasattr(promise, name) for name in ("__await__", "send", "asend", "add_done_callback"))


def close_promise(promise: object) -> None:
    """Close a coroutine that nobody will await, so that nothing warns of it later."""
    close = getattr(promise, "close", None)
    if close is not None:
        close()
