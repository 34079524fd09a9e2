"""`stress guest`: a real Linux against our device, with a load of a few lines."""

from __future__ import annotations

import argparse
import socket
import tempfile
from pathlib import Path

from pagealloc.sync_real import RealSync
from stress.errors import BadArgument
from stress.host import uml
from stress.host.serve_command import listen
from stress.host.session import Session, add_session_arguments, number, order_of, session_params
from workers.child import Child

DEFAULT_LOAD = "fill 200 a\nsleep 1\ndrop a\nsleep 5"
DEFAULT_MEMORY_MIB = 512
CONNECT_POLL_S = 0.2
LAST_WORDS_S = 10.0  # for a guest whose device has ended before it
MEMORY_MIB_MIN, MEMORY_MIB_MAX = 32, 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.set_defaults(command=command_guest)
    parser.add_argument(
        "load",
        nargs="?",
        type=Path,
        metavar="FILE",
        help="lines of shell for the guest, which has `fill MIB NAME` and `drop NAME` (default: fills 200 MiB for a "
        "second, and waits for the passes)",
    )
    parser.add_argument("--memory", metavar="MIB", help=f"of the guest (default: {DEFAULT_MEMORY_MIB})")
    parser.add_argument(
        "--order", metavar="K", help=f"the smallest to report (default: its own, {uml.PAGEBLOCK_ORDER})"
    )
    add_session_arguments(parser)


def command_guest(arguments: argparse.Namespace) -> int:
    """Boot the guest and serve it to its end; exit status 0 when it kept what a kernel must keep, 1 when not."""
    order = None if arguments.order is None else order_of(arguments.order, 0)
    params = session_params("guest", arguments, uml.PAGEBLOCK_ORDER if order is None else order)
    memory_mib = int(number("--memory", arguments.memory, DEFAULT_MEMORY_MIB, MEMORY_MIB_MIN, MEMORY_MIB_MAX))
    archive = uml.build_initrd(read_load(arguments.load), order)
    sync = RealSync()
    session = Session(params, sync, arguments.run_dir, quiet=arguments.json)
    with tempfile.TemporaryDirectory(prefix="pagealloc-guest-") as name:
        path = Path(name) / "balloon"
        try:
            with listen(path) as server:
                guest = uml.boot(
                    sync, Path(name), archive, path, memory_mib, lambda line: session.say(f"guest: {line}")
                )
                connection = accept(server, guest)
        except BaseException:
            session.give_up()
            raise
        try:
            session.serve(connection, lambda: not guest.alive())
            guest.wait(LAST_WORDS_S if params.seconds is None else params.seconds - session.summary.seconds)
        finally:
            guest.end()
    session.summary.notes.append(f"the guest ended with {guest.how_it_ended()}")
    return session.finish()


def read_load(path: Path | None) -> str:
    """Return the guest's load. Raises BadArgument when the file cannot be read."""
    if path is None:
        return DEFAULT_LOAD
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadArgument(f"{path}: expected lines of shell: {getattr(error, 'strerror', error)}") from error


def accept(server: socket.socket, guest: Child) -> socket.socket:
    """Wait until the guest connects. Raises BadArgument when it ends before that."""
    server.settimeout(CONNECT_POLL_S)
    while True:
        try:
            return server.accept()[0]
        except TimeoutError:
            if not guest.alive():
                raise BadArgument(
                    f"the guest ended before it came to its balloon ({guest.how_it_ended()})"
                ) from None
        except BaseException:
            guest.end()
            raise
