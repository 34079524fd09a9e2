"""The command line: one table of commands, each in the room that it belongs to.

What an exit status means stands in `stress.errors`; a message is one line on stderr.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from importlib import import_module
from importlib.util import find_spec
from io import TextIOWrapper
from pathlib import Path
from signal import SIGINT, SIGPIPE
from traceback import print_exc
from typing import NamedTuple, NoReturn, TextIO

from pagealloc import COMPILED, __version__
from pagealloc.errors import RamError
from stress.errors import (
    EXIT_BAD_INPUT,
    EXIT_CANNOT,
    EXIT_FAILURE,
    EXIT_SIGNAL,
    EXIT_STATUSES,
    BadArgument,
    BadInput,
    CannotBeDone,
    one_line,
)
from stress.provenance import INTERPRETED_ONLY
from stress.system.leaving import raised_once
from workers.errors import ReporterError

MESSAGE_MAX = 1000  # characters


class Command(NamedTuple):
    """A command: the module with its `add_arguments(parser)`, one line of help, examples, the extra that it needs.

    `watches` is for those that put classes of their own, or faults, in the place of the allocator's: compiled code
    takes no such things.
    """

    module: str
    help: str
    examples: tuple[str, ...]
    extra: str = ""
    sums_up: bool = False  # when it is interrupted, by KeyboardInterrupt
    watches: bool = False


# What a command imports is imported when it is chosen: a free-threaded run must not meet greenlet, which gives the
# interpreter its GIL back, and `run` does without any extra.
COMMANDS = {
    "run": Command(
        "stress.run.command",
        "allocator threads and a reporting worker on real memory",
        (
            "run --allocators 16 --seconds 60 --zones DMA32=256MiB,Normal=2GiB --order 9 --delay 2",
            "run --reporter sleep --reporter-sleep 0.01..0.2",
            "run reporter-hanging --seconds 30",
            "run --reporter mine:Count --json",
        ),
    ),
    "check": Command(
        "stress.hunt.check_command",
        "I changed something, is it right? Every instrument at once, and one verdict",
        ("check --quick", "check --json"),
        "search",
        watches=True,
    ),
    "golden": Command(
        "stress.golden.command",
        "replay recorded runs of the kernel's own code",
        ("golden tests/golden", "golden tests/golden/designed/28_merge_in_flight.jsonl.gz"),
    ),
    "follow": Command(
        "stress.golden.follow_command",
        "hold our page sets against the calls of a running kernel's users",
        ("follow trace.txt.gz zoneinfo.txt --preset v6.1",),
        watches=True,
    ),
    "bench": Command(
        "stress.bench.command",
        "measure how fast it is, against others and against limits",
        (
            "bench --quick",
            "bench --growth --chart bench.html",
            "bench --compiled ../compiled/bin/python --json",
        ),
    ),
    "lab": Command(
        "stress.lab.command",
        "predict in virtual time what each setting of reporting would give back, and cost",
        (
            "lab",
            "lab burst:2GiB --order 0,5,9 --delay 0.1,1,2 --goal settle",
            "lab --rss curve.csv --seeds 1",
            "lab --validate",
        ),
        sums_up=True,
    ),
    "verify": Command(
        "stress.analysis.verify_command",
        "decide the invariants from a run's log alone",
        ("verify runs/20261231-235959", "verify mine --json"),
        "analysis",
    ),
    "analyze": Command(
        "stress.analysis.analyze_command",
        "where the time went, what reporting bought: tables and a page",
        (
            "analyze mine",
            "analyze before after --report difference.html",
            "analyze mine --perfetto trace.json.gz",
        ),
        "analysis",
    ),
    "sql": Command(
        "stress.analysis.sql_command",
        "ask a run's log in SQL, or export it as Parquet",
        (
            "sql --views",
            "sql mine 'SELECT site, count(*) FROM locks GROUP BY site'",
            "sql mine --parquet columns",
        ),
        "analysis",
    ),
    "proc": Command(
        "stress.analysis.proc_command",
        "buddyinfo, pagetypeinfo or zoneinfo at a time of a run, or its kmem trace as text",
        ("proc mine buddyinfo --at 4.2", "proc mine zoneinfo --at 1e6", "proc mine ftrace"),
        "analysis",
    ),
    "serve-balloon": Command(
        "stress.host.serve_command",
        "be the balloon of a real guest, by vhost-user",
        ("serve-balloon balloon.socket",),
        sums_up=True,
    ),
    "guest": Command(
        "stress.host.guest_command",
        "boot a real Linux that reports its free pages to us",
        ("guest", "guest load.sh --memory 1024 --order 5"),
        sums_up=True,
    ),
    "explore": Command(
        "stress.search.command",
        "search the schedules of small scenarios for a race",
        (
            "explore",
            "explore free-the-buddy --strategy dfs --preemptions 2",
            "explore --mutant M-45 --save found",
        ),
        "search",
        watches=True,
    ),
    "replay": Command(
        "stress.search.replay_command",
        "execute a recorded failure again: exit status 0 when it fails again, 1 when not",
        (
            "replay failure-free-the-buddy-v6.1-M-45.json",
            "replay failure.json --any-code --perfetto trace.json",
        ),
        "search",
        watches=True,
    ),
    "mutants": Command(
        "stress.hunt.command",
        "show that every planted fault is found",
        ("mutants", "mutants M-17 M-45 --save found", "mutants --world real --seconds 120"),
        "search",
        watches=True,
    ),
}

PACKAGES = ("rich", "sortedcontainers", "structlog")  # that every installation has
PACKAGES_OF_EXTRAS = {"analysis": ("duckdb", "msgspec", "plotly"), "search": ("greenlet",)}
NEEDS = {"analysis": "reading logs needs", "search": "schedule search needs"}
BUILD = " (compiled)" if COMPILED else ""


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
        try:
            arguments = build_parser(words[0] if words else "").parse_args(words)
            with raised_once() if COMMANDS[words[0]].sums_up else nullcontext():
                return int(arguments.command(arguments))
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where what goes wrong has a status
    except (BadInput, ReporterError, RamError) as error:
        return complain(str(error), EXIT_BAD_INPUT)
    except KeyboardInterrupt as interruption:
        return complain("interrupted", EXIT_SIGNAL + getattr(interruption, "number", SIGINT))
    except SystemExit as ending:
        if ending.code == EXIT_FAILURE:  # rich, when whoever reads its output has left
            return EXIT_SIGNAL + SIGPIPE
        raise
    except Exception as error:
        return _could_not(error)


def _could_not(error: Exception) -> int:
    """Say what kept a command from being done, and return its status."""
    if isinstance(error, BrokenPipeError):  # whoever read the output has left, as `head` does
        _drop(sys.stdout)
        return EXIT_SIGNAL + SIGPIPE
    if isinstance(error, OSError):
        _drop(sys.stdout)
        where = f"{error.filename}: " if error.filename is not None else ""
        output = "output: " if error.errno == errno.ENOSPC and not where else ""
        return complain(f"{output}{where}{error.strerror or error}", EXIT_CANNOT)
    if isinstance(error, CannotBeDone):
        return complain(str(error), EXIT_CANNOT)
    if isinstance(error, MemoryError):
        return complain("out of memory", EXIT_CANNOT)
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return complain("no more threads can be started: a limit of this machine, see ulimit -u", EXIT_CANNOT)
    if isinstance(error, ValueError) and "closed file" in str(error):
        return complain("output: it was closed from within, by a reporter for one", EXIT_CANNOT)
    with suppress(OSError, ValueError):
        print_exc()
    return complain("this is a fault of pagealloc itself, please report it with the lines above", EXIT_CANNOT)


def _drop(stream: TextIO) -> None:
    """Let what is still to be written go nowhere: the interpreter tries again when it ends."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def complain(text: str, status: int) -> int:
    """Say in one line on stderr what is wrong; returns the status."""
    try:
        print(f"stress: {one_line(text, MESSAGE_MAX)}", file=sys.stderr, flush=True)
    except (OSError, ValueError):  # there is nobody left to be told; the status is the same
        _drop(sys.stderr)
    return status


def build_parser(chosen: str) -> argparse.ArgumentParser:
    """Build the parser; a command is a line of help, and has arguments when it is the `chosen` one."""
    name_of_console = Path(sys.argv[0]).name
    program = name_of_console if name_of_console == "pagealloc" else "stress"
    parser = OneLineParser(
        prog=program,
        description="Instruments for pagealloc. COMMAND --help has its options and examples.",
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pagealloc {__version__}{BUILD}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=OneLineParser)
    for name, command in COMMANDS.items():
        start = "pagealloc" if program == "pagealloc" else "python -m stress"
        examples = "\n".join(f"    {start} {example}" for example in command.examples)
        subparser = commands.add_parser(
            name,
            help=command.help,
            description=command.help,
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == chosen:
            _add_arguments(subparser, command)
    return parser


def _add_arguments(parser: argparse.ArgumentParser, command: Command) -> None:
    if COMPILED and command.watches:
        raise BadArgument(f"this command needs {INTERPRETED_ONLY}")
    for package in PACKAGES:
        if find_spec(package) is None:  # a clone whose environment is not active, as a rule
            raise BadArgument(
                f"{sys.executable} has no package {package}, expected a Python that pagealloc was installed into "
                "(README, See it)"
            )
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
