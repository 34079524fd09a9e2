"""Rows about the worker: what it costs the allocators, how long it holds a zone lock, what it gives back."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median

from pagealloc.gfp import GFP_HIGHUSER_MOVABLE
from pagealloc.memory import Memory, ZoneSpec
from pagealloc.mmzone import MIGRATE_MOVABLE, PAGE_SHIFT
from pagealloc.ram import RamKind
from pagealloc.tracepoints import StatLock
from pagealloc.zone import Zone
from stress.bench.measure import (
    SYNC,
    Chunk,
    Effort,
    Row,
    Window,
    compare,
    percentile,
    several_threads,
    take_turns,
)
from stress.bench.workloads import front, waves
from workers.page_reporting import (
    PAGE_REPORTING_CAPACITY,
    Batch,
    PageReporting,
    PageReportingDevice,
    Reporter,
)
from workers.reporters import Discard, Null
from workers.workqueue import Workqueue

CHURN_ORDER = 9
CHURN_BLOCKS = 32
CHURN_PAGES = 1 << 17  # 512 MiB
CHURN_DELAY_S = 0.2  # a tenth of the kernel's: ten times as many passes
TOP_ORDER = 10
HOLD_PAGES = 1 << 20  # 4 GiB: 1024 blocks
DISCARD_PAGES = 1 << 17
PASSES_MAX = 200


class ByHand:
    """A memory with reporting whose passes are made on the calling thread, when asked for."""

    def __init__(self, nr_pages: int, reporter: Reporter, *, ram: RamKind | None = None) -> None:
        self.memory = Memory([ZoneSpec("Normal", nr_pages)], ram=ram, page_sets=False)
        (self.zone,) = self.memory.zones
        queue = Workqueue(SYNC, "bench")
        self.reporting = PageReporting(self.memory.zones, self.memory.revision, SYNC, queue)
        self.reporting.register(PageReportingDevice(reporter))

    def settle(self) -> None:
        """Make passes until nothing asks for another one."""
        for _ in range(PASSES_MAX):
            if not self.reporting.run_now():
                return
        raise AssertionError("an idle memory settles")

    def use_and_free(self, blocks: int) -> None:
        """Allocate so many of the largest blocks and free them: they are unreported afterwards."""
        held = [self.memory.alloc_pages(GFP_HIGHUSER_MOVABLE, TOP_ORDER) for _ in range(blocks)]
        for pfn in held:
            if pfn is not None:
                self.memory.free_pages(pfn, TOP_ORDER)


# -- what the worker costs the allocators --------------------------------------------------------------------


@contextmanager
def _worker(memory: Memory, reporter: Reporter | None) -> Iterator[None]:
    if reporter is None:
        yield
        return
    queue = Workqueue(SYNC, "bench")
    queue.start()
    reporting = PageReporting(memory.zones, memory.revision, SYNC, queue, delay_s=CHURN_DELAY_S)
    device = PageReportingDevice(reporter)
    reporting.register(device)
    try:
        yield
    finally:
        reporting.unregister(device)
        queue.stop(timeout_s=10.0)


def _touched(memory: Memory) -> Chunk:
    """Steady churn by an owner that writes a word to every page."""
    alloc, free = front(memory)
    ram = memory.ram
    assert ram is not None
    words = memoryview(bytes(8 << CHURN_ORDER)).cast("Q")

    def touching(order: int) -> int:
        pfn: int = alloc(order)
        ram.page_words(pfn, order)[:] = words
        return pfn

    return waves(touching, free, CHURN_ORDER, CHURN_BLOCKS)


def _churn(effort: Effort, reporter: Reporter | None, *, ram: RamKind | None, touch: bool) -> Window:
    with Memory([ZoneSpec("Normal", CHURN_PAGES)], ram=ram, page_sets=False) as memory:
        chunk = _touched(memory) if touch else waves(*front(memory), CHURN_ORDER, CHURN_BLOCKS)
        with _worker(memory, reporter):
            return several_threads([chunk], effort.churn_s, effort.warm_up_s)


def cost_of_the_worker(effort: Effort) -> list[Row]:
    """Steady churn at order 9 with the worker running against without."""
    cases: list[tuple[str, Reporter, RamKind | None, bool, float | None]] = [
        ("reporter null", Null(), None, False, 0.98),
        ("reporter discard", Discard(), "anonymous", False, 0.98),
        (
            "reporter discard, every page written by its owner: what refaults cost",
            Discard(),
            "anonymous",
            True,
            None,
        ),
    ]
    return [_cost(effort, *case) for case in cases]


def _cost(
    effort: Effort, what: str, reporter: Reporter, ram: RamKind | None, touch: bool, goal: float | None
) -> Row:
    results = take_turns(
        {
            "with": partial(_churn, effort, reporter, ram=ram, touch=touch),
            "without": partial(_churn, effort, None, ram=ram, touch=touch),
        },
        effort.rounds,
    )
    by_processor = [
        one.per_processor_second / other.per_processor_second
        for one, other in zip(results["with"], results["without"], strict=True)
    ]
    return compare(
        f"churn at order {CHURN_ORDER} with the worker, against without: {what}",
        [window.operations for window in results["with"]],
        [window.operations for window in results["without"]],
        goal=goal,
        unit="pairs/s",
        against="no worker",
        figures={
            "seconds from request to pass": CHURN_DELAY_S,
            "ratio by the processor time of all threads together": median(by_processor),
        },
    )


# -- how long the worker holds a zone lock ---------------------------------------------------------------------


class Holds:
    """Collects how long a zone's lock is held, in microseconds, while `on`."""

    def __init__(self, zone: Zone) -> None:
        self.us: list[float] = []
        self.on = False
        zone.use_lock(StatLock(zone.lock.raw, SYNC, zone.number, self._hear, None))

    def _hear(self, event: str, /, *fields: object) -> None:
        held_ns = fields[1]
        if self.on and event == "lock_release" and isinstance(held_ns, int):
            self.us.append(held_ns / 1000)


