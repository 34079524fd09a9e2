"""A recording of a real guest: kmem trace text, and what it says about the guest beside its load.

The events that matter are those that Linux has (`include/trace/events/kmem.h`): at the level of the zone
`mm_page_alloc_zone_locked` (a block leaves the lists), `mm_page_pcpu_drain` (one comes back from a CPU's lists),
`mm_page_alloc_extfrag` (a block of another type is claimed or stolen); at the level of calls `mm_page_alloc` and
`mm_page_free`. Recordings that hold probes on the reporting worker (`process`, `isolate`, `report`, `notify`) also say
when its passes were and what they took: the truth that a prediction is held against.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import NamedTuple

from pagealloc.mmzone import MIGRATE_MOVABLE, PAGE_SHIFT
from pagealloc.revision import Revision
from stress.errors import BadInput
from stress.formats.ftrace import TraceEvent, open_text, read_ftrace

KMEM_EVENTS = (
    "mm_page_alloc_zone_locked",
    "mm_page_pcpu_drain",
    "mm_page_alloc_extfrag",
    "mm_page_alloc",
    "mm_page_free",
)
WORK = "page_reporting_process"  # how the workqueue's own events name the pass
PAGEBLOCK_ORDER = 9  # of the kernels that have these events on x86-64 and on Arm with 4 KiB pages
HEAD_CHARACTERS = 2000  # of a trace: its comments
SCHED_LATENCY_S = 0.012  # of two CPUs (`sysctl_sched_latency`): within it everybody runnable has his turn
SG_WORDS = 4  # of a scatterlist's entry


class BadRecording(BadInput):
    """The text is no recording that can be followed; the message names the file and what was expected."""


class Op(NamedTuple):
    """Something that happens to the guest's memory."""

    t_s: float
    kind: str  # at the zone "take", "return", "claim", "unseen", "request"; of a caller "alloc", "free"; "touch"
    pfn: int
    order: int
    migratetype: int
    cpu: int


@dataclass(slots=True)
class RecordedPass:
    """A pass of the recorded guest."""

    t_s: float
    end_s: float
    blocks: int = 0
    pages: int = 0
    sizes: list[int] = field(default_factory=list)  # blocks of each call
    calls_s: list[float] = field(
        default_factory=list
    )  # how long each call took, its share of the pass included


@dataclass(slots=True)
class Recording:
    """What one text says."""

    source: str
    begin_s: float
    end_s: float
    zone_ops: list[Op] = field(default_factory=list)
    call_ops: list[Op] = field(default_factory=list)
    passes: list[RecordedPass] = field(default_factory=list)
    registered_s: float | None = None  # when the driver was loaded, if that is in it
    unseen_frees: int = 0  # pageblocks that became free by events which the recording left out
    smallest_order: int = 0  # of all events: below it the recording is blind
    held_up: dict[int, list[tuple[float, float]]] = field(
        default_factory=dict
    )  # by CPU: from when to when a task went on running though another one waited

    def known_free(self) -> list[tuple[int, int]]:
        """List (pfn, order) of what was taken and had not been given back before: it was free at the start."""
        returned: set[int] = set()
        found = []
        for op in self.zone_ops:
            if op.kind == "take" and op.pfn not in returned:
                found.append((op.pfn, op.order))
            elif op.kind == "return":
                returned.update(
                    range(op.pfn, op.pfn + (1 << op.order), 1 << min(op.order, self.smallest_order))
                )
        return found

    def known_used(self) -> list[int]:
        """List the pfns that were given back and had not been taken before: they were in use at the start."""
        taken: set[int] = set()
        found = []
        for op in self.zone_ops:
            if op.kind == "take":
                taken.update(range(op.pfn, op.pfn + (1 << op.order), 1 << min(op.order, self.smallest_order)))
            elif op.kind == "return" and op.pfn not in taken:
                found.append(op.pfn)
        return found

    def huge_pages(self) -> bool:
        """Whether the guest used transparent huge pages, and so has khugepaged running."""
        return any(op.order == PAGEBLOCK_ORDER and op.kind == "alloc" for op in self.call_ops)

    def has_calls(self) -> bool:
        """Whether it tells of callers, or of nothing that they could have brought about."""
        return bool(self.call_ops) or not any(op.kind in ("take", "return") for op in self.zone_ops)

    def first_asked_s(self) -> float:
        """Return when a pass was first asked for: by a recorded request, or where those are missing by a free."""
        asked = [op.t_s for op in self.zone_ops if op.kind == "request"]
        return min(asked or (op.t_s for op in self.zone_ops if op.kind == "return"), default=inf)

    def asked_before(self) -> bool:
        """Whether the first pass was asked for before the recording began: nothing in it says when."""
        return bool(self.passes) and self.passes[0].t_s < self.first_asked_s()

    def starts_at(self, due_s: float, cpu: int) -> float:
        """Say when work that is due can start on a CPU: when whoever runs there lets it in."""
        spans = self.held_up.get(cpu, ())
        at = bisect_left(spans, due_s, key=lambda span: span[1])
        return spans[at][1] if at < len(spans) and spans[at][0] <= due_s else due_s

    def phase_s(self, grid_s: float) -> float:
        """Say where the grid of the timers lies on the recording's clock: where most passes began.

        Those that a timer of the recording began, that is; the first one may not be.
        """
        predicted = self.passes[1:] if self.asked_before() and len(self.passes) > 1 else self.passes
        offsets = [each.t_s % grid_s for each in predicted]

        def apart_s(one: float, other: float) -> float:
            distance_s = abs(one - other) % grid_s
            return min(distance_s, grid_s - distance_s)

        return min(offsets, key=lambda offset: sum(apart_s(offset, other) for other in offsets))


