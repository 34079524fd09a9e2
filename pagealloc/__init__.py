"""A buddy page allocator with zones, real locks and real memory, equal to Linux's entry for entry.

    from pagealloc import GFP_KERNEL, Memory, ZoneSpec

    with Memory([ZoneSpec("Normal", nr_pages=16384)]) as memory:
        pfn = memory.alloc_pages(GFP_KERNEL, order=3)
        memory.view(pfn, 3)[:5] = b"hello"
        memory.free_pages(pfn, 3)

`Memory` is the front; `Zone` is what locks and lists live in; `Revision` says which kernel a memory follows.
"""

from __future__ import annotations

from pagealloc import buddy
from pagealloc.errors import (
    AnotherProcess,
    BadPage,
    CorruptPageSet,
    DoubleFree,
    ForeignPfn,
    MemoryClosed,
    NotAllocated,
    NotInFlight,
    NotUnreported,
    PageAllocError,
    PageInFlight,
    PageOnPageSet,
    RamError,
    TornZone,
    UnalignedPfn,
    WrongOrder,
    ZoneBusy,
)
from pagealloc.gfp import (
    GFP_ATOMIC,
    GFP_DMA,
    GFP_DMA32,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    GFP_MOVABLE,
    GFP_NOWAIT,
    GFP_RECLAIMABLE,
    GFP_TRANSHUGE,
    GFP_TRANSHUGE_LIGHT,
    GFP_USER,
    GFP_ZERO,
)
from pagealloc.memory import Memory, ZoneSpec
from pagealloc.mmzone import PAGE_SIZE, Layout
from pagealloc.ram import Ram
from pagealloc.revision import PRESETS, Revision
from pagealloc.sync import Sync
from pagealloc.sync_real import RealSync
from pagealloc.validate import Census, validate
from pagealloc.zone import Zone

__version__ = "0.1.0"

COMPILED = not buddy.__file__.endswith(
    ".py"
)  # whether this is the compiled build of floor 1 (hatch_build.py)

__all__ = [
    "COMPILED",
    "GFP_ATOMIC",
    "GFP_DMA",
    "GFP_DMA32",
    "GFP_HIGHUSER_MOVABLE",
    "GFP_KERNEL",
    "GFP_MOVABLE",
    "GFP_NOWAIT",
    "GFP_RECLAIMABLE",
    "GFP_TRANSHUGE",
    "GFP_TRANSHUGE_LIGHT",
    "GFP_USER",
    "GFP_ZERO",
    "PAGE_SIZE",
    "PRESETS",
    "AnotherProcess",
    "BadPage",
    "Census",
    "CorruptPageSet",
    "DoubleFree",
    "ForeignPfn",
    "Layout",
    "Memory",
    "MemoryClosed",
    "NotAllocated",
    "NotInFlight",
    "NotUnreported",
    "PageAllocError",
    "PageInFlight",
    "PageOnPageSet",
    "Ram",
    "RamError",
    "RealSync",
    "Revision",
    "Sync",
    "TornZone",
    "UnalignedPfn",
    "WrongOrder",
    "Zone",
    "ZoneBusy",
    "ZoneSpec",
    "validate",
]
