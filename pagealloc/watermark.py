"""How many pages each zone keeps back: `__setup_per_zone_wmarks` and `setup_per_zone_lowmem_reserve`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt

from pagealloc.mmzone import ZONE_NAMES
from pagealloc.zone import Zone

MIN_FREE_KBYTES_MIN, MIN_FREE_KBYTES_MAX = 128, 262_144
WATERMARK_SCALE_FACTOR = 10  # ten-thousandths of a zone between two marks
HIGHMEM_MIN_PAGES = (32, 128)

# What a zone withholds from requests that could have used higher zones: a ratio of those zones' pages.
LOWMEM_RESERVE_RATIO = {"DMA": 256, "DMA32": 256, "Normal": 32, "HighMem": 0, "Movable": 0}


def default_min_free_kbytes(zones: Sequence[Zone]) -> int:
    """Return sqrt(16 * lowmem) in KiB, within the kernel's bounds: reserves grow slower than memory."""
    lowmem_kbytes = sum(zone.managed_pages for zone in zones if _is_lowmem(zone)) << (_page_shift(zones) - 10)
    return min(max(isqrt(16 * lowmem_kbytes), MIN_FREE_KBYTES_MIN), MIN_FREE_KBYTES_MAX)


def setup_per_zone_wmarks(zones: Sequence[Zone], min_free_kbytes: int) -> None:
    """Set every zone's marks from its share of `min_free_kbytes`.

    Nobody allocates for the kernel's own emergencies from high memory, so such a zone keeps a token only; since 6.6
    that holds for Movable zones too.
    """
    pages_min = min_free_kbytes >> (_page_shift(zones) - 10)
    shared_pages = sum(zone.managed_pages for zone in zones if not _keeps_a_token(zone))
    for zone in zones:
        share = pages_min * zone.managed_pages // max(1, shared_pages)
        min_pages = token_min_pages(zone.managed_pages) if _keeps_a_token(zone) else share
        step = max(share // 4, zone.managed_pages * WATERMARK_SCALE_FACTOR // 10_000)
        zone.set_watermarks(min_pages, min_pages + step, min_pages + 2 * step)


def token_min_pages(managed_pages: int) -> int:
    """Return the min mark of a zone that keeps a token, in pages; one without pages has it too."""
    smallest, largest = HIGHMEM_MIN_PAGES
    return min(max(managed_pages // 1024, smallest), largest)


def _keeps_a_token(zone: Zone) -> bool:
    return zone.name == "HighMem" or (zone.name == "Movable" and zone.revision.movable_keeps_token)


def setup_per_zone_lowmem_reserve(zones: Sequence[Zone]) -> None:
    """Set `zone.lowmem_reserve[k]`: pages kept from requests that may use zones up to `ZONE_NAMES[k]`."""
    for zone in zones:
        node_pages = {other.name: other.managed_pages for other in zones if other.node == zone.node}
        zone.set_lowmem_reserve(lowmem_reserve(zone.name, node_pages))


def lowmem_reserve(name: str, node_pages: Mapping[str, int]) -> list[int]:
    """Return the reserve of a zone, from the managed pages of its node's zones by name."""
    own = ZONE_NAMES.index(name)
    ratio = LOWMEM_RESERVE_RATIO[name]
    reserve = [0] * len(ZONE_NAMES)
    for highest in range(own + 1, len(ZONE_NAMES)):
        above = sum(node_pages.get(other, 0) for other in ZONE_NAMES[own + 1 : highest + 1])
        reserve[highest] = above // ratio if ratio else 0
    return reserve


def _page_shift(zones: Sequence[Zone]) -> int:
    return zones[0].layout.page_shift


def _is_lowmem(zone: Zone) -> bool:
    return zone.name not in ("HighMem", "Movable")
