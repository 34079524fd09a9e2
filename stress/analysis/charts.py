"""The pictures of the report: one function for each, with the runs side by side on the same scales.

Colours hold on a light and on a dark page; text and grid lines are the page's business (`report.STYLE`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from stress.analysis.summary import Summary

BLUE, SKY, ORANGE, GREEN, RED, GREY, PURPLE = (
    "#3b82c4",
    "#8cc4ee",
    "#ee8a2e",
    "#3fa66a",
    "#d9485f",
    "#a3a9b3",
    "#9065c9",
)
BY_ORDER = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY, GREY)
HEIGHT = 340
LEAST = 1e-6  # what a logarithmic axis takes for zero
FEW_DECADES = 2.5
ROW_HEIGHT = 34  # of a bar with a name


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture with what it shows in a line, and how to read it."""

    title: str
    about: str
    figure: go.Figure


Runs = Sequence[Summary]


def charts(runs: Runs) -> list[Chart]:
    """Draw everything of which there is something to see."""
    drawn = (draw(runs) for draw in DRAWINGS)
    return [chart for chart in drawn if chart is not None]


def _panels(runs: Runs, x: str, y: str, height: int = HEIGHT) -> go.Figure:
    """Make an empty picture, a panel for each run, all with the same scales."""
    figure = make_subplots(
        rows=1,
        cols=len(runs),
        shared_xaxes="all",
        shared_yaxes="all",
        horizontal_spacing=0.04,
        column_titles=list("AB") if len(runs) > 1 else None,
    )
    figure.update_layout(
        template="none",
        height=height,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 70, "r": 20, "t": 40 if len(runs) == 1 else 64, "b": 56},
        legend={"orientation": "h", "y": 1.02 if len(runs) == 1 else 1.1, "yanchor": "bottom", "x": 0},
        font={"family": "system-ui, sans-serif", "size": 13},
        hovermode="x unified",
        barmode="group",
    )
    figure.update_xaxes(title=x, zeroline=False, showgrid=False, ticks="outside", automargin=True)
    figure.update_yaxes(zeroline=False, showgrid=True, automargin=True)
    figure.update_yaxes(title=y, col=1)
    return figure


def _over_time(figure: go.Figure, runs: Runs) -> None:
    """Give every chart over time the same axis, and show where the phases of a run begin.

    The axes of a panel are numbered from the left.
    """
    figure.update_xaxes(range=[0, max(run.seconds for run in runs)])
    for column, run in enumerate(runs, 1):
        for phase in run.phases:
            figure.add_vline(
                x=phase["seconds"],
                line={"color": GREY, "width": 1, "dash": "dot"},
                annotation={"text": phase["name"], "textangle": -90, "font": {"size": 10}},
                row=1,
                col=column,
            )


def _log_axis(figure: go.Figure, low: float, high: float) -> None:
    """Make the horizontal axis logarithmic, with decades marked, and steps of 1, 2, 5 where it has few of them."""
    low = max(low, LEAST)
    ends = (log10(low), log10(max(high, low * 1.5)))
    steps = (1, 2, 5) if ends[1] - ends[0] < FEW_DECADES else (1,)
    ticks = [step * 10.0**power for power in range(floor(ends[0]), ceil(ends[1]) + 1) for step in steps]
    edge = 0.03 * (ends[1] - ends[0])
    figure.update_xaxes(
        type="log",
        showgrid=True,
        range=[ends[0] - edge, ends[1] + edge],
        tickvals=ticks,
        ticktext=[f"{tick:,.6g}" for tick in ticks],
    )


def _line(figure: go.Figure, column: int, x: object, y: object, name: str, **style: object) -> None:
    figure.add_trace(
        go.Scatter(x=x, y=y, name=name, legendgroup=name, showlegend=column == 1, **style), row=1, col=column
    )


# -- over time -------------------------------------------------------------------------------------------


