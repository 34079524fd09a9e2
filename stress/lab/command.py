"""`stress lab` says which order, delay, capacity and policy guests would need."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tomllib
from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stress.errors import EXIT_SUCCESS, BadArgument, BadInput
from stress.lab.answer import (
    Choice,
    Goal,
    choices,
    parse_goal,
    sentence,
)
from stress.lab.loads.catalogue import HELP as LOADS
from stress.lab.options import SINGLE, SWEPT, Grid, Options, parse_words
from stress.lab.predict import preset_told
from stress.lab.proc_state import check_zoneinfo
from stress.lab.recorded_truth import Truth, truth_of
from stress.lab.sweep import Sweep
from stress.lab.tables import show_table
from stress.pool import EXECUTORS, open_executor
from stress.system.files import output_path, write_whole
from stress.system.terminal import console

SEEDS = 5
DEMONSTRATION: Mapping[str, list[Any]] = {"order": [0, 5, 9], "delay": [0.1, 0.5, 1.0, 2.0]}
REPORT_FILE = "report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.set_defaults(command=command_lab)
    parser.add_argument(
        "load",
        nargs="?",
        metavar="LOAD",
        help=f"what the guest does, or a study in TOML: {LOADS} (default: burst:2GiB)",
    )
    for name, (_, metavar, text) in SWEPT.items():
        parser.add_argument(f"--{name}", metavar=f"{metavar},...", help=text)
    for name, (_, metavar, text) in SINGLE.items():
        parser.add_argument(f"--{name}", metavar=metavar, help=text)
    parser.add_argument(
        "--state",
        action="append",
        metavar="FILE",
        help="start from pagetypeinfo or buddyinfo text, or exact lists (a recorded case, JSON); may be given again",
    )
    parser.add_argument(
        "--zoneinfo", action="append", metavar="FILE", help="marks, sizes and per-CPU limits of the guest"
    )
    parser.add_argument(
        "--rss",
        type=Path,
        metavar="FILE",
        help="the host's measured curve, to hold the predicted one against",
    )
    parser.add_argument(
        "--goal", default="footprint", metavar="G", help="footprint, settle, time:SIZE or refaults<=N"
    )
    parser.add_argument(
        "--seeds", metavar="N", help=f"runs of each setting (default: {SEEDS}; 1 for a trace)"
    )
    parser.add_argument("--jobs", metavar="N", help="processes (default: the machine's CPUs)")
    parser.add_argument("--executor", default="processes", metavar="E", help=EXECUTORS)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument(
        "--out",
        type=output_path,
        metavar="DIR",
        help="keep rows.jsonl and report.html there; a sweep goes on from it",
    )
    parser.add_argument(
        "--run-dir",
        type=output_path,
        metavar="DIR",
        help="run the first point again and log it there, for verify, analyze, sql and perfetto",
    )
    parser.add_argument(
        "--validate",
        nargs="?",
        const="quick",
        choices=["quick", "full"],
        help="hold the lab against published figures and recorded guests; full: a build of clang, too",
    )


@dataclass(slots=True)
class Study:
    """What was asked: a grid, a goal, and where the answer goes."""

    about: str
    grid: Grid
    goal: Goal
    jobs: int
    executor: str
    rss: Path | None
    out: Path | None
    run_dir: Path | None


def command_lab(arguments: argparse.Namespace) -> int:
    """Predict; exit status 1 when `--validate` finds a figure outside its tolerance."""
    if arguments.validate:
        from stress.lab.validate import command_validate  # noqa: PLC0415 - needs recorded cases, and only here

        status: int = command_validate(full=arguments.validate == "full", as_json=arguments.json)
        return status
    study = read_study(arguments)
    points = list(study.grid)
    sweep = Sweep(points, study.out)
    truth = truth_of(points, study.rss)  # before any work: bad input costs no time
    if study.run_dir is not None:
        from stress.lab.run_log import write_run_log  # noqa: PLC0415 - only here

        write_run_log(points[0], study.run_dir)
    quiet = arguments.json
    try:
        compute(sweep, study, quiet=quiet)
    except KeyboardInterrupt:
        if study.out is not None:
            Console(stderr=True).print(f"{len(sweep.rows)} of {len(points)} rows are kept in {study.out}")
        raise
    if truth is not None:
        truth.judge(points, sweep)
    found = choices(points, sweep.rows, list(study.grid.axes))
    answer = sentence(found, study.goal, study.grid.base.load)
    if arguments.json:
        print(
            json.dumps(
                {
                    "rows": sweep.table(),
                    "answer": answer,
                    "notes": sweep.notes,
                    **(truth.as_json() if truth else {}),
                }
            )
        )
    else:
        show(console(), study, answer, found, sweep, truth)
    sys.stdout.flush()  # a result is printed before it is saved
    if study.out is not None:
        from stress.lab.page import write_lab_page  # noqa: PLC0415 - plotly is heavy, and an extra

        def write(draft: Path) -> None:
            write_lab_page(draft, study.about, answer, found, study.goal, sweep, truth)

        page = study.out / REPORT_FILE
        write_whole("--out", page, write)
        if not arguments.json:
            print(page)
    return EXIT_SUCCESS


def compute(sweep: Sweep, study: Study, *, quiet: bool) -> None:
    """Compute what is missing, with a bar that says how long it takes."""
    missing = len(sweep.missing())
    # Any other executor is opened even for nothing: one that cannot be had is bad input, however little is to do.
    alone = study.executor == "processes" and (study.jobs == 1 or missing < 2)
    opened: AbstractContextManager[Executor | None] = (
        nullcontext() if alone else open_executor(study.executor, max(1, min(study.jobs, missing)))
    )
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        opened as executor,
        Progress(
            *columns, console=console, transient=True, disable=quiet or not console.is_terminal
        ) as progress,
    ):
        task = progress.add_task("predicting", total=missing)
        sweep.run(executor, study.jobs, lambda count: progress.advance(task, count))


# -- what was asked --------------------------------------------------------------------------------------


def read_study(arguments: argparse.Namespace) -> Study:
    """Put a study together from the command line and, if it names one, a TOML file. Raises BadInput."""
    words: dict[str, str] = {}
    about = ""
    load = arguments.load
    if load is not None and load.endswith(".toml") and ":" not in load:
        words, about = read_toml(Path(load))
        load = words.pop("load", None)
    words |= {name: value for name in (*SWEPT, *SINGLE) if (value := getattr(arguments, name)) is not None}
    goal = parse_goal(words.pop("goal", arguments.goal))
    state = (*(arguments.state or ()), *(arguments.zoneinfo or ()))
    for path in arguments.zoneinfo or ():
        check_zoneinfo(Path(path))
    if "preset" not in words and load is not None and load.startswith("trace:") and state:
        words["preset"] = preset_told(map(Path, state))
    values = {
        name: parse_words(name, text) for name, text in words.items() if name in SWEPT or name in SINGLE
    }
    single: dict[str, Any] = {name: value[0] for name, value in values.items() if len(value) == 1}
    base = Options(
        load=load or "burst:2GiB",
        state=state,
        target=goal.target_bytes,
        **single,
    )
    axes: dict[str, list[Any]] = {name: value for name, value in values.items() if len(value) > 1}
    if load is None and not axes:
        axes = {name: list(several) for name, several in DEMONSTRATION.items()}
    seeds = _count("seeds", arguments.seeds, 1 if base.load.startswith("trace:") else SEEDS)
    grid = Grid(base, axes, seeds)
    grid.check()
    return Study(
        about or f"{base.load} on {base.guest / (1 << 30):g} GiB",
        grid,
        goal,
        _count("jobs", arguments.jobs, os.cpu_count() or 1),
        arguments.executor,
        arguments.rss,
        arguments.out,
        arguments.run_dir,
    )


def _count(name: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise BadArgument(f"--{name}: {text!r}, expected a number of 1 .. 100000")
    return int(text)


def read_toml(path: Path) -> tuple[dict[str, str], str]:
    """Read a study: option names as keys, in tables or not. Raises BadInput."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: {error}, expected TOML") from error
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= value if isinstance(value, Mapping) else {key: value}
    about = str(flat.pop("about", ""))
    known = {*SWEPT, *SINGLE, "load", "goal"}
    for key in flat:
        if key not in known:
            raise BadInput(f"{path}: key {key!r}, expected one of {', '.join(sorted(known))}")
    return {
        key: ",".join(map(str, value)) if isinstance(value, list) else str(value)
        for key, value in flat.items()
    }, about


# -- the terminal ----------------------------------------------------------------------------------------


def show(
    console: Console, study: Study, answer: str, found: list[Choice], sweep: Sweep, truth: Truth | None
) -> None:
    """Print the answer, the table and what was assumed."""
    console.print(answer, soft_wrap=True, highlight=False)
    show_table(console, found, study.goal, study.grid.base.load)
    for line in truth.lines() if truth is not None else ():
        console.print(line, soft_wrap=True, highlight=False)
    for note in sweep.notes:
        console.print(f"- {note}", style="dim", soft_wrap=True, highlight=False)
