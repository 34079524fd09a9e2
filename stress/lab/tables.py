"""The figures that people see: their headings, their digits, their order; and the table in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from stress.lab.answer import Choice, Goal, best_of, error_of, front, same, shown

WIDTH_MIN = 120  # of the table; a narrower terminal breaks its lines
MIB = 1 << 20
Printer = Callable[[float], str]

FIGURES: dict[str, tuple[str, Printer]] = {
    "footprint_gib_min": ("GiB*min", "{:.3f}".format),
    "mean_resident_bytes": ("resident MiB", lambda value: f"{value / MIB:,.0f}"),
    "overshoot_bytes": ("overshoot MiB", lambda value: f"{value / MIB:,.0f}"),
    "settle_s": ("settle s", "{:.2f}".format),
    "below_target_s": ("below target s", lambda value: f"{value:.2f}" if value >= 0 else "never"),
    "passes": ("passes", "{:,.4g}".format),
    "batches": ("calls", "{:,.4g}".format),
    "refaults_4k": ("refaults 4K", "{:,.0f}".format),
    "refaults_2m": ("refaults 2M", "{:,.0f}".format),
    "refault_vcpu_s": ("refault vCPU s", "{:.2f}".format),
    "report_s": ("reporting s", "{:.2f}".format),
}


def figures_of(found: Sequence[Choice], goal: Goal) -> list[str]:
    """List the figures to show: those that a row has, and that are not zero everywhere."""
    known = [name for name in FIGURES if found and name in found[0].means]
    return [
        name for name in known if name == goal.figure or any(choice.means[name].value for choice in found)
    ]


def cell(name: str, value: float) -> str:
    """Print a figure with the digits that are worth something."""
    return FIGURES[name][1](value)


def heading(name: str) -> str:
    """Name a figure at the head of its column."""
    return FIGURES[name][0]


def show_table(console: Console, found: Sequence[Choice], goal: Goal, load: str) -> None:
    """Print the settings, with the best one, the front and what is no difference marked."""
    console.width = max(console.width, WIDTH_MIN)
    names = figures_of(found, goal)
    axes = list(found[0].values) or ["load"]
    table = Table(*axes, *(heading(name) for name in names), "", box=None, pad_edge=False)
    error = error_of(load)
    best = best_of(found, goal, error)
    ahead = front(found, goal)
    for at, choice in enumerate(found):
        marks = "best" if choice is best else "front" if at in ahead else ""
        if choice is not best and same(choice.means[goal.figure], best.means[goal.figure], error):
            marks = f"{marks} no difference".strip()
        values = [shown(name, value) for name, value in choice.values.items()] or [load.partition(":")[0]]
        table.add_row(*values, *(cell(name, choice.means[name].value) for name in names), marks)
    console.print(table, soft_wrap=True)
