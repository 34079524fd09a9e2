"""The answer as one page that opens offline: a sentence, pictures, the table, and how far to believe it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import plotly.graph_objects as go

from stress.analysis.charts import BLUE, GREEN, GREY, HEIGHT, ORANGE, RED, Chart
from stress.analysis.grids import Grid
from stress.analysis.report import chart_card, table_card, write_page
from stress.lab.answer import Choice, Goal, best_of, error_of, front, is_default, pages_to_gib, same
from stress.lab.recorded_truth import Truth
from stress.lab.sweep import Sweep
from stress.lab.tables import cell, figures_of, heading

NOT_MODELLED = (
    "page cache that is reclaimed, compaction, swap, cgroup limits and balloons of the guest",
    "a load that slows down when its memory has to come back: every setting gets the same load",
    "the price of a refault from first principles: counts are predicted, prices are borrowed and named",
    "several CPUs inside one pass: other CPUs act while a report call lasts, not between two calls",
)
VALIDATED = {
    "trace": "recorded guests of kernels 6.1 and 6.12, order 9: as many passes, times within 3 ms where "
    "the guest is not busy, amounts within 3 %, the host's curve within 5 % of its range",
    "curve": "a build of clang on 16 GiB (scale 32, one seed): at order 0 mean resident memory within 1 % and "
    "overshoot within 0.1 GiB of what was measured; at order 9 7 % too high, since how a load fragments is an "
    "assumption",
    "burst": "six sandboxes of 4 GiB: the time until their memory is back within 0.3 s of the measured 10.1 and 1.3 s",
}


def write_lab_page(
    path: Path,
    about: str,
    answer: str,
    found: Sequence[Choice],
    goal: Goal,
    sweep: Sweep,
    truth: Truth | None,
) -> None:
    """Write the page. Raises OSError."""
    load = sweep.points[0].load
    error = error_of(load)
    pictures = [_trade(found, goal, error), _curves(found, goal, error, sweep, truth)]
    parts = [
        f'<div class="card"><p class="about">{escape(about)}</p><ol class="lead"><li>{escape(answer)}</li></ol></div>',
        *(chart_card(chart) for chart in pictures if chart is not None),
        table_card(_table(found, goal, load)),
        _belief(load, sweep, truth),
    ]
    write_page(path, f"{about}: free page reporting", "Which setting of free page reporting?", parts)


def _figure(x: str, y: str) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=HEIGHT + 60,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 70, "r": 20, "t": 40, "b": 56},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        font={"family": "system-ui, sans-serif", "size": 13},
        hovermode="closest",
    )
    figure.update_xaxes(title=x, zeroline=False, showgrid=True, ticks="outside", automargin=True)
    figure.update_yaxes(title=y, zeroline=False, showgrid=True, automargin=True)
    return figure


def _trade(found: Sequence[Choice], goal: Goal, error: float) -> Chart | None:
    """Draw every setting: what it is for against what comes in again."""
    if len(found) < 2:
        return None
    if any(choice.refaults() for choice in found):
        against = "refaults (in units of 4 KiB, a huge page by its price)"
        costs = [choice.refaults() for choice in found]
    else:  # nothing comes in again: what is left is the work of reporting
        against = "report calls"
        costs = [choice.means["batches"].value for choice in found]
    figure = _figure(against, heading(goal.figure))
    ahead = front(found, goal)
    best = best_of(found, goal, error)
    for name, colour, chosen in (
        ("beaten by another", GREY, [choice for at, choice in enumerate(found) if at not in ahead]),
        (
            "on the front",
            BLUE,
            [choice for at, choice in enumerate(found) if at in ahead and choice is not best],
        ),
        ("best", GREEN, [best]),
    ):
        if chosen:
            figure.add_trace(
                go.Scatter(
                    x=[costs[found.index(choice)] for choice in chosen],
                    y=[choice.means[goal.figure].value for choice in chosen],
                    error_y={"array": [choice.means[goal.figure].half for choice in chosen], "thickness": 1},
                    text=[choice.label() for choice in chosen],
                    hovertemplate="%{text}<br>%{y:.4g} at %{x:,.0f}<extra></extra>",
                    mode="markers",
                    marker={"color": colour, "size": 10},
                    name=name,
                )
            )
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(rangemode="tozero")
    about = (
        "One mark a setting, with the 95 % interval over its seeds; further down and further left is better."
    )
    return Chart("What it is for, and what it costs", about, figure)


def _curves(
    found: Sequence[Choice], goal: Goal, error: float, sweep: Sweep, truth: Truth | None
) -> Chart | None:
    """Draw the memory of the best setting over time, beside the kernel's default and the measured curve."""
    best = best_of(found, goal, error)
    curve = sweep.curves.get(best.point)
    if not curve:
        return None
    figure = _figure("time (s)", "GiB")
    times = [sample[0] for sample in curve]
    for column, name, colour in (
        (1, "used", GREY),
        (2, "used in whole 2 MiB", ORANGE),
        (3, "resident", BLUE),
    ):
        values = [pages_to_gib(sample[column]) for sample in curve]
        figure.add_trace(
            go.Scatter(x=times, y=values, name=name, mode="lines", line={"color": colour, "width": 2})
        )
    default = next((choice for choice in found if is_default(choice) and choice is not best), None)
    if default is not None and default.point in sweep.curves:
        other = sweep.curves[default.point]
        figure.add_trace(
            go.Scatter(
                x=[sample[0] for sample in other],
                y=[pages_to_gib(sample[3]) for sample in other],
                name=f"resident with {default.label()}",
                mode="lines",
                line={"color": RED, "width": 1.5, "dash": "dot"},
            )
        )
    if truth is not None and truth.measured is not None:
        figure.add_trace(
            go.Scatter(
                x=truth.measured.t_s,
                y=[kib / (1 << 20) for kib in truth.measured.kib],
                name="measured",
                mode="lines",
                line={"color": GREEN, "width": 1.5, "dash": "dash"},
            )
        )
    about = f"{best.label()}. What lies between used and used in whole 2 MiB is what order 9 cannot return."
    return Chart("Memory over time", about, figure)


