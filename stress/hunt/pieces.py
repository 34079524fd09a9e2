"""The pieces of `stress check`: each is one instrument's look at the code as it is, for a process of its own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from pagealloc.revision import DEFAULT, PRESETS
from pagealloc.sync_real import RealSync
from stress.errors import Verdict, one_line
from stress.pool import end_with, own_program
from stress.run.scenario import shipped
from stress.search.explore import Failure
from stress.search.jobs import Job, run_job
from stress.search.scenarios import SCENARIOS
from stress.search.story import tell_again
from stress.system.files import temporary_folder

KINDS = ("recorded kernel runs", "schedules", "judged runs", "unit tests")
PATIENCE_S = 300.0  # with a piece that is a process, beyond its own seconds
STORY_WIDTH = 110  # columns
VIOLATIONS_SHOWN = 10  # of a run, in its story
TAIL_LINES = 40  # of what a process printed, in its story
ROOT = Path(__file__).resolve().parents[2]  # of the repository, whose tests and recordings are not installed


@dataclass(frozen=True, slots=True)
class Effort:
    """How much a check does."""

    executions: int  # of each scenario, in the kernel that is the default
    executions_of_others: int  # of each scenario, in every other kernel
    run_s: float  # of each danger
    golden: str  # which folders of recorded runs


QUICK = Effort(executions=200, executions_of_others=1, run_s=1.0, golden="designed")
WHOLE = Effort(executions=2000, executions_of_others=100, run_s=6.0, golden="*")


@dataclass(frozen=True, slots=True)
class Piece:
    """One look: a kind of `KINDS`, what it looks at, and how much."""

    kind: str
    name: str
    amount: float = 0.0
    preset: str = DEFAULT.name


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of a piece: the verdict, what was done in words, and on a failure one sentence and the whole story."""

    piece: Piece
    verdict: Verdict
    done: str
    seconds: float
    found: str = ""
    story: str = ""


def pieces(effort: Effort) -> tuple[list[Piece], list[str]]:
    """List what a check looks at, the longest first, and say what it has to do without."""
    golden, schedules, runs, tests = KINDS
    missing = []
    found = []
    if not (ROOT / "tests" / "pagealloc").is_dir():
        missing.append(
            "unit tests and recorded kernel runs: they come with the repository, not with the package"
        )
    else:
        if find_spec("pytest") is None:
            missing.append("unit tests: pip install 'pagealloc[test]'")
        else:
            found += [Piece(tests, floor) for floor in ("pagealloc", "workers")]
        folders = sorted((ROOT / "tests" / "golden").glob(effort.golden))
        found += [Piece(golden, f"tests/golden/{folder.name}") for folder in folders if folder.is_dir()]
    found += [Piece(runs, name, effort.run_s) for name in shipped() if name != "all"]
    found += [Piece(schedules, name, effort.executions) for name in SCENARIOS]
    others = [preset for preset in PRESETS if preset != DEFAULT.name]
    found += [
        Piece(schedules, name, effort.executions_of_others, preset) for preset in others for name in SCENARIOS
    ]
    return found, missing


def look(piece: Piece, folder: Path | None = None) -> Finding:
    """Do what a piece says; called in a worker process, which keeps what it must within `folder`."""
    golden, schedules, runs, _ = KINDS
    sync = RealSync()
    begin_s = sync.monotonic()
    if piece.kind == schedules:
        verdict, done, found, story = _search(piece)
    elif piece.kind == runs:
        verdict, done, found, story = _run(piece, folder)
    elif piece.kind == golden:
        verdict, done, found, story = _golden(piece)
    else:
        verdict, done, found, story = _tests(piece)
    return Finding(piece, verdict, done, sync.monotonic() - begin_s, found, story)


def again(piece: Piece) -> str:
    """Return the command that does what a piece does, and shows what it finds."""
    golden, schedules, runs, _ = KINDS
    if piece.kind == schedules:  # one process: the very same executions
        amount = f"--executions {piece.amount:.0f} --jobs 1"
        return f"python -m stress explore {piece.name} --preset {piece.preset} {amount}"
    if piece.kind == runs:
        return f"python -m stress run {piece.name} --seconds {piece.amount:g}"
    if piece.kind == golden:
        return f"python -m stress golden {piece.name}"
    return f"python -m pytest -x -m 'not slow' tests/{piece.name}"


Outcome = tuple[Verdict, str, str, str]


def _search(piece: Piece) -> Outcome:
    result = run_job(Job(piece.name, piece.preset, "portfolio", 1, int(piece.amount), 2, None))
    done = f"{result.executions:,} executions"
    if result.failure is None:
        return Verdict.SUCCESS, done, "", ""
    failure = result.failure
    return Verdict.FAILURE, done, f"{failure.invariant}: {failure.text}", _story(failure)


def _story(failure: Failure) -> str:
    told = io.StringIO()
    title = f"scenario {failure.scenario}, preset {failure.preset}"
    tell_again(Console(file=told, width=STORY_WIDTH), failure, title)
    return told.getvalue()


def _process(seconds: float, command: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
    """Return a process's exit status, output and complaints; a status of -1 for one that does not end."""
    try:
        ended = subprocess.run(  # noqa: S603 - this very program, and pytest
            command,
            capture_output=True,
            text=True,
            env=environment,
            timeout=seconds + PATIENCE_S,
            check=False,
            cwd=ROOT,
            preexec_fn=partial(end_with, os.getpid()),
        )
    except subprocess.TimeoutExpired:
        return -1, "", f"no end after {seconds + PATIENCE_S:.0f} s"
    return ended.returncode, ended.stdout, ended.stderr


def _run(piece: Piece, within: Path | None) -> Outcome:
    with temporary_folder(within) as folder:
        words = (
            "run",
            piece.name,
            "--seconds",
            str(piece.amount),
            "--json",
            "--run-dir",
            str(folder / "run"),
        )
        status, out, err = _process(piece.amount, *own_program("stress", *words))
    try:
        summary = json.loads(out)
    except ValueError:
        return Verdict.FAILURE, "no verdict", f"it ended with status {status}", _tail(err)
    judged = summary["judged_records"]
    done = f"{judged:,} records" if judged is not None else "no record was judged"
    verdict = Verdict(summary["verdict"])
    if verdict is Verdict.SUCCESS:
        return verdict, done, "", ""
    broken = summary["violations"] or [summary["undecided"] or ""]
    return verdict, done, one_line(broken[0]), "\n".join(broken[:VIOLATIONS_SHOWN])


def _golden(piece: Piece) -> Outcome:
    status, out, err = _process(0.0, *own_program("stress", "golden", piece.name, "--jobs", "1"))
    last = (out.strip().splitlines() or ["no verdict"])[-1]
    if status == 0:
        return Verdict.SUCCESS, last, "", ""
    return Verdict.FAILURE, last, last, f"{_tail(out)}\n{_tail(err)}"


def _tests(piece: Piece) -> Outcome:
    _, environment = own_program("pytest")
    options = ("-q", "-x", "--no-header", "-p", "no:cacheprovider", "-m", "not slow")
    status, out, err = _process(
        0.0, [sys.executable, "-m", "pytest", *options, f"tests/{piece.name}"], environment
    )
    last = (out.strip().splitlines() or ["no verdict"])[-1].strip("= ")
    if status == 0:
        return Verdict.SUCCESS, last, "", ""
    failed = next((line for line in out.splitlines() if line.startswith(("FAILED", "ERROR"))), last)
    return Verdict.FAILURE, last, one_line(failed), f"{_tail(out)}\n{_tail(err)}"


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-TAIL_LINES:])
