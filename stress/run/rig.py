"""The machine under test: memory, worker, device and manners, put together for one run and taken apart after it."""

from __future__ import annotations

from pathlib import Path
from traceback import extract_tb

from pagealloc.memory import Memory
from pagealloc.ram import RamKind
from pagealloc.revision import PRESETS
from pagealloc.sync import Sync
from pagealloc.tracepoints import Trace
from stress.log.recorder import Recorder
from stress.run.ledger import CheckedReporter, Ledger
from stress.run.manners import Manners
from stress.run.params import RunParams
from stress.run.reach import Reach
from stress.run.violations import Violations
from workers.errors import describe_error
from workers.page_reporting import PageReporting, PageReportingDevice, Reporter, ReporterStuck
from workers.reporters import close_reporter, start_reporter
from workers.workqueue import Workqueue


def _no_trace(event: str, /, *fields: object) -> None:
    """Let an event go unrecorded."""


class Rig:
    """What a run is made of. Nothing moves before `start`; `recorder` keeps the log."""

    def __init__(
        self, params: RunParams, sync: Sync, reporter: Reporter, recorder: Recorder | None = None
    ) -> None:
        self.params = params
        self.sync = sync
        self._recorder = recorder
        self._reporter = reporter
        self.trace: Trace = recorder.trace if recorder is not None else _no_trace
        self.violations = Violations(sync, lambda text: self.trace("violation", text))
        ram: RamKind = "memfd" if params.ram == "memfd" else "anonymous"
        self.memory = Memory(
            params.zone_specs(),
            layout=params.layout(),
            revision=PRESETS[params.preset],
            sync=sync,
            ram=ram,
            min_free_kbytes=params.min_free_kbytes,
            cpus=params.cpus,
        )
        self.ledger = Ledger(self.memory, sync, self.violations)
        self.manners = Manners(reporter, params, sync, self.violations)
        self.host = CheckedReporter(self.manners, self.ledger, self.trace)
        self.device = PageReportingDevice(
            self.host,
            order=params.order,
            capacity=params.capacity,
            name=params.reporter,
        )
        self.workqueue = Workqueue(sync, "page_reporting")
        self.reporting = PageReporting(
            self.memory.zones, self.memory.revision, sync, self.workqueue, delay_s=params.delay
        )
        order = self.memory.layout.pageblock_order if params.order is None else params.order
        self.reach = Reach(order, params.capacity)
        self._closed = False  # whether the reporter was told that the run is over

    def start(self) -> None:
        """Start the reporter and the worker, and register the device. Raises ReporterError: there is no run then."""
        start_reporter(self._reporter, self.memory)
        if self._recorder is not None:
            self._recorder.attach(self.memory, self.reporting)
        self.workqueue.start()
        self.reporting.register(self.device)

    def release(self) -> None:
        """Let lost batches come back, and the reporter end: no batch is handed over any more."""
        self.manners.release()
        if not self._closed:
            self._closed = True
            try:
                close_reporter(self._reporter)
            except BaseException as error:  # nobody else's: this thread is the run's own
                self.violations.add(describe_error(error))

    def unregister(self, patience_s: float) -> ReporterStuck | None:
        """Part with the device; returns what says why not when it does not leave within `patience_s`."""
        try:
            self.reporting.unregister(self.device, patience_s)
        except ReporterStuck as stuck:
            return stuck
        return None

    def note_worker_death(self) -> None:
        """Name the worker's death before whatever follows from it."""
        failure = self.workqueue.failure
        if failure is not None:
            where = extract_tb(failure.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}, in {where.name}"
            self.violations.add(f"the reporting worker died: {type(failure).__name__}: {failure} ({place})")
