"""The command line: `python -m stress run` and `python -m stress golden`.

Exit status 0 for success, 1 for a failed check, 2 for bad input, with one line on stderr that says what.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from rich.console import Console
from rich.progress import track

from pagealloc.errors import RamError
from pagealloc.sync_real import RealSync
from stress.bench.command import add_bench
from stress.footprint import use_one_arena
from stress.golden import CaseResult, CorruptCase, find_cases, replay
from stress.log_files import BadLog
from stress.params import OPTIONS, BadArgument, RunParams, key_of, option_of, parse_changes
from stress.pool import worker_processes
from stress.run import StressRun, Summary
from stress.run_directory import RunDirectory, RunDirectoryError, default_path
from stress.scenario import load_scenario, shipped, with_default_sleep
from stress.view import LineView, LiveView, View, print_summary
from workers.page_reporting import Reporter
from workers.reporters import ReporterError, load_reporter

SEARCH_COMMANDS = {
    "explore": "search the schedules of small scenarios for a race",
    "replay": "execute a recorded failure again",
    "mutants": "show that every planted fault is found",
}

# Commands that read logs, each in a module of its own: what they need is an extra, and `run` does without it.
LOG_COMMANDS = {
    "verify": ("stress.verify_command", "decide the invariants from a run's log alone"),
    "analyze": (
        "stress.analysis.analyze_command",
        "where the time went, what reporting bought: tables and a page",
    ),
    "sql": ("stress.analysis.sql_command", "ask a run's log in SQL, or export it as Parquet"),
    "proc": ("stress.analysis.proc_command", "buddyinfo, pagetypeinfo or zoneinfo at a time of a run"),
}

EXIT_SUCCESS, EXIT_FAILURE, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that answers a bad argument with one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: {message} (--help lists what there is)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows fewer letters gets a question mark
    try:
        arguments = build_parser(words[0] if words else "").parse_args(words)
        status: int = arguments.command(arguments)
    except (BadArgument, BadLog, ReporterError, RunDirectoryError, CorruptCase, RamError) as error:
        return complain(str(error))
    except MemoryError:
        return complain(
            "no memory for the pages' own bookkeeping (17 bytes a page): expected smaller --zones"
        )
    except KeyboardInterrupt:
        print("stress: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        # Output that cannot be written: whoever read it has left, or the disk is full. The rest goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print(f"stress: output: {error.strerror}", file=sys.stderr)
        return EXIT_FAILURE
    return status


def complain(text: str) -> int:
    """Say in one line on stderr what is wrong with the input."""
    print(f"stress: {' '.join(text.split())}", file=sys.stderr)
    return EXIT_BAD_INPUT


def build_parser(chosen: str) -> argparse.ArgumentParser:
    """Build the parser; commands that need an extra are a line of help until they are `chosen`."""
    parser = OneLineParser(prog="stress", description="Instruments for pagealloc.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=OneLineParser)
    _add_run(commands)
    _add_golden(commands)
    add_bench(commands)
    for name, (module, about) in LOG_COMMANDS.items():
        command = commands.add_parser(name, help=about, description=about)
        if name == chosen:
            _import_log_command(module).add_arguments(command)
    if chosen in SEARCH_COMMANDS:
        _add_search(commands)
    else:
        for name, about in SEARCH_COMMANDS.items():
            commands.add_parser(name, help=about)
    return parser


def _import_log_command(module: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("duckdb", "msgspec", "plotly"):
            raise
        raise BadArgument(f"reading logs needs {package}: pip install 'pagealloc[analysis]'") from error


def _add_search(commands: argparse._SubParsersAction[OneLineParser]) -> None:
    try:
        # Here, because greenlet would give a free-threaded run its GIL back.
        from stress.search import command, mutants_command  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name != "greenlet":
            raise
        raise BadArgument("schedule search needs greenlet: pip install 'pagealloc[search]'") from error
    command.add_explore(commands)
    command.add_replay(commands)
    mutants_command.add_mutants(commands)


# -- run -----------------------------------------------------------------------------------------------------


def _add_run(commands: argparse._SubParsersAction[OneLineParser]) -> None:
    run = commands.add_parser(
        "run",
        help="allocator threads and a reporting worker on real memory",
        description="Let allocator threads and the reporting worker loose on the same zones, and judge.",
    )
    run.set_defaults(command=command_run)
    run.add_argument(
        "scenario",
        nargs="?",
        metavar="SCENARIO",
        help="one that --list names, or a TOML file of your own; options go above it",
    )
    run.add_argument("--list", action="store_true", help="list the scenarios, and do nothing")
    for name, option in OPTIONS.items():
        about, metavar = option.metadata["about"], option.metadata["metavar"]
        shown = "0" if option.type == "Range" else option.default
        default = "" if shown is None else f" (default: {shown})"
        run.add_argument(option_of(name), metavar=metavar, dest=key_of(name), help=f"{about}{default}")
    run.add_argument(
        "--run-dir",
        type=Path,
        metavar="DIR",
        help="where parameters, events and summary go (default: runs/DATE-TIME)",
    )
    run.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def command_run(arguments: argparse.Namespace) -> int:
    if arguments.list:
        return _list_scenarios()
    params = _run_params(arguments)
    reporter = load_reporter(params.reporter)
    use_one_arena()
    sync = RealSync()
    directory = _open_directory(arguments.run_dir, sync, params)
    summary = _watched_run(params, sync, reporter, directory, quiet=arguments.json)
    if directory is not None:
        _finish_directory(directory, summary)
    for stack in summary.stacks:
        print(stack, file=sys.stderr)
    if arguments.json:
        print(json.dumps(asdict(summary)))
    else:
        print_summary(Console(), summary, params.words())
    return EXIT_SUCCESS if summary.verdict == "SUCCESS" else EXIT_FAILURE


def _finish_directory(directory: RunDirectory, summary: Summary) -> None:
    """Write the summary; whatever the disk refuses is a note, never the end of the verdict."""
    summary.notes.append(f"run directory {directory.path}")
    try:
        directory.finish(summary)
    except RunDirectoryError as error:
        summary.notes.append(f"no summary was kept: {error}")


def _list_scenarios() -> int:
    for name in shipped():
        print(f"{name:22} {load_scenario(name).about}")
    return EXIT_SUCCESS


def _run_params(arguments: argparse.Namespace) -> RunParams:
    """Return what the scenario says, and above that what the command line says."""
    words = {name: getattr(arguments, key_of(name)) for name in OPTIONS}
    chosen = parse_changes({name: text for name, text in words.items() if text is not None})
    if arguments.scenario is None:
        return RunParams(**with_default_sleep(chosen))
    return load_scenario(arguments.scenario).params(chosen)


def _open_directory(path: Path | None, sync: RealSync, params: RunParams) -> RunDirectory | None:
    """Open the run directory; one that nobody asked for and that cannot be made is done without."""
    try:
        return RunDirectory(path or default_path(sync), sync, params.as_dict())
    except RunDirectoryError as error:
        if path is not None:
            raise
        print(f"stress: no run directory is kept: {error}", file=sys.stderr)
        return None


def _watched_run(
    params: RunParams, sync: RealSync, reporter: Reporter, directory: RunDirectory | None, *, quiet: bool
) -> Summary:
    """Run under the view that fits the terminal; with `quiet` nothing is written to stdout."""
    console = Console(stderr=quiet)
    # What cannot move its cursor gets lines: a pipe, and a dumb terminal.
    view: View = LiveView(console) if console.is_interactive else LineView(console, params.stat_interval)
    if not quiet:
        console.print(f"stress run: {params.words()}", highlight=False, markup=False, soft_wrap=True)
    try:
        recorder = directory.recorder if directory is not None else None
        return StressRun(params, sync, reporter, view.show, recorder).run()
    finally:
        view.close()


# -- golden --------------------------------------------------------------------------------------------------


def _add_golden(commands: argparse._SubParsersAction[OneLineParser]) -> None:
    golden = commands.add_parser(
        "golden",
        help="replay recorded runs of the kernel's own code",
        description="Replay recorded kernel runs and compare results and state after every operation.",
    )
    golden.set_defaults(command=command_golden)
    golden.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="case files, or folders of them")
    golden.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes (default: one a processor)",
    )


def command_golden(arguments: argparse.Namespace) -> int:
    if arguments.jobs < 1:
        raise BadArgument(f"--jobs: {arguments.jobs}, expected 1 or more")
    files = find_cases(arguments.paths)
    console = Console(stderr=True)
    results = _replay_all(files, arguments.jobs)
    if console.is_terminal:
        results = iter(track(results, "replaying", total=len(files), console=console, transient=True))
    passed = failed = corrupt = 0
    for result in results:
        if isinstance(result, str):
            corrupt += 1
            complain(result)
        elif result.difference is not None:
            failed += 1
            print(describe_difference(result))
        else:
            passed += 1
    if passed or failed:
        print(f"{passed} passed, {failed + corrupt} failed")
    if corrupt:
        return EXIT_BAD_INPUT
    return EXIT_FAILURE if failed else EXIT_SUCCESS


def _replay_or_say_why_not(path: Path) -> CaseResult | str:
    """Replay a case; for a file that is none, return what is wrong with it, so that the others go on."""
    try:
        return replay(path)
    except CorruptCase as error:
        return str(error)


def _replay_all(files: list[Path], jobs: int) -> Iterator[CaseResult | str]:
    if jobs == 1 or len(files) == 1:
        yield from map(_replay_or_say_why_not, files)
        return
    with worker_processes(min(jobs, len(files))) as executor:
        yield from executor.map(_replay_or_say_why_not, files)


def describe_difference(result: CaseResult) -> str:
    """Show where a case parts from the recording: operation, field, the kernel's value beside ours."""
    difference = result.difference
    assert difference is not None
    return (
        f"FAILED {result.path}: operation {difference.operation} ({difference.op}), {difference.field}\n"
        f"    kernel: {difference.kernel}\n"
        f"    ours:   {difference.ours}"
    )
