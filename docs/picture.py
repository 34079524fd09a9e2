"""Draw docs/live-view.svg: one moment of a real run, as its live view shows it on a terminal.

python docs/picture.py
"""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console

from pagealloc.sync_real import RealSync
from stress.run.conductor import StressRun
from stress.run.params import RunParams
from stress.run.status import Status
from stress.run.view import picture
from workers.reporters import load_reporter

WIDTH = 82
WARM_S = 2.0  # by then the run has a past


def busiest(statuses: list[Status]) -> Status:
    """Return the moment with the most to see: no kind of memory is scarce in the largest zone."""

    def least(status: Status) -> float:
        zone = status.zones[-1]
        return min(zone.allocated, zone.in_flight * 2, max(0, zone.free - zone.reported), zone.reported)

    return max((status for status in statuses if status.seconds > WARM_S), key=least)


def main() -> None:
    """Run for eight seconds, and keep the picture of one of them."""
    statuses: list[Status] = []
    sync = RealSync()
    params = RunParams(reporter_sleep_s=(0.01, 0.03))
    summary = StressRun(params, sync, load_reporter(params.reporter, sync), statuses.append).run()
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(picture(busiest(statuses), WIDTH))
    svg = console.export_svg(title="python -m stress run", unique_id="live")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # nothing is fetched from elsewhere
    path = Path(__file__).with_name("live-view.svg")
    path.write_text(svg.replace("Fira Code, monospace", "monospace") + "\n", encoding="utf-8")
    print(f"{path.name}: {summary.verdict}")


if __name__ == "__main__":
    main()
