"""The compiled build: what it refuses, what it says, and that the pure install never notices it."""

from __future__ import annotations

from pathlib import Path

import pytest

import pagealloc
from stress import cli, provenance
from stress.errors import BadArgument
from stress.run import params

ROOT = Path(__file__).parents[1]


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> object:
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    monkeypatch.syspath_prepend(str(ROOT))
    import hatch_build  # noqa: PLC0415 - it is no part of the package

    return hatch_build


def test_the_build_says_which_it_is() -> None:
    assert provenance.versions()["compiled"] is pagealloc.COMPILED


@pytest.mark.parametrize("command", ["check", "explore", "replay", "mutants", "follow"])
def test_what_plants_or_watches_refuses_compiled_code(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "COMPILED", True)
    assert cli.main([command]) == 2
    assert "PAGEALLOC_COMPILE" in capsys.readouterr().err


def test_a_run_of_compiled_code_takes_no_fault_and_says_what_it_hides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(params, "COMPILED", True)
    with pytest.raises(BadArgument, match="the interpreted build"):
        params.RunParams(mutant="M-1")
    monkeypatch.setattr(provenance, "COMPILED", True)
    monkeypatch.setattr(provenance, "gil_enabled", lambda: True)
    assert "hides races" in provenance.blind_spots()[0]
    monkeypatch.setattr(provenance, "gil_enabled", lambda: False)
    assert provenance.blind_spots() == []


def test_without_a_compiler_one_line_says_what_is_missing(
    build: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(SystemExit, match="there is no C compiler 'cc'"):
        build._expect_a_compiler()  # type: ignore[attr-defined]


def test_what_is_left_interpreted_is_there(build: object) -> None:
    left: set[str] = build.INTERPRETED  # type: ignore[attr-defined]
    assert all((ROOT / "pagealloc" / name).is_file() for name in left)
