"""A zone as large as a server's memory must fit a test machine: the bookkeeping is a few bytes for each page."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES_OF_64_GIB = 1 << 24
PEAK_MAX_BYTES = 400 << 20

# The peak comes from VmHWM, which begins anew with the program: `ru_maxrss` remembers the process that
# started it, which may have been larger. Memory counted by tracemalloc is what the zone itself holds on to.
CHILD = textwrap.dedent(
    """
    import sys, tracemalloc
    from pagealloc import GFP_KERNEL, Memory, ZoneSpec

    tracemalloc.start()
    memory = Memory([ZoneSpec("Normal", int(sys.argv[1]))], ram=None)
    pfn = memory.alloc_pages(GFP_KERNEL, 10)
    assert pfn is not None
    memory.free_pages(pfn, 10)
    assert memory.nr_free_pages() == memory.nr_pages() == int(sys.argv[1])
    traced, _ = tracemalloc.get_traced_memory()
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) << 10
    print(traced, peak)
    """
)


def sizes(nr_pages: int) -> tuple[int, int]:
    """Build a zone in a process of its own; return (bytes that it holds, peak bytes of the process)."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(nr_pages)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    traced, peak = map(int, done.stdout.split())
    return traced, peak


def test_a_zone_of_64_gib_fits_400_mb() -> None:
    traced, peak = sizes(PAGES_OF_64_GIB)

    assert traced < PEAK_MAX_BYTES
    assert peak < PEAK_MAX_BYTES


def test_a_page_costs_17_bytes_and_little_more() -> None:
    small, _ = sizes(1 << 20)
    large, _ = sizes(1 << 22)

    assert 17 <= (large - small) / ((1 << 22) - (1 << 20)) < 18
