"""`python -m stress bench`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from stress.bench import hypervisor, reporting, throughput, tracing, virtual_time
from stress.bench.chart import check_chart, write_chart
from stress.bench.growth import growth
from stress.bench.measure import QUICK, Effort, Row
from stress.bench.peers import Present, find_peers
from stress.bench.table import Results, describe_machine, markdown, show
from stress.errors import EXIT_SUCCESS
from stress.system.files import check_writable, write_whole

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.set_defaults(command=command_bench)
    parser.add_argument(
        "--quick", action="store_true", help="tiny windows: shows that it works, measures little"
    )
    parser.add_argument(
        "--growth", action="store_true", help="measure curves as well: sizes, threads, zones, shares"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    form.add_argument("--markdown", action="store_true", help="print tables for a document and nothing else")
    parser.add_argument(
        "--chart", type=Path, metavar="FILE", help="write a chart as one HTML file (needs plotly)"
    )


def command_bench(arguments: argparse.Namespace) -> int:
    """Measure, and print."""
    if arguments.chart is not None:
        check_chart()
        check_writable("--chart", arguments.chart)
    effort = QUICK if arguments.quick else Effort()
    results = run(effort, with_growth=arguments.growth)
    if arguments.json:
        print(json.dumps(results.as_dict()))
    elif arguments.markdown:
        print(markdown(results))
    else:
        show(Console(), results)
        if arguments.quick:
            print("--quick measures in windows that are too short to be held against any goal")
    if arguments.chart is not None:
        sys.stdout.flush()
        write_whole("--chart", arguments.chart, lambda draft: write_chart(results, draft))
        if not (arguments.json or arguments.markdown):
            print(f"chart {arguments.chart}")
    return EXIT_SUCCESS


def run(effort: Effort, *, with_growth: bool) -> Results:
    """Measure the whole table, with the curves if wanted."""
    present = find_peers()
    machine = describe_machine()  # after the peers: a module of theirs may have switched the GIL on
    absent = dict(present.absent)
    rows = [row for group in _shown("measuring", groups(effort, present)) for row in group()]
    if effort is QUICK:
        rows = [replace(row, goal=None) for row in rows]
    curves = [curve() for curve in _shown("curves", growth(effort, present))] if with_growth else []
    return Results(machine, rows, curves, absent)


def _shown(what: str, steps: Sequence[partial[T]]) -> Iterator[partial[T]]:
    """Yield the steps of minutes of work, and show how many are done: a bar on a terminal, elsewhere a line each."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(steps, what, console=console, transient=True)
        return
    for number, step in enumerate(steps, 1):
        print(
            f"{what} {number} of {len(steps)}: {step.func.__name__.replace('_', ' ')}",
            file=sys.stderr,
            flush=True,
        )
        yield step


def groups(effort: Effort, present: Present) -> list[partial[list[Row]]]:
    """Return everything that gives rows, in the order of the table."""
    return [
        partial(throughput.one_thread_mixed, effort, present),
        partial(throughput.many_threads, effort, present),
        partial(throughput.no_collapse, effort),
        partial(throughput.order_zero_pairs, effort, present),
        partial(throughput.own_zones, effort),
        partial(reporting.cost_of_the_worker, effort),
        partial(reporting.hold_times, effort),
        partial(reporting.discard_rate, effort),
        partial(hypervisor.qemu_against_discard, effort),
        partial(reporting.idle_pass, effort),
        partial(virtual_time.recorded_guest, effort),
        partial(tracing.tracepoints, effort),
        partial(schedule_search, effort),
    ]


def schedule_search(effort: Effort) -> list[Row]:
    """The speed of schedule search, where greenlet is installed."""
    name = "schedule search: executions per second, and coroutines against a baton"
    if effort is QUICK:
        return [Row(name, skipped="takes its time, so --quick leaves it out")]
    try:
        from stress.bench.search import run_bench  # noqa: PLC0415 - greenlet switches the GIL on
    except ModuleNotFoundError as error:
        if error.name != "greenlet":
            raise
        return [Row(name, skipped="greenlet is not installed: pip install 'pagealloc[search]'")]
    return run_bench()
