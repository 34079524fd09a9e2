"""Recorded guests are predicted from their trace and their counts: passes, their times, their amounts."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from pagealloc.memory import Memory
from pagealloc.revision import V6_1, V6_12
from stress.errors import BadInput
from stress.lab import guest
from stress.lab.options import Options
from stress.lab.predict import predict
from stress.lab.recorded_truth import read_rss
from stress.lab.recording import BadRecording, Recording, read_recording
from stress.lab.validate import (
    BY_CALLS,
    CAPTURES,
    LATE_PROBE,
    RECORDED,
    judge_recorded,
    recorded_figures,
    reported_figure,
    times_off_ms,
)


@pytest.mark.parametrize(("kernel", "capture", "state"), CAPTURES)
def test_a_recorded_guest_is_predicted_within_the_promised_tolerances(
    kernel: str, capture: str, state: str
) -> None:
    truth = judge_recorded(kernel, capture, state)
    assert [figure.name for figure in recorded_figures(truth, capture) if not figure.passed] == []


def test_a_wrong_start_state_is_noticed() -> None:
    truth = judge_recorded("v6.1", "cap1", "state0")
    truth.predicted = truth.predicted[1:]
    assert [figure.name for figure in recorded_figures(truth, "cap1") if not figure.passed] == [
        "cap1: passes",
        "cap1: reported",
    ]


@pytest.mark.parametrize(
    ("kernel", "capture", "state"), [each for each in CAPTURES if each[:2] != LATE_PROBE]
)
def test_every_pass_begins_within_three_milliseconds(kernel: str, capture: str, state: str) -> None:
    assert max(times_off_ms(judge_recorded(kernel, capture, state))) < 3


def test_a_pass_waits_for_a_task_that_does_not_let_it_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recording, "starts_at", lambda _, due_s, cpu: due_s)
    assert max(times_off_ms(judge_recorded("v6.1", "cap2", "state1"))) == pytest.approx(8.7, abs=0.1)


def test_the_first_pass_says_nothing_of_the_timers_if_it_was_asked_for_before() -> None:
    recording = read_recording(RECORDED / "v6.12-cap5.txt.gz", V6_12)
    assert recording.asked_before()
    assert recording.phase_s(0.032) == recording.passes[1].t_s % 0.032


@pytest.mark.parametrize(("kernel", "capture", "state"), BY_CALLS)
def test_calls_through_the_cpus_lists_come_to_the_same(kernel: str, capture: str, state: str) -> None:
    truth = judge_recorded(kernel, capture, state, level="calls")
    assert reported_figure(truth, capture, tolerance=0.05).passed


@pytest.mark.parametrize("rule", ["set_page_set_limits", "Memory.refresh_vm_stats"])
def test_limits_of_the_cpus_lists_decide_what_stays_away(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, _, name = rule.rpartition(".")
    monkeypatch.setattr(Memory if owner else guest, name, lambda *_: None)
    truth = judge_recorded("v6.12", "cap2", "state1", level="calls")
    assert not reported_figure(truth, "cap2", tolerance=0.01).passed


def text_of(name: str) -> str:
    return gzip.decompress((RECORDED / name).read_bytes()).decode()


def test_lost_events_are_refused_with_their_number_and_time(tmp_path: Path) -> None:
    lines = text_of("v6.1-cap2.txt.gz").splitlines()
    lines.insert(600, "CPU:1 [LOST 4711 EVENTS]")
    path = tmp_path / "trace.txt"
    path.write_text("\n".join(lines))
    with pytest.raises(BadRecording, match=r"4711 events were lost, the first at \d+\.\d+ s"):
        read_recording(path, V6_1)


def test_an_overwritten_buffer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    path.write_text(text_of("v6.1-cap2.txt.gz").replace("4881/4881", "4881/9000"))
    with pytest.raises(BadRecording, match="4119 events were lost"):
        read_recording(path, V6_1)


def test_a_trace_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    path.write_text("  bash-1 [000] .....  1.000000: sched_switch: prev_comm=bash\n")
    with pytest.raises(BadRecording, match="expected a recording of kmem events"):
        read_recording(path, V6_1)


def test_a_pass_that_another_one_asked_for_is_told_by_its_blocks_and_calls() -> None:
    recording = read_recording(RECORDED / "v6.1-cap2.txt.gz", V6_1)
    assert [each.blocks for each in recording.passes] == [49, 40, 27, 28, 40, 11, 5, 35, 38]
    assert recording.passes[0].sizes == [32, 17]
    assert sum(each.pages for each in recording.passes) == 842 * 256


def test_requests_without_a_free_count_as_pageblocks() -> None:
    assert read_recording(RECORDED / "v6.1-cap2.txt.gz", V6_1).unseen_frees == 0
    assert read_recording(RECORDED / "v6.12-cap2.txt.gz", V6_1).unseen_frees == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("1.0 2.0\n1 2 3\n", "line 1"),
        ("1.0 2.0 3\n", "1 samples"),
        ("1.0 2.0 3\n1.1 1.5 3\n", "line 2: 1.5 s comes before 2 s"),
    ],
)
def test_a_curve_that_is_none_is_refused(text: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "rss.txt"
    path.write_text(text)
    with pytest.raises(BadInput, match=complaint):
        read_rss(path)


def test_why_nothing_comes_back_is_said_in_words() -> None:
    held = " ".join(judge_recorded("v6.12", "cap5", "state4").said)
    assert "hardly anything comes back" in held
    assert "the lists may hold 13,998 pages (55 MiB)" in held
    assert "only its falls are predicted" in held

    untouched = " ".join(judge_recorded("v6.12", "cap1", "state0").said)
    assert "1,368 MiB are reported and 0 MiB come back: the guest had never touched the rest" in untouched
    assert judge_recorded("v6.12", "cap2", "state1").said == []


def test_memory_that_is_used_twice_is_not_counted_twice() -> None:
    truth = judge_recorded("v6.1", "cap3", "state2")
    assert truth.predicted[0]["bytes"] == truth.recording.passes[0].pages << 12, "one process after the other"


def test_a_recording_without_calls_is_not_replayed_by_calls(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    path.write_text(
        "  hog-1 [000] d..3.  1.000000: mm_page_alloc_zone_locked: page=1 pfn=0x4600 order=9 migratetype=1\n"
    )
    point = Options(load=f"trace:{path}", level="calls")
    with pytest.raises(BadInput, match="events of the zone only, expected mm_page_alloc and mm_page_free"):
        predict(point)
