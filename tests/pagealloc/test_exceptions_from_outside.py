"""Interrupts, exceptions from other threads, MemoryErrors at random moments: nobody hangs, what is torn says so.

Some hundred as a test; PAGEALLOC_EXCEPTIONS=20000 asks for so many.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from pagealloc import GFP_KERNEL, Memory, TornZone, Zone, ZoneSpec, validate
from pagealloc.zone_lock import ZoneLock

COUNT = max(
    1, int(os.environ.get("PAGEALLOC_EXCEPTIONS", "600")) // 6
)  # of each kind, with and without page sets
KINDS = ["with page sets", "without"]
PATIENCE_S = 20.0


class Stop(BaseException):
    """What comes from outside."""


class Load:
    """A memory, and a thread's blocks of it."""

    def __init__(self, seed: int, kind: str) -> None:
        self.memory = Memory([ZoneSpec("Normal", 8192)], ram=None, page_sets=kind == KINDS[0])
        self.rng = random.Random(seed)
        self.held: list[tuple[int, int]] = []
        self.steps = 0

    def step(self) -> None:
        memory, rng, held = self.memory, self.rng, self.held
        self.steps += 1
        order = rng.choice((0, 0, 1, 3, 4, 9))
        if len(held) < 60 and rng.random() < 0.5:
            pfn = memory.alloc_pages(GFP_KERNEL, order)
            if pfn is not None:
                held.append((pfn, order))
        elif held:
            memory.free_pages(*held.pop())  # taken off first: an interrupted block is given up
        elif rng.random() < 0.1:
            memory.drain_all_pages()

    def is_torn(self) -> bool:
        """Hold what an exception left: no lock, and lists that are whole unless the zone says otherwise."""
        memory = self.memory
        (zone,) = memory.zones
        assert not zone.lock.locked()
        if memory.page_sets is not None:
            assert not memory.page_sets._mutex.locked()
        if zone.lock.refusal is not None:
            with pytest.raises(TornZone, match="zone Normal may be torn"):
                memory.alloc_pages(GFP_KERNEL)
            return True
        census = validate(zone)
        assert census.problems == []
        assert census.on_page_sets == memory.nr_page_set_pages(zone)
        return False


