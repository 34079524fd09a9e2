"""Scenarios for exact values: lists, batches, marks and budgets as the kernel has them, and life cycles.

Most have one task and no choices, so one execution says everything. Expected values are worked out from the
kernel's rules, or follow the recorded runs named in the docstrings.
"""

from __future__ import annotations

from pagealloc.gfp import GFP_KERNEL, GFP_ZERO
from pagealloc.mmzone import ALLOC_HIGHATOMIC, MIGRATE_HIGHATOMIC, MIGRATE_MOVABLE, MIGRATE_UNMOVABLE, Layout
from pagealloc.ram import Ram
from pagealloc.tracepoints import Tracer
from pagealloc.zone import Zone
from stress.search.kit import Kit
from stress.search.scenarios.catalogue import scenario
from workers.page_reporting import Batch


def expect(kit: Kit, invariant: str, what: str, found: object, expected: object) -> None:
    """Hold what was found against what the rules say."""
    kit.expect(found == expected, invariant, lambda: f"{what}: {found}, expected {expected}")


def expect_list(kit: Kit, order: int, migratetype: int, expected: list[int]) -> None:
    """Hold a free list of the first zone, from head to tail."""
    found = list(kit.zones[0].list_pfns(order, migratetype))
    expect(kit, "vectors", f"list {order}.{migratetype}", found, expected)


def expect_batches(kit: Kit, expected: list[list[int]]) -> None:
    """Hold the pfns of all batches so far."""
    found = [[pfn for pfn, _ in batch] for batch in kit.host.batches]
    expect(kit, "vectors", "batches", found, expected)


def expect_types(kit: Kit, pfns: list[int], expected: list[int]) -> None:
    """Hold the types of the pageblocks that have these pfns."""
    found = [kit.zones[0].pageblock_migratetype(pfn) for pfn in pfns]
    expect(kit, "vectors", f"types of the pageblocks of {pfns}", found, expected)


def one_pass(kit: Kit) -> None:
    """Register the device and make its first pass, on this very task."""
    kit.reporting.register(kit.device)
    kit.reporting.run_now()


def _leave(kit: Kit) -> None:
    """Unregister: from here on every call of the reporter is one too many."""
    kit.reporting.unregister(kit.device)
    kit.oracle.retired = True


def _apart(kit: Kit, pages: int, count: int, capacity: int) -> list[int]:
    """Build a zone with all in use but `count` blocks that cannot merge; returns them, head of the list first."""
    kit.build(("Normal", pages), capacity=capacity)
    blocks = kit.alloc_all(3)[0 : 2 * count : 2]
    for pfn in reversed(blocks):
        kit.free(pfn, 3)
    expect_list(kit, 3, MIGRATE_MOVABLE, blocks)
    return blocks


# -- devices that come and go --------------------------------------------------------------------------------


@scenario(also_in_two_zones=True)
def gone_for_good(kit: Kit) -> None:
    """Unregister while a block is freed: whatever was on its way, no call follows the return (S22)."""
    kit.build(("Normal", 32), capacity=1)
    pfns = kit.alloc_nearly_all(3)
    kit.start()
    kit.spawn("free", lambda: kit.free(pfns[0], 3))
    kit.spawn("leave", lambda: _leave(kit))
    kit.settle(all_reported=False)
    kit.stop()


@scenario(also_in_two_zones=True)
def return_while_freeing(kit: Kit) -> None:
    """Register again while a block is freed, which notifies ever since the first time; then leave (S22)."""
    kit.build(("Normal", 32), capacity=1)
    pfns = kit.alloc_nearly_all(3)
    kit.reporting.register(kit.device)
    kit.reporting.unregister(kit.device)
    kit.workqueue.start()
    kit.spawn("return", lambda: kit.reporting.register(kit.device), lambda: _leave(kit))
    kit.spawn("free", lambda: kit.free(pfns[0], 3))
    kit.settle(all_reported=False)
    kit.stop()


@scenario(also_in_two_zones=True)
def reported_without_a_device(kit: Kit) -> None:
    """Allocate and free what a device was told about before it left, and register again."""
    kit.build(("Normal", 64))
    kit.start()
    kit.settle()
    kit.reporting.unregister(kit.device)
    pfn = kit.alloc(3)
    kit.tick()
    kit.free(pfn, 3)
    kit.reporting.register(kit.device)
    kit.rest()


