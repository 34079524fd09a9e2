"""What a reporter raises: its batch was not handed over, or there is no such reporter."""

from __future__ import annotations

from pagealloc.errors import PageAllocError

# What a coroutine, both kinds of generators, and an executor's future have.
PROMISES = ("__await__", "send", "asend", "add_done_callback")
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


def only_promised(returned: object) -> str | None:
    """Say what is wrong when a reporter returned work that nobody will do: a coroutine, a generator, a future.

    None for anything else. What was promised is closed, so that nothing warns of it later.
    """
    if returned is None or not any(hasattr(returned, name) for name in PROMISES):
        return None
    close = getattr(returned, "close", None)
    if close is not None:
        close()
    what = "is a coroutine function" if hasattr(returned, "__await__") else "only promises to report"
    return f"report(zone, batch) {what}, which nobody awaits"
