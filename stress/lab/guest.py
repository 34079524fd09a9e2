"""A guest: its zones, its CPUs, its kernel, and the state in which a run finds it.

The start state is that of a guest that has just booted, or comes from `/proc` texts, or has exact lists (a state of a
recorded case). From counts the lists are *placed*: so many free blocks of each order and type as the text says, none
beside a free buddy, in an order that the seed draws.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pagealloc.memory import Memory, ZoneSpec
from pagealloc.mmzone import MIGRATE_PCPTYPES, MIGRATE_TYPES, PAGE_SHIFT, Layout
from pagealloc.pcp import PageSets
from pagealloc.per_cpu_pages import zone_bounds
from pagealloc.revision import DEFAULT, Revision
from pagealloc.sync import Rng
from pagealloc.watermark import default_min_free_kbytes, setup_per_zone_wmarks
from pagealloc.zone import Zone
from stress.errors import BadInput
from stress.golden.state import load_zone
from stress.lab.placement import Placement
from stress.lab.proc_state import ProcState
from stress.lab.virtual import VirtualSync

DMA_PAGES = 4095  # pfn 1 .. 4095: below 16 MiB
DMA32_START = 4096
DMA32_END = 3 << (30 - PAGE_SHIFT)  # what a PC's firmware leaves below 4 GiB; the rest is mapped above
NORMAL_START = 1 << (32 - PAGE_SHIFT)
PAGES_PER_GIB = 1 << (30 - PAGE_SHIFT)


@dataclass(frozen=True, slots=True)
class Guest:
    """What is known of a guest before anything happens. Sizes in pages."""

    nr_pages: int = 4 * PAGES_PER_GIB
    zones: tuple[ZoneSpec, ...] = ()  # where not given, by the x86-64 rule from `nr_pages`
    cpus: int = 2
    revision: Revision = DEFAULT
    state: ProcState | None = None
    lists: Sequence[Mapping[str, Any]] = ()  # exact: one recorded state for each zone
    marks: Sequence[tuple[int, int, int] | None] = ()  # of the zones with exact lists, where they are told
    nr_orders: int = 0  # where not given, as the state tells, or as Linux has them
    huge_pages: bool = False  # khugepaged runs, and has raised the marks; where zoneinfo does not tell them
    scale: int = 1  # the guest stands for one so many times as large
    known_free: Sequence[
        tuple[int, int]
    ] = ()  # (pfn, order) that a recording took, and had not freed, in its order
    known_used: Sequence[int] = ()  # pfns that a recording freed, and had not taken

    def specs(self) -> tuple[ZoneSpec, ...]:
        """Return the zones to build."""
        if self.zones:
            return self.zones
        if self.state is not None:
            return zones_of(self.state, self.nr_pages)
        return tuple(
            ZoneSpec(spec.name, spec.nr_pages // self.scale, start_pfn=None if spec.name != "DMA" else 1)
            if self.scale > 1
            else spec
            for spec in x86_zones(self.nr_pages * self.scale)
        )


def x86_zones(nr_pages: int) -> tuple[ZoneSpec, ...]:
    """Lay zones out as an x86-64 guest has them: DMA, DMA32 up to 3 GiB, the rest Normal."""
    specs = [ZoneSpec("DMA", min(DMA_PAGES, nr_pages), start_pfn=1)]
    dma32 = min(nr_pages, DMA32_END) - DMA32_START
    if dma32 > 0:
        specs.append(ZoneSpec("DMA32", dma32, start_pfn=DMA32_START))
    if nr_pages > DMA32_END:
        specs.append(ZoneSpec("Normal", nr_pages - DMA32_END, start_pfn=NORMAL_START))
    return tuple(specs)


def zones_of(state: ProcState, nr_pages: int) -> tuple[ZoneSpec, ...]:
    """Return the zones that `/proc` tells of; where zoneinfo is missing, by the x86-64 rule. Raises BadInput."""
    by_rule = {spec.name: spec for spec in x86_zones(nr_pages)}
    specs = []
    for zone in state.zones.values():
        if not zone.free:
            continue
        if "spanned" in zone.limits and "start_pfn" in zone.limits:
            specs.append(ZoneSpec(zone.name, zone.limits["spanned"], start_pfn=zone.limits["start_pfn"]))
        elif zone.name in by_rule:
            specs.append(by_rule[zone.name])
        else:
            size = nr_pages >> (20 - PAGE_SHIFT)
            raise BadInput(
                f"{state.source}: a zone {zone.name}, which a guest of {size} MiB has not: expected its --guest size"
            )
    return tuple(specs)


def build_memory(guest: Guest, sync: VirtualSync, rng: Rng, *, page_sets: bool) -> Memory:
    """Build the guest's memory in its start state. Raises BadInput when the state does not fit."""
    state = guest.state
    nr_orders = guest.nr_orders or (state.nr_orders() if state is not None else 0)
    cpus = (state.cpus() if state is not None else 0) or guest.cpus
    memory = Memory(
        guest.specs(),
        layout=Layout(nr_orders=nr_orders) if nr_orders else Layout(),
        revision=guest.revision,
        sync=sync,
        ram=None,
        page_sets=page_sets,
        cpus=cpus,
    )
    if guest.huge_pages:
        raised = khugepaged_min_free_kbytes(memory.zones)
        setup_per_zone_wmarks(memory.zones, max(raised, default_min_free_kbytes(memory.zones)))
    told = state.zones if state is not None else {}
    for zone in memory.zones:
        limits = told[zone.name].limits if zone.name in told else {}
        if {"min", "low", "high"} <= limits.keys():
            zone.set_watermarks(limits["min"], limits["low"], limits["high"])
        elif guest.marks and (marks := guest.marks[zone.number]) is not None:
            zone.set_watermarks(*marks)
    load_lists(memory, guest, rng)
    if state is not None and memory.page_sets is not None:
        set_page_set_limits(memory, memory.page_sets, state, cpus)
        fill_page_sets(memory, memory.page_sets, state, sync, rng)
    return memory


