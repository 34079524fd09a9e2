"""All that is to be said of one run: figures, time series, and three sentences.

`Summary` is plain data: `analyze --json` prints it as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from json import loads
from typing import Any

from stress.analysis import tables
from stress.analysis.log import RunLog
from stress.analysis.tables import Rows
from stress.errors import Verdict, one_line
from stress.log.files import BadLog

VIOLATIONS_SHOWN = 20
VIOLATION_MAX = 500  # characters


@dataclass(slots=True)
class Summary:
    """One run. Units are in the names; `None` where there was nothing to measure."""

    run: str
    verdict: Verdict | None  # the run's own; None when the log ends before it
    cut: bool  # the log lacks its last record
    lost_records: int
    records: int
    seconds: float
    params: dict[str, Any]
    versions: dict[str, Any]
    phases: Rows
    violations: Rows
    violation_count: int
    settled: bool | None
    locks_by_zone: Rows
    locks_by_site: Rows
    threads: Rows
    fairness: float | None
    bin_s: float
    throughput: Rows
    memory: Rows
    isolated: dict[str, Any]
    isolated_over_time: Rows
    batches: dict[str, Any]
    kept: dict[str, Any]
    batch_sizes: Rows
    failures: Rows
    latency: Rows
    latency_origins: dict[str, int]
    reuse: dict[str, Any]
    requests: dict[str, Any]
    sentences: list[str]


def summarize(log: RunLog) -> Summary:
    """Ask a log everything."""
    records, seconds, ends, lost = log.row("""
        SELECT count(*), max(t) / 1e9, count(*) FILTER (event = 'log_end'),
            coalesce(sum("count") FILTER (event = 'lost'), 0)::BIGINT FROM records""")
    (begin,) = log.records("SELECT params, versions FROM log_begin LIMIT 1")
    verdicts = log.rows("SELECT verdict FROM run_end")
    rests = log.rows("SELECT settled FROM rest")
    violations = log.records(f"SELECT seconds, text FROM violation ORDER BY t LIMIT {VIOLATIONS_SHOWN}")
    (violation_count,) = log.row("SELECT count(*) FROM violation")
    threads = tables.threads(log)
    bin_s = tables.bin_width_s(seconds)
    summary = Summary(
        run=str(log.run),
        verdict=next((verdict for verdict in Verdict if (verdict,) in verdicts), None),
        cut=not ends,
        lost_records=lost,
        records=records,
        seconds=seconds,
        params=_fields(log, begin["params"]),
        versions=_fields(log, begin["versions"]),
        phases=log.records("SELECT seconds, name FROM phase_begin ORDER BY t"),
        violations=violations,
        violation_count=violation_count,
        settled=rests[0][0] if rests else None,
        locks_by_zone=tables.lock_stat(log, "zone_name"),
        locks_by_site=tables.lock_stat(log, "site"),
        threads=threads,
        fairness=tables.jain_index([row["calls_per_s"] for row in threads]),
        bin_s=bin_s,
        throughput=tables.throughput(log, bin_s),
        memory=tables.memory(log),
        isolated=tables.isolated(log),
        isolated_over_time=tables.isolated_over_time(log, bin_s),
        batches=tables.batches(log),
        kept=tables.kept(log),
        batch_sizes=tables.batch_sizes(log),
        failures=tables.failures(log),
        latency=tables.latency(log),
        latency_origins=tables.latency_origins(log),
        reuse=tables.reuse(log),
        requests=tables.requests(log),
        sentences=[],
    )
    summary.sentences = [went_wrong(summary), time_went(summary), bought_and_cost(summary)]
    return summary


def _fields(log: RunLog, text: str) -> dict[str, Any]:
    """Read an object that the log_begin record has. Raises BadLog."""
    try:
        fields: dict[str, Any] = loads(text)
    except (ValueError, RecursionError) as error:
        raise BadLog(f"{log.run}: the record log_begin holds no JSON object ({error})") from error
    return fields


# -- three sentences -------------------------------------------------------------------------------------


def went_wrong(summary: Summary) -> str:
    """Say whether it ever went wrong."""
    calls = sum(row["calls"] for row in summary.threads)
    failed = sum(row["failed_allocs"] for row in summary.threads)
    did = (
        f"{len(summary.threads)} allocator threads made {calls:,} calls in {summary.seconds:.1f} s, {failed:,} found "
        "no memory"
    )
    if "command" in summary.params:
        did = f"the host watched its guest for {summary.seconds:.1f} s"
    if summary.violation_count:
        first = summary.violations[0]
        count = "1 violation" if summary.violation_count == 1 else f"{summary.violation_count:,} violations"
        start = f"It went wrong: {count}, the first at {first['seconds']:.3f} s"
        text = f"{start} ({one_line(first['text'], VIOLATION_MAX).rstrip('.')}); {did}."
    elif summary.verdict is Verdict.SUCCESS:
        text = f"Nothing went wrong by the run's own judgement: {did}."
    elif summary.verdict is None:
        text = f"The log has no verdict and no violation: {did}."
    else:
        text = f"The run says {summary.verdict}, and its log has no violation: {did}."
    if summary.cut:
        text += " The log was cut: its last record is missing, and this is only what stands before."
    if summary.lost_records:
        text += f" {summary.lost_records:,} records were lost while it ran."
    return text


def time_went(summary: Summary) -> str:
    """Say where the time went."""
    lasted_s = sum(row["lasted_s"] for row in summary.threads)
    if not lasted_s or not summary.locks_by_site:
        return "No thread allocated, so no time was spent."
    wait_share = sum(row["wait_s"] for row in summary.threads) / lasted_s
    zone = max(summary.locks_by_zone, key=lambda row: row["holdtime_total"])
    site = summary.locks_by_site[0]
    held = zone["holdtime_total"] / 1e6 / summary.seconds
    share = site["holdtime_total"] / sum(row["holdtime_total"] for row in summary.locks_by_site)
    return (
        f"The allocators spent {wait_share:.1%} of their time waiting for zone locks; the lock of zone {zone['name']} "
        f"was held for {held:.1%} of the run, {site['name']} has {share:.0%} of all holds' time (99 of 100 of its "
        f"holds end within {site['holdtime_p99']:,.0f} µs), and the reporter was busy for "
        f"{summary.batches['busy_s'] / summary.seconds:.1%} of the run."
    )


def bought_and_cost(summary: Summary) -> str:
    """Say what reporting bought, and what it cost."""
    batches, reuse = summary.batches, summary.reuse
    if not batches["count"]:
        return "Nothing was reported: reporting bought nothing, and cost nothing."
    bought = f"Reporting told the host of {size(batches['mib'])} in {batches['count']:,} batches"
    if summary.memory:
        total = summary.memory[-1]["total_mib"]
        mean = sum(row["resident_mib"] for row in summary.memory) / len(summary.memory)
        if total:
            bought += f", and on average {size(mean)} of {size(total)} were resident"
    if summary.kept["blocks"]:
        bought += (
            f"; of {summary.kept['blocks']:,} blocks that it acknowledged it kept {size(summary.kept['mib'])}"
        )
    wasted = reuse["wasted"] / reuse["reported"] if reuse["reported"] else 0.0
    isolated = summary.isolated
    return (
        f"{bought}; it cost {batches['busy_s']:.2f} s of the reporter's time, {wasted:.1%} of the reports were wasted "
        f"(in use again within a second), {isolated['mean_share'] or 0:.2%} of all pages were away on average and "
        f"{isolated['max_share'] or 0:.1%} at most."
    )


def shown_params(params: dict[str, Any]) -> dict[str, str]:
    """Print parameters; of a list of tables, such as the phases, the names."""
    return {name: _words(value) for name, value in params.items()}


def _words(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(item.get("name", "")) if isinstance(item, dict) else str(item) for item in value)
    return str(value)


def size(mib: float) -> str:
    """Print a size in the largest unit that leaves a number of one or more."""
    for unit, per in (("TiB", 1 << 20), ("GiB", 1 << 10)):
        if mib >= per:
            return f"{mib / per:.1f} {unit}"
    return f"{mib:.0f} MiB"
