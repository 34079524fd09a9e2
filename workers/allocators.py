"""Allocator threads: the load that reporting must not get in the way of.

What they do is a `Load`, which may be changed while they run. All threads go through the same *rhythms* (fill
up, burst, steady, idle) at about the same time, so that memory fills and empties as a whole, and each allocates
and frees blocks of mixed orders and migratetypes meanwhile. Now and then a thread hands a block to another one,
which frees it.

A thread writes a stamp into the first eight bytes of every page it owns, and looks for it before it frees
the page. A report that hits memory in use wipes stamps; a block given to two owners carries the wrong one.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from pagealloc.gfp import GFP_ZERO
from pagealloc.memory import Memory
from pagealloc.sync import Event, Rng, Sync

T = TypeVar("T")

NOTHING_TO_DO_S = 0.001  # and so a short look aside
SEQUENCE_BITS = 40  # a stamp is (thread + 1) << SEQUENCE_BITS | how many blocks the thread had before


class Held(NamedTuple):
    """A block that a thread owns."""

    pfn: int
    order: int
    stamp: int


class Mix(Generic[T]):
    """Things to choose from, each as often as its weight says."""

    def __init__(self, *parts: tuple[T, int]) -> None:
        self.parts = parts
        self._total = sum(weight for _, weight in parts)

    def draw(self, rng: Rng) -> T:
        at = rng.choose(self._total)
        for thing, weight in self.parts:
            at -= weight
            if at < 0:
                return thing
        raise AssertionError("a draw is less than the sum of the weights")


@dataclass(frozen=True, slots=True)
class Rhythm:
    """A way to go on for a while.

    `fill` is the share of the thread's quota to move towards; `seconds` how long; with `idle` the thread
    goes there at once and then sleeps.
    """

    fill: float
    seconds: float
    idle: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """What allocator threads do: how much, in which rhythm, of what.

    `quota_pages` is what one thread may hold. `orders` are ranges to draw from evenly, `requests` gfp flags.
    With probability `towards` an operation goes the rhythm's way, otherwise the other: churn never stops. A
    block that is given up goes to another thread with probability `handover`, unless `inbox_max` blocks wait
    there already.
    """

    quota_pages: int
    rhythms: Sequence[Rhythm]
    orders: Mix[tuple[int, int]]
    requests: Mix[int]
    towards: float
    handover: float
    inbox_max: int


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
    """One allocator thread's work; `run` is the thread's target, and may be run again when it has ended.

    `load` may be replaced at any time, by anybody. `inboxes` are those of all allocators, by number: a block put
    into one is freed by its owner. `rng` draws what the thread does, `beat` how long a rhythm lasts: threads
    whose beats have the same seed change together. `stop` ends the work, and while `go` is not set it rests.
    """

    def __init__(
        self,
        number: int,
        memory: Memory,
        sync: Sync,
        rng: Rng,
        beat: Rng,
        load: Load,
        *,
        audit: Audit,
        inboxes: Sequence[deque[Held]],
        stop: Event,
        go: Event,
        node: int = 0,
    ) -> None:
        self.number = number
        self.stats = AllocatorStats()
        self.load = load
        self.resting = False  # waits because it was told to, not because something is in its way
        self._memory = memory
        self._sync = sync
        self._rng = rng
        self._beat = beat
        self._audit = audit
        self._inboxes = inboxes
        self._stop = stop
        self._go = go
        self._node = node
        self._held: list[Held] = []
        self._held_pages = 0
        self._blocks = 0

    def run(self) -> None:
        """Allocate and free until told to stop, then free everything."""
        while not self._stop.is_set():
            load = self.load
            for rhythm in load.rhythms:
                self._follow(load, rhythm)
                if self.load is not load:
                    break
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

    def _follow(self, load: Load, rhythm: Rhythm) -> None:
        target_pages = int(load.quota_pages * rhythm.fill)
        rising = self._held_pages < target_pages
        end_s = self._sync.monotonic() + rhythm.seconds * (0.75 + 0.5 * self._beat.random())
        while self._sync.monotonic() < end_s and not self._stop.is_set() and self.load is load:
            if not self._go.is_set():
                self._rest(self._go, end_s)
                continue
            self.empty_inbox()
            grow = self._held_pages < target_pages
            if rhythm.idle and (grow != rising or self._held_pages == target_pages):
                self._rest(self._stop, end_s)
                return
            if grow == (self._rng.random() < load.towards):
                self._allocate()
            elif self._held:
                self._free_some()
            else:
                self._rest(self._stop, min(end_s, self._sync.monotonic() + NOTHING_TO_DO_S))

    def _rest(self, until: Event, end_s: float) -> None:
        self.resting = True
        until.wait(max(0.0, end_s - self._sync.monotonic()))
        self.resting = False

    def _allocate(self) -> None:
        memory, load = self._memory, self.load
        lowest, highest = load.orders.draw(self._rng)
        order = lowest + self._rng.choose(highest - lowest + 1)
        gfp = load.requests.draw(self._rng)
        pfn = memory.alloc_pages(gfp, order, self._node)
        if pfn is None:
            self.stats.failed_allocs += 1
            if self._held:
                self._free_some()
            else:
                self._sync.sleep(NOTHING_TO_DO_S)
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
        if len(self._inboxes) < 2 or self._rng.random() >= self.load.handover or not self._hand_over(block):
            self._free(block)

    def _hand_over(self, block: Held) -> bool:
        """Give a block to another thread; False when that one has enough to do."""
        other = (self.number + 1 + self._rng.choose(len(self._inboxes) - 1)) % len(self._inboxes)
        inbox = self._inboxes[other]
        if len(inbox) >= self.load.inbox_max:
            return False
        self._held_pages -= 1 << block.order
        self.stats.handed_over += 1
        inbox.append(block)
        return True

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
