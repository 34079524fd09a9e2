"""`stress replay`: execute a recorded failure again, exactly."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from stress.controlled.world import Violation
from stress.errors import Verdict
from stress.search import replay
from stress.search.story import tell, write_perfetto
from stress.system.files import check_writable, output_path, write_whole
from stress.system.terminal import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.set_defaults(command=command_replay)
    parser.add_argument("file", type=Path, metavar="FILE", help="replay file that explore wrote")
    parser.add_argument("--any-code", action="store_true", help="try it although the code has changed since")
    parser.add_argument(
        "--perfetto", type=output_path, metavar="OUT", help="write a trace for ui.perfetto.dev as well"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def command_replay(arguments: argparse.Namespace) -> int:
    """Execute a failure again; SUCCESS, and so exit status 0, when exactly that failure is there again."""
    failure = replay.load(arguments.file, any_code=arguments.any_code)
    if arguments.perfetto is not None:
        check_writable("--perfetto", arguments.perfetto)
    world = replay.execute(failure)
    again = world.failure if isinstance(world.failure, Violation) else None
    identical = again is not None and (again.invariant, again.text) == (failure.invariant, failure.text)
    if arguments.json:
        violation = None if again is None else {"invariant": again.invariant, "text": again.text}
        print(json.dumps({"identical": identical, "violation": violation, "schedule": world.schedule}))
    elif again is not None:
        planted_fault = f", {failure.mutant} planted" if failure.mutant else ""
        tell(console(), world, f"scenario {failure.scenario}, preset {failure.preset}{planted_fault}")
    if arguments.perfetto is not None:
        sys.stdout.flush()
        write_whole("--perfetto", arguments.perfetto, lambda draft: write_perfetto(draft, world))
    if not arguments.json:
        if arguments.perfetto is not None:
            print(f"trace {arguments.perfetto}, for ui.perfetto.dev")
        other = "another violation" if again is not None else "no violation any more"
        console().print(f"\n{'reproduced, identical' if identical else other}", style="bold", highlight=False)
    return Verdict.of(failed=not identical).exit_status
