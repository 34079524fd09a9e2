"""What a run looks like at about one moment, for whoever watches it."""

from __future__ import annotations

from dataclasses import dataclass

from pagealloc.memory import Memory
from pagealloc.mmzone import PAGE_SIZE
from pagealloc.zone import Zone
from workers.page_reporting import PageReporting


@dataclass(frozen=True, slots=True)
class ZoneStatus:
    """Pages of one zone, by what they are at about one moment."""

    name: str
    managed: int
    free: int
    allocated: int
    on_page_sets: int
    in_flight: int
    reported: int
    page_size: int = PAGE_SIZE


@dataclass(frozen=True, slots=True)
class Status:
    """What a run looks like at about one moment; counts are since its beginning."""

    seconds: float
    phase: str
    zones: tuple[ZoneStatus, ...]
    allocs: int
    frees: int
    failed_allocs: int
    ops_per_second: float
    resident_bytes: int
    total_bytes: int
    passes: int
    batches: int
    failed_batches: int
    reported_bytes: int
    state: str
    stuck: str | None
    violations: int
    allocators: int = 0
    unfair: str | None = None
    kept_bytes: int = 0  # acknowledged by the reporter, and still resident then


def zone_status(zone: Zone, memory: Memory, reporting: PageReporting) -> ZoneStatus:
    """Count a zone's pages without its lock: each figure is right, and each of a moment of its own."""
    flight = reporting.flight
    in_flight = 0
    if flight is not None and flight.zone is zone:
        in_flight = sum(1 << block.order for block in flight.batch)
    free, on_page_sets = zone.nr_free_pages, memory.nr_page_set_pages(zone)
    return ZoneStatus(
        name=zone.label,
        managed=zone.managed_pages,
        free=free,
        allocated=max(0, zone.managed_pages - free - on_page_sets - in_flight),
        on_page_sets=on_page_sets,
        in_flight=in_flight,
        reported=sum(count << order for order, count in enumerate(zone.nr_reported)),
        page_size=zone.layout.page_size,
    )
