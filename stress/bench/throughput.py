"""Rows about allocating and freeing: one thread, many threads on one zone, a zone for each thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any

from pagealloc.memory import Memory, ZoneSpec
from pagealloc.mmzone import MIGRATE_MOVABLE
from pagealloc.sync_real import gil_enabled
from pagealloc.tracepoints import StatLock
from stress.bench.measure import (
    SYNC,
    Chunk,
    Effort,
    Row,
    Window,
    compare,
    goal_of_build,
    one_thread,
    several_threads,
    take_turns,
)
from stress.bench.peers import Peer, Present
from stress.bench.workloads import ZONE_PAGES, Alloc, Free, front, mixed, one_zone, order_zero

MANY_THREADS = 8
PAIRS = "pairs/s"
OURS, PAGE_SETS, ZONE = "Memory, page sets off", "Memory, page sets on", "Zone, without Memory's front"


class Floor:
    """Two calls that take and release a lock, and do nothing else: the least that a shared allocator can cost."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock: Any = SYNC.mutex("floor")

    def alloc(self, order: int) -> int:
        with self._lock:
            return order

    def free(self, block: int, order: int) -> None:
        with self._lock:
            pass


def past_the_front() -> tuple[Alloc[int], Free[int]]:
    """Return a zone's own way in and way out: no request flags, no watermarks, no choice of zone."""
    zone = one_zone(page_sets=False).zones[0]
    rmqueue_buddy, free_pages_ok = zone.rmqueue_buddy, zone.free_pages_ok

    def alloc(order: int) -> int:
        return rmqueue_buddy(order, MIGRATE_MOVABLE)

    return alloc, free_pages_ok


def _peer(make: Peer) -> tuple[Alloc[Any], Free[Any]]:
    peer = make(ZONE_PAGES)
    return peer.alloc, peer.free


def best(results: Mapping[str, list[float]], names: Mapping[str, object]) -> str:
    """Return the name of the peer with the highest median."""
    return max(names, key=lambda name: median(results[name]))


def _medians(results: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: median(figures) for name, figures in results.items()}


def _against_best(
    name: str,
    ours: str,
    results: Mapping[str, list[float]],
    present: Present,
    *,
    goal: float | None,
    figures: Mapping[str, object] | None = None,
) -> Row:
    """Compare with the best peer. Where one of them is missing the best may be another, so there is no goal."""
    peer = best(results, present.peers)
    if present.missing:
        goal, figures = None, {**(figures or {}), "no goal without": present.missing}
    against = f"{peer}, the best of {len(present.peers)}"
    return compare(
        name, results[ours], results[peer], goal=goal, unit=PAIRS, against=against, figures=figures
    )


def one_thread_mixed(effort: Effort, present: Present) -> list[Row]:
    """Mixed orders, one thread, against the best thread-safe peer: page sets off as in the peers, and on."""
    sources = {OURS: front(one_zone(page_sets=False)), PAGE_SETS: front(one_zone(page_sets=True))}
    sources |= {ZONE: past_the_front()}
    sources |= {name: _peer(make) for name, make in (present.peers | present.for_scale).items()}
    chunks = {name: mixed(*source, seed=1) for name, source in sources.items()}
    results = take_turns(
        {name: partial(one_thread, chunk, effort.window_s) for name, chunk in chunks.items()}, effort.rounds
    )
    name = "one thread, mixed orders, page sets off, against the best peer"
    figures = {"pairs per second": _medians(results)}
    row = partial(_against_best, results=results, present=present)
    return [
        row(name, OURS, goal=goal_of_build(interpreted=0.6, compiled=1.5), figures=figures),
        row(f"{name}: the zone alone", ZONE, goal=None),
        row(
            "one thread, mixed orders, page sets on, against the best peer",
            PAGE_SETS,
            goal=goal_of_build(interpreted=1.0, compiled=2.0),
        ),
    ]


def on_one_zone(memory: Memory, threads: int) -> list[Chunk]:
    """Return the mixed work of so many threads on one memory."""
    return [mixed(*front(memory), seed=number) for number in range(threads)]


def _threads_of(chunks: Callable[[], list[Chunk]], effort: Effort) -> Callable[[], Window]:
    """Measure so that each round builds its threads' work anew, and the work of others is gone by then."""
    return lambda: several_threads(chunks(), effort.threads_s, effort.warm_up_s)


