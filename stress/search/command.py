"""`stress explore`: search the schedules of small scenarios for a race."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pagealloc.revision import DEFAULT, PRESETS, WITH_BARRIER
from stress.errors import BadArgument, Verdict, one_line
from stress.invariants import INVARIANTS
from stress.mutants import MUTANTS, NOT_EXPRESSIBLE
from stress.pool import SEARCH_EXECUTORS, refuse_threads
from stress.search.explore import MEMORY_MODELS, Failure, Result
from stress.search.jobs import STRATEGIES, Job, run_jobs, save
from stress.search.scenarios import SCENARIOS
from stress.search.story import tell_again
from stress.system import terminal
from stress.system.files import check_folder, output_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.set_defaults(command=command_explore)
    parser.add_argument("scenario", nargs="?", help="one scenario (default: all)")
    numbers: list[tuple[str, int, str, str]] = [
        ("--executions", 2000, "N", "executions of each scenario"),
        ("--preemptions", 2, "K", "bound of the depth-first search"),
        ("--seed", 1, "N", "of random strategies"),
        ("--jobs", os.cpu_count() or 1, "N", "processes"),
    ]
    for name, default, metavar, text in numbers:
        parser.add_argument(
            name, type=int, default=default, metavar=metavar, help=f"{text} (default: {default})"
        )
    parser.add_argument("--executor", default="processes", metavar="E", help=SEARCH_EXECUTORS)
    strategies = f"{', '.join(STRATEGIES)} (default: portfolio)"
    parser.add_argument("--strategy", default="portfolio", metavar="NAME", help=strategies)
    presets = (
        f"kernel to follow: {', '.join(PRESETS)}, or all (default: {DEFAULT.name}); {WITH_BARRIER} behind one adds "
        "the barrier that --memory tso finds missing"
    )
    parser.add_argument("--preset", default=DEFAULT.name, metavar="P", help=presets)
    parser.add_argument("--mutant", metavar="M", help="plant a fault first; --list shows them")
    memory = "memory model: sc (default), or tso, where a plain store may wait in its task's store buffer"
    parser.add_argument("--memory", default="sc", metavar="M", help=memory)
    parser.add_argument("--list", action="store_true", help="list scenarios and mutants, and do nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--save", type=output_path, metavar="DIR", help="where replay files go, if not here")


def command_explore(arguments: argparse.Namespace) -> int:
    """Search; FAILURE when an execution broke an invariant. The failure is told first, and kept then."""
    if arguments.list:
        return _list(as_json=arguments.json)
    jobs = _explore_jobs(arguments)
    if arguments.save is not None:
        check_folder("--save", arguments.save)
    results = list(run_jobs(jobs, arguments.jobs, quiet=arguments.json, engine=arguments.executor))
    failed = next((result for result in results if result.failure is not None), None)
    if not arguments.json:
        _print_explore(jobs, results, failed)
    replay_file = _keep(arguments, failed.failure) if failed is not None else None
    verdict = Verdict.of(failed=failed is not None)
    if arguments.json:
        print(json.dumps(_explore_json(results, failed, replay_file)))
    else:
        _print_verdict(results, verdict)
    return verdict.exit_status


def _keep(arguments: argparse.Namespace, failure: Failure | None) -> Path | None:
    """Write the replay file, and say with what it is executed again; what the disk refuses is no reason to say less."""
    if failure is None:
        return None
    try:
        path = save(arguments.save or Path(), failure)
    except BadArgument as error:
        print(f"stress: no replay file is kept: {one_line(str(error))}", file=sys.stderr)
        return None
    if not arguments.json:
        print(f"again with\n    python -m stress replay {path}", flush=True)
    return path


def _explore_jobs(arguments: argparse.Namespace) -> list[Job]:
    refuse_threads(arguments.executor)
    for name, least in (("executions", 1), ("preemptions", 0), ("jobs", 1)):
        if getattr(arguments, name) < least:
            raise BadArgument(f"--{name}: {getattr(arguments, name)}, expected {least} or more")
    for name, known in (
        ("strategy", STRATEGIES),
        ("preset", ("all", *PRESETS, *(name + WITH_BARRIER for name in PRESETS))),
        ("memory", tuple(MEMORY_MODELS)),
    ):
        if getattr(arguments, name) not in known:
            raise BadArgument(f"--{name}: {getattr(arguments, name)!r}, expected one of {', '.join(known)}")
    if arguments.scenario is not None and arguments.scenario not in SCENARIOS:
        raise BadArgument(f"scenario {arguments.scenario!r} is none of {', '.join(SCENARIOS)}")
    if arguments.mutant is not None and arguments.mutant not in MUTANTS:
        raise BadArgument(f"--mutant: {arguments.mutant!r}, expected one that explore --list shows")
    scenarios = [arguments.scenario] if arguments.scenario else list(SCENARIOS)
    presets = list(PRESETS) if arguments.preset == "all" else [arguments.preset]
    # One scenario alone is spread over the processes by seeds; a depth-first search is one piece.
    spread = arguments.jobs if len(scenarios) * len(presets) == 1 and arguments.strategy != "dfs" else 1
    return [
        Job(
            scenario,
            preset,
            arguments.strategy,
            arguments.seed + 1000 * part,
            -(-arguments.executions // spread),
            arguments.preemptions,
            arguments.mutant,
            arguments.memory,
        )
        for preset in presets
        for scenario in scenarios
        for part in range(spread)
    ]


def _distinct(results: list[Result]) -> int:
    """Count the distinct interleavings; processes that shared a scenario may have met the same ones."""
    histories: dict[tuple[str, str], set[int]] = {}
    for result in results:
        histories.setdefault((result.scenario, result.preset), set()).update(result.histories)
    return sum(map(len, histories.values()))


def _explore_json(
    results: list[Result], failed: Result | None, replay_file: Path | None
) -> dict[str, object]:
    seconds = sum(result.seconds for result in results)
    executions = sum(result.executions for result in results)
    return {
        "verdict": Verdict.of(failed=failed is not None),
        "executions": executions,
        "distinct": _distinct(results),
        "complete": all(result.complete for result in results),
        "steps": sum(result.steps for result in results),
        "seconds": seconds,
        "executions_per_second": executions / seconds if seconds else 0.0,
        "violation": asdict(failed.failure) if failed is not None and failed.failure is not None else None,
        "replay_file": str(replay_file) if replay_file is not None else None,
        "scenarios": [
            {
                "scenario": result.scenario,
                "executions": result.executions,
                "distinct": result.distinct,
                "complete": result.complete,
                "covered": result.covered,
            }
            for result in results
        ],
    }


def _print_explore(jobs: list[Job], results: list[Result], failed: Result | None) -> None:
    console = terminal.console()
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    several_presets = len({job.preset for job in jobs}) > 1
    for name in ("scenario", *(["preset"] if several_presets else [])):
        table.add_column(name, no_wrap=True)
    for name in ("executions", "distinct", "steps", "per s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for job, result in zip(jobs, results, strict=False):
        rate = result.executions / result.seconds if result.seconds else 0.0
        found = [f"{figure:,}" for figure in (result.executions, result.distinct, result.steps)]
        verdict = "complete" if result.complete else Verdict.of(failed=result.failure is not None)
        preset = [job.preset] if several_presets else []
        table.add_row(job.scenario, *preset, *found, f"{rate:,.0f}", verdict)
    console.print(table, highlight=False)
    for covered in sorted({result.covered for result in results if len(results) == 1 or result.complete}):
        console.print(covered, highlight=False, markup=False, soft_wrap=True)
    if failed is not None and failed.failure is not None:
        _tell(console, failed.failure)
        console.print(
            f"\nfound by {failed.found_by} after {failed.executions} executions; shrunk from {failed.first_switches} "
            f"to {failed.failure.switches} switches",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _print_verdict(results: list[Result], verdict: Verdict) -> None:
    executions = sum(result.executions for result in results)
    seconds = sum(result.seconds for result in results)
    complete = ", complete" if all(result.complete for result in results) else ""
    terminal.console().print(
        f"{verdict} {executions:,} executions{complete}, {_distinct(results):,} distinct, "
        f"{executions / seconds if seconds else 0:,.0f} per second and process",
        style=verdict.style,
        highlight=False,
        soft_wrap=True,
    )


def _tell(console: Console, failure: Failure) -> None:
    planted_fault = f", {failure.mutant} planted" if failure.mutant else ""
    tell_again(console, failure, f"\nscenario {failure.scenario}, preset {failure.preset}{planted_fault}")


def _list(*, as_json: bool) -> int:
    if as_json:
        scenarios = [{"name": one.name, "about": one.about} for one in SCENARIOS.values()]
        mutants = [
            {"id": name, "about": mutant.about, "invariant": mutant.invariant}
            for name, mutant in MUTANTS.items()
        ]
        print(json.dumps({"scenarios": scenarios, "mutants": mutants}))
        return 0
    console = terminal.console()
    for title, rows in (
        ("scenarios", [(one.name, one.about) for one in SCENARIOS.values()]),
        ("mutants", [(name, mutant.about) for name, mutant in MUTANTS.items()]),
        ("not expressible", list(NOT_EXPRESSIBLE.items())),
        ("invariants", list(INVARIANTS.items())),
    ):
        table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 1))
        table.add_column(no_wrap=True)
        table.add_column()
        for row in rows:
            table.add_row(*row)
        console.print(table)
    return 0
