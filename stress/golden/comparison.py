"""A case is replayed up to the first place at which the recording and this project part."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagealloc.errors import PageAllocError
from pagealloc.revision import PRESETS
from stress.golden.cases import CorruptCase, Json, read_case
from stress.golden.replayer import Replayer
from stress.golden.state import digest


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place at which a replay and the recording part: `field` of operation `operation`."""

    operation: int
    op: str
    field: str
    kernel: str
    ours: str


@dataclass(frozen=True, slots=True)
class CaseResult:
    """How one file fared: `difference` is None when every operation agreed."""

    path: str
    operations: int
    difference: Difference | None


def replay(path: Path) -> CaseResult:
    """Replay one file up to its first difference. Raises CorruptCase when it is not a case."""
    header, lines = read_case(path)
    replayer = Replayer(PRESETS[header["flavour"]])
    for number, line in enumerate(lines):
        try:
            missing = [key for key in ("op", "res", "digest") if key not in line]
            if missing:
                raise CorruptCase(f"lacks {', '.join(missing)}")
            result = replayer.apply(line["op"])
            state = replayer.state()
            ours = {"res": result, "digest": digest(state), "state": state}
            difference = next(_differences("", line, ours), None)
        except CorruptCase as error:
            raise CorruptCase(f"{path}: operation {number}: {error}") from error
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, PageAllocError) as error:
            raise CorruptCase(
                f"{path}: operation {number} cannot be carried out ({type(error).__name__}: {error})"
            ) from error
        if difference is not None:
            field, kernel, our = difference
            return CaseResult(str(path), number, Difference(number, line["op"]["op"], field, kernel, our))
    return CaseResult(str(path), len(lines), None)


def _differences(where: str, kernel: Any, ours: Any) -> Iterator[tuple[str, str, str]]:
    """Yield (field, kernel's value, ours) wherever two recorded values differ, states before their digests.

    A state that the recording leaves out is not compared: its digest is. The text of a refusal is for
    people and may differ.
    """
    if isinstance(kernel, dict) and isinstance(ours, dict):
        if "refused" in kernel and "refused" in ours:
            return
        # "i" and "op" are the recording's own; a state may be absent, and names its digest's reason.
        keys = sorted((set(kernel) | set(ours)) - {"i", "op", "state", "digest"})
        keys += [key for key in ("state", "digest") if key in kernel]
        for key in keys:
            if key in kernel and key in ours:
                yield from _differences(f"{where}.{key}" if where else key, kernel[key], ours[key])
            else:
                yield f"{where}.{key}" if where else key, _show(kernel, key), _show(ours, key)
    elif isinstance(kernel, list) and isinstance(ours, list) and len(kernel) == len(ours):
        for at, (left, right) in enumerate(zip(kernel, ours, strict=True)):
            yield from _differences(f"{where}[{at}]", left, right)
    elif kernel != ours or type(kernel) is not type(ours):
        yield where, json.dumps(kernel), json.dumps(ours)


def _show(value: Json, key: str) -> str:
    return json.dumps(value[key]) if key in value else "(absent)"
