"""Zones to test with, small enough to be drawn on paper, and all of their state at a glance."""

from __future__ import annotations

import copy
import inspect

from pagealloc import Census, Layout, Memory, RealSync, Revision, Zone, validate
from pagealloc.mmzone import MIGRATE_TYPES
from pagealloc.revision import V6_1

# Orders 0 .. 4: the largest block has 16 pages, a pageblock 8.
SMALL = Layout(nr_orders=5, pageblock_order=3)
START_PFN = 16

# What a zone is given once and never changes, or cannot be compared.
_NOT_STATE = {
    "lock",
    "layout",
    "page_reporting_notify",
    "revision",
    "ram",
    "zones_below",
}


def make_zone(
    nr_pages: int = 64,
    start_pfn: int = START_PFN,
    *,
    layout: Layout = SMALL,
    revision: Revision = V6_1,
    name: str = "Normal",
    zones_below: tuple[Zone, ...] = (),
    boot: bool = True,
    watermark_boost_factor: int = 0,
) -> Zone:
    """Build a zone without RAM; with `boot` all of its pages are free."""
    zone = Zone(
        name,
        start_pfn,
        nr_pages,
        layout=layout,
        revision=revision,
        sync=RealSync(),
        zones_below=zones_below,
        watermark_boost_factor=watermark_boost_factor,
    )
    if boot:
        zone.memblock_free_all()
    return zone


def fields_of(cls: type) -> set[str]:
    """Return what instances of a class with slots have; a compiled class has no list of them."""
    return {
        name
        for base in cls.__mro__
        for name, value in vars(base).items()
        if inspect.ismemberdescriptor(value) or inspect.isgetsetdescriptor(value)
    } - {"__weakref__", "__dict__"}


def zone_state(zone: Zone) -> dict[str, object]:
    """Copy everything that a zone knows: state bytes, lists, counters, marks."""
    return {name: copy.deepcopy(getattr(zone, name)) for name in fields_of(type(zone)) - _NOT_STATE}


def memory_state(memory: Memory) -> list[object]:
    """Copy everything that a memory knows: its zones, and every CPU's page set."""
    state: list[object] = [zone_state(zone) for zone in memory.zones]
    if memory.page_sets is not None:
        state += [
            {name: copy.deepcopy(getattr(pcp, name)) for name in fields_of(type(pcp)) - _NOT_STATE}
            for of_cpu in memory.page_sets._sets
            for pcp in of_cpu
        ]
    return state


def free_lists(zone: Zone) -> dict[tuple[int, int], list[int]]:
    """Return the lists that are not empty, as pfns from head to tail, by (order, migratetype)."""
    lists = {
        (order, migratetype): list(zone.list_pfns(order, migratetype))
        for order in range(zone.layout.nr_orders)
        for migratetype in range(MIGRATE_TYPES)
    }
    return {key: pfns for key, pfns in lists.items() if pfns}


def free_blocks(zone: Zone) -> set[tuple[int, int]]:
    """Return (order, pfn) of every listed block."""
    return {(order, pfn) for (order, _), pfns in free_lists(zone).items() for pfn in pfns}


def assert_sound(zone: Zone) -> Census:
    """Fail with what `validate` finds; return its census."""
    census = validate(zone)
    assert census.problems == []
    return census


def exhaust(zone: Zone, order: int, migratetype: int) -> list[int]:
    """Take blocks of one order from a zone until it has none; return their pfns."""
    taken = []
    while (pfn := zone.rmqueue_buddy(order, migratetype)) >= 0:
        taken.append(pfn)
    return taken
