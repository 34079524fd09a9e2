"""Files by a name that somebody gave: read within bounds, and written whole or not at all.

A path that is to be written is tried before the work begins (`check_writable`), so that no result is lost by it.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from stress.errors import BadArgument, CannotBeDone
from stress.system.leaving import owed

READ_BYTES_MAX = 64 << 20
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def read_text(path: Path) -> str:
    """Read a file of UTF-8 text. Raises ValueError, with what is wrong in words, also when it has no end."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("expected a regular file")
        with path.open("rb") as file:
            content = file.read(READ_BYTES_MAX + 1)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    if len(content) > READ_BYTES_MAX:
        raise ValueError(f"expected {READ_BYTES_MAX >> 20} MiB at most")
    return content.decode()  # a UnicodeDecodeError is a ValueError


def output_path(text: str) -> Path:
    """Return the path of something to write, as the command line names it: from the root on.

    A reporter, a load or an executor of somebody's own may go to another folder before it is written.
    """
    return Path(text).absolute()


def check_writable(option: str, path: Path) -> None:
    """Try whether a file can be written. Raises what `unwritten` returns, or BadArgument."""
    try:
        if path.is_dir():
            raise BadArgument(f"{option}: {path} is a folder, expected a file")
        if path.exists() and not os.access(path, os.W_OK):
            raise BadArgument(f"{option}: {path}: Permission denied")
        if not _is_special(path):
            with tempfile.TemporaryFile(dir=path.parent):
                pass
    except OSError as error:
        raise unwritten(option, path, error) from error


def check_folder(option: str, path: Path) -> None:
    """Make a folder to keep files in, unless it is there. Raises what `unwritten` returns, or BadArgument."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritten(option, path, error) from error
    check_writable(option, path / "file")


def write_whole(option: str, path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file under another name, which becomes `path` when it is whole.

    A device or a pipe is written as it is. Raises what `unwritten` returns, and leaves what was there.
    """
    target = path.resolve()  # a link stays one
    try:
        if _is_special(target):
            write(target)
            return
        draft = target.with_name(f".{target.stem}-{uuid4().hex[:8]}{target.suffix}")
        with owed(lambda: draft.unlink(missing_ok=True)):
            write(draft)
            draft.replace(target)
    except OSError as error:
        raise unwritten(option, path, error) from error


def unwritten(option: str, path: Path, error: OSError) -> BadArgument | CannotBeDone:
    """Make the exception that names an option whose file cannot be written: a full disk is nobody's bad argument."""
    kind = CannotBeDone if error.errno in NO_ROOM else BadArgument
    return kind(f"{option}: {path}: {error.strerror or error}")


@contextmanager
def temporary_folder(within: Path | None = None) -> Iterator[Path]:
    """Yield a folder among the temporary files (TMPDIR chooses where), which goes however the block ends.

    A process that may be killed makes its own `within` the one of a process that is not.
    """
    folder = (within or Path(tempfile.gettempdir())) / f"pagealloc-{uuid4().hex}"
    with owed(lambda: shutil.rmtree(folder, ignore_errors=True)):
        folder.mkdir(mode=0o700)
        yield folder


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file()
