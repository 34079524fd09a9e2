"""The command line: one table of commands, each in the room that it belongs to.

Exit status 0 for success, 1 for a failed check, 2 for bad input, with one line on stderr that says what.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import NamedTuple, NoReturn

from pagealloc.errors import RamError
from stress.errors import EXIT_BAD_INPUT, EXIT_FAILURE, EXIT_INTERRUPTED, BadArgument, BadInput
from workers.errors import ReporterError


class Command(NamedTuple):
    """A command: the module with its `add_arguments(parser)`, one line of help, the extra that it needs."""

    module: str
    help: str
    extra: str = ""


# What a command imports is imported when it is chosen: a free-threaded run must not meet greenlet, which gives the
# interpreter its GIL back, and `run` does without any extra.
COMMANDS = {
    "run": Command("stress.run.command", "allocator threads and a reporting worker on real memory"),
    "golden": Command("stress.golden.command", "replay recorded runs of the kernel's own code"),
    "bench": Command("stress.bench.command", "measure how fast it is, against others and against limits"),
    "lab": Command(
        "stress.lab.command",
        "predict in virtual time what each setting of reporting would give back, and cost",
    ),
    "verify": Command(
        "stress.analysis.verify_command", "decide the invariants from a run's log alone", "analysis"
    ),
    "analyze": Command(
        "stress.analysis.analyze_command",
        "where the time went, what reporting bought: tables and a page",
        "analysis",
    ),
    "sql": Command(
        "stress.analysis.sql_command", "ask a run's log in SQL, or export it as Parquet", "analysis"
    ),
    "proc": Command(
        "stress.analysis.proc_command", "buddyinfo, pagetypeinfo or zoneinfo at a time of a run", "analysis"
    ),
    "serve-balloon": Command("stress.host.serve_command", "be the balloon of a real guest, by vhost-user"),
    "guest": Command("stress.host.guest_command", "boot a real Linux that reports its free pages to us"),
    "explore": Command(
        "stress.search.command", "search the schedules of small scenarios for a race", "search"
    ),
    "replay": Command("stress.search.replay_command", "execute a recorded failure again", "search"),
    "mutants": Command("stress.hunt.command", "show that every planted fault is found", "search"),
}

PACKAGES_OF_EXTRAS = {"analysis": ("duckdb", "msgspec", "plotly"), "search": ("greenlet",)}
NEEDS = {"analysis": "reading logs needs", "search": "schedule search needs"}


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that answers a bad argument with one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: {message} (--help lists what there is)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows fewer letters gets a question mark
    try:
        arguments = build_parser(words[0] if words else "").parse_args(words)
        status: int = arguments.command(arguments)
    except (BadInput, ReporterError, RamError) as error:
        return complain(str(error))
    except MemoryError:
        return complain(
            "no memory for the pages' own bookkeeping (17 bytes a page): expected smaller --zones"
        )
    except KeyboardInterrupt:
        print("stress: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        # Output that cannot be written: whoever read it has left, or the disk is full. The rest goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print(f"stress: output: {error.strerror}", file=sys.stderr)
        return EXIT_FAILURE
    return status


def complain(text: str) -> int:
    """Say in one line on stderr what is wrong with the input."""
    print(f"stress: {' '.join(text.split())}", file=sys.stderr)
    return EXIT_BAD_INPUT


def build_parser(chosen: str) -> argparse.ArgumentParser:
    """Build the parser; a command is a line of help, and has arguments when it is the `chosen` one."""
    parser = OneLineParser(prog="stress", description="Instruments for pagealloc.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=OneLineParser)
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(name, help=command.help, description=command.help)
        if name == chosen:
            _add_arguments(subparser, command)
    return parser


def _add_arguments(parser: argparse.ArgumentParser, command: Command) -> None:
    try:
        module = import_module(command.module)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in PACKAGES_OF_EXTRAS.get(command.extra, ()):
            raise
        raise BadArgument(
            f"{NEEDS[command.extra]} {package}: pip install 'pagealloc[{command.extra}]'"
        ) from error
    module.add_arguments(parser)
