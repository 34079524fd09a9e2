"""Scenarios for policies that no kernel has: none may lose a page, or forget one beyond its own bound.

A policy that leaves a block must come back for it, though nobody frees again; virtual time goes on until nothing is
armed, and whatever is free then must have been reported.
"""

from __future__ import annotations

from pagealloc.mmzone import MIGRATE_MOVABLE
from pagealloc.zone import Zone
from stress.search.kit import Kit
from stress.search.scenarios.catalogue import scenario
from stress.search.scenarios.vectors import expect, expect_batches, expect_list, one_pass
from workers.page_reporting import Batch
from workers.policies import (
    ConstantRate,
    CpuShare,
    Decay,
    FixedDelay,
    FlushOnDemand,
    KeepOnSplit,
    MinimumAge,
    QuietRegion,
)
from workers.policy import SKIP, STOP, TAKE, Core, ReportingPolicy

BLOCK_BYTES = 8 * 4096  # of a pageblock here


def allocate_beside(kit: Kit, policy: ReportingPolicy) -> list[int]:
    """Build a zone whose blocks are freed, allocated and merged while a worker with this policy runs."""
    kit.build(("Normal", 64), capacity=2, policy=policy)
    pfns = kit.alloc_nearly_all(3)
    kit.start()
    kit.spawn("free", *(lambda pfn=pfn: kit.free(pfn, 3) for pfn in pfns[:3]))
    kit.spawn("take and free", lambda: kit.free(kit.alloc(3), 3))
    return pfns


@scenario
def young_blocks_wait(kit: Kit) -> None:
    """Skip blocks that are younger than three seconds: a later pass must find them though nobody asks."""
    allocate_beside(kit, MinimumAge(3.0))
    kit.rest()


@scenario
def an_age_counts_from_the_last_free(kit: Kit) -> None:
    """Take a young block and free it again: what is reported has been free for three seconds since its last free."""
    kit.build(("Normal", 64), capacity=2, policy=MinimumAge(3.0))
    pfns = kit.alloc_nearly_all(3)
    freed_s: dict[int, float] = {}
    early: list[int] = []

    def free(pfn: int) -> None:
        if pfn >= 0:
            freed_s[pfn] = kit.sync.monotonic()
            kit.free(pfn, 3)

    def during(zone: Zone, batch: Batch) -> None:
        del zone
        old_s = kit.sync.monotonic() - 3.0
        early.extend(block.pfn for block in batch if freed_s.get(block.pfn, old_s) > old_s)

    kit.host.during = during
    kit.start()
    for pfn in pfns[:6:2]:  # no two of them merge
        free(pfn)
    kit.sync.sleep(2.5)
    free(kit.alloc(3))
    kit.settle()
    expect(kit, "vectors", "blocks reported too early", early, [])
    kit.rest()


@scenario
def busy_regions_wait(kit: Kit) -> None:
    """Skip whatever lies where something was just freed: once it is quiet, all of it is reported."""
    allocate_beside(kit, QuietRegion(3.0))
    kit.rest()


@scenario
def vector_a_busy_region_ends_at_its_end(kit: Kit) -> None:
    """Free the last block of a region: what lies behind it is another region's, and need not wait."""
    kit.build(("Normal", 1008), capacity=1, policy=QuietRegion(3.0))
    kit.alloc_all(3)
    kit.reporting.register(kit.device)
    behind = 512  # pages of 2 MiB: where the second region begins
    kit.free(behind + 16, 3)
    kit.sync.sleep(4.0)
    kit.free(behind - 8, 3)
    kit.reporting.run_now()
    expect_batches(kit, [[behind + 16]])
    kit.reporting.unregister(kit.device)


@scenario
def vector_a_rate_after_a_long_rest(kit: Kit) -> None:
    """Let a pass of one block a second come after a hundred: it may report two blocks, and the rest in its turn.

    Each is a batch of its own: nothing is paid twice for the block before which a full batch is sent.
    """
    kit.build(("Normal", 112), capacity=1, policy=ConstantRate(BLOCK_BYTES))
    for pfn in kit.alloc_all(3)[:10:2]:
        kit.free(pfn, 3)
    one_pass(kit)
    blocks = [len(kit.host.batches)]
    kit.sync.sleep(100.0)
    kit.reporting.run_now()
    blocks.append(len(kit.host.batches) - blocks[0])
    expect(kit, "vectors", "blocks of the two passes", blocks, [1, 2])
    kit.reporting.unregister(kit.device)


@scenario
def a_second_device_keeps_what_was_told(kit: Kit) -> None:
    """Register again with a policy that keeps pieces: what is Reported from before is known to it, block for block."""
    policy = KeepOnSplit()
    kit.build(("Normal", 64), policy=policy)
    kit.start()
    kit.settle()
    kit.reporting.unregister(kit.device)
    kit.reporting.register(kit.device)
    zone = kit.zones[0]
    blocks = [pfn for pfn in zone.list_pfns(4, MIGRATE_MOVABLE) if zone.is_reported(pfn)]
    expect(kit, "vectors", "Reported blocks", len(blocks), 4)
    expect(kit, "vectors", "those it knows", [pfn for pfn in blocks if policy.knows(pfn, 4)], blocks)
    kit.rest()


@scenario
def a_constant_rate_gets_there(kit: Kit) -> None:
    """Stop at a quota of one block a second, in the middle of a list: the rest follows, pass by pass."""
    allocate_beside(kit, ConstantRate(BLOCK_BYTES))
    kit.rest()


@scenario
def a_decay_comes_to_an_end(kit: Kit) -> None:
    """Let memory decay within ten seconds, looked at every two: in the end nothing is left."""
    allocate_beside(kit, Decay(10.0, interval_s=2.0))
    kit.rest()