def memory(runs: Runs) -> Chart | None:
    """Draw what the pages are at, and what the host still holds."""
    if not any(run.memory for run in runs):
        return None
    figure = _panels(runs, "time (s)", "MiB", HEIGHT + 80)
    for column, run in enumerate(runs, 1):
        seconds = [row["seconds"] for row in run.memory]
        layers = (
            ("allocated", BLUE, [row["allocated_mib"] for row in run.memory]),
            ("on page sets", SKY, [row["page_set_mib"] for row in run.memory]),
            ("in flight", ORANGE, [row["in_flight_mib"] for row in run.memory]),
            (
                "free, not reported",
                GREY,
                [max(0.0, row["free_mib"] - row["reported_mib"]) for row in run.memory],
            ),
            ("free, reported", GREEN, [row["reported_mib"] for row in run.memory]),
        )
        for name, colour, values in layers:
            line = {"width": 0, "color": colour}
            _line(figure, column, seconds, values, name, stackgroup="pages", line=line, fillcolor=colour)
        resident = [row["resident_mib"] for row in run.memory]
        _line(figure, column, seconds, resident, "resident in the host", line={"color": RED, "width": 2.5})
    figure.update_traces(hovertemplate="%{y:,.0f} MiB")
    figure.update_yaxes(rangemode="tozero")
    _over_time(figure, runs)
    return Chart(
        "Memory over time",
        "What all pages are at, stacked, and what the operating system holds for them (line). Without reporting the "
        "line would only rise; what lies above it was given back, or not touched yet.",
        figure,
    )


def throughput(runs: Runs) -> Chart | None:
    """Draw calls per second."""
    if not any(run.throughput for run in runs):
        return None
    figure = _panels(runs, "time (s)", "calls per second")
    for column, run in enumerate(runs, 1):
        seconds = [row["seconds"] for row in run.throughput]
        for name, key, colour in (("allocations", "allocs_per_s", BLUE), ("frees", "frees_per_s", GREEN)):
            values = [row[key] for row in run.throughput]
            _line(figure, column, seconds, values, name, line={"color": colour, "width": 1.8})
    figure.update_traces(hovertemplate="%{y:,.0f}/s")
    figure.update_yaxes(rangemode="tozero")
    _over_time(figure, runs)
    return Chart("Throughput over time", f"Calls of all allocators, in steps of {_steps(runs)}.", figure)


def isolated(runs: Runs) -> Chart | None:
    """Draw the share of pages that the reporter has."""
    if not any(run.isolated_over_time for run in runs):
        return None
    figure = _panels(runs, "time (s)", "share of all pages")
    for column, run in enumerate(runs, 1):
        found = {round(row["seconds"] / run.bin_s): row["max_share"] for row in run.isolated_over_time}
        bins = range(int(run.seconds / run.bin_s) + 1)
        figure.add_trace(
            go.Bar(
                x=[(number + 0.5) * run.bin_s for number in bins],
                y=[found.get(number, 0.0) for number in bins],
                name="in flight",
                marker={"color": ORANGE, "line": {"width": 0}},
                showlegend=False,
            ),
            row=1,
            col=column,
        )
    figure.update_layout(bargap=0)
    figure.update_traces(hovertemplate="%{y:.2%}")
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    _over_time(figure, runs)
    return Chart(
        "Isolated memory",
        f"The most pages that were away with the reporter at once, in steps of {_steps(runs)}: nobody can allocate "
        "them meanwhile.",
        figure,
    )


def _steps(runs: Runs) -> str:
    return " and ".join(dict.fromkeys(f"{run.bin_s:g} s" for run in runs))


# -- locks -------------------------------------------------------------------------------------------------


def lock_holds(runs: Runs) -> Chart | None:
    """Draw how long the lock is held, by call site."""
    return _spans(
        runs,
        "holdtime",
        "acquisitions",
        "Zone lock: hold times by call site",
        "From the median to the longest hold, on a logarithmic scale; the site with the most time in all is on top.",
    )


def lock_waits(runs: Runs) -> Chart | None:
    """Draw how long a thread waits for the lock, by call site."""
    return _spans(
        runs,
        "waittime",
        "contentions",
        "Zone lock: wait times by call site",
        "Of those acquisitions that had to wait, on a logarithmic scale; the site with the most time in all is on top.",
    )


