"""The process that writes the run log: records come in through a pipe, NDJSON goes out to files.

It is a process of its own so that formatting takes no time from the threads under test: they append tuples,
a collector hands the tuples over as they are (`marshal`, the quickest way between two processes of one Python),
and this end sorts them, encodes them, a batch at a time, and writes.

**Order.** The collector empties the threads' buffers one after the other, again and again; one such *round* is
no snapshot. But a record that another one could have seen was in its buffer before that one was, so it arrives in
the same round or in the next. Records are therefore held back for a round and sorted by time, and then every
record stands behind all those that it could have seen.

**Judge.** Whenever the pipe has nothing, the judge (`live`) hears what was written, and what it finds goes back to
the run as a line of JSON, as does, at the end, what became of the log.

**Files.** `events-0001.ndjson` grows to `ROTATE_BYTES`, is compressed, and the next one begins; `checksums-0001.txt`
has a checksum for each block of lines that was written at once. What the disk refuses is counted; the pipe is emptied
all the same, so the run never waits for a disk that is full.
"""

from __future__ import annotations

import gzip
import io
import json
import marshal
import os
import select
import shutil
import struct
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, cast

from pagealloc.gfp import gfp_names
from pagealloc.sync import Thread
from pagealloc.sync_real import RealSync
from pagealloc.tracepoints import Record
from stress.log.events import EVENTS, HEADER, MmPageAlloc, field_names
from stress.log.files import sum_of, sums_of
from stress.log.live import LiveJudge, LiveProof
from stress.log.tale import LEVELS, Tale

ROTATE_BYTES = 256 << 20
LENGTH = struct.Struct("<I")  # in front of every frame; a frame of no bytes ends a round
ZONE_AT = 3  # where a record made under a zone lock has the zone's number, and behind it its own
PIPE_BYTES = 1 << 16
BATCH_RECORDS = 4096  # rendered and written together

# One buffer's share of a round: (thread, name, records lost so far, records).
Share = tuple[int, str, int, list[Record]]
Line = Any  # a record as it is written: an object of its class, or without msgspec a dict

try:
    from msgspec.json import Encoder

    _encode_lines: Callable[[list[Line]], bytes] = Encoder().encode_lines
except ModuleNotFoundError:

    def _encode_lines(lines: list[Line]) -> bytes:
        return b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)


def render(lines: list[Line]) -> bytes:
    """Render records as lines, gfp flags by their names as the kernel prints them."""
    for line in lines:
        if type(line) is MmPageAlloc:
            line.gfp_flags = _gfp_names(line.gfp_flags)
        elif type(line) is dict and "gfp_flags" in line:
            line["gfp_flags"] = _gfp_names(line["gfp_flags"])
    return _encode_lines(lines)


_known_gfp: dict[Any, str] = {}


def _gfp_names(gfp: Any) -> str:
    names = _known_gfp.get(gfp)
    if names is None:
        names = _known_gfp[gfp] = gfp_names(gfp)
    return names


