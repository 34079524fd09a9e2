"""Tracepoints: told in the order in which it happens, lost only when nobody collects, free when off."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from pagealloc import GFP_KERNEL, Memory, RealSync, ZoneSpec
from pagealloc.sync import Sync
from pagealloc.tracepoints import Buffer, Record, StatLock, Tracer
from pagealloc.zone import Zone


def names(records: list[Record]) -> list[object]:
    return [record[0] for record in records]


def test_a_zone_tells_of_a_split_and_of_the_merge_that_undoes_it(build_zone: Callable[..., Zone]) -> None:
    zone = build_zone()
    told: list[Record] = []
    zone.trace = lambda event, *fields: told.append((event, *fields))
    pfn = zone.rmqueue_buddy(2, 1)
    zone.free_pages_ok(pfn, 2)
    assert told == [
        ("mm_page_alloc_zone_locked", 0, 2, 1, True, 5),
        ("mm_page_free_zone_locked", 0, 2, 1, 0, 5, False),
    ]


def test_a_memory_tells_of_every_allocation_and_free_and_of_failures() -> None:
    with Memory([ZoneSpec("Normal", 2048)], ram=None) as memory:
        told: list[Record] = []
        memory.trace = lambda event, *fields: told.append((event, *fields))
        pfn = memory.alloc_pages(GFP_KERNEL, 3)
        assert pfn is not None
        memory.free_pages(pfn, 3)
        held = [memory.alloc_pages(GFP_KERNEL, 10) for _ in range(3)]
        assert told[:2] == [("mm_page_alloc", pfn, 3, 0, GFP_KERNEL), ("mm_page_free", pfn, 3)]
        assert held[-1] is None
        assert told[-1] == ("mm_page_alloc", -1, 10, 0, GFP_KERNEL)


def test_records_of_a_zone_are_numbered_without_a_gap_whoever_makes_them(
    sync: Sync, run_together: Callable[..., None]
) -> None:
    tracer = Tracer(sync)
    trace = tracer.zone_trace(7)
    lock = sync.spinlock("zone->lock")

    def work() -> None:
        for _ in range(200):
            lock.acquire()
            trace("split_page", 1, 2)
            lock.release()

    run_together(work, work, work)
    records = [record for _, records in tracer.collect() for record in records]
    assert sorted(record[4] for record in records) == list(range(1, 601))
    assert {record[3] for record in records} == {7}


def test_every_thread_has_a_buffer_with_its_name_that_outlives_it(
    sync: Sync, join_all: Callable[..., None]
) -> None:
    tracer = Tracer(sync)
    trace = tracer.thread_trace()
    join_all(*(sync.spawn(f"teller-{n}", lambda: trace("violation", "x")) for n in range(3)))
    told = {buffer.name: names(records) for buffer, records in tracer.collect()}
    assert told == {f"teller-{n}": ["violation"] for n in range(3)}


def test_the_buffers_of_threads_that_ended_are_forgotten_once_they_were_collected(
    sync: Sync, join_all: Callable[..., None]
) -> None:
    tracer = Tracer(sync)
    trace = tracer.thread_trace()
    for _ in range(50):
        join_all(sync.spawn("teller", lambda: trace("violation", "x")))
    assert len(tracer.collect()) == 50
    assert len(tracer._buffers) <= 1  # the one that made the tracer has one too


@pytest.mark.interpreted("a call goes past what stands in for a method")
def test_what_a_thread_tells_between_its_buffers_turn_and_its_end_is_in_the_next_collection(
    sync: Sync, join_all: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracer = Tracer(sync)
    trace = tracer.thread_trace()
    told, leave = threading.Event(), threading.Event()

    def tell() -> None:
        trace("first")
        told.set()
        assert leave.wait(20)
        trace("second")

    thread = sync.spawn("teller", tell)
    assert told.wait(20)
    take = Buffer.take

    def take_and_let_go(buffer: Buffer) -> list[Record]:
        taken = take(buffer)
        if taken:
            leave.set()
            join_all(thread)
        return taken

    monkeypatch.setattr(Buffer, "take", take_and_let_go)
    collections = [[names(records) for _, records in tracer.collect()] for _ in range(3)]
    assert collections == [[["first"]], [["second"]], []]


class Busy(list[Any]):
    """A list to which its thread appends as soon as it was copied."""

    def __getitem__(self, key: Any) -> Any:
        copy = super().__getitem__(key)
        self.append(("between",))
        return copy


@pytest.mark.interpreted("a copy goes past what a list does in its own way")
def test_what_a_thread_tells_while_its_buffer_is_taken_stays_for_the_next_time() -> None:
    buffer = Buffer(0, "teller")
    buffer.records = Busy([("before",)])
    assert names(buffer.take()) == ["before"]
    assert names(buffer.records) == ["between"]


def test_a_full_buffer_ends_with_a_mark_and_drops_what_follows_until_it_was_collected(sync: Sync) -> None:
    tracer = Tracer(sync, records_max=5)
    trace = tracer.thread_trace()
    zone_trace = tracer.zone_trace(0)
    for _ in range(4):
        trace("violation", "x")
        zone_trace("split_page", 0, 0)
    ((buffer, records),) = tracer.collect()
    assert names(records) == ["violation", "split_page"] * 2 + ["violation", "lost"]
    assert buffer.lost == 3
    trace("violation", "x")
    ((_, records),) = tracer.collect()
    assert (names(records), buffer.lost) == (["violation"], 3)


def test_a_patient_thread_waits_for_the_collector_and_loses_nothing(
    sync: Sync, join_all: Callable[..., None], until: Callable[..., None]
) -> None:
    tracer = Tracer(sync, records_max=10, patience_s=20.0)
    trace = tracer.waiting_trace()

    def tell() -> None:
        for _ in range(8):
            trace("violation", "x")

    thread = sync.spawn("teller", tell)
    until(lambda: any(len(buffer.records) == 5 for buffer in tracer._buffers), "half of the buffer is full")
    ((_, first),) = tracer.collect()
    join_all(thread)
    ((buffer, second),) = tracer.collect()
    assert (len(first), len(second), buffer.lost) == (5, 3, 0)


def test_nobody_waits_under_a_lock_nor_twice_in_vain(sync: Sync) -> None:
    waits: list[float] = []

    class Slow(RealSync):
        def sleep(self, seconds: float) -> None:
            waits.append(seconds)

    tracer = Tracer(Slow(), records_max=10, patience_s=0.0001)
    trace, zone_trace = tracer.waiting_trace(), tracer.zone_trace(0)
    for _ in range(5):
        zone_trace("split_page", 0, 0)
    assert waits == []
    trace("violation", "x")
    waited = len(waits)
    for _ in range(3):
        trace("violation", "x")
    assert len(waits) == waited
    assert not tracer._buffers[0].patient


@pytest.mark.interpreted("a call has no frame to name")
def test_a_lock_that_keeps_count_knows_its_holds_and_who_waited(
    sync: Sync, join_all: Callable[..., None], until: Callable[..., None]
) -> None:
    told: list[Record] = []
    lock = StatLock(
        sync.mutex("inner"),
        sync,
        0,
        lambda event, *fields: told.append((event, *fields)),
        lambda event, *fields: told.append((event, *fields)),
    )

    def wait_for_it() -> None:
        lock.acquire()
        lock.release()

    assert lock.acquire()
    thread = sync.spawn("waiter", wait_for_it)
    until(lambda: names(told) == ["lock_contended"], "the other thread waits")
    lock.release()
    join_all(thread)
    assert names(told) == ["lock_contended", "lock_release", "lock_release"]
    assert told[0] == ("lock_contended", 0, "wait_for_it")
    (_, first_wait_ns, first_hold_ns, _), (_, second_wait_ns, _, site) = told[1:]
    assert first_wait_ns == 0
    assert isinstance(second_wait_ns, int)
    assert second_wait_ns > 0
    assert site == "wait_for_it"
    assert (lock.acquisitions, lock.contended, lock.wait_ns) == (2, 1, second_wait_ns)
    assert isinstance(first_hold_ns, int)
    assert lock.hold_ns >= first_hold_ns
    assert not lock.locked()


def test_trying_a_held_lock_is_no_contention() -> None:
    lock = StatLock(RealSync().mutex("inner"), RealSync(), 0, None, None)
    assert lock.acquire()
    assert not lock.acquire(False)
    lock.release()
    assert (lock.acquisitions, lock.contended) == (1, 0)
