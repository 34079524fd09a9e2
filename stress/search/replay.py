"""A failure kept in a file, and executed again exactly.

The file names scenario, preset and planted fault, the schedule, and a fingerprint of the code: a schedule is
a list of positions, and means nothing for a program that takes other steps.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from pagealloc.revision import PRESETS, WITH_BARRIER
from stress.controlled.strategy import Replay
from stress.controlled.world import ScheduleError, World
from stress.errors import BadArgument, quoted
from stress.mutants import MUTANTS, planted
from stress.search.explore import LOOKED_FOR, MEMORY_MODELS, Failure, Program, program
from stress.search.scenarios import SCENARIOS
from stress.system.files import read_text, write_whole

FORMAT = "pagealloc-replay"
FORMAT_VERSION = 2  # since 2 with the memory model
FIELDS: dict[str, tuple[type, ...]] = {
    "fingerprint": (str,),
    "scenario": (str,),
    "preset": (str,),
    "memory": (str,),
    "mutant": (str, type(None)),
    "invariant": (str,),
    "text": (str,),
    "schedule": (list,),
    "switches": (int,),
}


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
    """Write a failure to a replay file. Raises BadArgument when it cannot be written."""
    content = {"format": FORMAT, "version": FORMAT_VERSION, "fingerprint": fingerprint(), **asdict(failure)}
    text = json.dumps(content, indent=1) + "\n"
    write_whole("--save", path, lambda draft: draft.write_text(text, encoding="utf-8"))


def load(path: Path, *, any_code: bool = False, known_scenario: bool = True) -> Failure:
    """Read a replay file. Raises ReplayError, also when the code has changed, unless `any_code`.

    Without `known_scenario` it may be of a program that only its owner knows, a test.
    """
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:  # also numbers and nesting beyond Python's limits
        raise ReplayError(f"{path}: no readable JSON file ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ReplayError(f"{path}: no replay file (its format is not {FORMAT!r})")
    if content.get("version") != FORMAT_VERSION:
        raise ReplayError(f"{path}: version {quoted(content.get('version'))}, expected {FORMAT_VERSION}")
    for name, kinds in FIELDS.items():
        if name not in content:
            raise ReplayError(f"{path}: the field {name!r} is missing")
        if type(content[name]) not in kinds:
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise ReplayError(f"{path}: {name} is {quoted(content[name])}, expected {expected}")
    failure = Failure(**{name: content[name] for name in Failure.__dataclass_fields__})
    recorded = content["fingerprint"]
    if not all(type(entry) is int and entry >= 0 for entry in failure.schedule):
        raise ReplayError(f"{path}: the schedule is no list of numbers, 0 or more each")
    for what, value, known in (
        ("scenario", failure.scenario if known_scenario else None, SCENARIOS),
        ("preset", str(failure.preset).removesuffix(WITH_BARRIER), PRESETS),
        ("mutant", failure.mutant, MUTANTS),
        ("memory", failure.memory, MEMORY_MODELS),
    ):
        if value is not None and value not in known:
            raise ReplayError(f"{path}: {what} {quoted(value)} is not known here")
    if recorded != fingerprint() and not any_code:
        raise ReplayError(
            f"{path}: recorded with other code ({quoted(recorded, str)}, this is {fingerprint()}); --any-code tries "
            "anyway"
        )
    return failure


def execute(failure: Failure, subject: Program | None = None) -> World:
    """Execute a kept schedule again, with a log. Raises ReplayError when it does not fit the code."""
    subject = subject or program(failure.scenario, failure.preset, memory=failure.memory)
    chooser = Replay(failure.schedule)
    try:
        with planted(failure.mutant):
            world = subject.execute(chooser, log=True, records=failure.invariant in LOOKED_FOR)
    except ScheduleError as error:
        raise ReplayError(f"the schedule does not fit: {error}") from error
    if chooser.left:
        raise ReplayError(f"the schedule does not fit: {chooser.left} of its entries were not used")
    return world
