"""Replay recorded runs of the kernel's own allocator and reporting code, and compare entry for entry.

A case is a gzip file of JSON lines: a header, then one operation a line with its result and a digest of the
whole state after it. The same operations go through this project's zones and its reporting worker; after
each one the results and the digests must be equal. There is no second implementation here: the replayer
only translates operations into calls, and the state into the recordings' form.

What other CPUs did while the kernel's reporter had a batch is recorded with the batch, and carried out here
inside the reporter, where no lock is held.
"""

from __future__ import annotations

from pagealloc.errors import BadPage
from pagealloc.inventory import block_at
from pagealloc.mmzone import (
    ALLOC_HIGHATOMIC,
    ALLOC_KSWAPD,
    ALLOC_MIN_RESERVE,
    ALLOC_NOFRAGMENT,
    ALLOC_NON_BLOCK,
    ALLOC_OOM,
    MIGRATE_ISOLATE,
    MIGRATE_PCPTYPES,
    WMARK_HIGH,
    WMARK_LOW,
    WMARK_MIN,
    Layout,
)
from pagealloc.page_flags import BUDDY, IN_FLIGHT
from pagealloc.revision import Revision
from pagealloc.sync_real import RealSync
from pagealloc.zone import Zone
from stress.errors import quoted
from stress.golden.cases import CorruptCase, Json
from stress.golden.state import digest, load_zone, zone_state
from workers.page_reporting import Batch, DeviceBusy, PageReporting, PageReportingDevice
from workers.scatterlist import Scatterlist
from workers.workqueue import Workqueue

EBUSY = -16
ZONE_PAGES_MAX = 1 << 24  # 64 GiB: what is recorded is far smaller, and a damaged file may say anything
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


class _ReportError(Exception):
    """Stands for the error number that the recorded device returned."""


class _Refused(Exception):
    """The recording harness would not carry this operation out; nothing changes."""


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
            raise CorruptCase(f"unknown operation {quoted(op['op'])}")
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
            if not 0 <= spec["pages"] <= ZONE_PAGES_MAX:
                raise CorruptCase(f"a zone of {quoted(spec['pages'])} pages, expected 0 .. {ZONE_PAGES_MAX}")
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
        # Since v6.10 a free goes a pageblock at a time, whatever their types.
        whole = not self.revision.list_type_is_block_type and order > zone.layout.pageblock_order
        if whole and MIGRATE_ISOLATE in self._types_of(zone, pfn, order):
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
        device.order = op.get("order", 0) or None  # 0 meant unset before v7.1
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
        pfn, move = op["pfn"], bool(op.get("move", 1))
        zone = self._zone_of(pfn)
        if zone is None or zone.pageblock_migratetype(pfn) >= MIGRATE_PCPTYPES:
            raise _Refused("no pageblock of an ordinary type")
        if self.revision.list_type_is_block_type:
            self._refuse_parting(zone, pfn, move=move)
        return {"ok": True, "moved": zone.set_block_type(pfn, op["mt"], move=move)}

    def _refuse_parting(self, zone: Zone, pfn: int, *, move: bool) -> None:
        """Refuse to retype a pageblock if its free pages would be left on lists of another type."""
        if self._larger_page(zone, pfn, BUDDY, IN_FLIGHT):
            raise _Refused("part of a larger page")
        start = pfn & -zone.layout.pageblock_nr_pages
        whole = range(start, start + zone.layout.pageblock_nr_pages)
        pfns = range(max(start, zone.start_pfn), min(whole.stop, zone.end_pfn))
        if move and pfns != whole:
            raise _Refused("no whole pageblock, so nothing would move")
        if not move and any(block_at(zone, at)[2] == BUDDY for at in pfns):
            raise _Refused("free pages would stay on the old lists")

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
        pfn = op["pfn"]
        zone = self._whole_block(pfn)
        head, order, kind = block_at(zone, pfn)
        if head == pfn and kind == BUDDY and order > zone.layout.pageblock_order:
            # The kernel would put the whole larger page on the new type's list, with pageblocks still isolated.
            buddy = pfn ^ (1 << order)
            if zone.page_is_buddy(buddy, order) and zone.pageblock_migratetype(buddy) != MIGRATE_ISOLATE:
                raise _Refused("begins a larger isolated page whose buddy is free")
        if not zone.unisolate_pageblock(pfn, op["mt"]):
            raise _Refused("the pageblock is not isolated")
        return {"ok": True}

    def _op_unreserve_highatomic(self, op: Json) -> Json:
        force = bool(op.get("force", 0))
        return {"unreserved": self._zone(op).unreserve_highatomic(op["mt"], force=force)}

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
        kinds = (IN_FLIGHT,) if self.revision.list_type_is_block_type else (BUDDY, IN_FLIGHT)
        if self._larger_page(zone, pfn, *kinds):
            raise _Refused("part of a larger page")
        return zone

    @staticmethod
    def _larger_page(zone: Zone, pfn: int, *kinds: int) -> bool:
        """Whether a page larger than a pageblock, and of one of these kinds, holds `pfn`."""
        _, order, kind = block_at(zone, pfn)
        return kind in kinds and order > zone.layout.pageblock_order