def load_lists(memory: Memory, guest: Guest, rng: Rng) -> None:
    """Give every zone the lists that are told exactly, or lists with so many blocks as are counted."""
    if guest.lists:
        for zone, lists in zip(memory.zones, guest.lists, strict=True):
            load_zone(zone, dict(lists))
    elif guest.state is not None:
        for zone in memory.zones:
            counted = guest.state.zones[zone.name]
            load_zone(zone, Placement(zone, guest.known_free, guest.known_used, rng).place(counted))


def khugepaged_min_free_kbytes(zones: Sequence[Zone]) -> int:
    """Return what khugepaged raises `min_free_kbytes` to (`set_recommended_min_free_kbytes`).

    Room for a pageblock of each type beside each other type in each zone, and two to spare; a twentieth at most.
    """
    nr_zones = sum(zone.name != "Movable" for zone in zones)
    nr_pages = nr_zones * (2 + MIGRATE_PCPTYPES**2) << zones[0].layout.pageblock_order
    lowmem_pages = sum(zone.managed_pages for zone in zones if zone.name != "Movable")
    return min(nr_pages, lowmem_pages // 20) << zones[0].layout.page_shift - 10


def set_page_set_limits(memory: Memory, page_sets: PageSets, state: ProcState, cpus: int) -> None:
    """Let the CPUs' lists go by the marks that the state tells: a memory's own go by those it was built with."""
    for zone in memory.zones:
        limits = state.zones[zone.name].limits if zone.name in state.zones else {}
        managed_pages = limits.get("managed", zone.managed_pages)
        page_sets.bounds[zone.number] = zone_bounds(
            managed_pages, zone.low_wmark_pages(), cpus, memory.revision, zone.layout.page_shift
        )


def fill_page_sets(
    memory: Memory, page_sets: PageSets, state: ProcState, sync: VirtualSync, rng: Rng
) -> None:
    """Let each CPU's lists hold as many single pages as zoneinfo tells.

    What rests there counts against the limit, so it decides how many larger blocks find room beside it.
    """
    for zone in memory.zones:
        told = state.zones[zone.name].page_sets if zone.name in state.zones else []
        used = draw_used_pages(zone, sum(each.count for each in told), rng)
        for cpu, on_cpu in enumerate(told):
            sync.cpu = cpu
            page_sets.drain_local()  # a CPU's lists are made when they are first used
            pcp = page_sets.set_of(zone, cpu)
            pcp.high = max(pcp.high, on_cpu.high)
            for _ in range(min(on_cpu.count, len(used))):
                page_sets.free(zone, used.pop(), 0)
            pcp.high, pcp.frees, pcp.room = on_cpu.high or pcp.high, 0, 0
    sync.cpu = 0


def draw_used_pages(zone: Zone, count: int, rng: Rng) -> list[int]:
    """Draw the pfns of so many different pages of the zone that are in use, or of all that there are."""
    ends: list[int] = []  # pages in use up to the end of each range of them
    begins: list[int] = []  # of the ranges
    pfn, used = zone.start_pfn, 0
    for free, order in [*sorted(free_blocks(zone)), (zone.end_pfn, 0)] if count else ():
        if free > pfn:
            used += free - pfn
            begins.append(pfn)
            ends.append(used)
        pfn = free + (1 << order)
    drawn: dict[int, None] = {}  # in their order
    while len(drawn) < min(count, used):
        number = rng.choose(used)
        at = bisect_right(ends, number)
        drawn[begins[at] + number - (ends[at - 1] if at else 0)] = None
    return list(drawn)


def mark_reported(zone: Zone, order: int) -> None:
    """Flag every free block of `order` and more, as after enough passes without a free."""
    for current in range(order, zone.layout.nr_orders):
        for migratetype in range(MIGRATE_TYPES):
            for index in zone.free_list(current, migratetype):
                if not zone.page_reported(index):
                    zone.set_page_reported(index)


def free_blocks(zone: Zone) -> Iterator[tuple[int, int]]:
    """Yield (pfn, order) of the zone's free blocks, list by list."""
    for order, nr_free in enumerate(zone.nr_free):
        for migratetype in range(MIGRATE_TYPES if nr_free else 0):
            for pfn in zone.list_pfns(order, migratetype):
                yield pfn, order
