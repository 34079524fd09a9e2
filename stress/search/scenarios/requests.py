"""Scenarios of one task: what a request may use, what zones keep back, and what becomes of the memory behind pages.

Expected values are worked out from the kernel's rules (`__zone_watermark_ok`, `setup_per_zone_lowmem_reserve`,
`build_zonelists`, `gfp_to_alloc_flags`), and from what the operating system promises of discarded memory.
"""

from __future__ import annotations

from collections import deque

from pagealloc.errors import RamError
from pagealloc.gfp import (
    GFP_ATOMIC,
    GFP_DMA32,
    GFP_HIGH,
    GFP_HIGHMEM,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    GFP_MOVABLE,
)
from pagealloc.inventory import set_uptodate
from pagealloc.memory import Memory, ZoneSpec
from pagealloc.mmzone import (
    ALLOC_HIGHATOMIC,
    ALLOC_MIN_RESERVE,
    ALLOC_NON_BLOCK,
    ALLOC_OOM,
    MIGRATE_HIGHATOMIC,
    MIGRATE_MOVABLE,
    MIGRATE_UNMOVABLE,
    PAGE_SIZE,
)
from pagealloc.ram import Ram, RamKind
from pagealloc.sync import Event
from stress.search.kit import LAYOUT, Kit
from stress.search.scenarios.catalogue import scenario
from stress.search.scenarios.vectors import expect, expect_types, one_pass
from workers.allocators import Allocator, Held, Load, Mix, Rhythm
from workers.reporters import Discard, FaultInjector, Null, Sleep

FILLING = 0xA5


# -- what zones keep back ------------------------------------------------------------------------------------


@scenario
def vector_marks_of_a_memory(kit: Kit) -> None:
    """Two zones of one node share min_free_kbytes out, and the lower one keeps 1/256 of the higher one's pages."""
    specs = [ZoneSpec("DMA32", 1024), ZoneSpec("Normal", 8192)]
    memory = Memory(
        specs, revision=kit.revision, sync=kit.sync, ram=None, page_sets=False, min_free_kbytes=1024
    )
    low, normal = memory.zones
    expect(kit, "S16", "marks of the lower zone", low.watermark, [28, 35, 42])
    expect(kit, "S16", "marks of the higher zone", normal.watermark, [227, 283, 339])
    expect(kit, "S16", "reserve of the lower zone", low.lowmem_reserve, [0, 0, 32, 32, 32])
    expect(kit, "S16", "reserve of the higher zone", normal.lowmem_reserve, [0, 0, 0, 0, 0])


@scenario
def vector_marks_of_tokens(kit: Kit) -> None:
    """High memory, and since v6.6 a zone Movable, keeps a token; its marks are as far apart as its share would be."""
    specs = [ZoneSpec("Normal", 2048), ZoneSpec("HighMem", 40_960), ZoneSpec("Movable", 20_480)]
    normal, high, movable = _unbooted(kit, specs, min_free_kbytes=1024).zones
    if kit.revision.movable_keeps_token:
        # 256 pages are shared out among Normal's 2048: shares of 256, 5120 and 2560; a 1024th of them is a token
        marks = [[256, 320, 384], [40, 40 + 1280, 40 + 2560], [32, 32 + 640, 32 + 1280]]
    else:  # among 22528: shares of 23, 465 and 232
        marks = [[23, 28, 33], [40, 40 + 116, 40 + 232], [232, 232 + 58, 232 + 116]]
    expect(kit, "S16", "marks", [normal.watermark, high.watermark, movable.watermark], marks)


