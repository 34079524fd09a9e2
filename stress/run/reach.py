"""What a pass must report in the end, and what it never will: in one place for all who expect something of it."""

from __future__ import annotations

from pagealloc.zone import Zone
from stress.invariants.rules import starting_mark


class Reach:
    """The reach of a device: blocks of 2**`order` pages and more, in batches of `capacity` blocks."""

    def __init__(self, order: int, capacity: int) -> None:
        self.order = order
        self.capacity = capacity

    def nr_unreported(self, zone: Zone) -> int:
        """Count the free blocks that a pass should have reported; none in a zone that no pass visits."""
        if not self.holds(zone):
            return 0
        orders = range(self.order, zone.layout.nr_orders)
        return sum(zone.nr_free[order] - zone.nr_reported[order] for order in orders)

    def holds(self, zone: Zone) -> bool:
        """Whether a pass ever visits the zone: wholly free, it must be above the starting mark.

        The high-atomic reserve counts as taken, and is never given back while nobody is short of memory.
        """
        return zone.managed_pages - zone.nr_reserved_highatomic > self.pages_needed(zone)

    def pages_needed(self, zone: Zone) -> int:
        """Return the free pages that a zone must exceed for a pass to visit it."""
        return starting_mark(zone.low_wmark_pages(), self.order, self.capacity)
