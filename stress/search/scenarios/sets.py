"""Scenarios of page sets and of what is done without the zone lock: threads that share blocks, and end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pagealloc.errors import BadPage, MemoryClosed, PageAllocError, TornZone
from pagealloc.gfp import GFP_DMA32, GFP_KERNEL, GFP_MOVABLE
from pagealloc.memory import Memory, ZoneSpec
from pagealloc.mmzone import MIGRATE_MOVABLE
from pagealloc.per_cpu_pages import Bounds
from stress.search.kit import LAYOUT, Kit
from stress.search.scenarios.catalogue import scenario
from stress.search.scenarios.vectors import expect

GFP = GFP_KERNEL | GFP_MOVABLE


def alloc(kit: Kit, count: int, gfp: int = GFP, order: int = 0) -> list[int]:
    """Allocate by the front that people use, so that the judge knows whose each page is."""
    pfns = [kit.memory.alloc_pages(gfp, order) for _ in range(count)]
    return [pfn for pfn in pfns if pfn is not None]


def expect_refusals(
    kit: Kit, operations: dict[str, Callable[[], object]], who: str, error: type[PageAllocError]
) -> None:
    """Hold each operation to being refused with this error."""
    for what, operation in operations.items():
        try:
            answer = operation()
        except error:
            answer = "refused"
        expect(kit, "vectors", f"what {who} answers to {what}", answer, "refused")


def expect_one_told(kit: Kit) -> None:
    """Wait until two who freed one block have ended: nothing is torn, and one of the two was told."""
    kit.sync.await_idle()
    kit.oracle.check_zones()
    told = [type(error).__name__ for error in kit.world.survived]
    kit.expect(len(told) == 1, "S2", lambda: f"a block was freed twice, and {told} was told of it")


def set_bounds(kit: Kit, batch: int, high_min: int, high_max: int) -> None:
    """Say how large the sets of the only zone are, before anybody has one: they are made with these bounds."""
    assert kit.memory.page_sets is not None
    # A new list: the old one belongs to the machine that all executions are copies of.
    kit.memory.page_sets.bounds = [Bounds(batch, high_min, high_max)]


@scenario
def page_sets_drain(kit: Kit) -> None:
    """Blocks rest on page sets until a thread ends or a drain comes: then they must be reported."""
    kit.build(("Normal", 64), page_sets=True)
    memory = kit.memory
    assert memory.page_sets is not None
    sets, zone = memory.page_sets, kit.zones[0]
    kit.start()

    def churn() -> None:
        pfns = [sets.alloc(zone, 0, MIGRATE_MOVABLE, 0) for _ in range(3)]
        kit.tick()
        for pfn in pfns:
            sets.free(zone, pfn, 0)
        kit.tick()

    kit.spawn("churn", churn)
    kit.spawn("drain", memory.drain_all_pages)
    kit.rest()


@scenario
def drain_a_living_set(kit: Kit) -> None:
    """Drain all sets while their owners live and do nothing: when it returns, no page rests on any (L2)."""
    kit.build(("Normal", 64), page_sets=True)
    memory, zone = kit.memory, kit.zones[0]
    filled, emptied = kit.sync.event("sets are filled"), kit.sync.event("sets are empty")
    owners = ["one", "other"]
    busy: list[str] = []

    def own() -> None:
        for pfn in alloc(kit, 3):
            memory.free_pages(pfn)
        busy.append("an owner")
        if len(busy) == len(owners):
            filled.set()
        emptied.wait()

    def drain() -> None:
        filled.wait()
        memory.drain_all_pages()
        left = memory.nr_page_set_pages(zone)
        kit.expect(not left, "L2", lambda: f"all page sets were drained, and {left} pages rest on them")
        emptied.set()

    kit.start()
    for name in owners:
        kit.spawn(name, own)
    kit.spawn("drain", drain)
    kit.rest()


@scenario
def threads_come_and_go(kit: Kit) -> None:
    """Threads end while others make their sets: no set is forgotten, and none is left with pages (S2)."""
    kit.build(("Normal", 64), page_sets=True)

    def visit() -> None:
        for pfn in alloc(kit, 2):
            kit.memory.free_pages(pfn)

    for name in ("first", "second", "third"):
        kit.spawn(name, visit)
    kit.settle()
    left = kit.memory.nr_page_set_pages(kit.zones[0])
    kit.expect(not left, "S2", lambda: f"all threads have ended, and {left} pages rest on page sets")
    kit.stop()


@scenario
def drain_beside_the_owner(kit: Kit) -> None:
    """Drain a set while its owner takes from it, in between any two of its operations (S2)."""
    kit.build(("Normal", 32), page_sets=True, lockless=True)

    def own() -> None:
        for _ in range(2):
            for pfn in alloc(kit, 1):
                kit.memory.free_pages(pfn)

    kit.spawn("own", own)
    kit.spawn("drain", kit.memory.drain_all_pages)
    kit.settle()
    kit.stop()


@scenario
def a_guest_on_a_cpu_leaves_it_alone(kit: Kit) -> None:
    """A thread is put on another one's CPU and ends: whose CPU it is keeps it, and the pages that rest there."""
    kit.build(("Normal", 64), page_sets=True)
    memory, zone = kit.memory, kit.zones[0]
    for pfn in alloc(kit, 2):
        memory.free_pages(pfn)
    resting = memory.nr_page_set_pages(zone)

    def visit() -> None:
        memory.run_on_cpu(0)
        for pfn in alloc(kit, 1):
            memory.free_pages(pfn)

    kit.start()
    kit.spawn("guest", visit)
    kit.settle(all_reported=False)
    expect(kit, "vectors", "pages that rest on the owner's set", memory.nr_page_set_pages(zone), resting)
    memory.drain_all_pages()
    kit.rest()


