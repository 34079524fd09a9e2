"""The state of a page frame in one byte.

Bits 0..3 hold the order of the block that the frame heads (`page->private` of a buddy page). Bits 4..6 say
what the block is; every frame of a zone belongs to exactly one block, and the frames behind a head are
TAIL. Bit 7 is the kernel's PG_uptodate, which on the head of a free block means **Reported**: the host has
been told. The alias is the kernel's own (`include/linux/page-flags.h`), and so is its danger: an owner may
set Uptodate on a page it holds, so a page that is freed must be scrubbed of it before it becomes Buddy.

The numbers are Final, here and in `mmzone` and `gfp`: a compiled build has them where an interpreter looks up names.
"""

from __future__ import annotations

from typing import Final

ORDER_MASK: Final = 0x0F
KIND_MASK: Final = 0x70

TAIL: Final = 0x00  # a frame inside a block; its head speaks for it
BUDDY: Final = 0x10  # a free block on one of the zone's free lists
ALLOCATED: Final = 0x20  # a block that somebody owns
LRU: Final = 0x30  # owned, and on an LRU list: could be moved or reclaimed
ON_PAGE_SET: Final = 0x40  # free, resting on a thread's page set
IN_FLIGHT: Final = 0x50  # isolated from the free lists; the reporter owns it
OFFLINE: Final = 0x60  # not a frame of this zone

BLOCK_MASK: Final = KIND_MASK | ORDER_MASK  # what a block is, Reported or not

UPTODATE: Final = 0x80
REPORTED: Final = UPTODATE

# `state & OWNED_MASK == ALLOCATED | order` holds for an owned block of that order, on an LRU list or not,
# uptodate or not: one test on the way of every free.
OWNED_MASK: Final = 0x6F

KIND_NAMES = {
    TAIL: "inside another block",
    BUDDY: "free on a free list",
    ALLOCATED: "allocated",
    LRU: "allocated, on an LRU list",
    ON_PAGE_SET: "free on a page set",
    IN_FLIGHT: "in flight to the reporter",
    OFFLINE: "not a frame of this zone",
}


def describe(state: int) -> str:
    """Say in words what a head's state byte means."""
    kind = state & KIND_MASK
    if kind in (TAIL, OFFLINE):
        return KIND_NAMES[kind]
    flag = ("; Reported" if kind == BUDDY else "; Uptodate") if state & UPTODATE else ""
    return f"{KIND_NAMES[kind]} (order {state & ORDER_MASK}{flag})"