@scenario
def order_changed_in_mid_pass(kit: Kit) -> None:
    """Change the device's order while its pass runs: the order that it registered with holds (S11)."""
    kit.build(("DMA32", 32), ("Normal", 32), capacity=1)
    for number in range(2):
        pfn = kit.alloc(3, zone=number)
        kit.zones[number].claim_range(pfn, 2)
        kit.free(pfn, 2)

    def during(zone: Zone, batch: Batch) -> None:
        del zone, batch
        kit.device.order = 2

    kit.host.during = during
    kit.start()
    kit.rest()


@scenario
def nothing_else_is_left(kit: Kit) -> None:
    """Allocate when all that is free is in flight: it fails then, and works when the block is back (L7)."""
    kit.build(("Normal", 32), capacity=1)
    pfns = kit.alloc_nearly_all(3)
    kit.free(pfns[0], 3)
    kit.start()
    got: list[int] = []
    kit.spawn("alloc", lambda: got.append(kit.alloc(3)))
    kit.settle()
    if got == [-1]:
        expect(kit, "L7", "the retry", kit.alloc(3), pfns[0])
    kit.rest()


# -- requests ------------------------------------------------------------------------------------------------


@scenario
def one_pass_is_enough(kit: Kit) -> None:
    """Nothing is freed: putting blocks back may not ask for another pass (S21)."""
    kit.build(("Normal", 64))
    kit.start()
    kit.settle()
    expect(kit, "S21", "passes", kit.reporting.stats.passes, 1)
    _leave(kit)
    kit.stop()


@scenario
def vector_request_while_active(kit: Kit) -> None:
    """Free during a report: the request waits for the pass to end, and arms one then (recorded run 60)."""
    kit.build(("Normal", 64))
    held = kit.alloc(3)
    seen: list[tuple[str, bool]] = []

    def during(zone: Zone, batch: Batch) -> None:
        del zone, batch
        if not seen:
            kit.free(held, 3)
            seen.append((kit.reporting.state_name(), kit.reporting.pending()))

    kit.host.during = during
    one_pass(kit)
    expect(kit, "vectors", "(state, armed) during the pass", seen, [("requested", False)])
    after = kit.reporting.state_name(), kit.reporting.pending()
    expect(kit, "vectors", "(state, armed) after the pass", after, ("requested", True))
    kit.reporting.unregister(kit.device)


# -- withheld and reserved pageblocks ------------------------------------------------------------------------


@scenario
def withhold_in_flight(kit: Kit) -> None:
    """Withhold a pageblock whose page may be in flight, and give it back: it counts once, or not at all."""
    kit.build(("Normal", 32), capacity=1)
    zone = kit.zones[0]
    first, _, third, _ = kit.alloc_all(3)
    kit.free(first, 3)
    kit.free(third, 3)
    kit.start()
    kit.spawn("withhold", lambda: zone.isolate_pageblock(first))
    kit.settle(all_reported=False)
    kit.spawn("give back", lambda: zone.unisolate_pageblock(first, MIGRATE_MOVABLE))
    kit.rest(all_reported=False)


@scenario
def give_back_beside_a_buddy(kit: Kit) -> None:
    """Give a Reported, withheld pageblock back whose buddy waits: they merge, and the whole is not Reported."""
    kit.build(("Normal", 64))
    zone = kit.zones[0]
    first, second = kit.alloc(3), kit.alloc(3)
    kit.free(first, 3)
    kit.start()
    kit.settle()
    zone.isolate_pageblock(first)
    kit.free(second, 3)
    kit.settle()
    zone.unisolate_pageblock(first, MIGRATE_MOVABLE)
    expect(kit, "vectors", "the two merge", zone.page_is_buddy(first, 4), True)
    expect(kit, "S14", "the whole is Reported", zone.is_reported(first), False)
    kit.rest(all_reported=False)


@scenario
def vector_high_atomic(kit: Kit) -> None:
    """A high-atomic pageblock is reported like any other, and keeps its type (recorded run 74)."""
    # Large enough for 1 % to be a pageblock: else there is no reserve since 6.12.
    kit.build(("Normal", 208), capacity=16, layout=Layout(nr_orders=5, pageblock_order=1))
    pfn = kit.zones[0].rmqueue_buddy(0, MIGRATE_MOVABLE, ALLOC_HIGHATOMIC)
    kit.free(pfn, 0)
    expect_types(kit, [pfn], [MIGRATE_HIGHATOMIC])
    kit.start()
    kit.settle()
    expect_types(kit, [pfn], [MIGRATE_HIGHATOMIC])
    if kit.revision.list_type_is_block_type:  # elsewhere it has merged
        expect(kit, "vectors", "the reserved block is Reported", kit.zones[0].is_reported(pfn), True)
    kit.rest()


