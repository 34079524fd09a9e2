"""The front that people use: zones with real memory behind them, `alloc_pages` and `free_pages`.

An allocation walks its zonelist, from the zone it would like best down to the scarcest one it may use, and
takes the first that stays above its watermark (`get_page_from_freelist`). If none does, the slow path goes
down to the min watermark, then drains every CPU's page set and releases a high-atomic pageblock, and
then gives up. There is nothing to reclaim here, so kswapd's only lasting effect, taking a watermark boost
back, happens at once.

A page is named by its pfn, as the kernel names it by its `struct page`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, Self

from pagealloc.errors import ForeignPfn, MemoryClosed, TornZone
from pagealloc.gfp import (
    GFP_DIRECT_RECLAIM,
    GFP_KSWAPD_RECLAIM,
    GFP_THISNODE,
    GFP_ZERO,
    gfp_migratetype,
    gfp_to_alloc_flags,
    gfp_zone,
)
from pagealloc.mmzone import (
    ALLOC_HIGHATOMIC,
    ALLOC_KSWAPD,
    ALLOC_MIN_RESERVE,
    ALLOC_NOFRAGMENT,
    ALLOC_WMARK_MASK,
    WMARK_HIGH,
    WMARK_LOW,
    WMARK_MIN,
    ZONE_NAMES,
    Layout,
)
from pagealloc.pcp import CPUS, PageSets
from pagealloc.ram import Ram, RamKind
from pagealloc.revision import DEFAULT, Revision
from pagealloc.sync import Sync
from pagealloc.sync_real import RealSync
from pagealloc.tracepoints import Trace
from pagealloc.watermark import (
    default_min_free_kbytes,
    setup_per_zone_lowmem_reserve,
    setup_per_zone_wmarks,
)
from pagealloc.zone import Zone

WATERMARK_BOOST_FACTOR = 15_000


@dataclass(frozen=True, slots=True)
class ZoneSpec:
    """A zone to build: one of `ZONE_NAMES`, its size in pages, the node it belongs to.

    Without a `start_pfn` it begins where the zone before it ends.
    """

    name: str
    nr_pages: int
    node: int = 0
    start_pfn: int | None = None

    def __post_init__(self) -> None:
        if self.name not in ZONE_NAMES:
            raise ValueError(f"zone name {self.name!r}, expected one of {', '.join(ZONE_NAMES)}")
        if self.nr_pages < 1:
            raise ValueError(f"zone {self.name} has {self.nr_pages} pages, expected 1 or more")
        if self.start_pfn is not None and self.start_pfn < 0:
            raise ValueError(f"zone {self.name} begins at pfn {self.start_pfn}, expected 0 or more")


class Request(NamedTuple):
    """Where a request may look for a block, and which lists (`struct alloc_context`)."""

    zonelist: tuple[Zone, ...]  # in the order they are tried
    highest: int  # zone that may be used, as an index into `ZONE_NAMES`
    migratetype: int


# What an allocation's first look needs, and the request for all that comes after it. A plain tuple: the interpreter
# takes one apart in a single step, a named one by an iterator, for 55 ns more.
FirstLook = tuple[
    Zone | None,  # the first of the zonelist
    # Of that zone: its list itself, not a copy, which would be one more look through the zone for each allocation.
    # So a zone changes its marks in place. One that puts a new list in their place lets allocations go by the old
    # marks, past the min mark, and nothing else looks wrong.
    list[int],
    int,  # highest
    int,  # pages
    int,  # migratetype
    int,  # alloc_flags of the first attempt
    PageSets | None,  # if blocks of this order may rest on them
    Ram | None,  # to zero the block in
    Request,
]


class Memory:
    """Zones over one stretch of RAM.

    `ram` is the kind of memory behind the pages, or None for bookkeeping without memory; `page_sets` turns
    the page sets on, and `cpus` says how many CPUs share a zone's limit. Raises ValueError for zones that
    overlap or repeat, RamError when the operating system refuses the memory.
    """

    zone_class: type[Zone] = Zone  # what a memory is made of; instruments put their own in its place

    def __init__(
        self,
        specs: Sequence[ZoneSpec],
        *,
        layout: Layout | None = None,
        revision: Revision = DEFAULT,
        sync: Sync | None = None,
        ram: RamKind | None = "anonymous",
        page_sets: bool = True,
        min_free_kbytes: int | None = None,
        watermark_boost_factor: int = WATERMARK_BOOST_FACTOR,
        cpus: int = CPUS,
        policy: Revision | None = None,
    ) -> None:
        if cpus < 1:
            raise ValueError(f"cpus is {cpus}, expected 1 or more")
        if policy is not None:  # the first name of `revision`, as programs that were written then have it
            revision = policy
        self.layout = layout if layout is not None else Layout()
        self.revision = revision
        self.sync: Sync = sync if sync is not None else RealSync()
        self.zones: list[Zone] = []
        for name, node, start_pfn, nr_pages in _place(specs, self.layout):
            zone = self.zone_class(
                name,
                start_pfn,
                nr_pages,
                layout=self.layout,
                revision=revision,
                sync=self.sync,
                zones_below=self.zones,
                node=node,
                watermark_boost_factor=watermark_boost_factor,
            )
            zone.memblock_free_all()
            self.zones.append(zone)
        if min_free_kbytes is None:
            min_free_kbytes = default_min_free_kbytes(self.zones)
        setup_per_zone_wmarks(self.zones, min_free_kbytes)
        setup_per_zone_lowmem_reserve(self.zones)
        self.ram: Ram | None = None
        if ram is not None:
            start_pfn = self.zones[0].start_pfn
            self.ram = Ram(start_pfn, self.zones[-1].end_pfn - start_pfn, ram, self.layout.page_shift)
            for zone in self.zones:
                zone.ram = self.ram
        self.page_sets = PageSets(self.zones, revision, self.sync, cpus) if page_sets else None
        self.trace: Trace | None = None  # told of every allocation and free
        self.closed = False  # whether `close` was called; everything else raises MemoryClosed then
        self._nodes = sorted({zone.node for zone in self.zones})
        self._last_zone = self.zones[-1]
        self._starts = [zone.start_pfn for zone in self.zones]
        # By node, flags and order, as they come: three looks by a number cost less than one by a tuple of them.
        self._requests: dict[int, dict[int, dict[int, FirstLook]]] = {}

    # -- allocating ----------------------------------------------------------------------------------

    def alloc_pages(self, gfp: int, order: int = 0, node: int = 0) -> int | None:
        """Allocate 2**`order` contiguous pages and return the first one's pfn, or None (`__alloc_pages`).

        `gfp` says which zones, which migratetype and which reserves may be used; `node` is where the search
        begins. Pfn 0 is a page like any other, so test for None.
        """
        try:
            known = self._requests[node][gfp][order]  # not `get`: without a GIL that takes the dict's lock
        except KeyError:
            known = self._prepare(gfp, order, node)
        zone, fast_marks, highest, nr_pages, migratetype, alloc_flags, page_sets, ram_to_zero, request = known
        pfn = -1
        try:
            # Nearly always the preferred zone is far above its mark and has a block of the type: look no closer.
            if zone is not None and zone.nr_free_pages - nr_pages >= fast_marks[highest]:
                if page_sets is None:
                    # A block that it gets is proof enough that there was one.
                    pfn = zone.rmqueue_buddy(order, migratetype, alloc_flags)
                elif zone.lock.refusal is None and (order == 0 or zone.has_fitting(order, migratetype)):
                    pfn = page_sets.alloc(zone, order, migratetype, alloc_flags)
                if zone.boosted:
                    zone.wakeup_kswapd()
            if pfn < 0:
                pfn = self._get_page_from_freelist(request, order, alloc_flags)
                if pfn < 0:
                    pfn = self._alloc_pages_slowpath(request, order, gfp)
            trace = self.trace
            if trace is not None:
                trace("mm_page_alloc", pfn, order, migratetype, gfp)
            if pfn < 0:
                return None
            if ram_to_zero is not None:
                ram_to_zero.zero(pfn, order)
        except BaseException:
            if pfn >= 0:
                with suppress(TornZone, MemoryClosed):  # what tore it is what the caller hears
                    self.free_pages(pfn, order)  # nobody was told of it
            raise
        return pfn

    def _prepare(self, gfp: int, order: int, node: int) -> FirstLook:
        """Work out what a request is, once for each combination (`prepare_alloc_pages`)."""
        if not 0 <= order < self.layout.nr_orders:
            raise ValueError(f"order is {order}, expected 0 .. {self.layout.top_order}")
        highest = gfp_zone(gfp)
        zonelist = self._build_zonelist(highest, node, this_node=bool(gfp & GFP_THISNODE))
        alloc_flags = WMARK_LOW | self._alloc_flags_nofragment(zonelist)
        if gfp & GFP_KSWAPD_RECLAIM:
            alloc_flags |= ALLOC_KSWAPD
        migratetype = gfp_migratetype(gfp)
        known = (
            zonelist[0] if zonelist else None,
            zonelist[0].fast_marks if zonelist else [],
            highest,
            1 << order,
            migratetype,
            alloc_flags,
            self.page_sets if self.zones[0].pcp_allowed_order(order) else None,
            self.ram if gfp & GFP_ZERO else None,
            Request(zonelist, highest, migratetype),
        )
        # Built twice at worst, and equal.
        self._requests.setdefault(node, {}).setdefault(gfp, {})[order] = known
        return known

    def _get_page_from_freelist(self, request: Request, order: int, alloc_flags: int) -> int:
        zonelist = request.zonelist
        for zone in zonelist:
            zone.lock.check()
            if alloc_flags & ALLOC_NOFRAGMENT and zone.node != zonelist[0].node:
                break  # mixing types at home is better than going far
            if self.revision.pcp_tunes_high and not zone.below_high:
                above = alloc_flags & ~ALLOC_WMARK_MASK | WMARK_HIGH
                zone.below_high = not self._zone_watermark_fast(zone, order, request.highest, above)
            if not self._zone_watermark_fast(zone, order, request.highest, alloc_flags):
                continue
            pfn = self._rmqueue(zone, order, request.migratetype, alloc_flags)
            if pfn >= 0:
                return pfn
        if alloc_flags & ALLOC_NOFRAGMENT:  # mixing types beats failing
            return self._get_page_from_freelist(request, order, alloc_flags & ~ALLOC_NOFRAGMENT)
        return -1

    def _rmqueue(self, zone: Zone, order: int, migratetype: int, alloc_flags: int) -> int:
        """Take a block from the page set, or past it when the set gets none; its pfn, or -1 (`rmqueue`)."""
        page_sets = self.page_sets
        pfn = -1 if page_sets is None else page_sets.alloc(zone, order, migratetype, alloc_flags)
        if pfn < 0:
            pfn = zone.rmqueue_buddy(order, migratetype, alloc_flags)
        elif alloc_flags & ALLOC_HIGHATOMIC:
            zone.reserve_highatomic(pfn, order)
        if zone.boosted:
            zone.wakeup_kswapd()
        return pfn

    def _alloc_flags_nofragment(self, zonelist: tuple[Zone, ...]) -> int:
        """Keep types apart as long as a lower zone could serve instead: where Normal is preferred over DMA32.

        Of several nodes, where that very node has a zone DMA32 (`alloc_flags_nofragment`, v5.7 to 6.12).
        """
        if not zonelist or zonelist[0].name != "Normal":
            return 0
        node = zonelist[0].node
        if len(self._nodes) > 1 and (node, "DMA32") not in [(zone.node, zone.name) for zone in zonelist]:
            return 0
        return ALLOC_NOFRAGMENT

    @staticmethod
    def _zone_watermark_fast(zone: Zone, order: int, highest: int, alloc_flags: int) -> bool:
        mark = zone.wmark_pages(alloc_flags & ALLOC_WMARK_MASK)
        reserve = zone.lowmem_reserve[highest]
        if zone.zone_watermark_ok(order, mark, reserve, alloc_flags):
            return True
        # A boost exists to make room for larger blocks; it may not starve an urgent single page.
        urgent = order == 0 and alloc_flags & ALLOC_MIN_RESERVE and not alloc_flags & ALLOC_WMARK_MASK
        return bool(
            urgent
            and zone.watermark_boost
            and zone.zone_watermark_ok(0, zone.watermark[WMARK_MIN], reserve, alloc_flags)
        )

    def _alloc_pages_slowpath(self, request: Request, order: int, gfp: int) -> int:
        if gfp & GFP_KSWAPD_RECLAIM:
            for zone in request.zonelist:
                zone.wakeup_kswapd()
        alloc_flags = gfp_to_alloc_flags(gfp, order)
        pfn = self._get_page_from_freelist(request, order, alloc_flags)
        if pfn >= 0 or not gfp & GFP_DIRECT_RECLAIM:
            return pfn
        self.drain_all_pages()
        pfn = self._get_page_from_freelist(request, order, alloc_flags)
        while pfn < 0 and self._unreserve_highatomic(request):
            pfn = self._get_page_from_freelist(request, order, alloc_flags)
        return pfn

    @staticmethod
    def _unreserve_highatomic(request: Request) -> bool:
        for zone in request.zonelist:  # noqa: SIM110 - no generator: see `_build_zonelist`
            if zone.unreserve_highatomic(request.migratetype):
                return True
        return False

    def _build_zonelist(self, highest: int, node: int, *, this_node: bool) -> tuple[Zone, ...]:
        if node not in self._nodes:
            raise ValueError(f"node {node}, expected one of {', '.join(map(str, self._nodes))}")
        at = self._nodes.index(node)
        nodes = [node] if this_node else self._nodes[at:] + self._nodes[:at]
        return tuple(
            [  # a list: CPython 3.13 crashes when there is no memory to make a generator
                zone
                for wanted in nodes
                for name in ZONE_NAMES[highest::-1]
                for zone in self.zones
                if zone.node == wanted and zone.name == name
            ]
        )

    # -- freeing -------------------------------------------------------------------------------------

    def free_pages(self, pfn: int, order: int = 0) -> None:
        """Free a block that `alloc_pages` returned, with the order it was asked for; any thread may.

        Raises BadPage, and changes nothing, for everything else; MemoryClosed when `close` has freed the block already.
        """
        zone = self._last_zone  # nearly always by far the largest
        if not zone.start_pfn <= pfn < zone.end_pfn:
            zone = self.zone_of(pfn, order)
        trace = self.trace
        if trace is not None:
            trace("mm_page_free", pfn, order)
        page_sets = self.page_sets
        # A set does not ask at the zone's door, so a shut zone is not for sets; the free past them is turned away.
        if page_sets is None or zone.lock.refusal is not None or not page_sets.free(zone, pfn, order):
            zone.free_pages_ok(pfn, order)

    def zone_of(self, pfn: int, order: int = 0) -> Zone:
        """Return the zone that holds a page. Raises ForeignPfn when none does."""
        zone = self.zones[bisect_right(self._starts, pfn) - 1]
        if zone.start_pfn <= pfn < zone.end_pfn:
            return zone
        known = ", ".join(f"{z.name} {z.start_pfn:#x} .. {z.end_pfn - 1:#x}" for z in self.zones)
        raise ForeignPfn(pfn, order, "in no zone", f"a pfn of {known}")

    def run_on_cpu(self, cpu: int) -> None:
        """Put the calling thread on a CPU, whose page set it shares from now on; it had one to itself.

        Raises ValueError for a CPU that the machine has not got.
        """
        self._check()
        if self.page_sets is not None:
            self.page_sets.run_on_cpu(cpu)

    def refresh_vm_stats(self) -> int:
        """Let page sets shrink as every CPU's vmstat worker does once in a second; returns the pages moved."""
        self._check()
        return self.page_sets.refresh_vm_stats() if self.page_sets is not None else 0

    def drain_local_pages(self) -> int:
        """Return the page set of the calling thread's CPU to the zones; returns the pages moved."""
        self._check()
        return self.page_sets.drain_local() if self.page_sets is not None else 0

    def drain_all_pages(self) -> int:
        """Return every CPU's page set to the zones; returns the pages moved."""
        self._check()
        moved = self.page_sets.drain_all() if self.page_sets is not None else 0
        for zone in self.zones:
            zone.free_left()
        return moved

    def _check(self) -> None:
        """Raise TornZone, AnotherProcess or MemoryClosed unless every zone may be used."""
        for zone in self.zones:
            zone.lock.check()

    @property
    def policy(self) -> Revision:
        """The first name of `revision`."""
        return self.revision

    # -- memory and looking --------------------------------------------------------------------------

    def view(self, pfn: int, order: int = 0) -> memoryview:
        """Return the writable bytes of a block; its owner may use them until the block is freed.

        Raises ValueError in a memory without RAM, and BadPage for what is no block of one zone.
        """
        if self.ram is None:
            raise ValueError("this memory was built without RAM, so its pages have no bytes")
        zone = self.zone_of(pfn, order)
        zone.lock.check()
        zone.check_range(pfn, order)
        return self.ram.view(pfn, order)

    def nr_pages(self) -> int:
        """Return the pages of all zones."""
        return sum(zone.managed_pages for zone in self.zones)

    def nr_free_pages(self) -> int:
        """Return the pages on all free lists; page sets and batches in flight left out."""
        return sum(zone.nr_free_pages for zone in self.zones)

    def nr_page_set_pages(self, zone: Zone) -> int:
        """Return the pages of a zone that are free and rest on page sets, or wait at its door (`zone_lock`)."""
        resting = self.page_sets.nr_pages(zone) if self.page_sets is not None else 0
        return resting + zone.nr_left_pages()

    def resident_bytes(self) -> int:
        """Ask the operating system how much memory the pages take; 0 without RAM."""
        return self.ram.resident_bytes() if self.ram is not None else 0

    def close(self) -> None:
        """Return the RAM to the operating system, whoever has its pages; any thread may, at any time, and again.

        It waits for nobody. An operation that is under way ends as usual or raises MemoryClosed, and whatever comes
        later raises that, a free too: what there was to free is gone. The counts may still be looked at.
        """
        self.closed = True
        for zone in self.zones:
            zone.lock.close()
        if self.ram is not None:
            self.ram.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        size = self.nr_pages() * self.layout.page_size >> 20
        state = ", closed" if self.closed else ""
        return f"<Memory {size} MiB in {', '.join(zone.name for zone in self.zones)}{state}>"


def _place(specs: Sequence[ZoneSpec], layout: Layout) -> list[tuple[str, int, int, int]]:
    """Give every zone its place: (name, node, start_pfn, nr_pages), rising. Raises ValueError on a clash."""
    if not specs:
        raise ValueError("a memory needs a zone")
    placed: list[tuple[str, int, int, int]] = []
    # Page 0 is left out: the first zone begins with the second of the largest blocks.
    next_pfn = 1 << layout.top_order
    for spec in specs:
        if any((spec.name, spec.node) == (name, node) for name, node, _, _ in placed):
            raise ValueError(f"zone {spec.name} of node {spec.node} is given twice")
        start_pfn = next_pfn if spec.start_pfn is None else spec.start_pfn
        if placed and start_pfn < next_pfn:
            raise ValueError(f"zone {spec.name} begins at pfn {start_pfn:#x}, inside the zone before it")
        placed.append((spec.name, spec.node, start_pfn, spec.nr_pages))
        next_pfn = start_pfn + spec.nr_pages
    return placed
