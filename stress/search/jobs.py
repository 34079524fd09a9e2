"""Searches as jobs for processes: one is small, and its result can be sent home."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from stress.controlled.strategy import make_strategy
from stress.pool import open_executor
from stress.search import replay
from stress.search.explore import Failure, Result, explore, program

T = TypeVar("T")

STRATEGIES = ("portfolio", "dfs", "pct", "random")
REPLAY_FILE = "failure-{scenario}-{preset}{mutant}.json"


@dataclass(frozen=True, slots=True)
class Job:
    """One search, small enough to be sent to another process."""

    scenario: str
    preset: str
    strategy: str
    seed: int
    executions: int
    preemptions: int
    mutant: str | None
    memory: str = "sc"


def run_job(job: Job) -> Result:
    """Search as the job says."""
    strategy = make_strategy(job.strategy, job.seed, job.executions, job.preemptions)
    return explore(program(job.scenario, job.preset, memory=job.memory), strategy, job.executions, job.mutant)


def run_jobs(jobs: list[Job], processes: int, *, quiet: bool, engine: str = "processes") -> Iterator[Result]:
    """Run jobs on an executor until one fails; in this process if there is only one to use."""
    console = Console(stderr=True)
    if len(jobs) == 1 or (processes == 1 and engine == "processes"):
        results: Iterable[Result] = map(run_job, jobs)
        yield from _until_failure(tracked(results, len(jobs), console, quiet=quiet))
        return
    with open_executor(engine, min(processes, len(jobs))) as executor:
        results = executor.map(run_job, jobs)
        yield from _until_failure(tracked(results, len(jobs), console, quiet=quiet))


def _until_failure(results: Iterable[Result]) -> Iterator[Result]:
    for result in results:
        yield result
        if result.failure is not None:
            return


def tracked(results: Iterable[T], total: int, console: Console, *, quiet: bool) -> Iterable[T]:
    """Show how many results have come, on a terminal."""
    if quiet or not console.is_terminal:
        return results
    return track(results, "searching", total=total, console=console, transient=True)


def save(folder: Path, failure: Failure) -> Path:
    """Keep a failure in a replay file. Raises BadArgument when it cannot be written."""
    mutant = f"-{failure.mutant}" if failure.mutant else ""
    path = folder / REPLAY_FILE.format(scenario=failure.scenario, preset=failure.preset, mutant=mutant)
    replay.save(path, failure)
    return path