@pytest.mark.interpreted("no exception comes between two instructions")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.timeout(3600)
def test_an_interrupt_at_a_random_moment_leaves_no_lock_held_and_no_unmarked_tear(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, torn, armed = Load(1, kind), 0, False
    # One that came into a finalizer is reported here; pytest's own hook takes so long that the next comes into that.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)

    def handler(*_: object) -> None:
        # One at a time: on a busy machine the timer's next shot may come while the zone lock lets go of the first.
        if armed and sys.exc_info()[0] is not Stop:
            raise Stop

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for number in range(COUNT):
            try:
                armed = True
                # Again and again, in case that a finalizer's frame swallowed one.
                signal.setitimer(signal.ITIMER_REAL, load.rng.uniform(50e-6, 900e-6), 0.01)
                while True:
                    load.step()
            except Stop:
                armed = False
            finally:
                armed = False
                signal.setitimer(signal.ITIMER_REAL, 0)
            if load.is_torn():
                torn += 1
                load = Load(number, kind)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert torn
    print(f"{COUNT} interrupts {kind}: {torn} torn zones, all marked")


WAYS_IN: dict[str, tuple[bool, str, Callable[[Memory, int], object]]] = {
    "rmqueue_buddy": (False, "rmqueue_smallest", lambda memory, _: memory.alloc_pages(GFP_KERNEL)),
    "free_pages_ok": (False, "free_one_page", lambda memory, pfn: memory.free_pages(pfn, 9)),
    "rmqueue_bulk": (True, "rmqueue_smallest", lambda memory, _: memory.alloc_pages(GFP_KERNEL)),
    "free_pcppages_bulk": (True, "free_one_page", lambda memory, _: memory.drain_all_pages()),
    "by with": (False, "set_migratetype_isolate", lambda memory, pfn: memory.zones[0].isolate_pageblock(pfn)),
}


@pytest.mark.interpreted("no method is replaced")
@pytest.mark.parametrize("way_in", WAYS_IN)
def test_a_second_exception_on_the_way_out_of_the_first_leaves_no_lock_held(
    way_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a busy machine, where the next signal has come before the first one's lock is given back."""
    page_sets, inner, use = WAYS_IN[way_in]
    memory = Memory([ZoneSpec("Normal", 8192)], ram=None, page_sets=page_sets)
    (zone,) = memory.zones
    pfn = memory.alloc_pages(GFP_KERNEL, 9)
    assert pfn is not None
    if page_sets:  # something rests on them, to be drained, and an empty list, to be filled
        memory.free_pages(pfn, 9)
        memory.free_pages(memory.alloc_pages(GFP_KERNEL, 1) or 0, 1)
    note, notes = ZoneLock._note, []

    def first(*_: object) -> None:
        raise Stop

    def second(lock: ZoneLock, error: BaseException) -> None:
        notes.append(error)
        if len(notes) == 1:
            raise Stop
        note(lock, error)

    monkeypatch.setattr(Zone, inner, first)
    monkeypatch.setattr(ZoneLock, "_note", second)
    with pytest.raises(Stop):
        use(memory, pfn)
    assert not zone.lock.locked()
    with pytest.raises(TornZone):
        memory.alloc_pages(GFP_KERNEL)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_thread_that_ends_on_a_torn_zone_says_nothing_of_its_own() -> None:
    memory = Load(1, KINDS[0]).memory

    def work() -> None:
        pfn = memory.alloc_pages(GFP_KERNEL)
        assert pfn is not None
        memory.free_pages(pfn)
        memory.zones[0].lock.tear(KeyboardInterrupt())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(PATIENCE_S)
    gc.collect()
    with pytest.raises(TornZone):
        memory.alloc_pages(GFP_KERNEL)


@pytest.mark.interpreted("no exception comes between two instructions")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # one that came into a finalizer
@pytest.mark.timeout(3600)
def test_an_exception_from_another_thread_leaves_no_lock_held_and_no_unmarked_tear(kind: str) -> None:
    load, torn = Load(1, kind), 0
    for number in range(COUNT):
        go_on = threading.Event()

        def work(load: Load = load, go_on: threading.Event = go_on) -> None:
            with suppress(Stop):
                while True:
                    load.step()
                    if load.steps > 20:
                        go_on.set()

        load.steps = 0
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        assert go_on.wait(PATIENCE_S)
        assert thread.ident is not None
        while thread.is_alive():  # again, if a finalizer's frame swallowed it
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Stop))
            thread.join(1.0)
        if load.is_torn():
            torn += 1
            load = Load(number, kind)
    assert torn
    print(f"{COUNT} exceptions from another thread {kind}: {torn} torn zones, all marked")


@pytest.fixture
def collects_quickly() -> Iterator[None]:
    """Have the collector leave out what is there already, all of pytest."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.interpreted("memory that is at its end ends the process")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("collects_quickly")
def test_a_memory_error_at_a_random_allocation_leaves_no_lock_held_and_no_unmarked_tear(kind: str) -> None:
    try:
        testcapi = importlib.import_module("_testcapi")
    except ImportError:
        pytest.skip("this interpreter has no _testcapi, which makes an allocation fail")
    load, torn, failed = Load(1, kind), 0, 0
    tries = 0
    while failed < COUNT:
        tries += 1
        assert tries < 1000 * COUNT
        for _ in range(load.rng.randrange(20)):
            load.step()
        at = load.rng.randrange(1, 12)
        gc.collect()  # it empties the interpreter's free lists, by which CPython 3.14 allocates next to nothing
        try:
            testcapi.set_nomemory(at, at + 1)
            load.step()
        except MemoryError:
            failed += 1
        finally:
            testcapi.remove_mem_hooks()
        if load.is_torn():
            torn += 1
            load = Load(tries, kind)
    assert torn
    print(f"{COUNT} MemoryErrors {kind}: {torn} torn zones, all marked")
