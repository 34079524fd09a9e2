"""What a closed memory is asked for it refuses, with one error that says so, whoever asks and wherever he is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from places import act_at

from pagealloc import GFP_KERNEL, GFP_ZERO, Memory, MemoryClosed, ZoneSpec, validate
from pagealloc.sync import Sync
from workers import Discard, PageReporting, PageReportingDevice, Workqueue, reporting

NR_PAGES = 4096
LARGEST = 10


def build(*, page_sets: bool = True, **options: Any) -> Memory:
    return Memory([ZoneSpec("DMA32", NR_PAGES), ZoneSpec("Normal", NR_PAGES)], page_sets=page_sets, **options)


@pytest.mark.parametrize("page_sets", [True, False], ids=["page sets", "no page sets"])
def test_nothing_is_done_to_a_closed_memory(page_sets: bool) -> None:
    memory = build(page_sets=page_sets)
    zone, core = memory.zones[-1], _core(memory)
    held = {order: memory.alloc_pages(GFP_KERNEL, order) for order in (0, 3, LARGEST)}
    resting = memory.alloc_pages(GFP_KERNEL, 0)
    assert resting is not None
    memory.free_pages(resting)  # without a look at the door the next allocation would get this one
    uses: dict[str, Callable[[], object]] = {
        "run_on_cpu": lambda: memory.run_on_cpu(0),
        "drain_local_pages": memory.drain_local_pages,
        "drain_all_pages": memory.drain_all_pages,
        "refresh_vm_stats": memory.refresh_vm_stats,
        "isolate_pageblock": lambda: zone.isolate_pageblock(zone.start_pfn),
        "set_watermarks": lambda: zone.set_watermarks(1, 2, 3),
        "register": lambda: core.register(PageReportingDevice(Discard())),
        "reporting": lambda: reporting(memory, Discard()).__enter__(),
    }
    for order, pfn in held.items():
        assert pfn is not None
        uses[f"alloc {order}"] = partial(memory.alloc_pages, GFP_KERNEL, order)
        uses[f"alloc zeroed {order}"] = partial(memory.alloc_pages, GFP_KERNEL | GFP_ZERO, order)
        uses[f"view {order}"] = partial(memory.view, pfn, order)
        uses[f"free {order}"] = partial(memory.free_pages, pfn, order)

    states = [bytes(zone.state) for zone in memory.zones]
    assert not memory.closed
    memory.close()
    memory.close()
    assert memory.closed
    assert "closed" in repr(memory)

    for name, use in uses.items():
        with pytest.raises(MemoryClosed, match="this memory is closed"):
            pytest.fail(f"{name} returned {use()!r}")
    assert [bytes(zone.state) for zone in memory.zones] == states
    assert not core.pending(), "a device that was refused asks for nothing"
    assert memory.resident_bytes() == 0
    assert [validate(zone).problems for zone in memory.zones] == [[], []], "closed is not torn"


def _core(memory: Memory) -> PageReporting:
    return PageReporting(memory.zones, memory.revision, memory.sync, Workqueue(memory.sync, "page_reporting"))


def test_closing_waits_for_nobody_and_whoever_is_inside_ends_his_operation(sync: Sync) -> None:
    """A finalizer may close a memory in the middle of an operation of its own thread, or of another one."""
    memory = build()
    zone = memory.zones[-1]
    pfn = memory.alloc_pages(GFP_KERNEL, 0)
    assert pfn is not None
    with zone.lock:
        sync.spawn("closes", memory.close).join(20)
        assert memory.closed
        with pytest.raises(MemoryClosed):
            memory.free_pages(pfn)
        with pytest.raises(MemoryClosed):
            memory.alloc_pages(GFP_KERNEL, 0)
        assert zone.lock.owned(), "what a finalizer is refused does not end the operation that it is in"
    assert not zone.lock.locked()
    with pytest.raises(MemoryClosed), zone.lock:
        pass


@pytest.mark.interpreted("nothing runs between two instructions")
@pytest.mark.parametrize("page_sets", [True, False], ids=["page sets", "no page sets"])
@pytest.mark.parametrize("order", [0, 3])
def test_wherever_a_finalizer_allocates_in_the_closing_it_gets_a_block_or_is_told(
    page_sets: bool, order: int
) -> None:
    got: list[int | None] = []
    told: list[MemoryClosed] = []
    place = 1
    while True:
        memory = build(page_sets=page_sets, ram=None)

        def allocate(_: object) -> None:
            try:
                got.append(memory.alloc_pages(GFP_KERNEL, order))  # noqa: B023
            except MemoryClosed as error:
                told.append(error)

        if not act_at(place, allocate, memory.close):
            break
        assert len(got) + len(told) == place
        assert not any(zone.lock.locked() for zone in memory.zones), place
        place += 1
    assert None not in got
    assert got
    assert told


@pytest.mark.parametrize("page_sets", [True, False], ids=["page sets", "no page sets"])
def test_threads_that_allocate_beside_the_closing_get_a_block_or_are_told(
    page_sets: bool, run_together: Callable[..., None]
) -> None:
    for _ in range(10):
        memory = build(page_sets=page_sets)
        begun = [threading.Event() for _ in range(3)]
        run_together(*[partial(_churn, memory, event) for event in begun], partial(_close, memory, begun))
        assert [validate(zone).problems for zone in memory.zones] == [[], []]
        assert not any(zone.lock.locked() for zone in memory.zones)


def _churn(memory: Memory, begun: threading.Event) -> None:
    with pytest.raises(MemoryClosed, match="this memory is closed"):  # noqa: PT012 - it may come from any of them
        while True:
            for order in (0, 3, 9):
                pfn = memory.alloc_pages(GFP_KERNEL | GFP_ZERO, order)
                if pfn is not None:
                    memory.free_pages(pfn, order)
            begun.set()


def _close(memory: Memory, begun: list[threading.Event]) -> None:
    for event in begun:
        assert event.wait(20)
    memory.close()


def test_who_looks_for_bytes_in_the_middle_of_the_closing_is_told_that_it_closes() -> None:
    memory = build()
    ram = memory.ram
    assert ram is not None

    ram.nr_bytes = 0  # what closing does first
    with pytest.raises(MemoryClosed, match="this memory is closed"):
        ram.view(ram.start_pfn)


def test_a_core_leaves_a_memory_that_was_closed_too_early() -> None:
    with build() as memory, reporting(memory, Discard(), delay_s=1000.0) as core:
        device = core.device
        assert device is not None
        memory.close()
        core.unregister(device)
        with pytest.raises(MemoryClosed):
            core.register(device)
