"""The blocks of one batch while they are in flight (`struct scatterlist`), filled from behind as in the kernel."""

from __future__ import annotations

NO_ENTRY = (-1, 0)


class Scatterlist:
    """`capacity` entries, filled from the last one down: `entries[offset:]` are the blocks in flight."""

    __slots__ = ("entries", "offset")

    def __init__(self, capacity: int) -> None:
        self.entries = [NO_ENTRY] * capacity
        self.offset = capacity

    def add(self, pfn: int, order: int) -> None:
        self.offset -= 1
        self.entries[self.offset] = pfn, order

    def batch(self) -> list[tuple[int, int]]:
        """Return (pfn, order) of the blocks in flight, in the order in which they are handed over and put back."""
        return self.entries[self.offset :]

    def reset(self) -> None:
        self.offset = len(self.entries)
        self.entries[:] = [NO_ENTRY] * self.offset
