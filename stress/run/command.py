"""`stress run`: allocator threads and a reporting worker on real memory."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from pagealloc.sync_real import RealSync
from stress.errors import EXIT_SIGNAL, EXIT_SUCCESS, BadArgument, CannotBeDone, Verdict
from stress.provenance import blind_spots
from stress.run import footprint
from stress.run.conductor import StressRun
from stress.run.directory import RunDirectory, default_path
from stress.run.params import OPTIONS, RunParams, key_of, option_of, parse_changes
from stress.run.scenario import load_scenario, shipped, with_reporter_defaults
from stress.run.summary import Summary
from stress.run.view import LineView, LiveView, View, print_summary
from stress.system.files import output_path
from stress.system.leaving import heard_by
from stress.system.terminal import console
from workers.errors import ReporterError
from workers.page_reporting import Reporter
from workers.reporters import SHIPPED, load_reporter

BOOKKEEPING_BYTES = 17  # a page


def add_arguments(run: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    run.set_defaults(command=command_run)
    run.add_argument(
        "scenario",
        nargs="?",
        metavar="SCENARIO",
        help="one that --list names, or a TOML file of your own; options go above it",
    )
    run.add_argument(
        "--list", action="store_true", help="list the scenarios and the reporters, and do nothing"
    )
    for name, option in OPTIONS.items():
        about, metavar = option.metadata["about"], option.metadata["metavar"]
        if option.type == "bool":
            run.add_argument(
                option_of(name), dest=key_of(name), action="store_const", const="True", help=about
            )
            continue
        shown = "0" if option.type == "Range" else option.default
        default = "" if shown is None else f" (default: {shown})"
        run.add_argument(option_of(name), metavar=metavar, dest=key_of(name), help=f"{about}{default}")
    run.add_argument(
        "--run-dir",
        type=output_path,
        metavar="DIR",
        help="where parameters, events and summary go (default: runs/DATE-TIME)",
    )
    run.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def command_run(arguments: argparse.Namespace) -> int:
    """Run, and print how it went. A run that was interrupted, and found nothing, has the signal's exit status."""
    if arguments.list:
        return _list_what_ships()
    params = _run_params(arguments)
    _check_memory(params)
    sync = RealSync()
    path = arguments.run_dir or default_path(sync)  # before the reporter, which may go to another folder
    reporter = load_reporter(params.reporter, sync, params.reporter_timeout)
    footprint.use_one_arena()
    directory = _open_directory(path, sync, params, asked_for=arguments.run_dir is not None)
    interruption = _Interruption()
    with heard_by(interruption.hear):
        try:
            summary = _watched_run(params, sync, reporter, directory, interruption, quiet=arguments.json)
        except (ReporterError, BadArgument) as error:  # it could not start, so there was no run
            if directory is not None:
                directory.give_up(str(error))
            raise
        if directory is not None:
            _finish_directory(directory, summary)
        else:
            summary.notes.append("no run directory was kept: nothing but the run's own checks judged")
        for stack in summary.stacks:
            print(stack, file=sys.stderr)
        if arguments.json:
            print(json.dumps(asdict(summary)))
        else:
            print_summary(console(), summary, params.words())
    if summary.verdict is Verdict.SUCCESS and interruption.signal:
        return EXIT_SIGNAL + interruption.signal
    return summary.exit_status


class _Interruption:
    """The first signal ends the load, and the run still comes to its verdict; a second one ends the program."""

    def __init__(self) -> None:
        self.signal = 0
        self.run: StressRun | None = None
        self.view: View | None = None
        self.directory: RunDirectory | None = None

    def hear(self, number: int) -> bool:
        if self.signal or self.run is None or self.view is None:
            return False
        self.signal = number
        self.run.interrupt()
        if self.directory is not None:
            self.directory.tell("warning", "interrupted", signal=number)
        self.view.tell("interrupted: the load ends, the verdict follows; a second Ctrl-C leaves at once")
        return True


def _finish_directory(directory: RunDirectory, summary: Summary) -> None:
    """End the log, let its judge have the last word, and write the summary."""
    summary.notes.append(f"run directory {directory.path}")
    directory.end_log(summary)
    if summary.verdict is Verdict.FAILURE and directory.recorder is not None:
        summary.next_step = (
            f"`python -m stress verify {directory.path}` names the records that prove it, `explore` searches for a "
            "schedule that does it again, and `replay` has that one as often as you like"
        )
    directory.finish(summary)
    directory.tell_end(summary)


def _list_what_ships() -> int:
    print("scenarios:")
    for name in shipped():
        print(f"  {name:22} {load_scenario(name).about}")
    print("reporters, of --reporter:")
    for name, reporter in SHIPPED.items():
        print(f"  {name:22} {reporter.about}")
    return EXIT_SUCCESS


def _run_params(arguments: argparse.Namespace) -> RunParams:
    """Return what the scenario says, and above that what the command line says."""
    words = {name: getattr(arguments, key_of(name)) for name in OPTIONS}
    chosen = parse_changes({name: text for name, text in words.items() if text is not None})
    if arguments.scenario is None:
        return RunParams(**with_reporter_defaults(chosen))
    return load_scenario(arguments.scenario).params(chosen)


def _check_memory(params: RunParams) -> None:
    """Refuse zones that this machine cannot even keep the books of. Raises BadArgument."""
    available_bytes = footprint.available_bytes()
    if _bookkeeping_bytes(params) > available_bytes:
        raise BadArgument(
            f"--zones: {params.zones}: this machine has {available_bytes >> 20} MiB left, expected room for "
            f"{_bookkeeping(params)}"
        )


def _bookkeeping_bytes(params: RunParams) -> int:
    return BOOKKEEPING_BYTES * sum(spec.nr_pages for spec in params.zone_specs())


def _bookkeeping(params: RunParams) -> str:
    return f"{_bookkeeping_bytes(params) >> 20} MiB of the pages' own bookkeeping ({BOOKKEEPING_BYTES} bytes a page)"


def _open_directory(path: Path, sync: RealSync, params: RunParams, *, asked_for: bool) -> RunDirectory | None:
    """Open the run directory; one that nobody asked for and that cannot be made is done without."""
    try:
        return RunDirectory(path, sync, params.as_dict())
    except (BadArgument, CannotBeDone) as error:
        if asked_for:
            raise
        print(f"stress: no run directory is kept: {error}", file=sys.stderr)
        return None


def _watched_run(
    params: RunParams,
    sync: RealSync,
    reporter: Reporter,
    directory: RunDirectory | None,
    interruption: _Interruption,
    *,
    quiet: bool,
) -> Summary:
    """Run under the view that fits the terminal; with `quiet` nothing is written to stdout."""
    console = Console(stderr=quiet)
    if not quiet:
        console.print(f"stress run: {params.words()}", highlight=False, markup=False, soft_wrap=True)
        for note in blind_spots():
            console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    # What cannot move its cursor gets lines: a pipe, and a dumb terminal.
    view: View = LiveView(console) if console.is_interactive else LineView(console, params.stat_interval)
    try:
        recorder = directory.recorder if directory is not None else None
        if recorder is not None:
            recorder.hear = lambda proof: view.alarm(f"{proof.invariant}: {proof.text}")
        run = StressRun(params, sync, reporter, view.show, recorder)
        interruption.run, interruption.view, interruption.directory = run, view, directory
        return run.run()
    except MemoryError as error:
        raise BadArgument(f"--zones: no memory for {_bookkeeping(params)}, expected smaller zones") from error
    finally:
        view.close()
