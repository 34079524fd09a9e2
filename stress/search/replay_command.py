"""`stress replay`: execute a recorded failure again, exactly."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from stress.controlled.world import Violation
from stress.errors import BadArgument
from stress.search import replay
from stress.search.story import tell, write_perfetto


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.set_defaults(command=command_replay)
    parser.add_argument("file", type=Path, metavar="FILE", help="replay file that explore wrote")
    parser.add_argument("--any-code", action="store_true", help="try it although the code has changed since")
    parser.add_argument(
        "--perfetto", type=Path, metavar="OUT", help="write a trace for ui.perfetto.dev as well"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def command_replay(arguments: argparse.Namespace) -> int:
    """Execute a failure again; exit status 1 when it fails again."""
    failure = replay.load(arguments.file, any_code=arguments.any_code)
    world = replay.execute(failure)
    again = world.failure if isinstance(world.failure, Violation) else None
    identical = again is not None and (again.invariant, again.text) == (failure.invariant, failure.text)
    if arguments.perfetto is not None:
        try:
            write_perfetto(arguments.perfetto, world)
        except OSError as error:
            raise BadArgument(f"--perfetto: {arguments.perfetto}: {error.strerror}") from error
    if arguments.json:
        violation = None if again is None else {"invariant": again.invariant, "text": again.text}
        print(json.dumps({"identical": identical, "violation": violation, "schedule": world.schedule}))
        return 1 if again else 0
    console = Console()
    if again is not None:
        planted_fault = f", {failure.mutant} planted" if failure.mutant else ""
        tell(console, world, f"scenario {failure.scenario}, preset {failure.preset}{planted_fault}")
    verdict = (
        "reproduced, identical" if identical else ("another violation" if again else "no violation any more")
    )
    console.print(f"\n{verdict}", style="bold", highlight=False)
    return 1 if again else 0
