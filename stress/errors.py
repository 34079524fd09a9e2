"""What is bad input, and what the exit statuses mean; every room raises these, and none for another."""

from __future__ import annotations

EXIT_SUCCESS, EXIT_FAILURE, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130


class BadInput(Exception):
    """Something that was given cannot be used: one line that names it and what was expected; exit status 2."""


class BadArgument(BadInput):
    """An argument is not what it must be; the message names it, its value and what is expected."""
