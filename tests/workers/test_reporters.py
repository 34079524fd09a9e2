"""The reporters that ship, how another is loaded, and the faults that can be injected into any of them."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pagealloc.errors import RamError
from pagealloc.gfp import GFP_KERNEL
from pagealloc.memory import Memory, ZoneSpec
from pagealloc.mmzone import PAGE_SIZE
from pagealloc.ram import RamKind
from pagealloc.sync import Sync
from pagealloc.sync_real import RealSync
from pagealloc.zone import Zone
from workers.errors import ReporterError
from workers.page_reporting import Batch, Block, PageReporting, PageReportingDevice, Reporter
from workers.reporters import (
    Discard,
    FaultInjector,
    InjectedError,
    Null,
    Sleep,
    load_reporter,
)

PATIENCE_S = 20.0
BATCH = (Block(32, 5, 32 * PAGE_SIZE, 32 * PAGE_SIZE), Block(8, 3, 8 * PAGE_SIZE, 8 * PAGE_SIZE))


class SleepRecorder(RealSync):
    """A real world in which sleeping takes no time and is written down."""

    def __init__(self) -> None:
        self.slept_s: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)


class Counter:
    """A reporter that counts its calls, and knows what had happened by then."""

    def __init__(self, world: SleepRecorder | None = None) -> None:
        self.calls = 0
        self.sleeps_before: list[int] = []
        self._world = world

    def report(self, zone: Zone, batch: Batch) -> None:
        self.calls += 1
        if self._world is not None:
            self.sleeps_before.append(len(self._world.slept_s))


@pytest.fixture
def zone(build_zone: Callable[..., Zone]) -> Zone:
    return build_zone()


# -- null, discard, sleep ------------------------------------------------------------------------------------


def test_null_leaves_memory_as_it_is() -> None:
    with Memory([ZoneSpec("Normal", 2048)]) as memory:
        pfn = memory.alloc_pages(GFP_KERNEL, 5)
        assert pfn is not None
        memory.view(pfn, 5)[:] = b"x" * (32 * PAGE_SIZE)
        before = memory.resident_bytes()
        Null().report(memory.zones[0], [block_of(memory, pfn, 5)])
        assert memory.resident_bytes() == before
        assert bytes(memory.view(pfn)[:2]) == b"xx"


def block_of(memory: Memory, pfn: int, order: int) -> Block:
    assert memory.ram is not None
    return Block(pfn, order, memory.ram.offset(pfn), PAGE_SIZE << order)


@pytest.mark.parametrize("kind", ["anonymous", "memfd"])
def test_discard_gives_exactly_its_blocks_back(kind: RamKind) -> None:
    with Memory([ZoneSpec("Normal", 2048)], ram=kind) as memory:
        pfns = [memory.alloc_pages(GFP_KERNEL, 5) for _ in range(4)]
        for pfn in pfns:
            assert pfn is not None
            memory.view(pfn, 5)[:] = b"x" * (32 * PAGE_SIZE)
        before = memory.resident_bytes()
        gone = [pfns[0], pfns[2]]
        Discard().report(memory.zones[0], [block_of(memory, pfn, 5) for pfn in gone if pfn is not None])
        assert memory.resident_bytes() == before - 2 * 32 * PAGE_SIZE
        for pfn in pfns:
            assert pfn is not None
            expected = bytes(PAGE_SIZE << 5) if pfn in gone else b"x" * (PAGE_SIZE << 5)
            assert bytes(memory.view(pfn, 5)) == expected


@pytest.mark.parametrize("kind", ["anonymous", "memfd"])
def test_a_reported_memory_costs_nothing_any_more(
    kind: RamKind, build_reporting: Callable[..., PageReporting]
) -> None:
    with Memory([ZoneSpec("Normal", 8192)], ram=kind) as memory:
        pfns = []
        while (pfn := memory.alloc_pages(GFP_KERNEL, 9)) is not None:
            memory.view(pfn, 9)[:] = b"x" * (PAGE_SIZE << 9)
            pfns.append(pfn)
        before = memory.resident_bytes()
        assert before >= 12 * (PAGE_SIZE << 9)
        for pfn in pfns:
            memory.free_pages(pfn, 9)
        memory.drain_all_pages()
        reporting = build_reporting(*memory.zones)
        reporting.register(PageReportingDevice(Discard(), capacity=2))
        while reporting.run_now():
            pass
        assert reporting.stats.failed_batches == 0
        # What the min watermark keeps back is not told to the host.
        assert memory.resident_bytes() <= before // 4


def test_discard_refuses_a_zone_without_ram(zone: Zone) -> None:
    with pytest.raises(ReporterError, match="zone Normal has no RAM to discard"):
        Discard().report(zone, BATCH)


def test_discard_hands_on_what_the_operating_system_refuses() -> None:
    with (
        Memory([ZoneSpec("Normal", 2048)]) as memory,
        pytest.raises(RamError, match="is not within"),
    ):
        Discard().report(memory.zones[0], [Block(0, 0, 1 << 40, PAGE_SIZE)])


def test_sleep_takes_its_time_before_the_inner_reporter_works(zone: Zone) -> None:
    world = SleepRecorder()
    inner = Counter(world)
    reporter = Sleep(inner, world, world.rng(1), 2.0, 5.0)
    for _ in range(200):
        reporter.report(zone, BATCH)
    assert inner.calls == 200
    assert inner.sleeps_before == list(range(1, 201))
    assert all(2.0 <= slept_s <= 5.0 for slept_s in world.slept_s)
    assert min(world.slept_s) < 2.5
    assert max(world.slept_s) > 4.5


@pytest.mark.parametrize(
    ("shortest_s", "longest_s"), [(-1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (0.0, math.nan)]
)
def test_sleep_refuses_times_out_of_order(sync: Sync, shortest_s: float, longest_s: float) -> None:
    with pytest.raises(ValueError, match="expected 0 <= shortest <= longest"):
        Sleep(Null(), sync, sync.rng(1), shortest_s, longest_s)


# -- loading -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("null", Null), ("sleep", Null), ("discard", Discard)])
def test_the_reporters_that_ship_go_by_their_names(name: str, kind: type) -> None:
    assert type(load_reporter(name)) is kind


def test_a_reporter_of_your_own_is_found_by_module_and_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: Zone
) -> None:
    (tmp_path / "reporter_of_mine.py").write_text(
        "class Count:\n    blocks = 0\n    def report(self, zone, batch):\n        self.blocks += len(batch)\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    reporter = load_reporter("reporter_of_mine:Count")
    reporter.report(zone, BATCH)
    assert vars(reporter) == {"blocks": 2}


@pytest.mark.parametrize("name", ["", "nul", "Null", "module.Class", ":", "module:", ":Class"])
def test_a_name_of_no_known_form_is_answered_with_what_there_is(name: str) -> None:
    with pytest.raises(
        ReporterError, match=r"is none of null, sleep, discard, qemu, nor of the form module:Class"
    ):
        load_reporter(name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no_such_module_anywhere:Class", "ModuleNotFoundError"),
        ("workers.reporters:NoSuchClass", "AttributeError"),
        ("workers.reporters:Sleep", "TypeError"),
        ("reporter_with_flaws:Raises", "ValueError: not today"),
        ("reporter_broken:Any", "SyntaxError"),
        ("workers.reporters:DEFAULT_SLEEP_S", "TypeError"),
    ],
)
def test_a_reporter_that_cannot_be_made_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, why: str
) -> None:
    (tmp_path / "reporter_with_flaws.py").write_text(
        "class Raises:\n    def __init__(self):\n        raise ValueError('not today')\n", encoding="utf-8"
    )
    (tmp_path / "reporter_broken.py").write_text("class (:\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ReporterError, match=f"{name}' cannot be made: {why}"):
        load_reporter(name)


@pytest.mark.parametrize("body", ["pass", "report = 3"])
def test_a_class_without_a_report_method_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    name = f"reporter_mute_{len(body)}"
    (tmp_path / f"{name}.py").write_text(f"class Mute:\n    {body}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ReporterError, match=r"has no method report\(zone, batch\)"):
        load_reporter(f"{name}:Mute")


def test_a_reporter_module_that_exits_is_an_error_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reporter_leaves.py").write_text("raise SystemExit(7)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ReporterError, match="cannot be made: SystemExit"):
        load_reporter("reporter_leaves:Any")


# -- injected faults -----------------------------------------------------------------------------------------


class Outcomes:
    """Which of many batches failed, were late, or reached the inner reporter."""

    def __init__(self, zone: Zone, seed: int, *, fail_rate: float = 0.0, delay_rate: float = 0.0) -> None:
        world = SleepRecorder()
        inner = Counter()
        injector = FaultInjector(
            inner, world, world.rng(seed), fail_rate=fail_rate, delay_rate=delay_rate, delay_s=0.25
        )
        self.failed: list[int] = []
        self.delayed: list[int] = []
        for number in range(400):
            sleeps = len(world.slept_s)
            try:
                injector.report(zone, BATCH)
            except InjectedError:
                self.failed.append(number)
            if len(world.slept_s) > sleeps:
                self.delayed.append(number)
        self.done = inner.calls
        assert set(world.slept_s) <= {0.25}


def test_without_rates_every_batch_passes_on_time(zone: Zone) -> None:
    outcomes = Outcomes(zone, 1)
    assert (outcomes.failed, outcomes.delayed, outcomes.done) == ([], [], 400)


def test_the_same_seed_injects_the_same_faults(zone: Zone) -> None:
    first, again = (Outcomes(zone, 7, fail_rate=0.2, delay_rate=0.3) for _ in range(2))
    assert (first.failed, first.delayed) == (again.failed, again.delayed)
    other = Outcomes(zone, 8, fail_rate=0.2, delay_rate=0.3)
    assert (first.failed, first.delayed) != (other.failed, other.delayed)


def test_one_rate_does_not_shift_what_another_one_hits(zone: Zone) -> None:
    both = Outcomes(zone, 7, fail_rate=0.2, delay_rate=0.3)
    assert Outcomes(zone, 7, fail_rate=0.2).failed == both.failed


def test_one_draw_decides_which_fault_a_batch_meets_with(zone: Zone) -> None:
    both = Outcomes(zone, 7, fail_rate=0.4, delay_rate=0.6)
    assert sorted(both.failed + both.delayed) == list(range(400))
    assert 120 <= len(both.failed) <= 200


def test_a_higher_rate_hits_all_that_a_lower_one_hits(zone: Zone) -> None:
    low, high = Outcomes(zone, 7, fail_rate=0.1), Outcomes(zone, 7, fail_rate=0.4)
    assert set(low.failed) < set(high.failed)
    assert 20 <= len(low.failed) <= 65
    assert 120 <= len(high.failed) <= 200


def test_a_failed_batch_never_reaches_the_inner_reporter(zone: Zone) -> None:
    outcomes = Outcomes(zone, 7, fail_rate=0.2)
    assert outcomes.done == 400 - len(outcomes.failed)
    assert Outcomes(zone, 7, fail_rate=1.0).done == 0


def test_a_delayed_batch_is_late_and_then_done(zone: Zone) -> None:
    outcomes = Outcomes(zone, 7, delay_rate=1.0)
    assert (len(outcomes.delayed), outcomes.done) == (400, 400)


def test_a_lost_batch_was_done_by_the_host_and_comes_back_as_failed_on_release(
    zone: Zone, sync: Sync, join_all: Callable[..., None]
) -> None:
    done = threading.Event()

    class Inner:
        def report(self, zone: Zone, batch: Batch) -> None:
            done.set()

    injector = FaultInjector(Inner(), sync, sync.rng(1), lose_rate=1.0)
    came_back: list[str] = []

    def report() -> None:
        try:
            injector.report(zone, BATCH)
        except InjectedError as error:
            came_back.append(str(error))

    thread = sync.spawn("lost", report)
    assert done.wait(PATIENCE_S)
    assert not thread.join(0.05)
    assert came_back == []
    injector.release()
    join_all(thread)
    assert came_back == ["the lost completion of a batch of 2 was released"]


def test_a_batch_that_fails_is_not_lost_as_well(zone: Zone, sync: Sync) -> None:
    injector = FaultInjector(Null(), sync, sync.rng(1), fail_rate=0.5, lose_rate=0.5)
    injector.release()
    ends: list[str] = []
    for _ in range(400):
        with pytest.raises(InjectedError) as failure:
            injector.report(zone, BATCH)
        ends.append(str(failure.value).partition(" ")[0])
    assert 160 <= ends.count("injected") <= 240
    assert ends.count("injected") + ends.count("the") == 400


@pytest.mark.parametrize(
    "rates", [{"fail_rate": 1.0, "lose_rate": 1.0}, {"fail_rate": 0.4, "delay_rate": 0.4, "lose_rate": 0.4}]
)
def test_rates_that_add_up_to_more_than_one_are_refused(sync: Sync, rates: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"add up to .*, expected 1 or less"):
        FaultInjector(Null(), sync, sync.rng(1), **rates)


def test_rates_that_floats_add_up_to_a_little_more_than_one_are_one(sync: Sync) -> None:
    fail_rate, delay_rate, lose_rate = 0.33, 0.56, 0.11
    assert fail_rate + delay_rate + lose_rate > 1
    FaultInjector(Null(), sync, sync.rng(1), fail_rate=fail_rate, delay_rate=delay_rate, lose_rate=lose_rate)


@pytest.mark.parametrize("name", ["fail", "delay", "lose"])
@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
def test_a_rate_that_is_no_probability_is_refused(sync: Sync, name: str, rate: float) -> None:
    rates = {f"{name}_rate": rate}
    with pytest.raises(ValueError, match=rf"{name} rate is .*, expected 0 \.\. 1"):
        FaultInjector(Null(), sync, sync.rng(1), **rates)


def test_what_the_inner_reporter_raises_comes_through(zone: Zone, sync: Sync) -> None:
    class Refusing:
        def report(self, zone: Zone, batch: Batch) -> None:
            raise OSError("of the device")

    inner: Reporter = Refusing()
    for wrapped in (
        FaultInjector(inner, sync, sync.rng(1)),
        Sleep(inner, sync, sync.rng(1), 0.0, 0.0),
    ):
        with pytest.raises(OSError, match="of the device"):
            wrapped.report(zone, BATCH)
