"""Reading a run's log: its files, its records, and what is wrong with them as a log.

`LogReader` yields typed records and complains (`LogDamage`) of the first one that cannot be trusted: a line that
is no record of the schema, a thread's or a zone's number that is missing, doubled or out of order, records lost while
the run went on, an end that is not there. What stands before is sound.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Union

import msgspec
from msgspec.structs import astuple

from stress.log.events import (
    EVENTS,
    HEADER,
    SCHEMA_VERSION,
    LogBegin,
    LogEnd,
    Lost,
    Record,
    ThreadBegin,
    ZoneRecord,
)
from stress.log.files import BadLog, LogDamage, log_files, open_log, read_sums, sums_of
from stress.log.hearing import Heard

TAGS = {cls: event for event, cls in EVENTS.items()}
LINE_BYTES_MAX = 64 << 20  # no line is longer; what has no line ends is not read to its end
HEADER_FIELDS = len(HEADER)
HEAD_RECORDS = 64  # within which `log_begin` must stand


class LogReader:
    """The records of a run, in the order of the file.

    `where` names the last record that was read: file and line.
    """

    def __init__(self, run: Path) -> None:
        self.files = log_files(run)
        self.threads: dict[int, str] = {}
        self.begin: LogBegin | None = None
        self.end: LogEnd | None = None
        self.records = 0
        self._file = self.files[0]
        self._line = 0
        self._last: dict[int, tuple[int, int]] = {}  # (n, t) by thread
        self._seq: dict[int, tuple[int, int]] = {}  # (seq, t) by zone
        self._decode = msgspec.json.Decoder(Union[tuple(EVENTS.values())]).decode  # noqa: UP007 - made at run time

    @property
    def where(self) -> str:
        return f"{self._file.name}:{self._line}"

    def records_of(self, lines: Iterator[bytes]) -> Iterator[Record]:
        decode = self._decode
        for line in lines:
            self._line += 1
            try:
                record: Record = decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise LogDamage(f"{self.where}: no record of the schema ({error})") from error
            yield record

    def _lines(self, path: Path, file: BinaryIO) -> Iterator[bytes]:
        """Yield a file's lines, a block's only when its checksum is right; what has no checksum is taken as it is."""
        read = 0
        for count, crc in read_sums(path):
            lines = [line for _ in range(count) if (line := file.readline(LINE_BYTES_MAX))]
            if len(lines) == count and zlib.crc32(b"".join(lines)) != crc:
                raise LogDamage(
                    f"{path.name}:{read + 1}: one of the {count} lines from here on is not as it was written (checksum)"
                )
            yield from lines
            read += count
        yield from iter(lambda: file.readline(LINE_BYTES_MAX), b"")

    def __iter__(self) -> Iterator[Record]:
        """Yield every record, each held against the numbers of its thread and its zone."""
        for path in self.files:
            self._file, self._line = path, 0
            try:
                with open_log(path) as lines:
                    for record in self.records_of(self._lines(path, lines)):
                        self._check(record)
                        yield record
            except (OSError, EOFError, zlib.error) as error:
                raise LogDamage(f"{self.where}: unreadable from here ({error})") from error
        if self.end is None:
            raise LogDamage(f"{self.where}: the log was cut here: the run did not come to its end")

    def skim(self) -> None:
        """Read lines only, and decode each file's first and those that may be the log's last. Raises LogDamage."""
        summed = sums_of(self.files[0]).exists()
        for path in self.files:
            self._file, self._line = path, 0
            if summed and not sums_of(path).exists():
                raise LogDamage(f"{path.name}: no checksums beside it, as the other files of the log have")
            with open_log(path) as lines:
                for line in self._lines(path, lines):
                    self._line += 1
                    if self.end is not None:
                        raise LogDamage(f"{self.where}: a record behind the last one")
                    if self._line == 1 or b'"log_end"' in line:
                        self._skimmed(line)
        if self.end is None:
            raise LogDamage(f"{self.where}: the log was cut here: the run did not come to its end")

    def _skimmed(self, line: bytes) -> None:
        self._line -= 1  # counted again
        for record in self.records_of(iter([line])):
            if isinstance(record, LogEnd):
                self.end = record

    def _check(self, record: Record) -> None:
        if self.end is not None:
            raise LogDamage(f"{self.where}: a record behind the last one")
        self.records += 1
        n, t = self._last.get(record.thread, (0, 0))
        if record.n != n + 1:
            raise LogDamage(
                f"{self.where}: thread {record.thread} goes on with record {record.n}, expected {n + 1}"
            )
        if record.t < t:
            raise LogDamage(
                f"{self.where}: thread {record.thread} goes back in time, from {t} to {record.t} ns"
            )
        self._last[record.thread] = (record.n, record.t)
        if isinstance(record, ZoneRecord):
            seq, t = self._seq.get(record.zone, (0, 0))
            if record.seq != seq + 1:
                raise LogDamage(
                    f"{self.where}: zone {record.zone} goes on with record {record.seq}, expected {seq + 1}"
                )
            if record.t < t:
                raise LogDamage(
                    f"{self.where}: zone {record.zone} goes back in time, from {t} to {record.t} ns"
                )
            self._seq[record.zone] = record.seq, record.t
        elif isinstance(record, ThreadBegin | LogBegin | LogEnd | Lost):
            self._check_own(record)
        if self.begin is None and self.records > HEAD_RECORDS:
            raise BadLog(f"{self._file}: expected a log_begin record, and none came")

    def _check_own(self, record: ThreadBegin | LogBegin | LogEnd | Lost) -> None:
        """Hear what the log says of itself."""
        if isinstance(record, ThreadBegin):
            self.threads[record.thread] = record.name
        elif isinstance(record, LogBegin):
            if not 1 <= record.schema <= SCHEMA_VERSION:
                raise BadLog(
                    f"{self._file}: the log is of schema {record.schema}, expected {SCHEMA_VERSION} at most: "
                    "a newer pagealloc reads it"
                )
            self.begin = record
        elif isinstance(record, Lost):
            raise LogDamage(
                f"{self.where}: thread {record.thread} lost {record.count} records here: its buffer was full"
            )
        else:
            self._check_end(record)
            self.end = record

    def _check_end(self, end: LogEnd) -> None:
        counted = {str(thread): n for thread, (n, _) in self._last.items()}
        seqs = {str(zone): seq for zone, (seq, _) in self._seq.items()}
        if end.threads != counted or end.zones != seqs:
            raise LogDamage(f"{self.where}: the last record counts other records than there are")


def heard(record: Record) -> Heard:
    """Return a record as the judge takes it."""
    return TAGS[type(record)], record.thread, astuple(record)[HEADER_FIELDS:]


def damage_of(run: Path) -> str | None:
    """Say what a look at checksums and ends finds wrong with a run's log; a whole reading may find more."""
    reader = LogReader(run)
    try:
        reader.skim()
    except (LogDamage, BadLog) as damage:
        return str(damage)
    except (OSError, EOFError, zlib.error) as error:
        return f"{reader.where}: unreadable from here ({error})"
    return None


def check_is_log(run: Path) -> None:
    """Raise BadLog unless the run's first file begins as a log does."""
    reader = LogReader(run)
    try:
        for record in reader:
            if isinstance(record, LogBegin) or reader.records > HEAD_RECORDS:
                return
    except LogDamage as damage:
        if reader.begin is None:
            raise BadLog(f"{run / str(damage)}, expected the log of a run") from damage
