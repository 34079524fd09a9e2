"""`stress proc`: a `/proc` file of a run at a chosen time, or its trace up to then, in the kernel's text."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from stress.analysis.proc import zones_at
from stress.analysis.trace_text import trace_text
from stress.errors import BadArgument
from stress.formats.procfs import FILES

TRACE = "ftrace"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.set_defaults(command=command_proc)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("file", choices=(*FILES, TRACE), metavar="FILE", help=", ".join((*FILES, TRACE)))
    parser.add_argument(
        "--at",
        type=float,
        metavar="SECONDS",
        help=f"time since the run began; later than its end: the end ({TRACE} ends there, and may do without)",
    )
    parser.add_argument(
        "--decimal",
        action="store_true",
        help=f"pfns of {TRACE} as decimal numbers, as older kernels and trace-pagealloc-postprocess.pl have them",
    )


def command_proc(arguments: argparse.Namespace) -> int:
    """Print one file."""
    if arguments.at is None:
        if arguments.file != TRACE:
            raise BadArgument(f"--at: none, expected the time that {arguments.file} is to tell of")
        arguments.at = sys.float_info.max
    if not arguments.at >= 0 or arguments.at == float("inf"):
        raise BadArgument(f"--at: {arguments.at:g}, expected seconds since the run began")
    if arguments.file == TRACE:
        sys.stdout.writelines(trace_text(arguments.run, arguments.at, decimal=arguments.decimal))
        return 0
    sys.stdout.write(FILES[arguments.file](zones_at(arguments.run, arguments.at)))
    return 0
