"""`stress analyze`: what happened in a run, or in two, in the terminal and as a page."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from stress.analysis.log import open_run
from stress.analysis.perfetto import write_perfetto
from stress.analysis.report import write_report
from stress.analysis.summary import Summary, summarize
from stress.analysis.terminal import print_analysis
from stress.errors import BadArgument

REPORT_FILE = "report.html"
DIFFERENCE_FILE = "difference.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `stress analyze` can be told."""
    parser.set_defaults(command=command_analyze)
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("other", type=Path, nargs="?", metavar="RUN2", help="another one, to stand beside it")
    parser.add_argument("--json", action="store_true", help="print one JSON object a run and nothing else")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help=f"where the page goes (default: RUN/{REPORT_FILE}, for two runs RUN/{DIFFERENCE_FILE})",
    )
    parser.add_argument(
        "--perfetto", type=Path, metavar="FILE", help="write RUN as a trace for ui.perfetto.dev; .gz packs it"
    )


def command_analyze(arguments: argparse.Namespace) -> int:
    """Analyze one run or two; the exit status says whether that was done, not how the runs ended."""
    runs = [run for run in (arguments.run, arguments.other) if run is not None]
    summaries = [_summarize(run) for run in runs]
    report = arguments.report or runs[0] / (REPORT_FILE if len(runs) == 1 else DIFFERENCE_FILE)
    _write("--report", report, lambda: write_report(report, summaries))
    if arguments.perfetto is not None:
        _write("--perfetto", arguments.perfetto, lambda: write_perfetto(arguments.perfetto, runs[0]))
    if arguments.json:
        for summary in summaries:
            print(json.dumps(asdict(summary)))
        return 0
    console = Console()
    print_analysis(console, summaries)
    console.print(f"\nreport {report}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _write(option: str, path: Path, write: Callable[[], object]) -> None:
    try:
        write()
    except OSError as error:
        raise BadArgument(f"{option}: {path}: {error.strerror}") from error


def _summarize(run: Path) -> Summary:
    with open_run(run) as log:
        return summarize(log)