def many_threads(effort: Effort, present: Present) -> list[Row]:
    """Eight threads on one zone against the best peer: page sets off as in the peers, and on as users have them."""

    def of_peer(make: Peer) -> list[Chunk]:
        alloc, free = _peer(make)
        return [mixed(alloc, free, seed=number) for number in range(MANY_THREADS)]

    contenders = {OURS: _threads_of(lambda: on_one_zone(one_zone(page_sets=False), MANY_THREADS), effort)}
    contenders[PAGE_SETS] = _threads_of(lambda: on_one_zone(one_zone(page_sets=True), MANY_THREADS), effort)
    for name, make in present.peers.items():
        contenders[name] = _threads_of(partial(of_peer, make), effort)
    windows = take_turns(contenders, effort.rounds)
    results = {name: [window.operations for window in each] for name, each in windows.items()}
    switches = {name: median(window.context_switches for window in each) for name, each in windows.items()}
    figures = {
        "pairs per second": _medians(results),
        "context switches per second": switches,
        "contended share of acquisitions": contended_share(effort, page_sets=False),
    }
    name = f"{MANY_THREADS} threads on one zone, mixed orders, page sets {{}}, against the best peer"
    goal = 10.0 if gil_enabled() else None
    return [
        _against_best(name.format("off"), OURS, results, present, goal=goal, figures=figures),
        _against_best(name.format("on"), PAGE_SETS, results, present, goal=None),
    ]


def contended_share(effort: Effort, *, page_sets: bool) -> float:
    """Return which share of zone lock acquisitions finds the lock held, in a window of its own."""
    memory = one_zone(page_sets=page_sets)
    (zone,) = memory.zones
    lock = StatLock(zone.lock.raw, SYNC, zone.number, None, None)
    zone.use_lock(lock)
    several_threads(on_one_zone(memory, MANY_THREADS), effort.threads_s, effort.warm_up_s)
    return lock.contended / max(1, lock.acquisitions)


def no_collapse(effort: Effort) -> list[Row]:
    """Eight threads against one on one zone, page sets on."""
    windows = take_turns(
        {
            "one": _threads_of(lambda: on_one_zone(one_zone(page_sets=True), 1), effort),
            "many": _threads_of(lambda: on_one_zone(one_zone(page_sets=True), MANY_THREADS), effort),
        },
        effort.rounds,
    )
    results = {name: [window.operations for window in each] for name, each in windows.items()}
    figures = {
        "context switches per second": median(window.context_switches for window in windows["many"]),
        "contended share of acquisitions": contended_share(effort, page_sets=True),
    }
    name = f"{MANY_THREADS} threads against one, one zone, mixed orders, page sets on"
    return [
        compare(
            name,
            results["many"],
            results["one"],
            goal=0.85,
            unit=PAIRS,
            against="one thread",
            figures=figures,
        )
    ]


def order_zero_pairs(effort: Effort, present: Present) -> list[Row]:
    """Order 0 through the page sets against two calls that take and release a lock."""
    floor = Floor()
    sources: dict[str, tuple[Alloc[Any], Free[Any]]] = {
        PAGE_SETS: front(one_zone(page_sets=True)),
        OURS: front(one_zone(page_sets=False)),
        "floor": (floor.alloc, floor.free),
    }
    sources |= {name: _peer(make) for name, make in (present.peers | present.for_scale).items()}
    results = take_turns(
        {name: partial(one_thread, order_zero(*source), effort.window_s) for name, source in sources.items()},
        effort.rounds,
    )
    return [
        compare(
            "order 0 through the page sets, against two calls that take and release a lock",
            results[PAGE_SETS],
            results["floor"],
            goal=goal_of_build(interpreted=None, compiled=1.0),
            unit=PAIRS,
            against="the floor",
            figures={"pairs per second": _medians(results)},
        ),
        _against_best(
            "order 0 through the page sets, against the best peer", PAGE_SETS, results, present, goal=None
        ),
    ]


def own_zones(effort: Effort) -> list[Row]:
    """Two threads with a zone each against one thread, and with a memory each: what sharing the front costs."""

    def zones(threads: int) -> list[Chunk]:
        specs = [ZoneSpec("Normal", ZONE_PAGES, node=node) for node in range(threads)]
        memory = Memory(specs, ram=None, page_sets=True)
        return [mixed(*front(memory, node), seed=node) for node in range(threads)]

    def memories(threads: int) -> list[Chunk]:
        return [mixed(*front(one_zone(page_sets=True)), seed=number) for number in range(threads)]

    windows = take_turns(
        {
            "one": _threads_of(lambda: zones(1), effort),
            "a zone": _threads_of(lambda: zones(2), effort),
            "a memory": _threads_of(lambda: memories(2), effort),
        },
        effort.rounds,
    )
    results = {name: [window.operations for window in each] for name, each in windows.items()}
    goals = {"a zone": None if gil_enabled() else 1.7, "a memory": None}
    return [
        compare(
            f"two threads with {what} each, against one thread",
            results[what],
            results["one"],
            goal=goal,
            unit=PAIRS,
            against="one thread",
        )
        for what, goal in goals.items()
    ]
