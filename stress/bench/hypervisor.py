"""Rows about QEMU: what its device gives back in a second, against our own system calls on the same memory.

What it costs to give a page back depends on who took it. Linux keeps a list of free pages for each processor. A page
that is freed where it was taken has room on a list that has just been emptied; freed on another processor it meets a
list that is full, and pages have to be merged into the zone behind it. QEMU is a process of its own, and works mostly
on another processor than the thread that reports. If that thread took all pages, the row would measure how far it is
from QEMU, and the same calls from a second thread of ours would do no better (docs/BENCHMARKS.md). So every processor
takes an equal share, as the allocators of a run do; both contenders run where the scheduler puts them. A second row,
without a goal, has all pages taken by the reporting thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from pagealloc.memory import Memory, ZoneSpec
from pagealloc.mmzone import PAGE_SIZE
from stress.bench.measure import SYNC, Effort, Row, compare, take_turns
from workers.errors import ReporterError
from workers.page_reporting import PAGE_REPORTING_CAPACITY, Block, Reporter
from workers.qemu.reporter import QemuReporter
from workers.reporters import Discard

ORDER = 9
NR_BLOCKS = 128  # every second block of the memory, so that none of them is next to another
GOAL = 0.85
NAME = (
    f"memory given back per second by QEMU's balloon, order {ORDER}, {PAGE_REPORTING_CAPACITY} blocks a batch"
)


def qemu_against_discard(effort: Effort) -> list[Row]:
    """Batches of the same blocks, in turns; skipped where QEMU is not installed."""
    with Memory([ZoneSpec("Normal", 2 * NR_BLOCKS << ORDER)], ram="memfd", page_sets=False) as memory:
        try:
            qemu = QemuReporter(SYNC)
            qemu.start(memory)
        except ReporterError as error:
            return [Row(NAME, skipped=str(error))]
        try:
            return [
                _row(NAME, GOAL, memory, qemu, take_on_every_processor, effort),
                _row(f"{NAME}: all pages taken by the reporting thread", None, memory, qemu, take, effort),
            ]
        finally:
            qemu.close()


def _row(
    name: str,
    goal: float | None,
    memory: Memory,
    qemu: Reporter,
    take_pages: Callable[[memoryview], None],
    effort: Effort,
) -> Row:
    contenders = {"qemu": qemu, "discard": Discard()}
    results = take_turns(
        {
            contender: partial(bytes_per_second, memory, reporter, take_pages)
            for contender, reporter in contenders.items()
        },
        3 * effort.rounds,  # a round takes a quarter of a second
    )
    return compare(
        name, results["qemu"], results["discard"], goal=goal, unit="bytes/s", against="reporter discard"
    )


def take(pages: memoryview) -> None:
    """Write to every page; `pages` has a byte of each."""
    pages[:] = bytes(len(pages))


def take_on_every_processor(pages: memoryview) -> None:
    """Write to every page, from each processor to an equal share of them."""
    allowed = os.sched_getaffinity(0)
    try:
        for share, processor in enumerate(sorted(allowed)):
            os.sched_setaffinity(0, {processor})
            take(pages[share :: len(allowed)])
    finally:
        os.sched_setaffinity(0, allowed)


def bytes_per_second(memory: Memory, reporter: Reporter, take_pages: Callable[[memoryview], None]) -> float:
    """Have every page taken, and measure how fast a reporter gives every second block back."""
    ram, zone = memory.ram, memory.zones[0]
    assert ram is not None
    take_pages(ram.memory[::PAGE_SIZE])
    blocks = [
        Block(zone.start_pfn + (number << ORDER), ORDER, number * (PAGE_SIZE << ORDER), PAGE_SIZE << ORDER)
        for number in range(0, 2 * NR_BLOCKS, 2)
    ]
    begin_s = SYNC.monotonic()
    for at in range(0, NR_BLOCKS, PAGE_REPORTING_CAPACITY):
        reporter.report(zone, blocks[at : at + PAGE_REPORTING_CAPACITY])
    seconds = SYNC.monotonic() - begin_s
    if any(ram.resident_in(block.offset, block.length) for block in blocks):
        raise AssertionError("a block was not given back: there is nothing to measure")
    return NR_BLOCKS * (PAGE_SIZE << ORDER) / seconds
