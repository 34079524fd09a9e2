"""Schedule search: what it finds, what it says it covered, and that a failure can be had again."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from pagealloc.revision import PRESETS
from pagealloc.sync_real import gil_enabled

if not gil_enabled():
    pytest.skip("importing greenlet would give this interpreter its GIL back", allow_module_level=True)
pytest.importorskip("greenlet", reason="schedule search needs greenlet")

from stress.cli import main
from stress.controlled.shrink import shrink
from stress.controlled.strategy import DepthFirst, Pct, Portfolio, RandomWalk, Replay, make_strategy
from stress.controlled.world import Chooser, Subject, Violation, World
from stress.mutants import MUTANTS, planted
from stress.search import replay
from stress.search.explore import Program, Result, explore, program
from stress.search.kit import Kit
from stress.search.scenarios import SCENARIOS
from stress.search.story import TURNS_SHOWN, last_step, schedule_table, turns, write_perfetto
from workers.page_reporting import PageReporting


def search(scenario: str, mutant: str | None = None, executions: int = 300, preset: str = "v6.1") -> Result:
    strategy = make_strategy("portfolio", 1, executions, 2)
    return explore(program(scenario, preset), strategy, executions, mutant)


# -- no false alarms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_the_correct_code_is_silent(preset: str) -> None:
    for scenario in SCENARIOS:
        failure = search(scenario, executions=40, preset=preset).failure
        assert failure is None, failure


# -- a failure is told ------------------------------------------------------------------------------------


def test_a_story_tells_works_by_name_and_folds_nothing_that_the_invariant_is_about() -> None:
    failure = search("unregister-with-a-timeout", "M-65", executions=500).failure
    assert failure is not None
    world = replay.execute(failure)
    assert isinstance(world.failure, Violation)
    console = Console(file=io.StringIO(), width=300)
    console.print(schedule_table(world.log or [], world, world.failure))
    told = console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("disarms and bars", "queues", "begins", "ends"):
        assert f"{words} page_reporting_process host" in told


def test_a_story_about_a_lock_shows_who_took_it() -> None:
    failure = search("free-the-buddy", "M-10").failure
    assert failure is not None
    assert failure.invariant == "S9"
    assert last_step(replay.execute(failure)) == "worker acquire zone->lock Normal"


LOOK = "free-while-the-lists-look-empty"


def test_a_store_that_waits_loses_a_request_and_a_full_barrier_loses_none() -> None:
    found = explore(program(LOOK, "v6.1", memory="tso"), DepthFirst(1), 1000).failure
    assert found is not None
    assert (found.invariant, found.memory) == ("L1", "tso")
    world = replay.execute(found)
    assert str(world.failure) == f"L1: {found.text}"
    told = [entry.text for entry in world.log or ()]
    assert any("store buffer of worker" in text for text in told)
    assert any("drains" in text for text in told)
    for preset, memory in (("v6.1+mb", "tso"), ("v6.1", "sc")):
        result = explore(program(LOOK, preset, memory=memory), DepthFirst(2), 10_000)
        assert (result.failure, result.complete) == (None, True)


def test_a_scenario_without_a_choice_is_executed_once_and_complete() -> None:
    result = search("vector-nodes", executions=1000)
    assert (result.executions, result.complete) == (1, True)


# -- what was covered --------------------------------------------------------------------------------------


def test_a_depth_first_search_ends_and_says_so() -> None:
    subject = program("retag-in-flight", "v6.1")
    strategy = DepthFirst(1)
    result = explore(subject, strategy, 100_000)
    assert result.complete
    assert f"all {result.executions} schedules with at most 1 preemptions" in result.covered
    assert f"{result.distinct} distinct interleavings" in result.covered
    assert result.distinct > 1


@pytest.mark.parametrize(
    "scenario", ["free-the-buddy", "retag-in-flight", "withhold-in-flight", "watermark-edge"]
)
def test_two_preemptions_are_searched_to_the_end(scenario: str) -> None:
    result = explore(program(scenario, "v6.1"), DepthFirst(2), 20_000)
    assert result.complete
    assert result.failure is None
    assert 100 < result.distinct <= result.executions


def test_pruning_loses_no_outcome() -> None:
    """The histories that a search without pruning meets are met by one with it."""

    class Unpruned(DepthFirst):
        def pick(self, *arguments: object) -> int:
            self._seen.clear()
            return super().pick(*arguments)  # type: ignore[arg-type]

    subject = program("retag-in-flight", "v6.1")
    pruned, whole = explore(subject, DepthFirst(1), 100_000), explore(subject, Unpruned(1), 100_000)
    assert pruned.complete
    assert whole.complete
    assert pruned.executions < whole.executions
    assert len(pruned.histories) <= len(whole.histories)
    assert search_outcomes(DepthFirst(1)) == search_outcomes(Unpruned(1))


def search_outcomes(strategy: DepthFirst) -> set[tuple[object, ...]]:
    """All final states of a small program."""
    outcomes: set[tuple[object, ...]] = set()

    def body(kit: Kit) -> None:
        kit.build(("Normal", 32), capacity=1)
        first = kit.alloc(3)
        kit.start()
        got: list[int] = []
        kit.spawn("free", lambda: kit.free(first, 3))
        kit.spawn("alloc", lambda: got.append(kit.alloc(2)))
        kit.settle(all_reported=False)
        zone = kit.zones[0]
        outcomes.add((bytes(zone.state), tuple(got), tuple(map(tuple, kit.host.batches))))
        kit.reporting.unregister(kit.device)
        kit.stop()

    assert explore(Program("outcomes", body, PRESETS["v6.1"]), strategy, 100_000).complete
    return outcomes


def test_two_tasks_that_swap_what_they_saw_make_another_state() -> None:
    """By the tasks' hashes: were they summed, a third of these states would be taken for ones met before."""
    alike = 0
    for before in range(100):
        histories = []
        for seen in ((before, before + 1), (before + 1, before)):
            world = World(Replay([]))
            for name, data_history in zip("ab", seen, strict=True):
                world.data_history = hash((data_history,))
                world.step(world.spawn(name, lambda: None), "release", Subject(f"lock of {name}"))
            histories.append(world.history)
        alike += histories[0] == histories[1]
    assert alike == 0


