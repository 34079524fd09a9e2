"""What is asked of an allocator: plans of allocations and frees that were drawn before the clock runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import Any, NamedTuple, TypeVar

from pagealloc.gfp import GFP_HIGHUSER_MOVABLE
from pagealloc.memory import Memory, ZoneSpec
from pagealloc.sync import Rng
from stress.bench.measure import SYNC, Chunk

H = TypeVar("H")

SLOTS = 256
STEPS = 4096
SLICE = 256
TOP_ORDER = 10
ZONE_PAGES = 1 << 16  # 256 MiB

Alloc = Callable[[int], H]  # of an order; returns what `Free` takes
Free = Callable[[H, int], None]


class Step(NamedTuple):
    """Free what the slot holds, a block of order `old`, and put a block of order `new` there."""

    slot: int
    old: int
    new: int


def geometric_order(rng: Rng) -> int:
    """Draw an order: each is half as likely as the one below it."""
    order = 0
    while order < TOP_ORDER and rng.random() < 0.5:
        order += 1
    return order


def mixed_plan(seed: int) -> tuple[list[int], list[Step]]:
    """Draw the orders that fill the slots, and steps after which the slots hold the same orders again."""
    rng = SYNC.rng(seed)
    draws = [(at if at < SLOTS else rng.choose(SLOTS), geometric_order(rng)) for at in range(STEPS)]
    held = dict(draws)
    first = [held[slot] for slot in range(SLOTS)]
    steps = []
    for slot, order in draws:
        steps.append(Step(slot, held[slot], order))
        held[slot] = order
    return first, steps


def mixed(alloc: Alloc[H], free: Free[H], seed: int) -> Chunk:
    """Pairs of mixed orders over 256 slots of the caller's own."""
    first, steps = mixed_plan(seed)
    held = [alloc(order) for order in first]

    # In slices: a thread in a lock convoy needs a second for the whole plan, and is counted by the slice.
    slices = cycle([steps[at : at + SLICE] for at in range(0, STEPS, SLICE)])

    def chunk() -> int:
        for slot, old, new in next(slices):
            free(held[slot], old)
            held[slot] = alloc(new)
        return SLICE

    return chunk


def order_zero(alloc: Alloc[H], free: Free[H]) -> Chunk:
    """One page, allocated and freed again."""

    def chunk() -> int:
        for _ in range(STEPS):
            free(alloc(0), 0)
        return STEPS

    return chunk


def waves(alloc: Alloc[H], free: Free[H], order: int, blocks: int) -> Chunk:
    """Steady churn: so many blocks of one order are allocated, then all of them freed."""

    def chunk() -> int:
        held = [alloc(order) for _ in range(blocks)]
        for block in held:
            free(block, order)
        return blocks

    return chunk


def front(memory: Memory, node: int = 0) -> tuple[Alloc[Any], Free[Any]]:
    """Return a memory's way in and its way out."""
    elsewhere = {"node": node} if node else {}  # as people call it: nobody names node 0
    return partial(memory.alloc_pages, GFP_HIGHUSER_MOVABLE, **elsewhere), memory.free_pages


def one_zone(nr_pages: int = ZONE_PAGES, *, page_sets: bool) -> Memory:
    """Build a memory of one zone, bookkeeping only; 256 MiB unless told otherwise."""
    return Memory([ZoneSpec("Normal", nr_pages)], ram=None, page_sets=page_sets)
