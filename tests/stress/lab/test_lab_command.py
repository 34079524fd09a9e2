"""`stress lab` from the outside: rows, sentences, pages, engines, and bad input in one line."""

from __future__ import annotations

import gzip
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pagealloc.sync_real import gil_enabled
from stress.cli import main
from stress.errors import CannotBeDone
from stress.lab.loads.curve import read_curve
from stress.lab.sweep import Sweep
from stress.lab.validate import RECORDED, builds
from stress.mutants import planted

ROOT = Path(__file__).parents[3]
BURST = ["lab", "burst:64MiB", "--guest", "512MiB", "--seeds", "2"]
SWEEP = [*BURST, "--order", "0,9", "--delay", "0.25,2", "--jobs", "2"]


def rows_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    try:
        status = main(list(words))
    except SystemExit as left:
        status = int(left.code or 0)
    captured = capsys.readouterr()
    assert status == 2
    assert captured.err.count("\n") == 1, captured.err
    assert captured.out == ""
    return captured.err


def own_executor() -> Executor:
    return ThreadPoolExecutor(2)


# -- answers -------------------------------------------------------------------------------------------


def test_a_row_has_its_setting_and_figures_with_units_in_their_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = rows_of(capsys, *BURST, "--preset", "v6.1")["rows"]
    assert [row["seed"] for row in rows] == [0, 1]
    row = rows[0]
    assert (row["order"], row["delay_s"], row["capacity"], row["policy"], row["preset"]) == (
        9,
        2.0,
        32,
        "kernel",
        "v6.1",
    )
    assert row["reported_bytes"] == row["reported_blocks"] << 22 == 64 << 20
    assert row["passes"] == 1
    assert 2.0 <= row["settle_s"] < 2.04
    assert row["footprint_gib_min"] == pytest.approx(
        row["mean_resident_bytes"] / (1 << 30) * row["span_s"] / 60, abs=1e-5
    )