def test_pct_prints_a_bound_that_falls_with_more_executions() -> None:
    few, many = Pct(1, 2), Pct(1, 2)
    explore(program("retag-in-flight", "v6.1"), few, 20)
    explore(program("retag-in-flight", "v6.1"), many, 200)
    bounds = [float(one.covered().rsplit("probability ", 1)[1].split()[0]) for one in (few, many)]
    assert bounds[1] < bounds[0] < 1


def test_the_same_seed_makes_the_same_search() -> None:
    subject = program("free-the-buddy", "v6.1")
    one, other = (explore(subject, Portfolio(7, 60, 1), 60) for _ in range(2))
    assert one.histories == other.histories
    assert one.steps == other.steps


def test_another_seed_makes_another_search() -> None:
    subject = program("free-the-buddy", "v6.1")
    one, other = (explore(subject, RandomWalk(seed), 50) for seed in (1, 2))
    assert one.histories != other.histories


# -- a failure can be had again ----------------------------------------------------------------------------


def test_a_hundred_failures_are_replayed_exactly() -> None:
    replayed = 0
    with planted("M-13a"):
        subject = program("free-the-buddy", "v6.1")
        walk = RandomWalk(5)
        while replayed < 100:
            first = subject.execute(walk.begin())
            if not isinstance(first.failure, Violation):
                continue
            again = subject.execute(Replay(first.schedule))
            assert (again.schedule, again.history, str(again.failure)) == (
                first.schedule,
                first.history,
                str(first.failure),
            )
            replayed += 1


def test_a_shrunk_failure_breaks_the_same_invariant_with_fewer_switches() -> None:
    result = explore(program("free-the-buddy", "v6.1"), RandomWalk(3), 2000, "M-1")
    assert result.failure is not None
    assert result.failure.switches < result.first_switches
    world = replay.execute(result.failure)
    assert isinstance(world.failure, Violation)
    assert (world.failure.invariant, world.failure.text) == (result.failure.invariant, result.failure.text)


def found(tmp_path: Path) -> Path:
    result = search("free-the-buddy", "M-1")
    assert result.failure is not None
    path = tmp_path / "failure.json"
    replay.save(path, result.failure)
    return path


def test_a_replay_tells_the_story(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["replay", str(found(tmp_path))]) == 0
    told = capsys.readouterr().out
    for part in ("violated S13", "life of the page", "worker", "reproduced, identical"):
        assert part in told


