"""Names and sizes shared by the whole allocator (`include/linux/mmzone.h`, `gfp.h`, `mm/internal.h`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT  # bytes
PAGE_SHIFT_MAX: Final = 16  # arm64's and powerpc's largest pages

# Migratetypes, in the order in which a pass of the reporting worker visits their lists.
MIGRATE_UNMOVABLE: Final = 0
MIGRATE_MOVABLE: Final = 1
MIGRATE_RECLAIMABLE: Final = 2
MIGRATE_PCPTYPES: Final = 3  # the types below this one can be on page sets, and merge with each other
MIGRATE_HIGHATOMIC: Final = 3
MIGRATE_ISOLATE: Final = 4
MIGRATE_TYPES: Final = 5

# Watermarks: indices into a zone's marks.
WMARK_MIN: Final = 0
WMARK_LOW: Final = 1
WMARK_HIGH: Final = 2

# Allocation flags of the zone level; the low two bits are a watermark's index.
ALLOC_WMARK_MASK: Final = 0x03
ALLOC_OOM: Final = 0x08
ALLOC_NON_BLOCK: Final = 0x10
ALLOC_MIN_RESERVE: Final = 0x20
ALLOC_NOFRAGMENT: Final = 0x100
ALLOC_HIGHATOMIC: Final = 0x200
ALLOC_KSWAPD: Final = 0x800
ALLOC_RESERVES: Final = ALLOC_NON_BLOCK | ALLOC_MIN_RESERVE | ALLOC_OOM
ALLOC_HIGHATOMIC_LISTS: Final = (
    ALLOC_HIGHATOMIC | ALLOC_NON_BLOCK | ALLOC_OOM
)  # may take from high-atomic pageblocks

# Flags of a free ("free page internal", `fpi_t`).
FPI_SKIP_REPORT_NOTIFY: Final = 1
FPI_TO_TAIL: Final = 2

# Zones of one node from the scarcest to the most common; an allocation falls back to the left.
ZONE_NAMES = ("DMA", "DMA32", "Normal", "HighMem", "Movable")

ORDERS_MAX: Final = 16  # an order fits four bits of a frame's state byte


@dataclass(frozen=True, slots=True)
class Layout:
    """Block sizes of a memory: orders 0 .. `nr_orders` - 1, pageblocks of 2**`pageblock_order` pages.

    A page has 2**`page_shift` bytes. The defaults are x86-64's; arm64 with pages of 64 KiB has 14, 13 and 16. Raises
    ValueError for sizes that no kernel could be built with.
    """

    nr_orders: int = 11
    pageblock_order: int = 9
    page_shift: int = PAGE_SHIFT

    def __post_init__(self) -> None:
        if not 2 <= self.nr_orders <= ORDERS_MAX:
            raise ValueError(f"nr_orders is {self.nr_orders}, expected 2 .. {ORDERS_MAX}")
        if not 1 <= self.pageblock_order < self.nr_orders:
            raise ValueError(
                f"pageblock_order is {self.pageblock_order}, expected 1 .. {self.nr_orders - 1} "
                "(a pageblock is no larger than the largest block)"
            )

        if not PAGE_SHIFT <= self.page_shift <= PAGE_SHIFT_MAX:
            raise ValueError(f"page_shift is {self.page_shift}, expected {PAGE_SHIFT} .. {PAGE_SHIFT_MAX}")

    @property
    def page_size(self) -> int:
        return 1 << self.page_shift

    @property
    def top_order(self) -> int:
        return self.nr_orders - 1

    @property
    def pageblock_nr_pages(self) -> int:
        return 1 << self.pageblock_order
