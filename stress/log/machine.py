"""The machine that a log is of, from the parameters in its `log_begin`: what no other record says."""

from __future__ import annotations

from collections.abc import Mapping

from pagealloc.mmzone import PAGE_SHIFT
from pagealloc.pcp import CPUS

PAGE_SHIFTS = {"4KiB": 12, "16KiB": 14, "64KiB": 16}  # by the sizes' names in parameters
MIB_SHIFT = 20


def page_shift_of(params: Mapping[str, object]) -> int:
    """Return the page size as its power of two; 4 KiB where nothing is said, as in logs from elsewhere."""
    return PAGE_SHIFTS.get(str(params.get("page_size")), PAGE_SHIFT)


def cpus_of(params: Mapping[str, object]) -> int:
    """Return the CPUs that share what page sets hold back; the default where nothing is said."""
    cpus = params.get("cpus")
    return cpus if isinstance(cpus, int) and cpus > 0 else CPUS


def pages_per_mib(page_shift: int) -> int:
    """Return how many pages make a MiB."""
    return 1 << MIB_SHIFT - page_shift
