"""How a guest looks from its host: a picture on a terminal, plain lines elsewhere, and the table at the end."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from stress.host.host import HostStatus
from stress.run.summary import Summary
from stress.run.view import bar, lacking, mib

Watch = Callable[[HostStatus], None]


def lines(console: Console, interval_s: float) -> Watch:
    """Return what prints a line every `interval_s` seconds; `!!!` is for violations."""
    next_s = 0.0

    def show(status: HostStatus) -> None:
        nonlocal next_s
        if status.seconds >= next_s:
            next_s = status.seconds + interval_s
            console.print(line_of(status), highlight=False, markup=False, soft_wrap=True)

    return show


def line_of(status: HostStatus) -> str:
    """Say in one line how it stands."""
    kept = f"  kept: {mib(status.kept_bytes)}" if status.kept_bytes else ""
    flag = f"  !!! {status.violations} violations" if status.violations else ""
    return (
        f"{status.seconds:6.1f} s  resident {mib(status.resident_bytes):>8} of {mib(status.total_bytes)}  "
        f"{status.passes:3} passes  {status.batches:4} batches  {status.in_flight} in flight  "
        f"{status.reported_blocks:6} blocks, {mib(status.reported_bytes)} reported{kept}{flag}"
    )


def picture(live: Live, width: int) -> Watch:
    """Return what draws a bar of the guest's memory and the figures."""

    def show(status: HostStatus) -> None:
        absent = max(0, status.total_bytes - status.resident_bytes)
        drawn = bar(
            [(status.resident_bytes, "cyan", "="), (absent, "bright_black", " ")], max(10, width - 34)
        )
        head = Text("resident ").append(drawn).append(f" {mib(status.resident_bytes)}")
        parts: list[RenderableType] = [head, Text(line_of(status))]
        live.update(Group(*parts))

    return show


def print_summary(console: Console, summary: Summary, words: str, more: list[tuple[str, str]]) -> None:
    """Print the figures, the notes and the violations, and the verdict as the last line."""
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    rows = [
        ("passes", f"{summary.passes:,}"),
        (
            "batches",
            f"{summary.batches:,} ({summary.failed_batches:,} failed, {summary.stuck_batches} never answered)",
        ),
        ("reported", f"{summary.reported_blocks:,} blocks, {mib(summary.reported_bytes)}"),
        (
            "kept",
            f"{summary.kept_blocks:,} blocks, {mib(summary.kept_bytes)}: acknowledged, and still resident",
        ),
        *more,
        ("resident at peak", mib(summary.resident_bytes_peak)),
        ("resident at end", mib(summary.resident_bytes_end)),
    ]
    for name, value in rows:
        table.add_row(name, value)
    console.print(table, highlight=False)
    for note in summary.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    for text in summary.violations:
        console.print(f"!!! {text}", highlight=False, markup=False, soft_wrap=True, style="red")
    if summary.undecided is not None:
        console.print(f"??? {summary.undecided}", highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{summary.verdict} {summary.seconds:.1f} s, {summary.violation_count} violations{lacking(summary)}: {words}",
        highlight=False,
        markup=False,
        soft_wrap=True,
        style=summary.verdict.style,
    )
