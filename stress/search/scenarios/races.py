"""Scenarios with several tasks: the orders in which they can meet are what is searched."""

from __future__ import annotations

from functools import partial

from pagealloc.inventory import set_uptodate
from pagealloc.mmzone import MIGRATE_MOVABLE, MIGRATE_RECLAIMABLE, MIGRATE_UNMOVABLE, Layout
from pagealloc.zone import Zone
from stress.search.kit import Kit
from stress.search.scenarios.catalogue import scenario
from workers.page_reporting import Batch, DeviceBusy, PageReportingDevice


@scenario
def free_the_buddy(kit: Kit) -> None:
    """Free the buddy of a block that is in flight: they may merge only when it is back, unreported."""
    kit.build(("Normal", 64))
    first, second = kit.alloc(3), kit.alloc(3)
    kit.start()
    kit.spawn("free", lambda: kit.free(first, 3), lambda: kit.free(second, 3))
    kit.rest()


@scenario
def allocate_the_rotated(kit: Kit) -> None:
    """Allocate what the worker would go on with, while the lock is dropped."""
    kit.build(("Normal", 64), capacity=1)
    pfns = kit.alloc_all(3)
    for pfn in pfns[::2]:
        kit.free(pfn, 3)
    kit.start()
    kit.spawn("alloc", lambda: kit.free(kit.alloc(3), 3))
    kit.spawn("take", lambda: kit.alloc(3))
    kit.rest()


@scenario
def retag_in_flight(kit: Kit) -> None:
    """Change the type of a pageblock whose page is in flight: it must come back on the new type's list."""
    # The largest block is a pageblock: no kernel since v6.10 retypes a part of what is in flight.
    kit.build(("Normal", 32), layout=Layout(nr_orders=4, pageblock_order=3))
    zone = kit.zones[0]
    kit.start()
    pfn = zone.start_pfn
    kit.spawn("retag", lambda: zone.set_block_type(pfn, MIGRATE_RECLAIMABLE, move=True))
    kit.rest()


@scenario
def isolate_in_flight(kit: Kit) -> None:
    """Withhold a pageblock while its page is in flight, and give it back: no page may be counted twice."""
    kit.build(("Normal", 32), capacity=1)
    zone = kit.zones[0]
    pfns = kit.alloc_all(3)
    kit.start()
    kit.free(pfns[0], 3)
    kit.free(pfns[2], 3)
    pfn = pfns[0]
    kit.spawn(
        "isolate",
        lambda: zone.isolate_pageblock(pfn),
        lambda: zone.unisolate_pageblock(pfn, MIGRATE_MOVABLE),
    )
    kit.rest(all_reported=False)


@scenario(also_in_two_zones=True)
def every_call_may_fail(kit: Kit) -> None:
    """Let each report call fail or succeed: a failed batch goes back unflagged, and nothing is lost."""
    kit.build(("Normal", 64))
    pfns = kit.alloc_all(3)
    kit.host.may_fail = True
    for pfn in pfns[::2]:
        kit.free(pfn, 3)
    kit.start()
    kit.spawn("free", lambda: kit.free(pfns[1], 3))
    kit.rest(all_reported=False)


@scenario(also_in_two_zones=True)
def failure_is_retried(kit: Kit) -> None:
    """Fail the first call: a later free must bring a pass that reports everything (L8)."""
    kit.build(("Normal", 64))
    pfns = kit.alloc_all(3)
    for pfn in pfns[1::2]:
        kit.free(pfn, 3)
    kit.host.fail_calls = {1}
    kit.start()
    kit.settle(all_reported=False)
    kit.forgive_errors()
    kit.spawn("free", lambda: kit.free(pfns[0], 3))
    kit.rest()


@scenario(also_in_two_zones=True)
def notify_at_the_end(kit: Kit) -> None:
    """Free at every instant around the end of a pass: the request may not be lost (L1)."""
    kit.build(("Normal", 32), capacity=1)
    pfns = kit.alloc_nearly_all(3)
    kit.start()
    kit.spawn("first", lambda: kit.free(pfns[0], 3))
    kit.spawn("second", lambda: kit.free(pfns[2], 3))
    kit.rest()


@scenario
def notify_without_a_delay(kit: Kit) -> None:
    """Free around the end of a pass that begins as soon as it is asked for: a delay of 0 is a delay (L1)."""
    kit.build(("Normal", 32), capacity=1, delay_s=0.0)
    pfns = kit.alloc_nearly_all(3)
    kit.start()
    kit.sync.await_idle()
    kit.spawn("first", lambda: kit.free(pfns[0], 3))
    kit.spawn("second", lambda: kit.free(pfns[2], 3))
    kit.rest()


