"""Chrome trace events in JSON, which the Perfetto UI opens; written one by one, so a trace may be longer than memory.

    with TraceFile(path) as trace:
        trace.thread(1, "allocator-0")
        trace.slice(1, "rmqueue_bulk", at_us=10.0, duration_us=2.5)

A path that ends in `.gz` is packed. Times are in microseconds.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import TracebackType
from typing import IO, Self

PROCESS = 1


class TraceFile:
    """A trace that is being written. Raises OSError when it cannot be."""

    def __init__(self, path: Path) -> None:
        self._file: IO[str]
        if path.suffix == ".gz":
            self._file = gzip.open(path, "wt", 1, encoding="utf-8")  # noqa: SIM115 - `close` closes it
        else:
            self._file = path.open("w", encoding="utf-8")
        self._before = '{"displayTimeUnit": "ms", "traceEvents": [\n'

    def _write(self, phase: str, name: str, **fields: object) -> None:
        self._file.write(self._before)
        self._file.write(json.dumps({"ph": phase, "name": name, "pid": PROCESS, **fields}))
        self._before = ",\n"

    def thread(self, thread: int, name: str) -> None:
        """Name a track."""
        self._write("M", "thread_name", tid=thread, args={"name": name})

    def slice(self, thread: int, name: str, at_us: float, duration_us: float, **arguments: object) -> None:
        """Draw what a thread does for a while; slices of one thread nest."""
        details = {"args": arguments} if arguments else {}
        self._write("X", name, tid=thread, ts=at_us, dur=duration_us, **details)

    def begin(self, thread: int, name: str, at_us: float, number: int, **arguments: object) -> None:
        """Begin what overlaps with others of its name, told apart by its number."""
        self._write("b", name, cat=name, tid=thread, ts=at_us, id=number, args=arguments)

    def end(self, thread: int, name: str, at_us: float, number: int, **arguments: object) -> None:
        """End what `begin` began."""
        self._write("e", name, cat=name, tid=thread, ts=at_us, id=number, args=arguments)

    def instant(self, thread: int, name: str, at_us: float, scope: str = "t") -> None:
        """Mark a moment of a thread, or of everything with the scope "g"."""
        self._write("i", name, tid=thread, ts=at_us, s=scope)

    def counter(self, name: str, at_us: float, **values: float) -> None:
        """Tell the values of a counter track from here on."""
        self._write("C", name, ts=at_us, args=values)

    def close(self) -> None:
        """End the file; without any event it is an empty trace."""
        if self._before.startswith("{"):
            self._file.write(self._before)
        self._file.write("\n]}\n")
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
