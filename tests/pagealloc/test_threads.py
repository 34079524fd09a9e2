"""Real threads on one memory: nobody's page is handed out twice, and at the end every page is back."""

from __future__ import annotations

import sys
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from random import Random

import pytest
from zone_kit import assert_sound, free_blocks

from pagealloc import (
    GFP_DMA32,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    GFP_RECLAIMABLE,
    BadPage,
    Memory,
    PageAllocError,
    Revision,
    Sync,
    Zone,
    ZoneSpec,
)
from pagealloc.mmzone import MIGRATE_PCPTYPES
from pagealloc.revision import V5_7, V6_1

REQUESTS = (GFP_HIGHUSER_MOVABLE, GFP_KERNEL, GFP_KERNEL | GFP_RECLAIMABLE, GFP_KERNEL | GFP_DMA32)
REPORTER = (1 << 64) - 1

RunTogether = Callable[..., None]


@pytest.fixture(autouse=True)
def switching_often() -> Iterator[None]:
    """Let the interpreter change threads thousands of times as often as usual."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual_s)


@pytest.fixture(params=[V6_1, V5_7], ids=lambda revision: revision.name)
def memory(request: pytest.FixtureRequest) -> Iterator[Memory]:
    revision: Revision = request.param
    with Memory([ZoneSpec("DMA32", 2048), ZoneSpec("Normal", 4096 + 33)], revision=revision) as memory:
        yield memory


def stamp(memory: Memory, pfn: int, order: int, value: int) -> None:
    """Write a number into every page of a block."""
    assert memory.ram is not None
    with memory.ram.page_words(pfn, order) as words:
        words[:] = memoryview(array("Q", (value,)) * (1 << order))


def assert_stamped(memory: Memory, pfn: int, order: int, value: int) -> None:
    """Fail if anybody wrote into a block since it was stamped."""
    assert memory.ram is not None
    with memory.ram.page_words(pfn, order) as words:
        assert words.tolist() == [value] * (1 << order), f"pfn {pfn:#x} order {order} has another owner"


class Worker:
    """Allocates and frees at random; every second block is freed by another worker."""

    def __init__(
        self, number: int, memory: Memory, steps: int, inboxes: list[deque[tuple[int, int, int]]]
    ) -> None:
        self._number = number
        self._memory = memory
        self._steps = steps
        self._inboxes = inboxes
        self._random = Random(number)
        self._held: list[tuple[int, int, int]] = []

    def run(self) -> None:
        for step in range(self._steps):
            if self._random.random() < 0.55:
                self._allocate(step)
            elif self._held:
                block = self._held.pop(self._random.randrange(len(self._held)))
                if step % 2:
                    self._inboxes[self._random.randrange(len(self._inboxes))].append(block)
                else:
                    self._free(block)
            self.empty_inbox()
        while self._held:
            self._free(self._held.pop())

    def _allocate(self, step: int) -> None:
        order = self._random.choice((0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 9, 10))
        pfn = self._memory.alloc_pages(self._random.choice(REQUESTS), order)
        if pfn is None:
            return
        value = self._number << 32 | step
        stamp(self._memory, pfn, order, value)
        self._held.append((pfn, order, value))

    def empty_inbox(self) -> None:
        inbox = self._inboxes[self._number]
        while inbox:
            self._free(inbox.popleft())

    def _free(self, block: tuple[int, int, int]) -> None:
        pfn, order, value = block
        assert_stamped(self._memory, pfn, order, value)
        self._memory.free_pages(pfn, order)


class Crowd:
    """Workers on one memory, and whatever else goes on beside them until the last one is done."""

    def __init__(self, memory: Memory, sync: Sync, steps: int, nr_workers: int = 4) -> None:
        inboxes: list[deque[tuple[int, int, int]]] = [deque() for _ in range(nr_workers)]
        self.workers = [Worker(number, memory, steps, inboxes) for number in range(nr_workers)]
        self._at_work = sync.atomic("at work", nr_workers)

    def targets(self) -> list[Callable[[], None]]:
        return [self._work(worker) for worker in self.workers]

    def _work(self, worker: Worker) -> Callable[[], None]:
        def run() -> None:
            try:
                worker.run()
            finally:
                self._at_work.add(-1)

        return run

    def beside(self, action: Callable[[], None]) -> Callable[[], None]:
        """Return a target that does something again and again, once at least, while a worker is at work."""

        def run() -> None:
            action()
            while self._at_work.load():
                action()

        return run

    def empty_inboxes(self) -> None:
        for worker in self.workers:
            worker.empty_inbox()


def assert_all_is_back(memory: Memory, at_boot: list[set[tuple[int, int]]]) -> None:
    """Fail unless every page is free again and has merged into the blocks that the zones booted with."""
    memory.drain_all_pages()
    for zone, blocks in zip(memory.zones, at_boot, strict=True):
        assert_sound(zone)
        assert zone.nr_free_pages == zone.managed_pages
        assert free_blocks(zone) == blocks


def reporting_pass(memory: Memory, sync: Sync) -> int:
    """Do to every zone what a reporting worker does: take blocks out, use their memory, put them back.

    Returns how many blocks it had.
    """
    blocks = 0
    for zone in memory.zones:
        taken = isolate_some(zone)
        blocks += len(taken)
        for pfn, order in taken:
            stamp(memory, pfn, order, REPORTER)
        sync.sleep(0)
        for pfn, order in taken:
            assert_stamped(memory, pfn, order, REPORTER)
        zone.lock.acquire()
        try:
            for pfn, order in taken:
                zone.putback_isolated_page(pfn, order, zone.pageblock_migratetype(pfn))
                if zone.page_is_buddy(pfn, order):
                    zone.set_reported(pfn)
        finally:
            zone.lock.release()
    return blocks


def isolate_some(zone: Zone) -> list[tuple[int, int]]:
    taken = []
    zone.lock.acquire()
    try:
        for order in range(3, 11):
            for migratetype in range(MIGRATE_PCPTYPES):
                first = zone.first_in_list(order, migratetype)
                pfn = zone.unreported_from(first, order, migratetype)
                if pfn >= 0 and zone.isolate_free_page(pfn, order):
                    taken.append((pfn, order))
    finally:
        zone.lock.release()
    return taken


def run_crowd(
    memory: Memory, sync: Sync, run_together: RunTogether, steps: int, timeout_s: float = 60.0
) -> None:
    """Let workers, a reporter, a drainer and a judge loose on a memory, and hold the end against the start."""
    at_boot = [free_blocks(zone) for zone in memory.zones]
    crowd = Crowd(memory, sync, steps)

    reported: list[int] = []

    def judge() -> None:
        for zone in memory.zones:
            zone.lock.acquire()
            try:
                assert_sound(zone)
            finally:
                zone.lock.release()
            sync.sleep(0.001)

    def drain() -> None:
        memory.drain_all_pages()
        sync.sleep(0.001)

    run_together(
        *crowd.targets(),
        crowd.beside(lambda: reported.append(reporting_pass(memory, sync))),
        crowd.beside(drain),
        crowd.beside(judge),
        timeout_s=timeout_s,
    )
    assert sum(reported) > 0
    crowd.empty_inboxes()
    assert_all_is_back(memory, at_boot)


def test_threads_share_a_memory_and_every_page_comes_back(
    memory: Memory, sync: Sync, run_together: RunTogether
) -> None:
    at_boot = [free_blocks(zone) for zone in memory.zones]
    crowd = Crowd(memory, sync, steps=6000)
    run_together(*crowd.targets())
    crowd.empty_inboxes()

    assert_all_is_back(memory, at_boot)


def test_threads_share_a_memory_with_a_reporter_a_drainer_and_a_judge(
    memory: Memory, sync: Sync, run_together: RunTogether
) -> None:
    run_crowd(memory, sync, run_together, steps=6000)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_threads_share_a_memory_for_long(memory: Memory, sync: Sync, run_together: RunTogether) -> None:
    run_crowd(memory, sync, run_together, steps=60_000, timeout_s=400.0)


def test_threads_that_want_the_last_page_get_it_once(sync: Sync, run_together: RunTogether) -> None:
    memory = Memory([ZoneSpec("Normal", 64)], ram=None, min_free_kbytes=0)
    got: list[int] = []

    def grab() -> None:
        while (pfn := memory.alloc_pages(GFP_KERNEL)) is not None:
            got.append(pfn)
            sync.sleep(0)

    run_together(grab, grab, grab, grab)
    memory.drain_all_pages()
    left = memory.nr_free_pages()

    assert len(got) == len(set(got)) == 64 - left
    for pfn in got:
        memory.free_pages(pfn)
    memory.drain_all_pages()
    assert memory.nr_free_pages() == 64


def test_a_block_freed_by_two_threads_past_the_page_sets_is_freed_once(run_together: RunTogether) -> None:
    """The zone lock decides who was first; the other one is told so."""
    memory = Memory([ZoneSpec("Normal", 1024)], ram=None, page_sets=False)
    for _ in range(50):
        pfn = memory.alloc_pages(GFP_KERNEL, 2)
        assert pfn is not None
        raised: list[PageAllocError] = []

        def free(pfn: int = pfn, raised: list[PageAllocError] = raised) -> None:
            try:
                memory.free_pages(pfn, 2)
            except BadPage as error:
                raised.append(error)

        run_together(free, free)

        assert len(raised) == 1
        assert memory.nr_free_pages() == 1024
    assert_sound(memory.zones[0])
