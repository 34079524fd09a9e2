"""A zone as a record: where a log begins, and what its end is held against."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pagealloc.mmzone import MIGRATE_TYPES, ORDERS_MAX
from pagealloc.page_flags import (
    ALLOCATED,
    BUDDY,
    IN_FLIGHT,
    KIND_MASK,
    LRU,
    ON_PAGE_SET,
    ORDER_MASK,
    REPORTED,
    TAIL,
)
from pagealloc.tracepoints import Trace
from pagealloc.zone import Zone

# Frames of free blocks that bear the bit, on their heads or, which is wrong, behind them. Elsewhere it means Uptodate.
BEARS_REPORTED = re.compile(
    b"[%s]" % re.escape(bytes([REPORTED | TAIL, *(REPORTED | BUDDY | order for order in range(ORDERS_MAX))]))
)
KINDS = {ALLOCATED: "allocated", LRU: "allocated", ON_PAGE_SET: "page set", IN_FLIGHT: "in flight"}


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
    reported = [zone.base_pfn + match.start() for match in BEARS_REPORTED.finditer(zone.state)]
    trace(
        "zone_snapshot",
        zone.nr_free_pages,
        list(zone.nr_free),
        list(zone.nr_reported),
        list(zone.watermark),
        zone.nr_reserved_highatomic,
        lists,
        reported,
        _blocks_in_use(zone),
        "".join(map(str, zone.block_types())),
    )


def record_counts(zone: Zone, trace: Trace) -> None:
    """Record a zone's counts; the caller holds its lock."""
    trace("zone_state", zone.nr_free_pages, list(zone.nr_free), list(zone.nr_reported))


def _blocks_in_use(zone: Zone) -> Sequence[tuple[int, int, str]]:
    state = zone.state
    blocks = []
    index, end = zone.start_pfn - zone.base_pfn, zone.end_pfn - zone.base_pfn
    while index < end:
        order = state[index] & ORDER_MASK
        kind = KINDS.get(state[index] & KIND_MASK)
        if kind is not None:
            blocks.append((zone.base_pfn + index, order, kind))
        index += 1 << order
    return blocks
