"""Verdicts, bad input, and the exit status of everything; every room uses these, and none has others of its own."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

EXIT_SUCCESS, EXIT_FAILURE, EXIT_BAD_INPUT, EXIT_CANNOT = range(4)
EXIT_SIGNAL = 128  # and the signal's number on top, as a shell has it

EXIT_STATUSES = """\
exit status:
    0  SUCCESS: it was done, and every check held
    1  FAILURE: a check failed, and nothing else has this status
    2  bad input: an argument or a file that cannot be used; also CANNOT DECIDE, unless a full disk is why
    3  it could not be done: a full disk, no memory, no thread to be had, or a fault of this program
  130  interrupted by Ctrl-C (128 + SIGINT); 143 by SIGTERM, 141 when whoever reads the output has left
"""

QUOTED_MAX = 200  # characters of what others wrote, in a message of ours


class Verdict(StrEnum):
    """What became of a check."""

    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    CANNOT_DECIDE = "CANNOT DECIDE"

    @classmethod
    def of(cls, *, failed: bool, undecided: bool = False) -> Verdict:
        return cls.FAILURE if failed else cls.CANNOT_DECIDE if undecided else cls.SUCCESS

    @property
    def exit_status(self) -> int:
        return {"SUCCESS": EXIT_SUCCESS, "FAILURE": EXIT_FAILURE}.get(self, EXIT_BAD_INPUT)

    @property
    def style(self) -> str:
        """How rich prints it."""
        return {"SUCCESS": "bold green", "FAILURE": "bold red"}.get(self, "bold yellow")


class BadInput(Exception):
    """Something that was given cannot be used: one line that names it and what was expected; exit status 2."""


class BadArgument(BadInput):
    """An argument is not what it must be; the message names it, its value and what is expected."""


class CannotBeDone(Exception):
    """The machine refuses what nobody did wrong: one line; exit status 3."""


def one_line(text: str, longest: int | None = None) -> str:
    """Make a line of text that others may have written: what would steer a terminal is shown by its escape.

    Of what is longer than `longest` characters the middle is left out.
    """
    if longest is not None and len(text) > longest:
        half = longest // 2
        text = f"{text[:half]} ... {text[-half:]}"  # first: it may be very long
    return " ".join("".join(map(_shown, text)).split())


def _shown(letter: str) -> str:
    # Line ends fall to `split`; what else has no shape of its own (C0, C1, directions, surrogates) is escaped.
    return letter if letter.isprintable() or letter.isspace() else ascii(letter)[1:-1]


def quoted(value: object, show: Callable[[object], str] = repr) -> str:
    """Quote a value in a message: its repr, a line of it at most."""
    try:
        return one_line(show(value), QUOTED_MAX)
    except (ValueError, RecursionError):  # a number with too many digits to be printed
        return f"a very large {type(value).__name__}"
