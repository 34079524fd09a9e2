"""The process that writes the run log: records come in through a pipe, NDJSON goes out to files.

It is a process of its own so that formatting takes no time from the threads under test: they append tuples,
a collector hands the tuples over as they are (`marshal`, the quickest way between two processes of one Python),
and this end sorts them, sends each through structlog's processors, and writes.

**Order.** The collector empties the threads' buffers one after the other, again and again; one such *round* is
no snapshot. But a record that another one could have seen was in its buffer before that one was, so it arrives in
the same round or in the next. Records are therefore held back for a round and sorted by time, and then every
record stands behind all those that it could have seen.

**Files.** `events-0001.ndjson` grows to `ROTATE_BYTES`, is compressed, and the next one begins. What the disk
refuses is counted; the pipe is emptied all the same, so the run never waits for a disk that is full.
"""

from __future__ import annotations

import gzip
import json
import marshal
import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

from structlog.processors import JSONRenderer

from pagealloc.gfp import gfp_names
from pagealloc.sync_real import RealSync
from pagealloc.tracepoints import Record
from stress.events import EVENTS, ZoneRecord, field_names

ROTATE_BYTES = 256 << 20
LENGTH = struct.Struct("<I")  # in front of every frame; a frame of no bytes ends a round
FLUSH_BYTES = 1 << 20

# One buffer's share of a round: (thread, name, records lost so far, records).
Share = tuple[int, str, int, list[Record]]
EventDict = MutableMapping[str, Any]

try:
    from msgspec.json import Encoder

    _encode: Callable[[Any], bytes] = Encoder().encode
except ModuleNotFoundError:

    def _encode(value: Any) -> bytes:
        return json.dumps(value, separators=(",", ":")).encode()


def kernel_names(logger: Any, method: str, event: EventDict) -> EventDict:
    """Print gfp flags as the kernel does (a structlog processor)."""
    del logger, method
    gfp = event.get("gfp_flags")
    if gfp is not None:
        event["gfp_flags"] = _gfp_names(gfp)
    return event


_known_gfp: dict[int, str] = {}


def _gfp_names(gfp: int) -> str:
    names = _known_gfp.get(gfp)
    if names is None:
        names = _known_gfp[gfp] = gfp_names(gfp)
    return names


PROCESSORS = (kernel_names, JSONRenderer(serializer=lambda event, **_: _encode(event)))


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
        self._lines: list[bytes] = []
        self._waiting_bytes = 0
        self._file: BinaryIO | None = None
        self._sync = RealSync()
        self._compression: Any = None

    def write(self, line: bytes) -> None:
        """Add a line."""
        self._lines.append(line)
        self._waiting_bytes += len(line) + 1
        if self._waiting_bytes >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits, and begin the next file if this one is large enough."""
        lines, self._lines = self._lines, []
        self._waiting_bytes = 0
        if not lines:
            return
        if self.error is None:
            try:
                self._append(b"\n".join(lines) + b"\n")
            except OSError as error:
                self.error = error.strerror or str(error)
            else:
                self.written += len(lines)
                return
        self.lost += len(lines)

    def _append(self, text: bytes) -> None:
        if self._file is None:
            self._number += 1
            self._bytes = 0
            self._file = self._path().open("wb", buffering=0)
        self._file.write(text)
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

    def _wait_for_compression(self) -> None:
        if self._compression is not None:
            self._compression.join()

    def close(self) -> None:
        """Write what waits, and close."""
        self.flush()
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

    def __init__(self, files: LogFiles, start_ns: int) -> None:
        self._files = files
        self._start_ns = start_ns
        self._names = {event: field_names(event) for event in EVENTS}
        self._of_zone = {event for event, cls in EVENTS.items() if issubclass(cls, ZoneRecord)}
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
                begin_ns: int = records[0][1] if records else self._newest_ns  # type: ignore[assignment]
                self._pending.append((begin_ns, thread, ("thread_begin", begin_ns, name)))
            self._pending += [(record[1], thread, record) for record in records]  # type: ignore[misc]
            if records:
                self._newest_ns = max(self._newest_ns, self._pending[-1][0])
            if lost > self._lost.get(thread, 0):
                count = lost - self._lost.get(thread, 0)
                self._lost[thread] = lost
                self._pending.append((self._newest_ns, thread, ("lost", self._newest_ns, count)))
        self._write_until(self._horizon_ns)
        self._horizon_ns = self._newest_ns

    def _write_until(self, horizon_ns: int) -> None:
        pending = self._pending
        pending.sort(key=itemgetter(0))
        done = 0
        for at_ns, thread, record in pending:
            if at_ns > horizon_ns:
                break
            done += 1
            self._render(thread, record)
        del pending[:done]

    def _render(self, thread: int, record: Record) -> None:
        name: str = record[0]  # type: ignore[assignment]
        n = self._last_n[thread] = self._last_n[thread] + 1
        t: int = record[1] - self._start_ns  # type: ignore[operator]
        event: Any = {"event": name, "t": t, "thread": thread, "n": n}
        event.update(zip(self._names[name], record[2:], strict=True))
        if name in self._of_zone:
            self._last_seq[event["zone"]] = event["seq"]
        elif name == "lost":
            self._last_n[thread] += event["count"]
        for process in PROCESSORS:
            event = process(None, "info", event)
        self._files.write(event)

    def finish(self) -> None:
        """Write what was held back and the last record: the run ended well."""
        self._write_until(self._newest_ns)
        thread = max(self._last_n, default=-1) + 1
        self._last_n[thread] = 1
        event = {
            "event": "log_end",
            "t": self._newest_ns - self._start_ns,
            "thread": thread,
            "n": 1,
            "threads": {str(number): n for number, n in self._last_n.items()},
            "zones": {str(number): seq for number, seq in self._last_seq.items()},
        }
        self._files.write(_encode(event))


def read_frames(pipe: BinaryIO) -> Iterator[bytes]:
    """Yield frames until the pipe ends, whole ones only."""
    while len(head := pipe.read(LENGTH.size)) == LENGTH.size:
        (length,) = LENGTH.unpack(head)
        frame = pipe.read(length)
        if len(frame) < length:
            return
        yield frame


def serve(pipe: BinaryIO, folder: Path, start_ns: int, rotate_bytes: int) -> dict[str, object]:
    """Write the log until the pipe ends; returns what became of it.

    The collector ends a log with a frame that holds None. A pipe that ends without it leaves a log without
    its last record, which says that it was cut.
    """
    files = LogFiles(folder, rotate_bytes)
    writer = LogWriter(files, start_ns)
    shares: list[Share] = []
    ended = False
    for frame in read_frames(pipe):
        if not frame:
            writer.round(shares)
            shares = []
            continue
        share = marshal.loads(frame)  # noqa: S302 - our own parent wrote it
        if share is None:
            writer.finish()
            ended = True
        else:
            shares.append(share)
    if not ended:
        writer.round(shares)
        writer.round([])
    files.close()
    return {"written": files.written, "lost": files.lost, "error": files.error}


if __name__ == "__main__":
    folder_word, start_word, rotate_word = sys.argv[1:]
    result = serve(sys.stdin.buffer, Path(folder_word), int(start_word), int(rotate_word))
    with suppress(OSError):  # the run that asked is gone
        os.write(sys.stdout.fileno(), json.dumps(result).encode())