def batch_alone_us(rounds: int) -> list[float]:
    """Isolate 32 blocks and put them back as Reported, with nothing around it; microseconds for each time."""
    zone = ByHand(HOLD_PAGES, Null()).zone
    times = []
    for _ in range(rounds):
        pfns = [
            pfn
            for pfn, _ in zip(
                zone.list_pfns(TOP_ORDER, MIGRATE_MOVABLE), range(PAGE_REPORTING_CAPACITY), strict=False
            )
        ]
        begin_ns = SYNC.monotonic_ns()
        for pfn in pfns:
            zone.isolate_free_page(pfn, TOP_ORDER)
        for pfn in pfns:
            zone.putback_isolated_page(pfn, TOP_ORDER, zone.pageblock_migratetype(pfn))
            zone.set_reported(pfn)
        times.append((SYNC.monotonic_ns() - begin_ns) / 1000)
    return times


def holds_us(nr_pages: int, fresh_blocks: int, rounds: int, *, behind: bool = False) -> list[float]:
    """Return the worker's holds while it reports fresh blocks of a zone whose others are all Reported.

    With `behind` the fresh blocks stand behind the Reported ones, where nothing but a failed batch puts them.
    """
    side = ByHand(nr_pages, Null())
    holds = Holds(side.zone)
    side.settle()
    for _ in range(rounds):
        side.use_and_free(fresh_blocks)
        if behind:
            pfns = side.zone.list_pfns(TOP_ORDER, MIGRATE_MOVABLE)
            reported = next(pfn for pfn in pfns if side.zone.is_reported(pfn))
            side.zone.rotate_to_front(reported, TOP_ORDER, MIGRATE_MOVABLE)
        holds.on = True
        side.settle()
        holds.on = False
    return holds.us


