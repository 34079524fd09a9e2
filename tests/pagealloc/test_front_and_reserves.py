"""Page sets stand in front of the reserves, not in their way."""

from __future__ import annotations

import gc

from pagealloc import GFP_ATOMIC, GFP_KERNEL, Layout, Memory, RealSync, ZoneSpec
from pagealloc.mmzone import MIGRATE_HIGHATOMIC
from pagealloc.revision import V6_1

SMALL = Layout(nr_orders=6, pageblock_order=4)


def build(*specs: ZoneSpec) -> Memory:
    # Kernels since 6.12 have no high-atomic reserve in zones as small as these.
    memory = Memory(specs or [ZoneSpec("Normal", 512)], layout=SMALL, revision=V6_1, ram=None)
    for zone in memory.zones:
        zone.set_watermarks(0, 0, 0)
    return memory


def test_an_urgent_page_comes_out_of_the_reserve_when_its_page_set_is_empty() -> None:
    memory = build()
    zone = memory.zones[0]
    first = zone.rmqueue_buddy(4, 1)
    while zone.rmqueue_buddy(0, 1) >= 0:
        pass
    zone.set_block_type(first, MIGRATE_HIGHATOMIC, move=False)
    zone.free_pages_ok(first, 4)
    assert memory.alloc_pages(GFP_ATOMIC) is not None


def test_an_urgent_block_from_a_page_set_reserves_its_pageblock() -> None:
    memory = build()
    zone = memory.zones[0]
    zone.set_watermarks(400, 511, 511)  # the fast path fails, so the request counts as urgent
    assert memory.page_sets is not None
    assert memory.page_sets.holds(2)
    pfn = memory.alloc_pages(GFP_ATOMIC, 2)
    assert pfn is not None
    assert zone.nr_reserved_highatomic == SMALL.pageblock_nr_pages
    assert zone.pageblock_migratetype(pfn) == MIGRATE_HIGHATOMIC


def test_a_request_fragments_its_own_node_before_it_goes_to_another() -> None:
    memory = build(ZoneSpec("DMA32", 64), ZoneSpec("Normal", 64), ZoneSpec("Normal", 64, node=1))
    normal = memory.zones[1]
    pfns = []
    while (pfn := normal.rmqueue_buddy(3, 1)) >= 0:
        pfns.append(pfn)
    normal.free_pages_ok(pfns[0], 3)  # half a movable pageblock is all that is left here
    while memory.zones[0].rmqueue_buddy(3, 1) >= 0:
        pass
    got = memory.alloc_pages(GFP_KERNEL, 3)
    assert got is not None
    assert memory.zone_of(got) is normal


def test_the_zone_that_is_common_is_used_before_the_scarce_one_whatever_their_addresses() -> None:
    memory = build(ZoneSpec("Normal", 64), ZoneSpec("DMA32", 64))
    got = memory.alloc_pages(GFP_KERNEL, 3)
    assert got is not None
    assert memory.zone_of(got).name == "Normal"


def test_a_memory_that_is_garbage_is_collected_inside_its_own_zone_lock() -> None:
    """The collector may run anywhere; the page sets of what nobody uses any more take no lock."""
    memory = build()
    zone = memory.zones[0]
    assert memory.alloc_pages(GFP_KERNEL) is not None
    sync = RealSync()
    done = sync.event("done")
    del memory

    def collect() -> None:
        zone.lock.acquire()
        gc.collect()
        zone.lock.release()
        done.set()

    thread = sync.spawn("collector", collect)
    assert done.wait(20.0), "the collector waits for the lock that it runs under"
    assert thread.join(20.0)
