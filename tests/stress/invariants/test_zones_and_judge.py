"""Whatever requests a zone serves, in whatever state, the judge of its log has nothing to say.

Rare turns of one request, such as a block that could only be stolen, whose pageblock is then kept as reserve, come once
in millions of records of a run, and a judge who has not heard of them calls a sound run a FAILURE.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from pagealloc import Layout, Memory, Zone, ZoneSpec
from pagealloc.mmzone import (
    ALLOC_HIGHATOMIC,
    ALLOC_NOFRAGMENT,
    ALLOC_NON_BLOCK,
    ALLOC_OOM,
    MIGRATE_MOVABLE,
    MIGRATE_PCPTYPES,
)
from pagealloc.revision import PRESETS
from stress.log.hearing import Heard, Hearing
from stress.log.snapshot import begin_zone

LAYOUTS = [
    Layout(nr_orders=5, pageblock_order=3),
    Layout(nr_orders=4, pageblock_order=3),
    Layout(nr_orders=6, pageblock_order=2),
]
FLAGS = [0, 0, 0, 0, ALLOC_HIGHATOMIC, ALLOC_NON_BLOCK, ALLOC_OOM, ALLOC_NOFRAGMENT]
SEEDS = 40
STEPS = 300


class Told:
    """A zone, nearly full of movable pages, and the records of what happens in it: each step is a thread of its own."""

    def __init__(self, seed: int, preset: str) -> None:
        self.rng = rng = random.Random(seed)
        layout = rng.choice(LAYOUTS)
        nr_pages = (rng.choice([5, 17, 60, 130, 200]) << layout.pageblock_order) + rng.choice([0, 5])
        start_pfn = (1 << layout.top_order) + rng.choice([0, 0, 3, 1 << layout.pageblock_order])
        memory = Memory(
            [ZoneSpec("Normal", nr_pages, start_pfn=start_pfn)],
            layout=layout,
            revision=PRESETS[preset],
            ram=None,
            page_sets=False,
        )
        self.zone: Zone = memory.zones[0]
        self.records: list[Heard] = []
        self.held: dict[int, int] = {}
        self.thread = 0
        begin_zone(self.zone, self.trace)
        self.zone.trace = self.trace
        while (pfn := self.allocate(0, MIGRATE_MOVABLE, 0)) >= 0:
            pass
        for pfn in list(self.held):
            if rng.random() < 0.3:
                self.zone.free_pages_ok(pfn, self.held.pop(pfn))
        self.released()

    def trace(self, event: str, *fields: Any) -> None:
        self.records.append((event, self.thread, (self.zone.number, len(self.records), *fields)))

    def released(self) -> None:
        self.trace("lock_release", 0, 0, "step")
        self.thread += 1

    def allocate(self, order: int, migratetype: int, alloc_flags: int) -> int:
        pfn = self.zone.rmqueue_buddy(order, migratetype, alloc_flags)
        if pfn >= 0:
            self.held[pfn] = order
            if migratetype == MIGRATE_MOVABLE:
                self.zone.lru_add(pfn)
        return pfn

    def step(self) -> None:
        rng = self.rng
        what = rng.random()
        if what < 0.55:
            order = min(rng.choice([0, 0, 1, 1, 2, 3, 4]), self.zone.top_order)
            self.allocate(order, rng.randrange(MIGRATE_PCPTYPES), rng.choice(FLAGS))
        elif what < 0.96 and self.held:
            pfn = rng.choice(list(self.held))
            self.zone.free_pages_ok(pfn, self.held.pop(pfn))
        else:
            self.zone.unreserve_highatomic(rng.randrange(MIGRATE_PCPTYPES), force=rng.random() < 0.5)
        self.released()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_judge_is_silent_whatever_a_sound_zone_does(preset: str) -> None:
    for seed in range(SEEDS):
        told = Told(seed, preset)
        for _ in range(STEPS):
            told.step()
        broken: list[str] = []
        Hearing(lambda invariant, text, found=broken: found.append(f"{invariant}: {text}")).hear(  # type: ignore[misc]
            told.records
        )
        assert broken == [], f"seed {seed}"
