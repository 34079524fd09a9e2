"""`python -m stress`, and the command `pagealloc`: what must be settled before the command line is imported."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]

# While the program is being imported Ctrl-C just ends it; nohup, which wants it ignored, has its way.
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from stress.system.leaving import deafen, hear_of_exits, hear_signals, open_standard_streams

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Run the command line as this process's program; returns the exit status."""
    open_standard_streams()
    hear_signals()
    hear_of_exits()
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever runs it from a clone is not stopped by pip
        return _refuse(f"pagealloc needs Python 3.11 or newer, this is {sys.version.split()[0]}")
    for floor in ("pagealloc", "workers"):
        spec = find_spec(floor)
        found = Path(spec.origin or "").resolve().parent if spec is not None else None
        if found != ROOT / floor:
            return _refuse(
                f"{found} hides pagealloc's own package {floor!r}: start it from another folder, or as the command "
                "`pagealloc`, which looks into the current folder last"
            )
    try:
        here = os.getcwd()  # noqa: PTH109 - as sys.path has it
    except OSError as error:
        return _refuse(f"the current folder is gone: {error.strerror}")
    if here not in sys.path and not sys.flags.safe_path:
        sys.path.append(here)  # a reporter of one's own is found, and hides nothing
    from stress.cli import main as command_line  # noqa: PLC0415 - only now is it known to be there

    try:
        return command_line()
    finally:
        deafen()


def _refuse(why: str) -> int:
    print(f"stress: {why}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
