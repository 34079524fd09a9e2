"""Evidence: a log proves what happened, and one that was damaged says so.

Every record that matters is deleted, doubled, moved or altered here, and every planted fault that a run on real
threads shows is found in its log.
"""

from __future__ import annotations

import gzip
import io
import json
import marshal
import os
import random
import shutil
from collections.abc import Callable
from copy import copy, deepcopy
from pathlib import Path
from typing import Any, Union

import pytest

pytest.importorskip("msgspec", reason="reading logs needs msgspec (the extra 'analysis')")

import msgspec

from stress.analysis.verify import Judgement, verify
from stress.cli import main
from stress.log.events import EVENTS, SCHEMA_VERSION, Record, ZoneRecord, field_names
from stress.log.files import BadLog, LogDamage
from stress.log.hearing import Hearing
from stress.log.reader import LogReader, heard
from stress.log.writer import LENGTH, LogFiles, LogWriter, serve

RUN = ["run", "--allocators=2", "--seconds=0.6", "--zones=DMA32=48MiB,Normal=64MiB", "--order=5"]
RUN += ["--capacity=8", "--delay=0.02"]

RUNS_MAX = 12

Lines = list[dict[str, Any]]

# What the schema declares to be told by nobody else; elsewhere every alteration is noticed.
DECLARED = ("Text", "Given", "Measured")


def is_declared(record: dict[str, Any], field: str) -> bool:
    """Whether nobody but this record tells a field."""
    if (record["event"], field) == ("mm_page_alloc", "order"):
        return bool(record["pfn"] == -1)
    of_record, of_zone = (base.__annotations__ for base in (Record, ZoneRecord))
    types = {**of_record, **of_zone, **EVENTS[record["event"]].__annotations__}
    return any(word in types[field] for word in DECLARED)


@pytest.fixture(scope="session")
def good_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "run"
    assert main([*RUN, "--run-dir", str(path)]) == 0
    return path


@pytest.fixture(scope="session")
def good_lines(good_run: Path) -> Lines:
    return [json.loads(line) for line in (good_run / "events-0001.ndjson").read_text().splitlines()]


@pytest.fixture
def judged(tmp_path: Path) -> Callable[[Lines], Judgement]:
    """Verify a log of these records."""

    def judge(lines: Lines) -> Judgement:
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
        (tmp_path / "events.ndjson").write_text(text, encoding="utf-8")
        return verify(tmp_path)

    return judge