def _spans(runs: Runs, figure_name: str, count: str, title: str, about: str) -> Chart | None:
    total_us: dict[str, float] = {}
    for run in runs:
        for row in run.locks_by_site:
            if row[count]:
                total_us[row["name"]] = total_us.get(row["name"], 0.0) + row[f"{figure_name}_total"]
    names = sorted(total_us, key=total_us.__getitem__)
    if not names:
        return None
    figure = _panels(runs, "microseconds", "", max(220, 110 + ROW_HEIGHT * len(names)))
    marks = (("p50", BLUE), ("p90", GREEN), ("p99", ORANGE), ("max", RED))
    for column, run in enumerate(runs, 1):
        rows = [row for row in run.locks_by_site if row[count]]
        for row in rows:
            ends = [row[f"{figure_name}_p50"], row[f"{figure_name}_max"]]
            line = {"color": GREY, "width": 3}
            figure.add_trace(
                go.Scatter(
                    x=ends, y=[row["name"]] * 2, mode="lines", line=line, showlegend=False, hoverinfo="skip"
                ),
                row=1,
                col=column,
            )
        for name, colour in marks:
            _line(
                figure,
                column,
                [row[f"{figure_name}_{name}"] for row in rows],
                [row["name"] for row in rows],
                name,
                mode="markers",
                marker={"color": colour, "size": 11},
                customdata=[row[count] for row in rows],
                hovertemplate=f"%{{y}} {name} %{{x:,.1f}} µs of %{{customdata:,}} {count}<extra></extra>",
            )
    figure.update_layout(hovermode="closest")
    found = [row for run in runs for row in run.locks_by_site if row[count]]
    lowest, highest = (
        pick(row[f"{figure_name}_{name}"] for row in found) for pick, name in ((min, "p50"), (max, "max"))
    )
    _log_axis(figure, lowest, highest)
    figure.update_yaxes(categoryorder="array", categoryarray=names, range=[-0.6, len(names) - 0.4])
    return Chart(title, about, figure)


def fairness(runs: Runs) -> Chart | None:
    """Draw what each thread got."""
    if not any(run.threads for run in runs):
        return None
    figure = _panels(runs, "calls per second", "", max(200, 100 + 26 * max(len(run.threads) for run in runs)))
    for column, run in enumerate(runs, 1):
        rates = [row["calls_per_s"] for row in run.threads]
        figure.add_trace(
            go.Bar(
                x=rates,
                y=[row["name"] for row in run.threads],
                orientation="h",
                marker={"color": BLUE},
                text=[f"waits {row['wait_share']:.1%}" for row in run.threads],
                textposition="inside",
                insidetextanchor="start",
                showlegend=False,
                hovertemplate="%{y} %{x:,.0f} calls/s, %{text}<extra></extra>",
            ),
            row=1,
            col=column,
        )
        mean = sum(rates) / len(rates) if rates else 0.0
        figure.add_vline(x=mean, line={"color": ORANGE, "width": 2, "dash": "dash"}, row=1, col=column)
    figure.update_layout(hovermode="closest", bargap=0.25)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(rangemode="tozero")
    index = ", ".join("none" if run.fairness is None else f"{run.fairness:.3f}" for run in runs)
    return Chart(
        "Fairness between threads",
        "Calls of each allocator, its share of time waiting for zone locks, and the mean (dashed). "
        f"Jain's index {index}: 1 is even.",
        figure,
    )


# -- reporting ---------------------------------------------------------------------------------------------


def batch_sizes(runs: Runs) -> Chart | None:
    """Draw how many blocks the batches had."""
    if not any(run.batch_sizes for run in runs):
        return None
    figure = _panels(runs, "blocks in a batch", "batches")
    for column, run in enumerate(runs, 1):
        figure.add_trace(
            go.Bar(
                x=[row["blocks"] for row in run.batch_sizes],
                y=[row["batches"] for row in run.batch_sizes],
                marker={"color": BLUE},
                showlegend=False,
                hovertemplate="%{y:,} batches<extra></extra>",
            ),
            row=1,
            col=column,
        )
    figure.update_layout(bargap=0.15)
    figure.update_yaxes(rangemode="tozero")
    return Chart(
        "Batch sizes",
        "How full the calls of the reporter were; a full batch costs one call for as much as it can.",
        figure,
    )


