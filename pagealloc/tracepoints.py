"""Tracepoints: what happens, told to whoever listens, for one attribute test when nobody does.

    trace = self.trace
    if trace is not None:
        trace("mm_page_alloc_zone_locked", pfn, order, ...)

A *trace* is a callable that takes an event's name and its fields. Names and fields are the kernel's where it has
the event (`include/trace/events/kmem.h`); a name that begins with `page_reporting_` is one that Linux lacks.
The schema of every event is in `stress/events.py`.

`Tracer` is the trace of a run on real threads. A thread appends tuples to a buffer of its own, so the threads
under test share no lock, and nothing is formatted. Events that happen under a zone lock carry the zone's
number and the next number of the zone's sequence, handed out under that lock: their true order. A thread whose
buffer is full waits for `patience_s` seconds, though never inside a zone lock; then the record is lost and counted,
and the missing numbers show where.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pagealloc.sync import Lock, Sync

RECORDS_MAX = (
    1 << 16
)  # in one thread's buffer, and as many again under zone locks: some 25 MB when it is full
ROOM_INTERVAL_S = 0.002

Record = tuple[object, ...]  # (event, nanoseconds, field, ...)


class Trace(Protocol):
    """Whoever is told what happens; called by the thread to which it happens."""

    def __call__(self, event: str, /, *fields: object) -> None: ...


class Buffer:
    """The records of one thread that were not collected yet."""

    __slots__ = ("lost", "name", "number", "records")

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.records: list[Record] = []
        self.lost = 0  # records, since the beginning

    def take(self) -> list[Record]:
        """Remove and return the records; the thread may append meanwhile.

        Slicing a list and deleting a slice are single steps, with a GIL or without.
        """
        records = self.records
        taken = records[:]
        del records[: len(taken)]
        return taken


class Tracer:
    """The buffers of all threads. A collector calls `buffers` and empties them now and then."""

    def __init__(self, sync: Sync, records_max: int = RECORDS_MAX, patience_s: float = 0.0) -> None:
        self.sync = sync
        self._records_max = records_max
        self._patience_s = patience_s
        self._mutex = sync.mutex("trace buffers")
        self._buffers: list[Buffer] = []
        self._local = sync.local(self._make, self._retire)

    def _make(self) -> Buffer:
        self._mutex.acquire()
        try:
            buffer = Buffer(len(self._buffers), self.sync.thread_name())
            self._buffers.append(buffer)
            return buffer
        finally:
            self._mutex.release()

    def _retire(self, buffer: Buffer) -> None:
        """Keep the buffer of a thread that has ended: it is still to be collected."""

    def buffers(self) -> Sequence[Buffer]:
        """Return the buffers of all threads that ever told anything."""
        self._mutex.acquire()
        try:
            return tuple(self._buffers)
        finally:
            self._mutex.release()

    def thread_trace(self) -> Trace:
        """Make the trace for events that happen to a thread, under no zone lock."""
        local, clock_ns, records_max = self._local, self.sync.monotonic_ns, self._records_max

        def trace(event: str, /, *fields: object) -> None:
            buffer = local.value
            records = buffer.records
            if len(records) < records_max or self._await_room(records):
                records.append((event, clock_ns(), *fields))
            else:
                buffer.lost += 1

        return trace

    def _await_room(self, records: list[Record]) -> bool:
        """Slow the thread down to the pace of the collector; False when that lasts too long.

        Half a buffer is left for the events under zone locks, where nobody waits.
        """
        sync = self.sync
        deadline_s = sync.monotonic() + self._patience_s
        while sync.monotonic() < deadline_s:
            sync.sleep(ROOM_INTERVAL_S)
            if len(records) < self._records_max:
                return True
        return False

    def zone_trace(self, number: int) -> Trace:
        """Make the trace of one zone, for events under its lock."""
        local, clock_ns, records_max = self._local, self.sync.monotonic_ns, 2 * self._records_max
        seq = 0

        def trace(event: str, /, *fields: object) -> None:
            nonlocal seq
            seq += 1
            buffer = local.value
            records = buffer.records
            if len(records) < records_max:
                records.append((event, clock_ns(), number, seq, *fields))
            else:
                buffer.lost += 1

        return trace


class StatLock:
    """A zone lock that keeps count: acquisitions, contention, time waited and held, and tells of every hold.

    It stands in the place of a zone's lock while somebody wants to know, and costs nothing when nobody does.
    Written under the lock itself, its counts need no other.
    """

    __slots__ = (
        "_clock_ns",
        "_inner",
        "_since_ns",
        "_site",
        "_thread_trace",
        "_waited_ns",
        "_zone_trace",
        "acquisitions",
        "contended",
        "hold_ns",
        "number",
        "wait_ns",
    )

    def __init__(
        self, inner: Lock, sync: Sync, number: int, zone_trace: Trace | None, thread_trace: Trace | None
    ) -> None:
        self.number = number  # of the zone
        self.acquisitions = 0
        self.contended = 0
        self.wait_ns = 0
        self.hold_ns = 0
        self._inner = inner
        self._clock_ns = sync.monotonic_ns
        self._site = sync.caller
        self._zone_trace = zone_trace
        self._thread_trace = thread_trace
        self._since_ns = 0
        self._waited_ns = 0

    @property
    def inner(self) -> Lock:
        """The lock that does the work."""
        return self._inner

    def acquire(self, blocking: bool = True, /) -> bool:
        inner = self._inner
        if inner.acquire(False):
            self._since_ns = self._clock_ns()
            self._waited_ns = 0
            self.acquisitions += 1
            return True
        if not blocking:
            return False
        begin_ns = self._clock_ns()
        if self._thread_trace is not None:
            self._thread_trace("lock_contended", self.number, self._site())
        inner.acquire()
        self._since_ns = now_ns = self._clock_ns()
        self._waited_ns = now_ns - begin_ns
        self.acquisitions += 1
        self.contended += 1
        self.wait_ns += now_ns - begin_ns
        return True

    def release(self) -> None:
        held_ns = self._clock_ns() - self._since_ns
        self.hold_ns += held_ns
        if self._zone_trace is not None:
            self._zone_trace("lock_release", self._waited_ns, held_ns, self._site())
        self._inner.release()

    def locked(self) -> bool:
        return self._inner.locked()