class LogFiles:
    """The files of a log, one after the other. After an OSError everything is lost, and counted."""

    def __init__(self, folder: Path, rotate_bytes: int = ROTATE_BYTES) -> None:
        self.folder = folder
        self.written = 0
        self.lost = 0
        self.error: str | None = None
        self._rotate_bytes = rotate_bytes
        self._number = 0
        self._bytes = 0
        self._file: BinaryIO | None = None
        self._sums = -1  # descriptor of the file with the blocks' checksums
        self._sync = RealSync()
        self._compression: Thread | None = None

    def write(self, text: bytes) -> None:
        """Write a block of lines and its checksum, or count the lines as lost."""
        count = text.count(b"\n")
        if self.error is None:
            try:
                self._append(text)
            except OSError as error:
                self.error = error.strerror or str(error)
            else:
                self.written += count
                return
        self.lost += count

    def _append(self, text: bytes) -> None:
        if self._file is None:
            self._number += 1
            self._bytes = 0
            self._file = self._path().open("wb", buffering=0)
            self._sums = os.open(sums_of(self._path()), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        rest = memoryview(text)
        while rest:  # a disk that is nearly full takes a part
            rest = rest[self._file.write(rest) :]
        os.write(self._sums, sum_of(text))
        self._bytes += len(text)
        if self._bytes >= self._rotate_bytes:
            self._close()
            path = self._path()
            self._wait_for_compression()
            self._compression = self._sync.spawn("compress", lambda: compress(path))

    def _path(self) -> Path:
        return self.folder / f"events-{self._number:04}.ndjson"

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._sums >= 0:
            os.close(self._sums)
            self._sums = -1

    def _wait_for_compression(self) -> None:
        if self._compression is not None:
            self._compression.join()

    def close(self) -> None:
        """Close the last file, and wait for the one before it to be packed."""
        self._close()
        self._wait_for_compression()


def compress(path: Path) -> None:
    """Replace a file by its gzip; if the disk has no room for that, leave the file as it is."""
    target, draft = path.with_name(f"{path.name}.gz"), path.with_name(f"{path.name}.gz.tmp")
    try:
        with path.open("rb") as plain, gzip.open(draft, "wb", compresslevel=1) as packed:
            shutil.copyfileobj(plain, packed, 1 << 20)
        draft.replace(target)
        path.unlink()
    except OSError:
        draft.unlink(missing_ok=True)


class LogWriter:
    """Sorts the records of rounds and renders them; times are counted from `start_ns`."""

    def __init__(self, files: LogFiles, start_ns: int, judge: LiveJudge | None = None) -> None:
        self._files = files
        self._judge = judge
        self.tale = Tale(files.folder)
        self._start_ns = start_ns
        self._makers = {event: _maker(event) for event in EVENTS}
        self._last_n: dict[int, int] = {}
        self._last_seq: dict[int, int] = {}
        self._lost: dict[int, int] = {}
        self._pending: list[tuple[int, int, Record]] = []  # (time, thread, record)
        self._horizon_ns = 0
        self._newest_ns = 0

    def round(self, shares: list[Share]) -> None:
        """Take one round of all buffers, and write what no record to come can precede."""
        for thread, name, lost, records in shares:
            if thread not in self._last_n:
                self._last_n[thread] = 0
                begin_ns: int = records[0][1]
                self._pending.append((begin_ns, thread, ("thread_begin", begin_ns, (name,))))
            self._pending += [(record[1], thread, record) for record in records]
            self._newest_ns = max(self._newest_ns, self._pending[-1][0])
            if records[-1][0] == "lost":
                # The mark that a full buffer ends with; how many followed it is known only now.
                at_ns, _, _ = self._pending[-1]
                self._pending[-1] = at_ns, thread, ("lost", at_ns, (lost - self._lost.get(thread, 0),))
                self._lost[thread] = lost
        self._write_until(self._horizon_ns)
        self._horizon_ns = self._newest_ns

    def _write_until(self, horizon_ns: int) -> None:
        pending = self._pending
        pending.sort(key=itemgetter(0))
        done = bisect_right(pending, horizon_ns, key=itemgetter(0))
        for begin in range(0, done, BATCH_RECORDS):
            batch = pending[begin : min(done, begin + BATCH_RECORDS)]
            self._files.write(render([self._line(at_ns, thread, record) for at_ns, thread, record in batch]))
            for at_ns, _, record in batch:
                if record[0] in LEVELS:
                    fields = dict(zip(field_names(record[0]), record[2], strict=True))
                    self.tale.tell(record[0], (at_ns - self._start_ns) / 1e9, fields)
            if self._judge is not None:
                self._judge.hear(batch)
        del pending[:done]

    def _line(self, at_ns: int, thread: int, record: Record) -> Line:
        event, fields = record[0], record[2]
        n = self._last_n[thread] = self._last_n[thread] + 1
        if len(record) > ZONE_AT:
            zone, seq = record[ZONE_AT:]
            self._last_seq[zone] = seq
            return self._makers[event](at_ns - self._start_ns, thread, n, zone, seq, *fields)
        if event == "lost":
            self._last_n[thread] += fields[0]
        return self._makers[event](at_ns - self._start_ns, thread, n, *fields)

    def finish(self) -> None:
        """Write what was held back and the last record: the run ended well."""
        self._write_until(self._newest_ns)
        thread = max(self._last_n, default=-1) + 1
        self._last_n[thread] = 1
        threads = {str(number): n for number, n in self._last_n.items()}
        zones = {str(number): seq for number, seq in self._last_seq.items()}
        end_ns = self._newest_ns - self._start_ns
        self._files.write(render([self._makers["log_end"](end_ns, thread, 1, threads, zones)]))
        if self._judge is not None:
            self._judge.hear([(self._newest_ns, thread, ("log_end", self._newest_ns, (threads, zones)))])


def _maker(event: str) -> Callable[..., Line]:
    """Return what makes a line of an event from its header and fields."""
    cls = EVENTS[event]
    if hasattr(cls, "__struct_config__"):
        return cls
    names = (*HEADER, *field_names(event))
    return lambda *values: {"event": event, **dict(zip(names, values, strict=True))}


def read_frames(pipe: BinaryIO) -> Iterator[bytes]:
    """Yield frames until the pipe ends, whole ones only."""
    while len(head := pipe.read(LENGTH.size)) == LENGTH.size:
        (length,) = LENGTH.unpack(head)
        frame = pipe.read(length)
        if len(frame) < length:
            return
        yield frame


class Pipe(io.RawIOBase):
    """A pipe without a buffer of its own, so that one can ask whether anything waits in it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, size: int = -1, /) -> bytes:
        """Read `size` bytes, fewer only at the pipe's end."""
        parts, left = [], size
        while left and (part := os.read(self._descriptor, min(left, PIPE_BYTES))):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def waits(self) -> bool:
        """Whether a read would return at once."""
        return bool(select.select([self._descriptor], [], [], 0)[0])


def serve(
    pipe: BinaryIO,
    folder: Path,
    start_ns: int,
    rotate_bytes: int,
    say: Callable[[dict[str, object]], None] = lambda message: None,
    *,
    judged: bool = True,
) -> dict[str, object]:
    """Write and judge the log until its end; returns what became of it.

    `say` hears of what the judge finds, and how far it is when the run is over. The collector ends a log with a frame
    that holds None. A pipe that ends without it leaves a log without its last record, which says that it was cut.
    """

    def tell(proof: LiveProof) -> None:
        say({"proof": asdict(proof)})
        writer.tale.tell("violation", proof.seconds, {"text": proof.text, "invariant": proof.invariant})

    files = LogFiles(folder, rotate_bytes)
    judge = LiveJudge(folder, start_ns, tell)
    writer = LogWriter(files, start_ns, judge if judged else None)
    shares: list[Share] = []
    whole = False
    for frame in read_frames(pipe):
        if frame:
            share = marshal.loads(frame)  # noqa: S302 - our own parent wrote it
            if share is None:
                writer.finish()
                whole = True
                break
            if isinstance(share, dict):
                writer.tale.say(**share)
            else:
                shares.append(share)
            continue
        writer.round(shares)
        shares = []
        while judge.behind and isinstance(pipe, Pipe) and not pipe.waits():
            judge.catch_up()
    # Without that frame what is held back stays unwritten: it may have seen records that never came.
    files.close()
    while judge.behind and whole:
        judge.catch_up()
        say({"progress": judge.records})
    came_to = judge.result() if whole else judge.cut_short()
    return {"written": files.written, "lost": files.lost, "error": files.error, "judged": asdict(came_to)}


def hear_the_rest(pipe: BinaryIO, tale: Tale) -> None:
    """Tell what the command line says of a run whose log has ended, until it sends None, or the pipe ends.

    A child that the reporter has forked may have the pipe as well, and keep it.
    """
    for frame in read_frames(pipe):
        message = marshal.loads(frame)  # noqa: S302 - our own parent wrote it
        if message is None:
            return
        tale.say(**message)


def _say(message: dict[str, object]) -> None:
    """Send a line to the run that asked; it may be gone."""
    with suppress(OSError):
        os.write(sys.stdout.fileno(), json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    folder_word, start_word, rotate_word, judged_word = sys.argv[1:]
    own_pipe = cast("BinaryIO", Pipe(sys.stdin.fileno()))
    is_judged = judged_word == "True"
    _say(serve(own_pipe, Path(folder_word), int(start_word), int(rotate_word), _say, judged=is_judged))
    hear_the_rest(own_pipe, Tale(Path(folder_word)))
