"""How a run looks while it runs: bars that move on a terminal, plain lines elsewhere, and the end table."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from typing import Protocol, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from stress.run.status import Status, ZoneStatus
from stress.run.summary import Summary
from stress.run.violations import by_kind

BAR_WIDTH_MAX = 60
KINDS_SHOWN = 5  # of violations

# What a bar shows, from the left: style, letter (for terminals without colour), name.
PARTS = (
    ("red", "#", "allocated"),
    ("magenta", "+", "page sets"),
    ("yellow", "~", "in flight"),
    ("blue", "-", "free"),
    ("green", ".", "reported"),
)


def mib(nr_bytes: float) -> str:
    """Show bytes in MiB."""
    return f"{nr_bytes / (1 << 20):.0f} MiB"


class View(Protocol):
    """Somebody who watches a run."""

    def show(self, status: Status) -> None: ...

    def tell(self, text: str) -> None:
        """Show a line, from a signal handler."""

    def alarm(self, text: str) -> None:
        """Show that an invariant is broken, from a thread."""

    def close(self) -> None: ...


class LineView:
    """One plain line every `interval_s` seconds: `!!!` for violations, `???` for a thread that gets too little."""

    def __init__(self, console: Console, interval_s: float) -> None:
        self._console = console
        self._interval_s = interval_s
        self._next_s = 0.0

    def show(self, status: Status) -> None:
        if status.seconds < self._next_s:
            return
        self._next_s = status.seconds + self._interval_s
        zones = "  ".join(
            f"{zone.name}: {mib(zone.allocated * zone.page_size)} allocated, {mib(zone.free * zone.page_size)} free, "
            f"{mib(zone.reported * zone.page_size)} reported, {mib(zone.in_flight * zone.page_size)} in flight, "
            f"{mib(zone.on_page_sets * zone.page_size)} on page sets"
            for zone in status.zones
        )
        flag = f"  !!! {status.violations} violations" if status.violations else ""
        kept = f"  kept: {mib(status.kept_bytes)}" if status.kept_bytes else ""
        stuck = f"  stuck: {status.stuck}" if status.stuck else ""
        unfair = f"  ??? unfair: {status.unfair}" if status.unfair else ""
        self._console.print(
            f"{status.seconds:6.1f} s  {status.phase:6}  resident {mib(status.resident_bytes):>8}  "
            f"{status.ops_per_second:8.0f} ops/s  {status.allocators:3} threads  {status.batches:4} batches  {zones}"
            f"{kept}{stuck}{unfair}{flag}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    def tell(self, text: str) -> None:
        os.write(2, f"stress: {text}\n".encode())  # the console may be in the middle of a line

    def alarm(self, text: str) -> None:
        self._console.print(f"!!! {text}", highlight=False, markup=False, soft_wrap=True, style="red")

    def close(self) -> None:
        pass


class LiveView:
    """A picture that is drawn anew a few times a second, for a terminal."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=8, transient=True)
        self._live.start()
        self._console = console
        self._told = ""

    def show(self, status: Status) -> None:
        told = [Text(self._told, style="yellow")] if self._told else []
        self._live.update(Group(picture(status, self._console.width), *told))

    def tell(self, text: str) -> None:
        self._told = text

    def alarm(self, text: str) -> None:
        self._console.print(f"!!! {text}", highlight=False, markup=False, soft_wrap=True, style="red")

    def close(self) -> None:
        self._live.stop()


def picture(status: Status, width: int) -> RenderableType:
    """Draw a status: a bar for every zone, one for the resident memory, and the figures."""
    bar_width = max(10, min(BAR_WIDTH_MAX, width - 34))
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for zone in status.zones:
        table.add_row(zone.name, _zone_bar(zone, bar_width), f"{mib(zone.free * zone.page_size)} free")
    table.add_row("resident", _resident_bar(status, bar_width), mib(status.resident_bytes))
    legend = Text("          ")
    for style, letter, name in PARTS:
        legend.append(f" {letter} ", style=style).append(f"{name} ")
    figures = Text(
        f"{status.seconds:5.1f} s  {status.phase}   {status.ops_per_second:,.0f} ops/s   "
        f"{status.allocs:,} allocs   {status.failed_allocs:,} failed\n"
        f"worker {status.state}   {status.passes} passes   {status.batches} batches "
        f"({status.failed_batches} failed)   {mib(status.reported_bytes)} given back"
    )
    lines: list[RenderableType] = [table, legend, figures]
    if status.kept_bytes:
        lines.append(Text(f"kept: {mib(status.kept_bytes)} acknowledged, still resident", style="yellow"))
    if status.stuck:
        lines.append(Text(f"stuck: {status.stuck}", style="yellow"))
    if status.unfair:
        lines.append(Text(f"??? unfair: {status.unfair}", style="yellow"))
    if status.violations:
        lines.append(Text(f"!!! {status.violations} violations", style="bold red"))
    return Group(*lines)


def _zone_bar(zone: ZoneStatus, width: int) -> Text:
    unreported = max(0, zone.free - zone.reported)
    shares = (zone.allocated, zone.on_page_sets, zone.in_flight, unreported, zone.reported)
    return bar(
        [(pages, style, letter) for pages, (style, letter, _) in zip(shares, PARTS, strict=True)], width
    )


