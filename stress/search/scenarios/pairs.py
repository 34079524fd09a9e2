"""Scenarios of two who do the same, or the opposite, at once: what was looked at before the lock is not so within."""

from __future__ import annotations

from functools import partial

from pagealloc.errors import BadPage
from pagealloc.gfp import GFP_ATOMIC, GFP_KERNEL
from pagealloc.mmzone import MIGRATE_HIGHATOMIC, MIGRATE_MOVABLE, MIGRATE_UNMOVABLE, Layout
from pagealloc.zone import Zone
from stress.search.kit import Kit
from stress.search.lockless import peek
from stress.search.scenarios.catalogue import scenario
from stress.search.scenarios.sets import alloc, expect_one_told, set_bounds
from stress.search.scenarios.vectors import expect, expect_types
from workers.page_reporting import Batch


@scenario
def free_one_block_past_the_sets_twice_at_once(kit: Kit) -> None:
    """Free one block twice at once, past the page sets: one free is taken, and the other one is told (S2)."""
    kit.build(("Normal", 64))
    kit.world.survives = (BadPage,)
    order = kit.zones[0].layout.pageblock_order + kit.world.draw(2)  # the larger one may be freed in pieces
    pfn = kit.alloc(order)
    for name in ("one", "other"):
        kit.spawn(name, partial(kit.free, pfn, order))
    expect_one_told(kit)


@scenario
def free_while_a_pass_comes_and_goes(kit: Kit) -> None:
    """Free a block at every instant of a pass over two zones: that pass has it, or another one comes (L1, S23)."""
    kit.build(("DMA32", 32), ("Normal", 32), capacity=1)
    pfns, others = kit.alloc_nearly_all(3, zone=0), kit.alloc_nearly_all(3, zone=1)
    kit.free(others[0], 3)  # or the pass would leave the second zone out
    kit.reporting.register(kit.device)
    kit.spawn("pass", kit.reporting.run_now)  # the worker, without what it does to wait
    kit.spawn("free", partial(kit.free, pfns[0], 3))
    kit.sync.await_idle()
    kit.reporting.run_now()
    kit.settle()


@scenario
def unregister_as_a_pass_begins(kit: Kit) -> None:
    """Take the device back at every instant of a pass that finds nothing: it is over, or it never begins (S22)."""
    kit.build(("Normal", 32), capacity=1)
    kit.alloc_nearly_all(3)
    kit.reporting.register(kit.device)

    def leave() -> None:
        kit.reporting.unregister(kit.device)
        kit.oracle.retired = True

    kit.spawn("pass", kit.reporting.run_now)
    kit.spawn("leave", leave)
    kit.settle(all_reported=False)


@scenario
def a_pass_before_the_device_is_known(kit: Kit) -> None:
    """With no delay the first pass may be over before `register` is: what it leaves to the next one is reported."""
    kit.build(("Normal", 64), capacity=1, delay_s=0.0)
    pfns = kit.alloc_nearly_all(3)
    for pfn in pfns[:6:2]:
        kit.free(pfn, 3)
    kit.start()
    kit.rest()


@scenario
def free_the_buddy_while_others_wait(kit: Kit) -> None:
    """Free the buddy of each block in flight, while the list has more: the walk goes on with what it has then (S26)."""
    kit.build(("Normal", 64), capacity=1)
    pfns = kit.alloc_nearly_all(3)
    buddies = set(pfns[1:6:2])
    for pfn in pfns[:6:2]:
        kit.free(pfn, 3)

    def during(zone: Zone, batch: Batch) -> None:
        buddy = batch[0].pfn ^ zone.layout.pageblock_nr_pages
        if buddy in buddies:
            buddies.remove(buddy)
            kit.free(buddy, 3)

    kit.host.during = during
    kit.start()
    kit.spawn("take", lambda: kit.free(kit.alloc(3), 3))
    kit.rest()


@scenario
def unregister_beside_a_notifier(kit: Kit) -> None:
    """Take a device back between any two looks of a notifier at it: the free goes well, and no pass is armed (S22)."""
    kit.build(("DMA32", 32), ("Normal", 32), capacity=1)
    pfns = kit.alloc_nearly_all(3, zone=1)  # each zone has notifiers of its own
    kit.reporting.register(kit.device)
    kit.reporting.run_now()
    peek(kit.world, kit.reporting, "_registered")
    kit.spawn("free", partial(kit.free, pfns[0], 3))
    kit.spawn("leave", partial(kit.reporting.unregister, kit.device))
    kit.settle(all_reported=False)
    armed = kit.workqueue.next_deadline() is not None
    kit.expect(not armed, "S22", lambda: "the device has left, and a pass is armed")


