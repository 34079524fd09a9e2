"""The text of `trace_pipe`, `trace`, and of `trace-cmd report` and `perf script`, read line by line; and written.

    for event in read_ftrace(Path("trace.txt.gz")):
        if event.name == "mm_page_alloc":
            print(event.time_s, event.cpu, event.number("pfn"), event.number("order"))

A field that is a number, decimal or hexadecimal, is an int; everything else stays the word that it is. What a kernel
says of events that it lost is an event too, `lost_events`: whoever follows a recording entry for entry must hear of it.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO, cast

from stress.errors import BadInput

Value = int | str

VMEMMAP_START, STRUCT_PAGE_BYTES = 0xFFFF_EA00_0000_0000, 64

# TASK-PID (TGID) [CPU] FLAGS TIME: EVENT: FIELDS. The group and the flags are options of the tracer, and perf names the
# event's system before it.
_LINE = re.compile(
    r"\s*(?P<task>\S.*?)\s*[-\s](?P<pid>\d+)\s+(?:\([\s\d-]+\)\s+)?"
    r"\[(?P<cpu>\d+)\]\s+(?:(?P<flags>[^\s\d:][^\s:]*)\s+)?"
    r"(?P<time>\d+\.\d+):\s+(?:\w+:)?(?P<name>\w+):\s*(?P<text>.*)"
)
_FIELD = re.compile(r"(\w+)=(\{[^}]*\}|\S*)")
_LOST = re.compile(r"CPU:\s*(\d+) \[LOST (\d+) EVENTS\]")
_NOT_OF_NAMES = re.compile(r"[^a-zA-Z0-9-]")
_NUMBER = re.compile(r"-?\d+|0x[0-9a-fA-F]+")


class BadTrace(BadInput):
    """The file is no trace text; the message names it, and the line."""


class TraceEvent(NamedTuple):
    """One line of a trace."""

    time_s: float  # on the trace's own clock
    cpu: int
    task: str
    pid: int
    name: str
    fields: dict[str, Value]
    text: str  # all that follows the name: what a mark says
    flags: str = ""  # of the CPU: interrupts off, need of a reschedule, in an interrupt, depths

    def needs_resched(self) -> bool:
        """Whether another task waited for this CPU, and the running one had not let it in yet."""
        return self.flags[1:2] in ("N", "n", "B", "b")

    def number(self, field: str) -> int:
        """Return a field that is a number. Raises BadTrace, naming the event, without one."""
        value = self.fields.get(field)
        if not isinstance(value, int):
            raise BadTrace(f"{self.name} at {self.time_s:.6f} s: {field} is {value!r}, expected a number")
        return value


LINE_MAX = 1 << 16  # characters; no line of a trace is longer


def read_ftrace(path: Path) -> Iterator[TraceEvent]:
    """Yield the events of a file, packed or not, in its order. Raises BadTrace, OSError when it cannot be read."""
    try:
        with open_text(path) as file:
            # A device may have no line's end, and no end.
            yield from parse_ftrace(iter(lambda: file.readline(LINE_MAX), ""), str(path))
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadTrace(f"{path}: {error}, expected trace text, packed or not") from error


def format_event(
    task: str, pid: int, cpu: int, t_ns: int, name: str, text: str, flags: str | None = "....."
) -> str:
    """Return an event as `trace_pipe` writes it, without its end of line; `flags` None: the option noirq-info is on.

    A task's name has letters, digits and dashes only, for there are scripts that expect no others.
    """
    seconds, microseconds = divmod(t_ns // 1000, 1_000_000)
    task = _NOT_OF_NAMES.sub("-", task)
    column = "" if flags is None else flags
    return f"{task:>16}-{pid:<7} [{cpu:03}] {column} {seconds:5}.{microseconds:06}: {name}: {text}"


def page_fields(pfn: int, *, decimal: bool = False) -> str:
    """Return the first fields of every kmem event: where the page's `struct page` would be on x86-64, and its pfn.

    Older kernels print the pfn as a `decimal` number.
    """
    return f"page={VMEMMAP_START + pfn * STRUCT_PAGE_BYTES:016x} pfn={pfn if decimal else hex(pfn)}"


def open_text(path: Path) -> TextIO:
    """Open a text file, packed or not. Raises OSError."""
    return cast("TextIO", gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open())


def parse_ftrace(lines: Iterable[str], name: str = "trace") -> Iterator[TraceEvent]:
    """Yield the events of lines; `name` is what a complaint calls them. Raises BadTrace for a line that is none."""
    time_s = 0.0
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line.rstrip("\n"))
        if match is not None:
            time_s = float(match["time"])
            text = match["text"]
            fields = {key: _value(word) for key, word in _FIELD.findall(text)}
            cpu, pid, flags = int(match["cpu"]), int(match["pid"]), match["flags"] or ""
            yield TraceEvent(time_s, cpu, match["task"], pid, match["name"], fields, text, flags)
        elif lost := _LOST.search(line):
            fields = {"events": int(lost[2])}
            yield TraceEvent(time_s, int(lost[1]), "", 0, "lost_events", fields, line.strip())
        elif line.strip() and not line.startswith(("#", "cpus=", "version =")):
            raise BadTrace(f"{name}, line {number}: {line.strip()[:80]!r}, expected a line of trace text")


def _value(word: str) -> Value:
    if not _NUMBER.fullmatch(word):
        return word
    return int(word, 16 if word.startswith("0x") else 10)
