"""Scenarios for migratetypes: requests that claim and steal, and pageblocks that change their types while free.

The rules are those of kernels since v6.10 and v6.14, and of the older ones where they differ: every scenario asks the
revision's fields. The recorded runs named are those of 6.12.
"""

from __future__ import annotations

from pagealloc.mmzone import (
    ALLOC_HIGHATOMIC,
    ALLOC_NOFRAGMENT,
    MIGRATE_HIGHATOMIC,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    MIGRATE_UNMOVABLE,
    Layout,
)
from pagealloc.zone import Zone
from stress.search.kit import Kit
from stress.search.scenarios.catalogue import scenario
from stress.search.scenarios.vectors import expect, expect_batches, expect_list, expect_types, one_pass
from workers.page_reporting import Batch, DeviceBusy, PageReporting, PageReportingDevice


def _three_pages_free(kit: Kit, *, lru: bool) -> int:
    """Leave one movable pageblock with three free pages: the first, and the third and fourth; returns its pfn.

    All else is in use; with `lru` the rest of that pageblock could be moved.
    """
    zone = kit.zones[0]
    block = kit.alloc_all(3)[0]
    for pfn, order in ((block, 0), (block + 2, 1)):
        zone.claim_range(pfn, order)
    for pfn in (block + 1, block + 4) if lru else ():
        zone.lru_add(pfn)
    kit.free(block, 0)
    kit.free(block + 2, 1)
    return block


# -- requests that find no block of their own type ---------------------------------------------------------------


@scenario
def vector_steal_leaves_the_rest(kit: Kit) -> None:
    """Steal from a pageblock that cannot be claimed: what is left of a split block stays its own (runs 51 and 96)."""
    kit.build(("Normal", 32))
    block = _three_pages_free(kit, lru=True)
    got = [kit.alloc(0, MIGRATE_UNMOVABLE), kit.alloc(0, MIGRATE_UNMOVABLE)]
    expect(kit, "vectors", "pages taken", got, [block, block + 2])
    stays = kit.revision.claim_then_steal
    expect_list(kit, 0, MIGRATE_MOVABLE, [block + 3] if stays else [])
    expect_list(kit, 0, MIGRATE_UNMOVABLE, [] if stays else [block + 3])
    expect_types(kit, [block], [MIGRATE_MOVABLE])


@scenario
def vector_claim_takes_the_smallest(kit: Kit) -> None:
    """Claim a pageblock for its larger free block, and take its smaller one (runs 51 and 103)."""
    kit.build(("Normal", 32))
    block = _three_pages_free(kit, lru=False)
    expect(kit, "vectors", "the page taken", kit.alloc(0, MIGRATE_UNMOVABLE), block)
    expect_types(kit, [block], [MIGRATE_UNMOVABLE])
    expect_list(kit, 1, MIGRATE_UNMOVABLE, [block + 2])


@scenario
def vector_failed_claims_boost_each(kit: Kit) -> None:
    """Refill from foreign lists: each try in vain boosts the marks, and what steals goes on stealing (run 97)."""
    kit.build(("Normal", 64), marks=(0, 0, 20), boost_factor=15_000)
    zone = kit.zones[0]
    block = _three_pages_free(kit, lru=True)
    got = zone.rmqueue_bulk(0, MIGRATE_UNMOVABLE, 2, 0)
    expect(kit, "vectors", "pages taken", got, [block, block + 2])
    pageblock = zone.layout.pageblock_nr_pages
    tries = 2 if kit.revision.claim_then_steal else 1
    expect(kit, "vectors", "the boost", zone.watermark_boost, tries * pageblock)


@scenario
def vector_the_smallest_zone_with_a_boost(kit: Kit) -> None:
    """Take from a foreign list in vain: the marks are boosted in a zone of four pageblocks, and not in one of three."""
    for nr_pages, boosted in ((32, True), (24, False)):
        kit.build(("Normal", nr_pages), marks=(0, 0, 20), boost_factor=15_000)
        zone = kit.zones[0]
        block = _three_pages_free(kit, lru=True)
        expect(kit, "vectors", "pages taken", zone.rmqueue_bulk(0, MIGRATE_UNMOVABLE, 1, 0), [block])
        expect(kit, "vectors", f"{nr_pages} pages are boosted", zone.watermark_boost > 0, boosted)


