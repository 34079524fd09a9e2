"""The harness's own tale in `harness.ndjson`, told record by record through structlog.

What happens to pages is a hundred thousand records a second, and is encoded and written as it comes (`writer`). What
the harness itself does is a few a second: phases, samples, violations, and what the command line says: that it was
interrupted, the notes, the verdict. Whoever reads or ships structured logs gets those with a level and the time of day
at which they were told, without wading through the pages.

It is told in the writer's process: structlog imports greenlet where it finds it, and that gives a free-threaded
interpreter its GIL back, which the threads under test must never meet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

TALE_FILE = "harness.ndjson"

# The events of the harness, and how loudly each is told.
LEVELS = {
    "phase_begin": "info",
    "phase_end": "info",
    "sample": "debug",
    "violation": "error",
    "rest": "info",
    "run_end": "info",
}


class Tale:
    """The harness's records of one run. What the disk refuses is left untold: the log itself counts what it lacks."""

    def __init__(self, folder: Path) -> None:
        import structlog  # noqa: PLC0415 - for the process that tells, not for all who import this module

        self._path = folder / TALE_FILE
        self._logger = structlog.wrap_logger(
            self,
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
        )

    def tell(self, event: str, seconds: float, fields: dict[str, Any]) -> None:
        """Tell of an event of the harness, `seconds` after the run began; of others nothing."""
        level = LEVELS.get(event)
        if level is not None:
            self.say(level, event, seconds, fields)

    def say(self, level: str, event: str, seconds: float, fields: dict[str, Any]) -> None:
        """Tell of anything, at a level of structlog's."""
        getattr(self._logger, level)(event, seconds=round(seconds, 6), **fields)

    def _write(self, line: str) -> None:
        """Write a rendered record (structlog calls its logger by the name of the level)."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError:
            return

    debug = info = warning = error = _write