def read_recording(path: Path, revision: Revision) -> Recording:
    """Read a recording. Raises BadRecording, naming the line, for text with lost events."""
    try:
        events = list(read_ftrace(path))
    except OSError as error:
        raise BadRecording(f"{path}: {error.strerror or error}") from error
    _check_whole(path)
    lost = [event for event in events if event.name == "lost_events"]
    if lost:
        count = sum(event.number("events") for event in lost)
        raise BadRecording(
            f"{path}: {count} events were lost, the first at {lost[0].time_s:.6f} s: what follows cannot be told; "
            "expected a recording with a larger buffer (buffer_size_kb) or a filter"
        )
    if not any(event.name in (*KMEM_EVENTS, "process") for event in events):
        raise BadRecording(
            f"{path}: none of {', '.join(KMEM_EVENTS)} in it, expected a recording of kmem events"
        )
    events.sort(key=lambda event: event.time_s)
    recording = Recording(path.name, events[0].time_s, events[-1].time_s)
    seen_orders = {
        event.number("order") for event in events if event.name in KMEM_EVENTS and "order" in event.fields
    }
    recording.smallest_order = min(seen_orders, default=PAGEBLOCK_ORDER)
    _read_passes(events, recording)
    _read_ops(events, recording, revision)
    _read_held_up(events, recording)
    return recording


def _check_whole(path: Path) -> None:
    """Complain of a ring buffer that ran over: its head says how many events were written, and how many are left."""
    with open_text(path) as file:
        text = file.read(HEAD_CHARACTERS)
    head = re.search(r"entries-in-buffer/entries-written: (\d+)/(\d+)", text)
    if head is not None and (lost := int(head[2]) - int(head[1])) > 0:
        raise BadRecording(
            f"{path}: {lost} events were lost, overwritten by later ones: expected a recording with a larger buffer "
            "(buffer_size_kb) or a filter"
        )


def _rests_on_page_sets(order: int, revision: Revision) -> bool:
    return order <= revision.pcp_max_order or (revision.pcp_pageblock_order and order == PAGEBLOCK_ORDER)


def _read_ops(events: Sequence[TraceEvent], recording: Recording, revision: Revision) -> None:
    """Sort what happened into the operations of the zone and those of its callers."""
    zone_ops, call_ops = recording.zone_ops, recording.call_ops
    asked: dict[int, list[float]] = defaultdict(list)  # by CPU: requests that no free explains yet
    last: dict[int, TraceEvent] = {}
    claimed: list[Op] = []
    for event in events:
        before = last.get(event.cpu, event)
        last[event.cpu] = event
        if event.name == "notify":
            zone_ops.append(Op(event.time_s, "request", 0, PAGEBLOCK_ORDER, 0, event.cpu))
            if not (before.name == "mm_page_free" and len(zone_ops) > 1 and zone_ops[-2].kind == "return"):
                asked[event.cpu].append(event.time_s)
        elif event.name == "mm_page_alloc_extfrag":
            claimed.append(_claim(event))
            zone_ops.append(claimed[-1])
        elif event.name in KMEM_EVENTS:
            op = Op(event.time_s, "", event.number("pfn"), event.number("order"), _type(event), event.cpu)
            if event.name == "mm_page_alloc_zone_locked":
                if claimed and claimed[-1].pfn == op.pfn:  # told twice: by the claim, and by the taking
                    zone_ops.remove(claimed.pop())
                zone_ops.append(op._replace(kind="take"))
            elif event.name == "mm_page_pcpu_drain":
                zone_ops.append(op._replace(kind="return"))
                if asked[event.cpu] and (op.order >= PAGEBLOCK_ORDER or before.name == "notify"):
                    asked[event.cpu].pop()
            elif event.name == "mm_page_alloc":
                call_ops.append(op._replace(kind="alloc"))
                zone_ops.append(op._replace(kind="touch"))
            else:
                call_ops.append(op._replace(kind="free"))
                if not _rests_on_page_sets(
                    op.order, revision
                ):  # past the CPUs' lists: the zone tells no more of it
                    zone_ops.append(op._replace(kind="return"))
    unseen = [Op(t_s, "unseen", 0, PAGEBLOCK_ORDER, 0, cpu) for cpu, times in asked.items() for t_s in times]
    recording.unseen_frees = len(unseen)
    if not call_ops:  # whoever gets a block writes to it
        zone_ops[:] = [each for op in zone_ops for each in _with_touch(op)]
    zone_ops += unseen
    zone_ops.sort(key=lambda op: op.t_s)
    # What a filter leaves out is left out of both levels.
    call_ops += [*unseen, *(op for op in claimed if op.order < recording.smallest_order)]
    call_ops.sort(key=lambda op: op.t_s)


