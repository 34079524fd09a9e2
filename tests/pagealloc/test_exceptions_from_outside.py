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
from contextlib import suppress

import pytest

from pagealloc import GFP_KERNEL, Memory, TornZone, ZoneSpec, validate

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


@pytest.mark.interpreted("memory that is at its end ends the process")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(3600)
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
