"""Who does work that comes in pieces: worker processes, threads, a cluster, or an executor of the user's own.

All of them are a `concurrent.futures.Executor`. Processes leave when they are told to: one Ctrl-C ends all of them, at
once and quietly.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module

from pagealloc.sync_real import gil_enabled
from stress.errors import BadArgument

EXECUTORS = "processes, threads, dask:ADDRESS, or MODULE:CALLABLE that returns an Executor"
DASK_PATIENCE_S = 10


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


@contextmanager
def open_executor(spec: str, count: int) -> Iterator[Executor]:
    """Yield the executor that `--executor` names, with `count` workers where that is ours to say.

    Raises BadArgument when there is no such executor, or when it cannot be reached.
    """
    kind, _, rest = spec.partition(":")
    if spec == "processes":
        with worker_processes(count) as processes:
            yield processes
    elif spec == "threads":
        if gil_enabled():
            raise BadArgument(
                "--executor threads: this interpreter has a GIL and runs one thread at a time, expected processes"
            )
        with ThreadPoolExecutor(count) as threads:
            yield threads
    elif kind == "dask":
        with _cluster(rest) as cluster:
            yield cluster
    else:
        with _own(spec) as own:
            yield own


@contextmanager
def _cluster(address: str) -> Iterator[Executor]:
    """Yield the executor of a Dask cluster."""
    try:
        distributed = import_module("distributed")
    except ModuleNotFoundError as error:
        raise BadArgument("--executor dask needs distributed: pip install 'pagealloc[cluster]'") from error
    if not address:
        raise BadArgument("--executor dask: expected dask:ADDRESS, as in dask:tcp://head:8786")
    try:
        client = distributed.Client(address, timeout=DASK_PATIENCE_S)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadArgument(
            f"--executor dask: no cluster at {address} ({reason}), expected a scheduler's address"
        ) from error
    try:
        yield client.get_executor()
    finally:
        client.close()


@contextmanager
def _own(spec: str) -> Iterator[Executor]:
    """Yield the executor that a function of the user's own returns."""
    module, _, name = spec.partition(":")
    if not name:
        raise BadArgument(f"--executor: {spec!r}, expected {EXECUTORS}")
    try:
        executor = getattr(import_module(module), name)()
    except Exception as error:
        raise BadArgument(f"--executor: {spec!r} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(executor, Executor):
        raise BadArgument(
            f"--executor: {spec!r} returns a {type(executor).__name__}, expected a concurrent.futures.Executor"
        )
    with executor:
        yield executor
