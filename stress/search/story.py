"""A failure told to a person: what broke, what became of the page, and who ran when and why.

The schedule is replayed with a log, and cut into *turns*: what one task did before another one took over.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stress.controlled.world import LogEntry, Violation, World
from stress.formats.perfetto import TraceFile
from stress.invariants import INVARIANTS
from stress.search import replay
from stress.search.explore import Failure, Program
from stress.search.replay import ReplayError

STEP_US = 10  # width of one step in an exported trace; steps have no duration of their own
DONE_IN_A_TURN = 6  # lines of a table's cell; what is in between is counted
TURNS_SHOWN = 40  # rows of a table: the first and the last half; an execution without end has thousands


@dataclass(slots=True)
class Turn:
    """What one task did in one go, and why it stopped."""

    task: int
    now_s: float
    entries: list[LogEntry] = field(default_factory=list)
    reason: str = ""


def turns(log: list[LogEntry]) -> list[Turn]:
    """Cut a log into turns."""
    found: list[Turn] = []
    for entry in log:
        if entry.kind == "switch":
            if found and found[-1].task == entry.task:
                found[-1].reason = entry.text
            continue
        if not found or found[-1].task != entry.task:
            found.append(Turn(entry.task, entry.now_s))
        found[-1].entries.append(entry)
    return found


def tell(console: Console, world: World, title: str) -> None:
    """Print the story of a logged execution that failed."""
    failure, log = world.failure, world.log
    assert isinstance(failure, Violation)
    assert log is not None
    console.print(f"{title}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"violated {failure}", style="bold red", highlight=False, markup=False, soft_wrap=True)
    console.print(f"expected: {INVARIANTS[failure.invariant]}", highlight=False, markup=False, soft_wrap=True)
    history = page_history(log, world, failure.text)
    if history:
        console.print("\nlife of the page", style="bold")
        for line in history:
            console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    console.print("\nschedule", style="bold")
    console.print(schedule_table(log, world, failure))


def tell_again(console: Console, failure: Failure, title: str, subject: Program | None = None) -> None:
    """Execute a failure once more, and print its story; or say what broke, and why there is none."""
    try:
        world = replay.execute(failure, subject)
        why_not = "its schedule does not fail any more" if not isinstance(world.failure, Violation) else ""
    except ReplayError as error:
        why_not = str(error)
    if not why_not:
        tell(console, world, title)
        return
    expected = "code that does the same again, with times and random numbers from its Sync alone"
    text = f"{title}\nviolated {failure.invariant}: {failure.text}\nno story: {why_not}; expected {expected}"
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def frames_of(text: str) -> set[int]:
    """Return the pfns that a text names, also in a list of (pfn, order)."""
    named = re.findall(r"pfns? \[?(0x[0-9a-f]+|\d+)", text) + re.findall(r"[\[( ]\((\d+), \d+\)", text)
    return {int(pfn, 0) for pfn in named}


def page_history(log: list[LogEntry], world: World, text: str) -> list[str]:
    """Say what was done to the pages that a violation names, in order."""
    frames = frames_of(text)
    lines = []
    for entry in log:
        inside = any(entry.pfn <= frame < entry.pfn + (1 << entry.order) for frame in frames)
        if entry.kind == "page" and inside:
            who = world.tasks[entry.task].name
            lines.append(f"{entry.now_s:6.1f} s  {who} {entry.text} pfn {entry.pfn:#x} order {entry.order}")
    return lines


def schedule_table(log: list[LogEntry], world: World, failure: Violation | None = None) -> Table:
    """Draw the turns, a column for each task; what the failure is about is never left out."""
    table = Table(show_lines=True)
    table.add_column("#", justify="right")
    table.add_column("time", justify="right", no_wrap=True)
    every = turns(log)
    used = sorted({turn.task for turn in every})
    for task in used:
        table.add_column(world.tasks[task].name)
    half = TURNS_SHOWN // 2
    for number, turn in enumerate(every, 1):
        if half < number <= len(every) - half:
            if number == half + 1:
                table.add_row("…", f"{len(every) - 2 * half} turns")
            continue
        cells = [Text()] * len(used)
        cells[used.index(turn.task)] = _cell(turn, failure, boot=number == 1)
        table.add_row(str(number), f"{turn.now_s:.1f} s", *cells)
    return table


# Invariants that are about a device's work and its state, whatever their text names.
OF_WORKS = frozenset({"S22", "S23", "L1", "L2", "L3", "L5", "deadlock"})
WORK_WORDS = ("page_reporting_process", "state of ", "workqueue ")
# Those that are about who holds a zone's lock, and how the lock is called.
OF_LOCKS = frozenset({"S9", "lockdep"})
LOCK_WORD = "zone->lock "


def _is_about(failure: Violation | None, entry: LogEntry) -> bool:
    """Whether a step operates on what the violated invariant is about."""
    if failure is None:
        return False
    if failure.invariant in OF_LOCKS and entry.subject.startswith(LOCK_WORD):
        return True
    if entry.kind == "page":
        return any(entry.pfn <= frame < entry.pfn + (1 << entry.order) for frame in frames_of(failure.text))
    if failure.invariant in OF_WORKS and entry.subject.startswith(WORK_WORDS):
        return True
    return bool(entry.subject) and entry.subject in failure.text


def last_step(world: World) -> str:
    """Say what was done last, before it failed, to what the violated invariant is about, or to any page, or at all."""
    failure, log = world.failure, world.log
    assert isinstance(failure, Violation)
    steps = [entry for entry in reversed(log or ()) if entry.kind != "switch"]
    about = [entry for entry in steps if _is_about(failure, entry)]
    for entry in about or [entry for entry in steps if entry.kind == "page"] or steps:
        of = f"pfn {entry.pfn:#x} order {entry.order}" if entry.kind == "page" else entry.subject
        return f"{world.tasks[entry.task].name} {entry.text} {of}"
    return ""


def _cell(turn: Turn, failure: Violation | None = None, *, boot: bool) -> Text:
    """Draw a turn. In the first one the machine is built, alone: only what became of pages is told."""
    entries = [entry for entry in turn.entries if entry.kind == "page"] if boot else turn.entries
    lines = [
        f"{entry.text} pfn {entry.pfn:#x} order {entry.order}"
        if entry.kind == "page"
        else f"{entry.text} {entry.subject}"
        for entry in entries
    ]
    if len(lines) > DONE_IN_A_TURN:
        pages = [at for at, entry in enumerate(entries) if entry.kind == "page"]
        handed = [at for at in pages if lines[at].startswith("hands to")]  # often what an invariant is about
        about = [at for at, entry in enumerate(entries) if _is_about(failure, entry)]
        kept = sorted({0, *handed, *about, *pages[-DONE_IN_A_TURN + 2 :], len(lines) - 1})
        left_out = len(lines) - len(kept)
        lines = [lines[at] for at in kept]
        if left_out:
            lines.insert(-1, f"({left_out} more)")
        lines.append(f"({len(turn.entries)} steps)")
    elif boot:
        lines.append(f"(boot: {len(turn.entries)} steps)")
    text = Text("\n".join(lines))
    if turn.reason:
        text.append(f"\n→ {turn.reason}", style="yellow")
    return text


def write_perfetto(path: Path, world: World) -> None:
    """Write a logged execution as Chrome trace events: a track for each task, a slice for each turn and step."""
    assert world.log is not None
    with TraceFile(path) as trace:
        for task in world.tasks:
            trace.thread(task.number, task.name)
        at_us = 0
        for turn in turns(world.log):
            begin_us = at_us
            for entry in turn.entries:
                arguments: dict[str, object] = {"virtual seconds": entry.now_s}
                if entry.kind == "page":
                    arguments |= {"pfn": entry.pfn, "order": entry.order}
                name = f"{entry.text} {entry.subject}".strip()
                trace.slice(entry.task, name, at_us, STEP_US, **arguments)
                at_us += STEP_US
            trace.slice(turn.task, turn.reason or "runs", begin_us, at_us - begin_us)
