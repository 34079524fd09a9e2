"""The tables of an analysis, as plain text in rows: the terminal and the report draw the same ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from stress.analysis.summary import Summary, shown_params, size
from stress.analysis.tables import Rows

WHOLE = 1000  # from here on, decimals say nothing
MANY_TIMES = 3  # from here on, so do percentages


@dataclass(slots=True)
class Grid:
    """A table: the first column is words, the others are numbers. `note` says how to read it."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    note: str = ""


def number(value: float | None, digits: int = 1) -> str:
    """Print a number with commas, from a thousand without decimals; nothing for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= WHOLE else f"{value:,.{digits}f}"


def share(value: float | None) -> str:
    """Print a share as a percentage; nothing for None."""
    return "" if value is None else f"{value:.2%}"


def grids(summary: Summary) -> list[Grid]:
    """Return the tables of one run that have rows."""
    found = [
        _violations(summary),
        *_lock_stat(summary.locks_by_zone, "zone"),
        *_lock_stat(summary.locks_by_site, "call site"),
        _threads(summary),
        _reporting(summary),
        _latency(summary.latency),
        _failures(summary.failures),
    ]
    return [grid for grid in found if grid.rows]


def _violations(summary: Summary) -> Grid:
    rows: list[Sequence[str]] = [(row["text"], number(row["seconds"], 3)) for row in summary.violations]
    note = f"{summary.violation_count:,} in all" if summary.violation_count > len(rows) else ""
    return Grid("Violations that the run saw", ("what", "second"), rows, note)


def _lock_stat(stats: Rows, what: str) -> list[Grid]:
    """Return the columns of lock_stat as two tables: waiting, and holding."""
    waited = sorted((row for row in stats if row["contentions"]), key=lambda row: -row["waittime_total"])
    return [
        Grid(
            f"Zone locks by {what}: waittime (µs)",
            (what, "contentions", *FIGURES),
            [_figures(row, "contentions", "waittime") for row in waited],
            "of contended acquisitions, as in lock_stat",
        ),
        Grid(
            f"Zone locks by {what}: holdtime (µs)",
            (what, "acquisitions", *FIGURES),
            [_figures(row, "acquisitions", "holdtime") for row in stats],
        ),
    ]


FIGURES = ("min", "max", "total", "avg", "p50", "p90", "p99")


def _figures(row: dict[str, Any], count: str, figure: str) -> list[str]:
    return [row["name"], f"{row[count]:,}", *(number(row[f"{figure}_{name}"]) for name in FIGURES)]


def _threads(summary: Summary) -> Grid:
    grid = Grid(
        "Fairness between threads",
        ("thread", "calls", "calls/s", "of the mean", "no memory", "contentions", "waiting", "holding"),
    )
    rates = [row["calls_per_s"] for row in summary.threads]
    mean = sum(rates) / len(rates) if rates else 0.0
    for row, rate in zip(summary.threads, rates, strict=True):
        grid.rows.append(
            (
                row["name"],
                f"{row['calls']:,}",
                number(rate, 0),
                f"{rate / mean:.0%}" if mean else "",
                f"{row['failed_allocs']:,}",
                f"{row['contentions']:,}",
                share(row["wait_share"]),
                share(row["hold_s"] / row["lasted_s"]),
            )
        )
    if summary.fairness is not None:
        grid.note = (
            f"Jain's index {summary.fairness:.3f}: 1 is even, {1 / len(rates):.3f} is one thread alone"
        )
    return grid


def _reporting(summary: Summary) -> Grid:
    batches = summary.batches
    grid = Grid("Reporting: what it did, bought and cost", ("figure", "value"))
    grid.rows = [(metric.name, metric.words(summary)) for metric in METRICS if metric.of_reporting]
    if not (batches["count"] or summary.requests["notifies"]):
        grid.rows = []
    return grid


def _latency(rows: Rows) -> Grid:
    grid = Grid(
        "From free to Reported, by order (ms)",
        ("order", "blocks", "min", "avg", "p50", "p90", "p99", "max"),
        note="blocks that a free made, reported as they were",
    )
    for row in rows:
        figures = (number(row[f"ms_{name}"]) for name in ("min", "avg", "p50", "p90", "p99", "max"))
        grid.rows.append((str(row["order"]), f"{row['blocks']:,}", *figures))
    return grid


def _failures(rows: Rows) -> Grid:
    return Grid(
        "Failures of the reporter",
        ("error", "batches", "blocks"),
        [(row["error"], f"{row['batches']:,}", f"{row['blocks']:,}") for row in rows],
    )


# -- figures that two runs are compared by ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of a run: its name with the unit, and how it is found and printed."""

    name: str
    value: Callable[[Summary], float | None]
    show: Callable[[float], str] = "{:,.1f}".format
    of_reporting: bool = True

    def words(self, summary: Summary) -> str:
        value = self.value(summary)
        return "" if value is None else self.show(value)


def _calls_per_s(summary: Summary) -> float | None:
    lasted_s = max((row["lasted_s"] for row in summary.threads), default=0.0)
    return sum(row["calls"] for row in summary.threads) / lasted_s if lasted_s else None


def _wait_share(summary: Summary) -> float | None:
    lasted_s = sum(row["lasted_s"] for row in summary.threads)
    return sum(row["wait_s"] for row in summary.threads) / lasted_s if lasted_s else None


