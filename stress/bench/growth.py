"""How costs grow: with the zone, the threads, the number of zones, and the share that is Reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pagealloc.memory import Memory, ZoneSpec
from pagealloc.mmzone import PAGE_SHIFT
from stress.bench.measure import SYNC, Effort, one_thread, several_threads
from stress.bench.peers import Present
from stress.bench.reporting import TOP_ORDER, ByHand
from stress.bench.throughput import on_one_zone
from stress.bench.workloads import ZONE_PAGES, Alloc, Free, front, mixed, one_zone, waves
from workers.reporters import Null

SIZES_PAGES = [1 << shift for shift in range(14, 25, 2)]  # 64 MiB .. 64 GiB
THREADS = (1, 2, 4, 8, 16, 32, 64)
MANY_PAGES = 1 << 18  # room for what 64 threads hold
ZONES = (1, 2, 4, 8, 16)
REPORTED_SHARES = (0, 25, 50, 75, 100)  # per cent

Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Curve:
    """How one thing depends on another: for each series its points, (x, y)."""

    name: str
    x: str
    y: str
    series: dict[str, Points]


def growth(effort: Effort, present: Present) -> list[partial[Curve]]:
    """Return everything that gives a curve, in the order of the output."""
    return [
        partial(zone_size, effort),
        partial(reporting_by_size, effort),
        partial(threads, effort, present),
        partial(zones, effort),
        partial(reported_share, effort),
    ]


def _ns_per_pair(source: tuple[Alloc[Any], Free[Any]], effort: Effort) -> float:
    return 1e9 / one_thread(mixed(*source, seed=1), effort.window_s)


def _sizes(effort: Effort) -> list[int]:
    return [pages for pages in SIZES_PAGES if pages <= effort.largest_zone_pages]


def zone_size(effort: Effort) -> Curve:
    """The cost of a pair of mixed orders against the zone's size."""
    series: dict[str, Points] = {"page sets off": [], "page sets on": []}
    for pages in _sizes(effort):
        for name, points in series.items():
            memory = one_zone(pages, page_sets=name == "page sets on")
            points.append((pages >> (20 - PAGE_SHIFT), _ns_per_pair(front(memory), effort)))
    return Curve("A pair of mixed orders against the size of the zone", "zone, MiB", "ns per pair", series)


def reporting_by_size(effort: Effort) -> Curve:
    """The cost of a reported block, all passes of an idle zone together, against the zone's size."""
    points: Points = []
    for pages in _sizes(effort)[1:]:  # 64 MiB is below the mark at which a pass begins
        side = ByHand(pages, Null())
        begin_s = SYNC.monotonic()
        side.settle()
        seconds = SYNC.monotonic() - begin_s
        points.append((pages >> (20 - PAGE_SHIFT), seconds * 1e6 / side.reporting.stats.reported_blocks))
    return Curve(
        "A reported block against the size of the zone", "zone, MiB", "us per block", {"null": points}
    )


def threads(effort: Effort, present: Present) -> Curve:
    """Throughput of all threads together on one zone, against their number."""

    def ours(number: int, *, page_sets: bool) -> list[Callable[[], int]]:
        return on_one_zone(one_zone(MANY_PAGES, page_sets=page_sets), number)

    def theirs(number: int, *, name: str) -> list[Callable[[], int]]:
        peer = present.peers[name](MANY_PAGES)
        return [mixed(peer.alloc, peer.free, seed=seed) for seed in range(number)]

    makers: dict[str, Callable[[int], list[Callable[[], int]]]] = {
        "page sets on": partial(ours, page_sets=True),
        "page sets off": partial(ours, page_sets=False),
    }
    makers |= {name: partial(theirs, name=name) for name in present.peers}
    series: dict[str, Points] = {name: [] for name in makers}
    for number in THREADS:
        for name, make in makers.items():
            window = several_threads(make(number), effort.threads_s, effort.warm_up_s)
            series[name].append((number, window.operations / 1000))
    return Curve(
        "Throughput on one zone against the number of threads", "threads", "thousand pairs/s", series
    )


def zones(effort: Effort) -> Curve:
    """The cost of a pair against the number of zones, in the first and in the last of them."""
    series: dict[str, Points] = {"first zone": [], "last zone": []}
    for number in ZONES:
        specs = [ZoneSpec("Normal", ZONE_PAGES, node=node) for node in range(number)]
        memory = Memory(specs, ram=None, page_sets=False)
        for name, node in (("first zone", 0), ("last zone", number - 1)):
            series[name].append((number, _ns_per_pair(front(memory, node), effort)))
    return Curve("A pair of mixed orders against the number of zones", "zones", "ns per pair", series)


def reported_share(effort: Effort) -> Curve:
    """The cost of a pair of order 9, and of a reported block, against the share of the zone that is Reported."""
    pages = min(1 << 20, effort.largest_zone_pages)
    blocks = pages >> TOP_ORDER
    pair: Points = []
    block: Points = []
    for share in REPORTED_SHARES:
        side = ByHand(pages, Null())
        side.settle()
        side.use_and_free(blocks * (100 - share) // 100)
        alloc, free = front(side.memory)
        # The worker's own figure first: it leaves everything Reported, so the share is set once more after it.
        before = side.reporting.stats.reported_blocks
        begin_s = SYNC.monotonic()
        side.settle()
        seconds = SYNC.monotonic() - begin_s
        reported = side.reporting.stats.reported_blocks - before
        if reported:
            block.append((share, seconds * 1e6 / reported))
        side.use_and_free(blocks * (100 - share) // 100)
        pair.append((share, 1e6 / one_thread(waves(alloc, free, 9, 32), effort.window_s)))
    return Curve(
        "Against the share of the zone that is Reported",
        "Reported, per cent",
        "us",
        {"a pair of order 9": pair, "a reported block": block},
    )
