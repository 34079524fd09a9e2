"""`stress check`: everything is looked at, what finds something is told first, and there is one verdict."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
from rich.console import Console

from pagealloc.sync_real import gil_enabled

if not gil_enabled():
    pytest.skip("importing greenlet would give this interpreter its GIL back", allow_module_level=True)
pytest.importorskip("greenlet", reason="schedule search needs greenlet")

from pagealloc.revision import PRESETS
from stress.cli import build_parser, main
from stress.errors import CannotBeDone, Verdict
from stress.hunt import check_command
from stress.hunt.check_command import Progress
from stress.hunt.command import Hunt, _print_mutants
from stress.hunt.pieces import KINDS, QUICK, WHOLE, Finding, Piece, again, look, pieces
from stress.mutants import planted
from stress.run.scenario import shipped
from stress.search.scenarios import SCENARIOS

GOLDEN, SCHEDULES, RUNS, TESTS = KINDS


def test_a_check_looks_at_everything_there_is() -> None:
    todo, missing = pieces(WHOLE)
    names = {kind: {piece.name for piece in todo if piece.kind == kind} for kind in KINDS}
    assert names[SCHEDULES] == set(SCENARIOS)
    assert names[RUNS] == set(shipped()) - {"all"}
    assert names[TESTS] == {"pagealloc", "workers"}
    assert names[GOLDEN] >= {"tests/golden/designed", "tests/golden/random"}
    assert missing == []


def test_a_quick_check_does_less_of_the_same() -> None:
    quick, whole = ({piece.name for piece in pieces(effort)[0]} for effort in (QUICK, WHOLE))
    assert quick <= whole
    assert {name for name in whole - quick if not name.startswith("tests/golden/")} == set()


def test_a_fault_that_a_schedule_shows_is_told_as_a_story() -> None:
    with planted("M-69"):
        finding = look(Piece(SCHEDULES, "give-back-what-is-not-withheld", 100))
    assert finding.verdict is Verdict.FAILURE
    assert finding.found.startswith("lockdep: ")
    assert "give back has ended and holds zone->lock Normal" in finding.story
    command = (
        "python -m stress explore give-back-what-is-not-withheld --preset v6.12 --executions 100 --jobs 1"
    )
    assert again(finding.piece) == command
    assert main([*shlex.split(command)[3:], "--mutant", "M-69", "--json"]) == 1


def test_a_short_run_is_judged_by_its_log() -> None:
    finding = look(Piece(RUNS, "steady-churn", 0.5))
    assert finding.verdict is Verdict.SUCCESS, finding.story
    assert finding.done.endswith(" records")


@pytest.mark.parametrize(
    ("verdicts", "verdict"),
    [
        ([Verdict.SUCCESS, Verdict.SUCCESS], Verdict.SUCCESS),
        ([Verdict.CANNOT_DECIDE, Verdict.SUCCESS], Verdict.CANNOT_DECIDE),
        ([Verdict.CANNOT_DECIDE, Verdict.FAILURE], Verdict.FAILURE),
    ],
)
def test_one_verdict_is_made_of_all(verdicts: list[Verdict], verdict: Verdict) -> None:
    progress = Progress([])
    for one in verdicts:
        progress.note(Finding(Piece(SCHEDULES, "a"), one, "", 0.0))
    assert progress.verdict is verdict


def test_the_story_that_is_told_is_the_one_that_names_the_cause_in_the_fewest_words() -> None:
    progress = Progress([])
    by_rank = [
        Finding(Piece(SCHEDULES, "a"), Verdict.FAILURE, "", 0.0, "S13: a page", "short"),
        Finding(Piece(SCHEDULES, "a"), Verdict.FAILURE, "", 0.0, "S13: a page", "it is longer"),
        Finding(Piece(SCHEDULES, "a", preset="v5.7"), Verdict.FAILURE, "", 0.0, "S13: a page", "short"),
        Finding(Piece(SCHEDULES, "a"), Verdict.FAILURE, "", 0.0, "vectors: 1, expected 2", "short"),
        Finding(Piece(GOLDEN, "a"), Verdict.FAILURE, "", 0.0, "1 failed", "short"),
        Finding(Piece(TESTS, "a"), Verdict.FAILURE, "", 0.0, "FAILED", ""),
        Finding(Piece(SCHEDULES, "a"), Verdict.CANNOT_DECIDE, "", 0.0, "who knows", ""),
    ]
    for finding in reversed(by_rank):
        progress.note(finding)
        assert progress.clearest is finding


def test_a_check_that_finds_something_fails_and_says_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    todo = [Piece(SCHEDULES, "vector-nodes", 1)]
    wrong = Finding(todo[0], Verdict.FAILURE, "1 executions", 0.1, "S1: a page", "the story")
    monkeypatch.setattr(check_command, "pieces", lambda effort: (todo, ["nothing"]))
    monkeypatch.setattr(check_command, "_look_at_all", lambda todo, jobs: iter([wrong]))
    assert main(["check", "--quick"]) == 1
    out = capsys.readouterr().out
    assert "the story" in out
    assert out.count("!!! ") == out.count("S1: a page") == 1
    last = out.splitlines()[-1]
    assert last.startswith("FAILURE 1 looks, 1 of them found something")
    assert last.endswith(": python -m stress explore vector-nodes --preset v6.12 --executions 1 --jobs 1")
    assert main(["check", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["verdict"], told["pieces"][0]["found"]) == ("FAILURE", "S1: a page")
    assert told["pieces"][0]["again"] in last


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_whatever_was_found_is_told_once(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    todo = [
        Piece(kind, name, 1) for kind, name in ((RUNS, "steady-churn"), (GOLDEN, "g"), (TESTS, "workers"))
    ]
    wrong = [Finding(piece, Verdict.FAILURE, "", 0.1, f"{piece.name} broke", "") for piece in todo]
    wrong.append(Finding(todo[0], Verdict.CANNOT_DECIDE, "", 0.1, "nobody knows", ""))
    monkeypatch.setattr(check_command, "pieces", lambda effort: (todo, []))
    monkeypatch.setattr(check_command, "_look_at_all", lambda todo, jobs: iter(wrong))
    monkeypatch.setattr(check_command, "Console", partial(Console, force_terminal=terminal, width=200))
    assert main(["check", "--quick"]) == 1
    out = capsys.readouterr().out
    assert [out.count(f"{finding.found}") for finding in wrong] == [1, 1, 1, 1]
    for finding in wrong:
        assert main_knows(again(finding.piece))


def test_what_several_kernels_show_in_the_same_words_is_told_once() -> None:
    same = [
        Finding(Piece(SCHEDULES, "a", preset=name), Verdict.FAILURE, "", 0.1, "S1: x") for name in PRESETS
    ]
    other = Finding(Piece(SCHEDULES, "a", preset="v5.7"), Verdict.FAILURE, "", 0.1, "S2: y")
    progress = Progress([])
    for finding in (*same, other):
        progress.note(finding)
    assert progress.news == [same[0], other]
    assert len(progress.wrong) == len(PRESETS) + 1


@pytest.mark.parametrize(("verdict", "status"), [(Verdict.FAILURE, 1), (Verdict.SUCCESS, 3)])
def test_what_was_found_before_a_process_was_killed_is_told(
    verdict: Verdict, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def look_at_some(todo: list[Piece], jobs: int) -> Iterator[Finding]:
        yield Finding(todo[0], verdict, "", 0.1, "S1: a page", "the story")
        raise CannotBeDone("a worker process was killed")

    monkeypatch.setattr(check_command, "_look_at_all", look_at_some)
    assert main(["check", "--quick"]) == status
    told = capsys.readouterr()
    assert "a worker process was killed" in told.out + told.err
    assert ("the story" in told.out, "SUCCESS" in told.out) == (status == 1, False)


def main_knows(command: str) -> bool:
    """Whether a command's arguments are ones that there are."""
    words = shlex.split(command)
    if words[2] == "stress":
        build_parser(words[3]).parse_args(words[3:])
    return words[2] in ("stress", "pytest")


@pytest.mark.parametrize("columns", ["20", "80"])
def test_a_line_of_a_fault_has_its_name_and_figures_in_a_terminal_of_any_width(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table that is squeezed drops them first: at 80 columns nobody learned which fault was which."""
    monkeypatch.setenv("COLUMNS", columns)
    found = Hunt("M-10", "calls " * 30, "S9", "free-the-buddy: " * 9, 4321, 1.5, 40, 20, None)
    _print_mutants([found], Verdict.SUCCESS)
    _print_mutants([replace(found, in_log="the log: S9: " * 9)], Verdict.SUCCESS)
    out = capsys.readouterr().out
    assert [out.count(figure) for figure in ("M-10", "4,321", " 1.5 ", "40 → 20")] == [2, 2, 2, 2]
    assert max(map(len, out.splitlines())) <= 80