@scenario
def a_share_of_the_cpu_is_enough(kit: Kit) -> None:
    """Work a hundredth of the time: a tenth of what is in use may stay, and nothing else."""
    allocate_beside(kit, CpuShare(1.0))
    kit.rest(all_reported=False)
    used = sum(zone.managed_pages - zone.nr_free_pages for zone in kit.zones)
    left = sum(
        (zone.nr_free[order] - zone.nr_reported[order]) << order
        for zone in kit.zones
        for order in range(zone.layout.pageblock_order, zone.layout.nr_orders)
    )
    kit.expect(
        left <= CpuShare.RETAIN * used,
        "L2",
        lambda: f"{left} pages are left unreported, with {used} in use: more than a tenth",
    )


@scenario
def pieces_of_what_was_given_back_stay_there(kit: Kit) -> None:
    """Split reported blocks while others are freed: what is left out must be known to the device, page for page."""
    policy = KeepOnSplit()
    kit.build(("Normal", 64), capacity=2, policy=policy)
    kit.start()
    kit.sync.await_idle()
    touched: set[int] = set()

    def take(order: int) -> int:
        pfn = kit.alloc(order)
        touched.update(range(pfn, pfn + (1 << order)) if pfn >= 0 else ())
        return pfn

    kit.spawn("take and free", lambda: kit.free(take(3), 3))
    kit.spawn("take a little", lambda: take(0), lambda: kit.free(take(0), 0))
    kit.rest(all_reported=False)
    left = [
        (pfn, order)
        for zone in kit.zones
        for order in range(zone.layout.pageblock_order, zone.layout.nr_orders)
        for pfn in zone.list_pfns(order, 1)
        if not zone.is_reported(pfn) and not touched.isdisjoint(range(pfn, pfn + (1 << order)))
    ]
    kit.expect(not left, "L2", lambda: f"{left} were used and freed since, and nobody will report them")


class NotedInTime(KeepOnSplit):
    """Notes that take time where no zone lock keeps others out."""

    def __init__(self, kit: Kit) -> None:
        super().__init__()
        self._tick = kit.tick

    def reported(self, zone: Zone, pfn: int, order: int) -> None:
        if not zone.lock.owned():
            self._tick()
        super().reported(zone, pfn, order)


@scenario
def free_while_a_policy_takes_stock(kit: Kit) -> None:
    """Free what an earlier device was told of while the next one registers: a policy may not count it as told (L2)."""
    policy = NotedInTime(kit)
    kit.build(("Normal", 32), capacity=1, policy=policy)
    one_pass(kit)
    kit.reporting.unregister(kit.device)
    kit.workqueue.start()
    used: set[int] = set()

    def take_and_free() -> None:
        pfn = kit.alloc(3)
        kit.free(pfn, 3)
        used.update(range(pfn, pfn + 8))

    kit.spawn("register", lambda: kit.reporting.register(kit.device))
    kit.spawn("take and free", take_and_free)
    kit.settle(all_reported=False)
    wrong = [
        (pfn, order)
        for zone in kit.zones
        for order in range(zone.layout.pageblock_order, zone.layout.nr_orders)
        for pfn in zone.list_pfns(order, MIGRATE_MOVABLE)
        if not zone.is_reported(pfn)
        and not used.isdisjoint(range(pfn, pfn + (1 << order)))
        and policy.knows(pfn, order)
    ]
    kit.expect(not wrong, "L2", lambda: f"{wrong} were used and freed since, and count as the device's")
    kit.rest(all_reported=False)


class TakeSkipStop(ReportingPolicy):
    """Takes the first block that it is asked about, skips the second, and stops at the third."""

    def attach(self, reporting: Core) -> None:
        super().attach(reporting)
        self._verdicts = iter((TAKE, SKIP, STOP))

    def take(self, zone: Zone, pfn: int, order: int) -> int:
        del zone, pfn, order
        return next(self._verdicts)


@scenario
def vector_a_stop_turns_the_list(kit: Kit) -> None:
    """Take a block, skip one, and stop: the list is turned to where the visit stopped, as at a spent budget."""
    kit.build(("Normal", 80), capacity=1, policy=TakeSkipStop())
    a, b, c, d = kit.alloc_all(3)[0:8:2]
    for pfn in (d, c, b, a):
        kit.free(pfn, 3)
    expect_list(kit, 3, MIGRATE_MOVABLE, [a, b, c, d])
    one_pass(kit)
    expect_batches(kit, [[a]])
    expect_list(kit, 3, MIGRATE_MOVABLE, [c, d, a, b] if kit.revision.rotate else [a, b, c, d])
    kit.reporting.unregister(kit.device)


@scenario
def a_flush_is_the_only_pass(kit: Kit) -> None:
    """Report on demand, from another thread and while blocks are freed: a flush reports all that was free by then."""
    policy = FlushOnDemand()
    pfns = allocate_beside(kit, policy)
    kit.spawn("flush", kit.reporting.flush, kit.tick, kit.reporting.flush)
    flush_the_rest(kit)
    kit.free(pfns[3], 3)
    flush_the_rest(kit)
    kit.rest()


@scenario
def a_fixed_delay_needs_a_free(kit: Kit) -> None:
    """Report at the first free that comes a second after another: what is freed last waits for a flush."""
    pfns = allocate_beside(kit, FixedDelay(1.0))
    kit.sync.sleep(1.5)
    kit.free(pfns[3], 3)
    flush_the_rest(kit)
    kit.rest()


def flush_the_rest(kit: Kit) -> None:
    """Have everything reported that is free when the tasks are done."""
    kit.sync.await_idle()
    kit.reporting.flush()
    kit.sync.await_idle()
