"""In anyone's hands: finalizers, signal handlers, exceptions from outside, forks, and a memory that is closed."""

from __future__ import annotations

import gc
import mmap
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from places import act_at, interrupt_at

import pagealloc
from pagealloc import GFP_KERNEL, Memory, Zone, ZoneSpec, validate
from pagealloc.errors import AnotherProcess, MemoryClosed, RamError, TornZone, ZoneBusy
from pagealloc.mmzone import MIGRATE_MOVABLE, MIGRATE_UNMOVABLE
from pagealloc.ram import Ram
from pagealloc.tracepoints import StatLock

NR_PAGES = 4096


def build(*, page_sets: bool = False) -> Memory:
    return Memory([ZoneSpec("Normal", NR_PAGES)], ram=None, page_sets=page_sets)


@pytest.mark.interpreted("no exception comes between two instructions")
@pytest.mark.parametrize("page_sets", [False, True])
@pytest.mark.parametrize("order", [0, 4])
@pytest.mark.parametrize("what", ["alloc", "free", "drain"])
def test_wherever_an_exception_comes_from_outside_no_lock_is_held_and_what_is_torn_says_so(
    page_sets: bool, order: int, what: str
) -> None:
    place, torn = 1, 0
    while True:
        memory = build(page_sets=page_sets)
        (zone,) = memory.zones
        pfn = memory.alloc_pages(GFP_KERNEL, order)
        assert pfn is not None
        operations: dict[str, Callable[[], object]] = {
            "alloc": lambda memory=memory: memory.alloc_pages(GFP_KERNEL, order),  # type: ignore[misc]
            "free": lambda memory=memory, pfn=pfn: memory.free_pages(pfn, order),  # type: ignore[misc]
            "drain": memory.drain_all_pages,
        }
        if not interrupt_at(place, operations[what]):
            break
        assert not zone.lock.locked(), place
        if zone.lock.refusal is None:
            census = validate(zone)
            assert census.problems == [], place
            assert census.on_page_sets == memory.nr_page_set_pages(zone), place
        else:
            torn += 1
            for use in (lambda: memory.alloc_pages(GFP_KERNEL), memory.drain_all_pages):  # noqa: B023
                with pytest.raises(TornZone, match="zone Normal may be torn: KeyboardInterrupt came into"):
                    use()  # type: ignore[no-untyped-call]
        place += 1
    assert place > 50
    assert torn or (what, page_sets) == ("drain", False)


RETURNING = 3  # bytecodes at most, from the end of the `try` on: there nothing can be done about an exception


@pytest.mark.interpreted("no exception comes between two instructions")
def test_wherever_an_exception_comes_into_an_allocation_no_block_is_left_that_nobody_was_told_of() -> None:
    place, lost = 1, []
    while True:
        memory = build()
        (zone,) = memory.zones
        # Its way out is a long one.
        zone.use_lock(StatLock(zone.lock.raw, memory.sync, zone.number, None, None))
        if not interrupt_at(place, lambda: zone.rmqueue_buddy(4, 1)):  # noqa: B023
            break
        if zone.lock.refusal is None and validate(zone).allocated:
            lost.append(place)
        place += 1
    assert validate(zone).allocated == 16
    assert lost
    assert lost[0] >= place - RETURNING


def test_a_block_of_an_allocation_that_is_interrupted_when_it_has_left_the_zone_is_free_again() -> None:
    (zone,) = build().zones
    give = zone.lock.give

    def give_and_raise() -> None:
        zone.lock.give = give
        give()
        raise KeyboardInterrupt

    zone.lock.give = give_and_raise
    with pytest.raises(KeyboardInterrupt):
        zone.rmqueue_buddy(4, 1)
    assert zone.nr_free_pages == NR_PAGES
    assert not zone.lock.locked()


BLOCK = 1024  # a pageblock in the middle of the zone, and the first page of an allocation of order 10