def _resident_bar(status: Status, width: int) -> Text:
    absent = max(0, status.total_bytes - status.resident_bytes)
    return bar([(status.resident_bytes, "cyan", "="), (absent, "bright_black", " ")], width)


def bar(parts: list[tuple[int, str, str]], width: int) -> Text:
    """Draw parts of a whole as runs of letters; whatever is not zero gets one cell at least.

    The cells that rounding leaves over, or takes too many, are the largest part's.
    """
    total = sum(size for size, _, _ in parts) or 1
    cells = [max(1, size * width // total) if size else 0 for size, _, _ in parts]
    largest = max(range(len(parts)), key=lambda at: parts[at][0])
    if any(cells):
        cells[largest] = max(1, cells[largest] + width - sum(cells))
    text = Text()
    for count, (_, style, letter) in zip(cells, parts, strict=True):
        text.append(letter * count, style=style)
    return text


def print_summary(console: Console, summary: Summary, words: str) -> None:
    """Print the table of figures, what is worth a note, the violations, and the verdict as the last line."""
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    rate = (summary.allocs + summary.frees) / summary.seconds if summary.seconds else 0.0
    rows = (
        ("allocations", f"{summary.allocs:,} ({summary.failed_allocs:,} found no memory)"),
        ("frees", f"{summary.frees:,} ({rate:,.0f} operations per second)"),
        ("passes", f"{summary.passes:,}"),
        (
            "batches",
            f"{summary.batches:,} ({summary.failed_batches:,} failed, {summary.stuck_batches} stuck)",
        ),
        ("reported", f"{summary.reported_blocks:,} blocks, {mib(summary.reported_bytes)}"),
        (
            "kept",
            f"{summary.kept_blocks:,} blocks, {mib(summary.kept_bytes)}: acknowledged, and still resident",
        ),
        ("resident at start", mib(summary.resident_bytes_start)),
        ("resident at peak", mib(summary.resident_bytes_peak)),
        ("resident at end", mib(summary.resident_bytes_end)),
        ("on page sets", f"{mib(summary.page_set_bytes_peak)} at peak, held back from reporting"),
    )
    for name, value in (*rows, *_soak_rows(summary)):
        table.add_row(name, value)
    console.print(table, highlight=False)
    for note in summary.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    _print_violations(console, summary)
    if summary.undecided is not None:
        console.print(f"not decided: {summary.undecided}", highlight=False, markup=False, soft_wrap=True)
    if summary.next_step:
        console.print(f"next: {summary.next_step}", highlight=False, markup=False, soft_wrap=True)
    ended = "interrupted after " if summary.interrupted else ""
    console.print(
        f"{summary.verdict} {ended}{summary.seconds:.1f} s, {summary.violation_count} violations{_judged(summary)}: "
        f"{words}",
        highlight=False,
        markup=False,
        soft_wrap=True,
        style=summary.verdict.style,
    )


def _print_violations(console: Console, summary: Summary) -> None:
    """Print the first of each kind: what follows from one fault is told again and again."""
    kinds = by_kind(summary.violations)
    shown = dict(islice(kinds.items(), KINDS_SHOWN))
    for text, count in shown.items():
        like_it = f" ({count - 1} more like it)" if count > 1 else ""
        console.print(f"!!! {text}{like_it}", highlight=False, markup=False, soft_wrap=True, style="red")
    hidden = summary.violation_count - sum(shown.values())
    if hidden > 0:
        console.print(f"!!! and {hidden:,} more", highlight=False, markup=False, style="red")


def _judged(summary: Summary) -> str:
    judged = "" if summary.judged_records is None else f", judged {summary.judged_records:,} records"
    return judged + lacking(summary)


def lacking(summary: Summary) -> str:
    """Say behind the verdict what was not kept of the run."""
    return "" if summary.unkept is None else f" ({summary.unkept})"


def _soak_rows(summary: Summary) -> Iterator[tuple[str, str]]:
    """Show what must be flat in a long run, in its first, middle and last tenth, and at both ends."""
    footprint = summary.footprint
    tenths = [
        cast("dict[str, int]", footprint.get(f"{part}_tenth", {})) for part in ("first", "middle", "last")
    ]
    ends = [cast("dict[str, int]", footprint.get(part, {})) for part in ("before", "after")]
    if not all((*tenths, *ends)):
        return
    own = " .. ".join(mib(part["own_bytes"]) for part in tenths)
    peak = mib(cast("int", footprint["peak_rss_bytes"]))
    yield "own memory", f"{own} in the first, middle and last tenth; with all pages {peak} at peak"
    for key, name in (("threads", "threads"), ("file_descriptors", "file descriptors")):
        during = " .. ".join(str(part[key]) for part in tenths)
        yield name, f"{during}, {ends[0][key]} before and {ends[1][key]} after"
    yield "kept at most", ", ".join(f"{count:,} {name}" for name, count in summary.kept_max.items())
    most, least = max(summary.operations), min(summary.operations)
    yield "operations", f"{least:,} .. {most:,} a thread, {summary.unfair_intervals} unfair intervals"
