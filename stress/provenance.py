"""What a result was made with: this package, the interpreter, the machine."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata

from pagealloc.sync_real import gil_enabled


def versions() -> dict[str, object]:
    """Describe the program, the interpreter and the machine."""
    try:
        own = metadata.version("pagealloc")
    except metadata.PackageNotFoundError:
        own = "not installed"
    return {
        "pagealloc": own,
        "python": sys.version,
        "gil_enabled": gil_enabled(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }
