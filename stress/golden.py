"""Replay recorded runs of the kernel's own allocator and reporting code, and compare entry for entry.

A case is a gzip file of JSON lines: a header, then one operation a line with its result and a digest of the
whole state after it. The same operations go through this project's zones and its reporting worker; after
each one the results and the digests must be equal. There is no second implementation here: the replayer
only translates operations into calls, and the state into the recordings' form.

What other CPUs did while the kernel's reporter had a batch is recorded with the batch, and carried out here
inside the reporter, where no lock is held.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagealloc.errors import BadPage
from pagealloc.mmzone import (
    ALLOC_HIGHATOMIC,
    ALLOC_KSWAPD,
    ALLOC_MIN_RESERVE,
    ALLOC_NOFRAGMENT,
    ALLOC_NON_BLOCK,
    ALLOC_OOM,
    MIGRATE_ISOLATE,
    MIGRATE_PCPTYPES,
    MIGRATE_TYPES,
    WMARK_HIGH,
    WMARK_LOW,
    WMARK_MIN,
    Layout,
)
from pagealloc.page_flags import ALLOCATED, BUDDY, IN_FLIGHT, KIND_MASK, TAIL
from pagealloc.revision import PRESETS, Revision
from pagealloc.sync_real import RealSync
from pagealloc.zone import Zone
from workers.page_reporting import Batch, DeviceBusy, PageReporting, PageReportingDevice, Scatterlist
from workers.workqueue import Workqueue

Json = dict[str, Any]

EBUSY = -16
WMARKS = {"min": WMARK_MIN, "low": WMARK_LOW, "high": WMARK_HIGH}
ALLOC_FLAGS = {
    "nofragment": ALLOC_NOFRAGMENT,
    "kswapd": ALLOC_KSWAPD,
    "highatomic": ALLOC_HIGHATOMIC,
    "non_block": ALLOC_NON_BLOCK,
    "min_reserve": ALLOC_MIN_RESERVE,
    "oom": ALLOC_OOM,
}
NR_DEVICES = 2


class CorruptCase(Exception):
    """A file is not a recorded case; the message names the file, the place and what was expected."""


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


class _ReportError(Exception):
    """Stands for the error number that the recorded device returned."""


class _Refused(Exception):
    """The recording harness would not carry this operation out; nothing changes."""


def digest(state: Json) -> str:
    """Identify a state: the first 8 hex digits of the SHA-256 of its canonical JSON."""
    text = json.dumps(state, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def zone_state(zone: Zone) -> Json:
    """Put a zone into the recordings' form."""
    lists = {}
    reported = []
    for order, nr_free in enumerate(zone.nr_free):
        for migratetype in range(MIGRATE_TYPES if nr_free else 0):
            pfns = list(zone.list_pfns(order, migratetype))
            if pfns:
                lists[f"{order}.{migratetype}"] = pfns
                reported += [pfn for pfn in pfns if zone.page_reported(pfn - zone.base_pfn)]
    return {
        "free": zone.nr_free_pages,
        "boost": zone.watermark_boost,
        "highatomic": zone.nr_reserved_highatomic,
        "isolate": zone.nr_isolate_pageblock,
        "nr_free": list(zone.nr_free),
        "lists": lists,
        "reported": sorted(reported),
        "blocks": "".join(map(str, zone.block_types())),
    }


