"""A finished benchmark, as a table on a terminal, as JSON, and as Markdown."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pagealloc.sync_real import gil_enabled
from stress.bench.growth import Curve
from stress.bench.measure import SYNC, Row
from stress.provenance import versions

COLUMNS = ("what", "ours", "theirs", "ratio", "goal", "met", "spread")


@dataclass(frozen=True, slots=True)
class Results:
    """All that a benchmark found. `absent` are the peers and rows that could not be measured, and why."""

    machine: dict[str, object]
    rows: Sequence[Row]
    curves: Sequence[Curve]
    absent: dict[str, str]

    def as_dict(self) -> dict[str, object]:
        return {
            "machine": self.machine,
            "rows": [row.as_dict() for row in self.rows],
            "growth": [asdict(curve) for curve in self.curves],
            "absent": self.absent,
        }


def describe_machine() -> dict[str, object]:
    """Describe the interpreter, the machine, and how its zone locks are taken."""
    load = Path("/proc/loadavg")
    return {
        **versions(),
        "processor": _processor(),
        "implementation": platform.python_implementation(),
        "lock_discipline": "try, then yield the processor" if gil_enabled() else "plain threading.Lock",
        "load_average": load.read_text(encoding="ascii").split()[0] if load.exists() else "unknown",
        "date": datetime.fromtimestamp(SYNC.wall_clock(), UTC).date().isoformat(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def headline(machine: dict[str, object]) -> str:
    """Say in one line where the figures come from."""
    gil = "GIL" if machine["gil_enabled"] else "no GIL"
    version = str(machine["python"]).split()[0]
    return (
        f"{machine['date']}, {machine['implementation']} {version}, {gil}; zone lock: "
        f"{machine['lock_discipline']}; {machine['cpus']} processors ({machine['processor']}), "
        f"load {machine['load_average']} at the start"
    )


def cells(row: Row) -> tuple[str, ...]:
    """Return a row's texts, by `COLUMNS`."""
    if row.ratio is None:
        return row.name, "", "", "skipped", "", row.skipped or "", ""
    goal = "" if row.goal is None else f"{'≤' if row.at_most else '≥'} {row.goal:g}"
    return (
        row.name,
        number(row.ours, row.unit),
        f"{number(row.theirs, row.unit)} ({row.against})",
        f"{row.ratio:.3g}",
        goal,
        {True: "yes", False: "no", None: "-"}[row.met],
        "" if row.spread is None else f"{row.spread:.0%}",
    )


def number(value: float | None, unit: str) -> str:
    """Write a figure with three significant digits, in thousands and millions where that helps."""
    if value is None:
        return ""
    for factor, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= factor and (not unit or unit.endswith("/s")):
            return f"{value / factor:.3g}{prefix}{unit}".strip()
    return f"{value:.3g} {unit}".strip()


def details(row: Row) -> Iterable[str]:
    """Yield lines with what a row was measured from."""
    for what, figure in row.figures.items():
        if isinstance(figure, dict):
            yield f"{what}: " + ", ".join(f"{name} {number(value, '')}" for name, value in figure.items())
        elif isinstance(figure, float):
            yield f"{what}: {figure:.3g}"
        else:
            yield f"{what}: {figure}"


def show(console: Console, results: Results) -> None:
    """Print everything for people."""
    console.print(headline(results.machine), highlight=False)
    table = Table(box=None, padding=(0, 1))
    for name in ("met", "ratio", "goal", "spread", "what"):
        table.add_column(name, justify="left" if name == "what" else "right", no_wrap=name != "what")
    for row in results.rows:
        name, ours, theirs, ratio, goal, met, spread = cells(row)
        if row.skipped is not None:
            table.add_row("skipped", "", "", "", f"{name}: {row.skipped}", style="dim")
            continue
        table.add_row(met, ratio, goal, spread, name)
        for line in (f"{ours} against {theirs}", *details(row)):
            table.add_row("", "", "", "", f"  {line}", style="dim")
    console.print(table, highlight=False)
    for curve in results.curves:
        console.print(_curve_table(curve), highlight=False)
    for name, why in results.absent.items():
        console.print(f"not measured: {name}: {why}", highlight=False, markup=False)


def _curve_table(curve: Curve) -> Table:
    table = Table(box=None, padding=(0, 1), title=f"{curve.name} ({curve.y})", title_justify="left")
    for name in (curve.x, *curve.series):
        table.add_column(name, justify="right")
    for row in _curve_rows(curve):
        table.add_row(*row)
    return table


def _curve_rows(curve: Curve) -> Iterable[list[str]]:
    xs = sorted({x for points in curve.series.values() for x, _ in points})
    for x in xs:
        found = [dict(points).get(x) for points in curve.series.values()]
        yield [f"{x:g}", *("" if y is None else f"{y:.3g}" for y in found)]


def markdown(results: Results) -> str:
    """Write everything as Markdown tables."""
    lines = [headline(results.machine), "", *_markdown_table(COLUMNS, map(cells, results.rows)), ""]
    for row in results.rows:
        lines += [f"- {row.name}: {line}" for line in details(row)]
    for curve in results.curves:
        header = (curve.x, *curve.series)
        lines += ["", f"**{curve.name}** ({curve.y})", "", *_markdown_table(header, _curve_rows(curve))]
    lines += ["", *(f"- not measured: {name}: {why}" for name, why in results.absent.items())]
    return "\n".join(lines)


def _markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    yield_rows = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(row) + " |" for row in yield_rows]