@scenario
def vector_types_of_taken_blocks(kit: Kit) -> None:
    """Taking half a pageblock or more turns it movable; taking less leaves it (recorded runs 55 and 56)."""
    kit.build(("Normal", 64), capacity=4, order=1)
    zone = kit.zones[0]
    small, half, whole, spare = kit.alloc_all(3)[0:8:2]
    for pfn in (small, half, whole):
        zone.set_block_type(pfn, MIGRATE_UNMOVABLE, move=False)
    # The last page stays behind: without it the min mark would forbid taking the last block.
    for pfn, order in ((small, 1), (half, 2), (whole, 3), (spare, 0)):
        zone.claim_range(pfn, order)
        kit.free(pfn, order)
    one_pass(kit)
    expect_batches(kit, [[whole, half, small]])
    expect_types(kit, [small, half, whole], [MIGRATE_UNMOVABLE, MIGRATE_MOVABLE, MIGRATE_MOVABLE])
    expect_list(kit, 1, MIGRATE_UNMOVABLE, [small])
    expect_list(kit, 2, MIGRATE_MOVABLE, [half])
    expect_list(kit, 3, MIGRATE_MOVABLE, [whole])
    kit.reporting.unregister(kit.device)


# -- marks ---------------------------------------------------------------------------------------------------


@scenario
def vector_marks(kit: Kit) -> None:
    """Move the marks, page by page, across what a visit and each isolation need (runs 41 to 44 and 47)."""
    kit.build(("Normal", 64), capacity=2)
    zone = kit.zones[0]
    free = zone.nr_free_pages
    room = 2 << 3  # pages of a batch of the smallest blocks; those here are twice as large
    marks = [(0, low, 0) for low in range(free - room - 1, free - room + 2)]
    marks += [(0, low, 8) for low in range(free - room - 9, free - room - 6)]
    marks += [(least, 20, boost) for least in range(free - 33, free - 14) for boost in (0, 8)]
    for min_mark, low_mark, boost in marks:
        zone.set_watermarks(min_mark, low_mark, low_mark)
        zone.set_watermark_boost(boost)
        one_pass(kit)
        visited = free > low_mark + boost + room
        expected = sum(visited and free - 16 * taken > min_mark for taken in (1, 2))
        found = len(kit.host.batches[0]) if kit.host.batches else 0
        expect(kit, "S16", f"blocks taken at {min_mark}, {low_mark} + {boost}", found, expected)
        # Leave everything free and nothing Reported, for the next marks.
        kit.reporting.unregister(kit.device)
        kit.host.batches.clear()
        zone.set_watermarks(0, 0, 0)
        for pfn in kit.alloc_all(4):
            kit.free(pfn, 4)


@scenario
def vector_isolation_refused(kit: Kit) -> None:
    """Raise the min mark during a report so that the fourth of six blocks is refused (1.10, run 46)."""
    a, b, c, d, e, f = _apart(kit, 112, 6, capacity=2)
    zone = kit.zones[0]
    least = zone.nr_free_pages - 16

    def during(_zone: Zone, batch: Batch) -> None:
        del batch
        zone.set_watermarks(least, 0, 0)

    kit.host.during = during
    one_pass(kit)
    expect_batches(kit, [[b, a], [c]])
    if not kit.revision.rotate:
        final = [c, a, b, d, e, f]
    elif kit.revision.putback_to_tail:
        final = [d, e, f, b, a, c]
    else:
        final = [c, d, e, f, a, b]
    expect_list(kit, 3, MIGRATE_MOVABLE, final)
    expect(kit, "vectors", "another pass is armed", kit.reporting.pending(), False)
    kit.reporting.unregister(kit.device)


@scenario
def vector_reported_in_front(kit: Kit) -> None:
    """Reported blocks in front are skipped, and end up behind when the walk stops (recorded run 14)."""
    kit.build(("Normal", 112), capacity=1)
    zone = kit.zones[0]
    a, b, c, d = kit.alloc_all(3)[0:8:2]
    kit.free(a, 3)
    kit.free(b, 3)
    one_pass(kit)
    first, second = zone.list_pfns(3, MIGRATE_MOVABLE)
    kit.free(d, 3)
    kit.free(c, 3)
    zone.lock.acquire()
    zone.rotate_to_front(first, 3, MIGRATE_MOVABLE)
    zone.lock.release()
    zone.set_watermarks(zone.nr_free_pages - 8, 0, 0)  # nothing may be isolated
    kit.reporting.run_now()
    turned = [c, d, first, second]
    expect_list(kit, 3, MIGRATE_MOVABLE, turned if kit.revision.rotate else [first, second, c, d])
    kit.reporting.unregister(kit.device)


