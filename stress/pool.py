"""Who does work that comes in pieces: worker processes, threads, a cluster, or an executor of the user's own.

All of them are a `concurrent.futures.Executor`. Processes leave when they are told to: one Ctrl-C ends all of them, at
once and quietly.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TypeVar

from pagealloc.sync_real import gil_enabled
from stress.errors import BadArgument, CannotBeDone
from stress.system.leaving import owed

EXECUTORS = "processes, threads, dask:ADDRESS, or MODULE:CALLABLE that returns an Executor"
SEARCH_EXECUTORS = (
    "processes, dask:ADDRESS with one thread a worker, or MODULE:CALLABLE that returns an Executor"
)
DASK_PATIENCE_S = 10
PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>

Done = TypeVar("Done")


class WorkerProcesses(ProcessPoolExecutor):
    """A pool whose `map` cancels nothing when nobody waits for the rest any more.

    A pool that loses its processes afterwards stumbles over what is cancelled, on a thread of its own.
    """

    def map(
        self,
        fn: Callable[..., Done],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        **options: Any,  # chunks and buffers are for small tasks, and ours are none
    ) -> Iterator[Done]:
        waiting = deque(self.submit(fn, *arguments) for arguments in zip(*iterables, strict=False))

        def results() -> Iterator[Done]:
            while waiting:
                yield waiting.popleft().result(timeout)

        return results()


@contextmanager
def worker_processes(count: int) -> Iterator[WorkerProcesses]:
    """Yield an executor with `count` processes, which end with the block, and with this process however it ends.

    Raises CannotBeDone when one of them is killed.
    """
    executor = WorkerProcesses(count, initializer=_serve, initargs=(os.getpid(),))
    try:
        with owed(lambda: _end_all(executor)):  # what a process is still working on is of no use any more
            yield executor
    except BrokenProcessPool as error:
        raise CannotBeDone("a worker process was killed, by the machine or by somebody else") from error
    finally:
        executor.shutdown(wait=True)


def _end_all(executor: WorkerProcesses) -> None:
    for process in list((executor._processes or {}).values()):  # noqa: SLF001 - there is no public way
        # Not by SIGTERM: one that comes right behind the fork is lost, for a child of Python forgets what is
        # pending then, and it waited for ever for the lock of a sibling that was gone.
        process.kill()


def _serve(parent: int) -> None:
    """Leave Ctrl-C, which reaches every process of a terminal, to the one that gave out the work; go when it goes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    end_with(parent)


_libc = ctypes.CDLL(None)


def end_with(parent: int) -> None:
    """Let this process go when `parent` goes, however that ends. What it started itself would go on."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1 != parent:
        os._exit(0)  # it went before we could ask for that


def own_program(module: str, *words: str) -> tuple[list[str], dict[str, str]]:
    """Return the command that runs a module of ours in a process of its own, and its environment.

    It finds what this process finds, and nothing else: `-P` leaves the current folder out.
    """
    command = [sys.executable, "-P", "-m", module, *words]
    return command, {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def refuse_threads(spec: str) -> None:
    """Raise BadArgument for threads: a planted fault changes what its whole process sees."""
    if spec == "threads":
        raise BadArgument(
            f"--executor threads: a search wants a process to itself, expected {SEARCH_EXECUTORS}"
        )


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
    if not address:
        raise BadArgument("--executor dask: expected dask:ADDRESS, as in dask:tcp://head:8786")
    try:
        distributed = import_module("distributed")
    except ModuleNotFoundError as error:
        raise BadArgument("--executor dask needs distributed: pip install 'pagealloc[cluster]'") from error
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
