"""Trace text, as tracefs, trace-cmd and perf write it."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from stress.formats.ftrace import BadTrace, TraceEvent, parse_ftrace, read_ftrace

TRACEFS = """\
# tracer: nop
#
# entries-in-buffer/entries-written: 3/3   #P:2
#
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
            init-1       [000] .....   113.224126: tracing_mark_write: mark mixed = 1
     kworker/0:2-56      [001] d..3.   113.306884: mm_page_alloc_zone_locked: page=(____ptrval____) pfn=0xfe00 \
order=9 migratetype=1 percpu_refill=1
     kworker/0:2-56      [001] d..1.   113.400000: report: (f+0x4/0x120 [virtio_balloon]) nents=2 \
sga={0xffea,0x20} ret=-5
""".replace("\\\n", "")


def only(line: str) -> TraceEvent:
    (event,) = parse_ftrace([line])
    return event


def test_a_line_has_its_time_processor_task_and_fields() -> None:
    mark, locked, report = parse_ftrace(TRACEFS.splitlines(keepends=True))

    assert (mark.time_s, mark.cpu, mark.task, mark.pid) == (113.224126, 0, "init", 1)
    assert mark.text == "mark mixed = 1"
    assert (locked.cpu, locked.task, locked.pid) == (1, "kworker/0:2", 56)
    assert {name: locked.number(name) for name in ("pfn", "order", "migratetype")} == {
        "pfn": 0xFE00,
        "order": 9,
        "migratetype": 1,
    }
    assert locked.fields["page"] == "(____ptrval____)"
    assert report.fields == {"nents": 2, "sga": "{0xffea,0x20}", "ret": -5}


@pytest.mark.parametrize(
    "line",
    [
        "  memload-190   [001]   113.772424: mm_page_free:         page=0xa pfn=14960 order=0",  # trace-cmd
        "memload     190 [001]   113.772424:  kmem:mm_page_free: page=0xa pfn=0x3a70 order=0",  # perf script
        " memload-190   (    188) [001] d..3.   113.772424: mm_page_free: page=0xa pfn=0x3a70 order=0",
        " memload-190   (-------) [001] d..3.   113.772424: mm_page_free: page=0xa pfn=0x3a70 order=0",
    ],
    ids=["trace-cmd", "perf", "record-tgid", "unknown-tgid"],
)
def test_other_tools_and_options_write_the_same_event(line: str) -> None:
    event = only(line)

    assert (event.task, event.pid, event.cpu, event.time_s) == ("memload", 190, 1, 113.772424)
    assert (event.name, event.number("pfn"), event.number("order")) == ("mm_page_free", 14960, 0)


def test_events_that_the_kernel_lost_are_said_to_be_lost() -> None:
    event = only("CPU:1 [LOST 1234 EVENTS]")

    assert (event.name, event.cpu, event.number("events")) == ("lost_events", 1, 1234)


def test_what_is_no_trace_names_its_line() -> None:
    with pytest.raises(BadTrace, match=r"mine, line 2: 'uptime 3.32', expected a line of trace text"):
        list(parse_ftrace(["# tracer: nop", "uptime 3.32"], "mine"))


def test_a_field_that_is_missing_or_no_number_names_the_event() -> None:
    event = only("a-1 [000] 1.5: mm_page_free: pfn=(null)")

    with pytest.raises(BadTrace, match=r"mm_page_free at 1.500000 s: pfn is '\(null\)', expected a number"):
        event.number("pfn")
    with pytest.raises(BadTrace, match=r"order is None"):
        event.number("order")


def test_a_packed_file_is_read_like_a_plain_one(tmp_path: Path) -> None:
    plain, packed = tmp_path / "trace.txt", tmp_path / "trace.txt.gz"
    plain.write_text(TRACEFS)
    packed.write_bytes(gzip.compress(TRACEFS.encode()))

    assert list(read_ftrace(plain)) == list(read_ftrace(packed))
    assert len(list(read_ftrace(plain))) == 3


def test_a_file_that_is_not_packed_as_its_name_says_is_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt.gz"
    path.write_text(TRACEFS)

    with pytest.raises(BadTrace, match="expected trace text"):
        list(read_ftrace(path))