@scenario
def free_while_its_pageblock_changes(kit: Kit) -> None:
    """Free a block past the page sets while somebody withholds its pageblock, or gives it another type (S6)."""
    kit.build(("Normal", 32))
    zone = kit.zones[0]
    pfn = kit.alloc(2)
    pageblock = pfn & -zone.layout.pageblock_nr_pages
    kit.world.lockless_writes = True  # what is looked at before the lock makes another state
    if kit.world.draw(2):
        kit.spawn("retype", partial(zone.set_block_type, pageblock, MIGRATE_UNMOVABLE, move=True))
    else:
        kit.spawn("withhold", partial(zone.isolate_pageblock, pageblock))
    kit.spawn("free", partial(kit.free, pfn, 2))
    kit.settle(all_reported=False)
    zone.unisolate_pageblock(pageblock, MIGRATE_MOVABLE)
    kit.oracle.check_zones()


def _alloc_on_cpu(kit: Kit, cpu: int) -> None:
    kit.memory.run_on_cpu(cpu)
    alloc(kit, 1, GFP_ATOMIC, 1)


@scenario
def two_urgent_pages_of_one_pageblock(kit: Kit) -> None:
    """Take two urgent pages of one pageblock at once: it is reserved for their kind once, and counts once (S5)."""
    layout = Layout(nr_orders=5, pageblock_order=2)
    kit.build(("Normal", 832), page_sets=True, layout=layout)  # 1 % of it is two pageblocks
    zone = kit.zones[0]
    set_bounds(kit, 4, 16, 16)
    pfns = sorted(alloc(kit, 2, GFP_KERNEL, 1))
    kit.memory.drain_all_pages()
    for pfn in pfns:
        kit.memory.free_pages(pfn, 1)
    expect_types(kit, pfns, [MIGRATE_UNMOVABLE] * 2)
    zone.set_watermarks(0, 832, 832)  # every request takes the slow path
    for name in ("one", "other"):
        kit.spawn(name, partial(_alloc_on_cpu, kit, 0))
    kit.settle(all_reported=False)
    reserved = list(zone.pageblock_types).count(MIGRATE_HIGHATOMIC) << layout.pageblock_order
    expect(kit, "S5", "pages reserved", (zone.nr_reserved_highatomic, reserved), (4, 4))


@scenario
def another_one_drains_first(kit: Kit) -> None:
    """Ask while all free pages rest on another CPU's set, and somebody drains it in between: they are found (L7)."""
    kit.build(("Normal", 32), page_sets=True)
    memory = kit.memory
    set_bounds(kit, 1, 8, 8)
    for pfn in alloc(kit, 32)[:4]:
        memory.free_pages(pfn)
    drain, drained = memory.drain_all_pages, kit.sync.atomic("drained", 0)
    before: list[int] = []  # whether the other one had drained them, when the slow path came to that

    def drain_too() -> int:
        before.append(drained.load())
        return drain()

    def ask() -> None:
        got = alloc(kit, 1)
        kit.expect(
            bool(got) or before == [0], "L7", lambda: "no page is found, and all sets were drained before"
        )

    vars(memory)["drain_all_pages"] = drain_too  # what the slow path calls
    kit.spawn("drain", drain, partial(drained.store, 1))
    kit.spawn("ask", ask)
    kit.settle(all_reported=False)


@scenario
def what_was_freed_twice_is_in_use_again(kit: Kit) -> None:
    """Free a page twice at once, on two CPUs, and take it again: the other CPU's drain finds it in use (S2)."""
    kit.build(("Normal", 32), page_sets=True, lockless=True)
    kit.world.survives = (BadPage,)
    assert kit.memory.page_sets is not None
    sets, zone = kit.memory.page_sets, kit.zones[0]
    set_bounds(kit, 1, 4, 4)  # room for both, whatever the kernel
    pfn = sets.alloc(zone, 0, MIGRATE_MOVABLE, 0)
    both, again = kit.sync.event("both frees have ended"), kit.sync.event("it is in use again")

    def free_and_take() -> None:
        try:
            sets.free(zone, pfn, 0)
            both.wait()
            sets.alloc(zone, 0, MIGRATE_MOVABLE, 0)
        finally:
            again.set()

    def free() -> None:
        try:
            sets.free(zone, pfn, 0)
        finally:
            both.set()
            again.wait()

    kit.spawn("one", free_and_take)
    kit.spawn("other", free)
    expect_one_told(kit)