class Replayer:
    """One machine that carries out recorded operations; it is its device's reporter too."""

    def __init__(self, revision: Revision) -> None:
        self.revision = revision
        self.sync = RealSync()
        self.zones: list[Zone] = []
        self.reporting: PageReporting
        self.devices: list[PageReportingDevice] = []
        self._no_memory = False
        self._script: list[Json] = []
        self._reports: list[Json] = []

    def state(self) -> Json:
        """Return the whole state in the recordings' form."""
        device = self.reporting.device
        return {
            "zones": [zone_state(zone) for zone in self.zones],
            "registered": self.devices.index(device) if device is not None else None,
            "state": self.reporting.state_name(),
            "queued": self.reporting.pending(),
            "running": self.reporting.running(),
        }

    def apply(self, op: Json) -> Json:
        """Carry out one operation and return its result; `run_worker` brings digests of its inside along."""
        handler = getattr(self, f"_op_{op['op']}", None)
        if handler is None:
            raise CorruptCase(f"unknown operation {op['op']!r}")
        try:
            result: Json = handler(op)
        except _Refused as refused:
            return {"refused": str(refused)}
        return result

    # -- one method for each operation -------------------------------------------------------------------

    def _op_init(self, op: Json) -> Json:
        layout = Layout(nr_orders=op["max_order"], pageblock_order=op["pageblock_order"])
        self.zones = []
        for spec in op["zones"]:
            zone = Zone(
                spec["name"],
                spec["start"],
                spec["pages"],
                layout=layout,
                revision=self.revision,
                sync=self.sync,
                zones_below=self.zones,
                watermark_boost_factor=op.get("watermark_boost_factor", 0),
            )
            zone.set_watermarks(spec["min"], spec["low"], spec["high"])
            zone.mobility_disabled = bool(op.get("mobility_disabled", 0))
            zone.memblock_free_all()
            self.zones.append(zone)
        workqueue = Workqueue(self.sync, "golden")  # not started: the recording says when the work runs
        self.reporting = PageReporting(
            self.zones, self.revision, self.sync, workqueue, alloc_scatterlist=self._alloc_scatterlist
        )
        self.devices = [
            PageReportingDevice(self, capacity=op["capacity"], name=str(number))
            for number in range(NR_DEVICES)
        ]
        return {"ok": True, "flavour": self.revision.name}

    def _op_dump_state(self, op: Json) -> Json:
        del op
        return {"ok": True}

    def _op_alloc(self, op: Json) -> Json:
        zone = self._zone(op)
        alloc_flags = 0
        for name in op.get("flags") or ():
            alloc_flags |= ALLOC_FLAGS[name]
        wmark = op.get("wmark")
        if wmark is not None:
            mark = zone.wmark_pages(WMARKS[wmark])
            if not zone.zone_watermark_ok(op["order"], mark, 0, alloc_flags):
                return {"fail": "watermark"}
        pfn = zone.rmqueue_buddy(op["order"], op["mt"], alloc_flags)
        if pfn < 0:
            return {"fail": "no_pages"}
        if op.get("lru"):
            zone.lru_add(pfn)
        return {"pfn": pfn}

    def _op_free(self, op: Json) -> Json:
        pfn, order = op["pfn"], op["order"]
        zone = self._zone_of(pfn)
        if zone is None:
            raise _Refused("no zone has this pfn")
        if order > zone.layout.pageblock_order and MIGRATE_ISOLATE in self._types_of(zone, pfn, order):
            raise _Refused("spans an isolated block")
        try:
            zone.claim_range(pfn, order)
        except BadPage as error:
            raise _Refused(str(error)) from error
        zone.free_pages_ok(pfn, order, op.get("fpi", 0))
        return {"ok": True}

    def _op_register(self, op: Json) -> Json:
        if self.reporting.leaving is not None:
            raise _Refused("an unregister waits for the pass to end")
        device = self.devices[op.get("dev", 0)]
        device.order = op.get("order", 0)
        try:
            return {"err": 0, "order": self.reporting.register(device)}
        except DeviceBusy:
            return {"err": EBUSY}

    def _op_unregister(self, op: Json) -> Json:
        device = self.devices[op.get("dev", 0)]
        if self.reporting.running():
            # Another CPU's unregister: it waits for this very pass, so only its first half can happen now.
            self.reporting.begin_unregister(device)
        else:
            self.reporting.unregister(device)
        return {"ok": True}

    def _op_run_worker(self, op: Json) -> Json:
        self._script = list(op.get("reports") or ())
        self._no_memory = bool(op.get("no_memory", 0))
        self._reports = []
        if not self.reporting.run_now():
            return {"ran": False}
        requeued = self.reporting.pending()
        if self.reporting.leaving is not None:
            self.reporting.finish_unregister()
        unused = len(self._script)
        return {"ran": True, "reports": self._reports, "requeued": requeued, "unused": unused}

    def _op_set_block_mt(self, op: Json) -> Json:
        zone = self._zone_of(op["pfn"])
        if zone is None or zone.pageblock_migratetype(op["pfn"]) >= MIGRATE_PCPTYPES:
            raise _Refused("no pageblock of an ordinary type")
        return {"ok": True, "moved": zone.set_block_type(op["pfn"], op["mt"], move=bool(op.get("move", 1)))}

    def _op_set_wmark(self, op: Json) -> Json:
        self._zone(op).set_watermarks(op["min"], op["low"], op["high"])
        return {"ok": True}

    def _op_set_boost(self, op: Json) -> Json:
        self._zone(op).set_watermark_boost(op["pages"])
        return {"ok": True}

    def _op_isolate(self, op: Json) -> Json:
        zone = self._whole_block(op["pfn"])
        return {"err": 0 if zone.isolate_pageblock(op["pfn"]) else EBUSY}

    def _op_unisolate(self, op: Json) -> Json:
        zone = self._whole_block(op["pfn"])
        if not zone.unisolate_pageblock(op["pfn"], op["mt"]):
            raise _Refused("the pageblock is not isolated")
        return {"ok": True}

    def _op_load_state(self, op: Json) -> Json:
        for zone, state in zip(self.zones, op["zones"], strict=True):
            load_zone(zone, state)
        return {"ok": True}

    # -- helpers -------------------------------------------------------------------------------------------

    def report(self, zone: Zone, batch: Batch) -> None:
        """Do what other CPUs did during this call, then end it as the recorded device did."""
        entry = self._script.pop(0) if self._script else {}
        error = entry.get("err", 0)
        state = self.state()
        nested: list[Json] = []
        self._reports.append(
            {
                "zone": zone.number,
                "batch": [[block.pfn, block.order] for block in batch],
                "digest": digest(state),
                "state": state,
                "nested": nested,
                "err": error,
            }
        )
        for op in entry.get("ops") or ():
            result = self.apply(op)
            state = self.state()
            nested.append({"res": result, "digest": digest(state), "state": state})
        if error:
            raise _ReportError(error)

    def _alloc_scatterlist(self, capacity: int) -> Scatterlist:
        if self._no_memory:
            raise MemoryError
        return Scatterlist(capacity)

    def _zone(self, op: Json) -> Zone:
        number = op["zone"]
        if not 0 <= number < len(self.zones):
            raise CorruptCase(f"zone {number} of {len(self.zones)}")
        return self.zones[number]

    def _zone_of(self, pfn: int) -> Zone | None:
        return next((zone for zone in self.zones if zone.start_pfn <= pfn < zone.end_pfn), None)

    @staticmethod
    def _types_of(zone: Zone, pfn: int, order: int) -> list[int]:
        step = zone.layout.pageblock_nr_pages
        return [
            zone.pageblock_migratetype(p) for p in range(pfn, min(pfn + (1 << order), zone.end_pfn), step)
        ]

    def _whole_block(self, pfn: int) -> Zone:
        """Return the zone of a pageblock that can be isolated by itself."""
        zone = self._zone_of(pfn)
        if zone is None or pfn + zone.layout.pageblock_nr_pages > zone.end_pfn:
            raise _Refused("no whole pageblock")
        head, order = zone.block_of(pfn - zone.base_pfn)
        kind = zone.state[head] & KIND_MASK
        if kind in (BUDDY, IN_FLIGHT) and order > zone.layout.pageblock_order:
            raise _Refused("part of a larger page")
        return zone


