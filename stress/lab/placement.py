"""Free lists from counts: `/proc` says how many blocks there are, and a run needs to know where.

Blocks are placed from the largest order down. A block takes the lower half of a free slot that is twice as large,
and the upper half stays in use until the order is done, so that no two placed blocks could merge. What a recording
shows to have been free at its start is placed first, and there. The rest, and the order of each list, are drawn by
the seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pagealloc.mmzone import MIGRATE_MOVABLE, MIGRATE_TYPES
from pagealloc.sync import Rng
from pagealloc.zone import Zone
from stress.errors import BadInput
from stress.lab.proc_state import ZoneState

Lists = dict[str, Any]  # a zone's state in the form that `load_zone` takes


def shuffle(values: list[int], rng: Rng) -> None:
    """Put the values into an order that the seed draws."""
    for at in range(len(values) - 1, 0, -1):
        other = rng.choose(at + 1)
        values[at], values[other] = values[other], values[at]


class Placement:
    """Places the free blocks of one zone."""

    def __init__(
        self, zone: Zone, known_free: Sequence[tuple[int, int]], known_used: Iterable[int], rng: Rng
    ) -> None:
        self._zone = zone
        self._rng = rng
        self._top = zone.layout.top_order
        self._hints = [(pfn, order) for pfn, order in known_free if zone.start_pfn <= pfn < zone.end_pfn]
        self._used = {pfn >> self._top for pfn in known_used}
        self._slots: list[list[int]] = [
            [] for _ in range(self._top + 1)
        ]  # pfns of what is not placed, by order
        self._lists: dict[str, list[int]] = {}
        self._block_types: dict[int, int] = {}

    def place(self, state: ZoneState) -> Lists:
        """Return lists with so many blocks as the state counts. Raises BadInput when they do not fit."""
        self._cut()
        hinted = self._hinted_blocks(state)
        for order in range(self._top, -1, -1):
            kept: list[int] = []
            for migratetype in range(MIGRATE_TYPES):
                counts = state.free.get(migratetype, [])
                count = counts[order] if order < len(counts) else 0
                wanted = hinted.get(order, []) if migratetype == MIGRATE_MOVABLE else []
                pfns = [self._take(order, kept, wanted) for _ in range(count)]
                if pfns:
                    self._lists[f"{order}.{migratetype}"] = pfns
                    for pfn in pfns:
                        self._note_types(pfn, order, migratetype)
            self._slots[order] += kept
        return {"lists": self._lists, "reported": [], "blocks": self._types(state)}

    def _cut(self) -> None:
        """Cut the zone into the largest aligned pieces, in an order that the seed draws."""
        pfn, end = self._zone.start_pfn, self._zone.end_pfn
        while pfn < end:
            alignment = (pfn & -pfn).bit_length() - 1 if pfn else self._top
            order = min(self._top, alignment, (end - pfn).bit_length() - 1)
            self._slots[order].append(pfn)
            pfn += 1 << order
        top = self._slots[self._top]
        shuffle(top, self._rng)
        # What the recording frees before it takes it was in use at the start: the last to be handed out.
        top.sort(key=lambda pfn: pfn >> self._top not in self._used)

    def _hinted_blocks(self, state: ZoneState) -> dict[int, list[int]]:
        """Say of which orders the blocks were that the recording took, largest order first, in the order it took them.

        Pages are taken from the smallest block that fits, so what was taken first came from the smaller blocks; two
        that are buddies came from one block.
        """
        counts = state.free.get(MIGRATE_MOVABLE, [])
        heads: dict[int, list[int]] = {}
        taken = set(self._hints)
        covered: set[int] = set()
        for pfn, order in self._hints:
            if pfn >> self._top in covered:
                continue
            size = order
            while size < self._top and (size >= len(counts) or not counts[size]):
                size += 1
            buddy = pfn ^ (1 << order)
            if size < self._top and ((buddy, order) in taken or len(heads.get(size, ())) >= counts[size]):
                size = self._top
            heads.setdefault(size, []).append(pfn & -(1 << size))
            covered.add(pfn >> self._top)
        return {size: list(reversed(pfns)) for size, pfns in heads.items()}

    def _take(self, order: int, kept: list[int], wanted: list[int]) -> int:
        """Take a slot for a block of `order`; `kept` collects the halves that must stay in use meanwhile."""
        while wanted:
            pfn = wanted.pop()
            if self._cut_out(pfn, order, kept):
                return pfn
        if order == self._top or not any(self._slots[order + 1 :]):
            if not self._slots[order]:
                raise BadInput(
                    f"zone {self._zone.name}: its free blocks do not fit into its {self._zone.managed_pages} pages; "
                    "expected counts and a size of the same guest"
                )
            return self._slots[order].pop()
        larger = next(size for size in range(order + 1, self._top + 1) if self._slots[size])
        pfn = self._slots[larger].pop()
        for size in range(larger - 1, order, -1):
            self._slots[size].append(pfn + (1 << size))
        kept.append(pfn + (1 << order))
        return pfn

    def _cut_out(self, pfn: int, order: int, kept: list[int]) -> bool:
        """Take the slot at `pfn` out of the one that holds it; False if that is gone."""
        for size in range(order, self._top + 1):
            head = pfn & -(1 << size)
            if head in self._slots[size]:
                self._slots[size].remove(head)
                break
        else:
            return False
        for half in range(size - 1, order - 1, -1):
            other = (pfn & -(1 << half)) ^ (1 << half)
            (kept if half == order else self._slots[half]).append(other)
        return True

    def _note_types(self, pfn: int, order: int, migratetype: int) -> None:
        pageblock_order = self._zone.layout.pageblock_order
        for block in range(pfn >> pageblock_order, (pfn + (1 << order) - 1 >> pageblock_order) + 1):
            self._block_types.setdefault(block, migratetype)

    def _types(self, state: ZoneState) -> str:
        """Return the migratetype of each pageblock: where blocks were placed, theirs; the rest as counted."""
        pageblock_order = self._zone.layout.pageblock_order
        first = self._zone.start_pfn >> pageblock_order
        last = self._zone.end_pfn - 1 >> pageblock_order
        left = list(state.blocks) or [0, last - first + 1, 0, 0, 0]
        for migratetype in self._block_types.values():
            left[migratetype] = max(0, left[migratetype] - 1)
        rest = [migratetype for migratetype, count in enumerate(left) for _ in range(count)]
        shuffle(rest, self._rng)
        types = []
        for block in range(first, last + 1):
            known = self._block_types.get(block)
            types.append(known if known is not None else rest.pop() if rest else MIGRATE_MOVABLE)
        return "".join(map(str, types))