def test_a_good_log_is_proved_good(good_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(good_run)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("SUCCESS ")


def test_a_log_holds_every_thread_and_ends_with_its_counts(good_lines: Lines) -> None:
    names = {line["name"] for line in good_lines if line["event"] == "thread_begin"}
    assert {"MainThread", "allocator-0", "allocator-1", "page_reporting"} <= names
    assert good_lines[1]["schema"] == SCHEMA_VERSION
    assert good_lines[-1]["event"] == "log_end"
    assert {line["event"] for line in good_lines} <= set(EVENTS)


def altered(value: Any, rng: random.Random) -> Any:
    """Change a value at one place."""
    if type(value) is bool:
        return not value
    if type(value) is int:
        return value + rng.choice((-1, 1))
    if type(value) is str:
        return value[:-1] if value and rng.random() < 0.5 else value + "x"
    if not value:
        return "altered" if value is None else [*value, 1]
    at = rng.choice(list(value) if type(value) is dict else range(len(value)))
    changed = value.copy()
    changed[at] = altered(value[at], rng)
    return changed


def tampered(lines: Lines, rng: random.Random) -> tuple[Lines, str, str, str]:
    """Change one thing at random that is not declared; returns the lines, and the kind, the event and the field."""
    changed = list(lines)
    at = rng.randrange(2, len(lines))
    kind = rng.choice(("delete", "duplicate", "swap", "alter"))
    event, field = changed[at]["event"], ""
    if kind == "delete":
        del changed[at]
    elif kind == "duplicate":
        changed.insert(at, changed[at])
    elif kind == "swap":
        other = rng.randrange(2, len(lines))
        changed[at], changed[other] = changed[other], changed[at]
    else:
        record = dict(changed[at])
        field = rng.choice([name for name in record if name != "event" and not is_declared(record, name)])
        record[field] = altered(record[field], rng)
        changed[at] = record
    return changed, kind, event, field


# PAGEALLOC_TAMPERINGS=1000 takes five minutes more.
@pytest.mark.parametrize("seed", range(int(os.environ.get("PAGEALLOC_TAMPERINGS", "24"))))
def test_a_tampered_log_is_found_out_by_its_records_alone(
    good_lines: Lines, judged: Callable[[Lines], Judgement], seed: int
) -> None:
    lines, *what = tampered(good_lines, random.Random(seed))
    same = what[0] == "swap" and lines == good_lines
    assert judged(lines).verdict != "SUCCESS" or same, what


def test_a_failed_allocation_is_told_by_one_pfn_and_no_other(
    good_lines: Lines, judged: Callable[[Lines], Judgement]
) -> None:
    at = next(at for at, line in enumerate(good_lines) if line["event"] == "mm_page_alloc")
    altered = [*good_lines[:at], {**good_lines[at], "pfn": -2}, *good_lines[at + 1 :]]
    verdict = judged(altered)
    assert verdict.verdict == "FAILURE"
    assert "gets pfn -0x2, which is in no zone" in verdict.violations[0].text


@pytest.mark.parametrize("event", ["mm_page_alloc", "mm_page_free_zone_locked", "page_reporting_putback"])
@pytest.mark.parametrize("how", ["deleted", "doubled"])
def test_one_record_too_few_or_too_many_is_named(
    good_lines: Lines, judged: Callable[[Lines], Judgement], event: str, how: str
) -> None:
    at = next(at for at, line in enumerate(good_lines) if line["event"] == event and at > 500)
    lines = (
        good_lines[:at] + good_lines[at + 1 :]
        if how == "deleted"
        else [*good_lines[: at + 1], *good_lines[at:]]
    )
    verdict = judged(lines)
    assert verdict.verdict == "CANNOT DECIDE"
    assert verdict.damage is not None
    assert f"events.ndjson:{at + 1 + (how == 'doubled')}" in verdict.damage or "thread" in verdict.damage


def test_a_log_without_its_end_cannot_be_decided(
    good_lines: Lines, judged: Callable[[Lines], Judgement]
) -> None:
    verdict = judged(good_lines[:-1])
    assert verdict.verdict == "CANNOT DECIDE"
    assert "the log was cut" in (verdict.damage or "")


def test_lost_records_are_a_verdict_of_their_own(
    good_lines: Lines, judged: Callable[[Lines], Judgement]
) -> None:
    at = next(at for at, line in enumerate(good_lines) if line["event"] == "mm_page_alloc" and at > 500)
    lost = {**{name: good_lines[at][name] for name in ("t", "thread", "n")}, "event": "lost", "count": 1}
    verdict = judged([*good_lines[:at], lost, *good_lines[at + 1 :]])
    assert verdict.verdict == "CANNOT DECIDE"
    assert "lost 1 records" in (verdict.damage or "")


def test_a_broken_invariant_is_proved_by_its_record(
    good_lines: Lines,
    judged: Callable[[Lines], Judgement],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    at = next(at for at, line in enumerate(good_lines) if line["event"] == "page_reporting_report_end")
    lines = [*good_lines[:at], {**good_lines[at], "error": "lost"}, *good_lines[at + 1 :]]
    verdict = judged(lines)
    assert verdict.verdict == "FAILURE"
    assert verdict.violations[0].invariant == "S14"
    assert main(["verify", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "S14" in out
    assert "proved by events.ndjson:" in out


@pytest.mark.parametrize("mutant", ["M-2", "M-10", "M-14", "M-17", "M-26"])
def test_a_planted_fault_is_found_in_the_log_alone(
    mutant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether the fault acts in half a second is the threads' affair, so there are runs until it does."""
    proved: list[str] = []
    for attempt in range(RUNS_MAX):
        path = tmp_path / f"run-{attempt}"
        main([*RUN, "--mutant", mutant, "--run-dir", str(path)])
        proved = [proof.invariant for proof in verify(path).violations if proof.invariant != "witness"]
        if proved:
            break
    capsys.readouterr()
    assert proved


# -- bad input -------------------------------------------------------------------------------------------------


def bad_run(kind: str, good: Path, path: Path) -> None:
    """Make a run directory that is none."""
    path.mkdir()
    log = path / "events.ndjson"
    if kind == "foreign":
        log.write_text('{"hello": "world"}\n')
    elif kind == "newer":
        text = (good / "events-0001.ndjson").read_text()
        log.write_text(text.replace(f'"schema":{SCHEMA_VERSION}', f'"schema":{SCHEMA_VERSION + 1}', 1))
    elif kind == "truncated":
        log.write_bytes((good / "events-0001.ndjson").read_bytes()[:100])
    elif kind == "no text":
        log.write_bytes(b"\x00\xff" * 50)
    elif kind == "no gzip":
        (path / "events.ndjson.gz").write_bytes(b"PK\x03\x04")


@pytest.mark.parametrize("kind", ["empty", "foreign", "newer", "truncated", "no text", "no gzip"])
def test_what_is_no_log_is_one_clear_line_and_exit_status_2(
    kind: str, good_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad_run(kind, good_run, tmp_path / "run")
    assert main(["verify", str(tmp_path / "run")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "run" in captured.err


# -- the writer ------------------------------------------------------------------------------------------------


def test_a_log_is_cut_into_files_and_packed_and_still_proved(good_run: Path, tmp_path: Path) -> None:
    text = (good_run / "events-0001.ndjson").read_bytes().splitlines(keepends=True)
    half = len(text) // 2
    (tmp_path / "events-0001.ndjson.gz").write_bytes(gzip.compress(b"".join(text[:half])))
    (tmp_path / "events-0002.ndjson").write_bytes(b"".join(text[half:]))
    verdict = verify(tmp_path)
    assert (verdict.verdict, verdict.records) == ("SUCCESS", len(text))


def test_a_file_that_is_large_enough_is_packed_and_the_next_one_begins(tmp_path: Path) -> None:
    files = LogFiles(tmp_path, rotate_bytes=1000)
    writer = LogWriter(files, 0)
    for at in range(3):
        writer.round([(0, "teller", 0, [("violation", at * 10 + n, ("a name",)) for n in range(10)])])
    writer.finish()
    files.close()
    names = sorted(path.name for path in tmp_path.glob("events-*"))
    assert names == ["events-0001.ndjson.gz", "events-0002.ndjson"]
    lines = gzip.decompress((tmp_path / names[0]).read_bytes()) + (tmp_path / names[1]).read_bytes()
    assert [json.loads(line)["n"] for line in lines.splitlines()] == [*range(1, 32), 1]
    assert files.written == 32


def test_records_of_two_threads_are_written_in_the_order_of_time(tmp_path: Path) -> None:
    files = LogFiles(tmp_path)
    writer = LogWriter(files, 0)
    # The second thread's record was there before the first one's, and was collected after it.
    writer.round([(0, "a", 0, [("violation", 20, ("late",))])])
    writer.round([(1, "b", 0, [("violation", 10, ("early",))])])
    writer.finish()
    files.close()
    lines = [json.loads(line) for line in (tmp_path / "events-0001.ndjson").read_text().splitlines()]
    assert [line["text"] for line in lines if line["event"] == "violation"] == ["early", "late"]


def test_a_disk_that_is_full_is_counted(tmp_path: Path) -> None:
    (tmp_path / "events-0001.ndjson").symlink_to("/dev/full")
    files = LogFiles(tmp_path)
    writer = LogWriter(files, 0)
    writer.round([(0, "teller", 0, [("violation", 1, ("x",))])])
    writer.finish()
    files.close()
    assert (files.written, files.lost, files.error) == (0, 3, "No space left on device")


def test_every_event_of_the_schema_has_a_name_and_fields_of_its_own() -> None:
    assert len({cls.__name__ for cls in EVENTS.values()}) == len(EVENTS)
    assert field_names("lock_release") == ("zone", "seq", "wait_ns", "hold_ns", "site")
    assert all(cls.__doc__ for cls in EVENTS.values())


def frames(*shares: object) -> bytes:
    """Pack what a collector sends: shares, None for the end, and b"" behind each round."""
    packed = [share if isinstance(share, bytes) else marshal.dumps(share) for share in shares]  # type: ignore[arg-type]
    return b"".join(LENGTH.pack(len(frame)) + frame for frame in packed)


def test_a_pipe_that_ends_leaves_no_record_that_may_have_seen_what_never_came(tmp_path: Path) -> None:
    first = (0, "a", 0, [("violation", 10, ("whole",))])
    cut = (0, "a", 0, [("violation", 30, ("may have seen the other thread's record",))])
    serve(io.BytesIO(frames(first, b"", b"", cut)), tmp_path, 0, 1 << 20)
    lines = [json.loads(line) for line in (tmp_path / "events-0001.ndjson").read_text().splitlines()]
    assert [line["text"] for line in lines if line["event"] == "violation"] == ["whole"]


def test_a_disk_that_takes_a_part_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(io.BytesIO):
        def write(self, text: Any) -> int:
            return super().write(bytes(text)[:7])

    small = Small()
    files = LogFiles(tmp_path)
    monkeypatch.setattr(Path, "open", lambda *args, **kwargs: small)
    files.write(b"a line of more than seven bytes\n")
    assert small.getvalue() == b"a line of more than seven bytes\n"
    assert (files.written, files.lost) == (1, 0)


def test_lost_records_are_declared_where_they_are_missing(tmp_path: Path) -> None:
    files = LogFiles(tmp_path)
    writer = LogWriter(files, 0)
    writer.round([(0, "teller", 3, [("violation", 1, ("x",)), ("lost", 2, (0,))])])
    writer.round([(0, "teller", 3, [("violation", 9, ("x",))])])
    writer.finish()
    files.close()
    lines = [json.loads(line) for line in (tmp_path / "events-0001.ndjson").read_text().splitlines()]
    told = [(line["event"], line["n"], line.get("count")) for line in lines[1:-1]]
    assert told == [("violation", 2, None), ("lost", 3, 3), ("violation", 7, None)]


def test_a_file_that_was_being_packed_is_read_once(good_run: Path, tmp_path: Path) -> None:
    text = (good_run / "events-0001.ndjson").read_bytes()
    (tmp_path / "events-0001.ndjson").write_bytes(text)
    (tmp_path / "events-0001.ndjson.gz").write_bytes(gzip.compress(text, 1))
    assert verify(tmp_path).verdict == "SUCCESS"


@pytest.mark.parametrize("without", ["rest", "page_reporting_register"])
def test_a_log_that_lacks_its_corner_stones_is_no_success(
    without: str, good_lines: Lines, judged: Callable[[Lines], Judgement]
) -> None:
    gone = next(line for line in good_lines if line["event"] == without)
    lines = []
    for line in good_lines:
        if line is gone:
            continue
        behind = line["thread"] == gone["thread"] and line["n"] > gone["n"]
        lines.append({**line, "n": line["n"] - 1} if behind else line)
    threads = dict(lines[-1]["threads"])
    threads[str(gone["thread"])] -= 1
    lines[-1] = {**lines[-1], "threads": threads}
    verdict = judged(lines)
    assert verdict.verdict != "SUCCESS"
    assert "expected" not in (verdict.damage or "")  # no number is missing: it is the record that is


def test_what_is_left_of_a_killed_run_is_judged_up_to_its_end(good_run: Path, tmp_path: Path) -> None:
    shutil.copy(good_run / "events-0001.ndjson", tmp_path)
    log = tmp_path / "events-0001.ndjson"
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])
    verdict = verify(tmp_path)
    assert verdict.verdict == "CANNOT DECIDE"
    assert verdict.records > 100


def test_damage_is_told_from_a_violation_by_the_blocks_checksum(good_run: Path, tmp_path: Path) -> None:
    for name in ("events-0001.ndjson", "checksums-0001.txt"):
        shutil.copy(good_run / name, tmp_path)
    log = tmp_path / "events-0001.ndjson"
    assert verify(tmp_path).verdict == "SUCCESS"
    head, tail = log.read_bytes().rsplit(
        b'"error":null', 1
    )  # the last: not in the block that says it is a log
    log.write_bytes(head + b'"error":"no"' + tail)
    judgement = verify(tmp_path)
    assert (judgement.verdict, judgement.violations) == ("CANNOT DECIDE", [])
    assert "(checksum)" in (judgement.damage or "")


def test_a_run_says_itself_what_its_log_proves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--mutant", "M-10", "--run-dir", str(tmp_path / "run")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("!!! S9: the reporter is called while") for line in lines)
    assert ", judged " in lines[-1]
    assert main([*RUN, "--log", "off", "--run-dir", str(tmp_path / "off")]) == 0
    assert "nothing but the run's own checks judged" in capsys.readouterr().out


class Listener:
    """A reader and a hearing at one record of a log, of which `rest` can go on with another record instead."""

    def __init__(self, good: Path, lines: Lines) -> None:
        self._decode = msgspec.json.Decoder(Union[tuple(EVENTS.values())]).decode  # noqa: UP007 - made at run time
        self._records = [self._decode(json.dumps(line)) for line in lines]
        self._reader = LogReader(good)
        self._hearing = Hearing(noticed)

    def hear(self, at: int) -> None:
        self._reader._check(self._records[at])
        self._hearing.hear([heard(self._records[at])])

    def notices(self, at: int, line: dict[str, Any]) -> bool:
        """Whether a log with this line instead of the one at a place is no SUCCESS."""
        twin = copy(self)
        twin._reader, twin._hearing = copy(self._reader), Hearing(noticed)
        twin._reader._last, twin._reader._seq = self._reader._last.copy(), self._reader._seq.copy()
        vars(twin._hearing.judge).update(vars(self._hearing.judge.twin(noticed)))
        told = vars(self._hearing.agreement).items()
        kept = {name: deepcopy(value) for name, value in told if name not in ("_judge", "_fail")}
        vars(twin._hearing.agreement).update(kept)
        try:
            twin._records = [*self._records[:at], self._decode(json.dumps(line)), *self._records[at + 1 :]]
            for again in range(at, len(twin._records)):
                twin.hear(again)
            twin._hearing.expect_last_look()
        except (Noticed, LogDamage, BadLog, msgspec.DecodeError):
            return True
        return False


class Noticed(Exception):
    """An invariant is broken."""


def noticed(invariant: str, text: str) -> None:
    raise Noticed(invariant, text)


TIMES = 10  # that each field is altered, where the log has it so often


def test_an_alteration_of_any_field_of_any_record_is_noticed(good_run: Path, good_lines: Lines) -> None:
    """Field by field through all that a log has; no checksum helps."""
    rng = random.Random(1)
    places: dict[tuple[str, str], list[int]] = {}
    for at, line in enumerate(good_lines):
        for field in line.keys() - {"event"}:
            if not is_declared(line, field):
                places.setdefault((line["event"], field), []).append(at)
    todo = sorted(
        (at, field)
        for (_, field), of_field in places.items()
        for at in rng.sample(of_field, min(TIMES, len(of_field)))
    )
    listener = Listener(good_run, good_lines)
    passed = []
    for at, line in enumerate(good_lines):
        while todo and todo[0][0] == at:
            _, field = todo.pop(0)
            other = {**line, field: altered(line[field], rng)}
            if not listener.notices(at, other):
                passed.append((line["event"], field, line[field], other[field]))
        listener.hear(at)
    assert len(places) > 180
    assert passed == []
