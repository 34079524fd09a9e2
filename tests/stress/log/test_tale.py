"""The harness's own tale: few records, each with a level and a time, and never a page's."""

from __future__ import annotations

import json
from pathlib import Path

from pagealloc.sync_real import RealSync
from stress.log.recorder import Recorder
from stress.log.tale import TALE_FILE, Tale
from stress.log.writer import LogFiles, LogWriter

START_NS = 1_000_000_000


def told(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / TALE_FILE).read_text(encoding="utf-8").splitlines()]


def test_the_harness_is_heard_and_the_pages_are_not(tmp_path: Path) -> None:
    files = LogFiles(tmp_path)
    writer = LogWriter(files, START_NS)
    records = [
        ("phase_begin", START_NS + 1_000_000, ("load", {})),
        ("mm_page_free", START_NS + 2_000_000, (16, 0)),
        ("violation", START_NS + 3_000_000, ("lost data: pfn 0x10",)),
    ]
    writer.round([(0, "conductor", 0, records)])
    writer.finish()
    files.close()

    tale = told(tmp_path)
    assert [(line["event"], line["level"], line["seconds"]) for line in tale] == [
        ("phase_begin", "info", 0.001),
        ("violation", "error", 0.003),
    ]
    assert tale[1]["text"] == "lost data: pfn 0x10"
    assert all("timestamp" in line for line in tale)


def test_what_the_command_line_says_is_told_while_the_log_grows_and_behind_its_end(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, RealSync(), {}, {})
    recorder.tell("warning", "interrupted", signal=2)
    result = recorder.finish()
    recorder.tell("info", "note", text="all went well")
    recorder.close()

    assert result.error is None
    tale = told(tmp_path)
    assert [(line["event"], line["level"]) for line in tale] == [("interrupted", "warning"), ("note", "info")]
    assert tale[0]["signal"] == 2
    assert tale[1]["text"] == "all went well"


def test_a_writer_that_is_gone_is_nobodys_end(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, RealSync(), {}, {})
    recorder._writer.kill()
    recorder._writer.wait()
    assert recorder.finish().error is not None
    recorder.tell("info", "note", text="unheard")
    recorder.close()


def test_a_disk_that_refuses_the_tale_ends_nothing(tmp_path: Path) -> None:
    tale = Tale(tmp_path / "absent")
    tale.tell("rest", 1.0, {"reached": True})
    assert not (tmp_path / "absent").exists()
