"""`python -m stress mutants`: every planted fault, and what finds it."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from pagealloc.revision import PRESETS
from pagealloc.sync_real import RealSync
from stress.errors import BadArgument, Verdict, one_line
from stress.mutants import MUTANTS, NOT_EXPRESSIBLE
from stress.pool import SEARCH_EXECUTORS, open_executor, own_program, refuse_threads
from stress.search import replay
from stress.search.explore import Failure
from stress.search.jobs import STRATEGIES, Job, run_job, save, tracked
from stress.search.scenarios import SCENARIOS
from stress.search.story import last_step
from stress.system import terminal
from stress.system.files import check_folder, output_path, temporary_folder
from stress.system.leaving import owed

WORLDS = ("controlled", "real")
# Enough churn at the reporting order for plain stress to have its chance; small, so that many runs fit.
REAL_WORLD = ("--zones", "DMA32=64MiB,Normal=96MiB", "--order", "5", "--capacity", "8", "--delay", "0.02")
FIGURES_WIDTH = 38  # columns of a table of faults that hold no words
REAL_PATIENCE_S = 15.0
SENTENCE_MAX = 300  # characters of what a story says
SECONDS_MAX = 1e6
# A mutant is looked for in every scenario with few executions first: most faults show at once somewhere, and half
# of those with the very first. Every preset has its turn before many executions have, for faults that only matter
# in an older kernel.
HUNT_ROUNDS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (1, ("v6.12",)),
    (30, ("v6.12",)),
    (1, tuple(PRESETS)),
    (300, ("v6.12",)),
    (100, tuple(PRESETS)),
    (2000, ("v6.12",)),
)


@dataclass(frozen=True, slots=True)
class Hunt:
    """What became of one mutant."""

    id: str
    about: str
    invariant: str
    found_by: str | None
    executions: int
    seconds: float
    switches_found: int
    switches_shrunk: int
    failure: Failure | None
    in_log: str | None = None  # in the real world, what the log alone proves


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.set_defaults(command=command_mutants)
    parser.add_argument("mutants", nargs="*", metavar="M", help="these only (default: all)")
    parser.add_argument(
        "--world",
        default="controlled",
        metavar="W",
        help="controlled (default), or real: plain stress runs on threads",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="for all mutants together, in the real world (default: 60)",
    )
    parser.add_argument(
        "--strategy",
        default="portfolio",
        metavar="NAME",
        help=f"{', '.join(STRATEGIES)} (default: portfolio)",
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of random strategies (default: 1)")
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes (default: all processors)",
    )
    parser.add_argument("--executor", default="processes", metavar="E", help=SEARCH_EXECUTORS)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument(
        "--stories", action="store_true", help="print a table of what each story says, for a document"
    )
    parser.add_argument("--save", type=output_path, metavar="DIR", help="keep a replay file of each")


def hunt(task: tuple[str, str, int]) -> Hunt:
    """Look for one mutant in every scenario, with more and more executions."""
    name, strategy, seed = task
    mutant = MUTANTS[name]
    executions = 0
    sync = RealSync()
    begin_s = sync.monotonic()
    for budget, presets in HUNT_ROUNDS:
        for scenario, preset in product(SCENARIOS, presets):
            result = run_job(Job(scenario, preset, strategy, seed, budget, 2, name))
            executions += result.executions
            if result.failure is not None:
                found_by = f"{scenario}: {result.failure.invariant} ({result.found_by})"
                seconds = sync.monotonic() - begin_s
                switches = result.first_switches, result.failure.switches
                return Hunt(
                    name,
                    mutant.about,
                    mutant.invariant,
                    found_by,
                    executions,
                    seconds,
                    *switches,
                    result.failure,
                )
    return Hunt(
        name, mutant.about, mutant.invariant, None, executions, sync.monotonic() - begin_s, 0, 0, None
    )


def hunt_on_threads(name: str, seconds: float, seed: int) -> Hunt:
    """Let one mutant run under plain stress, in a process of its own: it may well hang."""
    mutant = MUTANTS[name]
    sync = RealSync()
    begin_s = sync.monotonic()
    with temporary_folder() as folder:
        words = ["run", "--json", "--mutant", name, "--seconds", f"{seconds:.3f}", *REAL_WORLD]
        command, environment = own_program("stress", *words, "--seed", str(seed), "--run-dir", str(folder))
        with (
            subprocess.Popen(  # noqa: S603 - this very program
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            ) as process,
            owed(process.kill),
        ):
            try:
                out, _ = process.communicate(timeout=seconds + REAL_PATIENCE_S)
                found_by = _real_finding(out, process.returncode)
            except subprocess.TimeoutExpired:
                found_by = f"real threads: no end after {seconds + REAL_PATIENCE_S:.0f} s"
        in_log = _log_finding(folder)
    ran_s = sync.monotonic() - begin_s
    return Hunt(name, mutant.about, mutant.invariant, found_by or in_log, 1, ran_s, 0, 0, None, in_log)


def _real_finding(out: str, status: int) -> str | None:
    try:
        violations = json.loads(out)["violations"]
    except (ValueError, KeyError):
        return f"real threads: ended without a verdict, exit status {status}"
    return f"real threads: {violations[0]}" if violations else None


def _log_finding(folder: Path) -> str | None:
    """Return what the run's log proves by itself, what the run says of itself left out; None for nothing."""
    try:
        from stress.analysis.verify import verify  # noqa: PLC0415
        from stress.log.files import BadLog  # noqa: PLC0415
    except ModuleNotFoundError:
        return None  # reading logs is an extra of its own
    try:
        proofs = [proof for proof in verify(folder).violations if proof.invariant != "witness"]
    except BadLog:
        return None
    return f"the log: {proofs[0].invariant}: {proofs[0].text}" if proofs else None