def hold_times(effort: Effort) -> list[Row]:
    """The worker's holds against the same work alone, and against the number of Reported entries."""
    pages = min(HOLD_PAGES, effort.largest_zone_pages)
    few, many = pages >> 3, min(8 * pages, effort.largest_zone_pages)
    fresh = min(64, few >> (TOP_ORDER + 1))
    samples = 20 * effort.rounds

    def worst(nr_pages: int, *, behind: bool = False) -> float:
        return percentile(holds_us(nr_pages, fresh, samples, behind=behind), 0.99)

    results = take_turns(
        {
            "alone": lambda: median(batch_alone_us(10 * samples)),
            "few": lambda: worst(few),
            "many": lambda: worst(many),
            "behind": lambda: worst(many, behind=True),
        },
        effort.rounds,
    )
    nr_few, nr_many = (few >> TOP_ORDER) - fresh, (many >> TOP_ORDER) - fresh
    unit = "us, 99th percentile"
    hold = f"zone lock hold of the worker for a batch of {PAGE_REPORTING_CAPACITY}"
    return [
        compare(
            f"{hold}, against the same work alone",
            results["many"],
            results["alone"],
            goal=2.0,
            at_most=True,
            unit=unit,
            against="32 isolations and 32 putbacks",
        ),
        compare(
            f"{hold}: with {nr_many} Reported entries on the list, against {nr_few}",
            results["many"],
            results["few"],
            goal=1.25,
            at_most=True,
            unit=unit,
            against=f"{nr_few} entries",
        ),
        compare(
            f"{hold}: fresh blocks behind {nr_many} Reported entries, against before them",
            results["behind"],
            results["many"],
            goal=1.25,
            at_most=True,
            unit=unit,
            against="before them",
        ),
    ]


# -- what comes back, and what nothing to do costs --------------------------------------------------------------


class Ranges:
    """A reporter that discards, and keeps the ranges."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []
        self._discard = Discard()

    def report(self, zone: Zone, batch: Batch) -> None:
        self.ranges += [(block.offset, block.length) for block in batch]
        self._discard.report(zone, batch)


def discard_rate(effort: Effort) -> list[Row]:
    """Memory given back per second by the worker, against a bare loop of the same system calls."""
    reporter = Ranges()
    side = ByHand(min(DISCARD_PAGES, effort.largest_zone_pages), reporter, ram="anonymous")
    ram = side.memory.ram
    assert ram is not None
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    def touch() -> None:
        for offset in range(0, ram.nr_bytes, mmap.PAGESIZE << TOP_ORDER):
            ram.memory[offset : offset + (mmap.PAGESIZE << TOP_ORDER) : mmap.PAGESIZE] = bytes([1]) * (
                1 << TOP_ORDER
            )

    def bytes_per_second(work: Callable[[], None]) -> float:
        touch()
        begin_s = SYNC.monotonic()
        work()
        seconds = SYNC.monotonic() - begin_s
        return sum(length for _, length in reporter.ranges) / seconds

    def passes() -> float:
        side.use_and_free(side.zone.nr_free[TOP_ORDER])
        reporter.ranges.clear()
        return bytes_per_second(side.settle)

    def bare() -> None:
        for offset, length in reporter.ranges:
            madvise(ram.address + offset, length, mmap.MADV_DONTNEED)

    results = take_turns({"worker": passes, "bare": lambda: bytes_per_second(bare)}, effort.rounds)
    side.memory.close()
    return [
        compare(
            "memory given back per second by discard, against a bare loop of the same system calls",
            results["worker"],
            results["bare"],
            goal=0.95,
            unit="bytes/s",
            against="a bare loop",
        )
    ]


def idle_pass(effort: Effort) -> list[Row]:
    """A pass over a zone in which everything is reported already."""
    pages = effort.largest_zone_pages
    side = ByHand(pages, Null())
    side.settle()
    times_ms = []
    for _ in range(5 * effort.rounds):
        side.reporting.notify()
        begin_ns = SYNC.monotonic_ns()
        side.reporting.run_now()
        times_ms.append((SYNC.monotonic_ns() - begin_ns) / 1e6)
    name = f"idle pass over a fully reported zone of {pages >> (30 - PAGE_SHIFT)} GiB, against 1 ms"
    return [compare(name, times_ms, [1.0] * len(times_ms), goal=1.0, at_most=True, unit="ms", against="1 ms")]
