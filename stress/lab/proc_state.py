"""A guest's state as `/proc` prints it: `pagetypeinfo`, `buddyinfo`, `zoneinfo`, in one file or in several.

Only what a start state needs is read: free blocks by order and type, pageblocks by type, and each zone's place,
marks and per-CPU limits. Whatever else stands in a file is passed over, so a file may hold several of the three.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from pagealloc.mmzone import MIGRATE_MOVABLE
from stress.errors import BadInput
from stress.formats.procfs import MIGRATETYPE_NAMES
from stress.system.files import READ_BYTES_MAX

TYPE_ROW = re.compile(r"Node\s+(\d+), zone\s+(\w+), type\s+(\w+)\s+(.*)")
ZONE_ROW = re.compile(r"Node\s+(\d+), zone\s+(\w+)\s*(.*)")
NUMBER = re.compile(r">?\s*(\d+)")
ZONE_LIMITS = (
    "min",
    "low",
    "high",
    "spanned",
    "present",
    "managed",
    "start_pfn:",
    "free",
)
PAGE_SET_LIMITS = ("count:", "high:", "batch:")


class BadState(BadInput):
    """A file is no state of a guest; the message names it, the place and what was expected."""


@dataclass(slots=True)
class PageSetState:
    """What one CPU's lists hold of a zone, and may hold. In pages."""

    count: int = 0
    high: int = 0
    batch: int = 0


@dataclass(slots=True)
class ZoneState:
    """What `/proc` told of one zone. Empty where nothing was told."""

    name: str
    free: dict[int, list[int]] = field(default_factory=dict)  # blocks by order, for each migratetype
    blocks: list[int] = field(default_factory=list)  # pageblocks by migratetype
    limits: dict[str, int] = field(
        default_factory=dict
    )  # pages: min, low, high, spanned, managed, start_pfn ...
    page_sets: list[PageSetState] = field(default_factory=list)  # by CPU

    def free_pages(self) -> int:
        """Return the free pages on the lists."""
        return sum(count << order for counts in self.free.values() for order, count in enumerate(counts))


@dataclass(slots=True)
class ProcState:
    """The populated zones of a guest, and what the text gives away about its kernel."""

    source: str
    zones: dict[str, ZoneState] = field(default_factory=dict)
    types_known: bool = False  # from pagetypeinfo; buddyinfo knows orders only
    promo_mark: bool = False  # zoneinfo prints a fourth mark: a kernel of 6.12's time

    def cpus(self) -> int:
        """Return how many CPUs zoneinfo tells of; 0 without it."""
        return max((len(zone.page_sets) for zone in self.zones.values()), default=0)

    def nr_orders(self) -> int:
        """Return how many orders the lists have; 0 without lists."""
        rows = (len(counts) for zone in self.zones.values() for counts in zone.free.values())
        return max(rows, default=0)

    def zone(self, name: str) -> ZoneState:
        """Return a zone's state, new if it was not met yet."""
        return self.zones.setdefault(name, ZoneState(name))


