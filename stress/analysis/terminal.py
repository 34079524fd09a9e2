"""An analysis in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stress.analysis.grids import Grid, differences, different_params, grids
from stress.analysis.summary import Summary, shown_params

WIDTH_MIN = 100  # of a table with nine columns; a narrower terminal breaks its lines


def print_analysis(console: Console, summaries: Sequence[Summary]) -> None:
    """Print one run in full, or two side by side."""
    for summary, letter in zip(summaries, ("A", "B"), strict=False):
        title = f"{letter}: {summary.run}" if len(summaries) > 1 else summary.run
        _print_head(console, summary, title)
    if len(summaries) == 1:
        shown = grids(summaries[0])
    else:
        first, second = summaries
        shown = [different_params(first, second), differences(first, second)]
    console.width = max(console.width, WIDTH_MIN)
    for grid in shown:
        if grid.rows:
            console.print()
            console.print(_table(grid))


def _print_head(console: Console, summary: Summary, title: str) -> None:
    verdict = summary.verdict
    style = verdict.style if verdict is not None else "bold yellow"
    head = Text.assemble((verdict or "no verdict", style), f"  {title}")
    console.print(head, soft_wrap=True)
    words = " ".join(f"{name}={value}" for name, value in shown_params(summary.params).items())
    console.print(Text(words, "dim"), soft_wrap=True)
    for sentence in summary.sentences:
        console.print(Text(sentence))


def _table(grid: Grid) -> Table:
    table = Table(
        title=grid.title,
        title_justify="left",
        caption=grid.note or None,
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for index, name in enumerate(grid.columns):
        table.add_column(name, justify="right" if index else "left", overflow="fold")
    for row in grid.rows:
        table.add_row(*map(Text, row))
    return table