# -- budgets -------------------------------------------------------------------------------------------------


@scenario
def vector_budget_counts_all_types(kit: Kit) -> None:
    """The budget of a visit counts the order's blocks of all types, not the list's (recorded run 19)."""
    kit.build(("Normal", 272), capacity=1)
    zone = kit.zones[0]
    taken = [kit.alloc(4) for _ in range(8)]
    for pfn in taken:
        for pageblock in (pfn, pfn + 8):
            zone.set_block_type(pageblock, MIGRATE_UNMOVABLE, move=False)
        kit.free(pfn, 4)
    unmovable = list(zone.list_pfns(4, MIGRATE_UNMOVABLE))
    movable = list(zone.list_pfns(4, MIGRATE_MOVABLE))
    one_pass(kit)
    # ceil(17 / 16) + 1 calls for each list; by the lists' own lengths it would be one less
    calls = 3 if kit.revision.budget else 17
    expect_batches(kit, [[pfn] for pfn in unmovable[:calls] + movable[:calls]])
    kit.reporting.unregister(kit.device)


@scenario
def vector_capacity_three(kit: Kit) -> None:
    """A capacity that is no power of two: seven blocks make ceil(7 / 48) + 1 full batches."""
    a, b, c, d, e, f, g = _apart(kit, 112, 7, capacity=3)
    one_pass(kit)
    batches = [[c, b, a], [f, e, d]]
    expect_batches(kit, batches if kit.revision.budget else [*batches, [g]])
    if not kit.revision.budget:
        final = [g, d, e, f, a, b, c]
    elif kit.revision.putback_to_tail:
        final = [g, c, b, a, f, e, d]
    else:
        final = [g, a, b, c, d, e, f]
    expect_list(kit, 3, MIGRATE_MOVABLE, final)
    kit.reporting.unregister(kit.device)


@scenario
def vector_budget_of_an_exact_multiple(kit: Kit) -> None:
    """Visit a list of sixteen blocks, one in a call: ceil(16 / 16) + 1 calls, and no further one for a rest of none."""
    kit.build(("Normal", 256), capacity=1)
    one_pass(kit)
    expect(kit, "S17", "calls for 16 blocks", len(kit.host.batches), 2 if kit.revision.budget else 16)
    kit.reporting.unregister(kit.device)


@scenario
def vector_freed_meanwhile(kit: Kit) -> None:
    """A block freed while another is reported takes the place of one that was there, where a visit has an end."""
    kit.build(("Normal", 112), capacity=1)
    a, b, c = kit.alloc_all(3)[0:6:2]
    kit.free(b, 3)
    kit.free(a, 3)

    def during(zone: Zone, batch: Batch) -> None:
        del zone
        if batch[0].pfn == a:
            kit.free(c, 3)

    kit.host.during = during
    one_pass(kit)
    ends = (
        kit.revision.budget or kit.revision.leave_after_nr_free
    )  # after two blocks, as many as it began with
    expect_batches(kit, [[a], [c]] if ends else [[a], [c], [b]])
    expect(kit, "vectors", "another pass is armed", kit.reporting.pending(), True)
    kit.reporting.unregister(kit.device)


# -- content -------------------------------------------------------------------------------------------------


@scenario
def zeroed_pages_are_zero(kit: Kit) -> None:
    """Ask for zeroed pages that a device was told about and kept as they were: they are cleared (S25)."""
    kit.build(("Normal", 32))
    memory, zone = kit.memory, kit.zones[0]
    memory.ram = zone.ram = Ram(zone.start_pfn, zone.managed_pages)
    memory.ram.memory[:] = b"\xa5" * memory.ram.nr_bytes
    kit.start()
    kit.settle()
    for order in (0, 3):
        pfn = memory.alloc_pages(GFP_KERNEL | GFP_ZERO, order)
        assert pfn is not None
        dirty = any(memory.view(pfn, order))
        kit.expect(not dirty, "S25", lambda: "an allocation of zeroed pages holds old bytes")
    kit.rest()
    memory.close()


