"""What misuse raises. Each error names the page, the state it is in and what was expected."""

from __future__ import annotations


class PageAllocError(Exception):
    """Base of everything this package raises on purpose."""


class BadPage(PageAllocError):
    """A call named a page that it must not name; nothing was changed.

    `pfn` is the page frame number, `order` the order of the call, `state` the page's state in words and
    `expected` what the call needs.
    """

    problem = "bad page"

    def __init__(self, pfn: int, order: int, state: str, expected: str) -> None:
        super().__init__(f"{self.problem}: pfn {pfn:#x}, order {order}: it is {state}; expected {expected}")
        self.pfn = pfn
        self.order = order
        self.state = state
        self.expected = expected


class DoubleFree(BadPage):
    """The page is free already."""

    problem = "double free"


class WrongOrder(BadPage):
    """The page is allocated, but not as a block of this order that begins here."""

    problem = "wrong order"


class UnalignedPfn(BadPage):
    """The pfn is no multiple of 2**order."""

    problem = "unaligned pfn"


class ForeignPfn(BadPage):
    """The pfn belongs to no zone of this memory, or not to the zone that was asked."""

    problem = "foreign pfn"


class PageInFlight(BadPage):
    """The reporter has the page; nobody else may touch it."""

    problem = "page in flight"


class PageOnPageSet(BadPage):
    """The page is free already, on a thread's page set."""

    problem = "page on a page set"


class NotAllocated(BadPage):
    """The operation needs an allocated page."""

    problem = "page not allocated"


class NotInFlight(BadPage):
    """Only a block that was isolated can be put back."""

    problem = "page not in flight"


class NotUnreported(BadPage):
    """Only the head of a free block that is not Reported yet can become so."""

    problem = "page cannot become Reported"


class CorruptPageSet(BadPage):
    """A page set held a page that is not free: somebody freed it twice at the same time."""

    problem = "corrupt page set"


class ZoneBusy(PageAllocError):
    """A finalizer or a signal handler wants more than to free or allocate of a zone that its own thread is inside.

    Nothing was changed.
    """


class TornZone(PageAllocError):
    """An exception from outside met an operation on the zone half way; see `zone_lock`. Blocks may be lost.

    The memory cannot be used any more, and may be closed.
    """


class AnotherProcess(PageAllocError):
    """A child of a fork used what belongs to its parent. Nothing was changed."""


class RamError(PageAllocError):
    """The operating system refused memory, or refused to take it back."""


class MemoryClosed(RamError):
    """The memory was closed: all of it went back to the operating system, whoever had it. Nothing was changed."""