@scenario
def vector_no_fragment(kit: Kit) -> None:
    """Ask for a page without mixing types: a part of a foreign pageblock is no answer (run 100)."""
    kit.build(("Normal", 32))
    block = _three_pages_free(kit, lru=True)
    pfn = kit.zones[0].rmqueue_buddy(0, MIGRATE_UNMOVABLE, ALLOC_NOFRAGMENT)
    expect(kit, "vectors", "the page taken", pfn, -1)
    expect_list(kit, 0, MIGRATE_MOVABLE, [block])


@scenario
def claim_in_flight(kit: Kit) -> None:
    """Take from foreign lists what may be in flight or Reported, and free it again (runs 54, 117 and 118)."""
    kit.build(("Normal", 32), capacity=1)
    pfns = kit.alloc_all(3)
    kit.start()
    kit.free(pfns[0], 3)
    kit.free(pfns[2], 3)

    def other_type() -> None:
        first, second = kit.alloc(1, MIGRATE_UNMOVABLE), kit.alloc(2, MIGRATE_UNMOVABLE)
        kit.free(first, 1)
        kit.free(second, 2)

    kit.spawn("claim", other_type)
    kit.rest(all_reported=False)


# -- pageblocks that change their types --------------------------------------------------------------------------


@scenario
def vector_merge_retypes_the_neighbour(kit: Kit) -> None:
    """Free beside a free pageblock of another type: they are one block, of the type that was freed (run 101)."""
    kit.build(("Normal", 32))
    first, second, *_ = kit.alloc_all(3)
    kit.zones[0].set_block_type(first, MIGRATE_UNMOVABLE, move=False)
    kit.free(first, 3)
    kit.free(second, 3)
    expect_list(kit, 4, MIGRATE_MOVABLE, [first])
    retyped = kit.revision.list_type_is_block_type
    expect_types(kit, [first, second], [MIGRATE_MOVABLE if retyped else MIGRATE_UNMOVABLE, MIGRATE_MOVABLE])


@scenario
def vector_putback_retypes_the_neighbour(kit: Kit) -> None:
    """Put a block back beside one that was freed meanwhile: what is put back decides of the type (run 102)."""
    kit.build(("Normal", 64), capacity=1)
    zone = kit.zones[0]
    first, second, spare, *_ = kit.alloc_all(3)
    kit.free(spare, 3)  # without it the min mark would forbid taking the other
    kit.free(first, 3)

    def during(_zone: Zone, batch: Batch) -> None:
        del batch
        zone.set_block_type(second, MIGRATE_UNMOVABLE, move=False)
        kit.free(second, 3)

    kit.host.during = during
    kit.host.fail_calls = {1}  # which ends the pass: it would take the two again, and retype both
    one_pass(kit)
    retyped = kit.revision.list_type_is_block_type
    expect(kit, "vectors", "the two merge", zone.page_is_buddy(first, 4), True)
    expect_types(kit, [first, second], [MIGRATE_MOVABLE, MIGRATE_MOVABLE if retyped else MIGRATE_UNMOVABLE])
    kit.reporting.unregister(kit.device)


@scenario
def vector_large_free_in_pieces(kit: Kit) -> None:
    """Free what is larger than a pageblock: each pageblock goes by its own type (runs 106 and 107)."""
    kit.build(("Normal", 64))
    zone = kit.zones[0]
    mixed, apart, *_ = kit.alloc_all(4)
    zone.set_block_type(mixed, MIGRATE_UNMOVABLE, move=False)
    zone.set_block_type(apart, MIGRATE_HIGHATOMIC, move=False)
    kit.reporting.register(kit.device)
    kit.free(mixed, 4)
    kit.free(apart, 4)
    in_pieces = kit.revision.list_type_is_block_type
    expect_list(kit, 4, MIGRATE_MOVABLE if in_pieces else MIGRATE_UNMOVABLE, [mixed])
    expect_list(kit, 3, MIGRATE_HIGHATOMIC, [apart] if in_pieces else [])
    expect_list(kit, 3, MIGRATE_MOVABLE, [apart + 8] if in_pieces else [])
    expect_types(
        kit, [mixed, mixed + 8], [MIGRATE_MOVABLE if in_pieces else MIGRATE_UNMOVABLE, MIGRATE_MOVABLE]
    )
    kit.reporting.unregister(kit.device)


