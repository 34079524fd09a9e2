"""What all tests share: a `Sync`, zones of any shape, and threads that cannot hang or outlive a test."""

from __future__ import annotations

import faulthandler
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import pytest
from hypothesis import settings

from pagealloc import COMPILED
from pagealloc.mmzone import Layout
from pagealloc.revision import V6_1, Revision
from pagealloc.sync import Lock, Sync, Thread
from pagealloc.sync_real import RealSync
from pagealloc.zone import Zone
from stress.cli import main
from workers.page_reporting import PageReporting
from workers.workqueue import Workqueue

pytest_plugins = ["pytester"]

PATIENCE_S = 20.0  # far beyond what anything here takes; only a hang meets it
LEAVING_S = 5.0  # for threads that were told to end
POLL_S = 0.005

settings.register_profile("threads about", deadline=None)  # a busy machine is no failure
settings.load_profile("threads about")

SMALL = Layout(nr_orders=6, pageblock_order=3)


# What `@pytest.mark.needs` may name: programs, and the Debian packages that have them.
PROGRAMS = {
    "qemu": {"qemu-system-aarch64": "qemu-system-arm", "setpriv": "util-linux"},
    "uml": {"linux.uml": "user-mode-linux", "busybox": "busybox-static"},
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose programs are missing, and say what to install.

    Where PAGEALLOC_NEEDS names them (as in qemu,uml) they must be there, and a missing one is a failure. On a compiled
    build a test is skipped that watches or changes what only an interpreter goes through.
    """
    if COMPILED:
        for marker in item.iter_markers("interpreted"):
            pytest.skip(f"on the compiled build {marker.args[0]}")
    for marker in item.iter_markers("needs"):
        (what,) = marker.args
        for program, package in PROGRAMS[what].items():
            if shutil.which(program) is None:
                reason = f"{program} is not installed: apt-get install {package}"
                if what in os.environ.get("PAGEALLOC_NEEDS", "").split(","):
                    pytest.fail(reason, pytrace=False)
                pytest.skip(reason)


def stacks(*threads: threading.Thread) -> str:
    """Show where threads are right now; without an argument, where all of them are."""
    frames = sys._current_frames()
    shown = threads or threading.enumerate()
    return "\n".join(
        f"--- {thread.name}\n{''.join(traceback.format_stack(frames[thread.ident]))}"
        for thread in shown
        if thread.ident in frames
    )


@pytest.fixture(autouse=True)
def no_thread_is_left_behind() -> Iterator[None]:
    """Fail a test that ends before the threads that it started."""
    before = set(threading.enumerate())
    yield
    deadline_s = time.monotonic() + LEAVING_S
    while left := [thread for thread in threading.enumerate() if thread not in before]:
        if time.monotonic() > deadline_s:
            names = ", ".join(thread.name for thread in left)
            pytest.fail(f"threads were left behind: {names}\n{stacks(*left)}")
        left[0].join(POLL_S)


@pytest.fixture(autouse=True)
def no_lock_is_left_held(monkeypatch: pytest.MonkeyPatch, no_thread_is_left_behind: None) -> Iterator[None]:
    """Fail a test that leaves a lock held, of a zone, a page set, a queue or anything else that it made.

    Looked at before `no_thread_is_left_behind` ends, so a thread that was told to go has a moment for its last one.
    """
    made: list[tuple[str, Lock]] = []

    def noting(kind: str) -> Callable[[RealSync, str], Lock]:
        make = getattr(RealSync, kind)

        def make_and_note(sync: RealSync, name: str) -> Lock:
            lock: Lock = make(sync, name)
            made.append((name, lock))
            return lock

        return make_and_note

    for kind in ("spinlock", "mutex"):
        monkeypatch.setattr(RealSync, kind, noting(kind))
    yield
    deadline_s = time.monotonic() + LEAVING_S
    while held := [name for name, lock in made if lock.locked()]:
        if time.monotonic() > deadline_s:
            pytest.fail(f"locks are left held: {', '.join(sorted(set(held)))}")
        time.sleep(POLL_S)


@pytest.fixture
def sync() -> Sync:
    return RealSync()


@pytest.fixture
def build_zone(sync: Sync) -> Callable[..., Zone]:
    """Build a zone of 64 pages from pfn 0, orders 0 .. 5 and pageblocks of order 3, all free, marks at 0."""

    def build(
        nr_pages: int = 64,
        *,
        start_pfn: int = 0,
        name: str = "Normal",
        layout: Layout = SMALL,
        revision: Revision = V6_1,
        zones_below: Sequence[Zone] = (),
        free: bool = True,
    ) -> Zone:
        zone = Zone(
            name, start_pfn, nr_pages, layout=layout, revision=revision, sync=sync, zones_below=zones_below
        )
        zone.memblock_free_all()
        if not free:
            for order in range(layout.nr_orders):
                while zone.nr_free[order]:
                    assert zone.rmqueue_buddy(order, 1) >= 0
        return zone

    return build


@pytest.fixture
def build_reporting(sync: Sync) -> Iterator[Callable[..., PageReporting]]:
    """Build a reporting core over zones; without `started`, passes are made by its `run_now`."""
    started_queues: list[Workqueue] = []

    def build(*zones: Zone, started: bool = False, **options: object) -> PageReporting:
        queue = Workqueue(sync, "page_reporting")
        if started:
            queue.start()
            started_queues.append(queue)
        return PageReporting(zones, zones[0].revision, sync, queue, **options)  # type: ignore[arg-type]

    yield build
    for queue in started_queues:
        assert queue.stop(PATIENCE_S), f"the worker is still in a pass\n{stacks()}"


@pytest.fixture
def join_all() -> Callable[..., None]:
    """Join threads, and fail with all stacks when one does not end."""

    def join(*threads: Thread, timeout_s: float = PATIENCE_S) -> None:
        deadline_s = time.monotonic() + timeout_s
        for thread in threads:
            if not thread.join(max(0.0, deadline_s - time.monotonic())):
                pytest.fail(f"{thread.name} did not end within {timeout_s:g} s\n{stacks()}")

    return join


@pytest.fixture
def until() -> Callable[[Callable[[], bool], str], None]:
    """Wait until a condition holds, and fail with all stacks when it does not come to hold."""

    def wait(holds: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not holds():
            if time.monotonic() > deadline_s:
                pytest.fail(f"in vain waited until {what}\n{stacks()}")
            time.sleep(POLL_S)

    return wait


@pytest.fixture
def run_together(sync: Sync, join_all: Callable[..., None]) -> Callable[..., None]:
    """Run functions on threads of their own that start at the same moment; what one raises is raised."""

    def run(*functions: Callable[[], None], timeout_s: float = PATIENCE_S) -> None:
        barrier = threading.Barrier(len(functions))
        raised: list[BaseException] = []

        def target(function: Callable[[], None]) -> Callable[[], None]:
            def body() -> None:
                try:
                    barrier.wait(PATIENCE_S)
                    function()
                except BaseException as error:
                    raised.append(error)

            return body

        threads = [sync.spawn(f"together-{n}", target(function)) for n, function in enumerate(functions)]
        join_all(*threads, timeout_s=timeout_s)
        if raised:
            raise raised[0]

    return run


@pytest.fixture
def start_stress() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command line in a process of its own, which does not outlive the test.

    It hears Ctrl-C also when pytest itself was started by nohup, or in the background: both ignore SIGINT, and that
    is inherited.
    """
    started: list[subprocess.Popen[str]] = []

    def start(*words: str, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "stress", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": Path(__file__).parents[1]}
        before = signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # the child gets the system's default
        try:
            process = subprocess.Popen(command, text=True, **{**pipes, **options})
        finally:
            signal.signal(signal.SIGINT, before)
        started.append(process)
        return process

    yield start
    for process in started:
        with process:  # closes the pipes, and waits
            process.kill()


@pytest.fixture(scope="session")
def recorded_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run of a second in which batches fail, pages are short, and blocks are reported and used again."""
    path = tmp_path_factory.mktemp("recorded") / "run"
    arguments = [
        "--allocators=3",
        "--seconds=1",
        "--zones=DMA32=48MiB,Normal=64MiB",
        "--order=5",
        "--delay=0.02",
    ]
    assert main(["run", *arguments, "--capacity=8", "--fail-rate=0.2", "--run-dir", str(path)]) == 0
    return path


@pytest.fixture
def in_child(tmp_path: Path) -> Callable[[Callable[[], None]], int]:
    """Run a function in a fork of this process; its exit status, 9 for an exception. A hang fails, with its stacks."""

    def run(body: Callable[[], None]) -> int:
        with (tmp_path / "stacks of the child").open("w+") as told:
            # In C, and so wherever it stands: `os.fork` itself runs code in the child, before it returns there.
            faulthandler.register(signal.SIGUSR1, told)
            try:
                return _await_child(_fork_and_run(body), told)
            finally:
                faulthandler.unregister(signal.SIGUSR1)

    return run


def _fork_and_run(body: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            body()
        except BaseException:
            traceback.print_exc()
            os._exit(9)
        os._exit(0)
    return child


def _await_child(child: int, told: TextIO) -> int:
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline_s:
            break
        time.sleep(POLL_S)
    os.kill(child, signal.SIGUSR1)
    deadline_s = time.monotonic() + LEAVING_S
    while not os.fstat(told.fileno()).st_size and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    told.seek(0)
    pytest.fail(f"the child of a fork did not end within {PATIENCE_S:g} s\n{told.read()}")