OPERATIONS: dict[str, Callable[[Zone, int], object]] = {
    "frees a block in pieces": lambda zone, pfn: zone.free_pages_ok(pfn, 10),
    "claims a part": lambda zone, pfn: zone.claim_range(pfn, 3),
    "adds to the LRU lists": lambda zone, pfn: zone.lru_add(pfn),
    "withholds a pageblock": lambda zone, pfn: zone.isolate_pageblock(pfn + BLOCK),
    "gives a pageblock back": lambda zone, pfn: zone.unisolate_pageblock(zone.start_pfn, MIGRATE_MOVABLE),
    "retypes": lambda zone, pfn: zone.set_block_type(pfn + BLOCK, MIGRATE_UNMOVABLE, move=True),
    "reserves": lambda zone, pfn: zone.reserve_highatomic(pfn + BLOCK, 0),
    "gives the reserve back": lambda zone, pfn: zone.unreserve_highatomic(MIGRATE_MOVABLE),
    "sets marks": lambda zone, pfn: zone.set_watermarks(1, 2, 3),
    "boosts": lambda zone, pfn: zone.set_watermark_boost(8),
    "sets reserves": lambda zone, pfn: zone.set_lowmem_reserve([1] * len(zone.lowmem_reserve)),
}


@pytest.mark.interpreted("no exception comes between two instructions")
@pytest.mark.parametrize("what", OPERATIONS)
def test_wherever_an_exception_comes_into_a_rare_operation_no_lock_is_held(what: str) -> None:
    place = 1
    while True:
        memory = build()
        (zone,) = memory.zones
        pfn = memory.alloc_pages(GFP_KERNEL, 10)
        assert pfn is not None
        zone.isolate_pageblock(zone.start_pfn)
        if not interrupt_at(place, lambda: OPERATIONS[what](zone, pfn)):  # noqa: B023
            break
        assert not zone.lock.locked(), place
        if zone.lock.refusal is None:
            assert validate(zone).problems == [], place
        place += 1
    assert place > 20


@pytest.mark.interpreted("no exception comes between two instructions")
def test_wherever_an_exception_meets_a_boost_taken_back_no_stale_mark_stays_in_use() -> None:
    place, torn = 1, 0
    while True:
        memory = build()
        (zone,) = memory.zones
        zone.set_watermark_boost(8)
        zone.boosted = True  # as who mixed types leaves it: the next allocation wakes kswapd
        if not interrupt_at(place, lambda: memory.alloc_pages(GFP_KERNEL)):  # noqa: B023
            break
        assert not zone.lock.locked(), place
        if zone.lock.refusal is None:
            assert zone.fast_marks == zone.sum_marks(), place
        else:
            torn += 1
            assert zone.lock.refusal is KeyboardInterrupt
        place += 1
    assert (zone.watermark_boost, zone.boosted) == (0, False)
    assert torn


@pytest.mark.parametrize("page_sets", [False, True])
def test_a_finalizer_frees_inside_an_operation_of_its_own_thread(page_sets: bool) -> None:
    memory = build(page_sets=page_sets)
    (zone,) = memory.zones

    class Buffer:
        def __init__(self, order: int) -> None:
            self.order = order
            self.pfn = memory.alloc_pages(GFP_KERNEL, order)
            self.me = self  # a cycle, so the collector finds it wherever it runs

        def __del__(self) -> None:
            if self.pfn is not None:
                memory.free_pages(self.pfn, self.order)

    usual = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        for number in range(3000):
            Buffer(number % 5)
    finally:
        gc.set_threshold(*usual)
    gc.collect()
    memory.drain_all_pages()
    assert memory.nr_free_pages() == NR_PAGES
    assert validate(zone).problems == []


def test_who_comes_back_inside_leaves_the_block_and_gets_none() -> None:
    memory = build()
    (zone,) = memory.zones
    pfn, other = memory.alloc_pages(GFP_KERNEL, 3), memory.alloc_pages(GFP_KERNEL, 0)
    assert pfn is not None
    assert other is not None
    with zone.lock:
        memory.free_pages(pfn, 3)
        assert memory.alloc_pages(GFP_KERNEL, 0) is None
        assert validate(zone).on_page_sets == memory.nr_page_set_pages(zone) == 8
        with pytest.raises(pagealloc.errors.PageOnPageSet):
            memory.free_pages(pfn, 3)
        with pytest.raises(ZoneBusy, match="zone Normal"):
            zone.set_watermarks(0, 0, 0)
    memory.free_pages(other, 0)  # the next operation clears what was left
    assert memory.nr_free_pages() == NR_PAGES


