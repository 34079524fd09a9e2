"""`/proc/buddyinfo`, `pagetypeinfo` and `zoneinfo` in the kernel's text, so that scripts made for them read ours.

    print(buddyinfo(memory_zones(memory)), end="")

The kernel's counters that this allocator has no use for (vmstat, CMA) are left out of `zoneinfo`; `boost` is part of
the marks, as in the kernel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pagealloc.inventory import block_types
from pagealloc.memory import Memory
from pagealloc.mmzone import MIGRATE_TYPES, WMARK_HIGH, WMARK_LOW, WMARK_MIN, ZONE_NAMES
from pagealloc.revision import Revision
from pagealloc.watermark import token_min_pages
from pagealloc.zone import Zone

MIGRATETYPE_NAMES = ("Unmovable", "Movable", "Reclaimable", "HighAtomic", "Isolate")
FREE_COUNT_MAX = 100_000  # where the kernel stops counting a list


@dataclass(frozen=True, slots=True)
class PageSetCounts:
    """One processor's page set of a zone. In pages."""

    cpu: int
    count: int
    high: int
    batch: int
    threshold: int = 0  # at which the kernel folds a processor's counters into the zone's


@dataclass(frozen=True, slots=True)
class ZoneCounts:
    """What `/proc` tells of one zone. A zone without `present` pages has marks and protection only."""

    name: str
    node: int = 0
    start_pfn: int = 0
    spanned: int = 0
    present: int = 0
    managed: int = 0
    free: int = 0
    boost: int = 0
    min: int = 0
    low: int = 0
    high: int = 0
    protection: Sequence[int] = (0,)
    pageblock_order: int = 9
    free_by_type: Sequence[Sequence[int]] = ()  # blocks by migratetype and order
    pageblocks: Sequence[int] = ()  # by migratetype
    page_sets: Sequence[PageSetCounts] = ()
    counters: Mapping[str, int] = field(default_factory=dict)
    node_counters: Mapping[str, int] | None = None  # of the node's first zone
    node_unreclaimable: int = 0

    @property
    def nr_free(self) -> list[int]:
        """Free blocks by order."""
        return [sum(counts) for counts in zip(*self.free_by_type, strict=True)]


def memory_zones(memory: Memory) -> list[ZoneCounts]:
    """Count a live memory, each zone under its lock; with the zones that have no pages, as the kernel knows them."""
    return every_zone([_count(memory, zone) for zone in memory.zones], memory.revision)


def every_zone(zones: Sequence[ZoneCounts], revision: Revision) -> list[ZoneCounts]:
    """Return all zones of all nodes in the kernel's order: those given, and those that have no pages.

    The machine is a 64-bit one, without HighMem, unless a zone of that name is given. Behind all others stands Device,
    as in the kernels of distributions, always without pages.
    """
    given = {(zone.node, zone.name): zone for zone in zones}
    names = [name for name in ZONE_NAMES if name != "HighMem" or any(zone.name == name for zone in zones)]
    columns = [ZONE_NAMES.index(name) for name in names]
    found = []
    for node in sorted({zone.node for zone in zones}):
        for name in [*names, "Device"]:
            zone = given.get((node, name))
            if zone is None:
                mark = token_min_pages(0) if name == "Movable" and revision.movable_keeps_token else 0
                zone = ZoneCounts(name, node, min=mark, low=mark, high=mark, protection=[0] * len(ZONE_NAMES))
            protection = [zone.protection[column] for column in columns]
            found.append(
                replace(zone, protection=[*protection, protection[-1]])
            )  # Device adds nothing to withhold for
    first = {
        node: next(zone for zone in found if zone.node == node and zone.present)
        for node in {z.node for z in zones}
    }
    return [replace(zone, node_counters={} if zone is first[zone.node] else None) for zone in found]


def _count(memory: Memory, zone: Zone) -> ZoneCounts:
    zone.lock.acquire()
    try:
        types = block_types(zone)
        free_by_type = [
            [sum(1 for _ in zone.list_pfns(order, migratetype)) for order in range(zone.layout.nr_orders)]
            for migratetype in range(MIGRATE_TYPES)
        ]
        free, boost, marks = zone.nr_free_pages, zone.watermark_boost, list(zone.watermark)
    finally:
        zone.lock.release()
    return ZoneCounts(
        name=zone.name,
        node=zone.node,
        start_pfn=zone.start_pfn,
        spanned=zone.managed_pages,
        present=zone.managed_pages,
        managed=zone.managed_pages,
        free=free,
        boost=boost,
        min=marks[WMARK_MIN] + boost,
        low=marks[WMARK_LOW] + boost,
        high=marks[WMARK_HIGH] + boost,
        protection=zone.lowmem_reserve,
        pageblock_order=zone.layout.pageblock_order,
        free_by_type=free_by_type,
        pageblocks=[types.count(migratetype) for migratetype in range(MIGRATE_TYPES)],
        page_sets=_page_sets(memory, zone),
        counters={"nr_free_pages": free},
    )


def _page_sets(memory: Memory, zone: Zone) -> list[PageSetCounts]:
    return (
        [] if memory.page_sets is None else [PageSetCounts(*each) for each in memory.page_sets.holdings(zone)]
    )


def _populated(zones: Sequence[ZoneCounts]) -> list[ZoneCounts]:
    return [zone for zone in zones if zone.present]


