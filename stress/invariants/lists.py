"""Where every block of a zone is, and the free lists in their order: what a shadow keeps, without its rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Self

from pagealloc.mmzone import MIGRATE_HIGHATOMIC, MIGRATE_ISOLATE
from pagealloc.revision import PRESETS

Fail = Callable[[str, str], None]  # (invariant, text)
Blocks = Sequence[Sequence[int]]  # (pfn, order) each
NO_BLOCK = (-1, "no block that the log knows of")
# What `lists` tells whole; nothing else of it matters.
IN_LISTS = frozenset({"fail", "free", "type_of", "_place", "_front", "_back"})

FREEZE: dict[type, Callable[[Any], Any]] = {
    dict: lambda value: frozenset(value.items()),
    set: frozenset,
    list: tuple,
    bytearray: bytes,
}


def copied(value: Any) -> Any:
    """Return a value that does not change with this one."""
    return value.copy() if type(value) in FREEZE else value


def copies(values: dict[str, Any]) -> dict[str, Any]:
    """Return attributes that do not change with these, by their names."""
    return {name: value.copy() if type(value) in FREEZE else value for name, value in values.items()}


def frozen(values: dict[str, Any], but: AbstractSet[str]) -> tuple[Any, ...]:
    """Return what is equal for equal attributes, and can be a key; some are left out."""
    return tuple(
        [
            FREEZE[type(value)](value) if type(value) in FREEZE else value
            for name, value in values.items()
            if name not in but
        ]
    )


class ShadowLists:
    """The blocks of one zone: free ones on lists, taken ones, and those in flight.

    A free list's order is kept as a number for each block, which grows towards the tail. `fail` is called for
    whatever breaks a rule.
    """

    def __init__(
        self,
        name: str,
        node: int,
        start_pfn: int,
        end_pfn: int,
        nr_orders: int,
        pageblock_order: int,
        revision: str,
        *,
        fail: Fail,
    ) -> None:
        self.name = name if node == 0 else f"{node}:{name}"
        self.node = node
        self.start_pfn = start_pfn
        self.end_pfn = end_pfn
        self.nr_orders = nr_orders
        self.pageblock_order = pageblock_order
        self.revision = PRESETS[revision]
        self.fail = fail
        self.free: dict[int, int] = {}  # order by pfn
        self.type_of: dict[int, int] = {}  # list's migratetype by pfn, of free blocks
        self._place: dict[int, int] = {}  # position on the list
        self._front = 0
        self._back = 0
        self.reported: set[int] = set()
        self.told: set[tuple[int, int]] = set()  # (pfn, order), free and whole since a device was told
        self.taken: dict[int, int] = {}
        self.owned: dict[int, int] = {}  # thread by pfn
        self.in_flight: dict[int, int] = {}
        self.nr_free = [0] * nr_orders
        self.nr_free_pages = 0
        self.nr_free_highatomic = 0  # of these, the ones on high-atomic lists
        self.types = bytearray()
        self._first_block = start_pfn >> pageblock_order

    def twin(self, fail: Fail) -> Self:
        """Return a shadow of another zone in the same state."""
        shadow = object.__new__(type(self))
        shadow.__dict__ = copies(vars(self))
        shadow.fail = fail
        return shadow

    def key(self) -> tuple[Any, ...]:
        """Return what tells shadows apart: with equal keys they judge alike whatever may come."""
        lists = tuple([(at, tuple(pfns)) for at, pfns in sorted(self.lists().items())])
        return lists, frozen(vars(self), IN_LISTS)

    # -- lists -----------------------------------------------------------------------------------------

    def _list(self, pfn: int, order: int, migratetype: int, to_tail: bool) -> None:
        self.free[pfn] = order
        self.type_of[pfn] = migratetype
        if to_tail:
            self._back += 1
            self._place[pfn] = self._back
        else:
            self._front -= 1
            self._place[pfn] = self._front
        self.nr_free[order] += 1
        if migratetype != MIGRATE_ISOLATE:
            self.nr_free_pages += 1 << order
        if migratetype == MIGRATE_HIGHATOMIC:
            self.nr_free_highatomic += 1 << order

    def _unlist(self, pfn: int) -> None:
        order = self.free.pop(pfn)
        self._place.pop(pfn)
        self.nr_free[order] -= 1
        migratetype = self.type_of.pop(pfn)
        if migratetype != MIGRATE_ISOLATE:
            self.nr_free_pages -= 1 << order
        if migratetype == MIGRATE_HIGHATOMIC:
            self.nr_free_highatomic -= 1 << order
        self.reported.discard(pfn)
        self.told.discard((pfn, order))

    def list_pfns(self, order: int, migratetype: int) -> list[int]:
        """Return a free list from head to tail."""
        pfns = [pfn for pfn, o in self.free.items() if o == order and self.type_of[pfn] == migratetype]
        return sorted(pfns, key=self._place.__getitem__)

    def lists(self) -> dict[tuple[int, int], list[int]]:
        """Return all free lists that are not empty, by (order, migratetype), from head to tail."""
        found: dict[tuple[int, int], list[int]] = {}
        for pfn in sorted(self.free, key=self._place.__getitem__):
            found.setdefault((self.free[pfn], self.type_of[pfn]), []).append(pfn)
        return found

    def block_type(self, pfn: int) -> int:
        """Return the migratetype of the pageblock that holds `pfn`."""
        return self.types[(pfn >> self.pageblock_order) - self._first_block]

    def nr_reported(self) -> list[int]:
        """Count the Reported blocks of each order."""
        counts = [0] * self.nr_orders
        for pfn in self.reported:
            counts[self.free[pfn]] += 1
        return counts

    # -- saying what a frame is ------------------------------------------------------------------------

    def block_of(self, pfn: int) -> tuple[int, str]:
        """Return (head, kind) of the block that holds a frame, in words."""
        for order in range(self.nr_orders):
            head = pfn & -(1 << order)
            for blocks, kind in ((self.free, "free"), (self.in_flight, "in flight"), (self.taken, "taken")):
                if blocks.get(head, -1) >= order:
                    owner = self.owned.get(head)
                    what = kind if owner is None or kind != "taken" else f"owned by thread {owner}"
                    return head, f"{what} as pfn {head:#x} order {blocks[head]}"
        return NO_BLOCK

    def describe(self, pfn: int) -> str:
        return self.block_of(pfn)[1]
