"""Scenarios as data: what ships is sound, what is wrong is answered with one line, and options go above it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stress.cli import main
from stress.run.params import MANNERS, RunParams
from stress.run.scenario import load_scenario, shipped
from workers.reporters import SHIPPED

DANGERS = {
    "burst-then-silence",
    "fragment-and-heal",
    "handover",
    "many-zones",
    "mixed-types",
    "register-unregister",
    "reporter-failing",
    "reporter-hanging",
    "reporter-slow",
    "steady-churn",
    "watermark-pressure",
}


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "own.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


# -- what ships ----------------------------------------------------------------------------------------------


def test_each_danger_ships_and_one_that_goes_through_all_of_them() -> None:
    assert set(shipped()) == {*DANGERS, "all"}
    assert {phase.name for phase in load_scenario("all").phases} == DANGERS


@pytest.mark.parametrize("name", sorted(DANGERS))
def test_a_scenario_says_what_it_is_for_and_differs_from_a_plain_run(name: str) -> None:
    scenario = load_scenario(name)
    assert len(scenario.about) > 30
    assert set(scenario.values) & MANNERS
    assert scenario.params({}).scenario == name


def test_a_danger_has_a_zone_large_enough_for_a_high_atomic_reserve() -> None:
    """Kernels reserve 1 % of a zone for urgent blocks, and nothing where that is no whole pageblock."""
    params = load_scenario("watermark-pressure").params({})
    pageblock_pages = params.layout().pageblock_nr_pages
    assert all(spec.nr_pages // 100 >= pageblock_pages for spec in params.zone_specs())


def test_the_list_names_every_scenario_and_reporter_with_what_it_is_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", "--list"]) == 0
    told = [tuple(line.split(maxsplit=1)) for line in capsys.readouterr().out.splitlines() if line[0] == " "]
    scenarios = [(name, load_scenario(name).about) for name in shipped()]
    assert told == scenarios + [(name, reporter.about) for name, reporter in SHIPPED.items()]


# -- files of your own ---------------------------------------------------------------------------------------


def test_a_file_is_a_run_with_phases_that_change_its_manners(tmp_path: Path) -> None:
    name = written(
        tmp_path,
        """
        about = "mine"
        allocators = 3
        zones = "Normal=64MiB"
        reporter_sleep = "0.1..0.2"
        [[phases]]
        name = "calm"
        [[phases]]
        scenario = "handover"
        [[phases]]
        name = "storm"
        share = 2
        scenario = "reporter-failing"
        fail_rate = 0.9
        """,
    )
    params = load_scenario(name).params({})
    calm, handover, storm = params.phases
    assert (params.allocators, params.zones, params.reporter_sleep_s) == (3, "Normal=64MiB", (0.1, 0.2))
    assert ([phase.name for phase in params.phases], storm.share) == (["calm", "handover", "storm"], 2)
    assert params.during(calm).handover == RunParams().handover
    assert params.during(handover).handover == 0.9
    assert params.during(handover).zones == "Normal=64MiB", "the machine stays"
    assert (params.during(storm).fail_rate, params.during(storm).delay_rate) == (0.9, 0.05)
    assert "phases=calm,handover,storm" in params.words().split()


def test_the_example_of_the_guide_is_a_scenario(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[3] / "docs" / "RUNS.md").read_text(encoding="utf-8")
    example = guide.partition("```toml\n")[2].partition("```")[0]
    params = load_scenario(written(tmp_path, example)).params({})
    assert [phase.name for phase in params.phases] == ["calm", "storm", "handover"]


def test_what_is_chosen_on_the_command_line_holds_in_every_phase() -> None:
    params = load_scenario("all").params({"fail_rate": 0.5, "allocators": 2})
    assert params.allocators == 2
    assert {params.during(phase).fail_rate for phase in params.phases} == {0.5}


def test_the_sleep_reporter_sleeps_unless_told_how_long(tmp_path: Path) -> None:
    name = written(tmp_path, "about = 'a'\nreporter = 'sleep'\n")
    assert load_scenario(name).params({}).reporter_sleep_s == (0.01, 0.01)
    assert load_scenario(name).params({"reporter_sleep_s": (1.0, 2.0)}).reporter_sleep_s == (1.0, 2.0)


BAD_FILES = {
    "no about": ("allocators = 4", "about: '', expected a line of text"),
    "an unknown key": ("allocaters = 4", "allocaters: 4, expected an option of run, about or phases"),
    "an option with its dashes": ("fail-rate = 1", "fail-rate: 1, expected an option of run"),
    "a text for a number": ("allocators = '4'", "allocators: '4', expected a number"),
    "a truth for a number": ("seconds = true", "seconds: True, expected a number"),
    "half a thread": ("allocators = 4.5", "allocators: 4.5, expected a whole number"),
    "a number for a text": ("zones = 5", "zones: 5, expected a text"),
    "a table for a range": (
        "reporter_sleep = [1, 2]",
        "reporter_sleep: [1, 2], expected a number, or a text S..T",
    ),
    "a bad range": ("reporter_sleep = 'long'", "reporter_sleep: 'long', expected seconds S, or a range S..T"),
    "a switch that is a number": ("must_release = 1", "must_release: 1, expected true or false"),
    "out of range": ("fail_rate = 1.5", "fail_rate: 1.5, expected a probability, 0 .. 1"),
    "not a number": ("handover = nan", "handover: nan, expected a probability, 0 .. 1"),
    "a bad mix": ("gfp = 'KERNAL=1'", "gfp: 'KERNAL=1', expected flags of ATOMIC"),
    "no such reporter": ("reporter = 'nobody'", "reporter 'nobody' is none of null, sleep, discard"),
    "phases that are none": ("phases = 3", "phases: 3, expected"),
    "a phase that is none": ("phases = [3]", "phases[1]: 3, expected a table"),
    "a phase without a name": ("[[phases]]\nfail_rate = 1", "phases[1].name: '', expected a line of text"),
    "two phases of one name": (
        "[[phases]]\nname = 'a'\n[[phases]]\nname = 'a'",
        "phases: 'a', expected a name of its own",
    ),
    "a phase with another machine": (
        "[[phases]]\nname = 'a'\nzones = 'Normal=64MiB'",
        "phases[1].zones: 'Normal=64MiB', expected name, share, scenario, or an option of run that may change",
    ),
    "a phase out of range": (
        "[[phases]]\nname = 'a'\n[[phases]]\nname = 'b'\nfill = 0",
        "phases[2].fill: 0.0, expected more than 0",
    ),
    "a share of nothing": ("[[phases]]\nname = 'a'\nshare = 0", "phases[1].share: 0, expected more than 0"),
    "phases of phases": ("[[phases]]\nscenario = 'all'", "expected one scenario, no phases"),
    "a phase from nowhere": ("[[phases]]\nscenario = 'nowhere'", "scenario 'nowhere', expected one of all, "),
    "no TOML": ("about", "expected TOML: "),
    "a hole without a bottom": ("x = " + "[" * 50_000, "expected TOML: "),
    "a number without an end": (f"allocators = {'9' * 1_000_000}", "expected TOML: "),
    "a number that cannot be printed": (f"allocators = 0x{'f' * 1_000_000}", "allocators: a very large int"),
    "a key of many lines": ('"a\\n\\u001b[2J" = 1', "expected an option of run"),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_a_bad_file_gives_status_two_and_one_line_with_file_key_value_and_what_is_expected(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    text, complaint = BAD_FILES[what]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.toml").write_text(
        text if what in ("no about", "no TOML") else f"about = 'a'\n{text}", encoding="utf-8"
    )
    assert main(["run", "own.toml"]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert complaint in captured.err
    if what not in ("no such reporter", "a phase from nowhere", "phases of phases"):
        assert captured.err.startswith("stress: own.toml: ")
    assert [path.name for path in tmp_path.iterdir()] == ["own.toml"]


def test_a_file_that_is_no_text_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    assert main(["run", str(path)]) == 2
    assert "expected a scenario's file in TOML" in capsys.readouterr().err
