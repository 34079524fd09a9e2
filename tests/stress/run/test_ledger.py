"""The witness: overlaps, foreign frees and batches over owned memory are found and told in words."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest

from pagealloc.memory import Memory, ZoneSpec
from pagealloc.ram import RamKind
from pagealloc.sync import Sync
from pagealloc.zone import Zone
from stress.run.ledger import CheckedReporter, Ledger
from stress.run.violations import MAX_VIOLATIONS, Violations
from workers.allocators import SEQUENCE_BITS
from workers.page_reporting import Batch, Block

FIRST = 1024  # the first pfn of a memory


def stamp(thread: int, number: int) -> int:
    return (thread + 1) << SEQUENCE_BITS | number


def block(pfn: int, order: int) -> Block:
    return Block(pfn, order, (pfn - FIRST) << 12, 4096 << order)


@pytest.fixture
def memory() -> Memory:
    return Memory([ZoneSpec("DMA32", 1024), ZoneSpec("Normal", 1024)], ram=None)


@pytest.fixture
def violations(sync: Sync) -> Violations:
    return Violations(sync, lambda _text: None)


@pytest.fixture
def ledger(memory: Memory, sync: Sync, violations: Violations) -> Ledger:
    return Ledger(memory, sync, violations)


# -- owners --------------------------------------------------------------------------------------------------


def test_blocks_side_by_side_are_no_violation(ledger: Ledger, violations: Violations) -> None:
    for number, (pfn, order) in enumerate([(FIRST, 3), (FIRST + 8, 0), (FIRST + 9, 0), (FIRST + 16, 4)]):
        ledger.allocated(pfn, order, stamp(0, number))
    assert violations.count == 0


@pytest.mark.parametrize(
    ("pfn", "order"),
    [
        pytest.param(FIRST + 16, 4, id="the very block"),
        pytest.param(FIRST + 16, 0, id="its first page"),
        pytest.param(FIRST + 31, 0, id="its last page"),
        pytest.param(FIRST + 24, 2, id="a part in the middle"),
        pytest.param(FIRST, 6, id="a larger block around it"),
    ],
)
def test_a_block_over_another_ones_pages_has_two_owners(
    ledger: Ledger, violations: Violations, pfn: int, order: int
) -> None:
    ledger.allocated(FIRST + 16, 4, stamp(3, 7))
    ledger.allocated(pfn, order, stamp(5, 9))
    assert violations.texts == [
        (
            f"two owners: allocator 5, its block number 9 got pfn {pfn:#x} order {order} of zone DMA32, "
            f"while allocator 3, its block number 7 still owns pfn {FIRST + 16:#x} .. {FIRST + 31:#x}"
        )
    ]


@pytest.mark.parametrize(
    ("pfn", "order"), [(FIRST + 8, 3), (FIRST + 32, 5), (FIRST + 15, 0), (FIRST + 32, 0)]
)
def test_a_block_up_to_another_ones_edge_is_none(
    ledger: Ledger, violations: Violations, pfn: int, order: int
) -> None:
    ledger.allocated(FIRST + 16, 4, stamp(3, 7))
    ledger.allocated(pfn, order, stamp(5, 9))
    assert violations.count == 0


def test_a_freed_block_may_have_a_new_owner(ledger: Ledger, violations: Violations) -> None:
    ledger.allocated(FIRST, 4, stamp(0, 1))
    ledger.freeing(FIRST, 4, stamp(0, 1))
    ledger.allocated(FIRST + 8, 3, stamp(1, 1))
    assert violations.count == 0


def test_pages_are_counted_by_zone(ledger: Ledger, memory: Memory) -> None:
    low, high = memory.zones
    ledger.allocated(FIRST, 4, stamp(0, 1))
    ledger.allocated(2 * FIRST, 3, stamp(0, 2))
    assert (ledger.live_pages(low), ledger.live_pages(high)) == (16, 8)
    ledger.freeing(FIRST, 4, stamp(0, 1))
    assert (ledger.live_pages(low), ledger.live_pages(high)) == (0, 8)


def test_freeing_what_nobody_owns_is_a_violation(ledger: Ledger, violations: Violations) -> None:
    ledger.freeing(FIRST, 0, stamp(2, 5))
    assert violations.texts == [
        (
            f"pfn {FIRST:#x} order 0 of zone DMA32 is freed by allocator 2, its block number 5, "
            "but the ledger has it as owned by nobody"
        )
    ]


@pytest.mark.parametrize(("order", "freed_by"), [(4, stamp(1, 1)), (3, stamp(0, 1))], ids=["stamp", "order"])
def test_freeing_with_another_stamp_or_order_is_a_violation(
    ledger: Ledger, violations: Violations, order: int, freed_by: int
) -> None:
    ledger.allocated(FIRST, 4, stamp(0, 1))
    ledger.freeing(FIRST, order, freed_by)
    assert violations.count == 1
    assert "owned by allocator 0, its block number 1" in violations.texts[0]


def test_threads_that_keep_apart_never_meet_in_the_ledger(
    ledger: Ledger, memory: Memory, violations: Violations, run_together: Callable[..., None]
) -> None:
    def churn(thread: int) -> None:
        for number in range(500):
            pfn = FIRST + 512 * thread + number % 512
            ledger.allocated(pfn, 0, stamp(thread, number))
            ledger.freeing(pfn, 0, stamp(thread, number))

    run_together(*[partial(churn, thread) for thread in range(4)])
    assert violations.count == 0
    assert [ledger.live_pages(zone) for zone in memory.zones] == [0, 0]


# -- batches in flight ---------------------------------------------------------------------------------------


def test_a_batch_over_free_memory_is_no_violation(
    ledger: Ledger, memory: Memory, violations: Violations
) -> None:
    ledger.allocated(FIRST, 3, stamp(0, 1))
    ledger.allocated(2 * FIRST + 8, 3, stamp(0, 2))  # the other zone's
    ledger.check_batch(memory.zones[0], [block(FIRST + 8, 3), block(FIRST + 64, 5)], "before")
    assert violations.count == 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_batch_over_memory_in_use_is_named_with_its_owner(
    ledger: Ledger, memory: Memory, violations: Violations, when: str
) -> None:
    ledger.allocated(FIRST + 40, 1, stamp(6, 3))
    ledger.check_batch(memory.zones[0], [block(FIRST, 3), block(FIRST + 32, 5)], when)
    assert violations.texts == [
        (
            f"{when} the reporter's work, pfn {FIRST + 32:#x} order 5 of zone DMA32 is in flight, but "
            f"allocator 6, its block number 3 owns pfn {FIRST + 40:#x} .. {FIRST + 41:#x}: "
            "the host gives away memory that is in use"
        )
    ]


def test_a_block_is_as_many_bytes_long_as_its_pages(
    ledger: Ledger, memory: Memory, violations: Violations
) -> None:
    ledger.check_batch(memory.zones[0], [block(FIRST, 3)._replace(length=1 << 12)], "before")
    (text,) = violations.texts
    assert text.endswith("order 3 of zone DMA32 is said to be 4096 bytes long, expected 32768")


class Meddler:
    """A reporter during whose call somebody gets a page of the batch."""

    def __init__(self, ledger: Ledger, error: Exception | None = None) -> None:
        self._ledger = ledger
        self._error = error

    def report(self, zone: Zone, batch: Batch) -> None:
        self._ledger.allocated(batch[0].pfn, 0, stamp(0, 1))
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize("error", [None, OSError("the device refuses")])
def test_a_batch_is_held_against_the_ledger_after_the_call_too(
    ledger: Ledger, memory: Memory, violations: Violations, error: Exception | None
) -> None:
    reporter = CheckedReporter(Meddler(ledger, error), ledger, lambda event, *fields: None)
    if error is None:
        reporter.report(memory.zones[0], [block(FIRST, 3)])
    else:
        with pytest.raises(OSError, match="the device refuses"):
            reporter.report(memory.zones[0], [block(FIRST, 3)])
    assert violations.count == 1
    assert violations.texts[0].startswith("after the reporter's work")


# -- acknowledged, and kept ------------------------------------------------------------------------------------


class Keeper:
    """Gives every block back but those of its list; raises where it is told to."""

    def __init__(self, keeps: list[int], error: Exception | None = None) -> None:
        self._keeps = keeps
        self._error = error

    def report(self, zone: Zone, batch: Batch) -> None:
        assert zone.ram is not None
        for each in batch:
            if each.pfn not in self._keeps:
                zone.ram.discard(each.offset, each.length)
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize("ram", ["anonymous", "memfd"])
def test_blocks_that_come_back_acknowledged_and_resident_are_counted_and_told(
    sync: Sync, violations: Violations, ram: RamKind
) -> None:
    told: list[tuple[object, ...]] = []
    with Memory([ZoneSpec("Normal", 64, start_pfn=FIRST)], ram=ram) as memory:
        assert memory.ram is not None
        memory.ram.memory[: 24 << 12] = b"x" * (24 << 12)
        ledger = Ledger(memory, sync, violations)
        batch = [block(FIRST + at, 3) for at in (0, 8, 16, 24)]
        host = CheckedReporter(Keeper([FIRST + 8, FIRST + 24]), ledger, lambda *event: told.append(event))
        host.report(memory.zones[0], batch)
        assert (host.kept_blocks, host.kept_bytes) == (1, 8 << 12), "what was never touched was not kept"
        host.report(memory.zones[0], batch)
        assert (host.kept_blocks, host.kept_bytes) == (2, 16 << 12)
    assert violations.count == 0
    names = [event[0] for event in told]
    assert names == ["host_begin", "host_kept", "host_end"] * 2
    assert told[1] == ("host_kept", 0, [(FIRST + 8, 3, 8 << 12)])


def test_what_a_reporter_did_not_acknowledge_it_did_not_keep(sync: Sync, violations: Violations) -> None:
    with Memory([ZoneSpec("Normal", 64, start_pfn=FIRST)]) as memory:
        assert memory.ram is not None
        memory.ram.memory[:4096] = b"x" * 4096
        host = CheckedReporter(
            Keeper([FIRST], OSError()), Ledger(memory, sync, violations), lambda *event: None
        )
        with pytest.raises(OSError):
            host.report(memory.zones[0], [block(FIRST, 0)])
        assert host.kept_blocks == 0


# -- violations ----------------------------------------------------------------------------------------------


def test_the_first_violations_are_kept_and_all_are_counted_and_told(sync: Sync) -> None:
    told: list[str] = []
    violations = Violations(sync, told.append)
    for number in range(MAX_VIOLATIONS + 10):
        violations.add(str(number))
    assert violations.count == MAX_VIOLATIONS + 10
    assert violations.texts == [str(number) for number in range(MAX_VIOLATIONS)]
    assert len(told) == MAX_VIOLATIONS + 10


def test_violations_from_many_threads_are_all_counted(sync: Sync, run_together: Callable[..., None]) -> None:
    told = threading.Semaphore(0)
    violations = Violations(sync, lambda _text: told.release())

    def add() -> None:
        for _ in range(200):
            violations.add("one of many")

    run_together(add, add, add)
    assert violations.count == 600
    assert all(told.acquire(blocking=False) for _ in range(600))
