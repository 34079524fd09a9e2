"""The compiled build's column: who is taken for it, and that both builds' rows stand side by side."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stress.bench import builds, child, command, groups, table, tracing
from stress.bench.builds import ANSWER, ROOT, Column, check_compiled, different_file
from stress.bench.measure import Effort, Row, compare
from stress.bench.peers import PEERS, find_peers
from stress.cli import main
from stress.errors import BadArgument, CannotBeDone

TINY = Effort(
    rounds=1, window_s=0.001, threads_s=0.001, warm_up_s=0.0, churn_s=0.001, largest_zone_pages=1 << 16
)
INIT = ROOT / "pagealloc" / "__init__.py"

pytestmark = pytest.mark.interpreted("the column is a second one: beside the interpreted build's")

Fake = Callable[..., str]


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    """Make a program that answers as a Python with some build would: a probe, and then a child's lines."""

    def make(*, file: Path = INIT, compiled: bool = True, probe: str = "", answers: str = "") -> str:
        said = probe or f"print({ANSWER + json.dumps([str(file), compiled])!r})"
        path = tmp_path / "python"
        path.write_text(
            f"#!{sys.executable}\nimport sys\nif '-c' in sys.argv:\n    {said}\nelse:\n    {answers or 'pass'}\n"
        )
        path.chmod(0o755)
        return str(path)

    return make


def column(**machine: object) -> Column:
    return Column({**table.describe_machine(), "compiled": True, **machine}, list(PEERS), "", {})


def answering(*answers: object) -> str:
    """Return what a child does that has these answers, one more after each question."""
    lines = [json.dumps(answer) for answer in answers]
    return f"[print(line, flush=True) or sys.stdin.readline() for line in {lines!r}]"


# -- who is taken for it ---------------------------------------------------------------------------------------


def test_the_compiled_build_of_this_source_is_taken(fake: Fake) -> None:
    check_compiled(fake())


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        ({"compiled": False}, "is the interpreted build, expected the compiled one: PAGEALLOC_COMPILE=1 "),
        (
            {"probe": "import no_such_module"},
            "no pagealloc that can be imported (ModuleNotFoundError: No module",
        ),
        ({"probe": "pass"}, "no pagealloc that can be imported (it says nothing)"),
        ({"probe": f"print({ANSWER + '[1, true]'!r}, 'bye', sep=chr(10))"}, "can be imported (bye)"),
        ({"probe": f"print({ANSWER + '[]'!r})"}, "can be imported (pagealloc of [])"),
        ({"probe": "sys.stdout.buffer.write(b'caf' + bytes([233]))"}, "can be imported (caf"),
    ],
)
def test_what_is_no_compiled_build_is_one_line(
    what: dict[str, object], complaint: str, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    python = fake(**what)

    assert main(["bench", "--quick", "--compiled", python]) == 2

    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"stress: --compiled {python}: ")
    assert complaint in said.err
    assert said.err.count("\n") == 1


def test_a_python_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--compiled", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.endswith("none: No such file or directory, expected a Python\n")


def test_a_python_that_never_answers_is_not_waited_for(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builds, "PROBE_S", 0.1)
    with pytest.raises(BadArgument, match=r"no answer in 0\.1 s"):
        check_compiled(fake(probe="sys.stdin.read(); __import__('time').sleep(60)"))


def test_another_version_of_the_source_is_named(fake: Fake, tmp_path: Path) -> None:
    for floor in builds.FLOORS:
        shutil.copytree(ROOT / floor, tmp_path / floor, ignore=shutil.ignore_patterns("__pycache__"))
    check_compiled(fake(file=tmp_path / "pagealloc" / "__init__.py"))
    (tmp_path / "workers" / "reporters.py").write_text("# another one\n")

    with pytest.raises(BadArgument, match=r"another version of the source \(workers/reporters.py differs\)"):
        check_compiled(fake(file=tmp_path / "pagealloc" / "__init__.py"))


def test_a_file_that_only_one_source_has_is_a_difference(tmp_path: Path) -> None:
    (tmp_path / "here" / "stress").mkdir(parents=True)
    (tmp_path / "here" / "stress" / "more.py").touch()

    assert different_file(tmp_path / "here", tmp_path) == "stress/more.py"
    assert different_file(tmp_path, tmp_path / "here") == "stress/more.py"
    assert different_file(tmp_path, tmp_path) is None


def test_the_compiled_build_has_no_column_beside_itself(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builds, "COMPILED", True)
    with pytest.raises(BadArgument, match="this is the compiled build itself"):
        check_compiled(fake())


def test_another_interpreter_is_refused(fake: Fake) -> None:
    python = fake(answers=answering(column(python="3.9.1 (of old)").as_dict()))
    with (
        pytest.raises(BadArgument, match=r"it is CPython 3\.9\.1, GIL, expected CPython"),
        builds.other_build(python, table.describe_machine(), quick=True),
    ):
        pass