@scenario
def vector_marks_of_nodes(kit: Kit) -> None:
    """A zone keeps pages back for zones above it on its own node; what all keep is a root of the size of low memory."""
    specs = [ZoneSpec("Normal", 2048), ZoneSpec("Normal", 8192, 1), ZoneSpec("Movable", 4096, 1)]
    alone, below, _ = _unbooted(kit, specs).zones
    expect(kit, "S16", "reserve of a zone that is alone on its node", alone.lowmem_reserve, [0] * 5)
    expect(kit, "S16", "reserve of one with 4096 pages above", below.lowmem_reserve, [0, 0, 0, 0, 4096 // 32])
    # sqrt(16 * 16 MiB) in KiB, for the 4096 pages of low memory alone: 512
    low, _ = _unbooted(kit, [ZoneSpec("Normal", 4096), ZoneSpec("HighMem", 40_960)]).zones
    expect(kit, "S16", "min mark of all low memory", low.watermark[0], 512 // 4)


def _unbooted(kit: Kit, specs: list[ZoneSpec], min_free_kbytes: int | None = None) -> Memory:
    """Build a memory that nobody watches: only what it keeps back is asked."""
    return Memory(
        specs,
        revision=kit.revision,
        sync=kit.sync,
        ram=None,
        page_sets=False,
        min_free_kbytes=min_free_kbytes,
    )


@scenario
def vector_zones_of_requests(kit: Kit) -> None:
    """A request may use high memory if it says so, the zone Movable if it is movable too, and DMA32 if it must."""
    kit.build(("DMA32", 32), ("Normal", 32), ("Movable", 32))
    for gfp, name in (
        (GFP_KERNEL | GFP_MOVABLE, "Normal"),
        (GFP_HIGHUSER_MOVABLE, "Movable"),
        (GFP_KERNEL | GFP_HIGHMEM, "Normal"),
        (GFP_KERNEL | GFP_DMA32, "DMA32"),
    ):
        pfn = kit.memory.alloc_pages(gfp, 0)
        expect(kit, "vectors", f"the zone for {gfp:#x}", kit.memory.zone_of(pfn or 0).name, name)


@scenario
def vector_a_boost_yields_to_an_urgent_page(kit: Kit) -> None:
    """Ask urgently while the marks are boosted beyond what is free: a page is served, and nothing larger."""
    kit.build(("Normal", 64), marks=(2, 3, 4))
    kit.zones[0].set_watermark_boost(200)
    served = [kit.memory.alloc_pages(GFP_HIGH, order) is not None for order in (1, 0)]
    expect(kit, "S16", "orders 1 and 0 are served", served, [False, True])


@scenario
def vector_marks_of_a_request(kit: Kit) -> None:
    """A mark that is just reached is missed; who is urgent may go to half of it, and who may not wait to 3/8."""
    kit.build(("Normal", 64))
    zone = kit.zones[0]
    urgent = ALLOC_MIN_RESERVE | ALLOC_NON_BLOCK
    for mark, flags, passes in (
        (63, 0, True),
        (64, 0, False),
        (64, ALLOC_NON_BLOCK, False),
        (127, ALLOC_MIN_RESERVE, False),
        (126, ALLOC_MIN_RESERVE, True),
        (168, urgent, True),
        (172, urgent, False),
    ):
        found = zone.zone_watermark_ok(0, mark, 0, flags)
        expect(kit, "S16", f"64 free pages are above {mark} with flags {flags:#x}", found, passes)


@scenario
def vector_a_reserved_block_is_for_the_urgent(kit: Kit) -> None:
    """When the reserve alone has a block that is large enough, a zone has one for urgent and dying requests only."""
    kit.build(("Normal", 64))
    zone = kit.zones[0]
    reserved, *others = kit.alloc_all(3)
    zone.set_block_type(reserved, MIGRATE_HIGHATOMIC, move=False)
    for pfn in range(others[0], others[0] + 8, 2):  # single pages of other types, enough for any mark
        zone.claim_range(pfn, 0)
        kit.free(pfn, 0)
    kit.free(reserved, 3)
    for flags, passes in (
        (0, False),
        (ALLOC_NON_BLOCK, False),
        (ALLOC_MIN_RESERVE, False),
        (ALLOC_HIGHATOMIC, True),
        (ALLOC_OOM, True),
    ):
        found = zone.zone_watermark_ok(1, 0, 0, flags)
        expect(kit, "S16", f"there is a block of order 1 for flags {flags:#x}", found, passes)


@scenario
def vector_the_fast_path_counts_the_request(kit: Kit) -> None:
    """A block that would take the preferred zone below its low mark comes from the zone below it."""
    kit.build(("DMA32", 64), ("Normal", 64))
    low, normal = kit.zones
    normal.set_watermarks(2, 60, 62)
    pfn = kit.memory.alloc_pages(GFP_KERNEL | GFP_MOVABLE, 3)
    expect(kit, "S16", "the zone that serves", kit.memory.zone_of(pfn or 0).name, low.name)
    pfn = kit.memory.alloc_pages(GFP_KERNEL | GFP_MOVABLE, 2)
    expect(kit, "S16", "the zone that serves a smaller block", kit.memory.zone_of(pfn or 0).name, normal.name)


@scenario
def vector_nodes(kit: Kit) -> None:
    """A request begins at its own node, whatever was asked before, and goes on to the node behind it."""
    specs = [ZoneSpec("Normal", 32, node) for node in range(3)]
    memory = Memory(specs, layout=LAYOUT, revision=kit.revision, sync=kit.sync, ram=None, page_sets=False)
    for zone in memory.zones:
        zone.set_watermarks(0, 0, 0)
    served = [memory.zone_of(memory.alloc_pages(GFP_KERNEL, 4, node) or 0).node for node in (0, 1, 1, 1)]
    expect(kit, "vectors", "nodes that serve requests for nodes 0, 1, 1, 1", served, [0, 1, 1, 2])


# -- the high-atomic reserve ---------------------------------------------------------------------------------


@scenario
def vector_urgent_requests(kit: Kit) -> None:
    """Urgent blocks, but no urgent page, keep a pageblock for the next one; who may not wait gets it last."""
    kit.build(("Normal", 832))  # 1 % of it is a pageblock: in less, kernels since 6.12 reserve none
    zone = kit.zones[0]
    zone.set_watermarks(0, 832, 832)  # every request takes the slow path
    kit.memory.alloc_pages(GFP_ATOMIC, 0)
    expect(kit, "vectors", "pages reserved by an urgent page", zone.nr_reserved_highatomic, 0)
    kit.memory.alloc_pages(GFP_ATOMIC, 1)
    expect(kit, "vectors", "pages reserved by an urgent block", zone.nr_reserved_highatomic, 8)
    kit.alloc_all(0)
    expect(kit, "vectors", "a page without the reserve", zone.rmqueue_buddy(0, MIGRATE_MOVABLE), -1)
    pfn = zone.rmqueue_buddy(0, MIGRATE_MOVABLE, ALLOC_NON_BLOCK)
    expect(kit, "vectors", "a page out of the reserve is found", pfn >= 0, True)
    expect(kit, "vectors", "the reserve is given back", zone.unreserve_highatomic(MIGRATE_MOVABLE), True)


@scenario
def vector_a_request_in_distress(kit: Kit) -> None:
    """A request that finds nothing else gets the reserve, a pageblock after the other until one of them has enough."""
    kit.build(
        ("Normal", 1632)
    )  # 1 % of it is two pageblocks: in less, kernels since 6.12 reserve one, or none
    zone = kit.zones[0]
    zone.set_watermarks(0, 1632, 1632)  # every request takes the slow path
    pfn = kit.memory.alloc_pages(GFP_ATOMIC, 2)
    for _ in range(2):
        kit.memory.alloc_pages(GFP_ATOMIC, 2)
    assert pfn is not None
    zone.claim_range(pfn, 0)
    kit.memory.free_pages(pfn)
    kit.alloc_all(0)
    expect(kit, "vectors", "pages reserved", zone.nr_reserved_highatomic, 16)
    expect(
        kit, "vectors", "free blocks of orders 0, 1 and 2 in the reserve", list(zone.nr_free[:3]), [1, 0, 1]
    )
    found = kit.memory.alloc_pages(GFP_KERNEL, 2)
    expect(
        kit, "vectors", "a block out of the second pageblock of the reserve is found", found is not None, True
    )
    expect(kit, "vectors", "pages reserved afterwards", zone.nr_reserved_highatomic, 0)


@scenario
def vector_who_wakes_kswapd(kit: Kit) -> None:
    """A boost goes when somebody comes who may wake kswapd, and stays for whoever may not; in all zones it may use."""
    kit.build(("DMA32", 64), ("Normal", 64))
    for zone in kit.memory.zones:
        zone.set_watermarks(0, 64, 64)
        zone.set_watermark_boost(5)
    kit.memory.alloc_pages(GFP_HIGH, 0)
    boosts = [zone.watermark_boost for zone in kit.memory.zones]
    expect(kit, "vectors", "the boosts after a request that wakes nobody", boosts, [5] * len(boosts))
    kit.memory.alloc_pages(GFP_KERNEL, 0)
    boosts = [zone.watermark_boost for zone in kit.memory.zones]
    expect(kit, "vectors", "the boosts after one that does", boosts, [0] * len(boosts))


@scenario
def vector_claiming_counts_lru_pages(kit: Kit) -> None:
    """A movable request claims a pageblock when its free pages and its pages on an LRU list are half of it."""
    for uptodate in (False, True):
        kit.build(("Normal", 32))
        zone = kit.zones[0]
        pfn = kit.alloc_all(3)[0]
        zone.set_block_type(pfn, MIGRATE_UNMOVABLE, move=False)
        zone.claim_range(pfn + 4, 1)
        zone.claim_range(pfn + 6, 1)
        zone.lru_add(pfn + 4)
        if uptodate:
            set_uptodate(zone, pfn + 4)
        kit.free(pfn + 6, 1)
        expect(kit, "vectors", "the block that is stolen", kit.alloc(1), pfn + 6)
        expect_types(kit, [pfn], [MIGRATE_MOVABLE])


@scenario
def vector_pieces_of_an_lru_block(kit: Kit) -> None:
    """Split a block that is on an LRU list: its pieces are on it, too, and a movable request claims the pageblock."""
    kit.build(("Normal", 32))
    zone = kit.zones[0]
    pfn = kit.alloc_all(3)[0]
    zone.set_block_type(pfn, MIGRATE_UNMOVABLE, move=False)
    zone.lru_add(pfn)
    zone.claim_range(pfn + 6, 1)
    kit.free(pfn + 6, 1)
    expect(kit, "vectors", "the block that is stolen", kit.alloc(1), pfn + 6)
    expect_types(kit, [pfn], [MIGRATE_MOVABLE])


@scenario
def vector_orders_on_page_sets(kit: Kit) -> None:
    """Page sets hold single pages, and since v5.13 small blocks too."""
    kit.build(("Normal", 64), page_sets=True)
    page_sets = kit.memory.page_sets
    assert page_sets is not None
    small = page_sets.holds(1), page_sets.holds(2)
    expect(kit, "vectors", "blocks of orders 1 and 2 rest", small, (kit.revision.pcp_max_order >= 2,) * 2)


# -- the memory behind the pages -----------------------------------------------------------------------------


def _with_ram(kit: Kit, kind: RamKind) -> Ram:
    """Build two zones over one stretch of memory, every byte of it filled."""
    kit.build(("DMA32", 32), ("Normal", 32), capacity=2)
    start_pfn = kit.zones[0].start_pfn
    ram = kit.memory.ram = Ram(start_pfn, kit.zones[-1].end_pfn - start_pfn, kind)
    for zone in kit.memory.zones:
        zone.ram = ram
    ram.memory[:] = bytes([FILLING]) * ram.nr_bytes
    return ram


def _discarded(kit: Kit, kind: RamKind) -> None:
    ram = _with_ram(kit, kind)
    free, in_use, *others = sorted(kit.alloc_all(3, zone=0))  # what is in use must stay as it is
    for pfn in (free, *others):
        kit.free(pfn, 3)
    kit.zones[0].claim_range(in_use, 2)
    kit.free(in_use + 4, 2)  # it keeps the zone above its mark while both blocks are in flight
    kit.host.inner = Discard()
    one_pass(kit)
    told = {pfn + k for blocks in kit.host.taken for pfn, order in blocks for k in range(1 << order)}
    for zone in kit.zones:
        for pfn in range(zone.start_pfn, zone.end_pfn):
            page = bytes(ram.view(pfn))
            expected = bytes(PAGE_SIZE) if pfn in told else bytes([FILLING]) * PAGE_SIZE
            what = "was reported, and is not all zero" if pfn in told else "was not reported, and has changed"
            kit.expect(page == expected, "S13", lambda: f"pfn {pfn:#x} {what}")  # noqa: B023
    kit.reporting.unregister(kit.device)
    kit.memory.close()


@scenario
def discarded_memory_is_gone(kit: Kit) -> None:
    """Discard what is reported of two zones: just those pages are zero, and no other one has changed (S13)."""
    _discarded(kit, "anonymous")


@scenario
def discarded_memfd_is_gone(kit: Kit) -> None:
    """The same with memory in a file: the holes are punched where the blocks are (S13)."""
    _discarded(kit, "memfd")


@scenario
def a_refused_discard_is_a_failure(kit: Kit) -> None:
    """The operating system refuses to take memory: the batch has failed, and nothing becomes Reported (S14)."""
    ram = _with_ram(kit, "anonymous")

    def refuse(offset: int, nr_bytes: int) -> None:
        raise RamError(f"range {offset:#x} + {nr_bytes:#x} stays here")

    vars(ram)["discard"] = refuse
    kit.host.inner = Discard()
    one_pass(kit)
    expect(kit, "S14", "failed batches", kit.reporting.stats.failed_batches, 1)
    expect(kit, "S14", "Reported blocks", [sum(zone.nr_reported) for zone in kit.zones], [0, 0])
    kit.reporting.unregister(kit.device)


class _Audit:
    """Hears of two allocations; at the second it wipes the last page of the first one's block, and stops the thread."""

    def __init__(self, ram: Ram, stop: Event) -> None:
        self.ram, self.stop = ram, stop
        self.blocks: list[tuple[int, int]] = []
        self.told: list[str] = []

    def allocated(self, pfn: int, order: int, stamp: int) -> None:
        if self.blocks:
            first, of = self.blocks[0]
            self.ram.zero(first + (1 << of) - 1, 0)
            self.stop.set()
        self.blocks.append((pfn, order))

    def freeing(self, pfn: int, order: int, stamp: int) -> None:
        pass

    def violation(self, text: str) -> None:
        self.told.append(text)


@scenario
def an_owner_looks_at_every_page(kit: Kit) -> None:
    """An allocator thread that gave its block away gets another one; who got it sees that its last page was wiped."""
    ram = _with_ram(kit, "anonymous")
    stop, go = kit.sync.event("stop"), kit.sync.event("go")
    go.set()
    audit = _Audit(ram, stop)
    inboxes: list[deque[Held]] = [deque(), deque()]
    full = (Rhythm(fill=1.0, seconds=1.0),)
    load = Load(4, full, Mix(((2, 2), 1)), Mix((GFP_KERNEL, 1)), towards=1.0, handover=1.0, inbox_max=1)
    giver, taker = (
        Allocator(
            number, kit.memory, kit.sync, kit.sync.rng(1), kit.sync.rng(2), load,
            audit=audit, inboxes=inboxes, stop=stop, go=go,
        )
        for number in range(2)
    )  # fmt: skip
    giver.run()
    taker.empty_inbox()
    expect(kit, "witness", "frees of the two blocks", (giver.stats.frees, taker.stats.frees), (1, 1))
    expect(kit, "witness", "blocks with a wiped page that were seen", len(audit.told), 1)
    kit.memory.close()


class _Most:
    """Hears what an allocator thread allocates itself; stops it at its eighth block."""

    def __init__(self, stop: Event) -> None:
        self.stop = stop
        self.held: set[int] = set()
        self.most = self.allocs = 0

    def allocated(self, pfn: int, order: int, stamp: int) -> None:
        self.held.add(pfn)
        self.most = max(self.most, len(self.held))
        self.allocs += 1
        if self.allocs == 8:
            self.stop.set()

    def freeing(self, pfn: int, order: int, stamp: int) -> None:
        self.held.discard(pfn)

    def violation(self, text: str) -> None:
        raise AssertionError(text)


@scenario
def who_frees_for_others_keeps_to_his_own(kit: Kit) -> None:
    """An allocator thread frees what another one handed over: it may hold no more than its own four pages then."""
    kit.build(("Normal", 64))
    stop, go = kit.sync.event("stop"), kit.sync.event("go")
    go.set()
    audit = _Most(stop)
    given = kit.memory.alloc_pages(GFP_KERNEL, 3)
    assert given is not None
    full = (Rhythm(fill=1.0, seconds=1.0),)
    load = Load(4, full, Mix(((0, 0), 1)), Mix((GFP_KERNEL, 1)), towards=1.0, handover=0.0, inbox_max=1)
    thread = Allocator(
        0, kit.memory, kit.sync, kit.sync.rng(1), kit.sync.rng(2), load,
        audit=audit, inboxes=[deque([Held(given, 3, 0)])], stop=stop, go=go,
    )  # fmt: skip
    thread.run()
    expect(kit, "witness", "single pages held at most, and in the end", (audit.most, len(audit.held)), (4, 0))


@scenario
def a_lost_batch_has_failed(kit: Kit) -> None:
    """The completion of a batch is lost until somebody releases it: it has failed, nothing becomes Reported (S14)."""
    kit.build(("Normal", 64), capacity=2)
    injector = FaultInjector(Null(), kit.sync, kit.sync.rng(1), lose_rate=1.0)
    kit.host.inner = injector
    kit.spawn("release", injector.release)
    one_pass(kit)
    expect(kit, "S14", "failed batches", kit.reporting.stats.failed_batches, 1)
    expect(kit, "S14", "Reported blocks", sum(kit.zones[0].nr_reported), 0)
    kit.reporting.unregister(kit.device)


class _Ends:
    """Draws the least and the most that there is, in turns."""

    def __init__(self) -> None:
        self._drawn = 1.0

    def random(self) -> float:
        self._drawn = 1.0 - self._drawn
        return self._drawn

    def choose(self, count: int) -> int:
        return int(self._drawn * (count - 1))


@scenario
def a_sleep_is_as_long_as_asked(kit: Kit) -> None:
    """A reporter sleeps between one second and two: the least that is drawn is one, and the most is two."""
    kit.build(("Normal", 32))
    reporter = Sleep(Null(), kit.sync, _Ends(), 1.0, 2.0)
    took_s = []
    for _ in range(2):
        begin_s = kit.sync.monotonic()
        reporter.report(kit.zones[0], ())
        took_s.append(round(kit.sync.monotonic() - begin_s, 2))
    expect(kit, "vectors", "seconds", took_s, [1.0, 2.0])


@scenario
def an_injected_failure_comes_first(kit: Kit) -> None:
    """A batch that is made to fail never reaches the reporter behind it: the host has nothing of it (S13)."""
    kit.build(("Normal", 32), capacity=2)
    seen: list[int] = []

    class Inner:
        def report(self, zone: object, batch: object) -> None:
            seen.append(1)

    kit.host.inner = FaultInjector(Inner(), kit.sync, kit.sync.rng(1), fail_rate=1.0)
    one_pass(kit)
    expect(kit, "S13", "batches behind the failure", len(seen), 0)
    kit.reporting.unregister(kit.device)


@scenario
def resident_memory_is_counted_once(kit: Kit) -> None:
    """Touch pages in two of the gibibytes that the operating system is asked for one by one: each counts once."""
    kit.build(("Normal", 32))
    with_two_gib = Ram(16, (2 << 30) // PAGE_SIZE)
    for offset in (0, PAGE_SIZE, (1 << 30) + PAGE_SIZE):
        with_two_gib.memory[offset] = 1
    expect(kit, "vectors", "resident pages", with_two_gib.resident_bytes() // PAGE_SIZE, 3)
    with_two_gib.close()


@scenario
def resident_memory_of_a_range(kit: Kit) -> None:
    """Ask for the resident memory of ranges of one that is all in use: all of the range is, and nothing beside it."""
    kit.build(("Normal", 32))
    kinds: tuple[RamKind, ...] = ("anonymous", "memfd")
    for kind in kinds:
        ram = Ram(16, 64, kind)
        ram.memory[:] = b"\1" * ram.nr_bytes
        for first, count in ((0, 64), (40, 8), (0, 1), (63, 1)):
            found = ram.resident_in(first * PAGE_SIZE, count * PAGE_SIZE) // PAGE_SIZE
            expect(kit, "vectors", f"resident pages of {count} from {first} on", found, count)
        ram.close()


@scenario
def large_blocks_are_zeroed_whole(kit: Kit) -> None:
    """Zero a block of 8 MiB in memory that is all ones: it is zero to its end, and not beyond (S25)."""
    kit.build(("Normal", 32))
    ram = Ram(0, 4096)
    ram.memory[:] = b"\1" * ram.nr_bytes
    ram.zero(0, 11)
    first = bytes(ram.memory).find(b"\1") // PAGE_SIZE
    expect(kit, "S25", "the first page that is not zero", first, 1 << 11)
    ram.close()
