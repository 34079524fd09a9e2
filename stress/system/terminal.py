"""Where results are printed: tables as wide as the terminal, and never so narrow that figures are left out."""

from __future__ import annotations

from rich.console import Console

# Columns; also what there is in a pipe. Every table of a result has room for its figures in so many.
WIDTH_MIN = 80


def console() -> Console:
    """Return a console on stdout for what is printed once. A narrower terminal breaks the lines by itself."""
    found = Console()
    return found if found.width >= WIDTH_MIN else Console(width=WIDTH_MIN)