@scenario
def drain_beside_withholding(kit: Kit) -> None:
    """Withhold a pageblock while pages go home to it from a page set: it has them, whatever they were freed as (S6)."""
    kit.build(("Normal", 32), page_sets=True)
    memory, zone = kit.memory, kit.zones[0]
    pfns = alloc(kit, 2)
    for pfn in pfns:
        memory.free_pages(pfn)
    pageblock = pfns[0] & -zone.layout.pageblock_nr_pages
    kit.start()
    kit.spawn("drain", memory.drain_all_pages)
    kit.spawn("withhold", lambda: zone.isolate_pageblock(pageblock))
    kit.settle(all_reported=False)
    zone.unisolate_pageblock(pageblock, MIGRATE_MOVABLE)
    kit.rest(all_reported=False)


@scenario
def a_closed_memory_refuses(kit: Kit) -> None:
    """Close a memory: whoever comes afterwards is told so, even if a page set or a free list could serve him."""
    kit.build(("Normal", 64), page_sets=True)
    memory = kit.memory
    kept, *others = alloc(kit, 3)
    for pfn in others:
        memory.free_pages(pfn)
    memory.close()
    operations: dict[str, Callable[[], object]] = {
        "a page of a set": lambda: memory.alloc_pages(GFP),
        "a block": lambda: memory.alloc_pages(GFP_KERNEL, 3),
        "a free": lambda: memory.free_pages(kept),
    }
    expect_refusals(kit, operations, "a closed memory", MemoryClosed)


@scenario
def close_at_any_time(kit: Kit) -> None:
    """Close a memory at every instant of another task's: what is under way may end, what comes later gets none (S2)."""
    kit.build(("Normal", 64), page_sets=True)
    memory = kit.memory
    closed: list[bool] = []

    def use() -> None:
        for order in (0, 0, 4, 4):  # a page that rests on the set, and blocks whose frees notify in the zone
            late = bool(closed)
            try:
                pfn = memory.alloc_pages(GFP, order)
                kit.expect(not late, "S2", partial("pfn {} comes out of a closed memory".format, pfn))
                if pfn is not None:
                    memory.free_pages(pfn, order)
            except MemoryClosed:
                return
            kit.tick()

    kit.reporting.register(kit.device)
    kit.spawn("use", use)
    kit.spawn("close", memory.close, lambda: closed.append(True))
    kit.sync.await_idle()
    kit.stop()  # what was on its way home from a page set is gone, and that is nobody's fault


@scenario
def vector_one_torn_zone_is_enough(kit: Kit) -> None:
    """Tear one of two zones: no operation on all page sets goes on, whichever of the two it is."""
    for torn in range(2):
        specs = [ZoneSpec("DMA32", 32), ZoneSpec("Normal", 32)]
        memory = Memory(specs, layout=LAYOUT, revision=kit.revision, sync=kit.sync, ram=None)
        memory.zones[torn].lock.tear(KeyboardInterrupt())
        operations: dict[str, Callable[[], object]] = {
            "a drain of all sets": memory.drain_all_pages,
            "a drain of one set": memory.drain_local_pages,
            "a visit of the vmstat worker": memory.refresh_vm_stats,
            "a move to a CPU": partial(memory.run_on_cpu, 0),
        }
        expect_refusals(kit, operations, f"a memory with zone {torn} torn", TornZone)


