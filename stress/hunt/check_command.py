"""`stress check`: is the code right? Every instrument at once, side by side, and one verdict."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from concurrent.futures import as_completed

from rich.console import Console
from rich.live import Live
from rich.table import Table

from pagealloc.revision import DEFAULT
from pagealloc.sync_real import RealSync
from stress.errors import BadArgument, CannotBeDone, Verdict
from stress.hunt.pieces import KINDS, QUICK, WHOLE, Finding, Piece, again, look, pieces
from stress.pool import worker_processes
from stress.system import terminal
from stress.system.files import temporary_folder

EXACT_VALUES = ("vectors:", "stats:", "exception:")  # what a finding by them begins with


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.set_defaults(command=command_check)
    parser.add_argument("--quick", action="store_true", help="less of everything: under a minute")
    jobs = os.cpu_count() or 1
    parser.add_argument(
        "--jobs", type=int, default=jobs, metavar="N", help=f"processes side by side (default: {jobs})"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def command_check(arguments: argparse.Namespace) -> int:
    """Look at the code with everything there is; exit status 1 when anything finds anything."""
    if arguments.jobs < 1:
        raise BadArgument(f"--jobs: {arguments.jobs}, expected 1 or more")
    sync = RealSync()
    begin_s = sync.monotonic()
    todo, missing = pieces(QUICK if arguments.quick else WHOLE)
    progress = Progress(todo)
    console = Console(stderr=arguments.json)
    try:
        with Live(progress.table(), console=console, transient=True, auto_refresh=False) as live:
            for finding in _look_at_all(todo, arguments.jobs):
                progress.note(finding)
                if console.is_terminal:
                    live.update(progress.table(), refresh=True)
                elif finding in progress.news and not arguments.json:
                    _alarm(console, finding)
    except CannotBeDone as error:
        if progress.verdict is not Verdict.FAILURE:
            raise
        missing.append(f"the rest: {error}")  # what was found before is true all the same
    seconds = sync.monotonic() - begin_s
    if arguments.json:
        print(json.dumps(progress.as_dict(missing, seconds)))
    else:
        _print(progress, missing, seconds, told=not console.is_terminal)
    return progress.verdict.exit_status


def _look_at_all(todo: list[Piece], jobs: int) -> Iterator[Finding]:
    with temporary_folder() as folder, worker_processes(jobs) as executor:
        for future in as_completed([executor.submit(look, piece, folder) for piece in todo]):
            yield future.result()


class Progress:
    """What each kind of piece has done and found so far."""

    def __init__(self, todo: list[Piece]) -> None:
        self._total = {kind: sum(piece.kind == kind for piece in todo) for kind in KINDS}
        self.findings: list[Finding] = []

    def note(self, finding: Finding) -> None:
        self.findings.append(finding)

    @property
    def verdict(self) -> Verdict:
        verdicts = {finding.verdict for finding in self.findings}
        return next((v for v in (Verdict.FAILURE, Verdict.CANNOT_DECIDE) if v in verdicts), Verdict.SUCCESS)

    @property
    def wrong(self) -> list[Finding]:
        """What found something, or could not decide."""
        return [finding for finding in self.findings if finding.verdict is not Verdict.SUCCESS]

    @property
    def news(self) -> list[Finding]:
        """Return what is to be told: once what several kernels show in the same words."""
        first: dict[tuple[str, str, str], Finding] = {}
        for finding in self.wrong:
            first.setdefault((finding.piece.kind, finding.piece.name, finding.found), finding)
        return list(first.values())

    @property
    def clearest(self) -> Finding:
        """What tells best what is wrong: a broken rule in a schedule, in the fewest words."""
        _, schedules, _, _ = KINDS
        return min(
            self.wrong,
            key=lambda finding: (
                finding.verdict is not Verdict.FAILURE,
                finding.piece.kind != schedules,
                KINDS.index(finding.piece.kind),
                finding.found.startswith(EXACT_VALUES),
                finding.piece.preset != DEFAULT.name,
                len(finding.story),
            ),
        )

    def table(self) -> Table:
        """Draw a row for each kind: pieces done, the last one's figures, what was found first."""
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for name in ("instrument", "done", "seconds", "last", "found"):
            table.add_column(name, justify="right" if name in ("done", "seconds") else "left")
        for kind in KINDS:
            of_kind = [finding for finding in self.findings if finding.piece.kind == kind]
            wrong = [finding for finding in of_kind if finding.verdict is not Verdict.SUCCESS]
            last = f"{of_kind[-1].piece.name}: {of_kind[-1].done}" if of_kind else ""
            found = f"{len(wrong)}, the first in {wrong[0].piece.name}" if wrong else "nothing"
            seconds = sum(finding.seconds for finding in of_kind)
            table.add_row(kind, f"{len(of_kind)} of {self._total[kind]}", f"{seconds:.1f}", last, found)
        return table

    def as_dict(self, missing: list[str], seconds: float) -> dict[str, object]:
        """Say the same for a program."""
        return {
            "verdict": self.verdict,
            "seconds": seconds,
            "missing": missing,
            "pieces": [
                {
                    "kind": finding.piece.kind,
                    "name": finding.piece.name,
                    "preset": finding.piece.preset,
                    "verdict": finding.verdict,
                    "done": finding.done,
                    "seconds": finding.seconds,
                    "found": finding.found,
                    "again": again(finding.piece),
                }
                for finding in self.findings
            ],
        }


def _alarm(console: Console, finding: Finding) -> None:
    console.print(f"!!! {_where(finding)}: {finding.found}", highlight=False, markup=False, soft_wrap=True)


def _where(finding: Finding) -> str:
    piece = finding.piece
    return f"{piece.kind}, {piece.name}" + (f", {piece.preset}" if piece.preset != DEFAULT.name else "")


def _print(progress: Progress, missing: list[str], seconds: float, *, told: bool) -> None:
    """Print what was found, unless it was `told` as it was found, the clearest story, the table, and the verdict.

    Behind the verdict is what tells that story again.
    """
    console = terminal.console()
    wrong = progress.wrong
    for finding in () if told else progress.news:
        _alarm(console, finding)
    if wrong:
        clearest = progress.clearest
        story = f"\n{_where(clearest)}\n{clearest.story}\n"
        console.print(story, highlight=False, markup=False, soft_wrap=True)
    console.print(progress.table(), highlight=False, markup=False)
    for text in missing:
        console.print(f"note: without {text}", highlight=False, markup=False, soft_wrap=True)
    count = f"{len(progress.findings)} looks, {len(wrong)} of them found something"
    next_step = f"; this one again with: {again(clearest.piece)}" if wrong else ""
    console.print(
        f"{progress.verdict} {count} ({seconds:.0f} s){next_step}",
        style=progress.verdict.style,
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
