"""What a run itself takes from the machine: memory, threads and file descriptors, to be flat for hours."""

from __future__ import annotations

import ctypes
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median

SAMPLES_MAX = 2000
M_ARENA_MAX = -8  # of <malloc.h>
_PROC = Path("/proc/self")


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the process had at about one moment. Own bytes are the resident ones without the memory under test."""

    own_bytes: int
    threads: int
    file_descriptors: int


def use_one_arena() -> None:
    """Let all threads share one malloc arena, as far as the C library knows the notion (`mallopt`).

    glibc gives threads arenas of their own, and what one thread allocates and another one frees leaves holes
    in each: the process grows for many minutes though nothing is kept.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)


def take(pages_bytes: int) -> Footprint:
    """Look at this process; `pages_bytes` of its memory are the pages under test."""
    resident_bytes = int((_PROC / "statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    return Footprint(
        own_bytes=max(0, resident_bytes - pages_bytes),
        threads=sum(1 for _ in (_PROC / "task").iterdir()),
        file_descriptors=sum(1 for _ in (_PROC / "fd").iterdir()),
    )


def available_bytes() -> int:
    """Return what the machine can still give to a program without swapping, by its own estimate (MemAvailable)."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(
        (int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), sys.maxsize
    )


def peak_rss_bytes() -> int:
    """Return the most memory that the process ever had, the pages under test included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


class Footprints:
    """The footprints of a run: one before, one after, and at most `SAMPLES_MAX` evenly spread over its load."""

    def __init__(self, interval_s: float) -> None:
        self.before = self.after = take(0)
        self._interval_s = interval_s
        self._next_s = 0.0
        self._samples: list[Footprint] = []

    def look(self, now_s: float, pages_bytes: int) -> None:
        """Take a footprint if one is due."""
        if now_s < self._next_s:
            return
        if len(self._samples) >= SAMPLES_MAX:  # keep every second one, and take half as many from now on
            del self._samples[::2]
            self._interval_s *= 2
        self._samples.append(take(pages_bytes))
        self._next_s = now_s + self._interval_s

    def summary(self) -> dict[str, object]:
        """Return medians of the first, the middle and the last tenth, what was before and after, and the peak."""
        samples = self._samples or [self.after]
        tenth = max(1, len(samples) // 10)
        middle = (len(samples) - tenth) // 2
        return {
            "samples": len(self._samples),
            "before": asdict(self.before),
            "first_tenth": _medians(samples[:tenth]),
            "middle_tenth": _medians(samples[middle : middle + tenth]),
            "last_tenth": _medians(samples[-tenth:]),
            "after": asdict(self.after),
            "peak_rss_bytes": peak_rss_bytes(),
        }


def _medians(samples: Sequence[Footprint]) -> dict[str, int]:
    return {
        each.name: int(median(getattr(sample, each.name) for sample in samples)) for each in fields(Footprint)
    }
