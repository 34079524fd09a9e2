"""Recorded cases as files: a gzip file of JSON lines, a header and then one operation a line."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from pagealloc.revision import PRESETS
from stress.errors import BadInput, quoted

Json = dict[str, Any]

LINE_MAX = 64 << 20  # characters; no line is longer, and what has no line ends is not read to its end


class CorruptCase(BadInput):
    """A file is not a recorded case; the message names the file, the place and what was expected."""


def read_case(path: Path) -> tuple[Json, list[Json]]:
    """Read a case: its header and its operation lines. Raises CorruptCase, naming file and line."""
    lines: list[Json] = []
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for number, text in enumerate(iter(lambda: file.readline(LINE_MAX), ""), 1):
                line = json.loads(text)
                if not isinstance(line, dict):
                    raise CorruptCase(f"{path}: line {number} is no JSON object")
                lines.append(line)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise CorruptCase(f"{path}: no readable gzip file of UTF-8 text ({error})") from error
    except (ValueError, RecursionError) as error:  # also numbers and nesting beyond Python's limits
        raise CorruptCase(f"{path}: line {len(lines) + 1} is no JSON ({error})") from error
    if not lines:
        raise CorruptCase(f"{path}: empty, expected a header line")
    header, operations = lines[0], lines[1:]
    missing = [key for key in ("flavour", "name", "ops") if key not in header]
    if missing:
        raise CorruptCase(f"{path}: the header lacks {', '.join(missing)}")
    if header["flavour"] not in list(PRESETS):  # a list's `in` takes what no dict could hash
        known = ", ".join(PRESETS)
        raise CorruptCase(f"{path}: flavour {quoted(header['flavour'])} is none of {known}")
    if header["ops"] != len(operations):
        raise CorruptCase(f"{path}: {len(operations)} operations, the header promises {header['ops']}")
    return header, operations


def find_cases(paths: list[Path]) -> list[Path]:
    """List the case files among files and folders. Raises CorruptCase when a path has none."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            cases = sorted(path.rglob("*.jsonl.gz"))
            if not cases:
                raise CorruptCase(f"{path}: no *.jsonl.gz file below this folder")
            found += cases
        elif path.exists():
            found.append(path)
        else:
            raise CorruptCase(f"{path}: no such file or folder")
    return found
