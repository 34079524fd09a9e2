"""What a result was made with: this package, the interpreter, the machine."""

from __future__ import annotations

import os
import platform
import sys

from pagealloc import COMPILED, __version__
from pagealloc.sync_real import gil_enabled

INTERPRETED_ONLY = (
    "the interpreted build: in this one, which is compiled, no fault can be planted and no step be watched "
    "(pip install without PAGEALLOC_COMPILE, in an environment of its own)"
)


def versions() -> dict[str, object]:
    """Describe the program, the interpreter and the machine."""
    return {
        "pagealloc": __version__,
        "compiled": COMPILED,
        "python": sys.version,
        "gil_enabled": gil_enabled(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }


TAKES_TURNS = (
    "the allocator is compiled and this interpreter has a GIL: threads take turns at lock operations only, which hides "
    "races; look for those with the interpreted build, or on a free-threaded interpreter"
)


def blind_spots() -> list[str]:
    """Say what this build keeps a run of threads from showing."""
    return [TAKES_TURNS] if COMPILED and gil_enabled() else []