@scenario
def two_frees_of_one_block(kit: Kit) -> None:
    """Free one block twice at once: one free is taken, and of the other somebody is told, at the latest a drain.

    Both end before the first drain. A free that pauses between its look at the block and its note, until the other
    one has come all the way to the free lists, is noticed by nobody; nor is it in the kernel.
    """
    kit.build(("Normal", 32), page_sets=True, lockless=True)
    kit.world.survives = (BadPage,)
    assert kit.memory.page_sets is not None
    sets, zone = kit.memory.page_sets, kit.zones[0]
    # Room for both: before v5.13 the limit of so small a zone is 0, and a free would drain at once.
    set_bounds(kit, 1, 4, 4)
    pfn = sets.alloc(zone, 0, MIGRATE_MOVABLE, 0)
    drain = kit.sync.event("both frees have ended")
    ended: list[int] = []

    def free() -> None:
        try:
            sets.free(zone, pfn, 0)
        finally:
            ended.append(pfn)
            if len(ended) == 2:
                drain.set()
            drain.wait()

    kit.spawn("one", free)
    kit.spawn("other", free)
    expect_one_told(kit)


@scenario
def free_from_two_zones(kit: Kit) -> None:
    """Free blocks of two zones at once: each goes home, whatever the other one looks at."""
    kit.build(("DMA32", 32), ("Normal", 32), capacity=1, lockless=True)
    (low,), (high,) = alloc(kit, 1, GFP | GFP_DMA32, 3), alloc(kit, 1, order=3)
    kit.start()
    kit.spawn("low", lambda: kit.memory.free_pages(low, 3))
    kit.spawn("high", lambda: kit.memory.free_pages(high, 3))
    kit.rest(all_reported=False)


def _churn_from_two_tasks(kit: Kit) -> None:
    def churn() -> None:
        for pfn in alloc(kit, 1, order=3):
            kit.memory.free_pages(pfn, 3)

    kit.start()
    kit.spawn("one", churn)
    kit.spawn("other", churn)
    kit.rest()


@scenario
def allocate_from_many_threads(kit: Kit) -> None:
    """Allocate and free by the front, from two tasks, beside the worker: every block has one owner (S2)."""
    kit.build(("Normal", 64), capacity=2, lockless=True)
    _churn_from_two_tasks(kit)


@scenario
def a_lock_that_is_taken_is_waited_for(kit: Kit) -> None:
    """The real zone lock is tried first and waited for then; here it is, too: nobody goes on without it (S9).

    A free that asks for a report can be interrupted while it holds the lock.
    """
    kit.build(("Normal", 64), capacity=2)
    for zone in kit.zones:
        zone.lock.may_wait = False
    _churn_from_two_tasks(kit)


@scenario
def a_boost_comes_and_goes(kit: Kit) -> None:
    """Mix types so that the marks are raised, and take the boost back: the marks in use follow at once (S16)."""
    kit.build(("Normal", 64), marks=(0, 1, 2), boost_factor=60_000)
    pfns = kit.alloc_nearly_all(3)
    kit.start()

    def mix() -> None:
        for pfn in alloc(kit, 1, GFP_KERNEL):
            kit.memory.free_pages(pfn)

    kit.spawn("unmovable", mix)
    kit.spawn("movable", lambda: kit.free(pfns[0], 3))
    kit.rest(all_reported=False)


@scenario
def give_back_what_is_not_withheld(kit: Kit) -> None:
    """Give back a pageblock that nobody withheld, and one that somebody does: the zone stays usable."""
    kit.build(("Normal", 32), capacity=1)
    zone = kit.zones[0]
    pfn = zone.start_pfn
    kit.start()
    kit.spawn("give back", lambda: zone.unisolate_pageblock(pfn, MIGRATE_MOVABLE))
    kit.spawn("withhold", lambda: zone.isolate_pageblock(pfn))
    kit.settle(all_reported=False)
    zone.unisolate_pageblock(pfn, MIGRATE_MOVABLE)
    kit.rest(all_reported=False)