def load_zone(zone: Zone, state: Json) -> None:
    """Give a zone the lists, flags and pageblock types of a recorded state; all other pages are allocated."""
    for order in range(zone.layout.nr_orders):
        for migratetype in range(MIGRATE_TYPES):
            for index in list(zone.free_list(order, migratetype)):
                zone.del_page_from_free_list(index, order)
    first, behind = zone.start_pfn - zone.base_pfn, zone.end_pfn - zone.base_pfn
    zone.state[first:behind] = bytes([ALLOCATED]) * (behind - first)
    zone.nr_free_pages = 0
    for name, pfns in state["lists"].items():
        order, migratetype = map(int, name.split("."))
        if not (0 <= order < zone.layout.nr_orders and 0 <= migratetype < MIGRATE_TYPES):
            raise CorruptCase(f"a list {name!r}")
        for pfn in pfns:
            index = pfn - zone.base_pfn
            zone.state[index : index + (1 << order)] = bytes([TAIL]) * (1 << order)
            zone.add_to_free_list_tail(index, order, migratetype)
            zone.nr_free_pages += (1 << order) if migratetype != MIGRATE_ISOLATE else 0
    for pfn in state["reported"]:
        zone.set_reported(pfn)
    types = bytes(map(int, state["blocks"]))
    start = first >> zone.layout.pageblock_order
    zone.pageblock_types[start : start + len(types)] = types


# -- files ---------------------------------------------------------------------------------------------------


def read_case(path: Path) -> tuple[Json, list[Json]]:
    """Read a case: its header and its operation lines. Raises CorruptCase, naming file and line."""
    lines: list[Json] = []
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
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
        raise CorruptCase(f"{path}: flavour {header['flavour']!r} is none of {known}")
    if header["ops"] != len(operations):
        raise CorruptCase(f"{path}: {len(operations)} operations, the header promises {header['ops']}")
    return header, operations


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
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, AssertionError) as error:
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
