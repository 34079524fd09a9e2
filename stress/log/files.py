"""Where a run's log is: its files, in their order, packed or not."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import BinaryIO, cast

from stress.errors import BadInput


class BadLog(BadInput):
    """The path holds no log that this program can read; the message names it."""


class LogDamage(Exception):
    """A record is missing, out of order, or none: what follows cannot be judged. The message says where."""


def log_files(run: Path) -> list[Path]:
    """List the files of a run's log in their order. Raises BadLog when there are none."""
    if not run.is_dir():
        raise BadLog(
            f"{run}: no such run directory" if not run.exists() else f"{run}: expected a run directory"
        )
    files = sorted(
        path for path in run.glob("events*.ndjson*") if path.suffix in (".ndjson", ".gz") and path.is_file()
    )
    # A file that is there in both forms: whoever packs was killed before it was done.
    packed = {path.stem for path in files if path.suffix == ".gz"}
    files = [path for path in files if path.name not in packed]
    params = run / "params.json"
    if not files and params.exists() and '"log": "off"' in params.read_text(encoding="utf-8"):
        raise BadLog(f"{run}: this run kept no log (--log off)")
    if not files:
        raise BadLog(f"{run}: expected a run directory with events*.ndjson files, there are none")
    return files


def open_log(path: Path) -> BinaryIO:
    """Open one file of a log, packed or not."""
    return cast("BinaryIO", gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb"))


def sums_of(path: Path) -> Path:
    """Return where the checksums of a log's file are, packed or not."""
    return path.with_name(path.name.partition(".")[0].replace("events", "checksums") + ".txt")


def sum_of(block: bytes) -> bytes:
    """Return the line that tells of a block of lines how many they are, and their CRC-32."""
    return json.dumps({"lines": block.count(b"\n"), "crc32": zlib.crc32(block)}).encode() + b"\n"


def read_sums(path: Path) -> list[tuple[int, int]]:
    """Return (lines, CRC-32) of each block of a log's file; none for a log that has no checksums.

    Raises BadLog when they cannot be read.
    """
    sums = sums_of(path)
    if not sums.exists():
        return []
    try:
        blocks = [json.loads(line) for line in sums.read_text(encoding="utf-8").splitlines()]
        return [(int(block["lines"]), int(block["crc32"])) for block in blocks]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadLog(f"{sums}: expected lines and crc32 of each block of the log") from error
