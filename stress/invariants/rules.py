"""Figures and formulas of the rules, said again and never taken from the product that is judged by them."""

from __future__ import annotations

VISIT_SHARE = 16  # one visit to a list takes about a sixteenth of it (43b76f295e3d)
REST_PASSES_MAX = 64  # lists settle in 16 passes; a worker that goes on after four times that never ends


def starting_mark(low_wmark_pages: int, order: int, capacity: int) -> int:
    """Return the free pages that a zone must exceed for a pass to visit it (S16).

    A whole batch of the smallest order can be in flight then, while more than the low watermark stays.
    """
    return low_wmark_pages + (capacity << order)


def calls_of_visit(nr_free: int, capacity: int) -> int:
    """Return how many report calls one visit to a list may make, of `nr_free` blocks of its order (S17)."""
    return -(-nr_free // (max(1, capacity) * VISIT_SHARE)) + 1
