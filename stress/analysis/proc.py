"""The zones of a run as `/proc` would have shown them at a chosen time, from the log alone.

A zone begins with the snapshot that the log has of it, and every event since then changes it; see
`stress.invariants.shadow`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path

from pagealloc.mmzone import MIGRATE_TYPES, WMARK_HIGH, WMARK_LOW, WMARK_MIN
from pagealloc.per_cpu_pages import zone_bounds
from pagealloc.watermark import lowmem_reserve
from stress.formats.procfs import PageSetCounts, ZoneCounts, every_zone
from stress.invariants import Judge, ShadowZone
from stress.log.files import BadLog, LogDamage
from stress.log.hearing import Hearing, Misfit
from stress.log.machine import cpus_of, page_shift_of
from stress.log.reader import LogReader, check_is_log, heard

NS = 1_000_000_000


def zones_at(run: Path, at_s: float) -> list[ZoneCounts]:
    """Return the zones at a time of the run, in seconds; after its end, as it left them.

    Raises BadLog if the path holds no log, or one that is damaged before that time.
    """
    check_is_log(run)
    reader = LogReader(run)
    hearing = Hearing(lambda invariant, text: None)  # whether it is all right is the business of `verify`
    judge = hearing.judge
    at_ns = int(at_s * NS)
    until = takewhile(lambda record: record.t <= at_ns or not judge.zones, reader)
    try:
        hearing.hear(map(heard, until))
    except Misfit as misfit:
        raise BadLog(f"{run}: {reader.where}: {misfit}") from misfit
    except LogDamage as damage:
        raise BadLog(f"{run}: the log is damaged before {at_s:g} s: {damage}") from damage
    shadows = list(judge.zones.values())
    params = reader.begin.params if reader.begin is not None else {}
    return every_zone([_count(judge, shadow, params) for shadow in shadows], shadows[0].revision)


def _count(judge: Judge, shadow: ShadowZone, params: Mapping[str, object]) -> ZoneCounts:
    name = shadow.name.rpartition(":")[2]
    neighbours = [other for other in judge.zones.values() if other.node == shadow.node]
    pages = {other.name.rpartition(":")[2]: other.end_pfn - other.start_pfn for other in neighbours}
    free_by_type = [[0] * shadow.nr_orders for _ in range(MIGRATE_TYPES)]
    for pfn, order in shadow.free.items():
        free_by_type[shadow.type_of[pfn]][order] += 1
    on_page_sets = sum(1 << order for pfn, order in shadow.taken.items() if pfn not in shadow.owned)
    low = shadow.watermark[WMARK_LOW]
    bounds = zone_bounds(pages[name], low, cpus_of(params), shadow.revision, page_shift_of(params))
    return ZoneCounts(
        name=name,
        node=shadow.node,
        start_pfn=shadow.start_pfn,
        spanned=pages[name],
        present=pages[name],
        managed=pages[name],
        free=shadow.nr_free_pages,
        min=shadow.watermark[WMARK_MIN],
        low=low,
        high=shadow.watermark[WMARK_HIGH],
        protection=lowmem_reserve(name, pages),
        pageblock_order=shadow.pageblock_order,
        free_by_type=free_by_type,
        pageblocks=[shadow.types.count(migratetype) for migratetype in range(MIGRATE_TYPES)],
        # The log does not say which CPU's set a page rests on: all of them together, as if they were one.
        page_sets=[PageSetCounts(0, on_page_sets, bounds.high_min, bounds.batch)],
        counters={"nr_free_pages": shadow.nr_free_pages},
    )
