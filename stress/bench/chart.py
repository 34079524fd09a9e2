"""One HTML file with every ratio against its goal, and every curve."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from stress.bench.table import Results, headline, number
from stress.errors import BadArgument


def check_chart() -> None:
    """Raise BadArgument without plotly."""
    if find_spec("plotly") is None:
        raise BadArgument("--chart needs plotly: pip install 'pagealloc[analysis]'")


def write_chart(results: Results, path: Path) -> None:
    """Write a file that needs nothing else to be looked at; needs plotly."""
    from plotly import graph_objects as go  # noqa: PLC0415 - an extra
    from plotly.subplots import make_subplots  # noqa: PLC0415

    measured = [
        (row, name)
        for column, name in zip(results.columns, ("", " (compiled)"), strict=False)
        for row in column.rows
        if row.ratio is not None and row.goal is not None
    ]
    titles = [
        "Ratio, as a share of its goal (left of the line: not met)",
        *(curve.name for curve in results.curves),
    ]
    figure = make_subplots(
        rows=len(titles), cols=1, subplot_titles=titles, vertical_spacing=0.3 / len(titles)
    )
    shares = [_share_of_goal(row.ratio or 0.0, row.goal or 1.0, at_most=row.at_most) for row, _ in measured]
    figure.add_trace(
        go.Bar(
            x=shares,
            y=[f"{row.name}{name}" for row, name in measured],
            orientation="h",
            marker_color=["seagreen" if row.met else "firebrick" for row, _ in measured],
            text=[number(row.ratio, "") for row, _ in measured],
            showlegend=False,
        ),
        row=1,
        col=1,
    )
    figure.add_vline(x=1, row=1, col=1)
    for at, curve in enumerate(results.curves, 2):
        for name, points in curve.series.items():
            xs, ys = zip(*points, strict=True) if points else ((), ())
            figure.add_trace(go.Scatter(x=xs, y=ys, name=name, mode="lines+markers"), row=at, col=1)
        logarithmic = "per cent" not in curve.x
        figure.update_xaxes(title_text=curve.x, type="log" if logarithmic else "linear", row=at, col=1)
        figure.update_yaxes(title_text=curve.y, rangemode="tozero", row=at, col=1)
    figure.update_yaxes(automargin=True, autorange="reversed", row=1, col=1)
    figure.update_layout(height=420 * len(titles), title_text=headline(results.column.machine))
    figure.write_html(path, include_plotlyjs="inline")


def _share_of_goal(ratio: float, goal: float, *, at_most: bool) -> float:
    return min(goal / ratio if at_most else ratio / goal, 3.0)
