"""What a caller may name: the pages and blocks of a zone, in words, and the errors for what is none of them."""

from __future__ import annotations

from pagealloc.errors import (
    BadPage,
    DoubleFree,
    ForeignPfn,
    NotAllocated,
    PageInFlight,
    PageOnPageSet,
    UnalignedPfn,
    WrongOrder,
)
from pagealloc.marks import Marks
from pagealloc.page_flags import ALLOCATED, BUDDY, IN_FLIGHT, KIND_MASK, LRU, OFFLINE, ON_PAGE_SET, describe


class Names(Marks):
    """A zone that has a name, and can say what a page of it is."""

    __slots__ = ("name",)

    name: str

    def check_range(self, pfn: int, order: int) -> None:
        """Raise BadPage unless `pfn` is a multiple of 2**order and the block lies in the zone."""
        if not 0 <= order < self.layout.nr_orders:
            expected = f"an order of 0 .. {self.layout.top_order}"
            raise WrongOrder(pfn, order, "named with an order that no block has", expected)
        if not (self.start_pfn <= pfn and pfn + (1 << order) <= self.end_pfn):
            expected = f"a block within pfn {self.start_pfn:#x} .. {self.end_pfn - 1:#x}"
            raise ForeignPfn(pfn, order, f"not wholly in zone {self.name}", expected)
        if pfn & ((1 << order) - 1):
            expected = f"a multiple of {1 << order:#x}"
            raise UnalignedPfn(pfn, order, self.describe_page(pfn), expected)

    def describe_page(self, pfn: int) -> str:
        """Say in words what the page is, with its zone."""
        index = pfn - self.base_pfn
        head, _ = self.block_of(index)
        if head < 0:
            return f"{describe(self.state[index])} ({self.name})"
        where = f" in zone {self.name}"
        if head != index:
            where += f", as part of the block at pfn {self.base_pfn + head:#x}"
        return describe(self.state[head]) + where

    def bad_free(self, pfn: int, order: int) -> BadPage:
        """Build the error for a free of something else than an allocated block of this order."""
        head, _ = self.block_of(pfn - self.base_pfn)
        kind = self.state[head] & KIND_MASK if head >= 0 else OFFLINE
        raised: dict[int, type[BadPage]] = {
            BUDDY: DoubleFree,
            ALLOCATED: WrongOrder,
            LRU: WrongOrder,
            ON_PAGE_SET: PageOnPageSet,
            IN_FLIGHT: PageInFlight,
        }
        error = raised.get(kind, NotAllocated)
        return error(pfn, order, self.describe_page(pfn), f"a block of order {order} allocated at this pfn")
