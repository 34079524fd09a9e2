"""The judge of a run, in the log writer's process: it hears each record as it is written, and speaks at once.

    judge = LiveJudge(folder, tell)     # `tell` hears of every broken invariant, within a second of the event
    judge.hear(batch)                   # records in the order of the file; takes no time
    while judge.behind and nothing_else_to_do():
        judge.catch_up()                # judges some of them
    judged = judge.result()

It decides what `stress verify` decides from the written log, with the same rules. Writing comes first: what the judge
has no time for waits, in memory and then in a file without a name.
"""

from __future__ import annotations

import marshal
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from pagealloc.tracepoints import Record
from stress.log.files import LogDamage
from stress.log.hearing import Heard, Hearing

SLICE_RECORDS = 1024  # judged in one go, in about ten milliseconds: so long may the pipe have to wait
BACKLOG_RECORDS = 1 << 18  # kept in memory, some 80 MB
TOLD_MAX = 3  # of each invariant, in words; one fault breaks much that follows
ZONE_AT = 3  # where a record made under a zone lock has the zone's number
WITNESSED = ("violation", "run_end")  # what the run itself saw is no proof of the log's

Batch = list[tuple[int, int, Record]]  # (nanoseconds, thread, record)


@dataclass(frozen=True, slots=True)
class LiveProof:
    """A broken invariant: what the judge says of it, and when it happened (seconds since the run began)."""

    invariant: str
    text: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Judged:
    """What the judge came to. `damage` says why it could not judge all that there was."""

    records: int
    violations: int
    damage: str | None


class Backlog:
    """Batches that wait, the oldest first; beyond `BACKLOG_RECORDS` they wait on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._batches: deque[Batch] = deque()
        self._records = 0
        # While it holds any: what comes goes there, to stay in order. Without a buffer, so that what the disk refuses
        # is known at once; of a batch of which it took a part the size is not kept.
        self._file: FileIO | None = None
        self._sizes: deque[int] = deque()
        self._read_at = self._write_at = 0

    def __bool__(self) -> bool:
        return bool(self._batches) or bool(self._sizes)

    def put(self, batch: Batch) -> None:
        """Add a batch. Raises OSError when the disk has no room for it."""
        if not self._sizes and self._records < BACKLOG_RECORDS:
            self._batches.append(batch)
            self._records += len(batch)
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - kept while it holds any
        packed = marshal.dumps(batch)
        try:
            self._file.seek(self._write_at)
            rest = memoryview(packed)
            while rest:  # a disk that is nearly full takes a part
                rest = rest[self._file.write(rest) :]
            self._write_at += len(packed)
            self._sizes.append(len(packed))
        finally:
            self._close_when_empty()

    def take(self) -> Batch:
        """Remove and return the oldest batch; there must be one."""
        if self._batches:
            batch = self._batches.popleft()
            self._records -= len(batch)
            return batch
        assert self._file is not None
        size = self._sizes.popleft()  # first: whatever becomes of it, this batch waits no more
        self._file.seek(self._read_at)
        oldest: Batch = marshal.loads(self._file.read(size))  # noqa: S302 - we wrote it
        self._read_at += size
        self._close_when_empty()
        return oldest

    def _close_when_empty(self) -> None:
        if not self._sizes and self._file is not None:
            self._file.close()
            self._file = None
            self._read_at = self._write_at = 0


class LiveJudge:
    """Judges the records of one run. `tell` hears of the first `TOLD_MAX` violations of each invariant."""

    def __init__(self, folder: Path, start_ns: int, tell: Callable[[LiveProof], None]) -> None:
        self._tell = tell
        self._start_ns = start_ns
        self._backlog = Backlog(folder)
        self._hearing = Hearing(self._fail, unheard=WITNESSED)
        self._now_ns = start_ns
        self._told: dict[str, int] = {}
        self._damage: str | None = None
        self._deaf: str | None = None  # why it took note of no more; what came before is judged
        self.records = 0
        self.violations = 0

    @property
    def behind(self) -> bool:
        """Whether records wait to be judged."""
        return bool(self._backlog)

    def hear(self, batch: Batch) -> None:
        """Take note of records, to be judged later."""
        if self._damage is not None or self._deaf is not None:
            return
        try:
            for at in range(0, len(batch), SLICE_RECORDS):
                self._backlog.put(batch[at : at + SLICE_RECORDS])
        except OSError as error:
            self._deaf = f"the judge had no room for what it could not judge at once ({error.strerror})"

    def catch_up(self) -> None:
        """Judge one slice of what waits."""
        try:
            batch = self._backlog.take()
            if self._damage is None:
                self._hearing.hear(self._records(batch))
        except LogDamage as damage:
            self._damage = str(damage)
        except Exception as error:  # whatever becomes of the judge, the log is written
            self._damage = f"the judge failed ({type(error).__name__}: {error})"

    def _records(self, batch: Batch) -> Iterator[Heard]:
        for self._now_ns, thread, record in batch:
            self.records += 1
            if record[0] == "lost":
                raise LogDamage(f"thread {thread} lost {record[2][0]} records: its buffer was full")
            yield record[0], thread, (*record[ZONE_AT:], *record[2])

    def cut_short(self) -> Judged:
        """Say what it came to before the pipe ended without a last record."""
        damage = self._damage or self._deaf or "the log was cut: the run did not come to its end"
        return Judged(self.records, self.violations, damage)

    def result(self) -> Judged:
        """Say what it came to; nothing waits any more."""
        self._damage = self._damage or self._deaf
        if self._damage is None:
            try:
                self._hearing.expect_last_look()
            except LogDamage as damage:
                self._damage = str(damage)
        return Judged(self.records, self.violations, self._damage)

    def _fail(self, invariant: str, text: str) -> None:
        self.violations += 1
        told = self._told[invariant] = self._told.get(invariant, 0) + 1
        if told <= TOLD_MAX:
            self._tell(LiveProof(invariant, text, (self._now_ns - self._start_ns) / 1e9))