@scenario
def vector_rest_of_a_taken_block(kit: Kit) -> None:
    """Take half a pageblock for the reporter: the rest of it goes to the movable lists with it (runs 55 and 103)."""
    kit.build(("Normal", 64), capacity=1, order=2)
    zone = kit.zones[0]
    block, _, other, spare, *_ = kit.alloc_all(3)
    zone.set_block_type(block, MIGRATE_UNMOVABLE, move=False)
    for pfn, order in ((block, 2), (block + 4, 0), (other, 0), (spare, 1)):
        zone.claim_range(pfn, order)
        kit.free(pfn, order)
    one_pass(kit)
    expect_batches(kit, [[block]])
    expect_types(kit, [block], [MIGRATE_MOVABLE])
    moves = kit.revision.list_type_is_block_type
    expect_list(kit, 0, MIGRATE_MOVABLE, [other, block + 4] if moves else [other])
    expect_list(kit, 0, MIGRATE_UNMOVABLE, [] if moves else [block + 4])
    kit.reporting.unregister(kit.device)


@scenario
def withhold_and_give_back_twice_at_once(kit: Kit) -> None:
    """Two tasks withhold the same pageblock, and two give it back: one of each does, and it counts once (S5)."""
    # The largest block is a pageblock: since v6.10 nobody withholds a part of what is in flight.
    kit.build(("Normal", 32), capacity=1, layout=Layout(nr_orders=4, pageblock_order=3))
    zone = kit.zones[0]
    pfn = zone.start_pfn
    kit.start()
    done: list[bool] = []

    def withhold() -> None:
        done.append(zone.isolate_pageblock(pfn))

    def give_back() -> None:
        done.append(zone.unisolate_pageblock(pfn, MIGRATE_MOVABLE))

    for step in (withhold, give_back):
        for name in ("one", "other"):
            kit.spawn(name, step)
        kit.settle(all_reported=False)
        expect(kit, "S5", "who has done it", sorted(done), [False, True])
        done.clear()
    kit.rest(all_reported=False)


@scenario
def withhold_a_part(kit: Kit) -> None:
    """Withhold a pageblock inside a larger free block, which may be in flight, and give it back (runs 113 and 114)."""
    kit.build(("Normal", 64), capacity=1)
    zone = kit.zones[0]
    if not kit.revision.list_type_is_block_type:
        return  # the accounting of older kernels does not survive it, and their callers do not do it
    kit.alloc_nearly_all(4)
    pair = zone.start_pfn
    kit.free(pair, 4)
    kit.start()
    kit.settle()
    zone.isolate_pageblock(pair + 8)
    expect_list(kit, 3, MIGRATE_ISOLATE, [pair + 8])
    kit.spawn("take", lambda: kit.free(kit.alloc(2), 2))
    kit.spawn("give back", lambda: zone.unisolate_pageblock(pair + 8, MIGRATE_MOVABLE))
    kit.rest(all_reported=False)


# -- the high-atomic reserve, and the order of devices -----------------------------------------------------------


@scenario
def vector_high_atomic_limits(kit: Kit) -> None:
    """Reserve until the limit, and give one pageblock back: sizes of each kernel (runs 109, 110 and 112)."""
    kit.build(("Normal", 208), layout=Layout(nr_orders=5, pageblock_order=1))
    zone = kit.zones[0]
    pfns = [zone.rmqueue_buddy(order, MIGRATE_MOVABLE, ALLOC_HIGHATOMIC) for order in (2, 0, 2, 0)]
    large = 4 if kit.revision.list_type_is_block_type else 2  # what a request above a pageblock reserves
    limit = 2 if kit.revision.highatomic_whole_percent else 4
    expected = 0
    for size in (large, 2, large, 2):
        expected += size if expected < limit else 0
    expect(kit, "vectors", "pages reserved", zone.nr_reserved_highatomic, expected)
    kit.free(pfns[0], 2)
    zone.unreserve_highatomic(MIGRATE_UNMOVABLE, force=True)
    expect(kit, "vectors", "pages reserved then", zone.nr_reserved_highatomic, expected - large)
    expect_types(kit, [pfns[0]], [MIGRATE_UNMOVABLE])


@scenario
def vector_high_atomic_whole_percent(kit: Kit) -> None:
    """Reserve for a single page first: that is all of 1 % since v6.12, and leaves room for another before."""
    kit.build(("Normal", 208), layout=Layout(nr_orders=5, pageblock_order=1))
    zone = kit.zones[0]
    for order in (0, 2):
        zone.rmqueue_buddy(order, MIGRATE_MOVABLE, ALLOC_HIGHATOMIC)
    expected = 2 if kit.revision.highatomic_whole_percent else 4
    expect(kit, "vectors", "pages reserved", zone.nr_reserved_highatomic, expected)


