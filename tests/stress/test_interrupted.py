"""Interrupted is a state: one line, the status that a shell expects, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stress.errors import CannotBeDone
from stress.pool import WorkerProcesses, worker_processes
from stress.system import leaving
from stress.system.files import check_writable, read_text, temporary_folder, write_whole

Start = Callable[..., subprocess.Popen[str]]
Until = Callable[[Callable[[], bool], str], None]

SIGNALS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended by SIGTERM")]


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text(encoding="ascii").split()]


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(("number", "status", "how"), SIGNALS)
def test_a_query_that_is_interrupted_leaves_no_database_behind(
    recorded_run: Path,
    tmp_path: Path,
    start_stress: Start,
    until: Until,
    number: signal.Signals,
    status: int,
    how: str,
) -> None:
    pytest.importorskip("duckdb")
    query = "SELECT count(*) FROM records a, records b, records c WHERE a.t + b.t < c.t"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = start_stress("sql", str(recorded_run), query, env=environment)
    until(lambda: any(tmp_path.glob("pagealloc-*/log.duckdb")), "the database is there")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (status, "", f"stress: {how}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "status", "how"), SIGNALS)
def test_a_search_that_is_interrupted_takes_its_processes_along(
    start_stress: Start, until: Until, number: signal.Signals, status: int, how: str
) -> None:
    pytest.importorskip("greenlet")
    process = start_stress("explore", "--executions", "1000000", "--jobs", "2")
    until(lambda: len(children(process.pid)) == 2, "both processes are at work")
    workers = children(process.pid)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (status, "", f"stress: {how}\n")
    until(lambda: not any(map(alive, workers)), "both processes are gone")


@pytest.mark.parametrize(("number", "status", "how"), SIGNALS)
def test_a_check_that_is_interrupted_takes_what_its_processes_started_along(
    tmp_path: Path, start_stress: Start, until: Until, number: signal.Signals, status: int, how: str
) -> None:
    pytest.importorskip("greenlet")
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = start_stress("check", "--quick", "--jobs", "2", env=environment)

    def started() -> list[int]:
        return [pid for worker in children(process.pid) for pid in children(worker)]

    until(lambda: len(started()) == 2, "both processes have started one of their own")
    everybody = [*children(process.pid), *started()]
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (status, "", f"stress: {how}\n")
    until(lambda: not any(map(alive, everybody)), "all processes are gone")
    assert list(tmp_path.glob("pagealloc-*")) == []


def test_who_ignores_control_c_is_not_interrupted_by_it() -> None:
    """`nohup stress run &`: whoever starts a command so wants it to go on."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        program = (
            "import signal; from stress.system.leaving import hear_signals; hear_signals(); "
            "print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        out, _ = process.communicate(timeout=60)
    finally:
        signal.signal(signal.SIGINT, before)
    assert out == "True\n"


def test_what_is_owed_is_undone_at_the_end_of_its_block_and_forgotten() -> None:
    undone: list[str] = []
    with leaving.owed(lambda: undone.append("it")):
        assert undone == []
        assert len(leaving._owed) == 1
    assert (undone, leaving._owed) == (["it"], {})


def test_a_signal_as_an_exception_knows_its_number() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        leaving.hear_signals()
        with pytest.raises(leaving.Interruption) as raised, leaving.raised_once():
            signal.raise_signal(signal.SIGTERM)
        assert raised.value.number == signal.SIGTERM
    finally:
        for number in leaving.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("status", "becomes"), [(0, 3), (5, 5)])
def test_a_reporter_that_ends_the_process_ends_no_run_as_a_success(
    tmp_path: Path, start_stress: Start, status: int, becomes: int
) -> None:
    reporter = f"import os\n\nclass Leave:\n    def report(self, zone, batch):\n        os._exit({status})\n"
    (tmp_path / "leaving_reporter.py").write_text(reporter, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    words = ["--reporter", "leaving_reporter:Leave", "--seconds", "30", "--run-dir", str(tmp_path / "run")]
    process = start_stress("run", *words, env=environment)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (
        becomes,
        f"stress: something called os._exit({status}): there is no verdict\n",
    )
    assert "SUCCESS" not in out


# -- processes that share out work ---------------------------------------------------------------------------


def shoot_myself(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_process_that_is_killed_is_told_in_words() -> None:
    with pytest.raises(CannotBeDone, match="a worker process was killed"), worker_processes(2) as executor:
        list(executor.map(shoot_myself, range(4)))


def test_results_that_nobody_waits_for_trouble_no_thread(recwarn: pytest.WarningsRecorder) -> None:
    """An exception on the pool's own thread is a warning of pytest's, and so an error."""
    with worker_processes(2) as executor:
        assert isinstance(executor, WorkerProcesses)
        assert next(executor.map(abs, range(-1000, 0))) == 1000
    # Since 3.12 a fork beside threads, which pytest-xdist has, is deprecated.
    assert [str(each.message) for each in recwarn if each.category is not DeprecationWarning] == []


def hear_nothing() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@pytest.mark.timeout(30)
def test_a_worker_process_that_misses_its_signal_is_ended_all_the_same() -> None:
    """A SIGTERM right behind the fork is lost, and whoever waited for that process waited for ever."""
    with worker_processes(1) as executor:
        executor.submit(hear_nothing).result()
        executor.submit(signal.pause)


# -- files ---------------------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_finished_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("before", encoding="utf-8")

    def half(draft: Path) -> None:
        draft.write_text("half", encoding="utf-8")
        raise OSError(28, "No space left on device")

    with pytest.raises(Exception, match=r"--report: .*page.html: No space left on device"):
        write_whole("--report", path, half)
    assert [(file.name, file.read_text(encoding="utf-8")) for file in tmp_path.iterdir()] == [
        ("page.html", "before")
    ]


def test_a_device_is_written_and_not_replaced() -> None:
    check_writable("--report", Path("/dev/null"))
    write_whole("--report", Path("/dev/null"), lambda target: target.write_text("x", encoding="utf-8"))
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("path", ["/proc/nowhere/x", "/nonexistent/x", "/dev"])
def test_a_path_that_cannot_be_written_is_known_before_the_work(path: str) -> None:
    with pytest.raises(Exception, match="--chart: "):
        check_writable("--chart", Path(path))


def test_a_bench_with_a_bad_path_measures_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("plotly")
    from stress.cli import main  # noqa: PLC0415 - so that this file needs no extra

    monkeypatch.setattr("stress.bench.command.run", None)
    assert main(["bench", "--chart", "/nonexistent/x"]) == 2
    assert capsys.readouterr().err == "stress: --chart: /nonexistent/x: No such file or directory\n"


def test_a_temporary_folder_goes_with_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with temporary_folder() as folder:
        (folder / "x").write_text("x", encoding="utf-8")
        assert folder.parent == tmp_path
    assert not folder.exists()


def test_a_file_of_any_size_is_read_within_bounds(tmp_path: Path) -> None:
    path = tmp_path / "long"
    with path.open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(ValueError, match="expected 64 MiB at most"):
        read_text(path)
