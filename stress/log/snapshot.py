"""A zone as a record: where a log begins, and what its end is held against."""

from __future__ import annotations

from pagealloc.inventory import block_types, blocks_in_use, reported_pfns
from pagealloc.mmzone import MIGRATE_TYPES
from pagealloc.tracepoints import Trace
from pagealloc.zone import Zone


def begin_zone(zone: Zone, trace: Trace) -> None:
    """Describe a zone and all that it holds: where a log of it begins."""
    layout = zone.layout
    trace(
        "zone_begin",
        zone.name,
        zone.node,
        zone.start_pfn,
        zone.end_pfn,
        layout.nr_orders,
        layout.pageblock_order,
        zone.revision.name,
    )
    snapshot_zone(zone, trace)


def snapshot_zone(zone: Zone, trace: Trace) -> None:
    """Record everything that a zone holds; the caller holds its lock or is alone."""
    lists = [
        (order, migratetype, pfns)
        for order, blocks in enumerate(zone.nr_free)
        if blocks
        for migratetype in range(MIGRATE_TYPES)
        if (pfns := list(zone.list_pfns(order, migratetype)))
    ]
    trace(
        "zone_snapshot",
        zone.nr_free_pages,
        list(zone.nr_free),
        list(zone.nr_reported),
        list(zone.watermark),
        zone.nr_reserved_highatomic,
        lists,
        reported_pfns(zone),
        list(blocks_in_use(zone)),
        "".join(map(str, block_types(zone))),
    )


def record_counts(zone: Zone, trace: Trace) -> None:
    """Record a zone's counts; the caller holds its lock."""
    trace("zone_state", zone.nr_free_pages, list(zone.nr_free), list(zone.nr_reported))