def test_a_process_that_dies_cannot_be_measured(fake: Fake) -> None:
    python = fake(answers=answering(column().as_dict()) + "; sys.exit(3)")
    with (
        builds.other_build(python, table.describe_machine(), quick=True) as other,
        pytest.raises(CannotBeDone, match="ended before its time, status 3"),
    ):
        other.measure("idle_pass")


# -- side by side ----------------------------------------------------------------------------------------------


def test_the_builds_take_turns_and_stand_side_by_side(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def row(ratio: float, goal: float) -> Row:
        return compare("a row", [ratio], [1.0], goal=goal, unit="pairs/s", against="it")

    monkeypatch.setattr(command, "groups", lambda effort, present: {"one": lambda: [row(0.5, 0.6)]})
    python = fake(answers=answering(column().as_dict(), [row(1.6, 1.5).as_dict()]))

    assert main(["bench", "--json", "--compiled", python]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert "measuring 1 of 2: one\nmeasuring 2 of 2: one, compiled\n" in said.err
    assert [(each["goal"], each["met"]) for each in found["rows"]] == [(0.6, False)]
    assert [(each["goal"], each["met"]) for each in found["compiled"]["rows"]] == [(1.5, True)]
    assert (found["machine"]["compiled"], found["compiled"]["machine"]["compiled"]) == (False, True)

    results = table.Results.from_dict(found)
    assert results.as_dict() == found
    assert "| a row | 0.5 | ≥ 0.6 | no | 1.6 | ≥ 1.5 | yes |" in table.markdown(results)


def test_a_row_of_one_build_alone_leaves_the_other_cells_empty() -> None:
    interpreted = column(compiled=False)
    interpreted.rows.append(compare("a row", [1.0], [2.0], goal=None, unit="", against="it"))
    results = table.Results(interpreted, [], column())

    assert "| a row | 0.5 |  | - |  |  |  |" in table.markdown(results)


def test_a_child_answers_what_it_is_asked() -> None:
    answers = io.StringIO()
    child.serve(["idle_pass\n"], answers, TINY)

    first, rows = (json.loads(line) for line in answers.getvalue().splitlines())
    assert first["machine"]["compiled"] is False
    assert first["rows"] == []
    assert rows[0]["name"].startswith("idle pass")


@pytest.fixture
def installed() -> None:
    """Skip where another process finds no pagealloc: it looks for what is installed, not into the current folder."""
    try:
        builds.probe(sys.executable)
    except BadArgument as error:
        pytest.skip(str(error))


def test_the_child_of_this_very_build_can_be_asked_and_ends(installed: None) -> None:
    with builds.other_build(sys.executable, table.describe_machine(), quick=True) as other:
        other.measure("idle_pass")
    assert other.column.rows[0].ratio is not None
    assert other.column.rows[0].goal is None, "a quick one has no goals"


def test_a_signal_ends_the_other_process_in_the_middle_of_its_rows(installed: None) -> None:
    measuring = """
import sys
from stress.bench import builds, table
from stress.system.leaving import hear_signals
hear_signals()
with builds.other_build(sys.executable, table.describe_machine(), quick=False) as other:
    print("asking", flush=True)
    other.measure("many_threads")
"""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", measuring], cwd=ROOT, text=True, stdout=pipe, stderr=pipe
    ) as ours:
        assert ours.stdout is not None
        assert ours.stdout.readline() == "asking\n"
        ours.terminate()
        _, said = ours.communicate(timeout=20)  # it returns when the other one, too, has closed its end
    assert (ours.returncode, said) == (143, "stress: ended by SIGTERM\n")


def test_what_one_build_alone_can_measure_is_known() -> None:
    assert set(groups.ONE_BUILD_ONLY) < set(groups.groups(TINY, find_peers()))


# -- goals -----------------------------------------------------------------------------------------------------


def test_more_is_asked_of_the_compiled_build(monkeypatch: pytest.MonkeyPatch) -> None:
    from stress.bench import measure  # noqa: PLC0415 - its name is that of a function above

    assert measure.goal_of_build(interpreted=0.6, compiled=1.5) == 0.6
    monkeypatch.setattr(measure, "COMPILED", True)
    assert measure.goal_of_build(interpreted=0.6, compiled=1.5) == 1.5


def test_compiled_code_is_neither_searched_nor_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "COMPILED", True)
    monkeypatch.setattr(tracing, "COMPILED", True)

    (search,) = groups.schedule_search(TINY)
    assert search.skipped == "only interpreted code can be searched"
    assert tracing._switched_off(TINY).skipped == "only interpreted code can be had without its tracepoints"
