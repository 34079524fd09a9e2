"""Planted faults: plausible bugs, patched in at run time to show that the checks see them.

Each has the number that the project gives the bug, and replaces one method for as long as the `with`
statement lasts. Nothing outside this folder knows them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pagealloc.mmzone import MIGRATE_ISOLATE, WMARK_MIN
from pagealloc.zone import Zone
from workers.page_reporting import PageReporting, Scatterlist


@dataclass(frozen=True, slots=True)
class Mutant:
    """A planted fault: what is wrong, and the methods that take the place of the right ones."""

    about: str
    patches: tuple[tuple[type, str, Callable[..., object]], ...]


def _isolate_but_leave_listed(zone: Zone, pfn: int, order: int) -> bool:
    index = pfn - zone.base_pfn
    if zone.get_pageblock_migratetype(index) == MIGRATE_ISOLATE:
        return True
    return zone.zone_watermark_ok(0, zone.watermark[WMARK_MIN] + (1 << order))


def _no_putback(zone: Zone, pfn: int, order: int, migratetype: int) -> None:
    del zone, pfn, order, migratetype


def _drain_and_flag_everything(
    reporting: PageReporting, zone: Zone, sgl: Scatterlist, *, reported: bool
) -> None:
    del reporting
    for block in sgl.batch():
        zone.putback_isolated_page(block.pfn, block.order, zone.pageblock_migratetype(block.pfn))
        if reported:
            zone.state[block.pfn - zone.base_pfn] |= 0x80
    sgl.reset()


def _drain_without_putback(reporting: PageReporting, zone: Zone, sgl: Scatterlist, *, reported: bool) -> None:
    del reporting, zone, reported
    sgl.reset()


MUTANTS = {
    "M-1": Mutant(
        "sets Reported after putback without looking whether the block merged",
        ((PageReporting, "drain", _drain_and_flag_everything),),
    ),
    "M-17": Mutant(
        "leaves the reporter's batch on the free list",
        (
            (Zone, "isolate_free_page", _isolate_but_leave_listed),
            (Zone, "putback_isolated_page", _no_putback),
        ),
    ),
    "M-26": Mutant(
        "forgets to put the batch back",
        ((PageReporting, "drain", _drain_without_putback),),
    ),
}


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """Plant a fault for a while; None plants nothing."""
    patches = MUTANTS[name].patches if name is not None else ()
    originals = [(owner, method, getattr(owner, method)) for owner, method, _ in patches]
    try:
        for owner, method, replacement in patches:
            setattr(owner, method, replacement)
        yield
    finally:
        for owner, method, original in originals:
            setattr(owner, method, original)
