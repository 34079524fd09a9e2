"""The command line on bad days: files that lie, paths that cannot be written, readers that leave."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import pagealloc
from stress.cli import COMMANDS, PACKAGES, build_parser, main
from stress.errors import EXIT_STATUSES, BadArgument, Verdict, one_line, quoted
from stress.run.summary import Summary
from stress.run.view import print_summary
from stress.system.files import check_folder, output_path
from stress.system.terminal import console

ROOT = Path(__file__).parents[2]
Start = Callable[..., subprocess.Popen[str]]


# -- verdicts and exit statuses ------------------------------------------------------------------------------


def test_each_verdict_has_its_exit_status() -> None:
    assert {verdict: verdict.exit_status for verdict in Verdict} == {
        "SUCCESS": 0,
        "FAILURE": 1,
        "CANNOT DECIDE": 2,
    }


def test_help_tells_every_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert EXIT_STATUSES in capsys.readouterr().out


def test_the_readme_tells_every_exit_status() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for line in EXIT_STATUSES.splitlines()[1:]:
        assert f"| {line.split()[0]}" in readme


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
        (OSError(28, "No space left on device"), 3, "stress: output: No space left on device\n"),
        (PermissionError(13, "Permission denied", "x"), 3, "stress: x: Permission denied\n"),
        (OSError(24, "Too many open files"), 3, "stress: Too many open files\n"),
        (MemoryError(), 3, "stress: out of memory\n"),
        (
            RuntimeError("can't start new thread"),
            3,
            "stress: no more threads can be started: a limit of this machine",
        ),
        (KeyboardInterrupt(), 130, "stress: interrupted\n"),
    ],
)
def test_what_the_machine_refuses_is_no_failed_check(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    status: int,
    said: str,
) -> None:
    def refuse(arguments: object) -> int:
        raise raised

    monkeypatch.setattr("stress.golden.command.command_golden", refuse)
    monkeypatch.setattr("stress.cli._drop", lambda stream: None)
    assert main(["golden", "x"]) == status
    err = capsys.readouterr().err
    assert err.startswith(said)
    assert "Traceback" not in err


def test_a_fault_of_the_program_itself_shows_where_and_is_no_failed_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stress.golden.command.command_golden", lambda arguments: 1 // 0)
    assert main(["golden", "x"]) == 3
    err = capsys.readouterr().err
    assert "ZeroDivisionError" in err
    assert err.splitlines()[-1].startswith("stress: this is a fault of pagealloc itself")


def test_output_to_a_device_that_is_full_says_so(start_stress: Start) -> None:
    with Path("/dev/full").open("w", encoding="ascii") as full:
        process = start_stress("run", "--list", stdout=full)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (3, "stress: output: No space left on device\n")


@pytest.mark.parametrize("words", [["run", "--list"], ["sql", "--views"]])
def test_a_reader_that_hangs_up_ends_the_command_as_sigpipe_would(
    start_stress: Start, words: list[str]
) -> None:
    if words[0] == "sql":
        pytest.importorskip("duckdb")
    process = start_stress(*words)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert (process.stderr.read(), process.wait(60)) == ("", 141)


# -- who is told what ----------------------------------------------------------------------------------------


def test_a_line_of_others_is_one_line_whatever_they_wrote() -> None:
    forged = "oh\nSUCCESS 1 s, 0 violations\r\x1b[2J\x9b1A\u202eno\x00"
    assert one_line(forged) == "oh SUCCESS 1 s, 0 violations \\x1b[2J\\x9b1A\\u202eno\\x00"
    assert len(one_line("x" * 10_000_000, 200)) < 210
    assert quoted(10**1_000_000) == "a very large int"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_examples_that_the_command_takes(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if command in ("explore", "replay", "mutants"):
        pytest.importorskip("greenlet")
    if command in ("verify", "analyze", "sql", "proc"):
        pytest.importorskip("duckdb")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    out = capsys.readouterr().out
    for example in COMMANDS[command].examples:
        assert f"    python -m stress {example}" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_are_good_arguments(command: str) -> None:
    if command in ("explore", "replay", "mutants"):
        pytest.importorskip("greenlet")
    if command in ("verify", "analyze", "sql", "proc"):
        pytest.importorskip("duckdb")
    for example in COMMANDS[command].examples:
        build_parser(command).parse_args(shlex.split(example))


@pytest.mark.parametrize(
    ("module", "unneeded"),
    [
        # structlog imports greenlet, which gives a free-threaded interpreter its GIL back.
        ("stress.run.command", ("structlog", "greenlet", "duckdb", "plotly", "workers.qemu.reporter")),
        ("stress.cli", ("structlog", "greenlet", "rich.console", "socket", "subprocess")),
        ("stress.analysis.verify_command", ("structlog", "greenlet", "duckdb", "plotly")),
    ],
)
def test_a_command_imports_nothing_that_it_hardly_ever_needs(module: str, unneeded: tuple[str, ...]) -> None:
    look = f"import sys, {module}; print(*({set(unneeded)!r} & set(sys.modules)))"
    ended = subprocess.run(
        [sys.executable, "-c", look],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert ended.stdout == "\n"


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        main(["--version"])
    assert (ending.value.code, capsys.readouterr().out) == (0, f"pagealloc {pagealloc.__version__}\n")


# -- where it is started -------------------------------------------------------------------------------------


def console_script() -> str:
    script = Path(sys.executable).with_name("pagealloc")
    if not script.exists():
        pytest.skip("the package is not installed, so there is no console script")
    return str(script)


@pytest.fixture
def users_folder(tmp_path: Path) -> Path:
    """Make a folder as users of task queues have it: with a package called workers, and a reporter."""
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "__init__.py").write_text("raise RuntimeError('not yours')\n", encoding="utf-8")
    (tmp_path / "mine.py").write_text(
        "class Count:\n    def report(self, zone, batch):\n        pass\n", encoding="utf-8"
    )
    return tmp_path


def test_python_m_says_what_hides_a_package_of_ours(users_folder: Path, start_stress: Start) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = start_stress("golden", "x", cwd=users_folder, env=environment)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"stress: {users_folder / 'workers'} hides pagealloc's own package 'workers'")


def test_the_console_script_works_beside_a_package_called_workers(users_folder: Path) -> None:
    command = [console_script(), "run", "--seconds", "0.3", "--reporter", "mine:Count", "--run-dir", "it"]
    done = subprocess.run(command, cwd=users_folder, capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert "SUCCESS" in done.stdout.splitlines()[-1]
    assert (users_folder / "it" / "events-0001.ndjson").stat().st_size > 0, (
        "the log's writer works there, too"
    )


# -- files that lie ------------------------------------------------------------------------------------------

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "content",
    [
        DEEP,
        '{"format": ' + DEEP,
        '{"version": ' + "9" * 1_000_000 + "}",
        "\x00" * 1000,
        '{"format": "\x1b[2J"}',
    ],
    ids=["nested", "nested deeper", "a million digits", "zeros", "another format"],
)
def test_a_replay_file_that_is_none_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    pytest.importorskip("greenlet")
    path = tmp_path / "failure.json"
    path.write_text(content, encoding="utf-8")
    assert main(["replay", str(path)]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert str(path) in captured.err
    assert len(captured.err) < 1200
    assert "\x1b" not in captured.err


@pytest.mark.parametrize("path", ["/dev/zero", "/dev", "/dev/null", "/nowhere/x.json"])
def test_a_replay_file_without_an_end_is_not_read_to_its_end(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("greenlet")
    assert main(["replay", path]) == 2
    assert capsys.readouterr().err.startswith(f"stress: {path}: no readable JSON file (")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("preset", None),
        ("preset", ["v6.1"]),
        ("scenario", None),
        ("mutant", 5),
        ("memory", None),
        ("memory", ["sc"]),
        ("text", None),
        ("schedule", {"0": 1}),
        ("schedule", [-1]),
        ("schedule", [True]),
        ("switches", "many"),
        ("fingerprint", 10**18),
        ("invariant", 1.5),
    ],
)
def test_a_field_of_another_kind_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], field: str, value: object
) -> None:
    replay = pytest.importorskip("stress.search.replay")
    path = tmp_path / "failure.json"
    replay.save(path, replay.Failure("free-the-buddy", "v6.1", None, "sc", "S1", "words", [0, 1], 1))
    content = json.loads(path.read_text(encoding="utf-8"))
    assert {"format", "version", *replay.FIELDS} == set(content), "every field is of some kind"
    path.write_text(json.dumps({**content, field: value}), encoding="utf-8")
    assert main(["replay", str(path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"stress: {path}: ")
    assert field in err


def test_a_run_whose_log_is_a_device_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("duckdb")
    (tmp_path / "events-0001.ndjson").symlink_to("/dev/zero")
    for command in (["verify"], ["analyze"], ["sql", "--parquet", str(tmp_path.parent / "columns")]):
        assert main([*command, str(tmp_path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert main(["run", "/dev/zero.toml"]) == 2


# -- an interpreter that is too old --------------------------------------------------------------------------


@pytest.mark.parametrize("package", PACKAGES)
def test_a_python_without_our_packages_is_named(package: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\nfrom stress.cli import main; sys.exit(main(['run']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"stress: {sys.executable} has no package {package}, expected ")


def test_the_packages_that_are_missed_by_name_are_the_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert tuple(line.partition(">")[0] for line in project["dependencies"]) == PACKAGES


def test_an_old_interpreter_is_told_at_once_and_pip_tries_nothing_for_it() -> None:
    """Without markers pip tries every version of every dependency, before it says which Python is required."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    unmarked = [
        line for line in (*project["dependencies"], *extras) if "python_version >= '3.11'" not in line
    ]
    asked_by_the_first_command = ("analysis", "search")
    first = [line for name in asked_by_the_first_command for line in project["optional-dependencies"][name]]
    assert not set(unmarked) & {*project["dependencies"], *first}
    assert project["requires-python"] == ">=3.11"


