"""What a reporting worker may decide: the points at which kernels, allocators and ideas differ.

`ReportingPolicy` is the kernel's (`mm/page_reporting.c`, v6.1): it waits `delay_s`, visits each list within its budget,
takes what it finds, and rests until somebody frees. A policy of your own overrides what it does differently:

    class Later(ReportingPolicy):
        def delay_s(self, cause):
            return 10.0

Everything here is asked once a pass, once a list or once a candidate, never by an allocation. `freed` is told of the
frees that ask for a report anyway, and `reported` of each block that was, and only if they are overridden. A policy
that skips or stops must ask again (`end_pass`), or what it left is forgotten until the next free (L1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pagealloc.zone import Zone

BUDGET_DIVISOR = 16  # one visit takes about a sixteenth of a list, so an idle system settles in 16 passes
TAKE, SKIP, STOP = range(3)  # a candidate; the rest of the list


class Core(Protocol):
    """What a policy may know and ask of the `PageReporting` that it serves."""

    zones: Sequence[Zone]
    delay_s: float

    @property
    def order(self) -> int:
        """The smallest order that is reported."""
        ...

    def now_s(self) -> float: ...
    def flush(self) -> bool: ...


class ReportingPolicy:
    """The kernel's policy, and the base of all others. One object serves one `PageReporting`."""

    reporting: Core

    def __init__(self, *, budget_divisor: int = BUDGET_DIVISOR) -> None:
        if budget_divisor < 1:
            raise ValueError(f"budget divisor is {budget_divisor}, expected 1 or more")
        self.budget_divisor = budget_divisor

    def attach(self, reporting: Core) -> None:
        """Begin to serve a reporting core."""
        self.reporting = reporting

    def delay_s(self, cause: str) -> float | None:
        """Return the seconds from a "request", or from a pass that was asked "again", to the pass; None for never."""
        return self.reporting.delay_s

    def registered(self, order: int) -> None:
        """Hear that a device has come, and which order it settled; frees are heard from before that on."""

    def begin_pass(self, now_s: float) -> None:
        """Hear that a pass begins."""

    def calls(self, nr_free: int, capacity: int) -> int:
        """Return how many report calls, and one more, a visit to a list of an order with so many free blocks may make.

        The kernel's own arithmetic (43b76f295e3d).
        """
        return -(-nr_free // (capacity * self.budget_divisor))

    def take(self, zone: Zone, pfn: int, order: int) -> int:
        """Say what to do with an unreported block: TAKE it, SKIP it, or STOP with its list. Under the zone lock."""
        return TAKE

    def reported(self, zone: Zone, pfn: int, order: int) -> None:
        """Hear of a block that the device has taken, when it was put back. Under the zone lock."""

    def end_pass(self, now_s: float) -> float | None:
        """Hear that a pass ends; return after how many seconds to look again though nobody asks, or None."""
        return None

    def freed(self, zone: Zone, pfn: int, order: int) -> None:
        """Hear of a free that left a block of at least the reported order. Under the zone lock."""

    def unreported_pages(self) -> int:
        """Count the free pages that could be reported and are not, at about this moment."""
        reporting = self.reporting
        order = reporting.order
        return sum(
            (zone.nr_free[current] - zone.nr_reported[current]) << current
            for zone in reporting.zones
            for current in range(order, zone.layout.nr_orders)
        )