def latency(runs: Runs) -> Chart | None:
    """Draw how long a free block waits for its report."""
    if not any(run.latency for run in runs):
        return None
    figure = _panels(runs, "milliseconds from free to Reported", "share of blocks")
    for column, run in enumerate(runs, 1):
        for row, colour in zip(run.latency, BY_ORDER * 3, strict=False):
            name = f"order {row['order']}"
            _curve(figure, column, row["curve"], name, colour)
    figure.update_traces(hovertemplate="%{y:.0%} within %{x:,.1f} ms")
    curves = [row["curve"] for run in runs for row in run.latency]
    _log_axis(figure, min(map(min, curves)), max(map(max, curves)))
    return Chart(
        "From free to Reported, by order",
        "The share of blocks that were reported within a time, on a logarithmic scale, since the free that made them.",
        figure,
    )


def _curve(figure: go.Figure, column: int, curve: list[float], name: str, colour: str) -> None:
    """Draw a distribution from its quantiles, evenly spaced from 0 to 1."""
    shares = [number / (len(curve) - 1) for number in range(len(curve))]
    _line(figure, column, curve, shares, name, line={"color": colour, "width": 2.2})
    figure.update_yaxes(tickformat=".0%", range=[0, 1.02])
    figure.update_layout(hovermode="closest")


def reuse(runs: Runs) -> Chart | None:
    """Draw how soon reported blocks are in use again."""
    if not any(run.reuse["curve"] for run in runs):
        return None
    figure = _panels(runs, "seconds from report to reuse", "share of reports")
    for column, run in enumerate(runs, 1):
        curve = run.reuse["curve"]
        if curve:
            used = run.reuse["reused"] / run.reuse["reported"]
            shares = [used * number / (len(curve) - 1) for number in range(len(curve))]
            line = {"color": PURPLE, "width": 2.2}
            _line(figure, column, curve, shares, "reused", line=line, fill="tozeroy")
        figure.add_vline(x=1.0, line={"color": RED, "width": 2, "dash": "dash"}, row=1, col=column)
    figure.update_traces(hovertemplate="%{y:.0%} within %{x:,.3f} s<extra></extra>", showlegend=False)
    curves = [run.reuse["curve"] for run in runs if run.reuse["curve"]]
    _log_axis(figure, min(map(min, curves)), max(1.2, *map(max, curves)))
    figure.update_yaxes(tickformat=".0%", range=[0, 1.02])
    figure.update_layout(hovermode="closest")
    return Chart(
        "Reports that were in vain",
        "The share of all reports whose block was in use again within a time, on a logarithmic scale. What is left "
        "of the dashed line, one second, was wasted: the host took pages that it had to give back at once.",
        figure,
    )


def coalescing(runs: Runs) -> Chart | None:
    """Draw how many frees end in how few passes."""
    if not any(run.requests["notifies"] for run in runs):
        return None
    figure = _panels(runs, "how many", "", 270)
    for column, run in enumerate(runs, 1):
        counts = {
            "frees that asked": run.requests["notifies"],
            "requests": run.requests["requests"],
            "passes": run.requests["passes"],
            "batches": run.batches["count"],
            "blocks reported": run.reuse["reported"],
        }
        figure.add_trace(
            go.Bar(
                x=list(counts.values()),
                y=list(counts),
                orientation="h",
                marker={"color": [GREY, SKY, BLUE, ORANGE, GREEN]},
                text=[f"{count:,}" for count in counts.values()],
                textposition="outside",
                cliponaxis=False,
                showlegend=False,
                hovertemplate="%{y}: %{x:,}<extra></extra>",
            ),
            row=1,
            col=column,
        )
    most = max(max(run.requests["notifies"], run.reuse["reported"]) for run in runs)
    figure.update_layout(hovermode="closest", bargap=0.25)
    _log_axis(figure, 1.0, 2.0 * most)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return Chart(
        "Requests and passes coalesced",
        "How many frees asked for a report, and how few requests, passes and batches it took; logarithmic.",
        figure,
    )


DRAWINGS: tuple[Callable[[Runs], Chart | None], ...] = (
    memory,
    throughput,
    lock_holds,
    lock_waits,
    fairness,
    isolated,
    latency,
    reuse,
    batch_sizes,
    coalescing,
)