@scenario
def notify_from_two_zones(kit: Kit) -> None:
    """Two zones notify at once, under two locks: one pass is armed, and both are served."""
    kit.build(("DMA32", 32), ("Normal", 32), capacity=1)
    low, high = kit.alloc_nearly_all(3, zone=0), kit.alloc_nearly_all(3, zone=1)
    kit.start()
    kit.spawn("low", lambda: kit.free(low[0], 3))
    kit.spawn("high", lambda: kit.free(high[0], 3))
    kit.rest()


@scenario(also_in_two_zones=True)
def unregister_at_any_time(kit: Kit) -> None:
    """Unregister at every instant, then register again: no call after the return, and it works again."""
    kit.build(("Normal", 32), capacity=1)
    pfns = kit.alloc_nearly_all(3)
    kit.start()

    def leave_and_return() -> None:
        kit.reporting.unregister(kit.device)
        kit.oracle.retired = True
        kit.tick()
        kit.oracle.retired = False
        kit.reporting.register(kit.device)

    kit.spawn("leave", leave_and_return)
    kit.spawn("free", lambda: kit.free(pfns[0], 3))
    # A free while nobody is registered tells nobody, and the first pass may come before the device is
    # published: that block may wait. The next free may not.
    kit.settle(all_reported=False)
    kit.spawn("free again", lambda: kit.free(pfns[2], 3))
    kit.rest()


@scenario(also_in_two_zones=True)
def two_devices(kit: Kit) -> None:
    """Two devices want to register: one does, the other is refused without a trace."""
    kit.build(("Normal", 32), capacity=1)
    kit.workqueue.start()
    other = PageReportingDevice(kit.host, capacity=1, name="other")
    busy: list[str] = []

    def register(device: PageReportingDevice) -> None:
        try:
            kit.reporting.register(device)
        except DeviceBusy:
            busy.append(device.name)

    kit.spawn("one", lambda: register(kit.device))
    kit.spawn("other", lambda: register(other))
    kit.settle()
    kit.expect(len(busy) == 1, "S22", lambda: f"of two devices {busy} were refused, expected one")
    registered = kit.reporting.device
    kit.oracle.expect(registered is not None, "S22", lambda: "nobody is registered")
    kit.reporting.unregister(registered or kit.device)
    kit.oracle.retired = True
    kit.stop()


@scenario
def two_zones(kit: Kit) -> None:
    """Two zones with partial batches: each is reported by itself, and put back under its own lock."""
    kit.build(("DMA32", 64), ("Normal", 64), capacity=3)
    low = kit.alloc(3, zone=0)
    kit.start()
    kit.spawn("low", lambda: kit.free(low, 3))
    kit.spawn("high", lambda: kit.free(kit.alloc(4, zone=1), 4))
    kit.rest()


@scenario
def two_adjacent(kit: Kit) -> None:
    """Two buddies in one batch, one of them freed in two halves: the second one back merges with the first."""
    kit.build(("Normal", 64), capacity=4)
    zone = kit.zones[0]
    first, second = kit.alloc(4), kit.alloc(4)
    zone.claim_range(first, 3)
    kit.start()
    kit.spawn(
        "halves",
        lambda: kit.free(first, 3),
        lambda: kit.free(first + 8, 3),
    )
    kit.spawn("whole", lambda: kit.free(second, 4))
    kit.rest()


@scenario
def burst_then_silence(kit: Kit) -> None:
    """Free more than one pass may take, then nothing: passes go on until all is reported, and end (L2, L3)."""
    kit.build(("Normal", 128), capacity=1)
    pfns = kit.alloc_nearly_all(3)
    kit.start()
    kit.spawn("burst", *(lambda pfn=pfn: kit.free(pfn, 3) for pfn in pfns[::2]))
    kit.rest()


