"""Hangs are seen from outside: who has not taken a step for long, and where every thread stands."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable

from pagealloc.sync_real import thread_names

LOOK_MAX_S = 1.0  # a look that comes later than this was late itself: the whole process stood still


class Watchdog:
    """Counts how long movers have stood still.

    A mover is shown at every look with a *step*, anything that changes when it moves, or None while it has no
    need to. Time is counted from look to look, so that a process that was stopped for an hour has not hung.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._last_look_s: float | None = None
        self._standing: dict[
            str, tuple[object, float]
        ] = {}  # by name: the last step, seconds without another

    def look(self, now_s: float, movers: Iterable[tuple[str, object]]) -> list[str]:
        """Return the names of those who have taken no step for longer than the patience."""
        last_s = now_s if self._last_look_s is None else self._last_look_s
        passed_s = min(now_s - last_s, LOOK_MAX_S)
        self._last_look_s = now_s
        standing: dict[str, tuple[object, float]] = {}
        for name, step in movers:
            if step is not None:
                last_step, still_s = self._standing.get(name, (step, 0.0))
                standing[name] = (step, still_s + passed_s if step == last_step else 0.0)
        self._standing = standing
        return [name for name, (_, still_s) in standing.items() if still_s > self._patience_s]


def stacks() -> list[str]:
    """Return where every thread is right now, one text for each, the newest call last."""
    frames = sys._current_frames()  # noqa: SLF001 - documented, in spite of its name
    names = thread_names()
    return [
        f"{names.get(ident, f'thread {ident}')}:\n{''.join(traceback.format_stack(frame)).rstrip()}"
        for ident, frame in frames.items()
    ]
