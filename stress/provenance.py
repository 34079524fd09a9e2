"""What a result was made with: this package, the interpreter, the machine."""

from __future__ import annotations

import os
import platform
import sys

from pagealloc import __version__
from pagealloc.sync_real import gil_enabled


def versions() -> dict[str, object]:
    """Describe the program, the interpreter and the machine."""
    return {
        "pagealloc": __version__,
        "python": sys.version,
        "gil_enabled": gil_enabled(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }
