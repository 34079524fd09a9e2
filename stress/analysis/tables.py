"""The questions that the report answers, as SQL over the views; each returns rows by column name."""

from __future__ import annotations

from typing import Any

from stress.analysis.log import RunLog

Rows = list[dict[str, Any]]

BINS = 150  # of a time series
NICE = (1, 2, 5)  # a bin is one of these, times a power of ten
SITES_SHOWN = 12


def lock_stat(log: RunLog, by: str) -> Rows:
    """The columns of the kernel's lock_stat in microseconds, with percentiles; `by` is zone_name or site.

    Wait times are those of contended acquisitions, as the kernel counts them; the longest total hold is first.
    """
    return log.records(f"""
        WITH held AS (SELECT *, CASE WHEN wait_us > 0 THEN wait_us END AS contended_us FROM locks)
        SELECT {by} AS name, count(contended_us) AS contentions,
            min(contended_us) AS waittime_min, max(contended_us) AS waittime_max,
            coalesce(sum(contended_us), 0) AS waittime_total, avg(contended_us) AS waittime_avg,
            {_percentiles("contended_us", "waittime")},
            count(*) AS acquisitions, min(hold_us) AS holdtime_min, max(hold_us) AS holdtime_max,
            sum(hold_us) AS holdtime_total, avg(hold_us) AS holdtime_avg,
            {_percentiles("hold_us", "holdtime")}
        FROM held GROUP BY {by} ORDER BY holdtime_total DESC, name LIMIT {SITES_SHOWN}""")


def _percentiles(column: str, name: str) -> str:
    return ", ".join(
        f"quantile_cont({column}, {share}) AS {name}_{label}"
        for label, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
    )


def threads(log: RunLog) -> Rows:
    """What each allocator got, in calls for each second of its own.

    A thread that left and came back under its name is one.
    """
    return log.records("""
        SELECT name, calls, failed_allocs, calls / lasted_s AS calls_per_s, lasted_s, contentions, wait_s, hold_s,
            wait_s / lasted_s AS wait_share
        FROM (
            SELECT name, sum(allocs + frees)::BIGINT AS calls, sum(failed_allocs)::BIGINT AS failed_allocs,
                nullif(sum(end_s - begin_s), 0) AS lasted_s, sum(contentions)::BIGINT AS contentions,
                sum(wait_s) AS wait_s, sum(hold_s) AS hold_s, min(thread) AS first_thread
            FROM threads WHERE name LIKE 'allocator-%' GROUP BY name)
        WHERE calls > 0 AND lasted_s > 0 ORDER BY first_thread""")


def jain_index(rates: list[float]) -> float | None:
    """Return Jain's fairness: 1 when all have the same, 1 / n when one has everything."""
    squares = sum(rate * rate for rate in rates)
    return sum(rates) ** 2 / (len(rates) * squares) if squares else None


def bin_width_s(seconds: float) -> float:
    """Return the smallest nice width with which a time series has no more than `BINS` bins."""
    width = next(
        nice * 10.0**power for power in range(-3, 9) for nice in NICE if seconds <= BINS * nice * 10.0**power
    )
    return float(f"{width:g}")


def throughput(log: RunLog, width_s: float) -> Rows:
    """Calls in each bin, for each second; the last bin ends with the log."""
    return log.records(f"""
        WITH ends AS (SELECT max(t) / 1e9 AS end_s FROM records),
        calls AS (
            SELECT floor(t / 1e9 / {width_s})::BIGINT AS bin,
                count(*) FILTER (event = 'mm_page_alloc' AND pfn >= 0) AS allocs,
                count(*) FILTER (event = 'mm_page_free') AS frees
            FROM records WHERE event IN ('mm_page_alloc', 'mm_page_free') GROUP BY 1),
        bins AS (
            SELECT unnest(range(ceil(end_s / {width_s})::BIGINT)) AS bin, end_s FROM ends
            WHERE EXISTS (FROM calls))
        SELECT bin * {width_s}::DOUBLE AS seconds,
            coalesce(allocs, 0) / least({width_s}, end_s - bin * {width_s}) AS allocs_per_s,
            coalesce(frees, 0) / least({width_s}, end_s - bin * {width_s}) AS frees_per_s
        FROM bins LEFT JOIN calls USING (bin) ORDER BY bin""")


def memory(log: RunLog) -> Rows:
    """All zones together in each sample, in MiB; `reported_mib` is part of `free_mib`. Of a guest, only its sizes."""
    return log.records("""
        SELECT s.seconds, coalesce(sum(free_mib), 0) AS free_mib, coalesce(sum(allocated_mib), 0) AS allocated_mib,
            coalesce(sum(page_set_mib), 0) AS page_set_mib, coalesce(sum(in_flight_mib), 0) AS in_flight_mib,
            coalesce(sum(reported_mib), 0) AS reported_mib, any_value(s.resident_bytes) / 1048576 AS resident_mib,
            any_value(s.total_bytes) / 1048576 AS total_mib
        FROM sample s LEFT JOIN samples z USING (seconds) GROUP BY s.seconds ORDER BY s.seconds""")


