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
from stress.analysis.verify import PROOF_MAX, Judgement, describe, verify
from stress.errors import one_line


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    command.set_defaults(command=command_verify)
    command.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    command.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def command_verify(arguments: argparse.Namespace) -> int:
    """Judge a log; CANNOT DECIDE when it is damaged before anything is found."""
    sync = RealSync()
    begin_s = sync.monotonic()
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("reading") as status:
            judgement = verify(arguments.run, _progress(status))
    else:
        judgement = verify(arguments.run)
    seconds = sync.monotonic() - begin_s
    if arguments.json:
        print(json.dumps({**asdict(judgement), "seconds": seconds}))
    else:
        print_verdict(judgement, seconds)
    return judgement.verdict.exit_status


def _progress(status: Status) -> Callable[[int], None]:
    return lambda records: status.update(f"{records:,} records")


def print_verdict(judgement: Judgement, seconds: float) -> None:
    """Print what is proved and by which records; the last line is the verdict."""
    for proof in judgement.violations:
        print(f"!!! {describe(proof)}")
    if judgement.violation_count > len(judgement.violations):
        print(f"!!! and {judgement.violation_count - len(judgement.violations):,} more")
    if judgement.damage is not None:
        print(f"not judged from here on: {one_line(judgement.damage, PROOF_MAX)}")
    rate = judgement.records / seconds if seconds else 0.0
    print(
        f"{judgement.verdict} {judgement.records:,} records, {judgement.violation_count} violations "
        f"({seconds:.1f} s, {rate:,.0f} records per second)"
    )