def test_a_sweep_has_a_row_for_every_point_in_the_order_of_the_grid(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = rows_of(capsys, *SWEEP)["rows"]
    assert [(row["order"], row["delay_s"], row["seed"]) for row in rows] == [
        (order, delay, seed) for order in (0, 9) for delay in (0.25, 2.0) for seed in (0, 1)
    ]


def test_the_answer_says_what_makes_a_difference_and_what_does_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = rows_of(capsys, *SWEEP, "--goal", "settle")["answer"]
    assert answer.startswith("Order 9, delay 0.25 s: ")
    assert "order makes no difference" in answer
    assert "delay 2 s instead of 0.25 s: " in answer


def test_small_pages_with_holes_come_back_at_order_0_only(capsys: pytest.CaptureFixture[str]) -> None:
    # Since 6.7 a page set's limit tunes itself up, and keeps a good part of what is freed page by page.
    words = (
        "lab",
        "holes:32MiB/4",
        "--preset",
        "v6.1",
        "--guest",
        "512MiB",
        "--seeds",
        "1",
        "--order",
        "0,9",
        "--capacity",
        "512",
        "--until",
        "12",
    )
    small, huge = rows_of(capsys, *words)["rows"]
    assert small["given_back_bytes"] > 20 << 20
    assert huge["given_back_bytes"] < 2 << 20


def test_a_recorded_guest_has_predicted_and_recorded_passes_and_a_curve(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = rows_of(
        capsys,
        "lab",
        f"trace:{RECORDED / 'v6.12-cap2.txt.gz'}",
        "--state",
        str(RECORDED / "v6.12-state1.txt.gz"),
        "--rss",
        str(RECORDED / "v6.12-cap2-rss.txt.gz"),
    )
    assert len(found["predicted"]) == len(found["recorded"]) == 4
    assert {"t_s", "blocks", "bytes"} == found["predicted"][0].keys()
    assert found["rss"]["distance"] < 0.05
    assert len(found["rss"]["predicted"]) == len(found["rss"]["measured"])


def test_the_terminal_gets_a_sentence_and_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BURST, "--delay", "0.5,2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Delay 0.5 s: ")
    assert "GiB*min" in lines[1]
    assert len(lines) == 4


def test_a_study_is_the_same_words_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "study.toml"
    study.write_text(
        'about = "bursts"\nload = "burst:64MiB"\n[guest]\nguest = "512MiB"\n[grid]\norder = [0, 9]\ndelay = [0.25, 2]\n'
    )
    assert rows_of(capsys, "lab", str(study), "--seeds", "2")["rows"] == rows_of(capsys, *SWEEP)["rows"]


RECORDED_GUEST = [
    *("lab", f"trace:{RECORDED / 'v6.12-cap2.txt.gz'}"),
    *("--state", str(RECORDED / "v6.12-state1.txt.gz")),
]


@pytest.mark.parametrize(
    "words",
    [
        [*BURST, "--order", "0"],
        ["lab", "idle", "--guest", "512MiB"],
        ["lab", "burst:64MiB", "--guest", "512MiB", "--policy", "quiet:5"],
        RECORDED_GUEST,
        [*RECORDED_GUEST, "--level", "calls"],
    ],
    ids=["order 0", "idle", "quiet", "zone", "calls"],
)
def test_the_log_of_a_predicted_guest_is_judged_as_any_other(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("msgspec")
    rows_of(capsys, *words, "--seeds", "1", "--run-dir", str(tmp_path))
    assert json.loads((tmp_path / "summary.json").read_text())["verdict"] == "SUCCESS"
    assert main(["verify", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("SUCCESS")


def test_the_judge_of_a_predicted_guest_sees_a_planted_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("msgspec")
    with planted("M-6"):  # pieces of a split block are Reported because the whole was
        rows_of(capsys, *RECORDED_GUEST, "--run-dir", str(tmp_path))
    assert json.loads((tmp_path / "summary.json").read_text())["verdict"] == "FAILURE"
    assert main(["verify", str(tmp_path)]) == 1


def test_a_folder_that_holds_something_is_no_run_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("")
    assert "is not empty" in refusal(capsys, *BURST, "--run-dir", str(tmp_path))


# -- engines -------------------------------------------------------------------------------------------


def test_rows_are_the_same_from_processes_and_from_an_executor_of_ones_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    outputs = []
    for words in (["--jobs", "1"], ["--jobs", "2"], ["--executor", f"{Path(__file__).stem}:own_executor"]):
        assert main([*SWEEP, *words, "--json"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] == outputs[2]


CLUSTER = """
import sys
from distributed import LocalCluster
from stress.cli import main
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        sys.exit(main([*sys.argv[1:], "--executor", f"dask:{cluster.scheduler_address}"]))
"""


def in_a_process_of_its_own(*words: str) -> subprocess.CompletedProcess[str]:
    """Dask keeps its threads until its process ends."""
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.slow
def test_rows_are_the_same_from_a_dask_cluster(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    here = rows_of(capsys, *SWEEP, "--jobs", "1")
    script = tmp_path / "cluster.py"
    script.write_text(CLUSTER)
    done = in_a_process_of_its_own(str(script), *SWEEP, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == here


@pytest.mark.skipif(not gil_enabled(), reason="threads are an engine here")
def test_threads_are_refused_where_only_one_runs_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert "has a GIL" in refusal(capsys, *SWEEP, "--executor", "threads")


@pytest.mark.parametrize("command", ["explore", "mutants"])
def test_a_search_has_a_process_to_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("greenlet")
    assert "a search wants a process to itself" in refusal(capsys, command, "--executor", "threads")


def test_a_sweep_goes_on_from_the_rows_it_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*SWEEP, "--jobs", "1", "--out", str(tmp_path))
    first = rows_of(capsys, *words)
    kept = tmp_path / "rows.jsonl"
    lines = kept.read_text().splitlines()
    forged = json.loads(lines[0])
    forged["row"]["passes"] = 4711
    kept.write_text("\n".join([json.dumps(forged), *lines[1:5], lines[5][:40]]) + "\n")

    again = rows_of(capsys, *words)
    assert again["rows"][0]["passes"] == 4711, "what is there is not computed again"
    assert again["rows"][1:] == first["rows"][1:]


def test_a_page_opens_without_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("plotly")
    rows_of(capsys, *SWEEP, "--jobs", "1", "--out", str(tmp_path))
    page = (tmp_path / "report.html").read_text()
    assert "How far to believe this" in page
    assert "no difference" in page
    assert 'src="http' not in page
    assert page.count("plotly-graph-div") >= 2


# -- bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["burst:2potatoes"], "burst:2potatoes"),
        (["thunder"], "load 'thunder', expected idle, burst:SIZE"),
        (["burst:2GiB", "--order", "11"], "--order: '11'"),
        (["burst:2GiB", "--order", "0,,x"], "--order: 'x'"),
        (["burst:2GiB", "--capacity", "0"], "--capacity: '0'"),
        (["burst:2GiB", "--policy", "decay"], "decay:SECONDS"),
        (["burst:2GiB", "--policy", "decay:-1"], "decay:SECONDS"),
        (["burst:2GiB", "--policy", "nobody"], "expected one of kernel"),
        (["burst:2GiB", "--goal", "beauty"], "--goal: 'beauty'"),
        (["burst:2GiB", "--seeds", "0"], "--seeds: '0'"),
        (["burst:2GiB", "--guest", "64MiB"], "--guest 64 MiB"),
        (["burst:2GiB", "--scale", "64"], "--scale 64"),
        (["burst:2GiB", "--executor", "horses"], "--executor: 'horses'"),
        (["burst:2GiB", "--executor", "dask:"], "expected dask:ADDRESS"),
        (["curve:nowhere.csv"], "nowhere.csv: No such file"),
        (["trace:nowhere.txt"], "nowhere.txt: No such file"),
        (["nowhere.toml"], "nowhere.toml: No such file"),
        (["burst:2GiB", "--rss", "x"], "--rss"),
    ],
)
def test_bad_input_is_one_line_that_names_it(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complaint in refusal(capsys, "lab", "--delay", "1,2", *words)


def test_a_grid_of_a_million_points_is_refused_before_anything_is_computed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    delays = ",".join(str(1 + step / 1000) for step in range(1000))
    capacities = ",".join(map(str, range(1, 1001)))
    words = ("lab", "burst:64MiB", "--delay", delays, "--capacity", capacities, "--seeds", "1")
    assert "a grid of 1,000,000 points" in refusal(capsys, *words)


@pytest.mark.slow
def test_an_unreachable_cluster_is_one_line() -> None:
    pytest.importorskip("distributed")
    done = in_a_process_of_its_own("-m", "stress", *SWEEP, "--executor", "dask:tcp://127.0.0.1:9")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "no cluster at tcp://127.0.0.1:9" in done.stderr


def test_a_build_is_judged_where_its_curve_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PAGEALLOC_LAB", raising=False)
    assert "PAGEALLOC_LAB is not set" in refusal(capsys, "lab", "--validate=full")
    monkeypatch.setenv("PAGEALLOC_LAB", str(tmp_path))
    assert "clang_load_curve.csv: No such file" in refusal(capsys, "lab", "--validate=full")

    curve = "".join(f"{t_s},{4000 + t_s % 300}\n" for t_s in range(0, 120, 2))
    (tmp_path / "clang_load_curve.csv").write_text("t_s,used_mib\n" + curve)
    figures = list(builds())
    assert len(figures) == 8
    assert not figures[-1].passed  # another load than the one that was measured is noticed


def test_a_truncated_pagetypeinfo_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = gzip.decompress((RECORDED / "v6.1-state1.txt.gz").read_bytes()).decode()
    path = tmp_path / "pagetypeinfo.txt"
    trace = f"trace:{RECORDED / 'v6.1-cap2.txt.gz'}"
    for lines in (14, 12, 6):
        path.write_text("\n".join(text.splitlines()[:lines]) + "\n")
        assert "pagetypeinfo" in refusal(capsys, "lab", trace, "--guest", "1GiB", "--state", str(path))


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_what_was_computed_is_kept_when_a_point_cannot_be(
    jobs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state.txt"
    state.write_text(gzip.decompress((RECORDED / "v6.1-state0.txt.gz").read_bytes()).decode())
    sweep = ("lab", "idle", "--state", str(state), "--guest", "1GiB,128MiB", "--seeds", "3", "--jobs", jobs)
    assert "do not fit into its 28672 pages" in refusal(capsys, *sweep, "--out", str(tmp_path / "out"))
    kept = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert [row["row"]["seed"] for row in kept] == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("t_s,used_mib\n0,100\n1,\n2,100\n", "row 3: a gap"),
        ("t_s,used_mib\n0,100\n1,100\n2,100\n3,100\n400,100\n", "a gap of 397 s before 400 s"),
        ("t_s,used_mib\n0,100\n1,100\n1,100\n", "is not later"),
        ("time,used\n0,100\n", "no column t_s, used_mib"),
        ("t_s,used_mib\n0,100\nnan,100\n", "curve.csv: row 3: t_s is nan, expected less than 1e+06 s"),
        ("t_s,used_mib\n0,100\n1e18,100\n", "curve.csv: row 3: t_s is 1e+18, expected"),
        ("t_s,used_mib\n0,100\n1,nan\n", "curve.csv: row 3: used_mib is nan, expected 0 or more"),
        ("t_s,used_mib\n0,-5\n1,100\n", "curve.csv: row 2: used_mib is -5, expected 0 or more"),
        ("t_s,used_mib\n0,1e300\n1,100\n", "curve.csv: row 2: used_mib is 1e+300, expected"),
        ("t_s,used_mib,cached_mib\n0,5,inf\n1,100,0\n", "curve.csv: row 2: cached_mib is inf, expected"),
    ],
)
def test_a_curve_with_a_gap_is_refused(
    text: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "curve.csv"
    path.write_text(text)
    assert complaint in refusal(capsys, "lab", f"curve:{path}")


def test_a_curve_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    path.write_text("t_s,used_mib\n0,100\n1,200\n", encoding="utf-8-sig")
    assert read_curve(path).used_mib == (100, 200)


def test_a_full_disk_leaves_the_answer_printed_and_no_half_of_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # a writer meets it as it would a full disk
    try:
        status = main([*BURST, "--jobs", "1", "--out", str(tmp_path)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    captured = capsys.readouterr()
    assert status == 3
    assert captured.err == f"stress: --out: {tmp_path / 'report.html'}: File too large\n"
    assert captured.out.startswith("The one setting: ")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_row_that_finds_no_room_is_no_bad_input(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").symlink_to("/dev/full")
    limited = Sweep([], None)
    limited._path, limited._keys = tmp_path / "rows.jsonl", ["a"]
    with pytest.raises(CannotBeDone, match=r"--out: .*rows.jsonl: No space left on device"):
        limited._keep(0, {}, [], [])


def no_iterator(machine: object) -> int:
    return 3


def no_times(machine: object) -> Iterator[str]:
    yield "soon"


def failing(machine: object) -> Iterator[float]:
    yield 1.0
    raise ZeroDivisionError("of its own")


@pytest.mark.parametrize(
    ("load", "complaint"),
    [
        ("os:getcwd", "load 'os:getcwd' cannot be made: TypeError: "),
        (f"{__name__}:no_iterator", "cannot be made: it returns a int, expected an iterator of times"),
        (f"{__name__}:no_times", "yields 'soon', expected a time in seconds"),
        (f"{__name__}:failing", "failed: ZeroDivisionError: of its own"),
        ("burst:0MiB", "size is 0MiB, expected a block of order 9 or more"),
        ("burst:1GiB@99", "order is 99, expected 0 .. 10"),
        ("burst:1GiB@-1", "order is -1, expected 0 .. 10"),
        ("burst:1GiB", "load 'burst:1GiB': 1024 MiB, expected the guest's 512 MiB at most"),
        ("holes:1MiB/0", "keep is 0, expected 2 or more"),
        ("churn:64MiB/1e-300", "period is 1e-300, expected 0.001 .. 1e+06"),
        ("functions:1e300,64MiB,5", "rate is 1e300, expected 1e-06 .. 1000"),
        ("functions:1,64MiB,nan", "hold is nan, expected 0.001 .. 1e+06"),
    ],
)
def test_a_load_that_cannot_be_is_refused(
    load: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complaint in refusal(capsys, "lab", load, "--guest", "512MiB", "--seeds", "1")


@pytest.mark.parametrize(
    "load", ["burst:256MiB", "churn:256MiB@0/2", "functions:1,64MiB@5,5", "holes:256MiB/512"]
)
def test_a_scale_divides_a_made_up_load_too(load: str, capsys: pytest.CaptureFixture[str]) -> None:
    guest = (load, "--guest", "1GiB", "--seeds", "1", "--until", "30")
    (whole,), (scaled,) = (rows_of(capsys, "lab", *guest, "--scale", scale)["rows"] for scale in ("1", "4"))
    assert whole["peak_resident_bytes"] > 0
    assert abs(scaled["peak_resident_bytes"] / whole["peak_resident_bytes"] - 1) < 0.1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            ["burst:4MiB"],
            "load 'burst:4MiB': --scale 4 leaves no block of order 9 of it, expected a smaller scale",
        ),
        (["burst:2GiB"], "load 'burst:2GiB': 2048 MiB, expected the guest's 1024 MiB at most"),
        (
            ["os:getcwd"],
            "load 'os:getcwd': --scale 4 divides no recording and no load of your own, expected 1",
        ),
        (
            ["burst:1GiB", "--state", "pagetypeinfo"],
            "--scale 4: a start state is that of a whole guest, expected 1",
        ),
    ],
)
def test_what_a_scale_does_not_divide_is_refused(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complaint in refusal(capsys, "lab", *words, "--guest", "1GiB", "--seeds", "1", "--scale", "4")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--used", "1GiB"], "--used 1024 MiB: expected the guest's 512 MiB at most"),
        (["--zoneinfo", "/dev/null"], "--zoneinfo: /dev/null: no zone in it, expected zoneinfo text"),
        (["--goal", "refaults<=-1"], "--goal: 'refaults<=-1': -1 refaults, expected 0 or more"),
        (["--goal", "refaults<=nan"], "nan refaults, expected 0 or more"),
        (["--policy", "share:200"], "'200' is more than 100, expected share:PERCENT"),
        (["--executor", "foo"], "--executor: 'foo', expected processes"),
    ],
)
def test_a_setting_that_means_nothing_is_refused_even_for_one_point(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complaint in refusal(
        capsys, "lab", "burst:64MiB", "--guest", "512MiB", "--seeds", "1", "--jobs", "1", *words
    )


def test_rows_that_are_no_text_are_computed_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("lab", "burst:64MiB", "--guest", "512MiB", "--seeds", "1", "--out", str(tmp_path))
    rows = rows_of(capsys, *words)["rows"]
    with (tmp_path / "rows.jsonl").open("r+b") as file:
        file.write(bytes(range(128, 256)))
    assert rows_of(capsys, *words)["rows"] == rows


def test_a_module_of_ones_own_that_fails_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot be loaded" in refusal(capsys, "lab", "no_such_module:load")
    assert "cannot be made" in refusal(capsys, "lab", "burst:64MiB", "--policy", "no_such_module:Policy")
