"""The benchmark's own logic. Nothing here asserts how fast anything is."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from pagealloc import GFP_KERNEL, Memory, ZoneSpec
from pagealloc.revision import PRESETS
from pagealloc.zone import Zone
from stress.bench import command, groups, hypervisor, peers, table, throughput, virtual_time
from stress.bench.builds import Column
from stress.bench.growth import Curve, reported_share, reporting_by_size, zone_size, zones
from stress.bench.measure import Effort, Row, compare, percentile, several_threads, take_turns
from stress.bench.peers import Absent, Locked, Present, find_peers
from stress.bench.reporting import TOP_ORDER, ByHand, Holds, holds_us
from stress.bench.tracing import memory_without_tracepoints, methods_without_tracepoints
from stress.bench.workloads import SLICE, STEPS, front, mixed, mixed_plan, one_zone, waves
from stress.cli import main
from workers.reporters import Null

TINY = Effort(
    rounds=1, window_s=0.001, threads_s=0.001, warm_up_s=0.0, churn_s=0.001, largest_zone_pages=1 << 16
)


def quick_json(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert main(["bench", "--quick", "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


# -- rows ------------------------------------------------------------------------------------------------------


def test_a_row_is_the_median_of_the_ratios_of_each_round() -> None:
    row = compare("x", [10.0, 30.0, 20.0], [10.0, 10.0, 10.0], goal=1.5, unit="", against="y")

    assert (row.ratio, row.ours, row.theirs, row.spread) == (2.0, 20.0, 10.0, 1.0)


@pytest.mark.parametrize(
    ("ratio", "goal", "at_most", "met"),
    [
        (1.0, 1.0, False, True),
        (0.9, 1.0, False, False),
        (1.0, 1.0, True, True),
        (1.1, 1.0, True, False),
        (None, 1.0, False, None),
        (1.0, None, False, None),
    ],
)
def test_a_goal_is_the_least_or_the_most_that_a_ratio_may_be(
    ratio: float | None, goal: float | None, at_most: bool, met: bool | None
) -> None:
    assert Row("x", goal, ratio, at_most).met is met


def test_contenders_take_turns() -> None:
    calls: list[str] = []
    take_turns({name: lambda name=name: calls.append(name) for name in "ab"}, 2)  # type: ignore[misc]

    assert calls == ["a", "b", "a", "b"]


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile([float(value) for value in range(100)], 0.99) == 99.0
    assert percentile([1.0], 0.99) == 1.0


def test_what_threads_do_is_counted_until_the_window_ends() -> None:
    window = several_threads([lambda: 1, lambda: 1], 0.01, 0.0)

    assert window.operations > 0


def test_a_thread_that_fails_fails_the_measurement() -> None:
    def fail() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        several_threads([fail], 0.001, 0.0)


# -- what is asked of an allocator -----------------------------------------------------------------------------


def test_a_plan_ends_where_it_began() -> None:
    first, steps = mixed_plan(seed=1)
    held = list(first)
    for slot, old, new in steps:
        assert held[slot] == old
        held[slot] = new

    assert held == first


@pytest.mark.parametrize("page_sets", [False, True])
@pytest.mark.parametrize(
    "work",
    [
        lambda alloc, free: mixed(alloc, free, seed=3),
        lambda alloc, free: waves(alloc, free, order=9, blocks=8),
    ],
)
def test_a_memory_can_be_worked_on_for_ever(page_sets: bool, work: Callable[..., Callable[[], int]]) -> None:
    memory = one_zone(page_sets=page_sets)
    chunk = work(*front(memory))
    for _ in range(STEPS // SLICE):
        chunk()
    free = memory.nr_free_pages() + sum(memory.nr_page_set_pages(zone) for zone in memory.zones)
    for _ in range(STEPS // SLICE):
        chunk()

    assert free == memory.nr_free_pages() + sum(memory.nr_page_set_pages(zone) for zone in memory.zones)


# -- peers -----------------------------------------------------------------------------------------------------


def test_a_peer_that_is_absent_is_skipped_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tinygrad.runtime.support.memory", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    present = find_peers()

    assert list(present.peers) == ["multiprocessing Heap"]
    assert present.absent["tinygrad TLSFAllocator"] == "tinygrad is not installed"
    assert present.absent["cocotbext-axi BuddyAllocator"] == "cocotbext-axi is not installed"
    assert "torch" in present.absent["LMCache AddressManager"]


def without(*names: str) -> Present:
    here: dict[str, peers.Peer] = {
        name: peers.multiprocessing_heap for name in peers.PEERS if name not in names
    }
    return Present(here, {}, {})


def test_without_one_of_the_peers_a_row_against_the_best_has_no_goal_and_says_why() -> None:
    (row, *_) = throughput.one_thread_mixed(TINY, without("tinygrad TLSFAllocator"))

    assert row.goal is None
    assert row.against.endswith("the best of 2")
    assert row.figures["no goal without"] == "tinygrad TLSFAllocator (pip install 'pagealloc[peers]')"


def test_with_all_peers_the_rows_against_the_best_are_held_against_goals() -> None:
    rows = throughput.one_thread_mixed(TINY, without())

    assert [row.goal is not None for row in rows] == [True, False, True]
    assert [row.name.split(",")[2] for row in rows] == [" page sets off", " page sets off", " page sets on"]
    assert all("no goal without" not in row.figures for row in rows)


@pytest.mark.parametrize("name", peers.PEERS)
def test_a_peer_that_is_there_gives_blocks_and_takes_them_back(name: str) -> None:
    try:
        peer = peers.PEERS[name](1 << 16)
    except Absent as absent:
        pytest.skip(str(absent))
    blocks = [peer.alloc(order) for order in (0, 3, 0, 9)]
    for block, order in zip(blocks, (0, 3, 0, 9), strict=True):
        peer.free(block, order)

    assert mixed(peer.alloc, peer.free, seed=1)() > 0


def test_an_allocator_without_a_lock_runs_under_one() -> None:
    peer: Locked

    def alloc(units: int) -> int:
        assert not peer._acquire(False), "the lock is held"
        return units

    peer = Locked(alloc, lambda _: None, unit=4)

    assert peer.alloc(3) == 32
    assert peer._acquire(False), "and released again"
    peer._release()


def test_a_lock_is_released_when_the_peer_raises() -> None:
    def fail(units: int) -> int:
        raise MemoryError

    peer = Locked(fail, lambda _: None, unit=1)
    with pytest.raises(MemoryError):
        peer.alloc(0)

    assert peer._acquire(False)
    peer._release()


# -- the worker ------------------------------------------------------------------------------------------------


def test_passes_by_hand_report_everything_that_the_marks_let_go() -> None:
    side = ByHand(1 << 16, Null())
    side.settle()
    settled = side.zone.nr_reported[TOP_ORDER]
    side.use_and_free(8)

    assert settled == side.zone.nr_free[TOP_ORDER] > 0
    assert side.zone.nr_reported[TOP_ORDER] == settled - 8


def test_holds_are_collected_while_wanted() -> None:
    side = ByHand(1 << 16, Null())
    holds = Holds(side.zone)
    side.settle()
    assert holds.us == []
    side.use_and_free(4)
    holds.on = True
    side.settle()

    assert len(holds.us) >= 2
    assert min(holds.us) > 0


def test_fresh_blocks_behind_the_reported_ones_are_reported_too() -> None:
    assert holds_us(1 << 16, 4, 2, behind=True)


# -- tracepoints -----------------------------------------------------------------------------------------------


def traced(memory_class: type[Memory]) -> list[str]:
    memory = memory_class([ZoneSpec("Normal", 1 << 12)], ram=None, page_sets=False)
    events: list[str] = []
    memory.trace = lambda event, /, *fields: events.append(event)
    for zone in memory.zones:
        zone.trace = memory.trace
    pfn = memory.alloc_pages(GFP_KERNEL, 3)
    assert pfn is not None
    memory.free_pages(pfn, 3)
    assert memory.nr_free_pages() == 1 << 12
    return events


def test_methods_without_tracepoints_do_the_same_and_tell_nobody() -> None:
    assert "mm_page_alloc" in traced(Memory)
    assert "mm_page_free_zone_locked" in traced(Memory)
    assert traced(memory_without_tracepoints()) == []


def test_every_tracepoint_of_the_zone_is_taken_out() -> None:
    stripped = {name for owner in Zone.__mro__ for name in methods_without_tracepoints(owner)}

    assert {"free_one_page", "rmqueue_smallest", "isolate_free_page", "set_page_reported"} <= stripped


# -- the command -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_json_has_every_row_with_ratio_goal_and_met(capsys: pytest.CaptureFixture[str]) -> None:
    found = quick_json(capsys)

    rows = found["rows"]
    assert isinstance(rows, list)
    names = " ".join(row["name"] for row in rows)
    for what in (
        "one thread, mixed orders",
        "8 threads on one zone",
        "8 threads against one",
        "order 0 through the page sets",
        "a zone each",
        "with the worker, against without: reporter null",
        "with the worker, against without: reporter discard",
        "zone lock hold of the worker",
        "Reported entries",
        "given back per second",
        "idle pass",
        "tracepoints off",
        "tracepoints on",
        "schedule search",
    ):
        assert what in names
    for row in rows:
        assert {"ratio", "goal", "met", "figures"} <= set(row)
        assert (row["ratio"] is None) == (row["skipped"] is not None)
    machine = found["machine"]
    assert isinstance(machine, dict)
    assert {"python", "gil_enabled", "lock_discipline", "cpus", "processor"} <= set(machine)
    assert isinstance(found["absent"], dict)


def test_without_qemu_its_row_is_skipped_and_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)

    (row,) = hypervisor.qemu_against_discard(TINY)

    assert row.ratio is None
    assert "apt-get install qemu-system-arm" in (row.skipped or "")


@pytest.mark.needs("qemu")
def test_qemu_is_measured_against_our_own_system_calls() -> None:
    rows = hypervisor.qemu_against_discard(TINY)

    assert [(row.skipped, row.goal) for row in rows] == [(None, 0.85), (None, None)]
    assert all(row.ratio is not None and row.ratio > 0 for row in rows)


def test_every_processor_takes_an_equal_share_of_the_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = memoryview(bytearray(b"\1" * 8))
    moves: list[tuple[set[int], list[int]]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5, 3})
    monkeypatch.setattr(
        os, "sched_setaffinity", lambda pid, processors: moves.append((processors, pages.tolist()))
    )

    hypervisor.take_on_every_processor(pages)

    assert moves == [({3}, [1] * 8), ({5}, [0, 1] * 4), ({3, 5}, [0] * 8)]


def test_without_greenlet_the_rows_of_schedule_search_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "greenlet", None)
    monkeypatch.delitem(sys.modules, "stress.bench.search", raising=False)

    (row,) = groups.schedule_search(TINY)

    assert row.ratio is None
    assert "greenlet" in (row.skipped or "")


def test_every_row_and_curve_is_shown_in_every_form(tmp_path: Path) -> None:
    row = compare("a row", [1.0], [2.0], goal=1.5, unit="pairs/s", against="it", figures={"by": {"x": 1e6}})
    curve = Curve("a curve", "threads", "ns", {"one": [(1, 2.0), (2, 3.0)], "two": [(2, 4.0)]})
    skipped = Row("another", skipped="no time: pip install 'pagealloc[search]'")
    column = Column(
        table.describe_machine(), ["best", "rest"], "a third", {"a peer": "not there"}, [row, skipped]
    )
    results = table.Results(column, [curve])

    text = table.markdown(results)

    for what in (
        "| a row |",
        "| 0.5 |",
        "≥ 1.5",
        "x 1 M",
        "**a curve**",
        "| 2 | 3 | 4 |",
        "no time",
        "a peer",
        "peers that took part: best, rest; rows against the best have no goal without a third",
    ):
        assert what in text, what
    shown = io.StringIO()
    table.show(Console(file=shown, width=200), results)
    for what in (
        "a row",
        "0.5",
        "≥ 1.5",
        "pip install 'pagealloc[search]'",
        "not measured: a peer",
        "best, rest",
    ):
        assert what in shown.getvalue(), what
    assert json.loads(json.dumps(results.as_dict()))["growth"][0]["series"]["two"] == [[2, 4.0]]


def test_a_chart_is_one_file_that_needs_no_other(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    from stress.bench.chart import write_chart  # noqa: PLC0415 - plotly is an extra

    row = compare("a row", [1.0], [2.0], goal=1.5, unit="pairs/s", against="it")
    curve = Curve("a curve", "threads", "ns", {"one": [(1, 2.0), (2, 3.0)], "none": []})
    column = Column(table.describe_machine(), [], "", {}, [row])
    write_chart(table.Results(column, [curve], column), tmp_path / "chart.html")

    text = (tmp_path / "chart.html").read_text()
    assert "a curve" in text
    assert "a row" in text
    assert "a row (compiled)" in text
    assert '<script src="http' not in text


def test_a_chart_without_plotly_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setattr(command, "run", lambda effort, **_: table.Results(Column({}, [], "", {})))

    assert main(["bench", "--quick", "--chart", str(tmp_path / "chart.html")]) == 2
    assert capsys.readouterr().err == "stress: --chart needs plotly: pip install 'pagealloc[analysis]'\n"


@pytest.mark.parametrize("curve", [zone_size, reporting_by_size, zones, reported_share])
def test_a_curve_has_points_that_rise_along_its_axis(curve: Callable[[Effort], Curve]) -> None:
    for points in curve(TINY).series.values():
        xs = [x for x, _ in points]
        assert xs == sorted(xs)
        assert len(xs) >= 1
        assert all(y > 0 for _, y in points)


def test_a_recorded_guest_runs_faster_than_in_reality() -> None:
    (row,) = virtual_time.recorded_guest(TINY)
    assert row.goal in {1000, 2000}, "of either build"
    assert row.ratio is not None
    assert row.ratio > 50, "on any machine, however busy"


def test_the_baton_goes_through_the_schedules_that_coroutines_go_through() -> None:
    search = pytest.importorskip("stress.bench.search", reason="greenlet is not installed")
    program = search.Program("locks", search._locks, PRESETS["v6.1"])

    def steps(world_class: type) -> list[int]:
        walk = search.RandomWalk(1)
        with program.reusing():
            return [program.execute(walk, world_class=world_class).steps for _ in range(3)]

    assert steps(search.ThreadWorld) == steps(search.World)


def test_the_bench_of_searches_reuses_coroutines_as_a_search_does() -> None:
    search = pytest.importorskip("stress.bench.search", reason="greenlet is not installed")
    program = search.Program("locks", search._locks, PRESETS["v6.1"])
    with program.reusing():
        used = [
            program.execute(search.RandomWalk(1), world_class=world_class).coroutine
            for world_class in (None, search.World, search.ThreadWorld)
        ]
        assert used == [program._coroutines, program._coroutines, search.Baton]