def _read_held_up(events: Sequence[TraceEvent], recording: Recording) -> None:
    """Find when a task went on running though another one waited for its CPU, as the flags of its events tell.

    The scheduler lets a task have its slice, and a kernel without preemption an allocation (clearing a huge page takes
    milliseconds). Who waits has come a period of the scheduler before at most.
    """
    workers = {
        event.pid for event in events if _begins_pass(event)
    }  # which wait for others, not for themselves
    running: dict[int, tuple[int, float]] = {}  # by CPU: a pid, and since when nothing else was seen there
    for event in events:
        pid, since_s = running.get(event.cpu, (-1, 0.0))
        if pid != event.pid:
            running[event.cpu] = (event.pid, event.time_s)
        elif event.needs_resched() and pid not in workers:
            begin_s = max(since_s, event.time_s - SCHED_LATENCY_S)
            recording.held_up.setdefault(event.cpu, []).append((begin_s, event.time_s))


def _claim(event: TraceEvent) -> Op:
    """Read a block of another type that is claimed or stolen."""
    return Op(
        event.time_s,
        "claim",
        event.number("pfn"),
        event.number("alloc_order"),
        event.number("alloc_migratetype"),
        event.cpu,
    )


def _type(event: TraceEvent) -> int:
    return event.number("migratetype") if "migratetype" in event.fields else MIGRATE_MOVABLE


def _with_touch(op: Op) -> tuple[Op, ...]:
    return (op, op._replace(kind="touch")) if op.kind == "take" else (op,)


# -- what the reporter did -------------------------------------------------------------------------------


def _begins_pass(event: TraceEvent) -> bool:
    return event.name == "process" or (event.name == "workqueue_execute_start" and WORK in event.text)


def _read_passes(events: Sequence[TraceEvent], recording: Recording) -> None:
    """Find the passes, what they took, and how long each call lasted."""
    running: dict[int, RecordedPass] = {}  # by the worker's pid
    isolating: dict[int, int] = {}
    isolates_seen = any(event.name == "isolate_ret" for event in events)
    for event in events:
        name, pid = event.name, event.pid
        if name == "register":
            recording.registered_s = event.time_s
        elif _begins_pass(event):
            running[pid] = RecordedPass(event.time_s, event.time_s)
            recording.passes.append(running[pid])
        elif pid not in running:
            continue
        elif name == "isolate":
            isolating[pid] = event.number("order")
        elif name == "isolate_ret" and event.number("ret") > 0:
            running[pid].blocks += 1
            running[pid].pages += 1 << isolating.get(pid, PAGEBLOCK_ORDER)
        elif name == "report":
            if not isolates_seen:
                _read_batch(event, running[pid])
            running[pid].sizes.append(event.number("nents"))
        elif name == "report_ret":
            running[pid].calls_s.append(event.time_s - running[pid].end_s)
            running[pid].end_s = event.time_s
        elif name == "process_ret" or (name == "workqueue_execute_end" and WORK in event.text):
            done = running.pop(pid)
            if done.calls_s:  # what follows the last call belongs to it: the blocks go back
                done.calls_s[-1] += event.time_s - done.end_s
            done.end_s = event.time_s


def _read_batch(event: TraceEvent, into: RecordedPass) -> None:
    """Read blocks off a raw scatterlist: four words an entry, the length in the upper half of the second one."""
    words = [
        int(word, 16)
        for name in ("sga", "sgb")
        for word in str(event.fields.get(name, "")).strip("{}").split(",")
        if word
    ]
    for entry in range(min(event.number("nents"), len(words) // SG_WORDS)):
        into.blocks += 1
        into.pages += words[SG_WORDS * entry + 1] >> 32 + PAGE_SHIFT
