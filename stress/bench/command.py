"""`python -m stress bench`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from stress.bench.builds import Column, OtherBuild, check_compiled, other_build
from stress.bench.chart import check_chart, write_chart
from stress.bench.groups import ONE_BUILD_ONLY, Group, groups, measure
from stress.bench.growth import growth
from stress.bench.measure import QUICK, Effort
from stress.bench.peers import find_peers
from stress.bench.table import Results, empty_column, markdown, show
from stress.errors import EXIT_SUCCESS
from stress.system.files import check_writable, output_path, write_whole
from stress.system.terminal import console

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
    parser.add_argument(
        "--compiled",
        metavar="PYTHON",
        help="measure the compiled build as well, in turns: the Python of an environment that has it",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    form.add_argument("--markdown", action="store_true", help="print tables for a document and nothing else")
    parser.add_argument(
        "--chart", type=output_path, metavar="FILE", help="write a chart as one HTML file (needs plotly)"
    )


def command_bench(arguments: argparse.Namespace) -> int:
    """Measure, and print."""
    if arguments.chart is not None:
        check_chart()
        check_writable("--chart", arguments.chart)
    if arguments.compiled is not None:
        check_compiled(arguments.compiled)
    effort = QUICK if arguments.quick else Effort()
    results = run(effort, with_growth=arguments.growth, compiled=arguments.compiled)
    if arguments.json:
        print(json.dumps(results.as_dict()))
    elif arguments.markdown:
        print(markdown(results))
    else:
        show(console(), results)
        if arguments.quick:
            print("--quick measures in windows that are too short to be held against any goal")
    if arguments.chart is not None:
        sys.stdout.flush()
        write_whole("--chart", arguments.chart, lambda draft: write_chart(results, draft))
        if not (arguments.json or arguments.markdown):
            print(f"chart {arguments.chart}")
    return EXIT_SUCCESS


def run(effort: Effort, *, with_growth: bool, compiled: str | None = None) -> Results:
    """Measure the whole table, with the curves and the column of the compiled build if wanted."""
    present = find_peers()
    column = empty_column(present)
    opened = other_build(compiled, column.machine, quick=effort is QUICK) if compiled else nullcontext()
    with opened as other:
        steps = _steps(groups(effort, present), effort, column, other)
        for step in _shown("measuring", steps):
            step()
    curves = [step() for step in _shown("curves", _named(growth(effort, present)))] if with_growth else []
    return Results(column, curves, None if other is None else other.column)


def _named(steps: Sequence[partial[T]]) -> list[tuple[str, Callable[[], T]]]:
    return [(step.func.__name__, step) for step in steps]


def _steps(
    found: dict[str, Group], effort: Effort, column: Column, other: OtherBuild | None
) -> list[tuple[str, Callable[[], None]]]:
    """Return what adds the rows of each group to the columns: the builds take turns."""

    def ours(group: Group) -> None:
        column.rows += measure(group, effort)

    steps: list[tuple[str, Callable[[], None]]] = []
    for name, group in found.items():
        steps.append((name, partial(ours, group)))
        if other is not None and name not in ONE_BUILD_ONLY:
            steps.append((f"{name}, compiled", partial(other.measure, name)))
    return steps


def _shown(what: str, steps: Sequence[tuple[str, Callable[[], T]]]) -> Iterator[Callable[[], T]]:
    """Yield the steps of minutes of work, and show how many are done: a bar on a terminal, elsewhere a line each."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from (step for _, step in track(steps, what, console=console, transient=True))
        return
    for number, (name, step) in enumerate(steps, 1):
        print(f"{what} {number} of {len(steps)}: {name.replace('_', ' ')}", file=sys.stderr, flush=True)
        yield step