@scenario
def vector_one_pass(kit: Kit) -> None:
    """Seven blocks and one pass: batches, rotation, budget and putback in the kernel's very order."""
    blocks = _apart(kit, 112, 7, capacity=2)
    a, b, c, d, e, f, g = blocks
    kit.reporting.register(kit.device)
    kit.reporting.run_now()
    revision = kit.revision
    if revision.budget:
        batches = [[b, a], [d, c]]
        final = [e, f, g, b, a, d, c] if revision.putback_to_tail else [e, f, g, a, b, c, d]
    else:
        batches = [[b, a], [d, c], [f, e], [g]]
        final = [g, e, f, a, b, c, d] if revision.rotate else [g, e, f, c, d, a, b]
    expect_batches(kit, batches)
    expect_list(kit, 3, 1, final)
    kit.reporting.unregister(kit.device)


@scenario
def vector_second_batch_fails(kit: Kit) -> None:
    """The second of two batches fails: it goes back unflagged, and the pass ends."""
    a, b, c, d, e, f, g = _apart(kit, 112, 7, capacity=2)
    kit.host.fail_calls = {2}
    kit.reporting.register(kit.device)
    kit.reporting.run_now()
    expect_batches(kit, [[b, a], [d, c]])
    if kit.revision.putback_to_tail:
        final = [e, f, g, b, a, d, c]
    else:
        final = [c, d, e, f, g, a, b] if kit.revision.rotate else [c, d, a, b, e, f, g]
    expect_list(kit, 3, MIGRATE_MOVABLE, final)
    reported = [pfn for pfn in (a, b, c, d, e, f, g) if kit.zones[0].is_reported(pfn)]
    kit.expect(reported == [a, b], "S14", lambda: f"Reported are {reported}, expected {[a, b]}")
    kit.reporting.unregister(kit.device)


@scenario
def vector_orders_ascend(kit: Kit) -> None:
    """Blocks of two orders and types in one batch: small orders first, unmovable before movable."""
    kit.build(("Normal", 64), capacity=4, order=2)
    zone = kit.zones[0]
    pfns = kit.alloc_all(2)
    zone.claim_range(pfns[-1], 1)
    kit.free(pfns[-1], 1)
    zone.set_block_type(pfns[0], MIGRATE_UNMOVABLE, move=False)
    for pfn in (pfns[0], pfns[4], pfns[5], pfns[8], pfns[12]):
        kit.free(pfn, 2)
    kit.reporting.register(kit.device)
    kit.reporting.run_now()
    # order 2: unmovable pfns[0], then movable pfns[12], pfns[8]; order 3: the pair pfns[4] + pfns[5]
    expect_batches(kit, [[pfns[4], pfns[8], pfns[12], pfns[0]]])
    back = [pfns[8], pfns[12], pfns[0]]
    expect_list(kit, 2, MIGRATE_MOVABLE, back if kit.revision.putback_to_tail else back[::-1])
    kit.reporting.unregister(kit.device)


# -- records -------------------------------------------------------------------------------------------------


@scenario
def vector_lost_records_are_counted(kit: Kit) -> None:
    """Tell five events while nobody collects and there is room for two: one mark stands for three that are lost."""
    kit.build(("Normal", 32))
    tracer = Tracer(kit.sync, records_max=2)
    trace = tracer.thread_trace()
    for number in range(5):
        trace("split_page", number, 0)
    ((buffer, records),) = tracer.collect()
    found = [record[0] for record in records], buffer.lost
    expect(kit, "log", "records, and how many are lost", found, (["split_page", "split_page", "lost"], 3))


@scenario
def vector_pages_of_64_kib(kit: Kit) -> None:
    """Report blocks of pages of 64 KiB, as arm64 may have them: each is as many bytes long as its pages (S13)."""
    kit.build(("Normal", 64), layout=Layout(nr_orders=5, pageblock_order=3, page_shift=16))
    one_pass(kit)
    kit.settle()
    kit.reporting.unregister(kit.device)


@scenario
def vector_what_a_worker_counts(kit: Kit) -> None:
    """Refuse two batches, then isolations of two passes: the first error, and the last pass's refusals, are kept."""
    kit.build(("Normal", 64), capacity=1)
    kit.host.fail_calls = {1, 2}
    one_pass(kit)
    kit.reporting.flush()
    kit.reporting.run_now()
    kit.host.check_stats(kit.reporting.stats)
    zone = kit.zones[0]
    zone.set_watermarks(64, 0, 0)
    for _ in range(2):
        kit.reporting.flush()
        kit.reporting.run_now()
    expect(kit, "stats", "refusals of the last pass", kit.oracle.judge.refused_in_pass, 1)
    kit.host.check_stats(kit.reporting.stats)
    kit.reporting.unregister(kit.device)