# -- the three files -------------------------------------------------------------------------------------


def buddyinfo(zones: Sequence[ZoneCounts]) -> str:
    """Print the free blocks of each zone, by order."""
    return "".join(
        f"Node {zone.node}, zone {zone.name:>8} {''.join(f'{count:6} ' for count in zone.nr_free)}\n"
        for zone in _populated(zones)
    )


def pagetypeinfo(zones: Sequence[ZoneCounts]) -> str:
    """Print the free blocks of each zone by migratetype and order, and its pageblocks by migratetype."""
    zones = _populated(zones)
    order = zones[0].pageblock_order
    orders = "".join(f"{k:6} " for k in range(len(zones[0].nr_free)))
    names = "".join(f"{name:>12} " for name in MIGRATETYPE_NAMES)
    lines = [
        f"Page block order: {order}",
        f"Pages per block:  {1 << order}",
        "",
        f"{'Free pages count per migrate type at order':43} {orders}",
    ]
    for zone in zones:
        for name, counts in zip(MIGRATETYPE_NAMES, zone.free_by_type, strict=True):
            numbers = "".join(map(_free_count, counts))
            lines.append(f"Node {zone.node:4}, zone {zone.name:>8}, type {name:>12} {numbers}")
    lines += ["", f"{'Number of blocks type':23}{names}"]
    for zone in zones:
        numbers = "".join(f"{count:12} " for count in zone.pageblocks)
        lines.append(f"Node {zone.node}, zone {zone.name:>8} {numbers}")
    return "\n".join(lines) + "\n"


def _free_count(count: int) -> str:
    return f">{FREE_COUNT_MAX:6} " if count >= FREE_COUNT_MAX else f"{count:6} "


def zoneinfo(zones: Sequence[ZoneCounts]) -> str:
    """Print the marks, sizes and page sets of each zone."""
    return "".join(f"{line}\n" for zone in zones for line in _zone_lines(zone))


def _zone_lines(zone: ZoneCounts) -> list[str]:
    lines = [f"Node {zone.node}, zone {zone.name:>8}"]
    if zone.node_counters is not None:
        lines += ["  per-node stats", *_counter_lines(zone.node_counters)]
    pages = {
        "boost": zone.boost,
        "min": zone.min,
        "low": zone.low,
        "high": zone.high,
        "spanned": zone.spanned,
        "present": zone.present,
        "managed": zone.managed,
        "cma": 0,
    }
    lines += [
        f"  pages free     {zone.free}",
        *(f"        {name:8} {count}" for name, count in pages.items()),
    ]
    lines.append(f"        protection: ({', '.join(map(str, zone.protection))})")
    if not zone.present:
        return lines
    lines += [*_counter_lines(zone.counters), "  pagesets"]
    for page_set in zone.page_sets:
        lines += [
            f"    cpu: {page_set.cpu}",
            f"              count: {page_set.count}",
            f"              high:  {page_set.high}",
            f"              batch: {page_set.batch}",
            f"  vm stats threshold: {page_set.threshold}",
        ]
    return [
        *lines,
        f"  node_unreclaimable:  {zone.node_unreclaimable}",
        f"  start_pfn:           {zone.start_pfn}",
    ]


def _counter_lines(counters: Mapping[str, int]) -> list[str]:
    return [f"      {name:12} {count}" for name, count in counters.items()]


# -- and back --------------------------------------------------------------------------------------------


def parse_zoneinfo(text: str) -> list[ZoneCounts]:
    """Read the zones that a text tells of; whatever else stands in it is passed over."""
    zones = []
    for part in re.split(r"^(?=Node \d+, zone +\w+$)", text, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("  pages free ")
        body, _, tail = body.partition("  pagesets")
        found = re.match(r"Node (\d+), zone +(\w+)", head)
        free = re.match(r" *(\d+)", body)
        if found is None or free is None:
            continue
        pages = re.findall(r"^ {8}(\w+) +(\d+)$", body, re.MULTILINE)
        after = re.findall(r"(node_unreclaimable|start_pfn): +(\d+)", tail)
        fields: dict[str, Any] = {key: int(value) for key, value in [*pages, *after]}
        protection = re.search(r"protection: \((.*)\)", body)
        zones.append(
            ZoneCounts(
                found[2],
                int(found[1]),
                free=int(free[1]),
                protection=[int(word) for word in protection[1].split(",")] if protection else (0,),
                page_sets=[PageSetCounts(*map(int, words)) for words in _PAGE_SET.findall(tail)],
                counters=_parse_counters(body),
                node_counters=_parse_counters(head) if "per-node stats" in head else None,
                **{key: fields[key] for key in _MARKS_AND_SIZES if key in fields},
            )
        )
    return zones


_MARKS_AND_SIZES = (
    "boost", "min", "low", "high", "spanned", "present", "managed", "node_unreclaimable", "start_pfn",
)  # fmt: skip
_PAGE_SET = re.compile(
    r"cpu: (\d+)\s+count: +(\d+)\s+high: +(\d+)\s+batch: +(\d+)(?:\s+high_\w+: \d+)*\s+vm stats threshold: (\d+)"
)


def _parse_counters(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"^ {6}(\w+) +(\d+)$", text, re.MULTILINE)}


FILES = {"buddyinfo": buddyinfo, "pagetypeinfo": pagetypeinfo, "zoneinfo": zoneinfo}
