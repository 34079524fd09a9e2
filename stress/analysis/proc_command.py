"""`stress proc`: a `/proc` file of a run at a chosen time, in the kernel's text."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from stress.analysis.proc import zones_at
from stress.errors import BadArgument
from stress.formats.procfs import FILES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.set_defaults(command=command_proc)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("file", choices=FILES, metavar="FILE", help=", ".join(FILES))
    parser.add_argument(
        "--at",
        type=float,
        required=True,
        metavar="SECONDS",
        help="time since the run began; later than its end: the end",
    )


def command_proc(arguments: argparse.Namespace) -> int:
    """Print one file."""
    if not arguments.at >= 0 or arguments.at == float("inf"):
        raise BadArgument(f"--at: {arguments.at:g}, expected seconds since the run began")
    sys.stdout.write(FILES[arguments.file](zones_at(arguments.run, arguments.at)))
    return 0