@pytest.mark.parametrize("order", [3, 10], ids=["in one piece", "in several"])
def test_what_a_finalizer_is_refused_lets_nobody_else_into_its_threads_operation(order: int) -> None:
    """Who came in found the zone entered, and nobody there, and was told that it is torn."""
    memory = build()
    (zone,) = memory.zones
    pfn = memory.alloc_pages(GFP_KERNEL, order)
    assert pfn is not None
    raw, kept = zone.lock.raw, []

    def release(give: Callable[[], None] = raw.release) -> None:
        give()
        kept.append(raw.owned())

    raw.release = release  # type: ignore[method-assign]
    with zone.lock:
        memory.free_pages(pfn, order)
        with pytest.raises(pagealloc.errors.PageOnPageSet):
            memory.free_pages(pfn, order)
        with pytest.raises(ZoneBusy):
            zone.set_watermarks(0, 0, 0)
        assert kept
        assert all(kept)


@pytest.mark.interpreted("nothing runs between two instructions")
@pytest.mark.parametrize("order", [3, 10], ids=["in one piece", "in several"])
def test_wherever_a_second_finalizer_frees_on_the_way_out_the_next_operation_has_no_block_left(
    order: int,
) -> None:
    """The first one left a block, and whoever was inside frees that when the second comes."""
    place = 1
    while True:
        memory = build()
        (zone,) = memory.zones
        first, second, other = (memory.alloc_pages(GFP_KERNEL, each) for each in (order, 3, 0))
        assert first is not None
        assert second is not None
        assert other is not None
        zone.lock.acquire()
        memory.free_pages(first, order)
        came = act_at(place, lambda _: memory.free_pages(second, 3), zone.lock.release)  # noqa: B023
        memory.free_pages(other, 0)
        assert zone.nr_left_pages() == 0, place
        if not came:
            break
        assert memory.nr_free_pages() == NR_PAGES, place
        place += 1
    assert place > 50


@pytest.mark.interpreted("no exception comes between two instructions")
@pytest.mark.parametrize("order", [3, 10], ids=["in one piece", "in several"])
def test_wherever_an_exception_comes_into_a_finalizer_its_thread_stays_inside(order: int) -> None:
    """The interpreter swallows it, and the operation goes on."""
    place = 1
    while True:
        memory = build()
        (zone,) = memory.zones
        pfn = memory.alloc_pages(GFP_KERNEL, order)
        assert pfn is not None
        with zone.lock:
            interrupted = interrupt_at(place, lambda: memory.free_pages(pfn, order))  # noqa: B023
            assert zone.lock.owned(), place
        assert not zone.lock.locked(), place
        assert zone.nr_left_pages() == 0, place
        if not interrupted:
            break
        place += 1
    assert place > 50
    assert memory.nr_free_pages() == NR_PAGES


def test_a_signal_handler_frees_wherever_it_lands() -> None:
    memory = build()
    held: list[int] = []

    def handler(*_: object) -> None:
        with suppress(IndexError):  # it comes into itself, too
            while held:
                memory.free_pages(held.pop(), 0)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        for _ in range(20_000):
            pfn = memory.alloc_pages(GFP_KERNEL, 0)
            if pfn is not None:
                held.append(pfn)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    handler()
    memory.drain_all_pages()
    assert memory.nr_free_pages() == NR_PAGES


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["anonymous", "memfd"])
def test_a_child_is_refused_and_the_parents_data_stays(
    kind: str, in_child: Callable[[Callable[[], None]], int]
) -> None:
    with Memory([ZoneSpec("Normal", NR_PAGES)], ram=kind) as memory:  # type: ignore[arg-type]
        (zone,), ram = memory.zones, memory.ram
        pfn = memory.alloc_pages(GFP_KERNEL, 0)
        assert pfn is not None
        assert ram is not None
        memory.view(pfn)[:5] = b"hello"
        uses: list[Callable[[], object]] = [
            lambda: memory.alloc_pages(GFP_KERNEL, 0),
            lambda: memory.alloc_pages(GFP_KERNEL, 9),
            lambda: memory.free_pages(pfn),
            lambda: memory.view(pfn),
            memory.drain_all_pages,
            memory.resident_bytes,
            lambda: zone.isolate_pageblock(zone.start_pfn),
            lambda: ram.discard(0, mmap.PAGESIZE),
        ]

        def child() -> None:
            for use in uses:
                with pytest.raises(AnotherProcess, match="parent"):
                    use()
            memory.close()
            own = build()
            assert own.alloc_pages(GFP_KERNEL, 0) is not None

        with zone.lock:  # as any thread of the parent may have it
            assert in_child(child) == 0
        assert bytes(memory.view(pfn)[:5]) == b"hello"
        memory.free_pages(pfn)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("counted", [False, True], ids=["plain", "with a lock that counts"])
