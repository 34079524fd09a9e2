"""The judge in the writer's process: it says what breaks as it happens, and knows what it cannot know."""

from __future__ import annotations

import io
import json
import marshal
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from stress.errors import Verdict
from stress.log import live
from stress.log.files import BadLog, read_sums, sums_of
from stress.log.live import Backlog, Judged, LiveJudge, LiveProof
from stress.log.tale import Tale
from stress.log.writer import LENGTH, Pipe, hear_the_rest, serve
from stress.run.summary import Summary

SNAPSHOT: tuple[object, ...] = (16, [0, 0, 0, 0, 1], [0] * 5, [0, 0, 0], 0, [(4, 1, [16])], [], [], "11")
ZONE = (
    ("zone_begin", 1, ("Normal", 0, 16, 32, 5, 3, "v6.1"), 0, 1),
    ("zone_snapshot", 2, SNAPSHOT, 0, 2),
)
# Freed twice: the block is taken once.
BROKEN = (
    ("mm_page_free_zone_locked", 3, (16, 3, 1, 16, 3, False), 0, 3),
    ("lock_release", 4, (0, 0, "x"), 0, 4),
)
REST = (("rest", 8, (True,)), ("zone_snapshot", 9, SNAPSHOT, 0, 5))


def batch(*records: tuple[object, ...], thread: int = 1) -> live.Batch:
    return [(int(str(record[1])), thread, record) for record in records]


def heard(folder: Path, *records: tuple[object, ...]) -> tuple[list[LiveProof], Judged]:
    proofs: list[LiveProof] = []
    judge = LiveJudge(folder, 0, proofs.append)
    judge.hear(batch(*records))
    while judge.behind:
        judge.catch_up()
    return proofs, judge.result()


def test_what_breaks_an_invariant_is_told_with_its_time(tmp_path: Path) -> None:
    proofs, judged = heard(tmp_path, *ZONE, *BROKEN)
    assert proofs[0].invariant == "S2"
    assert proofs[0].seconds == 3e-9
    assert judged.violations >= 1


def test_a_run_that_was_looked_at_in_the_end_and_broke_nothing_is_judged_whole(tmp_path: Path) -> None:
    proofs, judged = heard(tmp_path, *ZONE, *REST)
    assert (proofs, judged) == ([], Judged(len(ZONE) + len(REST), 0, None))


def test_what_the_run_itself_saw_is_no_proof_of_the_logs(tmp_path: Path) -> None:
    proofs, judged = heard(tmp_path, *ZONE, ("violation", 5, ("lost data",)), *REST)
    assert (proofs, judged.violations) == ([], 0)


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ([*ZONE], "without a last look"),
        ([*ZONE, ("lost", 5, (3,)), *REST], "thread 1 lost 3 records"),
        ([("rest", 5, (True,)), *BROKEN], "fits nothing that came before"),
    ],
)
def test_what_cannot_be_judged_is_said(tmp_path: Path, records: list[tuple[object, ...]], why: str) -> None:
    _, judged = heard(tmp_path, *records)
    assert why in (judged.damage or "")


def test_a_judge_that_falls_behind_keeps_the_order_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "BACKLOG_RECORDS", 2)
    backlog = Backlog(tmp_path)
    taken = []
    for at in range(9):
        backlog.put([(at, 0, ("violation", at, ("x",)))])
        if at == 5:
            taken += [backlog.take()[0][0] for _ in range(4)]
    while backlog:
        taken.append(backlog.take()[0][0])
    assert taken == list(range(9))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let no file grow beyond a kilobyte, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files")
def test_a_judge_that_finds_no_room_judges_what_it_had_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It broke down in the middle, and the log with it: what the disk takes in part is no batch."""
    monkeypatch.setattr(live, "BACKLOG_RECORDS", 0)
    proofs: list[LiveProof] = []
    judge = LiveJudge(tmp_path, 0, proofs.append)
    judge.hear(batch(*ZONE, *BROKEN))
    for at in range(10, 20):
        judge.hear(batch(*[("violation", at, ("x" * 50,))] * 3))
    while judge.behind:
        judge.catch_up()
    judged = judge.result()
    assert judged.violations == len(proofs) > 0
    assert "had no room" in (judged.damage or "")


def frames(*shares: object) -> io.BytesIO:
    packed = [share if isinstance(share, bytes) else marshal.dumps(share) for share in shares]  # type: ignore[arg-type]
    return io.BytesIO(b"".join(LENGTH.pack(len(frame)) + frame for frame in packed))


def test_the_writer_says_what_its_judge_finds_and_what_it_came_to(tmp_path: Path) -> None:
    said: list[dict[str, object]] = []
    pipe = frames((1, "a", 0, [*ZONE, *BROKEN]), b"", b"", None)
    answer = serve(pipe, tmp_path, 0, 1 << 20, said.append)
    proofs = [message["proof"] for message in said if "proof" in message]
    assert isinstance(proofs[0], dict)
    assert proofs[0]["invariant"] == "S2"
    assert isinstance(answer["judged"], dict)
    assert answer["judged"]["records"] == answer["written"]
    tale = [json.loads(line) for line in (tmp_path / "harness.ndjson").read_text().splitlines()]
    assert [(line["event"], line["level"], line["invariant"]) for line in tale[:1]] == [
        ("violation", "error", "S2")
    ]


def test_the_writer_leaves_when_it_is_told_to_although_somebody_keeps_its_pipe(tmp_path: Path) -> None:
    """A child that a reporter forks has the pipe too: its end may never come."""
    tale = {"level": "info", "event": "note", "seconds": 1.0, "fields": {}}
    read, write = os.pipe()
    os.write(write, frames(tale, None).getvalue())
    with os.fdopen(read, "rb", buffering=0) as pipe:
        hear_the_rest(Pipe(pipe.fileno()), Tale(tmp_path))  # type: ignore[arg-type]
    os.close(write)
    assert len((tmp_path / "harness.ndjson").read_text().splitlines()) == 1


def test_a_log_that_was_cut_is_not_judged_whole(tmp_path: Path) -> None:
    answer = serve(frames((1, "a", 0, [*ZONE, *REST]), b"", b""), tmp_path, 0, 1 << 20)
    assert isinstance(answer["judged"], dict)
    assert "cut" in str(answer["judged"]["damage"])


def test_every_block_of_lines_has_its_checksum(tmp_path: Path) -> None:
    serve(frames((1, "a", 0, [*ZONE, *REST]), b"", b"", None), tmp_path, 0, 1 << 20)
    log = tmp_path / "events-0001.ndjson"
    lines = log.read_bytes().count(b"\n")
    assert sum(count for count, _ in read_sums(log)) == lines
    sums_of(log).write_text(json.dumps({"lines": "many"}) + "\n")
    with pytest.raises(BadLog, match="expected lines and crc32"):
        read_sums(log)


@pytest.mark.parametrize(
    ("judged", "verdict"),
    [
        (Judged(10, 0, None), Verdict.SUCCESS),
        (Judged(10, 2, "lost"), Verdict.FAILURE),
        (Judged(10, 0, "lost"), Verdict.CANNOT_DECIDE),
        (None, Verdict.CANNOT_DECIDE),
    ],
)
def test_the_logs_judge_has_the_last_word(judged: Judged | None, verdict: Verdict) -> None:
    summary = Summary(verdict=Verdict.SUCCESS)
    summary.heed(judged, [])
    assert summary.verdict == verdict
