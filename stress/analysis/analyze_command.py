"""`stress analyze`: what happened in a run, or in two, in the terminal and as a page."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from stress.analysis.log import open_run, warn_of_damage
from stress.analysis.perfetto import write_perfetto
from stress.analysis.report import write_report
from stress.analysis.summary import Summary, summarize
from stress.analysis.terminal import print_analysis
from stress.errors import EXIT_SUCCESS, BadArgument, CannotBeDone, one_line
from stress.system.files import check_writable, output_path, write_whole
from stress.system.terminal import console

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
        type=output_path,
        metavar="FILE",
        help=f"where the page goes (default: RUN/{REPORT_FILE}, for two runs RUN/{DIFFERENCE_FILE})",
    )
    parser.add_argument(
        "--perfetto",
        type=output_path,
        metavar="FILE",
        help="write RUN as a trace for ui.perfetto.dev; .gz packs it",
    )


def command_analyze(arguments: argparse.Namespace) -> int:
    """Analyze one run or two; the exit status says whether that was done, not how the runs ended."""
    runs = [run for run in (arguments.run, arguments.other) if run is not None]
    for option in ("report", "perfetto"):
        if getattr(arguments, option) is not None:
            check_writable(f"--{option}", getattr(arguments, option))
    summaries = [_summarize(run) for run in runs]
    if arguments.json:
        for summary in summaries:
            print(json.dumps(asdict(summary)))
    else:
        print_analysis(console(), summaries)
    sys.stdout.flush()
    for line in _write(arguments, runs, summaries):
        if not arguments.json:
            print(line)
    return EXIT_SUCCESS


def _write(arguments: argparse.Namespace, runs: list[Path], summaries: list[Summary]) -> Iterator[str]:
    """Write the trace and the page; yield a line on where each is."""
    trace, page = arguments.perfetto, arguments.report
    if trace is not None:
        write_whole("--perfetto", trace, lambda draft: write_perfetto(draft, runs[0]))
        yield f"trace {trace}, for ui.perfetto.dev"
    if page is not None:
        write_whole("--report", page, lambda draft: write_report(draft, summaries))
        yield f"report {page}"
        return
    page = runs[0] / (REPORT_FILE if len(runs) == 1 else DIFFERENCE_FILE)
    try:
        write_whole("report", page, lambda draft: write_report(draft, summaries))
        yield f"report {page}"
    except (BadArgument, CannotBeDone) as error:  # nobody asked for it; the tables are there
        print(
            f"stress: no page is written: {one_line(str(error))}; --report FILE chooses where",
            file=sys.stderr,
        )


def _summarize(run: Path) -> Summary:
    with open_run(run) as log:
        warn_of_damage(run)
        return summarize(log)
