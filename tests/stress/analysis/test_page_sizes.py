"""Figures in MiB are right whatever size the machine's pages have; the log says it in its parameters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pagealloc.sync_real import gil_enabled

if not gil_enabled():
    pytest.skip("importing DuckDB would give this interpreter its GIL back", allow_module_level=True)
pytest.importorskip("duckdb", reason="reading logs needs the extra 'analysis'")
pytest.importorskip("msgspec", reason="reading logs needs the extra 'analysis'")

from log_kit import HandLog

from pagealloc.per_cpu_pages import zone_batchsize
from stress.analysis.log import open_run
from stress.analysis.perfetto import write_perfetto
from stress.analysis.summary import Summary, summarize
from stress.cli import main
from stress.formats.procfs import parse_zoneinfo
from stress.log.machine import cpus_of, page_shift_of

SIZES = [("4KiB", 256), ("16KiB", 64), ("64KiB", 16)]  # and the pages of a MiB
BLOCK = 1 << 8  # pages of a block of order 8


def log_of_one_block(folder: Path, page_size: str | None) -> Path:
    """Write the log of a zone of 1024 pages, with one block of order 8 reported and used again."""
    log = HandLog() if page_size is None else HandLog(page_size=page_size, cpus=2)
    log("page_reporting_register", 1.0, 0, "dev", 8, 4)
    log("page_reporting_report_begin", 2.0, 0, 1, 0, [[0, 8]])
    log("page_reporting_report_end", 3.0, 0, 1, 0, None)
    log("page_reporting_reported", 4.0, 0, 0, 0, 8)
    log("mm_page_alloc_zone_locked", 5.0, 1, 0, 0, 8, 1, False, 8)
    log("sample", 6.0, 0, 0, 1024 * 4096, 0, 0, 0, [[BLOCK, 2 * BLOCK, BLOCK, 0, BLOCK]])
    return log.write(folder)


@pytest.fixture
def run(tmp_path: Path, page_size: str | None) -> Path:
    return log_of_one_block(tmp_path / "run", page_size)


def summary_of(run: Path) -> Summary:
    with open_run(run) as log:
        return summarize(log)


@pytest.mark.parametrize(("page_size", "per_mib"), [*SIZES, (None, 256)])
def test_sizes_in_sql_and_in_the_summary_go_by_the_machines_pages(run: Path, per_mib: int) -> None:
    mib = BLOCK / per_mib
    with open_run(run) as log:
        assert log.rows("SELECT mib FROM batches") == [(mib,)]
        assert log.rows(
            "SELECT free_mib, allocated_mib, page_set_mib, in_flight_mib, reported_mib FROM samples"
        ) == [(mib, 2 * mib, mib, 0.0, mib)]
    summary = summary_of(run)
    assert summary.batches["mib"] == mib
    assert (summary.reuse["reported_mib"], summary.reuse["wasted_mib"]) == (mib, mib)
    assert (summary.reuse["reused"], summary.reuse["wasted"]) == (1, 1)
    assert f"told the host of {mib:.0f} MiB in 1 batches" in summary.sentences[2]


@pytest.mark.parametrize(("page_size", "per_mib"), SIZES)
def test_counters_for_perfetto_go_by_the_machines_pages(run: Path, per_mib: int, tmp_path: Path) -> None:
    write_perfetto(tmp_path / "trace.json", run)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    (zone,) = [event["args"] for event in events if event["name"] == "zone Normal (MiB)"]
    assert zone["allocated"] == 2 * BLOCK / per_mib


@pytest.mark.parametrize("page_size", ["4KiB", "64KiB"])
def test_page_sets_in_zoneinfo_go_by_the_machines_pages_and_cpus(
    recorded_run: Path, tmp_path: Path, page_size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (recorded_run / "events-0001.ndjson").read_text().splitlines()
    at = next(at for at, line in enumerate(lines) if json.loads(line)["event"] == "log_begin")
    begin = json.loads(lines[at])
    begin["params"] |= {"page_size": page_size, "cpus": 1}
    (tmp_path / "events-0001.ndjson").write_text(
        "\n".join([*lines[:at], json.dumps(begin), *lines[at + 1 :]]) + "\n"
    )
    assert main(["proc", str(tmp_path), "zoneinfo", "--at", "1e6"]) == 0

    zones = [zone for zone in parse_zoneinfo(capsys.readouterr().out) if zone.managed]
    for zone in zones:
        (page_set,) = zone.page_sets
        batch = max(1, zone_batchsize(zone.managed, page_shift_of({"page_size": page_size})))
        assert (page_set.batch, page_set.high) == (batch, max(zone.low, 4 * batch))


def test_a_log_that_says_nothing_of_its_machine_is_of_a_common_one() -> None:
    assert page_shift_of({}) == page_shift_of({"page_size": "7KiB"}) == 12
    assert cpus_of({}) == cpus_of({"cpus": "many"}) == cpus_of({"cpus": 0}) == 4
    assert cpus_of({"cpus": 96}) == 96
