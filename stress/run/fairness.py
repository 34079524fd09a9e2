"""Whether all threads get their turn: locktorture's rule, where half of the most is more than the least."""

from __future__ import annotations

from collections.abc import Mapping

OPERATIONS_MIN = 200  # fewer say nothing: one long operation decides who has twice as many

Counts = Mapping[tuple[int, int], int]  # operations by allocator and how often it has come


def unfair(operations: Mapping[int, int]) -> str | None:
    """Say which allocator had too little, against which; None when nobody had."""
    if len(operations) < 2:
        return None
    most = max(operations, key=lambda number: operations[number])
    least = min(operations, key=lambda number: operations[number])
    if operations[most] < OPERATIONS_MIN or operations[most] // 2 <= operations[least]:
        return None
    return f"allocator {least} made {operations[least]:,} operations, allocator {most} {operations[most]:,}"


class Fairness:
    """Looks at each interval of a run by itself; who came or went meanwhile is left out."""

    def __init__(self, interval_s: float) -> None:
        self.unfair_intervals = 0
        self.unfair: str | None = None  # what was wrong in the last interval
        self._interval_s = interval_s
        self._begin_s: float | None = None
        self._before: Counts = {}

    def look(self, now_s: float, counts: Counts) -> None:
        """Judge the interval that is over, if one is."""
        if self._begin_s is not None and now_s - self._begin_s < self._interval_s:
            return
        made = {
            key[0]: operations - self._before[key]
            for key, operations in counts.items()
            if key in self._before
        }
        self.unfair = unfair(made)
        self.unfair_intervals += self.unfair is not None
        self._begin_s, self._before = now_s, counts
