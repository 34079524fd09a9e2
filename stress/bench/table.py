"""A finished benchmark, as a table on a terminal, as JSON, and as Markdown."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pagealloc.sync_real import gil_enabled
from stress.bench.builds import Column
from stress.bench.growth import Curve
from stress.bench.measure import SYNC, Row
from stress.bench.peers import Present
from stress.provenance import versions

WIDTHS = (13, 7, 7, 7)  # on a terminal: which build, met, ratio, goal
COLUMNS = ("what", "ours", "theirs", "ratio", "goal", "met", "spread")


@dataclass(frozen=True, slots=True)
class Results:
    """All that a benchmark found: this build's column, its curves, and the compiled build's column if it was wanted."""

    column: Column
    curves: Sequence[Curve] = ()
    compiled: Column | None = None

    @property
    def columns(self) -> list[Column]:
        return [self.column] if self.compiled is None else [self.column, self.compiled]

    def as_dict(self) -> dict[str, object]:
        return {
            **self.column.as_dict(),
            "growth": [asdict(curve) for curve in self.curves],
            "compiled": None if self.compiled is None else self.compiled.as_dict(),
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Results:
        """Make the results again that `as_dict` describes."""
        curves = [Curve(**curve) for curve in fields["growth"]]
        compiled = fields["compiled"]
        return cls(Column.from_dict(fields), curves, compiled and Column.from_dict(compiled))


def empty_column(present: Present) -> Column:
    """Describe this process as a column without rows: after its peers, for one may have switched the GIL on."""
    return Column(describe_machine(), list(present.peers), present.missing, dict(present.absent))


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


def build(machine: dict[str, object]) -> str:
    """Say which build a column is of."""
    return "compiled" if machine["compiled"] else "interpreted"


def headline(machine: dict[str, object]) -> str:
    """Say in one line where the figures come from."""
    gil = "GIL" if machine["gil_enabled"] else "no GIL"
    version = str(machine["python"]).split()[0]
    return (
        f"{machine['date']}, {machine['implementation']} {version}, {gil}, {build(machine)}; zone lock: "
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
        number(row.ratio, ""),
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
    """Print everything for people: below a row's name each build's verdict, and what it comes from."""
    for line in _origins(results):
        console.print(line, highlight=False, markup=False)
    for row, others in _side_by_side(results):
        console.print(f"\n{row.name}", highlight=False, markup=False)
        grid = Table.grid(padding=(0, 1))
        for width in WIDTHS:
            grid.add_column(width=width, justify="left" if width == WIDTHS[0] else "right", no_wrap=True)
        grid.add_column(ratio=1)
        for found, column in zip([row, *others], results.columns, strict=True):
            if found is not None:
                verdict, lines = _verdict(found), map(escape, _origin(found))
                grid.add_row(f"  {build(column.machine)}", *verdict, next(lines))
                for line in lines:
                    grid.add_row(*[""] * len(WIDTHS), line, style="dim")
        console.print(grid, highlight=False)
    for curve in results.curves:
        console.print(_curve_table(curve), highlight=False)
    for line in _not_measured(results):
        console.print(line, highlight=False, markup=False)


def _origins(results: Results) -> Iterable[str]:
    """Say where each column comes from: its interpreter and machine, and its peers."""
    for column in results.columns:
        yield headline(column.machine)
        without = f"; rows against the best have no goal without {column.missing}" if column.missing else ""
        yield f"peers that took part: {', '.join(column.peers)}{without}"


def _not_measured(results: Results) -> Iterable[str]:
    lines = [
        f"not measured: {name}: {why}" for column in results.columns for name, why in column.absent.items()
    ]
    return dict.fromkeys(lines)


def _side_by_side(results: Results) -> Iterable[tuple[Row, list[Row | None]]]:
    """Yield each row of this build and its like of the other one, where that has one."""
    others = [{row.name: row for row in column.rows} for column in results.columns[1:]]
    for row in results.column.rows:
        yield row, [rows.get(row.name) for rows in others]


def _verdict(row: Row) -> tuple[str, str, str]:
    """Return whether the goal is met, the ratio and the goal."""
    _, _, _, ratio, goal, met, _ = cells(row)
    return (met, ratio, goal) if row.skipped is None else ("skipped", "", "")


def _origin(row: Row) -> Iterator[str]:
    if row.skipped is not None:
        yield row.skipped
        return
    _, ours, theirs, _, _, _, spread = cells(row)
    yield f"{ours} against {theirs}, spread {spread}"
    yield from details(row)


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
    """Write everything as Markdown tables: the builds side by side, where there are two, and then each one's rows."""
    lines = [f"{line}\n" for line in _origins(results)]
    if results.compiled is not None:
        header = [
            "what",
            *(name for column in results.columns for name in (build(column.machine), "goal", "met")),
        ]
        rows = [
            [row.name, *(cell for found in (row, *others) for cell in _in_line(found))]
            for row, others in _side_by_side(results)
        ]
        lines += [*_markdown_table(header, rows), ""]
    for column in results.columns:
        lines += [
            f"**The {build(column.machine)} build**",
            "",
            *_markdown_table(COLUMNS, map(cells, column.rows)),
            "",
        ]
        lines += [f"- {row.name}: {line}" for row in column.rows for line in details(row)]
        lines.append("")
    for curve in results.curves:
        header = [curve.x, *curve.series]
        lines += [f"**{curve.name}** ({curve.y})", "", *_markdown_table(header, _curve_rows(curve)), ""]
    lines += [f"- {line}" for line in _not_measured(results)]
    return "\n".join(lines)


def _in_line(row: Row | None) -> tuple[str, str, str]:
    met, ratio, goal = ("", "", "") if row is None else _verdict(row)
    return ratio, goal, met


def _markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    yield_rows = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(row) + " |" for row in yield_rows]
