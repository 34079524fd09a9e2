"""A failure kept in a file, and executed again exactly.

The file names scenario, preset and planted fault, the schedule, and a fingerprint of the code: a schedule is
a list of positions, and means nothing for a program that takes other steps.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from pagealloc.revision import PRESETS
from stress.controlled.strategy import Replay
from stress.controlled.world import ScheduleError, World
from stress.errors import BadArgument
from stress.mutants import MUTANTS, planted
from stress.search.explore import Failure, Program, program
from stress.search.scenarios import SCENARIOS

FORMAT = "pagealloc-replay"
FORMAT_VERSION = 1


class ReplayError(BadArgument):
    """A file is no replay file, or not one of this code; the message names it."""


def fingerprint() -> str:
    """Identify the code that schedules run through: every module of the three floors."""
    root = Path(__file__).resolve().parents[2]
    text = hashlib.sha256()
    for floor in ("pagealloc", "workers", "stress"):
        for path in sorted((root / floor).rglob("*.py")):
            text.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return text.hexdigest()[:16]


def save(path: Path, failure: Failure) -> None:
    """Write a failure to a replay file."""
    content = {"format": FORMAT, "version": FORMAT_VERSION, "fingerprint": fingerprint(), **asdict(failure)}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load(path: Path, *, any_code: bool = False, known_scenario: bool = True) -> Failure:
    """Read a replay file. Raises ReplayError, also when the code has changed, unless `any_code`.

    Without `known_scenario` it may be of a program that only its owner knows, a test.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ReplayError(f"{path}: no readable JSON file ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ReplayError(f"{path}: no replay file (its format is not {FORMAT!r})")
    if content.get("version") != FORMAT_VERSION:
        raise ReplayError(f"{path}: version {content.get('version')}, expected {FORMAT_VERSION}")
    try:
        failure = Failure(**{name: content[name] for name in Failure.__dataclass_fields__})
        recorded = content["fingerprint"]
    except KeyError as error:
        raise ReplayError(f"{path}: the field {error} is missing") from error
    schedule = failure.schedule
    if not isinstance(schedule, list) or not all(type(entry) is int and entry >= 0 for entry in schedule):
        raise ReplayError(f"{path}: the schedule is no list of numbers, 0 or more each")
    for what, name, known in (
        ("scenario", failure.scenario if known_scenario else None, SCENARIOS),
        ("preset", failure.preset, PRESETS),
        ("mutant", failure.mutant, MUTANTS),
    ):
        if name is not None and name not in list(known):
            raise ReplayError(f"{path}: {what} {name!r} is not known here")
    if recorded != fingerprint() and not any_code:
        raise ReplayError(
            f"{path}: recorded with other code ({recorded}, this is {fingerprint()}); --any-code tries anyway"
        )
    return failure


def execute(failure: Failure, subject: Program | None = None) -> World:
    """Execute a kept schedule again, with a log. Raises ReplayError when it does not fit the code."""
    subject = subject or program(failure.scenario, failure.preset)
    chooser = Replay(failure.schedule)
    try:
        with planted(failure.mutant):
            world = subject.execute(chooser, log=True)
    except ScheduleError as error:
        raise ReplayError(f"the schedule does not fit: {error}") from error
    if chooser.left:
        raise ReplayError(f"the schedule does not fit: {chooser.left} of its entries were not used")
    return world
