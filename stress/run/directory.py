"""What a run leaves behind: parameters, versions, events and the summary, in a folder of its own.

    params.json     the parameters
    versions.json   this package, the interpreter, the machine
    events-*.ndjson one JSON object a line, as it happened (`stress.log.events`); .gz behind older files
    harness.ndjson  what the harness itself did: phases, samples, violations, notes, the verdict
    summary.json    the verdict and the figures, written last; a run without it did not end

A disk that fills up costs the log, never the run: records that cannot be written are counted, the run goes on to its
end, and its verdict is CANNOT DECIDE unless something was found: what was not kept proves nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from pagealloc.sync import Sync
from stress.errors import BadArgument, Verdict
from stress.log.recorder import Recorder
from stress.provenance import versions
from stress.run.summary import Summary
from stress.system.files import unwritten

SUMMARY_FILE = "summary.json"
VERDICT_LEVELS = {Verdict.SUCCESS: "info", Verdict.CANNOT_DECIDE: "warning", Verdict.FAILURE: "error"}


class RunDirectory:
    """An open run directory. Raises BadArgument when it cannot be begun, CannotBeDone when the disk is full."""

    def __init__(self, path: Path, sync: Sync, params: dict[str, object]) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise BadArgument(f"--run-dir: {path} is not empty, expected a new or an empty folder")
            self._write("params.json", params)
            self._write("versions.json", versions())
            self.recorder = Recorder(path, sync, params, versions()) if params["log"] == "all" else None
        except OSError as error:
            raise unwritten("--run-dir", path, error) from error

    def end_log(self, summary: Summary, *, judged: bool = True) -> None:
        """End the log, and take down in the summary what it lacks and, if it can be `judged`, what its judge says."""
        if self.recorder is not None:
            log = self.recorder.finish()
            if log.lost or log.error is not None:
                what = f"the log lacks {log.lost} records: {log.error or 'its buffers were full'}"
                summary.notes.append(what)
            if judged:
                summary.heed(log.judged, self.recorder.proofs)
            if log.error is not None:
                summary.lack(what)
        else:
            summary.notes.append("no log was kept: nothing but the run's own checks judged")

    def tell(self, level: str, event: str, **fields: object) -> None:
        """Tell in the harness's tale what the command line says, if there is one."""
        if self.recorder is not None:
            self.recorder.tell(level, event, **fields)

    def tell_end(self, summary: Summary) -> None:
        """Tell in the harness's tale what is printed of a run that has ended, and end the tale."""
        for note in summary.notes:
            self.tell("warning" if note.startswith("???") else "info", "note", text=note)
        self.tell(
            VERDICT_LEVELS[summary.verdict],
            "verdict",
            verdict=summary.verdict.value,
            violations=summary.violation_count,
            interrupted=summary.interrupted,
            judged_records=summary.judged_records,
            undecided=summary.undecided,
            next_step=summary.next_step,
        )
        if self.recorder is not None:
            self.recorder.close()

    def finish(self, summary: Summary) -> None:
        """Write the summary; whatever the disk refuses is told by the verdict, and never the end of it."""
        try:
            self._write(SUMMARY_FILE, asdict(summary))
        except OSError as error:
            what = f"no summary was kept: {self.path / SUMMARY_FILE}: {error.strerror}"
            summary.notes.append(what)
            summary.lack(what)

    def give_up(self, why: str) -> None:
        """End the log of a run that did not come about; there is no summary."""
        self.tell("error", "gave_up", text=why)
        if self.recorder is not None:
            self.recorder.finish()
            self.recorder.close()

    def _write(self, name: str, content: dict[str, object]) -> None:
        """Write a file whole or not at all."""
        path, draft = self.path / name, self.path / f"{name}.tmp"
        try:
            draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise


def default_path(sync: Sync) -> Path:
    """Return runs/DATE-TIME (UTC) below the folder of this moment, with a number behind it if that is taken."""
    stamp = datetime.fromtimestamp(sync.wall_clock(), UTC).strftime("%Y%m%d-%H%M%S")
    runs = Path("runs").absolute()
    path = runs / stamp
    number = 1
    while path.exists():
        number += 1
        path = runs / f"{stamp}-{number}"
    return path
