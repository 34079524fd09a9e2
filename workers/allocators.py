"""Allocator threads: the load that reporting must not get in the way of.

All threads go through the same *rhythms* (ramp up, burst, steady, idle) at about the same time, so that
memory fills and empties as a whole, and each allocates and frees blocks of mixed orders and migratetypes
meanwhile. Now and then a thread hands a block to another one, which frees it.

A thread writes a stamp into the first eight bytes of every page it owns, and looks for it before it frees
the page. A report that hits memory in use wipes stamps; a block given to two owners carries the wrong one.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import NamedTuple, Protocol

from pagealloc.gfp import (
    GFP_ATOMIC,
    GFP_DMA32,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    GFP_RECLAIMABLE,
    GFP_ZERO,
)
from pagealloc.memory import Memory
from pagealloc.sync import Event, Rng, Sync

# What is asked for, and how often: flags of the requests, weights out of 100.
REQUESTS = (
    (GFP_HIGHUSER_MOVABLE, 58),
    (GFP_KERNEL, 20),
    (GFP_KERNEL | GFP_RECLAIMABLE, 10),
    (GFP_KERNEL | GFP_DMA32, 6),
    (GFP_ATOMIC, 3),
    (GFP_KERNEL | GFP_ZERO, 3),
)

SEQUENCE_BITS = 40  # a stamp is (thread + 1) << SEQUENCE_BITS | how many blocks the thread had before


class Held(NamedTuple):
    """A block that a thread owns."""

    pfn: int
    order: int
    stamp: int


@dataclass(frozen=True, slots=True)
class Rhythm:
    """A way to go on for a while.

    `fill` is the share of the thread's quota to move towards; `seconds` how long; with `idle` the thread
    goes there at once and then sleeps.
    """

    name: str
    fill: float
    seconds: float
    idle: bool = False


RHYTHMS = (
    Rhythm("ramp up", 1.0, 1.0),
    Rhythm("steady", 0.9, 0.6),
    Rhythm("burst", 0.02, 0.3),
    Rhythm("idle", 0.05, 0.9, idle=True),
    Rhythm("burst", 0.7, 0.3),
    Rhythm("steady", 0.4, 0.6),
)


class Audit(Protocol):
    """Who is told of every allocation and free, and of what went wrong."""

    def allocated(self, pfn: int, order: int, stamp: int) -> None:
        """Hear of a block right after its allocation."""
        ...

    def freeing(self, pfn: int, order: int, stamp: int) -> None:
        """Hear of a block right before it is freed."""
        ...

    def violation(self, text: str) -> None:
        """Hear that the allocator broke a promise."""
        ...


@dataclass(slots=True)
class AllocatorStats:
    """Counts of one thread, written by it alone."""

    allocs: int = 0
    frees: int = 0
    failed_allocs: int = 0
    handed_over: int = 0


def stamp_owner(stamp: int) -> str:
    """Say in words whose stamp this is."""
    if stamp == 0:
        return "nothing (it reads zero: the memory was given back)"
    thread, sequence = (stamp >> SEQUENCE_BITS) - 1, stamp & ((1 << SEQUENCE_BITS) - 1)
    return f"allocator {thread}, its block number {sequence}"


class Allocator:
    """One allocator thread's work; `run` is the thread's target.

    `quota_pages` bounds what the thread holds. `inboxes` are those of all allocators, by number: a block put
    into one is freed by its owner. `rng` draws what the thread does, `beat` how long a rhythm lasts: threads
    whose beats have the same seed change together.
    """

    def __init__(
        self,
        number: int,
        memory: Memory,
        sync: Sync,
        rng: Rng,
        beat: Rng,
        *,
        quota_pages: int,
        audit: Audit,
        inboxes: Sequence[deque[Held]],
        stop: Event,
        node: int = 0,
        max_order: int | None = None,
        rhythms: Sequence[Rhythm] = RHYTHMS,
    ) -> None:
        self.number = number
        self.stats = AllocatorStats()
        self.rhythm = rhythms[0].name
        self._memory = memory
        self._sync = sync
        self._rng = rng
        self._beat = beat
        self._quota_pages = quota_pages
        self._audit = audit
        self._inboxes = inboxes
        self._stop = stop
        self._node = node
        self._max_order = memory.layout.top_order if max_order is None else max_order
        self._rhythms = rhythms
        self._held: list[Held] = []
        self._held_pages = 0
        self._blocks = 0

    def run(self) -> None:
        """Allocate and free until told to stop, then free everything."""
        for rhythm in cycle(self._rhythms):
            if self._stop.is_set():
                break
            self._follow(rhythm)
        self.free_everything()
        self._memory.drain_local_pages()

    def free_everything(self) -> None:
        """Free what the thread holds and what was handed to it."""
        while self._held:
            self._free(self._held.pop())
        self.empty_inbox()

    def empty_inbox(self) -> None:
        """Free what other threads handed over."""
        inbox = self._inboxes[self.number]
        while inbox:
            self._check_and_free(inbox.popleft())

    def _follow(self, rhythm: Rhythm) -> None:
        self.rhythm = rhythm.name
        target_pages = int(self._quota_pages * rhythm.fill)
        end_s = self._sync.monotonic() + rhythm.seconds * (0.75 + 0.5 * self._beat.random())
        while self._sync.monotonic() < end_s and not self._stop.is_set():
            self.empty_inbox()
            grow = self._held_pages < target_pages
            if rhythm.idle and not grow:
                self._stop.wait(max(0.0, end_s - self._sync.monotonic()))
                return
            # Towards the target most of the time, the other way now and then: churn never stops.
            if grow == (self._rng.random() < 0.85):
                self._allocate()
            elif self._held:
                self._free_some()

    def _allocate(self) -> None:
        order = self._pick_order()
        gfp = self._pick_gfp()
        memory = self._memory
        pfn = memory.alloc_pages(gfp, order, self._node)
        if pfn is None:
            self.stats.failed_allocs += 1
            if self._held:
                self._free_some()
            else:
                self._sync.sleep(0.001)
            return
        self.stats.allocs += 1
        self._blocks += 1
        stamp = (self.number + 1) << SEQUENCE_BITS | self._blocks
        self._audit.allocated(pfn, order, stamp)
        if memory.ram is not None:
            words = memory.ram.page_words(pfn, order)
            if gfp & GFP_ZERO and any(words.tolist()):
                self._audit.violation(f"pfn {pfn:#x} order {order}: a page asked for zeroed is not zero")
            words[:] = memoryview(array("Q", (stamp,)) * (1 << order))
        self._held.append(Held(pfn, order, stamp))
        self._held_pages += 1 << order

    def _free_some(self) -> None:
        held = self._held
        at = self._rng.choose(len(held))
        held[at], held[-1] = held[-1], held[at]
        block = held.pop()
        if len(self._inboxes) > 1 and self._rng.random() < 0.1:
            self._held_pages -= 1 << block.order
            self.stats.handed_over += 1
            other = (self.number + 1 + self._rng.choose(len(self._inboxes) - 1)) % len(self._inboxes)
            self._inboxes[other].append(block)
            return
        self._free(block)

    def _free(self, block: Held) -> None:
        self._held_pages -= 1 << block.order
        self._check_and_free(block)

    def _check_and_free(self, block: Held) -> None:
        pfn, order, stamp = block
        memory = self._memory
        if memory.ram is not None:
            found = memory.ram.page_words(pfn, order).tolist()
            if found.count(stamp) != len(found):
                self._report_lost(block, found)
        self._audit.freeing(pfn, order, stamp)
        memory.free_pages(pfn, order)
        self.stats.frees += 1

    def _report_lost(self, block: Held, found: Sequence[int]) -> None:
        wrong = [at for at, word in enumerate(found) if word != block.stamp]
        first = wrong[0]
        self._audit.violation(
            f"lost data: pfn {block.pfn + first:#x}, page {first} of the block of order {block.order} at pfn "
            f"{block.pfn:#x}, belongs to {stamp_owner(block.stamp)}, but bears the stamp of "
            f"{stamp_owner(found[first])}; {len(wrong)} of {len(found)} pages are wrong"
        )

    def _pick_order(self) -> int:
        """Draw an order: mostly small ones, and one request in twelve for half a MiB and more."""
        draw = self._rng.random()
        if draw < 0.08:
            low, high = 7, self._max_order
        elif draw < 0.25:
            low, high = 3, 6
        else:
            low, high = 0, 3
        low, high = min(low, self._max_order), min(high, self._max_order)
        return low + self._rng.choose(high - low + 1)

    def _pick_gfp(self) -> int:
        draw = self._rng.choose(100)
        for gfp, weight in REQUESTS:
            draw -= weight
            if draw < 0:
                return gfp
        raise AssertionError("the weights add up to 100")