def _table(found: Sequence[Choice], goal: Goal, load: str) -> Grid:
    error = error_of(load)
    best = best_of(found, goal, error)
    ahead = front(found, goal)
    names = figures_of(found, goal)
    rows: list[Sequence[str]] = []
    for at, choice in enumerate(found):
        figure = choice.means[goal.figure]
        mark = "best" if choice is best else "front" if at in ahead else ""
        if choice is not best and same(figure, best.means[goal.figure], error):
            mark = f"{mark} no difference".strip()
        cells = [
            cell(name, choice.means[name].value)
            + (f" ± {cell(name, choice.means[name].half)}" if choice.means[name].half else "")
            for name in names
        ]
        rows.append([choice.label().replace(" ", "\N{NO-BREAK SPACE}"), *cells, mark])
    note = (
        f"Means over the seeds with half of their 95 % interval. “No difference”: from the best by less than "
        f"{error:.0%}, which is how far off the lab was where the truth is known, or than the intervals."
    )
    return Grid("All settings", ["setting", *(heading(name) for name in names), ""], rows, note)


def _belief(load: str, sweep: Sweep, truth: Truth | None) -> str:
    """Say what was recorded, counted or assumed, and what is not in it at all."""
    kind = load.partition(":")[0]
    lines = [*sweep.notes]
    lines += truth.lines() if truth is not None else []
    validated = VALIDATED.get(
        kind, "nothing that was measured: this load is made up, and only the kernel's rules are exact"
    )
    point = sweep.points[0]
    inputs = "".join(
        f"<li>{escape(line)}</li>" for line in lines or ["a load that is made up on an empty guest"]
    )
    limits = "".join(f"<li>{escape(line)}</li>" for line in NOT_MODELLED)
    return (
        f'<div class="card"><h3>How far to believe this</h3><p>Nearest case that was held against reality: '
        f"{escape(validated)}. "
        "That means it was not refuted there.</p><p>This answer rests on:</p>"
        f"<ul>{inputs}</ul><p>Not in it:</p><ul>{limits}</ul>"
        f'<p class="note">kernel {escape(point.preset)}, HZ {point.hz or "exact"}, '
        f"host pages {escape(point.thp)}; {len(sweep.rows)} of {len(sweep.points)} points.</p></div>"
    )
