"""Worker processes that leave when they are told to: one Ctrl-C ends all of them, at once and quietly."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager


@contextmanager
def worker_processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Yield an executor with `count` processes; what ends the block early ends them too."""
    executor = ProcessPoolExecutor(count, initializer=_ignore_interrupts)
    try:
        yield executor
    except BaseException:
        # Before the shutdown forgets them. What a process was working on is of no use any more.
        processes = list((executor._processes or {}).values())  # noqa: SLF001 - there is no public way
        for process in processes:
            process.terminate()
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    executor.shutdown(wait=True, cancel_futures=True)


def _ignore_interrupts() -> None:
    """Leave Ctrl-C, which reaches every process of a terminal, to the one that gave out the work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