def test_a_replay_for_a_script_is_one_object(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["replay", "--json", str(found(tmp_path))]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["identical"]
    assert told["violation"]["invariant"] == "S13"


def test_a_schedule_of_other_code_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = found(tmp_path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "fingerprint": "0" * 16}))
    assert main(["replay", str(path)]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert "other code" in captured.err
    assert main(["replay", "--any-code", str(path)]) == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": "pagealloc-replay", "version": 99}',
        '{"format": "pagealloc-replay", "version": 1}',
    ],
)
def test_what_is_no_replay_file_is_named_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str
) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    assert main(["replay", str(path)]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert str(path) in captured.err


def test_a_trace_for_perfetto_has_a_track_for_each_task(tmp_path: Path) -> None:
    failure = search("free-the-buddy", "M-1").failure
    assert failure is not None
    world = replay.execute(failure)
    write_perfetto(tmp_path / "trace.json", world)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert {"main", "worker", "free"} <= names
    slices = [event for event in events if event["ph"] == "X"]
    assert all(event["dur"] > 0 for event in slices)
    assert world.log is not None
    assert len(turns(world.log)) > 1


# -- the command line --------------------------------------------------------------------------------------


def test_explore_for_a_script_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["explore", "retag-in-flight", "--strategy", "dfs", "--preemptions", "1", "--json"]
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "SUCCESS"
    assert told["complete"] is True
    keys = {"executions", "distinct", "steps", "seconds", "executions_per_second", "violation", "replay_file"}
    assert keys <= set(told)


def test_explore_that_fails_says_how_to_have_it_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["explore", "free-the-buddy", "--mutant", "M-1", "--save", str(tmp_path), "--jobs", "1"]
    assert main(arguments) == 1
    told = capsys.readouterr().out
    (file,) = tmp_path.iterdir()
    assert f"python -m stress replay {file}" in told.replace("\n", "")
    assert "FAILURE" in told.splitlines()[-1]


def test_one_scenario_is_spread_over_processes_by_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["explore", "free-the-buddy", "--strategy", "random", "--executions", "40", "--json"]
    assert main([*words, "--jobs", "2"]) == 0
    spread = json.loads(capsys.readouterr().out)
    assert [part["executions"] for part in spread["scenarios"]] == [20, 20]
    assert main([*words, "--jobs", "1"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert spread["executions"] == alone["executions"] == 40
    assert spread["steps"] != alone["steps"]  # half of them had another seed
    assert spread["distinct"] <= 40


def test_what_two_processes_met_is_counted_once(capsys: pytest.CaptureFixture[str]) -> None:
    words = "explore gone-for-good --strategy random --executions 4000 --jobs 2 --json"
    assert main(words.split()) == 0
    told = json.loads(capsys.readouterr().out)
    parts = [part["distinct"] for part in told["scenarios"]]
    assert max(parts) < told["distinct"] < sum(parts)


def test_an_execution_without_end_is_told_with_its_middle_left_out() -> None:
    def body(kit: Kit) -> None:
        def go_round() -> None:
            while True:
                kit.tick()

        kit.spawn("one", go_round)
        kit.spawn("other", go_round)

    world = Program("rounds", body, PRESETS["v6.1"]).execute(RandomWalk(1), log=True)
    assert isinstance(world.failure, Violation)
    assert world.failure.text.endswith("one repeats tick tick; other repeats tick tick")
    assert world.log is not None
    assert len(turns(world.log)) > TURNS_SHOWN
    assert schedule_table(world.log, world).row_count == TURNS_SHOWN + 1


def test_the_list_names_scenarios_and_mutants(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", "--list", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {one["name"] for one in told["scenarios"]} == set(SCENARIOS)
    assert all(one["about"] for one in told["scenarios"])
    assert [one["id"] for one in told["mutants"]] == list(MUTANTS)


@pytest.mark.parametrize(
    "words",
    [
        "explore no-such-scenario",
        "explore --strategy luck",
        "explore --executions 0",
        "explore --preset v9",
        "explore --mutant M-999",
        "explore --jobs 0",
        "mutants M-999",
        "mutants --strategy luck",
        "mutants --world flat",
        "mutants --seconds 0",
        "replay no-such-file",
    ],
)
def test_bad_search_arguments_are_answered_with_one_line(
    capsys: pytest.CaptureFixture[str], words: str
) -> None:
    assert main(words.split()) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)


# -- code that does not repeat -----------------------------------------------------------------------------


def test_what_fails_once_and_never_again_is_told_without_a_story(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Code that reads a clock or a random number of its own is found out, and is no fault of the search."""
    monkeypatch.chdir(tmp_path)
    calls = []
    notify = PageReporting.notify

    def now_and_then(self: PageReporting, pfn: int = -1, order: int = -1) -> None:
        calls.append(pfn)
        if len(calls) == 30:
            raise RuntimeError("now and then")
        notify(self, pfn, order)

    monkeypatch.setattr(PageReporting, "notify", now_and_then)
    assert main(["explore", "free-the-buddy", "--executions", "200", "--jobs", "1"]) == 1
    out = capsys.readouterr().out
    assert "violated S24: " in out
    assert "no story: its schedule does not fail any more" in out


def test_a_failure_that_does_not_come_back_is_not_shrunk() -> None:
    world = World(Replay([]))
    world.failure = Violation("L1", "it was there")

    def another(chooser: Chooser) -> World:
        return World(chooser)

    assert shrink(another, world) is world
