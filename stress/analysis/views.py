"""Views of a log that join and count, so that a question takes one line of SQL.

Sizes are in pages, or in the unit that the name ends with; times are in seconds, or in the unit that the name ends
with.
"""

from __future__ import annotations

from dataclasses import dataclass

from stress.log.machine import PAGE_SHIFTS, page_shift_of, pages_per_mib

REUSE_S = 1.0  # a report was wasted when its block is in use again sooner


@dataclass(frozen=True, slots=True)
class LogView:
    """A view: its name, what one row is, and the query behind it, which may use the views before it."""

    name: str
    meaning: str
    query: str


_PAGES_PER_MIB = " ".join(f"WHEN '{name}' THEN {pages_per_mib(shift)}" for name, shift in PAGE_SHIFTS.items())

VIEWS = (
    LogView(
        "machine",
        "the machine that the log is of: how many of its pages make a MiB",
        f"""
        SELECT CASE params ->> 'page_size' {_PAGES_PER_MIB} ELSE {pages_per_mib(page_shift_of({}))} END AS pages_per_mib
        FROM log_begin LIMIT 1
        """,
    ),
    LogView(
        "threads",
        "one thread: its name, first and last record, calls, and time in zone locks",
        """
        SELECT b.thread, b.name, min(r.t) / 1e9 AS begin_s, max(r.t) / 1e9 AS end_s,
            count(*) AS records,
            count(*) FILTER (r.event = 'mm_page_alloc' AND r.pfn >= 0) AS allocs,
            count(*) FILTER (r.event = 'mm_page_alloc' AND r.pfn < 0) AS failed_allocs,
            count(*) FILTER (r.event = 'mm_page_free') AS frees,
            count(*) FILTER (r.event = 'lock_release') AS acquisitions,
            count(*) FILTER (r.event = 'lock_release' AND r.wait_ns > 0) AS contentions,
            coalesce(sum(r.wait_ns), 0)::BIGINT / 1e9 AS wait_s, coalesce(sum(r.hold_ns), 0)::BIGINT / 1e9 AS hold_s
        FROM records r JOIN thread_begin b USING (thread) GROUP BY ALL ORDER BY b.thread
        """,
    ),
    LogView(
        "zones",
        "one zone: its name as NODE:NAME, pfns, size and policy",
        """
        SELECT zone, CASE WHEN node = 0 THEN name ELSE node || ':' || name END AS name, start_pfn, end_pfn,
            end_pfn - start_pfn AS pages, nr_orders, pageblock_order, policy
        FROM zone_begin ORDER BY zone
        """,
    ),
    LogView(
        "locks",
        "one hold of a zone lock: who, where in the program, waited and held, in microseconds",
        """
        SELECT seconds, thread, l.zone, z.name AS zone_name, site, wait_ns / 1e3 AS wait_us, hold_ns / 1e3 AS hold_us
        FROM lock_release l JOIN zones z USING (zone)
        """,
    ),
    LogView(
        "passes",
        "one pass of the reporting worker: when, how long, what it found at its end",
        """
        SELECT b.number, b.thread, b.seconds AS begin_s, e.seconds AS end_s, (e.t - b.t) / 1e6 AS ms, e.state, e.lost
        FROM page_reporting_pass_begin b LEFT JOIN page_reporting_pass_end e USING (number) ORDER BY number
        """,
    ),
    LogView(
        "batches",
        "one call of the reporter: when, how long, blocks and MiB, and its error (no end: it never came back)",
        """
        SELECT b.batch, b.thread, b.zone, b.seconds AS begin_s, e.seconds AS end_s, (e.t - b.t) / 1e6 AS ms,
            len(b.blocks) AS blocks,
            list_sum([1::BIGINT << block[2] FOR block IN b.blocks])::BIGINT / pages_per_mib AS mib, e.error
        FROM machine, page_reporting_report_begin b LEFT JOIN page_reporting_report_end e USING (batch) ORDER BY batch
        """,
    ),
    LogView(
        "samples",
        "one zone in one sample: MiB by what they are at",
        """
        SELECT seconds, zone, pages[1] / pages_per_mib AS free_mib, pages[2] / pages_per_mib AS allocated_mib,
            pages[3] / pages_per_mib AS page_set_mib, pages[4] / pages_per_mib AS in_flight_mib,
            pages[5] / pages_per_mib AS reported_mib
        FROM machine, (SELECT seconds, unnest(range(len(zones))) AS zone, unnest(zones) AS pages FROM sample)
        ORDER BY seconds, zone
        """,
    ),
    LogView(
        "isolated",
        "pages in flight from one isolation or putback to the next one, and for how long",
        """
        SELECT seconds, zone, in_flight, coalesce(lead(seconds) OVER w, seconds) - seconds AS lasts_s FROM (
            SELECT t / 1e9 AS seconds, zone, seq,
                sum((CASE event WHEN 'page_reporting_isolate' THEN 1 ELSE -1 END) * (1::BIGINT << "order"))
                    OVER (PARTITION BY zone ORDER BY seq)::BIGINT AS in_flight
            FROM records WHERE event IN ('page_reporting_isolate', 'page_reporting_putback'))
        WINDOW w AS (PARTITION BY zone ORDER BY seq)
        """,
    ),
    LogView(
        "reporting_order",
        "the smallest order that a device asked for",
        'SELECT min("order") AS smallest FROM page_reporting_register',
    ),
    LogView(
        "large_blocks",
        "a free block of the reporting order or more comes to be: by a free, a putback, or as what a split left",
        """
        WITH least AS (SELECT smallest FROM reporting_order)
        SELECT t, zone, seq, merged_pfn AS pfn, merged_order AS "order",
            CASE event WHEN 'mm_page_free_zone_locked' THEN 'free' ELSE 'putback' END AS origin
        FROM records, least
        WHERE (event = 'mm_page_free_zone_locked' OR (event = 'page_reporting_putback' AND merged_order > "order"))
            AND merged_order >= smallest
        UNION ALL
        SELECT t, zone, seq, pfn + (1::BIGINT << k), k, 'split' FROM (
            SELECT t, zone, seq, pfn, unnest(range(greatest("order", smallest), from_order)) AS k
            FROM mm_page_alloc_zone_locked, least WHERE from_order > smallest)
        """,
    ),
    LogView(
        "free_to_reported",
        "a block flagged as Reported: how long ago a free, a putback or a split made it (boot: it always was)",
        """
        SELECT r.seconds, r.zone, r.pfn, r."order", coalesce(b.origin, 'boot') AS origin, (r.t - b.t) / 1e6 AS ms
        FROM page_reporting_reported r ASOF LEFT JOIN large_blocks b
            ON r.zone = b.zone AND r.pfn = b.pfn AND r."order" = b."order" AND r.seq > b.seq
        """,
    ),
    LogView(
        "reported_then_reused",
        "a report whose pages were allocated again: the block, when, and after how many seconds",
        """
        WITH least AS (SELECT smallest FROM reporting_order),
        told AS (
            SELECT t, zone, seq, pfn, "order",
                unnest(range(pfn >> smallest, (pfn + (1::BIGINT << "order")) >> smallest)) AS unit
            FROM page_reporting_reported, least),
        taken AS (
            SELECT t, zone, seq,
                unnest(range(pfn >> smallest, ((pfn + (1::BIGINT << "order") - 1) >> smallest) + 1)) AS unit
            FROM mm_page_alloc_zone_locked, least
            WHERE zone IN (SELECT zone FROM page_reporting_reported))
        SELECT told.t / 1e9 AS seconds, told.zone, told.pfn, told."order", min(taken.t) / 1e9 AS reused_s,
            (min(taken.t) - told.t) / 1e9 AS after_s
        FROM told ASOF JOIN taken
            ON told.zone = taken.zone AND told.unit = taken.unit AND told.seq < taken.seq
        GROUP BY told.t, told.zone, told.seq, told.pfn, told."order"
        """,
    ),
    LogView(
        "wasted_reports",
        f"a report whose block was reused within {REUSE_S:g} s",
        f"SELECT * FROM reported_then_reused WHERE after_s < {REUSE_S}",
    ),
)
