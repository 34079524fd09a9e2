"""A start state with exact lists: which block is on which list, in its order, and which are Reported.

It comes from a recorded case (`tests/golden`): its `init`, its marks and the lists that it loads; or from one JSON
object, `{"zones": [...]}`, with the form in which cases have a state, and each zone's place and marks beside it:
`name`, `start`, `pages`, `lists` (pfns from head to tail by "ORDER.TYPE"), `blocks` (a digit for the type of each
pageblock), and if they are known `reported`, `min`, `low`, `high`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagealloc.memory import ZoneSpec
from stress.golden.cases import read_case
from stress.lab.proc_state import BadState, read_text

Json = dict[str, Any]

MARKS = ("min", "low", "high")
ZONE_KEYS = ("name", "start", "pages", "lists", "blocks")
NR_ORDERS = 11


@dataclass(frozen=True, slots=True)
class ExactState:
    """Zones, what is on their lists, and their marks where those are told."""

    source: str
    zones: tuple[ZoneSpec, ...]
    lists: tuple[Json, ...]
    marks: tuple[tuple[int, int, int] | None, ...]
    nr_orders: int = NR_ORDERS
    preset: str | None = None  # of the kernel, where the file tells


def is_exact(path: Path) -> bool:
    """Whether a file is of exact lists, by its name: everything in `/proc` is text."""
    return path.name.removesuffix(".gz").endswith((".json", ".jsonl"))


def read_exact(path: Path) -> ExactState:
    """Read exact lists. Raises BadState, or CorruptCase for a damaged case."""
    return _of_case(path) if path.name.endswith(".jsonl.gz") else _of_object(path)


def _of_case(path: Path) -> ExactState:
    header, lines = read_case(path)
    operations: list[Json] = [line["op"] for line in lines if isinstance(line.get("op"), dict)]
    kinds = [op.get("op") for op in operations]
    if "init" not in kinds or "load_state" not in kinds:
        raise BadState(f"{path}: a case that loads no lists, expected one with init and load_state")
    init, loaded = operations[kinds.index("init")], operations[kinds.index("load_state")]
    zones = [dict(zone) for zone in init["zones"]]
    for op in operations[: kinds.index("load_state")]:
        if op["op"] == "set_wmark":
            zones[op["zone"]] |= {mark: op[mark] for mark in MARKS}
    if len(zones) != len(loaded["zones"]):
        raise BadState(f"{path}: lists of {len(loaded['zones'])} zones, expected {len(zones)}")
    for zone, lists in zip(zones, loaded["zones"], strict=True):
        zone.update(lists)
    return _build(path, zones, init["max_order"], header["flavour"])


def _of_object(path: Path) -> ExactState:
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise BadState(f"{path}: {error}, expected JSON") from error
    zones = content.get("zones") if isinstance(content, dict) else None
    if not isinstance(zones, list) or not zones or not all(isinstance(zone, dict) for zone in zones):
        raise BadState(f'{path}: expected {{"zones": [...]}} with an object for each zone')
    return _build(path, zones, NR_ORDERS, None)


def _build(path: Path, zones: list[Json], nr_orders: int, preset: str | None) -> ExactState:
    specs: list[ZoneSpec] = []
    marks: list[tuple[int, int, int] | None] = []
    for zone in zones:
        missing = [key for key in ZONE_KEYS if key not in zone]
        if missing:
            raise BadState(f"{path}: a zone without {', '.join(missing)}, expected {', '.join(ZONE_KEYS)}")
        _check(path, zone, nr_orders)
        specs.append(ZoneSpec(zone["name"], zone["pages"], start_pfn=zone["start"]))
        told = all(mark in zone for mark in MARKS)
        marks.append((zone["min"], zone["low"], zone["high"]) if told else None)
    lists = tuple({"reported": [], **zone} for zone in zones)
    return ExactState(path.name, tuple(specs), lists, tuple(marks), nr_orders, preset)


def _check(path: Path, zone: Json, nr_orders: int) -> None:
    """Raise BadState for blocks that lie outside of their zone, are not aligned, or share a page."""
    name, start, pages = zone["name"], zone["start"], zone["pages"]
    taken: dict[int, int] = {}  # pfn: order
    for which, pfns in zone["lists"].items():
        order = int(which.partition(".")[0]) if which.partition(".")[0].isdecimal() else nr_orders
        if order >= nr_orders:
            raise BadState(f"{path}: zone {name}: a list {which!r}, expected orders below {nr_orders}")
        for pfn in pfns:
            if pfn % (1 << order) or not start <= pfn <= start + pages - (1 << order) or pfn in taken:
                raise BadState(
                    f"{path}: zone {name}: block {pfn:#x} on list {which!r}, expected each block once, aligned, and "
                    "in its zone"
                )
            taken[pfn] = order
    end = 0
    for pfn, order in sorted(taken.items()):
        if pfn < end:
            raise BadState(
                f"{path}: zone {name}: block {pfn:#x} lies in another one, expected each page once"
            )
        end = pfn + (1 << order)
    loose = set(zone.get("reported", ())) - taken.keys()
    if loose:
        raise BadState(f"{path}: zone {name}: block {min(loose):#x} is reported and on no list")
