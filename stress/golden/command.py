"""`stress golden`: replay recorded runs of the kernel's own code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import track

from stress.errors import EXIT_BAD_INPUT, BadArgument, Verdict, one_line
from stress.golden.cases import CorruptCase, find_cases
from stress.golden.comparison import CaseResult, replay
from stress.pool import worker_processes


def add_arguments(golden: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
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
    """Replay every case; exit status 1 when one differs, 2 when one is no case."""
    if arguments.jobs < 1:
        raise BadArgument(f"--jobs: {arguments.jobs}, expected 1 or more")
    # The longest first, so that no process is left alone with one.
    files = sorted(find_cases(arguments.paths), key=lambda path: -path.stat().st_size)
    console = Console(stderr=True)
    results = _replay_all(files, arguments.jobs)
    if console.is_terminal:
        results = iter(track(results, "replaying", total=len(files), console=console, transient=True))
    passed = failed = corrupt = 0
    for result in results:
        if isinstance(result, str):
            corrupt += 1
            print(f"stress: {one_line(result)}", file=sys.stderr)
        elif result.difference is not None:
            failed += 1
            print(describe_difference(result))
        else:
            passed += 1
    if passed or failed:
        print(f"{passed} passed, {failed + corrupt} failed")
    if corrupt:
        return EXIT_BAD_INPUT
    return Verdict.of(failed=bool(failed)).exit_status


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
