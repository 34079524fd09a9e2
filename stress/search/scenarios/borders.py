"""Scenarios of one task at borders: of zones, pageblocks and nodes, and of the orders that a block may have.

The rules are those of `move_freepages_block`, `find_buddy_page_pfn`, `alloc_flags_nofragment` and
`page_reporting_register`.
"""

from __future__ import annotations

from contextlib import suppress

from pagealloc.errors import BadPage, ForeignPfn
from pagealloc.gfp import GFP_KERNEL
from pagealloc.memory import Memory, ZoneSpec
from pagealloc.mmzone import ALLOC_NOFRAGMENT, MIGRATE_MOVABLE, MIGRATE_UNMOVABLE
from pagealloc.ram import Ram
from stress.search.kit import LAYOUT, Kit
from stress.search.scenarios.catalogue import scenario
from stress.search.scenarios.vectors import expect, expect_list, expect_types
from workers.page_reporting import PageReportingDevice


@scenario
def vector_the_last_pageblock_of_a_zone(kit: Kit) -> None:
    """Retype a zone's last pageblock: a whole one moves its pages, one that the zone's end cuts off moves none."""
    kit.build(("Normal", 36))
    zone = kit.zones[0]
    cut_off, whole = zone.start_pfn + 32, zone.start_pfn + 24
    moved = zone.set_block_type(cut_off, MIGRATE_UNMOVABLE, move=True)
    expect(kit, "vectors", "pages moved of a pageblock that is cut off", moved, 0)
    stays = kit.revision.list_type_is_block_type
    expect_types(kit, [whole, cut_off], [MIGRATE_MOVABLE, MIGRATE_MOVABLE if stays else MIGRATE_UNMOVABLE])
    kit.build(("Normal", 32))
    zone = kit.zones[0]
    last = zone.end_pfn - 8
    kit.alloc_all(3)
    kit.free(last, 3)
    moved = zone.set_block_type(last, MIGRATE_UNMOVABLE, move=True)
    expect(kit, "vectors", "pages moved of a whole pageblock", moved, 8)
    expect_list(kit, 3, MIGRATE_UNMOVABLE, [last])


@scenario
def vector_a_parent_in_the_zone_below(kit: Kit) -> None:
    """Free a zone's first block whose parent's buddy is free in the zone below: it is kept back, at the tail."""
    kit.build(("DMA32", 12), ("Normal", 36))
    below, zone = kit.zones
    first = zone.start_pfn
    # The parent begins with the last four pages of the zone below; the pageblock in front of them is its buddy.
    expect(kit, "vectors", "the buddy of the parent is free", below.page_is_buddy(first - 12, 3), True)
    kit.alloc_all(2, zone=1)
    for pfn in (first + 8, first):
        zone.set_block_type(pfn, MIGRATE_UNMOVABLE, move=False)
        kit.free(pfn, 2)
    found = list(zone.list_pfns(2, MIGRATE_UNMOVABLE))
    expect(kit, "vectors", "list 2.0 of the upper zone", found, [first + 8, first])


@scenario
def vector_the_kept_back_block(kit: Kit) -> None:
    """Free a block whose parent's buddy is free: it is kept back, at the tail, if the parent could merge further."""
    for order in range(LAYOUT.nr_orders - 1):
        kit.build(("Normal", 128))
        first, _, aunt, other_aunt, *others = kit.alloc_all(order)
        kit.free(others[4], order)
        for pfn in (aunt, other_aunt):  # together the parent's buddy
            kit.free(pfn, order)
        kit.free(first, order)
        kept_back = order + 1 < LAYOUT.top_order  # or the parent is as large as a block may be
        expected = [others[4], first] if kept_back else [first, others[4]]
        expect_list(kit, order, MIGRATE_MOVABLE, expected)


@scenario
def no_block_over_the_border(kit: Kit) -> None:
    """Name a block of which half lies in the next zone: that is an error, and nobody gets at the other half (S2)."""
    kit.build(("DMA32", 36), ("Normal", 28))
    memory, below = kit.memory, kit.zones[0]
    memory.ram = Ram(below.start_pfn, 64)
    over = below.end_pfn - 4
    for what, name in (
        ("view", lambda: memory.view(over, 3)),
        ("claim", lambda: below.claim_range(over, 3)),
    ):
        raised = "none"
        try:
            name()
        except BadPage as error:
            raised = type(error).__name__
        expect(kit, "S2", f"the error for a {what} over the border", raised, ForeignPfn.__name__)
    memory.close()


@scenario
def vector_nodes_without_dma32(kit: Kit) -> None:
    """Of several nodes, one without DMA32 mixes types in Normal before it goes to DMA, whatever other nodes have."""
    specs = [ZoneSpec("DMA", 32), ZoneSpec("Normal", 32), ZoneSpec("DMA32", 32, 1), ZoneSpec("Normal", 32, 1)]
    memory = Memory(specs, layout=LAYOUT, revision=kit.revision, sync=kit.sync, ram=None, page_sets=False)
    for zone in memory.zones:
        zone.set_watermarks(0, 0, 0)
    dma, normal, *_ = memory.zones
    pieces = [normal.rmqueue_buddy(2, MIGRATE_MOVABLE) for _ in range(8)]
    for pfn in pieces[::2]:  # half of each pageblock: unmovable pages there would be beside movable ones
        normal.free_pages_ok(pfn, 2)
    memory.alloc_pages(GFP_KERNEL, 0, 0)
    expect(
        kit, "vectors", "free pages of DMA and Normal", (dma.nr_free_pages, normal.nr_free_pages), (32, 15)
    )


@scenario
def vector_no_fragment_of_large_orders(kit: Kit) -> None:
    """Ask for more than a pageblock without mixing types: what is smaller is no answer, and stays as it is."""
    kit.build(("Normal", 64))
    block = kit.alloc_all(3)[0]
    kit.free(block, 3)
    pfn = kit.zones[0].rmqueue_buddy(4, MIGRATE_UNMOVABLE, ALLOC_NOFRAGMENT)
    expect(kit, "vectors", "the block taken", pfn, -1)
    expect_list(kit, 3, MIGRATE_MOVABLE, [block])


@scenario
def vector_an_order_that_no_block_has(kit: Kit) -> None:
    """Register for one order more than there are: refused, and since v6.2 replaced by that of a pageblock."""
    kit.build(("Normal", 32))
    device = PageReportingDevice(kit.host, order=LAYOUT.nr_orders, capacity=2, name="too large")
    order = None
    with suppress(ValueError):
        order = kit.reporting.register(device)
    expected = LAYOUT.pageblock_order if kit.revision.order_settled_once else None
    expect(kit, "vectors", "the order of the device", order, expected)
    kit.reporting.unregister(device)