def command_mutants(arguments: argparse.Namespace) -> int:
    unknown = [name for name in arguments.mutants if name not in MUTANTS]
    if unknown:
        raise BadArgument(f"mutant {unknown[0]!r}, expected one that explore --list shows")
    for name, known in (("strategy", STRATEGIES), ("world", WORLDS)):
        if getattr(arguments, name) not in known:
            raise BadArgument(f"--{name}: {getattr(arguments, name)!r}, expected one of {', '.join(known)}")
    refuse_threads(arguments.executor)
    if arguments.jobs < 1:
        raise BadArgument(f"--jobs: {arguments.jobs}, expected 1 or more")
    if not 0 < arguments.seconds < SECONDS_MAX:
        raise BadArgument(f"--seconds: {arguments.seconds}, expected more than 0, less than {SECONDS_MAX:g}")
    if arguments.save is not None:
        check_folder("--save", arguments.save)
    hunts = _hunt_all(arguments, arguments.mutants or list(MUTANTS))
    verdict = Verdict.of(failed=any(one.found_by is None for one in hunts))
    if arguments.json:
        print(json.dumps(_mutants_json(hunts)))
    elif arguments.stories:
        print("\n".join(stories(hunts)))
    else:
        _print_mutants(hunts, verdict)
    if arguments.save is not None:
        sys.stdout.flush()
        kept = [save(arguments.save, one.failure) for one in hunts if one.failure is not None]
        if not arguments.json:
            print(f"{len(kept)} replay files in {arguments.save}")
    return verdict.exit_status


def stories(hunts: Iterable[Hunt]) -> list[str]:
    """Return a table in Markdown: where each fault is found, the sentence of its story, and the step before it."""
    lines = ["| fault | in | the story says | last step on it |", "| --- | --- | --- | --- |"]
    for one in hunts:
        if one.failure is not None:
            said = f"{one.failure.invariant}: {one_line(one.failure.text, SENTENCE_MAX)}"
            cells = (one.id, one.failure.scenario, said, last_step(replay.execute(one.failure)) or "none")
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def _hunt_all(arguments: argparse.Namespace, names: list[str]) -> list[Hunt]:
    console = Console(stderr=True)
    found: Iterable[Hunt]
    if arguments.world == "real":
        seconds = arguments.seconds * arguments.jobs / len(names)
        with ThreadPoolExecutor(arguments.jobs) as threads:  # each thread waits for a process
            found = threads.map(lambda name: hunt_on_threads(name, seconds, arguments.seed), names)
            return list(tracked(found, len(names), console, quiet=arguments.json))
    with open_executor(arguments.executor, arguments.jobs) as executor:
        found = executor.map(hunt, [(name, arguments.strategy, arguments.seed) for name in names])
        return list(tracked(found, len(names), console, quiet=arguments.json))


def _switches_ratio(hunts: list[Hunt]) -> float | None:
    """Return the median over the mutants found of switches after shrinking to switches before; None without any.

    What a search finds first may be simple already: a random walk's finds say more than a portfolio's.
    """
    ratios = [one.switches_shrunk / one.switches_found for one in hunts if one.switches_found]
    return median(ratios) if ratios else None


def _mutants_json(hunts: list[Hunt]) -> dict[str, object]:
    fields = (
        "id",
        "invariant",
        "found_by",
        "executions",
        "seconds",
        "switches_found",
        "switches_shrunk",
        "in_log",
    )
    return {
        "total": len(hunts),
        "found": sum(one.found_by is not None for one in hunts),
        "survived": sum(one.found_by is None for one in hunts),
        "not_expressible": len(NOT_EXPRESSIBLE),
        "switches_ratio_median": _switches_ratio(hunts),
        "survivors": [one.id for one in hunts if one.found_by is None],
        "reasons": NOT_EXPRESSIBLE,
        "mutants": [{name: getattr(one, name) for name in fields} for one in hunts],
    }


def _print_mutants(hunts: list[Hunt], verdict: Verdict) -> None:
    """Print a line for each fault, cut to the terminal's width (--json has all), and the sums."""
    console = terminal.console()
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    any_log = any(one.in_log for one in hunts)
    # What is cut is the words, not the figures: rich would take them all for as good as each other.
    share = (console.width - FIGURES_WIDTH) // (3 if any_log else 2)
    table.add_column("mutant", no_wrap=True)
    for name in ("found by", *(["proved by its log"] if any_log else [])):
        table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=share)
    for name in ("executions", "s", "switches"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("what is wrong", no_wrap=True, overflow="ellipsis", max_width=share)
    for one in hunts:
        table.add_row(
            one.id,
            one_line(one.found_by or "SURVIVED"),
            *([one_line(one.in_log or "")] if any_log else []),
            f"{one.executions:,}",
            f"{one.seconds:.1f}",
            f"{one.switches_found} → {one.switches_shrunk}" if one.switches_found else "",
            one.about,
            style="" if one.found_by else "bold red",
        )
    console.print(table, highlight=False, markup=False)
    if len(hunts) == len(MUTANTS):
        print(f"not expressible, as explore --list says: {', '.join(NOT_EXPRESSIBLE)}")
    ratio = _switches_ratio(hunts)
    if ratio is not None:
        print(f"shrinking: {ratio:.2f} of the switches are left, in the median over the mutants found")
    found = sum(one.found_by is not None for one in hunts)
    console.print(
        f"{found} found, {len(hunts) - found} survived, {len(NOT_EXPRESSIBLE)} not expressible",
        style=verdict.style,
        highlight=False,
    )