def isolated(log: RunLog) -> dict[str, Any]:
    """The share of all pages that is away: its mean over time, and its most in any zone and in all."""
    rows = log.records("""
        WITH total AS (SELECT sum(pages) AS pages FROM zones),
        span AS (SELECT max(t) / 1e9 AS seconds FROM records)
        SELECT sum(in_flight * lasts_s) / any_value(total.pages) / any_value(span.seconds) AS mean_share,
            max(in_flight / z.pages) AS max_zone_share, max(in_flight) / any_value(total.pages) AS max_share
        FROM isolated JOIN zones z USING (zone), total, span""")
    return rows[0]


def isolated_over_time(log: RunLog, width_s: float) -> Rows:
    """The largest share of all pages that was away in each bin; bins without an isolation are left out."""
    return log.records(f"""
        SELECT floor(seconds / {width_s}) * {width_s} AS seconds,
            max(in_flight) / (SELECT sum(pages) FROM zones) AS max_share
        FROM isolated GROUP BY 1 ORDER BY 1""")


def batches(log: RunLog) -> dict[str, Any]:
    """How many, how large, how long; `busy_s` is the time that the reporter had."""
    rows = log.records("""
        SELECT count(*) AS count, coalesce(sum(blocks), 0)::BIGINT AS blocks, coalesce(sum(mib), 0) AS mib,
            avg(blocks) AS blocks_avg, max(blocks) AS blocks_max, coalesce(sum(ms), 0) / 1e3 AS busy_s,
            quantile_cont(ms, 0.5) AS ms_p50, quantile_cont(ms, 0.9) AS ms_p90, quantile_cont(ms, 0.99) AS ms_p99,
            max(ms) AS ms_max, count(error) AS failed, count(*) FILTER (end_s IS NULL) AS never_ended
        FROM batches""")
    return rows[0]


def kept(log: RunLog) -> dict[str, Any]:
    """Blocks that the host acknowledged and did not give back, and how much of them was still resident then."""
    rows = log.records("""
        SELECT coalesce(sum(len(kept)), 0)::BIGINT AS blocks,
            coalesce(sum(list_sum([block[3] FOR block IN kept])), 0)::BIGINT / 1048576 AS mib
        FROM host_kept""")
    return rows[0]


def batch_sizes(log: RunLog) -> Rows:
    """How many batches had how many blocks."""
    return log.records("SELECT blocks, count(*) AS batches FROM batches GROUP BY 1 ORDER BY 1")


def failures(log: RunLog) -> Rows:
    """What the reporter failed with, and how often."""
    return log.records("""
        SELECT error, count(*) AS batches, sum(blocks)::BIGINT AS blocks FROM batches WHERE error IS NOT NULL
        GROUP BY 1 ORDER BY 2 DESC, 1""")


def latency(log: RunLog) -> Rows:
    """Milliseconds from the free that made a block to its report, by order."""
    return log.records("""
        SELECT "order", count(*) AS blocks, min(ms) AS ms_min, avg(ms) AS ms_avg, quantile_cont(ms, 0.5) AS ms_p50,
            quantile_cont(ms, 0.9) AS ms_p90, quantile_cont(ms, 0.99) AS ms_p99, max(ms) AS ms_max,
            quantile_cont(ms, [i / 50 FOR i IN range(51)]) AS curve
        FROM free_to_reported WHERE origin = 'free' GROUP BY 1 ORDER BY 1""")


def latency_origins(log: RunLog) -> dict[str, int]:
    """How many reported blocks came to be in which way."""
    return dict(log.rows("SELECT origin, count(*) FROM free_to_reported GROUP BY 1 ORDER BY 2 DESC"))


def reuse(log: RunLog) -> dict[str, Any]:
    """Reports, those whose block was in use again, and those for which that took less than a second."""
    rows = log.records("""
        SELECT (SELECT count(*) FROM page_reporting_reported) AS reported,
            (SELECT coalesce(sum(1::BIGINT << "order"), 0)::BIGINT FROM page_reporting_reported)
                / any_value(pages_per_mib) AS reported_mib,
            count(reused_s) AS reused, (SELECT count(*) FROM wasted_reports) AS wasted,
            (SELECT coalesce(sum(1::BIGINT << "order"), 0)::BIGINT FROM wasted_reports)
                / any_value(pages_per_mib) AS wasted_mib,
            quantile_cont(after_s, 0.5) AS after_s_p50, quantile_cont(after_s, [i / 50 FOR i IN range(51)]) AS curve
        FROM machine LEFT JOIN reported_then_reused ON true""")
    return rows[0]


def requests(log: RunLog) -> dict[str, Any]:
    """How many frees asked, how many of them changed the state to requested, and how many passes that took."""
    rows = log.records("""
        SELECT count(*) FILTER (event = 'page_reporting_notify') AS notifies,
            count(*) FILTER (event = 'page_reporting_request') AS requests,
            count(*) FILTER (event = 'page_reporting_pass_begin') AS passes,
            count(*) FILTER (event = 'page_reporting_pass_end' AND lost) AS lost_passes,
            count(*) FILTER (event = 'page_reporting_refused') AS refused,
            count(*) FILTER (event = 'page_reporting_isolate') AS isolated_blocks
        FROM records""")
    found = rows[0]
    found["notifies_per_request"] = found["notifies"] / found["requests"] if found["requests"] else None
    found["notifies_per_pass"] = found["notifies"] / found["passes"] if found["passes"] else None
    found["requests_per_pass"] = found["requests"] / found["passes"] if found["passes"] else None
    return found