def _worst(summary: Summary, column: str) -> float | None:
    return max((row[column] for row in summary.locks_by_zone if row[column] is not None), default=None)


def _resident_mean(summary: Summary) -> float | None:
    rows = summary.memory
    return sum(row["resident_mib"] for row in rows) / len(rows) if rows else None


def _wasted_share(summary: Summary) -> float | None:
    reuse = summary.reuse
    return reuse["wasted"] / reuse["reported"] if reuse["reported"] else None


def _latency_worst(summary: Summary, column: str) -> float | None:
    return max((row[column] for row in summary.latency), default=None)


COUNT = "{:,.0f}".format
PERCENT = "{:.2%}".format

METRICS = (
    Metric("calls per second, all allocators", _calls_per_s, COUNT, of_reporting=False),
    Metric(
        "allocations that found no memory",
        lambda run: sum(row["failed_allocs"] for row in run.threads),
        COUNT,
        of_reporting=False,
    ),
    Metric("violations", lambda run: run.violation_count, COUNT, of_reporting=False),
    Metric("fairness (Jain's index)", lambda run: run.fairness, "{:.3f}".format, of_reporting=False),
    Metric("allocators' time waiting for zone locks", _wait_share, PERCENT, of_reporting=False),
    Metric("wait p99, worst zone (µs)", lambda run: _worst(run, "waittime_p99"), of_reporting=False),
    Metric("hold p50, worst zone (µs)", lambda run: _worst(run, "holdtime_p50"), of_reporting=False),
    Metric("hold p99, worst zone (µs)", lambda run: _worst(run, "holdtime_p99"), of_reporting=False),
    Metric("hold max, worst zone (µs)", lambda run: _worst(run, "holdtime_max"), of_reporting=False),
    Metric("resident, mean over the samples", _resident_mean, size),
    Metric("frees that asked for a report", lambda run: run.requests["notifies"], COUNT),
    Metric("requests", lambda run: run.requests["requests"], COUNT),
    Metric("passes", lambda run: run.requests["passes"], COUNT),
    Metric("asking frees per request", lambda run: run.requests["notifies_per_request"]),
    Metric("requests per pass", lambda run: run.requests["requests_per_pass"], "{:,.2f}".format),
    Metric("passes without memory for a scatterlist", lambda run: run.requests["lost_passes"], COUNT),
    Metric("batches", lambda run: run.batches["count"], COUNT),
    Metric("blocks per batch, mean", lambda run: run.batches["blocks_avg"]),
    Metric("batches that failed", lambda run: run.batches["failed"], COUNT),
    Metric("batches that never came back", lambda run: run.batches["never_ended"], COUNT),
    Metric("time of a batch p50 (ms)", lambda run: run.batches["ms_p50"]),
    Metric("time of a batch p99 (ms)", lambda run: run.batches["ms_p99"]),
    Metric("time of all batches (s)", lambda run: run.batches["busy_s"], "{:,.2f}".format),
    Metric("told to the host", lambda run: run.batches["mib"], size),
    Metric("blocks that the host kept", lambda run: run.kept["blocks"], COUNT),
    Metric("of them still resident", lambda run: run.kept["mib"], size),
    Metric("blocks isolated", lambda run: run.requests["isolated_blocks"], COUNT),
    Metric("isolations refused at the min mark", lambda run: run.requests["refused"], COUNT),
    Metric("blocks flagged as Reported", lambda run: run.reuse["reported"], COUNT),
    Metric("of them reused within a second", _wasted_share, PERCENT),
    Metric("reported in vain", lambda run: run.reuse["wasted_mib"], size),
    Metric("report to reuse p50 (s)", lambda run: run.reuse["after_s_p50"], "{:,.3f}".format),
    Metric("free to Reported p50, worst order (ms)", lambda run: _latency_worst(run, "ms_p50")),
    Metric("free to Reported p99, worst order (ms)", lambda run: _latency_worst(run, "ms_p99")),
    Metric("pages away, mean", lambda run: run.isolated["mean_share"], PERCENT),
    Metric("pages away, at most", lambda run: run.isolated["max_share"], PERCENT),
    Metric("pages of one zone away, at most", lambda run: run.isolated["max_zone_share"], PERCENT),
)


def differences(first: Summary, second: Summary) -> Grid:
    """Return two runs side by side; the last column is what the second has more than the first."""
    grid = Grid("Two runs side by side", ("figure", "A", "B", "B against A"))
    for metric in METRICS:
        before, after = metric.value(first), metric.value(second)
        if before is None and after is None:
            continue
        grid.rows.append((metric.name, metric.words(first), metric.words(second), _change(before, after)))
    return grid


def _change(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return ""
    if before == after:
        return "same"
    if not before:
        return "was 0"
    ratio = after / before
    return f"{ratio:,.1f} times" if ratio >= MANY_TIMES else f"{ratio - 1:+.1%}"


def different_params(first: Summary, second: Summary) -> Grid:
    """Return the parameters in which two runs differ."""
    before, after = shown_params(first.params), shown_params(second.params)
    names = [*before, *(name for name in after if name not in before)]
    return Grid(
        "Parameters that differ",
        ("parameter", "A", "B"),
        [
            (name, before.get(name, ""), after.get(name, ""))
            for name in names
            if before.get(name) != after.get(name)
        ],
    )