def test_a_fork_in_the_middle_of_an_operation_leaves_no_zone_open_in_the_child(
    in_child: Callable[[Callable[[], None]], int], counted: bool
) -> None:
    """A finalizer that forks: in the child, too, the operation goes on to its end."""
    memory = build()
    (zone,) = memory.zones
    if counted:
        zone.use_lock(StatLock(zone.lock.raw, memory.sync, zone.number, None, None))

    def child() -> None:
        with suppress(AnotherProcess):
            zone.lock.release()  # as the operation does
        with pytest.raises(AnotherProcess, match="parent"):
            memory.alloc_pages(GFP_KERNEL, 0)

    with zone.lock:
        assert in_child(child) == 0
    assert memory.alloc_pages(GFP_KERNEL, 0) is not None


def test_a_fork_ends_no_thread_of_the_parent_in_the_child(
    in_child: Callable[[Callable[[], None]], int],
) -> None:
    """What other threads have goes first of all in a child, page sets too, and whoever held a lock is gone."""
    memory = build(page_sets=True)
    assert memory.page_sets is not None
    come, go = threading.Event(), threading.Event()

    def has_a_page_set() -> None:
        pfn = memory.alloc_pages(GFP_KERNEL, 0)
        assert pfn is not None
        memory.free_pages(pfn)
        come.set()
        go.wait(20)

    def has_the_locks() -> None:
        with memory.page_sets._mutex, memory.zones[0].lock:  # type: ignore[union-attr]
            come.set()
            go.wait(20)

    threads = []
    for target in (has_a_page_set, has_the_locks):
        come.clear()
        threads.append(threading.Thread(target=target))
        threads[-1].start()
        assert come.wait(20)
    try:
        assert in_child(lambda: None) == 0
    finally:
        go.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("kind", ["anonymous", "memfd"])
def test_a_discard_keeps_what_it_needs_while_the_memory_is_closed(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a discard neither the address range nor the descriptor can become somebody else's."""
    ram = Ram(0, 64, kind)  # type: ignore[arg-type]
    address, nr_bytes, fd = ram.address, ram.nr_bytes, ram.fd
    give_back = Ram._give_back
    seen: list[bool] = []

    def close_first(self: Ram, *arguments: object) -> None:
        monkeypatch.setattr(Ram, "_give_back", give_back)
        closer = threading.Thread(target=self.close)
        closer.start()
        closer.join()
        if fd >= 0:
            seen.append(os.fstat(fd).st_size == nr_bytes)
        mapped = Path("/proc/self/maps").read_text()
        starts = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in mapped.splitlines()]
        seen.append(any(start <= address < end for start, end in starts))
        give_back(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Ram, "_give_back", close_first)
    ram.discard(0, nr_bytes)
    assert seen
    assert all(seen)
    ram.close()
    if fd >= 0:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    with pytest.raises(RamError):
        ram.discard(0, 1)


@pytest.mark.interpreted("nothing runs between two instructions")
@pytest.mark.parametrize("kind", ["anonymous", "memfd"])
def test_wherever_a_memory_is_closed_in_a_discard_that_goes_well_or_says_so(kind: str) -> None:
    place, refused = 1, 0
    while True:
        ram = Ram(0, 64, kind)  # type: ignore[arg-type]
        try:
            closed = act_at(place, lambda _: ram.close(), lambda: ram.discard(0, mmap.PAGESIZE))  # noqa: B023
        except MemoryClosed:
            closed, refused = True, refused + 1
        if not closed:
            break
        place += 1
    ram.close()
    assert place > 20
    assert 0 < refused < place - 1
