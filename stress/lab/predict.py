"""One prediction: a machine is built, runs its load, and is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from pagealloc.mmzone import PAGE_SHIFT, PAGE_SIZE
from pagealloc.revision import PRESETS
from pagealloc.sync_real import RealRng
from stress.errors import BadInput
from stress.lab.engine import Load, Machine, Pass, Sample, Setting
from stress.lab.exact_state import ExactState, is_exact, read_exact
from stress.lab.guest import Guest
from stress.lab.host import COSTS, QUIET
from stress.lab.loads.catalogue import parse_load
from stress.lab.loads.recorded import Replay
from stress.lab.options import Options, state_paths
from stress.lab.proc_state import BadState, ProcState, preset_of, read_state
from stress.lab.recording import Recording
from stress.lab.virtual import Wheel
from workers.page_reporting import Batch

Row = dict[str, Any]
GIB = 1 << 30
SETTLED = 0.99  # of what comes back after the last free


@dataclass(slots=True)
class Prediction:
    """What a point came to: a row of figures, and the curve of its first guest."""

    row: Row
    curve: list[Sample] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was assumed, in words


def predict(point: Options) -> Prediction:
    """Run one point. Raises BadInput when its input cannot be used."""
    machines = []
    notes: list[str] = []
    for number in range(point.guests):
        machine, said = run_machine(point, number)
        machines.append(machine)
        notes += [note for note in said if note not in notes]
    return Prediction(row_of(point, machines), machines[0].samples, notes)


def run_machine(
    point: Options, number: int = 0, *, begin_log: Callable[[Machine], None] | None = None
) -> tuple[Machine, list[str]]:
    """Build one guest of a point and let its load pass; returns it with what was assumed.

    `begin_log` hears when the start state is complete.
    """
    notes: list[str] = []
    named = parse_load(
        point.load, scale=point.scale, mix=point.mix, slab=point.slab, churn=point.churn, preset=point.preset
    )
    wanted = getattr(named.load, "nr_pages", 0) * point.scale
    if not point.state and wanted > point.guest >> PAGE_SHIFT:
        raise BadInput(
            f"load {point.load!r}: {wanted * PAGE_SIZE >> 20} MiB, expected the guest's {point.guest >> 20} MiB at most"
        )
    recording = named.recording
    draw = RealRng(point.seed * 1009 + number)
    wheel = _wheel(point, recording, draw, notes)
    machine = Machine(
        _guest(point, recording, notes),
        Setting(point.order, point.delay, max(1, point.capacity // point.scale), point.budget, point.policy),
        wheel=wheel,
        thp=point.thp == "always",
        cost=COSTS.get(point.cost, QUIET),
        seed=draw.choose(1 << 30),
        page_sets=recording is None or point.level == "calls",
        start_s=recording.begin_s if recording is not None else 0.0,
        scale=point.scale,
    )
    if begin_log is not None:
        machine.begin_log = begin_log
    if recording is None:
        machine.use(point.used // point.scale >> PAGE_SHIFT)
        assert named.load is not None, "every load but a recording is one"
        machine.register_quietly(reported=not getattr(named.load, "unreported", False))
        load = named.load
    else:
        load = _replay(machine, recording, point, notes)
    begin_s = machine.now_s
    machine.run(load, begin_s + (point.until or named.span_s))
    return machine, notes


def _wheel(point: Options, recording: Recording | None, draw: RealRng, notes: list[str]) -> Wheel:
    exact = Wheel(point.hz or None)
    if point.phase is not None:
        return Wheel(exact.hz, point.phase)
    if recording is None:
        return Wheel(exact.hz, draw.random() * exact.grid_s(point.delay))
    if recording.passes and exact.hz is not None:
        phase_s = recording.phase_s(exact.grid_s(2.0))
        notes.append(
            f"timers fire on a grid of HZ {exact.hz}; where it lies ({phase_s * 1e3:.1f} ms) is read off the "
            "recorded passes"
        )
        return Wheel(exact.hz, phase_s)
    return exact


@lru_cache(maxsize=8)
def _state(paths: tuple[Path, ...]) -> tuple[ExactState | None, ProcState]:
    exact = [path for path in paths if is_exact(path)]
    if len(exact) > 1:
        raise BadState(f"--state: {len(exact)} files with exact lists, expected one")
    texts = [path for path in paths if path not in exact]
    return read_exact(exact[0]) if exact else None, read_state(texts, lists_known=bool(exact))


def _guest(point: Options, recording: Recording | None, notes: list[str]) -> Guest:
    nr_pages = point.guest // point.scale >> PAGE_SHIFT
    revision = PRESETS[point.preset]
    if not point.state:
        if recording is not None:
            notes.append("no --state: the guest begins as if it had just booted")
        return Guest(nr_pages, cpus=point.cpus, revision=revision, scale=point.scale)
    exact, state = _state(tuple(state_paths(point)))
    if exact is not None:
        notes.append(f"start lists, block for block, from {exact.source}")
        return Guest(
            cpus=point.cpus,
            revision=revision,
            state=state,
            zones=exact.zones,
            lists=exact.lists,
            marks=exact.marks,
            nr_orders=exact.nr_orders,
        )
    notes.append(
        f"start lists from the counts of {state.source}"
        + ("" if state.types_known else " (buddyinfo: every free block counts as movable)")
    )
    huge_pages = recording is not None and recording.huge_pages()
    if huge_pages and not any("min" in zone.limits for zone in state.zones.values()):
        notes.append(
            "no zoneinfo: the marks, and the limits of the CPUs' lists, are those that khugepaged sets"
        )
    known_free = recording.known_free() if recording is not None else ()
    known_used = recording.known_used() if recording is not None else ()
    return Guest(
        nr_pages,
        cpus=point.cpus,
        revision=revision,
        state=state,
        known_free=known_free,
        known_used=known_used,
        huge_pages=huge_pages,
    )


def _replay(machine: Machine, recording: Recording, point: Options, notes: list[str]) -> Load:
    """Set a machine up as the recorded one was, and return the load."""
    if point.level == "calls" and not recording.has_calls():
        raise BadInput(
            f"--level calls: {recording.source} has events of the zone only, expected mm_page_alloc and mm_page_free"
        )
    replay = Replay(recording, calls=point.level == "calls")
    machine.starts_at = recording.starts_at
    calls = [call for each in recording.passes for call in zip(each.calls_s, each.sizes, strict=False)]
    if calls and not point.cost:
        machine.call_s = _recorded_calls(calls)
        notes.append(f"a report call lasts as long as the recorded ones did ({len(calls)} calls)")
    if recording.unseen_frees:
        notes.append(
            f"{recording.unseen_frees} recorded requests have no free beside them (orders below "
            f"{recording.smallest_order} were left out): each counts as one pageblock of 2 MiB that became free"
        )
    if recording.registered_s is not None:
        registered_s = recording.registered_s

        def with_driver(machine: Machine) -> Iterator[float]:
            machine.begin_log(machine)
            yield registered_s
            machine.register()
            yield from replay(machine)

        notes.append("the driver was loaded in the recording: before that the host knows of no free block")
        return with_driver
    armed_s = recording.passes[0].t_s if recording.asked_before() else None
    machine.register_quietly(armed_s=armed_s)
    notes.append("every free block that could be reported was, when the recording began")
    if armed_s is not None:
        notes.append("a first pass was asked for before the recording began: its time is the recorded one")
    return replay


def _recorded_calls(calls: list[tuple[float, int]]) -> Any:
    """Return how long call number n lasts: as the recorded one of that number, if it had as many blocks."""
    block_s = sum(duration for duration, _ in calls) / max(1, sum(size for _, size in calls))

    def call_s(number: int, batch: Batch) -> float:
        if number < len(calls) and calls[number][1] == len(batch):
            return calls[number][0]
        return block_s * len(batch)

    return call_s


def preset_told(paths: Iterable[Path]) -> str:
    """Return the kernel that a start state is of, as far as its files tell."""
    exact, state = _state(tuple(paths))
    return (exact.preset if exact is not None else None) or preset_of(state)


# -- figures ---------------------------------------------------------------------------------------------


def row_of(point: Options, machines: list[Machine]) -> Row:
    """Count what happened; sizes are multiplied by the scale, and are sums over the guests."""
    scale = point.scale
    span_s = machines[0].now_s - machines[0].start_s

    def total(name: str) -> int:
        return int(sum(getattr(machine.host, name) for machine in machines)) * scale

    passes = [each for machine in machines for each in machine.passes]
    resident_page_s = sum(machine.resident_page_s for machine in machines) * scale
    used_page_s = sum(machine.used_page_s for machine in machines) * scale
    mean_bytes = resident_page_s / span_s * PAGE_SIZE
    mean_used = used_page_s / span_s * PAGE_SIZE
    row: Row = {
        "order": point.order,
        "delay_s": point.delay,
        "capacity": point.capacity,
        "budget": point.budget,
        "policy": point.policy,
        "preset": point.preset,
        "seed": point.seed,
        "load": point.load,
        "guest_bytes": machines[0].memory.nr_pages() * PAGE_SIZE * scale,
        "guests": point.guests,
        "hz": point.hz,
        "thp": point.thp,
        "mix": point.mix,
        "level": point.level,
        "span_s": round(span_s, 6),
        "passes": len(passes),
        "batches": sum(each.calls for each in passes),
        "reported_blocks": sum(each.blocks for each in passes) * (max(1, scale)),
        "reported_bytes": sum(each.pages for each in passes) * PAGE_SIZE * scale,
        "given_back_bytes": sum(each.taken_pages for each in passes) * PAGE_SIZE * scale,
        "absent_bytes": total("absent_4k") * PAGE_SIZE,
        "mean_resident_bytes": round(mean_bytes),
        "peak_resident_bytes": peak_pages(machines) * PAGE_SIZE * scale,
        "end_resident_bytes": total("resident_pages") * PAGE_SIZE,
        "mean_used_bytes": round(mean_used),
        "overshoot_bytes": round(mean_bytes - mean_used),
        "mean_used_2m_bytes": round(sum(map(mean_used_2m_pages, machines)) * PAGE_SIZE * scale),
        "footprint_gib_min": round(mean_bytes / GIB * span_s / 60, 6),
        "settle_s": max(settle_s(machine) for machine in machines),
        "refaults_4k": total("refaults_4k"),
        "refaults_2m": total("refaults_2m"),
        "broken_2m": total("broken_2m"),
        "failed_allocations": sum(machine.failed_allocations for machine in machines),
        "in_flight_max_bytes": max(machine.in_flight_max for machine in machines) * PAGE_SIZE * scale,
    }
    if point.target:
        row["below_target_s"] = below_target_s(machines, point.target)
    if point.cost:
        row |= prices(point, machines)
    return row


def peak_pages(machines: list[Machine]) -> int:
    """Return the most pages that all guests together had resident."""
    if len(machines) == 1:
        return machines[0].peak_pages
    times = {sample.t_s for machine in machines for sample in machine.samples}
    return max(sum(machine.resident_at(t_s) for machine in machines) for t_s in times)


def mean_used_2m_pages(machine: Machine) -> float:
    """Return the pages that are not free in whole 2 MiB, on average over time."""
    samples = machine.samples
    held = sum(before.used_2m * (after.t_s - before.t_s) for before, after in pairwise(samples))
    return held / (samples[-1].t_s - samples[0].t_s)


def settle_s(machine: Machine) -> float:
    """Return how long after the last free 99 % of what came back had come back, in seconds."""
    after = [each for each in machine.passes if each.t_s >= machine.last_free_s and each.taken_pages]
    wanted = SETTLED * sum(each.taken_pages for each in after)
    returned = 0
    for each in after:
        returned += each.taken_pages
        if returned >= wanted:
            return round(each.end_s - machine.last_free_s, 6)
    return 0.0


def below_target_s(machines: list[Machine], target_bytes: int) -> float:
    """Return how long after the last free the resident sum stays above a target, in seconds; -1 for good."""
    last_free_s = max(machine.last_free_s for machine in machines)
    pages = sum(machine.host.resident_pages for machine in machines)
    if pages * PAGE_SIZE > target_bytes:
        return -1.0
    for t_s, taken in sorted(
        ((each.end_s, each.taken_pages) for machine in machines for each in machine.passes), reverse=True
    ):
        pages += taken
        if pages * PAGE_SIZE > target_bytes:
            return round(max(0.0, t_s - last_free_s), 6)
    return 0.0


def prices(point: Options, machines: list[Machine]) -> Row:
    """Put the chosen prices on the counts."""
    cost = COSTS[point.cost]
    refault_s = sum(
        machine.host.refaults_4k * cost.refault_4k_s + machine.host.refaults_2m * cost.refault_2m_s
        for machine in machines
    )
    work_s = sum(machine.report_s for machine in machines)
    return {
        "cost": point.cost,
        "refault_vcpu_s": round(refault_s * point.scale, 6),
        "refault_host_s": round(refault_s * cost.host_share * point.scale, 6),
        "report_s": round(work_s, 6),
    }


def pass_rows(passes: list[Pass]) -> list[Row]:
    """Return passes in the form of the JSON output."""
    return [
        {"t_s": round(each.t_s, 6), "blocks": each.blocks, "bytes": each.pages * PAGE_SIZE} for each in passes
    ]


def recorded_rows(recording: Recording) -> list[Row]:
    """Return the recorded passes in the form of the JSON output."""
    return [
        {"t_s": round(each.t_s, 6), "blocks": each.blocks, "bytes": each.pages * PAGE_SIZE}
        for each in recording.passes
    ]
