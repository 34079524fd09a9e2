"""The command line of `stress verify`: a verdict from the log alone."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.status import Status

from pagealloc.sync_real import RealSync
from stress.analysis.verify import Verdict, describe, verify

EXIT_STATUS = {"SUCCESS": 0, "FAILURE": 1, "CANNOT DECIDE": 2}


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    command.set_defaults(command=command_verify)
    command.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    command.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def command_verify(arguments: argparse.Namespace) -> int:
    """Judge a log; exit status 0 for SUCCESS, 1 for FAILURE, 2 when the log is damaged."""
    sync = RealSync()
    begin_s = sync.monotonic()
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("reading") as status:
            verdict = verify(arguments.run, _progress(status))
    else:
        verdict = verify(arguments.run)
    seconds = sync.monotonic() - begin_s
    if arguments.json:
        print(json.dumps({**asdict(verdict), "seconds": seconds}))
    else:
        print_verdict(verdict, seconds)
    return EXIT_STATUS[verdict.verdict]


def _progress(status: Status) -> Callable[[int], None]:
    return lambda records: status.update(f"{records:,} records")


def print_verdict(verdict: Verdict, seconds: float) -> None:
    """Print what is proved and by which records; the last line is the verdict."""
    for proof in verdict.violations:
        print(f"!!! {describe(proof)}")
    if verdict.violation_count > len(verdict.violations):
        print(f"!!! and {verdict.violation_count - len(verdict.violations):,} more")
    if verdict.damage is not None:
        print(f"not judged from here on: {verdict.damage}")
    rate = verdict.records / seconds if seconds else 0.0
    print(
        f"{verdict.verdict} {verdict.records:,} records, {verdict.violation_count} violations "
        f"({seconds:.1f} s, {rate:,.0f} records per second)"
    )
