"""Tracepoints: what happens, told to whoever listens, for one attribute test when nobody does.

    trace = self.trace
    if trace is not None:
        trace("mm_page_alloc_zone_locked", pfn, order, ...)

A *trace* is a callable that takes an event's name and its fields. Names and fields are the kernel's where it has
the event (`include/trace/events/kmem.h`); a name that begins with `page_reporting_` is one that Linux lacks.
The schema of every event is in `stress/log/events.py`.

`Tracer` is the trace of a run on real threads. A thread appends tuples to a buffer of its own, so the threads
under test share no lock, and nothing is formatted. Events that happen under a zone lock carry the zone's
number and the next number of the zone's sequence, handed out under that lock: their true order. A thread whose
buffer fills up waits for the collector, up to `patience_s` seconds, but only where it holds no zone lock
(`waiting_trace`). When the buffer is full all the same, it ends with the record `lost`, and what follows is
counted and dropped until the buffer was emptied: nothing behind a gap is told as if there were none.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

from pagealloc.sync import Lock, Sync
from pagealloc.zone_lock import DOOR

RECORDS_MAX = 1 << 17  # in one thread's buffer: some 25 MB when it is full
ROOM_INTERVAL_S = 0.002

# (event, nanoseconds, fields), and under a zone lock the zone's number and the record's.
Record = tuple[Any, ...]


class Trace(Protocol):
    """Whoever is told what happens; called by the thread to which it happens."""

    def __call__(self, event: str, /, *fields: object) -> None: ...


class Buffer:
    """The records of one thread that were not collected yet."""

    __slots__ = ("ended", "lost", "name", "number", "patient", "records")

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.records: list[Record] = []
        self.lost = 0  # records, since the beginning
        self.patient = True  # until the thread has waited in vain
        self.ended = False  # with its thread

    def take(self) -> list[Record]:
        """Remove and return the records; the thread may append meanwhile.

        Slicing a list and deleting a slice are single steps, with a GIL or without.
        """
        records = self.records
        taken = records[:]
        del records[: len(taken)]
        self.patient = True
        return taken

    def overflow(self, now_ns: int) -> None:
        """Lose a record; the first that is lost leaves a mark where it would have been."""
        records = self.records
        if not records or records[-1][0] != "lost":
            records.append(("lost", now_ns, (0,)))
        self.lost += 1


class Tracer:
    """The buffers of all threads. A collector calls `collect` now and then."""

    def __init__(self, sync: Sync, records_max: int = RECORDS_MAX, patience_s: float = 0.0) -> None:
        self.sync = sync
        self._records_max = records_max
        self._patience_s = patience_s
        self._mutex = sync.mutex("trace buffers")
        self._buffers: list[Buffer] = []
        self._made = 0
        self._local = sync.local(self._make, self._retire)

    def _make(self) -> Buffer:
        self._mutex.acquire()
        try:
            buffer = Buffer(self._made, self.sync.thread_name())
            self._made += 1
            self._buffers.append(buffer)
            return buffer
        finally:
            self._mutex.release()

    def _retire(self, buffer: Buffer) -> None:
        """Hear that a thread has ended; what its buffer holds is still to be collected."""
        buffer.ended = True

    def collect(self) -> list[tuple[Buffer, list[Record]]]:
        """Empty all buffers one after the other; returns those that held something, with what they held."""
        self._mutex.acquire()
        try:
            buffers = list(self._buffers)
            # Those whose thread has ended are taken once more, and then forgotten.
            self._buffers = [buffer for buffer in buffers if not buffer.ended]
        finally:
            self._mutex.release()
        return [(buffer, records) for buffer in buffers if (records := buffer.take())]

    def thread_trace(self) -> Trace:
        """Make the trace for events that happen to a thread; it never waits, so it may be called under a lock."""
        local, clock_ns, records_max = self._local, self.sync.monotonic_ns, self._records_max

        def trace(event: str, /, *fields: object) -> None:
            buffer = local.value
            records = buffer.records
            if len(records) < records_max:
                records.append((event, clock_ns(), fields))
            else:
                buffer.overflow(clock_ns())

        return trace

    def waiting_trace(self) -> Trace:
        """Make the trace for events that happen to a thread which holds no lock, and may be slowed down.

        It keeps half of the buffer free for the events under zone locks.
        """
        local, clock_ns, wait_at, records_max = (
            self._local,
            self.sync.monotonic_ns,
            self._records_max // 2,
            self._records_max,
        )

        def trace(event: str, /, *fields: object) -> None:
            buffer = local.value
            records = buffer.records
            if len(records) >= wait_at:
                self._await_room(buffer, wait_at)
                if len(records) >= records_max:
                    buffer.overflow(clock_ns())
                    return
            records.append((event, clock_ns(), fields))

        return trace

    def _await_room(self, buffer: Buffer, wait_at: int) -> None:
        """Slow the thread down to the pace of the collector, once until that has been here again."""
        sync = self.sync
        deadline_s = sync.monotonic() + self._patience_s
        while buffer.patient and len(buffer.records) >= wait_at:
            if sync.monotonic() >= deadline_s:
                buffer.patient = False
                return
            sync.sleep(ROOM_INTERVAL_S)

    def zone_trace(self, number: int) -> Trace:
        """Make the trace of one zone, for events under its lock."""
        local, clock_ns, records_max = self._local, self.sync.monotonic_ns, self._records_max
        seq = 0

        def trace(event: str, /, *fields: object) -> None:
            nonlocal seq
            seq += 1
            buffer = local.value
            records = buffer.records
            if len(records) < records_max:
                records.append((event, clock_ns(), fields, number, seq))
            else:
                buffer.overflow(clock_ns())

        return trace


class StatLock:
    """A zone lock that keeps count: acquisitions, contention, time waited and held, and tells of every hold.

    It stands in the place of a zone's lock while somebody wants to know, and costs nothing when nobody does.
    Written under the lock itself, its counts need no other.
    """

    __slots__ = (
        "_clock_ns",
        "_frame",
        "_inner",
        "_since_ns",
        "_thread_trace",
        "_try",
        "_waited_ns",
        "_zone_trace",
        "acquisitions",
        "contended",
        "hold_ns",
        "holds",
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
        self._try: Callable[[bool], bool] = getattr(inner, "try_once", inner.acquire)
        self.holds: Callable[[], int] = getattr(inner, "holds", lambda: 1)
        self._clock_ns = sync.monotonic_ns
        self._frame = sync.frame
        self._zone_trace = zone_trace
        self._thread_trace = thread_trace
        self._since_ns = 0
        self._waited_ns = 0

    @property
    def inner(self) -> Lock:
        """The lock that does the work."""
        return self._inner

    @property
    def in_child(self) -> Callable[[], None]:
        """What the lock that does the work tells of a fork; AttributeError where it tells nobody."""
        told: Callable[[], None] = self._inner.in_child  # type: ignore[attr-defined]
        return told

    @in_child.setter
    def in_child(self, told: Callable[[], None]) -> None:
        self._inner.in_child = told  # type: ignore[attr-defined]

    def acquire(self, blocking: bool = True, /) -> bool:
        if self._try(False):
            self._since_ns = self._clock_ns()
            self._waited_ns = 0
            self.acquisitions += 1
            return True
        if not blocking:
            return False
        begin_ns = self._clock_ns()
        if self._thread_trace is not None:
            self._thread_trace("lock_contended", self.number, self._site())
        self._inner.acquire()
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

    def _site(self) -> str:
        """Return the name of the function that acquires or releases the zone's lock, itself or by its door."""
        frame: FrameType | None = self._frame(2)
        while frame is not None and frame.f_code.co_filename == DOOR:
            frame = frame.f_back
        return frame.f_code.co_name if frame is not None else ""

    def locked(self) -> bool:
        return self._inner.locked()

    def owned(self) -> bool:
        return self._inner.owned()

    def part(self) -> None:
        """Do nothing: the lock that does the work is told itself that the process forked."""
