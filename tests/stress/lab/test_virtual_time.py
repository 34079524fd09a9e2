"""Virtual time: the timer wheel, the workqueue that is asked, the engine that moves the clock."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pagealloc.errors import BadPage
from pagealloc.memory import ZoneSpec
from stress.lab.engine import Machine, Setting
from stress.lab.guest import Guest
from stress.lab.validate import BUDGET_LAW, budget_law
from stress.lab.virtual import VirtualSync, VirtualWorkqueue, Wheel
from workers.workqueue import DelayedWork

GUEST = Guest(zones=(ZoneSpec("Normal", 64 << 10, start_pfn=1 << 10),))  # 256 MiB


@pytest.mark.parametrize(
    ("hz", "delay_s", "grid_s"),
    [(250, 2.0, 0.032), (250, 0.1, 0.004), (1000, 2.0, 0.064), (1000, 0.06, 0.001), (100, 2.0, 0.08)],
)
def test_a_timer_fires_on_its_levels_grid_and_never_early(hz: int, delay_s: float, grid_s: float) -> None:
    wheel = Wheel(hz, phase_s=0.0017)
    for step in range(997):
        now_s = step * 0.01003
        fires_s = wheel.fires_at(now_s, delay_s)
        ticks = (fires_s - 0.0017) / grid_s
        assert ticks == pytest.approx(round(ticks), abs=1e-6)
        assert delay_s <= fires_s - now_s + 1e-9 <= delay_s + grid_s + 1 / hz
    assert wheel.grid_s(delay_s) == pytest.approx(grid_s)


def test_an_exact_timer_fires_to_the_point() -> None:
    assert Wheel(None).fires_at(1.25, 2.0) == 3.25


def test_a_delay_of_zero_needs_no_timer() -> None:
    assert Wheel(250).fires_at(1.2345, 0.0) == 1.2345


def test_a_workqueue_that_nobody_started_says_when_its_next_work_is_due() -> None:
    sync = VirtualSync()
    queue = VirtualWorkqueue(sync, Wheel(None))
    works = [DelayedWork(name, lambda: None) for name in "ab"]
    assert queue.next_deadline() is None

    queue.queue_delayed_work(works[0], 3.0)
    queue.queue_delayed_work(works[1], 1.0)
    assert queue.next_deadline() == 1.0

    sync.now_s = 1.0
    assert queue.run_now(works[1])
    assert queue.next_deadline() == 3.0


def test_a_refused_operation_leaves_a_zone_open_in_virtual_time() -> None:
    machine = Machine(GUEST, Setting(), wheel=Wheel(None))
    zone = machine.memory.zones[0]
    with pytest.raises(BadPage):
        zone.claim_range(zone.start_pfn, 0)  # it is free
    assert not zone.lock.locked()
    assert machine.alloc() is not None


def test_waiting_has_no_place_in_virtual_time() -> None:
    with pytest.raises(RuntimeError, match="nothing waits in virtual time"):
        VirtualSync().sleep(1.0)


@pytest.mark.slow
def test_lists_of_every_length_take_as_many_passes_as_the_kernel_makes() -> None:
    figures = list(budget_law())
    assert [figure.found for figure in figures] == list(BUDGET_LAW.values())


def test_the_load_goes_on_while_the_reporter_has_a_batch() -> None:
    machine = Machine(GUEST, Setting(capacity=4), wheel=Wheel(None))
    in_flight: list[int] = []

    def load(machine: Machine) -> Iterator[float]:
        for step in range(100):
            yield 2.0 + step * 0.01
            flight = machine.reporting.flight
            in_flight.append(len(flight.batch) if flight is not None else 0)

    machine.call_s = lambda _number, _batch: 0.25
    machine.register()
    machine.run(load, 4.0)
    assert in_flight.count(4) > 40, "it ran inside the calls"
    assert machine.passes[0].t_s == 2.0
    assert machine.passes[0].end_s == pytest.approx(2.0 + 0.25 * machine.passes[0].calls)


def test_what_the_load_allocates_during_a_call_is_not_what_is_in_flight() -> None:
    machine = Machine(GUEST, Setting(capacity=4), wheel=Wheel(None))
    taken: list[int] = []

    def load(machine: Machine) -> Iterator[float]:
        yield 2.1
        flight = machine.reporting.flight
        assert flight is not None
        pfn = machine.alloc(order=10)
        assert pfn is not None
        assert pfn not in {block.pfn for block in flight.batch}
        taken.append(pfn)

    machine.call_s = lambda _number, _batch: 0.5
    machine.register()
    machine.run(load, 10.0)
    assert taken
