"""What a zone is given once: requests, page sets and the hot paths keep a hand on these very objects.

A zone that replaced one of them would go on working, and everybody who holds the old one would go on with figures of
the past: with `fast_marks` rebound, allocations pass the min mark and no other test notices.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
from zone_kit import SMALL

from pagealloc import GFP_ATOMIC, GFP_KERNEL, Memory, Zone, ZoneSpec
from pagealloc.mmzone import MIGRATE_MOVABLE, MIGRATE_UNMOVABLE

# Who holds it: `_frames` all paths that change a list; `state` and `pageblock_types` the page sets; `nr_free` the
# worker and `_frames`; `fast_marks` every `Request`.
NEVER_REBOUND = ("_frames", "state", "pageblock_types", "nr_free", "nr_reported", "fast_marks")


def use(memory: Memory) -> None:
    """Do with a memory whatever changes what a zone holds."""
    zone = memory.zones[-1]
    zone.set_watermarks(4, 6, 8)
    zone.set_watermark_boost(8)
    zone.set_watermark_boost(0)
    zone.set_lowmem_reserve([0] * len(zone.lowmem_reserve))
    pfns = [memory.alloc_pages(GFP_KERNEL, order) for order in (0, 1, 3, 4)]
    urgent = memory.alloc_pages(GFP_ATOMIC | GFP_KERNEL, 1)
    for pfn, order in (*zip(pfns, (0, 1, 3, 4), strict=True), (urgent, 1)):
        assert pfn is not None
        memory.free_pages(pfn, order)
    memory.drain_all_pages()
    block = zone.end_pfn - zone.layout.pageblock_nr_pages
    assert zone.isolate_pageblock(block)
    assert zone.unisolate_pageblock(block, MIGRATE_MOVABLE)
    zone.set_block_type(block, MIGRATE_UNMOVABLE, move=True)
    zone.lock.acquire()
    pfn = zone.first_in_list(4, MIGRATE_MOVABLE)
    assert zone.isolate_free_page(pfn, 4)
    zone.putback_isolated_page(pfn, 4, MIGRATE_MOVABLE)
    zone.lock.release()


def rebound(change: Callable[[Memory], None]) -> list[str]:
    memory = Memory([ZoneSpec("DMA32", 64), ZoneSpec("Normal", 128)], layout=SMALL, ram=None)
    before = {(zone.number, name): getattr(zone, name) for zone in memory.zones for name in NEVER_REBOUND}
    change(memory)
    return [
        f"{memory.zones[number].name}.{name}"
        for (number, name), value in before.items()
        if not same(getattr(memory.zones[number], name), value)
    ]


def same(one: object, other: object) -> bool:
    """Whether both are one object; of a tuple what is in it, for a compiled zone packs it anew for each who asks."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return all(map(operator.is_, one, other))
    return one is other


def test_a_zone_keeps_its_containers_whatever_is_done_with_it() -> None:
    assert rebound(use) == []


def test_a_request_sees_the_marks_of_today() -> None:
    memory = Memory([ZoneSpec("Normal", 128)], layout=SMALL, ram=None, page_sets=False)
    zone = memory.zones[0]
    zone.set_watermarks(0, 0, 0)
    assert memory.alloc_pages(GFP_KERNEL, 0) is not None  # the request is remembered, and holds the marks
    zone.set_watermarks(120, 124, 127)
    taken = 0
    while memory.alloc_pages(GFP_KERNEL, 0) is not None:
        taken += 1
    assert zone.nr_free_pages >= 120, f"{taken} pages were taken, below the min mark"


@pytest.mark.interpreted("no method is replaced")
def test_marks_that_are_rebound_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def rebinds(zone: Zone) -> None:
        zone.fast_marks = [zone.low_wmark_pages() + reserve for reserve in zone.lowmem_reserve]

    monkeypatch.setattr(Zone, "marks_changed", rebinds)

    assert "Normal.fast_marks" in rebound(use)
    with pytest.raises(AssertionError, match="below the min mark"):
        test_a_request_sees_the_marks_of_today()
