"""`stress guest`: a real Linux against our device, with a load of a few lines."""

from __future__ import annotations

import argparse
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

from pagealloc.mmzone import Layout
from pagealloc.sync_real import RealSync
from pagealloc.tracepoints import Trace
from stress.errors import BadArgument
from stress.host import qemu_guest, uml
from stress.host.manners import HostManners
from stress.host.serve_command import listen
from stress.host.session import (
    Session,
    SessionParams,
    add_session_arguments,
    number,
    order_of,
    session_params,
)
from stress.host.trace_host import TraceHost
from stress.host.view import Watch
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
    parser.add_argument(
        "--qemu",
        action="store_true",
        help="boot a distribution's kernel in QEMU, whose own device is its host",
    )
    parser.add_argument(
        "--kernel",
        type=Path,
        metavar="FILE",
        help="for --qemu: a kernel's image (default: the newest of /boot)",
    )
    parser.add_argument(
        "--modules", type=Path, metavar="DIR", help="for --qemu: its modules (default: those of /lib/modules)"
    )
    add_session_arguments(parser)


def command_guest(arguments: argparse.Namespace) -> int:
    """Boot the guest and serve it to its end; exit status 0 when it kept what a kernel must keep, 1 when not."""
    order = None if arguments.order is None else order_of(arguments.order, 0)
    load = read_load(arguments.load)
    if arguments.qemu:
        return _in_qemu(arguments, load, order)
    if arguments.kernel is not None or arguments.modules is not None:
        raise BadArgument(
            "--kernel and --modules: expected with --qemu; user-mode Linux is a kernel of its own"
        )
    params = session_params("guest", arguments, uml.PAGEBLOCK_ORDER if order is None else order)
    memory_mib = _memory_mib(arguments, MEMORY_MIB_MAX)
    archive = uml.build_initrd(load, order)
    sync = RealSync()
    session = Session(params, sync, arguments.run_dir, quiet=arguments.json)
    with tempfile.TemporaryDirectory(prefix="pagealloc-guest-") as name:
        path = Path(name) / "balloon"
        try:
            with listen(path) as server:
                guest = uml.boot(sync, Path(name), archive, path, memory_mib, _guest_says(session))
                connection = accept(server, guest)
        except BaseException as error:
            session.give_up(error)
            raise
        crashed = False
        try:
            session.serve(connection, lambda: not guest.alive())
            _await_end(session, guest)
            crashed = guest.crashed()
        finally:
            guest.end()
    how = f"the guest ended with {guest.how_it_ended()}"
    session.summary.notes.append(how)
    if crashed:
        session.summary.undecided = how
    return session.finish()


def _await_end(session: Session, guest: Child) -> None:
    """Give a guest whose host has left the time to end by itself, as long as nobody is in a hurry."""
    summary, seconds = session.summary, session.params.seconds
    try:
        if not summary.interrupted:
            guest.wait(LAST_WORDS_S if seconds is None else seconds - summary.seconds)
    except KeyboardInterrupt as interruption:
        session.interrupt(interruption)


def _in_qemu(arguments: argparse.Namespace, load: str, order: int | None) -> int:
    """Boot a distribution's kernel in QEMU, and read its reports off QEMU's trace."""
    kernel = qemu_guest.find_kernel(arguments.kernel, arguments.modules)
    params = session_params("guest --qemu", arguments, Layout().pageblock_order if order is None else order)
    if params.manners != HostManners():
        raise BadArgument("--qemu: QEMU's own device has no bad manners, expected none of those options")
    memory_mib = _memory_mib(arguments, qemu_guest.MEMORY_MIB_MAX)
    archive = qemu_guest.build_initrd(kernel, load, order)
    sync = RealSync()
    session = Session(params, sync, arguments.run_dir, quiet=arguments.json)
    started: list[Child] = []
    with (
        qemu_guest.guest_ram(memory_mib) as ram,
        tempfile.TemporaryDirectory(prefix="pagealloc-guest-") as folder,
    ):

        def make(trace: Trace, watch: Watch, params: SessionParams) -> TraceHost:
            return TraceHost(
                sync,
                trace,
                watch,
                order=params.order,
                capacity=params.capacity,
                delay_s=params.delay,
                ram_address=lambda: ram.address_in(started[0].pid),
                resident_bytes=ram.resident_bytes,
                total_bytes=ram.nr_bytes,
            )

        def begin(host: TraceHost) -> Callable[[], bool]:
            say = _guest_says(session)

            def hear(line: str) -> None:
                if not host.hear(line):
                    say(line)

            started.append(qemu_guest.boot(sync, Path(folder), kernel, archive, ram, hear))
            return started[0].alive

        try:
            session.follow(make, begin)
        finally:
            for guest in started:
                guest.end()
    session.summary.notes.append(f"QEMU ended with {started[0].how_it_ended()}")
    return session.finish()


def _guest_says(session: Session) -> Callable[[str], None]:
    return lambda line: session.say(f"guest: {line}")


def _memory_mib(arguments: argparse.Namespace, most: int) -> int:
    return int(number("--memory", arguments.memory, DEFAULT_MEMORY_MIB, MEMORY_MIB_MIN, most))


LOAD_MAX = 1 << 20  # characters


def read_load(path: Path | None) -> str:
    """Return the guest's load. Raises BadArgument when the file cannot be read."""
    if path is None:
        return DEFAULT_LOAD
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LOAD_MAX + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise BadArgument(f"{path}: expected lines of shell: {getattr(error, 'strerror', error)}") from error
    if len(text) > LOAD_MAX:
        raise BadArgument(f"{path}: expected lines of shell, {LOAD_MAX >> 20} MiB at most")
    return text


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
