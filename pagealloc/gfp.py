"""What an allocation asks for: GFP flags (`include/linux/gfp_types.h`).

The kernel's `__GFP_X` is `GFP_X` here, because two leading underscores mean something else in Python. Flags
about file systems, accounting and the like, which change nothing in this allocator, are left out.
"""

from __future__ import annotations

from typing import Final

from pagealloc.mmzone import (
    ALLOC_HIGHATOMIC,
    ALLOC_KSWAPD,
    ALLOC_MIN_RESERVE,
    ALLOC_NON_BLOCK,
    WMARK_MIN,
    ZONE_NAMES,
)

GFP_DMA: Final = 0x01
GFP_HIGHMEM: Final = 0x02
GFP_DMA32: Final = 0x04
GFP_MOVABLE: Final = 0x08
GFP_RECLAIMABLE: Final = 0x10
GFP_HIGH: Final = 0x20
GFP_ZERO: Final = 0x100
GFP_DIRECT_RECLAIM: Final = 0x400
GFP_KSWAPD_RECLAIM: Final = 0x800
GFP_THISNODE: Final = 0x1000

GFP_RECLAIM: Final = GFP_DIRECT_RECLAIM | GFP_KSWAPD_RECLAIM
GFP_KERNEL: Final = GFP_RECLAIM
GFP_ATOMIC: Final = GFP_HIGH | GFP_KSWAPD_RECLAIM
GFP_NOWAIT: Final = GFP_KSWAPD_RECLAIM
GFP_USER: Final = GFP_RECLAIM
GFP_HIGHUSER_MOVABLE: Final = GFP_USER | GFP_HIGHMEM | GFP_MOVABLE
GFP_TRANSHUGE_LIGHT: Final = (GFP_HIGHUSER_MOVABLE & ~GFP_RECLAIM) | GFP_KSWAPD_RECLAIM
GFP_TRANSHUGE: Final = GFP_HIGHUSER_MOVABLE


_DMA, _DMA32, _NORMAL, _HIGHMEM, _MOVABLE = range(len(ZONE_NAMES))


def gfp_zone(gfp: int) -> int:
    """Return the highest zone that the request may use, as an index into `ZONE_NAMES`."""
    if gfp & GFP_DMA:
        return _DMA
    if gfp & GFP_DMA32:
        return _DMA32
    if gfp & GFP_HIGHMEM:
        return _MOVABLE if gfp & GFP_MOVABLE else _HIGHMEM
    return _NORMAL


def gfp_migratetype(gfp: int) -> int:
    """Return the migratetype of the request. Raises ValueError for both mobility flags at once."""
    migratetype = (gfp & (GFP_MOVABLE | GFP_RECLAIMABLE)) >> 3
    if migratetype > 2:
        raise ValueError(f"gfp {gfp:#x} is both GFP_MOVABLE and GFP_RECLAIMABLE, expected one at most")
    return migratetype


def gfp_to_alloc_flags(gfp: int, order: int) -> int:
    """Return the flags of the slow path: the min watermark, and the reserves that the request may use."""
    alloc_flags = WMARK_MIN
    if gfp & GFP_HIGH:
        alloc_flags |= ALLOC_MIN_RESERVE
    if gfp & GFP_KSWAPD_RECLAIM:
        alloc_flags |= ALLOC_KSWAPD
    if not gfp & GFP_DIRECT_RECLAIM:
        alloc_flags |= ALLOC_NON_BLOCK
        if order > 0 and gfp & GFP_HIGH:
            alloc_flags |= ALLOC_HIGHATOMIC
    return alloc_flags


# As the kernel's `%pGg` prints them: the composite names first, each as large as it fits.
_PRINTED = (
    ("GFP_HIGHUSER_MOVABLE", GFP_HIGHUSER_MOVABLE),
    ("GFP_KERNEL", GFP_KERNEL),
    ("GFP_ATOMIC", GFP_ATOMIC),
    ("GFP_NOWAIT", GFP_NOWAIT),
    ("GFP_DMA", GFP_DMA),
    ("__GFP_HIGHMEM", GFP_HIGHMEM),
    ("GFP_DMA32", GFP_DMA32),
    ("__GFP_HIGH", GFP_HIGH),
    ("__GFP_ZERO", GFP_ZERO),
    ("__GFP_THISNODE", GFP_THISNODE),
    ("__GFP_RECLAIMABLE", GFP_RECLAIMABLE),
    ("__GFP_MOVABLE", GFP_MOVABLE),
    ("__GFP_DIRECT_RECLAIM", GFP_DIRECT_RECLAIM),
)


def gfp_names(gfp: int) -> str:
    """Return the flags in words, as the kernel's trace events print them: GFP_KERNEL|__GFP_ZERO, or none."""
    names = []
    for name, flags in _PRINTED:
        if gfp & flags == flags:
            names.append(name)
            gfp &= ~flags
    if gfp:
        names.append(f"{gfp:#x}")
    return "|".join(names) or "none"