@scenario
def vector_a_reserved_pageblock_keeps_its_type(kit: Kit) -> None:
    """Take a page of a reserved pageblock from another type's list: the pageblock stays reserved (before v6.10)."""
    if kit.revision.list_type_is_block_type:
        return  # such a page is on the reserve's own lists
    kit.build(("Normal", 64))
    zone = kit.zones[0]
    block = kit.alloc_all(3)[0]
    kit.free(block, 3)
    zone.set_block_type(block, MIGRATE_HIGHATOMIC, move=False)
    expect(kit, "vectors", "the page taken", kit.alloc(0, MIGRATE_UNMOVABLE), block)
    expect_types(kit, [block], [MIGRATE_HIGHATOMIC])


@scenario
def vector_isolation_leaves_the_reserve_out(kit: Kit) -> None:
    """Free pages of a reserved pageblock do not count for the min mark under which no block is taken (v6.13)."""
    if not kit.revision.highatomic_free_withheld:
        return  # whole reserved pageblocks do not count there, and this one only looks like one
    for usable_short in (False, True):
        kit.build(("Normal", 64), capacity=1)
        zone = kit.zones[0]
        reserved, whole, spare, *_ = kit.alloc_all(3)
        zone.set_block_type(reserved, MIGRATE_HIGHATOMIC, move=False)
        for pfn in (reserved, spare):
            zone.claim_range(pfn, 2)
            kit.free(pfn, 2)
        kit.free(whole, 3)
        # 16 pages are free, 4 of them reserved: 8 may go if more than the mark's stay, of 12 or of 16.
        zone.set_watermarks(4 if usable_short else 3, 0, 0)
        one_pass(kit)
        expect_batches(kit, [] if usable_short else [[whole]])
        kit.reporting.unregister(kit.device)
        kit.host.batches.clear()


@scenario
def vector_order_is_settled_once(kit: Kit) -> None:
    """Register a second device with an order of its own: kernels since v6.2 go by the first one's (run 116)."""
    kit.build(("Normal", 32), order=2)
    kit.reporting.register(kit.device)
    kit.reporting.unregister(kit.device)
    second = PageReportingDevice(kit.host, order=4, capacity=2, name="second")
    expected = 2 if kit.revision.order_settled_once else 4
    expect(kit, "vectors", "the second device's order", kit.reporting.register(second), expected)
    kit.reporting.unregister(second)


@scenario
def vector_the_next_device_is_another_one(kit: Kit) -> None:
    """Register another device, with batches of another size, and then one at another core: each gets its own."""
    kit.build(("Normal", 64), capacity=4)
    pfns = kit.alloc_nearly_all(3)
    first, second, third = pfns[:6:2]
    kit.free(first, 3)
    one_pass(kit)
    kit.reporting.unregister(kit.device)
    kit.free(second, 3)
    kit.free(third, 3)
    small = PageReportingDevice(kit.host, capacity=1, name="small")
    kit.reporting.register(small)
    kit.reporting.run_now()
    sizes = {len(blocks) for blocks in kit.host.taken}
    expect(kit, "vectors", "sizes of the batches", sizes, {1})
    kit.reporting.unregister(small)
    core = PageReporting(kit.memory.zones, kit.revision, kit.sync, kit.workqueue)
    core.register(small)
    asked = [getattr(zone.page_reporting_notify, "__self__", None) is core for zone in kit.memory.zones]
    expect(kit, "vectors", "whether frees ask the second core", asked, [True])
    core.unregister(small)


@scenario
def vector_who_is_refused_settles_no_order(kit: Kit) -> None:
    """Refuse a device because another core has the zones: what it asked for does not bind the one that comes next."""
    kit.build(("Normal", 32), order=2)
    kit.reporting.register(kit.device)
    other = PageReporting(kit.memory.zones, kit.revision, kit.sync, kit.workqueue)
    refused = False
    try:
        other.register(PageReportingDevice(kit.host, order=3, name="refused"))
    except DeviceBusy:
        refused = True
    expect(kit, "vectors", "the second core's device is refused", refused, True)
    kit.reporting.unregister(kit.device)
    later = PageReportingDevice(kit.host, order=4, name="later")
    expect(kit, "vectors", "the order of the device that comes later", other.register(later), 4)
    other.unregister(later)
