"""Figures and formulas of the rules, said again and never taken from the product that is judged by them."""

from __future__ import annotations

from functools import cache, reduce
from operator import or_

VISIT_SHARE = 16  # one visit to a list takes about a sixteenth of it (43b76f295e3d)
FALLBACKS = ((2, 1), (2, 0), (0, 1))  # types that a request falls back to, by its own (`fallbacks`)
REST_PASSES_MAX = 64  # lists settle in 16 passes; a worker that goes on after four times that never ends


def starting_mark(low_wmark_pages: int, order: int, capacity: int) -> int:
    """Return the free pages that a zone must exceed for a pass to visit it (S16).

    A whole batch of the smallest order can be in flight then, while more than the low watermark stays.
    """
    return low_wmark_pages + (capacity << order)


def calls_of_visit(nr_free: int, capacity: int) -> int:
    """Return how many report calls one visit to a list may make, of `nr_free` blocks of its order (S17)."""
    return -(-nr_free // (max(1, capacity) * VISIT_SHARE)) + 1


def boost_fits(boost: int, high_wmark_pages: int, pageblock_pages: int) -> bool:
    """Whether marks can be raised by so much: by pageblocks, up to one and a half high marks (1c30844d2dfe)."""
    return boost >= 0 and (
        boost % pageblock_pages == 0 or boost == max(pageblock_pages, high_wmark_pages * 3 // 2)
    )


# The flags of a request by the names that trace events print, and the highest zone and the migratetype they ask for.
_PLAIN = (
    "GFP_KERNEL",
    "GFP_ATOMIC",
    "GFP_NOWAIT",
    "__GFP_HIGH",
    "__GFP_ZERO",
    "__GFP_THISNODE",
    "__GFP_DIRECT_RECLAIM",
)
_BITS = {
    "GFP_DMA": 0x1,
    "__GFP_HIGHMEM": 0x2,
    "GFP_DMA32": 0x4,
    "__GFP_MOVABLE": 0x8,
    "__GFP_RECLAIMABLE": 0x10,
}
_WORDS = {"none": 0, "GFP_HIGHUSER_MOVABLE": 0xA, **dict.fromkeys(_PLAIN, 0), **_BITS}
_KNOWN_BITS = 0x1D3F  # all that a request can say here


@cache
def request_of(gfp: int | str) -> tuple[int, int] | None:
    """Return the migratetype and the highest zone that a request asks for, by its flags or their names.

    None for flags that do not exist.
    """
    if isinstance(gfp, str):
        words = gfp.split("|")
        if not _WORDS.keys() >= set(words):
            return None
        gfp = reduce(or_, (_WORDS[word] for word in words))
    if gfp & ~_KNOWN_BITS or gfp & 0x18 == 0x18:
        return None
    zone = 0 if gfp & 0x1 else 1 if gfp & 0x4 else 2 if not gfp & 0x2 else 4 if gfp & 0x8 else 3
    return (gfp & 0x18) >> 3, zone
