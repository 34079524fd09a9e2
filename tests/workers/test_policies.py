"""Policies of reporting: the default costs and does what the kernel does, the others what their sources say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pagealloc import Layout, Memory
from pagealloc.memory import ZoneSpec
from pagealloc.zone import Zone
from stress.cli import main
from stress.lab.engine import Machine, Setting
from stress.lab.guest import Guest
from stress.lab.virtual import Wheel
from workers import reporting
from workers.page_reporting import Batch
from workers.policies import POLICIES, Decay, KeepOnSplit, PolicyError, Quota, load_policy, smootherstep
from workers.policy import SKIP, TAKE, ReportingPolicy
from workers.reporters import Null

MIB = 256  # pages
GUEST = Guest(zones=(ZoneSpec("Normal", 512 * MIB, start_pfn=1 << 10),))


def machine_with(policy: str, *, order: int = 9, delay_s: float = 2.0) -> Machine:
    machine = Machine(
        GUEST, Setting(order=order, delay_s=delay_s, policy=policy), wheel=Wheel(None), page_sets=False
    )
    machine.register_quietly()
    return machine


def burst(
    machine: Machine, *, nr_blocks: int = 64, touch_s: float | None = None, until_s: float = 60.0
) -> None:
    """Free so many blocks of 2 MiB at 1 s, and one more at `touch_s`."""

    def load(machine: Machine) -> Iterator[float]:
        yield 0.5
        pfns = [machine.alloc(9) for _ in range(nr_blocks + 1)]
        yield 1.0
        for pfn in pfns[1:]:
            assert pfn is not None
            machine.free(pfn, 9)
        if touch_s is not None:
            yield touch_s
            assert pfns[0] is not None
            machine.free(pfns[0], 9)

    machine.run(load, until_s)


def given_back(machine: Machine, until_s: float) -> int:
    """Return the MiB that came back up to a time."""
    return sum(each.taken_pages for each in machine.passes if each.t_s <= until_s) // MIB


def test_the_default_is_the_kernels_arithmetic() -> None:
    policy = ReportingPolicy()
    assert [policy.calls(nr_free, 32) for nr_free in (0, 1, 512, 513, 1024)] == [0, 1, 1, 2, 2]
    assert policy.end_pass(1.0) is None


def test_a_policy_that_takes_everything_is_not_asked_about_each_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def take(*_: object) -> int:
        raise AssertionError("asked")

    machine = machine_with("kernel")
    monkeypatch.setattr(type(machine.reporting.policy), "take", take, raising=True)
    burst(machine)
    assert given_back(machine, 60) == 128


def test_a_minimum_age_waits_for_it() -> None:
    machine = machine_with("age:7")
    burst(machine)
    assert given_back(machine, 7.9) == 0
    assert given_back(machine, 8.2) == 128


def test_a_quiet_region_is_one_in_which_nothing_was_freed() -> None:
    machine = machine_with("quiet:5", order=0)

    def load(machine: Machine) -> Iterator[float]:
        yield 0.5
        pfns = [machine.alloc() for _ in range(4096)]
        keeper = pfns[100]
        yield 1.0
        for pfn in pfns:
            if pfn is not None and pfn != keeper:
                machine.free(pfn)
        yield 4.0
        assert keeper is not None
        machine.free(keeper)

    machine.run(load, 20.0)
    assert given_back(machine, 5.9) == 0
    assert 8 <= given_back(machine, 8.9) <= 12, "the regions in which nothing happened at 4 s"
    assert given_back(machine, 20) == 16


def test_a_constant_rate_is_one() -> None:
    machine = machine_with("rate:8MiB")
    burst(machine)
    assert given_back(machine, 3.0) == 16, "two seconds' worth at first"
    assert given_back(machine, 9.5) == pytest.approx(64, abs=4)
    assert given_back(machine, 20) == 128


@pytest.mark.parametrize("page_shift", [12, 16])
def test_bytes_are_pages_of_the_machines_size(page_shift: int) -> None:
    layout = Layout(pageblock_order=9 if page_shift == 12 else 5, page_shift=page_shift)
    memory = Memory([ZoneSpec("Normal", 1 << 14)], ram=None, layout=layout)
    zone = memory.zones[0]
    with memory, reporting(memory, Null()) as core:
        rate, quiet = load_policy("rate:8MiB"), load_policy("quiet:5")
        rate.attach(core)
        quiet.attach(core)
        assert isinstance(rate, Quota)
        assert rate.grant(1.0) == 8 << 20 >> page_shift
        quiet.freed(zone, zone.start_pfn, 0)
        quiet.begin_pass(core.now_s())
        next_region = zone.start_pfn + (2 << 20 >> page_shift)
        assert quiet.take(zone, next_region - 1, 0) == SKIP
        assert quiet.take(zone, next_region, 0) == TAKE


def test_a_guard_keeps_what_recent_demand_may_want_back() -> None:
    machine = machine_with("rate:1GiB/20", delay_s=0.1)

    def load(machine: Machine) -> Iterator[float]:
        yield 1.0
        pfns = [machine.alloc(9) for _ in range(65)]
        assert None not in pfns
        machine.free(pfns.pop() or 0, 9)  # the worker looks, and sees the demand
        yield 3.0
        for pfn in pfns:
            machine.free(pfn or 0, 9)

    machine.run(load, 60.0)
    assert given_back(machine, 20) <= 2
    assert given_back(machine, 30) == 130


def test_a_decay_follows_jemallocs_curve() -> None:
    decay = Decay(10.0)
    assert decay.limit(0.0, 0) == 0
    left = {}
    unreported = 1000
    for step in range(1, 203):
        now_s = step * 0.05
        unreported = min(unreported, decay.limit(now_s, unreported))
        left[round(now_s - 0.05, 2)] = unreported
    # Measured from jemalloc's source, 172d306: 1000 pages at once, after 0.5, 2.5, 5, 7.5 and 10 s.
    assert [left[at] for at in (0.5, 2.5, 5.0, 7.5, 10.0)] == pytest.approx([998, 896, 500, 103, 0], abs=10)
    assert smootherstep(0.5) == 0.5


def test_a_share_of_the_cpu_sleeps_in_proportion_and_retains_a_tenth() -> None:
    machine = machine_with("share:1")
    machine.use(256 * MIB)
    burst(machine, until_s=300.0)
    assert 128 - 26 <= given_back(machine, 300) <= 128 - 20
    worked_s = machine.report_s
    spent_s = machine.passes[-1].end_s - 3.0
    assert worked_s <= 0.011 * spent_s + 0.001


@pytest.mark.parametrize(("policy", "again_mib"), [("kernel", 4 - 2), ("keep-on-split", 0)])
def test_what_is_left_of_a_split_block_is_not_reported_again(policy: str, again_mib: int) -> None:
    machine = machine_with(policy, order=9)

    def load(machine: Machine) -> Iterator[float]:
        yield 0.5
        machine.alloc(9)  # of a block of 4 MiB: its other half stays free
        yield 1.0
        machine.reporting.notify()

    machine.run(load, 10.0)
    assert sum(each.pages for each in machine.passes) == again_mib * MIB


def test_a_piece_that_was_used_is_reported_with_all_that_it_merged_with() -> None:
    machine = machine_with("keep-on-split", order=9)

    def load(machine: Machine) -> Iterator[float]:
        yield 0.5
        pfns = [machine.alloc(9), machine.alloc(0)]
        yield 1.0
        machine.reporting.notify()
        yield 5.0
        for pfn, order in zip(pfns, (9, 0), strict=True):
            assert pfn is not None
            machine.free(pfn, order)

    machine.run(load, 20.0)
    assert [(each.blocks, each.pages // MIB) for each in machine.passes] == [(0, 0), (1, 4)]
    assert machine.host.resident_pages == 0


def test_a_block_that_the_device_refused_is_not_known_to_it() -> None:
    machine = machine_with("keep-on-split", order=9)
    take = machine.report
    refused: list[Batch] = []

    def report(zone: Zone, batch: Batch) -> None:
        if not refused:
            refused.append(batch)
            raise OSError("not now")
        take(zone, batch)

    machine.report = report  # type: ignore[method-assign]
    burst(machine, nr_blocks=2, touch_s=10.0)
    assert len(refused) == 1
    assert machine.host.resident_pages == 0


@pytest.mark.interpreted("no fault can be planted")
def test_the_search_finds_a_piece_that_is_left_out_though_it_was_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("greenlet")
    search = ["explore", "pieces-of-what-was-given-back-stay-there", "--executions", "400", "--jobs", "1"]
    assert main(search) == 0
    monkeypatch.setattr(KeepOnSplit, "freed", lambda *_: None)
    assert main(search) == 1


def test_a_fixed_delay_has_no_timer_and_waits_for_the_next_free() -> None:
    idle, touched = machine_with("fixed:2"), machine_with("fixed:2")
    burst(idle)
    burst(touched, touch_s=9.0)
    assert given_back(idle, 60) == 0
    assert given_back(touched, 8.9) == 0
    assert given_back(touched, 9.1) == 130


def test_a_flush_reports_everything_and_nothing_else_does() -> None:
    machine = machine_with("flush")

    def load(machine: Machine) -> Iterator[float]:
        yield 0.5
        pfns = [machine.alloc(9) for _ in range(64)]
        yield 1.0
        for pfn in pfns:
            machine.free(pfn or 0, 9)
        yield 30.0
        assert machine.reporting.flush()

    machine.run(load, 40.0)
    assert given_back(machine, 29.9) == 0
    assert given_back(machine, 30.1) == 128
    assert machine.reporting.settled()


def test_a_flush_without_a_device_says_so() -> None:
    machine = Machine(GUEST, Setting(), wheel=Wheel(None), page_sets=False)
    assert not machine.reporting.flush()


@pytest.mark.parametrize(
    "name", ["decay", "kernel:3", "age:0", "rate:fast", "nobody", "no_module:X", "json:JSONDecoder"]
)
def test_a_policy_that_there_is_not_is_named(name: str) -> None:
    with pytest.raises(PolicyError, match=name.partition(":")[0]):
        load_policy(name)


def test_a_policy_of_ones_own_is_ten_lines() -> None:
    machine = machine_with(f"{__name__}:Lazy")
    burst(machine)
    assert [each.t_s for each in machine.passes if each.blocks] == [11.0]
    assert given_back(machine, 60) == 128


class Lazy(ReportingPolicy):
    """Waits ten seconds, and then takes everything."""

    def delay_s(self, cause: str) -> float:
        return 10.0

    def calls(self, nr_free: int, capacity: int) -> int:
        return 1 << 30


def test_every_shipped_policy_can_be_made() -> None:
    words = {"SECONDS": "1", "PERCENT": "1", "SIZE[/GUARD_SECONDS]": "1MiB/5", "": ""}
    for name, (_, expected) in POLICIES.items():
        policy = load_policy(f"{name}:{words[expected]}" if expected else name)
        assert isinstance(policy, ReportingPolicy)