def test_a_clone_that_an_old_interpreter_runs_says_what_it_needs() -> None:
    program = (
        "import sys; sys.version_info, sys.version = (3, 10, 13), '3.10.13 (main)'\n"
        "from stress.__main__ import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "stress: pagealloc needs Python 3.11 or newer, this is 3.10.13\n"


def test_zones_that_the_machine_cannot_keep_the_books_of_are_refused_with_what_they_need(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stress.run.footprint.available_bytes", lambda: 1 << 30)
    assert main(["run", "--zones", "Normal=1TiB"]) == 2
    assert capsys.readouterr().err == (
        "stress: --zones: Normal=1TiB: this machine has 1024 MiB left, expected room for 4352 MiB of the pages' own "
        "bookkeeping (17 bytes a page)\n"
    )


# -- paths ---------------------------------------------------------------------------------------------------

READ = {"file", "kernel", "load", "modules", "other", "paths", "rss", "run", "socket", "trace", "zoneinfo"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_path_that_is_written_later_is_taken_from_the_root_on(command: str) -> None:
    """A reporter, a load or an executor of somebody's own may go to another folder meanwhile."""
    (subparsers,) = [
        action for action in build_parser(command)._actions if isinstance(action, argparse._SubParsersAction)
    ]
    actions = subparsers.choices[command]._actions
    assert {action.dest for action in actions if action.type is Path} <= READ
    named = {"run_dir", "save", "out", "report", "perfetto", "parquet", "chart"}
    assert {action.type for action in actions if action.dest in named} <= {output_path}
    assert output_path("mine") == Path.cwd() / "mine"


def test_a_folder_to_keep_files_in_is_made(tmp_path: Path) -> None:
    """The examples of --help name one that is not there."""
    check_folder("--save", tmp_path / "found" / "here")
    assert (tmp_path / "found" / "here").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(BadArgument, match=r"--save: .*/file/x: Not a directory"):
        check_folder("--save", tmp_path / "file" / "x")


# -- started without streams, or without a folder ------------------------------------------------------------

STREAMS = """
import os, subprocess, sys
from stress.system.leaving import open_standard_streams
open_standard_streams()
print("nowhere", flush=True)
print("nowhere", file=sys.stderr, flush=True)
with open(sys.argv[1], "w") as file:
    children = [subprocess.call(["sh", "-c", f"echo x >&{number}"], stderr=None) for number in (1, 2)]
    file.write(f"{file.fileno() > 2} {children} {sys.stdin.read()!r}")
"""


def test_streams_that_are_closed_are_nobody_elses(tmp_path: Path) -> None:
    """The next file that is opened would be stdout: a run's log, or its memory."""
    told = tmp_path / "told"
    words = shlex.join([sys.executable, "-c", STREAMS, str(told)])
    subprocess.run(["sh", "-c", f"exec {words} <&- >&- 2>&-"], check=True, cwd=ROOT, timeout=60)
    assert told.read_text() == "True [0, 0] ''"


def test_a_command_without_stdout_does_its_work() -> None:
    words = "lab burst:16MiB --guest 256MiB --seeds 1"
    command = f"exec {shlex.quote(sys.executable)} -m stress {words} >&-"
    ended = subprocess.run(
        ["sh", "-c", command], check=False, cwd=ROOT, timeout=60, stderr=subprocess.PIPE, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f"rmdir {shlex.quote(str(gone))} && exec {shlex.quote(sys.executable)} -m stress --version"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        ["sh", "-c", command],
        check=False,
        cwd=gone,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "stress: the current folder is gone: No such file or directory\n"


# -- narrow terminals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", ["20", "80"])
def test_figures_are_there_in_a_terminal_of_any_width(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table that is squeezed drops its figures first, and then it says nothing."""
    monkeypatch.setenv("COLUMNS", columns)
    print_summary(console(), Summary(allocs=1234567, batches=89, reported_bytes=77 << 20), "words")
    out = capsys.readouterr().out
    assert [out.count(figure) for figure in ("1,234,567", "89 (", "77 MiB")] == [1, 1, 1]
    assert max(map(len, out.splitlines())) <= 80


# -- files without an end, and torn ones ----------------------------------------------------------------------


def little_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))


@pytest.mark.parametrize(
    "words",
    [
        "lab curve:/dev/zero",
        "lab trace:/dev/zero --guest 1GiB",
        "lab burst:64MiB --state /dev/zero",
        "lab burst:64MiB --zoneinfo /dev/zero",
        "follow /dev/zero tests/stress/formats/proc/zoneinfo.txt",
        "follow TORN TORN",
        "guest /dev/zero",
    ],
)
def test_a_file_without_an_end_is_refused_in_one_line(words: str, tmp_path: Path) -> None:
    torn = tmp_path / "torn.txt.gz"
    torn.write_bytes(gzip.compress(b"Node 0, zone Normal\n" * 1000)[:-9])
    ended = subprocess.run(
        [sys.executable, "-m", "stress", *words.replace("TORN", str(torn)).split()],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        preexec_fn=little_memory,
    )
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1), ended.stderr
    assert len(ended.stderr) < 500