@scenario
def budget_needs_several_passes(kit: Kit) -> None:
    """Nothing is freed after the first pass: the budget's own request must bring the others."""
    kit.build(("Normal", 128), capacity=1)
    pfns = kit.alloc_all(3)
    for pfn in pfns[::2]:
        kit.free(pfn, 3)
    kit.start()
    kit.settle()
    passes = kit.reporting.stats.passes
    blocks = len(pfns[::2])
    expected = (
        -(-blocks // 2) if kit.revision.budget else 1
    )  # ceil(8 / 16) + 1 calls a visit, of one block each
    kit.expect(passes == expected, "L2", lambda: f"{passes} passes for {blocks} blocks, expected {expected}")
    kit.reporting.unregister(kit.device)
    kit.oracle.retired = True
    kit.stop()


@scenario
def watermark_edge(kit: Kit) -> None:
    """Allocate around the marks while the worker isolates: never below min, and never without the room."""
    kit.build(("Normal", 64), capacity=2, marks=(20, 24, 28))
    kit.start()
    kit.spawn("alloc", lambda: kit.alloc(3), lambda: kit.alloc(0))
    kit.rest(all_reported=False)


@scenario
def split_and_merge(kit: Kit) -> None:
    """Split a Reported block and merge it again: its parts were never reported, nor was the new whole."""
    kit.build(("Normal", 32))
    kit.start()
    kit.settle()

    def take_a_part() -> None:
        pfn = kit.alloc(2)
        kit.tick()
        kit.free(pfn, 2)

    kit.spawn("part", take_a_part)
    kit.spawn("whole", lambda: kit.free(kit.alloc(3), 3))
    kit.rest()


@scenario
def the_reporter_allocates(kit: Kit) -> None:
    """Allocate and free inside the report call: no lock may be held there."""
    kit.build(("Normal", 64), capacity=1)

    def during(zone: Zone, batch: Batch) -> None:
        del zone, batch
        if len(kit.host.batches) > 2:
            return  # each free asks for one more pass: without end, there would be none
        pfn = kit.alloc(0)
        kit.tick()
        kit.free(pfn, 0)

    kit.host.during = during
    kit.start()
    kit.spawn("alloc", lambda: kit.free(kit.alloc(3), 3))
    kit.rest(all_reported=False)


@scenario(also_in_two_zones=True)
def slow_host(kit: Kit) -> None:
    """The host takes its time: everything else goes on meanwhile."""
    kit.build(("Normal", 64), capacity=2)
    kit.host.sleeps_s = 1.0
    first = kit.alloc(3)
    kit.start()
    kit.spawn("free", lambda: kit.free(first, 3))
    kit.spawn("alloc", lambda: kit.free(kit.alloc(4), 4))
    kit.rest()


@scenario(also_in_two_zones=True)
def no_memory_for_the_worker(kit: Kit) -> None:
    """The worker finds no memory for its scatterlist: the pass is lost, and nothing else is."""
    kit.build(("Normal", 32), capacity=1)
    pfns = kit.alloc_nearly_all(3)
    kit.scatterlists_fail = True
    kit.start()
    kit.settle(all_reported=False)
    kit.scatterlists_fail = False
    kit.spawn("free", lambda: kit.free(pfns[0], 3))
    kit.rest()


@scenario
def split_what_is_freed(kit: Kit) -> None:
    """Two owners of the halves of a block split it, and free what they have: no half is handed out again (S2)."""
    kit.build(("Normal", 64), capacity=1)
    zone, pfn = kit.zones[0], kit.alloc(3)
    kit.start()
    for half in (pfn, pfn + 4):
        kit.spawn(
            f"free {half:#x}",
            partial(zone.claim_range, half, 2),
            partial(kit.free, half, 2),
        )
    kit.rest()


@scenario
def uptodate_owner(kit: Kit) -> None:
    """An owner sets Uptodate, the alias of Reported, and frees: the page must not pass for reported."""
    kit.build(("Normal", 32), capacity=1)
    zone = kit.zones[0]
    pfns = kit.alloc_nearly_all(3)
    kit.world.lockless_writes = True  # the owner's flag
    kit.start()

    def mark_and_free() -> None:
        set_uptodate(zone, pfns[0])
        kit.tick()
        kit.free(pfns[0], 3)

    kit.spawn("owner", mark_and_free)
    kit.rest()


@scenario
def mixed_types(kit: Kit) -> None:
    """Unmovable and movable blocks on different lists, with stealing: taking a block turns it movable."""
    kit.build(("Normal", 32), capacity=1)
    pfns = [kit.alloc(2, MIGRATE_UNMOVABLE), kit.alloc(3, MIGRATE_MOVABLE), kit.alloc(3, MIGRATE_UNMOVABLE)]
    kit.start()
    kit.spawn("unmovable", lambda: kit.free(pfns[0], 2), lambda: kit.free(pfns[2], 3))
    kit.spawn("movable", lambda: kit.free(pfns[1], 3), lambda: kit.free(kit.alloc(1, MIGRATE_UNMOVABLE), 1))
    kit.rest(all_reported=False)


@scenario
def free_while_the_lists_look_empty(kit: Kit) -> None:
    """Free the first block that is large enough just when the first pass looks: no lock orders the two (L1).

    The worker's store of ACTIVE is followed by looks at the free lists without the lock, and no list has a block to
    report, so no lock is taken either. With `--memory tso` the store may wait so long that the free finds REQUESTED.
    """
    kit.build(("Normal", 64), capacity=1)
    pfns = kit.alloc_all(2)
    for pfn in pfns[::2]:
        kit.free(pfn, 2)
    kit.start()
    kit.spawn("free", lambda: kit.free(pfns[1], 2))
    kit.rest()
