"""Reading logs: what SQL answers is what the lines say, and figures are those of a log worked out by hand."""

from __future__ import annotations

import gzip
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pagealloc.sync_real import gil_enabled

if not gil_enabled():
    pytest.skip("importing DuckDB would give this interpreter its GIL back", allow_module_level=True)
pytest.importorskip("duckdb", reason="reading logs needs the extra 'analysis'")
pytest.importorskip("msgspec", reason="reading logs needs the extra 'analysis'")
pytest.importorskip("plotly", reason="reading logs needs the extra 'analysis'")

import duckdb
from log_kit import HandLog

from stress.analysis import tables
from stress.analysis.charts import charts
from stress.analysis.log import RunLog, open_run
from stress.analysis.perfetto import write_perfetto
from stress.analysis.schema import JSON, event_columns, table_columns
from stress.analysis.summary import Summary, summarize
from stress.analysis.views import VIEWS
from stress.cli import main
from stress.log.events import EVENTS, SCHEMA_VERSION, field_names
from stress.log.files import sum_of


@cache
def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "events-0001.ndjson").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def asked(capsys: pytest.CaptureFixture[str], run: Path, query: str) -> list[dict[str, Any]]:
    assert main(["sql", str(run), query, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture(scope="module")
def recorded_log(recorded_run: Path) -> Iterator[RunLog]:
    with open_run(recorded_run) as log:
        yield log


@pytest.fixture(scope="module")
def summary(recorded_log: RunLog) -> Summary:
    return summarize(recorded_log)


@pytest.fixture
def small_run(tmp_path: Path) -> Path:
    """Write a log of one lock hold."""
    log = HandLog()
    log("lock_release", 1.0, 0, 0, 0, 1000, "rmqueue_bulk")
    return log.write(tmp_path / "small")


# -- the schema --------------------------------------------------------------------------------------------


def test_every_field_of_every_event_has_a_column() -> None:
    columns = table_columns()
    for event in EVENTS:
        assert set(event_columns(event)) == set(field_names(event)) <= set(columns)
    assert columns["nr_free"] == JSON  # a number in one event, a list in another
    assert event_columns("zone_state")["nr_free"] == "BIGINT[]"
    assert event_columns("page_reporting_visit")["nr_free"] == "BIGINT"
    assert event_columns("page_reporting_report_begin")["blocks"] == "BIGINT[][]"


def test_every_record_is_in_the_view_of_its_event(recorded_run: Path, recorded_log: RunLog) -> None:
    lines = Counter(line["event"] for line in lines_of(recorded_run))
    for event in EVENTS:
        assert recorded_log.row(f'SELECT count(*) FROM "{event}"') == (lines[event],), event


def test_a_view_has_the_fields_that_the_line_has(recorded_run: Path, recorded_log: RunLog) -> None:
    lines = lines_of(recorded_run)
    for event in {line["event"] for line in lines}:
        first = next(line for line in lines if line["event"] == event)
        at = f"thread = {first['thread']} AND n = {first['n']}"
        (row,) = recorded_log.records(f'SELECT * EXCLUDE (seconds) FROM "{event}" WHERE {at}')
        texts = {key: json.loads(row[key]) for key, kind in event_columns(event).items() if kind == JSON}
        assert {"event": event, **row, **texts} == first


# -- sql ---------------------------------------------------------------------------------------------------


def test_sql_answers_as_rows_as_csv_and_as_a_table(
    recorded_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = "SELECT site, count(*) AS holds FROM locks GROUP BY 1 ORDER BY 2 DESC, 1"
    expected = Counter(line["site"] for line in lines_of(recorded_run) if line["event"] == "lock_release")

    rows = asked(capsys, recorded_run, query)
    assert {row["site"]: row["holds"] for row in rows} == expected
    assert main(["sql", str(recorded_run), query, "--csv"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "site,holds",
        *(f"{row['site']},{row['holds']}" for row in rows),
    ]
    assert main(["sql", str(recorded_run), query]) == 0
    out = capsys.readouterr().out
    assert all(site in out for site in expected)


def test_sql_says_when_a_table_is_only_the_beginning(
    small_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sql", str(small_run), "SELECT * FROM range(1000) AS numbers(n)"]) == 0
    out = capsys.readouterr().out
    assert "only the first 100 rows" in out
    assert "│ 99 │" in out
    assert "│ 100 │" not in out


@pytest.mark.parametrize(
    "query",
    [
        "COPY (SELECT 1) TO '{run}/more.csv'",
        "COPY (SELECT 1) TO '{run}/events-0001.ndjson'",
        "ATTACH '{run}/more.db'",
        "SELECT * FROM read_text('{run}/summary.json')",
        "SET enable_external_access = true",
        "SET memory_limit = '1TB'",
    ],
)
def test_a_query_reaches_no_file_and_no_setting(
    small_run: Path, query: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(small_run)
    assert main(["sql", str(small_run), query.format(run=small_run)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert contents(small_run) == before


def test_a_query_that_is_none_is_told_in_one_line(
    small_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sql", str(small_run), "SELEKT 1"]) == 2
    assert capsys.readouterr().err.startswith("stress: sql: Parser Error")


def test_every_view_is_listed_with_what_it_means(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", "--views"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in (*(view.name for view in VIEWS), *EVENTS))


def test_parquet_holds_what_the_log_holds(recorded_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "it's parquet"
    assert main(["sql", str(recorded_run), "--parquet", str(folder)]) == 0
    lines = Counter(line["event"] for line in lines_of(recorded_run))
    for event, count in lines.items():
        path = str(folder / f"{event}.parquet").replace("'", "''")
        assert duckdb.execute(f"SELECT count(*) FROM read_parquet('{path}')").fetchall() == [(count,)]
    assert (folder / "batches.parquet").exists()


@pytest.mark.parametrize("below", ["", "parquet"])
def test_parquet_does_not_go_into_the_run(
    small_run: Path, below: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(small_run)
    assert main(["sql", str(small_run), "--parquet", str(small_run / below)]) == 2
    assert "inside the run" in capsys.readouterr().err
    assert contents(small_run) == before


def test_packed_files_are_read_like_plain_ones(recorded_run: Path, tmp_path: Path) -> None:
    lines = (recorded_run / "events-0001.ndjson").read_bytes().splitlines(keepends=True)
    (tmp_path / "events-0001.ndjson.gz").write_bytes(gzip.compress(b"".join(lines[:5000])))
    (tmp_path / "events-0002.ndjson").write_bytes(b"".join(lines[5000:]))
    with open_run(tmp_path) as log:
        assert log.row("SELECT count(*) FROM records") == (len(lines),)


def test_nothing_is_left_among_the_temporary_files(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with open_run(small_run) as log:
        assert list(folder.iterdir())
        assert log.row("SELECT count(*) > 0 FROM records") == (True,)
    assert not list(folder.iterdir())


# -- figures, worked out by hand ---------------------------------------------------------------------------


def of(log: HandLog, tmp_path: Path, ask: Callable[[RunLog], Any], *, end: bool = True) -> Any:
    with open_run(log.write(tmp_path / "hand", end=end)) as opened:
        return ask(opened)


def test_lock_times_are_those_of_lock_stat(tmp_path: Path) -> None:
    log = HandLog()
    waits_us, holds_us = [0, 0, 30, 10, 0, 20], [1, 2, 3, 4, 5, 100]
    for at, (wait_us, hold_us) in enumerate(zip(waits_us, holds_us, strict=True)):
        log("lock_release", 1.0 + at, 0, 0, wait_us * 1000, hold_us * 1000, "rmqueue_bulk")
    (row,) = of(log, tmp_path, lambda opened: tables.lock_stat(opened, "site"))

    assert (row["name"], row["contentions"], row["acquisitions"]) == ("rmqueue_bulk", 3, 6)
    assert (row["waittime_min"], row["waittime_max"], row["waittime_total"]) == (10, 30, 60)
    assert (row["waittime_avg"], row["waittime_p50"]) == (20, 20)
    assert (row["holdtime_min"], row["holdtime_max"], row["holdtime_total"]) == (1, 100, 115)
    assert row["holdtime_p50"] == statistics.median(holds_us)
    assert row["holdtime_p99"] == pytest.approx(95.25)


def test_the_time_from_free_to_reported_is_that_of_the_free_that_made_the_block(tmp_path: Path) -> None:
    log = HandLog()
    log("page_reporting_register", 0.0, 0, "null", 3, 8)
    log("mm_page_free_zone_locked", 1.0, 0, 0, 8, 3, 1, 8, 3, False)  # the block, a first time
    log("mm_page_alloc_zone_locked", 2.0, 0, 0, 8, 3, 1, False, 3)
    log("mm_page_free_zone_locked", 10.0, 0, 0, 8, 2, 1, 8, 3, False)  # a half of it comes, and it is whole
    log("mm_page_free_zone_locked", 11.0, 0, 0, 64, 2, 1, 64, 2, False)  # too small
    log("page_reporting_isolate", 14.0, 0, 0, 8, 3, 1, 0, 0)
    log("page_reporting_putback", 15.0, 0, 0, 8, 3, 1, 8, 3, True)  # as it was: it did not come to be here
    log("page_reporting_reported", 15.5, 0, 0, 8, 3)
    log("mm_page_alloc_zone_locked", 16.0, 0, 0, 8, 3, 1, False, 3)
    log("mm_page_free_zone_locked", 17.0, 0, 0, 8, 3, 1, 8, 3, False)  # later than the report
    log("mm_page_free_zone_locked", 20.0, 0, 0, 32, 4, 1, 32, 4, False)
    log("mm_page_alloc_zone_locked", 21.0, 0, 0, 32, 3, 1, False, 4)  # leaves pfn 40 order 3
    log("page_reporting_reported", 25.0, 0, 0, 40, 3)
    log("page_reporting_reported", 26.0, 0, 0, 128, 4)  # free since the boot

    rows = of(
        log,
        tmp_path,
        lambda opened: opened.rows('SELECT pfn, "order", origin, ms FROM free_to_reported ORDER BY pfn'),
    )

    assert rows == [(8, 3, "free", 5.5), (40, 3, "split", 4.0), (128, 4, "boot", None)]


@pytest.mark.parametrize(
    ("pfn", "order", "from_order", "after_ms", "reused", "wasted"),
    [
        (32, 4, 4, 999.0, 1, 1),  # the block itself
        (32, 4, 4, 1001.0, 1, 0),  # later than a second
        (32, 0, 4, 500.0, 1, 1),  # its first page
        (40, 3, 3, 500.0, 1, 1),  # its second half, split off before
        (0, 6, 6, 500.0, 1, 1),  # a larger block that it is part of
        (48, 4, 4, 500.0, 0, 0),  # its buddy
        (0, 5, 6, 500.0, 0, 0),  # a half of a larger block, and it is in the other one
    ],
)
def test_a_report_is_wasted_when_its_pages_are_in_use_again_within_a_second(
    tmp_path: Path,
    pfn: int,
    order: int,
    from_order: int,
    after_ms: float,
    reused: int,
    wasted: int,
) -> None:
    log = HandLog()
    log("page_reporting_register", 0.0, 0, "null", 3, 8)
    log("mm_page_alloc_zone_locked", 5.0, 0, 0, 32, 4, 1, False, 4)  # before the report
    block = (32, 4) if (pfn, order) != (0, 5) else (32, 5)
    log("page_reporting_reported", 10.0, 0, 0, *block)
    log("mm_page_alloc_zone_locked", 10.0 + after_ms, 0, 0, pfn, order, 1, False, from_order)
    log("mm_page_alloc_zone_locked", 10.0 + after_ms, 0, 0, pfn, order, 1, False, from_order)  # counted once

    found = of(log, tmp_path, tables.reuse)

    assert (found["reported"], found["reused"], found["wasted"]) == (1, reused, wasted)


def test_isolated_memory_is_weighed_by_time(tmp_path: Path) -> None:
    log = HandLog()
    log("page_reporting_isolate", 100.0, 0, 0, 0, 8, 1, 0, 0)  # 256 of 1024 pages
    log("page_reporting_isolate", 200.0, 0, 0, 256, 8, 1, 0, 0)
    log("page_reporting_putback", 300.0, 0, 0, 0, 8, 1, 0, 8, True)
    log("page_reporting_putback", 300.0, 0, 0, 256, 8, 1, 256, 8, True)
    log("rest", 1000.0, 0, True)

    found = of(log, tmp_path, tables.isolated)

    assert found["mean_share"] == pytest.approx(0.25 * 0.1 + 0.5 * 0.1)
    assert found["max_share"] == 0.5


def test_throughput_has_a_bin_for_silence_and_a_short_one_at_the_end(tmp_path: Path) -> None:
    log = HandLog()
    for t_ms in (10.0, 20.0, 310.0):
        log("mm_page_alloc", t_ms, 0, 0, 0, 1, "GFP_KERNEL")
    log("mm_page_free", 320.0, 0, 0, 0)
    log("mm_page_alloc", 330.0, 0, -1, 0, 1, "GFP_KERNEL")
    log("rest", 350.0, 0, True)

    rows = of(log, tmp_path, lambda opened: tables.throughput(opened, 0.1))

    assert [row["allocs_per_s"] for row in rows] == [20, 0, 0, pytest.approx(20)]  # 1 in 50 ms at the end
    assert [row["frees_per_s"] for row in rows] == [0, 0, 0, pytest.approx(20)]


def test_only_allocators_share_and_one_that_comes_back_is_the_same(tmp_path: Path) -> None:
    log = HandLog()
    for thread, name, calls in ((1, "allocator-0", 3), (2, "conductor", 1), (3, "allocator-0", 5)):
        log("thread_begin", 100.0 * thread, thread, name=name)
        for _ in range(calls):
            log("mm_page_alloc", 100.0 * thread + 50.0, thread, 0, 0, 1, "GFP_KERNEL")

    (row,) = of(log, tmp_path, tables.threads)

    assert (row["name"], row["calls"], row["lasted_s"]) == ("allocator-0", 8, pytest.approx(0.1))


def test_batches_and_passes_are_joined_with_their_ends(tmp_path: Path) -> None:
    log = HandLog()
    log("page_reporting_pass_begin", 1.0, 0, 1)
    log("page_reporting_report_begin", 2.0, 0, 1, 0, [[0, 9], [512, 8]])
    log("page_reporting_report_end", 5.0, 0, 1, 0, "OSError: no")
    log("page_reporting_pass_end", 6.0, 0, 1, "active", False)
    log("page_reporting_pass_begin", 7.0, 0, 2)
    log("page_reporting_report_begin", 8.0, 0, 2, 0, [[0, 9]])

    def ask(opened: RunLog) -> Any:
        return (
            opened.rows("SELECT batch, ms, blocks, mib, error FROM batches"),
            opened.rows("SELECT number, ms, state FROM passes"),
            tables.failures(opened),
            tables.batches(opened)["never_ended"],
        )

    batches, passes, failures, never_ended = of(log, tmp_path, ask, end=False)
    assert batches == [(1, 3.0, 2, 3.0, "OSError: no"), (2, None, 1, 2.0, None)]
    assert passes == [(1, 5.0, "active"), (2, None, None)]
    assert failures == [{"error": "OSError: no", "batches": 1, "blocks": 2}]
    assert never_ended == 1


def test_what_the_host_kept_is_summed_up_and_told(tmp_path: Path) -> None:
    log = HandLog()
    log("page_reporting_report_begin", 1.0, 1, 1, 0, [[0, 9], [512, 9], [1024, 10]])
    log("host_kept", 2.0, 1, 0, [[0, 9, 1 << 21], [1024, 10, 1 << 20]])
    log("host_kept", 3.0, 1, 0, [[512, 9, 4096 * 256]])
    log("page_reporting_report_end", 4.0, 1, 1, 0, None)
    with open_run(log.write(tmp_path / "run")) as opened:
        summary = summarize(opened)
    assert summary.kept == {"blocks": 3, "mib": 4.0}
    assert "of 3 blocks that it acknowledged it kept 4 MiB" in summary.sentences[2]


def test_fairness_is_one_for_equals_and_least_for_one_alone() -> None:
    assert tables.jain_index([3.0, 3.0, 3.0]) == pytest.approx(1.0)
    assert tables.jain_index([9.0, 0.0, 0.0]) == pytest.approx(1 / 3)
    assert tables.jain_index([]) is None


@pytest.mark.parametrize(
    ("seconds", "width"), [(1.0, 0.01), (30.0, 0.2), (75.0, 0.5), (151.0, 2.0), (36_000.0, 500.0)]
)
def test_a_time_series_has_steps_of_nice_width(seconds: float, width: float) -> None:
    assert tables.bin_width_s(seconds) == width


# -- the analysis of a run ---------------------------------------------------------------------------------


def test_the_figures_of_a_run_are_those_of_its_lines(recorded_run: Path, summary: Summary) -> None:
    lines = lines_of(recorded_run)
    events = Counter(line["event"] for line in lines)
    own = json.loads((recorded_run / "summary.json").read_text())

    assert (summary.verdict, summary.cut, summary.lost_records) == ("SUCCESS", False, 0)
    assert summary.records == len(lines)
    assert sum(row["calls"] for row in summary.threads) == own["allocs"] + own["frees"]
    assert sum(row["failed_allocs"] for row in summary.threads) == own["failed_allocs"]
    assert summary.batches["count"] == own["batches"]
    assert summary.batches["failed"] == own["failed_batches"] > 0
    assert sum(row["batches"] for row in summary.failures) == own["failed_batches"]
    assert summary.reuse["reported"] == events["page_reporting_reported"]
    assert summary.requests["notifies"] == events["page_reporting_notify"]
    assert summary.requests["passes"] == own["passes"]
    assert sum(row["acquisitions"] for row in summary.locks_by_zone) == events["lock_release"]
    assert summary.memory[-1]["free_mib"] == pytest.approx(112)
    assert sum(summary.latency_origins.values()) == summary.reuse["reported"]
    calls = sum((row["allocs_per_s"] + row["frees_per_s"]) * summary.bin_s for row in summary.throughput)
    assert calls == pytest.approx(own["allocs"] + own["frees"], rel=0.1)


def test_analyze_prints_and_leaves_a_page_that_needs_nothing_else(
    recorded_run: Path, summary: Summary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    assert main(["analyze", str(recorded_run), "--report", str(page)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    text = page.read_text()

    assert out.startswith("SUCCESS")
    assert all(sentence in out for sentence in summary.sentences)
    assert "rmqueue_bulk" in out
    drawn = charts([summary])
    assert len(drawn) == 10
    assert all(f"<h3>{chart.title}</h3>" in text for chart in drawn)
    assert text.count("Plotly.newPlot(") >= len(drawn)
    assert "Zone locks by call site: holdtime" in text
    assert not [part for part in text.split("<script")[1:] if part.partition(">")[0].count("src=")]


def test_all_charts_over_time_have_one_axis(summary: Summary) -> None:
    axes = [chart.figure.layout.xaxis for chart in charts([summary])]
    ranges = [axis.range for axis in axes if axis.title.text == "time (s)"]

    assert len(ranges) == 3
    assert set(ranges) == {(0, summary.seconds)}


def test_what_did_not_happen_is_not_drawn(tmp_path: Path) -> None:
    log = HandLog()
    log("lock_release", 1.0, 0, 0, 0, 1000, "rmqueue_bulk")
    found = of(log, tmp_path, summarize)

    assert [chart.title for chart in charts([found])] == ["Zone lock: hold times by call site"]
    assert "Nothing was reported" in found.sentences[2]


def test_two_runs_stand_side_by_side(
    recorded_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "difference.html"
    before = contents(recorded_run)
    assert main(["analyze", str(recorded_run), str(recorded_run), "--report", str(page)]) == 0
    assert contents(recorded_run) == before
    out = capsys.readouterr().out
    rows = [
        line
        for line in out.splitlines()
        if line.strip().startswith(("batches  ", "passes  ", "violations  "))
    ]

    assert len(rows) == 3
    assert all(row.strip().endswith("same") for row in rows)
    assert "Parameters that differ" not in out
    assert "Two runs side by side" in page.read_text()


def test_a_script_gets_json(small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", str(small_run), "--json", "--report", str(tmp_path / "page.html")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["locks_by_site"][0]["holdtime_max"] == 1.0
    assert len(found["sentences"]) == 3


def test_a_violation_and_a_lost_record_are_told_first(tmp_path: Path) -> None:
    log = HandLog()
    log("violation", 7.0, 0, "pfn 3 has two owners")
    log("lost", 8.0, 0, 12)
    log("run_end", 9.0, 0, "FAILURE", 1)
    found = of(log, tmp_path, summarize)

    assert found.sentences[0].startswith(
        "It went wrong: 1 violation, the first at 0.007 s (pfn 3 has two owners)"
    )
    assert "12 records were lost" in found.sentences[0]


def test_a_log_that_was_cut_is_analyzed_and_said_to_be_cut(tmp_path: Path) -> None:
    log = HandLog()
    log("lock_release", 1.0, 0, 0, 0, 1000, "rmqueue_bulk")
    found = of(log, tmp_path, summarize, end=False)

    assert (found.cut, found.verdict) == (True, None)
    assert "The log was cut" in found.sentences[0]
    assert found.locks_by_site[0]["acquisitions"] == 1


def cut_off(run: Path) -> None:
    path = max(run.glob("events*.ndjson"))
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def altered(run: Path) -> None:
    # In the second block: a log whose first one is damaged is told to be none.
    path, sums = run / "events-0001.ndjson", run / "checksums-0001.txt"
    lines = path.read_bytes().splitlines(keepends=True)
    sums.write_bytes(sum_of(b"".join(lines[:-9])) + sum_of(b"".join(lines[-9:])))
    lines[-2] = lines[-2].replace(b'"t":', b'"t":1', 1)
    path.write_bytes(b"".join(lines))


def added_to(run: Path) -> None:
    (run / "events-9999.ndjson").write_bytes((run / "events-0001.ndjson").read_bytes())


def another_ones(run: Path) -> None:
    # Between two of the log's own, and a record by its look.
    lines = (run / "events-0001.ndjson").read_bytes().splitlines(keepends=True)
    for name, part in (("0001", lines[:-9]), ("0002", lines[-9:])):
        (run / f"events-{name}.ndjson").write_bytes(b"".join(part))
        (run / f"checksums-{name}.txt").write_bytes(sum_of(b"".join(part)))
    (run / "events-0001x.ndjson").write_bytes(lines[5])


def untouched(run: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("spoil", "warning"),
    [
        (cut_off, "the log was cut here"),
        (altered, "not as it was written (checksum)"),
        (added_to, "events-9999.ndjson"),
        (another_ones, "events-0001x.ndjson"),
        (untouched, ""),
    ],
)
@pytest.mark.parametrize("command", [["sql", "RUN", "SELECT 1"], ["analyze", "RUN"]], ids=lambda c: c[0])
def test_a_log_that_is_not_as_it_was_written_is_asked_with_a_warning(
    recorded_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    spoil: Callable[[Path], None],
    warning: str,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(recorded_run, run)
    spoil(run)
    assert main([str(run) if word == "RUN" else word for word in command]) == 0
    err = capsys.readouterr().err
    assert err.count("stress: warning: ") == err.count("\n") == bool(warning)
    assert warning in err


# -- Perfetto ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["trace.json", "trace.json.gz"])
def test_a_trace_has_threads_slices_that_nest_batches_and_memory(
    recorded_run: Path, summary: Summary, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    assert write_perfetto(path, recorded_run) is None
    data = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
    events = json.loads(data)["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]

    named = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert {"MainThread", "allocator-0", "page_reporting"} <= named
    assert sum(" holds " in event["name"] for event in slices) == sum(
        row["acquisitions"] for row in summary.locks_by_zone
    )
    assert sum(event["name"].startswith("pass ") for event in slices) == summary.requests["passes"]
    for phase in "be":
        assert sum(event["ph"] == phase for event in events) == summary.batches["count"]
    assert sum(event["ph"] == "C" and "resident" in event["name"] for event in events) == len(summary.memory)
    assert all(nested(slices, thread) for thread in {event["tid"] for event in slices})


def test_a_trace_of_a_log_that_was_cut_ends_where_the_log_does(tmp_path: Path) -> None:
    log = HandLog()
    log("page_reporting_pass_begin", 1.0, 0, 1)
    log("lock_release", 3.0, 0, 0, 1000, 1000, "cycle")
    path = tmp_path / "trace.json"
    assert "the log was cut" in (write_perfetto(path, log.write(tmp_path / "cut", end=False)) or "")
    slices = {
        event["name"]: (event["ts"], event["dur"])
        for event in json.loads(path.read_text())["traceEvents"]
        if event["ph"] == "X"
    }
    assert slices == {
        "wait for Normal": (2998.0, 1.0),
        "cycle holds Normal": (2999.0, 1.0),
        "pass 1": (1000.0, 2000.0),
    }


def nested(slices: list[dict[str, Any]], thread: int) -> bool:
    """Whether no slice of a thread reaches over the end of one that it began in; times are rounded to 1 ns."""
    open_ends: list[float] = []
    own = [event for event in slices if event["tid"] == thread]
    for event in sorted(own, key=lambda event: (event["ts"], -event["dur"])):
        while open_ends and open_ends[-1] <= event["ts"] + 0.002:
            open_ends.pop()
        if open_ends and event["ts"] + event["dur"] > open_ends[-1] + 0.002:
            return False
        open_ends.append(event["ts"] + event["dur"])
    return True


def test_slices_that_overlap_do_not_count_as_nested() -> None:
    first = {"tid": 1, "ts": 0.0, "dur": 10.0}
    assert nested([first, {"tid": 1, "ts": 2.0, "dur": 8.0}], 1)
    assert not nested([first, {"tid": 1, "ts": 2.0, "dur": 9.0}], 1)


# -- bad input ---------------------------------------------------------------------------------------------


def empty(run: Path, folder: Path) -> Path:
    return folder


def missing(run: Path, folder: Path) -> Path:
    return folder / "nowhere"


def foreign(run: Path, folder: Path) -> Path:
    (folder / "events.ndjson").write_text('{"users": [1, 2, 3]}\n')
    return folder


def no_json(run: Path, folder: Path) -> Path:
    (folder / "events.ndjson").write_bytes(bytes(range(256)) * 16)
    return folder


def newer(run: Path, folder: Path) -> Path:
    first, begin = lines_of(run)[:2]
    lines = (first, begin | {"schema": SCHEMA_VERSION + 1}, {"event": "from_the_future"})
    (folder / "events.ndjson").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def truncated(run: Path, folder: Path) -> Path:
    text = (run / "events-0001.ndjson").read_bytes()
    (folder / "events.ndjson").write_bytes(text[: len(text) // 2 - 7].rstrip(b"}\n"))
    return folder


def truncated_gzip(run: Path, folder: Path) -> Path:
    packed = gzip.compress((run / "events-0001.ndjson").read_bytes())
    (folder / "events.ndjson.gz").write_bytes(packed[: len(packed) // 2])
    return folder


@pytest.mark.parametrize("spoil", [empty, missing, foreign, no_json, newer, truncated, truncated_gzip])
@pytest.mark.parametrize(
    "command",
    [["sql", "RUN", "SELECT 1"], ["analyze", "RUN"], ["proc", "RUN", "buddyinfo", "--at=99"]],
    ids=lambda c: c[0],
)
def test_a_log_that_is_none_is_told_in_one_line(
    recorded_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    spoil: Callable[[Path, Path], Path],
) -> None:
    run = spoil(recorded_run, tmp_path)
    assert main([str(run) if word == "RUN" else word for word in command]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert len(captured.err.splitlines()) == 1
    assert tmp_path.name in captured.err


@pytest.mark.parametrize("module", ["duckdb", "msgspec", "plotly"])
def test_a_missing_extra_is_named(module: str) -> None:
    program = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from stress.cli import main; sys.exit(main(['analyze', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"stress: reading logs needs {module}: pip install 'pagealloc[analysis]'"
    ]


def test_a_run_imports_nothing_that_only_reads_logs() -> None:
    program = (
        "import sys; from stress.cli import build_parser; build_parser('run')\n"
        "print([name for name in ('duckdb', 'plotly', 'stress.analysis') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("option", ["--report", "--perfetto"])
def test_a_file_that_cannot_be_written_is_named(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    target = tmp_path / "no" / "folder"
    page = ["--report", str(tmp_path / "page.html")] if option == "--perfetto" else []
    assert main(["analyze", str(small_run), *page, option, str(target)]) == 2
    assert capsys.readouterr().err == f"stress: {option}: {target}: No such file or directory\n"


def test_the_figures_of_a_whole_run_are_json(recorded_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", str(recorded_run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"] > 1000
