"""A guest that reported to our own device (`stress guest`, `stress serve-balloon`): its passes as a recording.

Its host sees the reports and nothing of the load, so only the passes are recorded; a prediction beside them is of the
start state that the options give.
"""

from __future__ import annotations

from pathlib import Path

from pagealloc.mmzone import PAGE_SHIFT
from stress.errors import BadInput
from stress.lab.recording import PAGEBLOCK_ORDER, RecordedPass, Recording
from stress.log.events import GuestReport, PassBegin, ReportBegin
from stress.log.files import LogDamage
from stress.log.reader import LogReader

NS_PER_S = 1e9


def read_guest_log(run: Path) -> Recording:
    """Read the passes of a run directory. Raises BadInput for a log without a guest's reports, or a damaged one."""
    reader = LogReader(run)
    recording = Recording(run.name, 0.0, 0.0, smallest_order=PAGEBLOCK_ORDER)
    begun_s: dict[int, float] = {}  # batches that were not answered yet
    try:
        for record in reader:
            t_s = recording.end_s = record.t / NS_PER_S
            if isinstance(record, PassBegin):
                recording.passes.append(RecordedPass(t_s, t_s))
            elif isinstance(record, ReportBegin):
                begun_s[record.batch] = t_s
            elif isinstance(record, GuestReport) and record.batch in begun_s:
                latest = recording.passes[-1]
                latest.sizes.append(len(record.ranges))
                latest.blocks += len(record.ranges)
                latest.pages += sum(length for _, length in record.ranges) >> PAGE_SHIFT
                latest.calls_s.append(t_s - begun_s.pop(record.batch))
                latest.end_s = t_s
    except LogDamage as damage:
        raise BadInput(f"{run}: {damage}") from damage
    if not any(each.blocks for each in recording.passes):
        raise BadInput(f"{run}: no guest reported anything, expected a run of stress guest or serve-balloon")
    recording.begin_s = recording.passes[0].t_s
    return recording
