"""Logs written by hand, for figures that can be worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stress.log.events import EVENTS, SCHEMA_VERSION, ZoneRecord, field_names

MS = 1_000_000


class HandLog:
    """A log written by hand: `t` in milliseconds, `n` and `seq` counted here."""

    def __init__(self, **params: object) -> None:
        self.lines: list[dict[str, Any]] = []
        self._n: dict[int, int] = {}
        self._seq: dict[int, int] = {}
        self("thread_begin", 0.0, 0, name="MainThread")
        self(
            "log_begin",
            0.0,
            0,
            schema=SCHEMA_VERSION,
            params={"seed": 1, **params},
            versions={"pagealloc": "0.1.0"},
        )
        self("zone_begin", 0.0, 0, 0, "Normal", 0, 0, 1024, 11, 9, "v6.1")

    def __call__(self, event: str, t_ms: float, thread: int, *values: object, **fields: object) -> None:
        """Add a record; `values` are its fields in order, of a zone's record without `seq`."""
        record: dict[str, Any] = {"event": event, "t": round(t_ms * MS), "thread": thread}
        self._n[thread] = record["n"] = self._n.get(thread, 0) + 1
        if issubclass(EVENTS[event], ZoneRecord):
            zone, *rest = values
            assert isinstance(zone, int)
            self._seq[zone] = self._seq.get(zone, 0) + 1
            values = (zone, self._seq[zone], *rest)
        self.lines.append(record | dict(zip(field_names(event), values, strict=False)) | fields)

    def write(self, folder: Path, *, end: bool = True) -> Path:
        """Write the log into a folder of its own; without `end` it is one that was cut."""
        if end:
            seqs = {str(zone): seq for zone, seq in self._seq.items()}
            self("log_end", self.lines[-1]["t"] / MS, 99, threads={}, zones=seqs)
        folder.mkdir()
        text = "".join(json.dumps(line) + "\n" for line in self.lines)
        (folder / "events-0001.ndjson").write_text(text, encoding="utf-8")
        return folder