def read_text(path: Path) -> str:
    """Read a text file, packed or not. Raises BadState when it cannot be read."""
    try:
        with path.open("rb") as file:
            raw = file.read(READ_BYTES_MAX + 1)
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.GzipFile(fileobj=BytesIO(raw)).read(READ_BYTES_MAX + 1)
    except OSError as error:
        raise BadState(f"{path}: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise BadState(f"{path}: a broken gzip file ({error})") from error
    if len(raw) > READ_BYTES_MAX:
        raise BadState(f"{path}: expected {READ_BYTES_MAX >> 20} MiB of text at most")
    return raw.decode("utf-8", "replace")


def read_state(paths: Iterable[Path], *, lists_known: bool = False) -> ProcState:
    """Read a state from files that hold pagetypeinfo, buddyinfo or zoneinfo. Raises BadState.

    Where exact lists are known already, marks and limits are all that is expected.
    """
    paths = list(paths)
    state = ProcState(", ".join(path.name for path in paths))
    for path in paths:
        _read(read_text(path), path, state)
    known = {name: zone for name, zone in state.zones.items() if zone.free}
    if not known and not lists_known:
        raise BadState(f"{state.source}: no free blocks in it, expected pagetypeinfo or buddyinfo text")
    _check(state)
    return state


def check_zoneinfo(path: Path) -> None:
    """Raise BadState for a file that tells of no zone as zoneinfo does."""
    if re.search(r"^Node \d+, zone +\w+$", read_text(path), re.MULTILINE) is None:
        raise BadState(f"--zoneinfo: {path}: no zone in it, expected zoneinfo text")


def _read(text: str, path: Path, state: ProcState) -> None:
    zone: ZoneState | None = None
    blocks_of: list[str] = []  # migratetypes of the pageblock table that was begun
    rows_without = re.search(r"^Page block order:", text, re.MULTILINE) is None
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("Number of blocks type"):
            blocks_of = line.split()[4:]
            state.types_known = True
        elif match := TYPE_ROW.match(line):
            _type_row(match, state, path, number)
        elif match := ZONE_ROW.match(line):
            numbers = [int(found) for found in NUMBER.findall(match[3])]
            if not match[3].strip():
                zone = state.zone(match[2])  # a section of zoneinfo
            elif blocks_of:
                if len(numbers) != len(blocks_of):
                    raise BadState(f"{path}: line {number}: {len(numbers)} counts, expected {len(blocks_of)}")
                state.zone(match[2]).blocks = _by_type(blocks_of, numbers, path, number)
            elif rows_without and not state.types_known:
                state.zone(match[2]).free.setdefault(MIGRATE_MOVABLE, numbers)  # buddyinfo alone
        elif zone is not None:
            _limit(line.split(), zone, state)
    if not rows_without and not blocks_of:
        raise BadState(f"{path}: pagetypeinfo ends early, expected its table of pageblocks by type")


def _type_row(match: re.Match[str], state: ProcState, path: Path, number: int) -> None:
    counts = [int(found) for found in NUMBER.findall(match[4])]
    names = [name.lower() for name in MIGRATETYPE_NAMES]
    if match[3] == "CMA" and not any(counts):
        return
    if match[3].lower() not in names:
        raise BadState(f"{path}: line {number}: type {match[3]}, expected {', '.join(MIGRATETYPE_NAMES)}")
    free = state.zone(match[2]).free
    if not state.types_known:
        free.clear()  # what buddyinfo said before is less
        state.types_known = True
    others = {len(row) for row in free.values()}
    if not counts or (others and len(counts) not in others):
        expected = f"{others.pop()}" if others else "a count for each order"
        raise BadState(f"{path}: line {number}: {len(counts)} counts, expected {expected}")
    free[names.index(match[3].lower())] = counts


def _by_type(names: list[str], numbers: list[int], path: Path, number: int) -> list[int]:
    known = [name.lower() for name in MIGRATETYPE_NAMES]
    blocks = [0] * len(known)
    for name, count in zip(names, numbers, strict=True):
        if name.lower() in known:
            blocks[known.index(name.lower())] = count
        elif count:
            raise BadState(
                f"{path}: line {number}: pageblocks of type {name}, expected {', '.join(MIGRATETYPE_NAMES)}"
            )
    return blocks


def _limit(words: list[str], zone: ZoneState, state: ProcState) -> None:
    if words[:2] == ["pages", "free"]:
        words = words[1:]
    if len(words) != 2 or not words[1].isdigit():
        return
    name, value = words[0], int(words[1])
    if name == "promo":
        state.promo_mark = True
    elif name == "cpu:":
        zone.page_sets.append(PageSetState())
    elif zone.page_sets and name in PAGE_SET_LIMITS:  # "high" without a colon is the zone's mark
        setattr(zone.page_sets[-1], name[:-1], value)
    elif name in ZONE_LIMITS:
        zone.limits.setdefault(name.rstrip(":"), value)


def _check(state: ProcState) -> None:
    """Complain of a state that was cut off."""
    orders = {len(counts) for zone in state.zones.values() for counts in zone.free.values()}
    if len(orders) > 1:
        raise BadState(
            f"{state.source}: zones with {' and '.join(map(str, sorted(orders)))} orders, expected one number"
        )
    if not state.types_known:
        return
    types = len(next(iter(state.zones.values())).free) if state.zones else 0
    for zone in state.zones.values():
        if not zone.free and not zone.blocks:
            continue
        if len(zone.free) != types or not zone.blocks:
            raise BadState(
                f"{state.source}: pagetypeinfo is cut off at zone {zone.name}: {len(zone.free)} types"
                f"{'' if zone.blocks else ' and no row of pageblocks'}, expected {types} types and their pageblocks"
            )


def preset_of(state: ProcState) -> str:
    """Say which kernel a state is of, as far as its text gives that away: 6.12's zoneinfo has a mark more."""
    return "v6.12" if state.promo_mark else "v6.1"
