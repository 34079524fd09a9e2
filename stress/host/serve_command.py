"""`stress serve-balloon`: a virtio-balloon for a guest of your own, by vhost-user."""

from __future__ import annotations

import argparse
import socket
import stat
from contextlib import suppress
from pathlib import Path

from pagealloc.mmzone import Layout
from pagealloc.sync_real import RealSync
from stress.errors import BadArgument
from stress.host.session import Session, add_session_arguments, order_of, session_params


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.set_defaults(command=command_serve)
    parser.add_argument("socket", type=Path, metavar="SOCKET", help="where to listen: a path that is free")
    parser.add_argument(
        "--order",
        metavar="K",
        help=f"the smallest that the guest may report (default: {Layout().pageblock_order})",
    )
    add_session_arguments(parser)


def listen(path: Path) -> socket.socket:
    """Listen at a path; a socket that nobody listens at any more is replaced. Raises BadArgument."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.stat().st_mode) and server.connect_ex(str(path)):
                path.unlink()
        server.close()
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.bind(str(path))
        server.listen(1)
    except OSError as error:
        server.close()
        raise BadArgument(f"{path}: expected a path to listen at: {error.strerror or error}") from error
    return server


def command_serve(arguments: argparse.Namespace) -> int:
    """Serve one guest; exit status 0 when it kept what a kernel must keep, 1 when it did not."""
    params = session_params("serve-balloon", arguments, order_of(arguments.order, Layout().pageblock_order))
    with listen(arguments.socket) as server:
        session = Session(params, RealSync(), arguments.run_dir, quiet=arguments.json)
        try:
            session.say(f"listening at {arguments.socket}, for one guest")
            connection, _ = server.accept()
        except BaseException as error:
            session.give_up(error)
            raise
        finally:
            arguments.socket.unlink(missing_ok=True)
    session.serve(connection)
    return session.finish()
