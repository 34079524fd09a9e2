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
from pathlib import Path
from typing import BinaryIO

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
        self._file: BinaryIO | None = None  # while it holds any: what comes goes there, to stay in order
        self._read_at = self._write_at = 0

    def __bool__(self) -> bool:
        return bool(self._batches) or self._file is not None

    def put(self, batch: Batch) -> None:
        """Add a batch. Raises OSError when the disk has no room for it."""
        if self._file is None and self._records < BACKLOG_RECORDS:
            self._batches.append(batch)
            self._records += len(batch)
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - it lives as long as it holds any
            self._read_at = self._write_at = 0
        self._file.seek(self._write_at)
        marshal.dump(batch, self._file)
        self._write_at = self._file.tell()

    def take(self) -> Batch:
        """Remove and return the oldest batch; there must be one."""
        if self._batches:
            batch = self._batches.popleft()
            self._records -= len(batch)
            return batch
        assert self._file is not None
        self._file.seek(self._read_at)
        oldest: Batch = marshal.load(self._file)  # noqa: S302 - we wrote it
        self._read_at = self._file.tell()
        if self._read_at == self._write_at:
            self._file.close()
            self._file = None
        return oldest


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
        self.records = 0
        self.violations = 0

    @property
    def behind(self) -> bool:
        """Whether records wait to be judged."""
        return bool(self._backlog)

    def hear(self, batch: Batch) -> None:
        """Take note of records, to be judged later."""
        if self._damage is not None:
            return
        try:
            for at in range(0, len(batch), SLICE_RECORDS):
                self._backlog.put(batch[at : at + SLICE_RECORDS])
        except OSError as error:
            self._damage = f"the judge had no room for what it could not judge at once ({error.strerror})"

    def catch_up(self) -> None:
        """Judge one slice of what waits."""
        batch = self._backlog.take()
        if self._damage is not None:
            return
        try:
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
        damage = self._damage or "the log was cut: the run did not come to its end"
        return Judged(self.records, self.violations, damage)

    def result(self) -> Judged:
        """Say what it came to; nothing waits any more."""
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
