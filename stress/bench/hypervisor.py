"""A row about QEMU: what its device gives back in a second, against our own system calls on the same memory."""

from __future__ import annotations

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
            results = take_turns(
                {
                    "qemu": partial(bytes_per_second, memory, qemu),
                    "discard": partial(bytes_per_second, memory, Discard()),
                },
                3
                * effort.rounds,  # a round takes a quarter of a second, and the first one has QEMU map the memory
            )
        finally:
            qemu.close()
    return [
        compare(
            NAME, results["qemu"], results["discard"], goal=GOAL, unit="bytes/s", against="reporter discard"
        )
    ]


def bytes_per_second(memory: Memory, reporter: Reporter) -> float:
    """Write to every page, and measure how fast a reporter gives every second block back."""
    ram, zone = memory.ram, memory.zones[0]
    assert ram is not None
    ram.memory[::PAGE_SIZE] = bytes(len(ram.memory) // PAGE_SIZE)
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
