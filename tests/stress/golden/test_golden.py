"""The kernel's own runs: every carried case agrees, a difference is named, and what is no case is refused."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pagealloc.revision import PRESETS
from stress.cli import main
from stress.golden.cases import CorruptCase, find_cases, read_case
from stress.golden.command import describe_difference
from stress.golden.comparison import CaseResult, replay
from stress.golden.replayer import Replayer
from stress.golden.state import digest

GOLDEN = Path(__file__).parents[2] / "golden"
DESIGNED = GOLDEN / "designed"
FOLDERS = {
    "designed": 95,
    "designed_02cf8719": 90,
    "designed_36e66c55": 90,
    "designed_v5.7": 90,
    "designed_v6.12": 120,
    "random": 6,
    "random_02cf8719": 6,
    "random_36e66c55": 6,
    "random_v5.7": 6,
    "random_v6.12": 6,
    "real": 2,
    "real_v6.12": 1,
}
SAMPLE = 120
LONG_BYTES = 1_000_000  # the longest recorded run is of more, and takes a minute or two

Json = dict[str, Any]


def failures_of(paths: list[Path]) -> list[str]:
    """Replay cases; returns the first difference of each that fails, with its name."""
    return list(map(describe_difference, filter(differs, map(replay, paths))))


def differs(result: CaseResult) -> bool:
    return result.difference is not None


# -- the kernel's runs ---------------------------------------------------------------------------------------


@pytest.mark.timeout(600)
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_carried_case_agrees_with_the_kernel(folder: str) -> None:
    cases = find_cases([GOLDEN / folder])
    assert len(cases) == FOLDERS[folder]
    failures = failures_of(cases)
    assert not failures, "\n".join(failures)


def test_the_carried_cases_cover_every_revision_and_every_operation() -> None:
    flavours: set[str] = set()
    operations: set[str] = set()
    for case in find_cases([GOLDEN]):
        header, lines = read_case(case)
        flavours.add(header["flavour"])
        operations.update(line["op"]["op"] for line in lines)
    assert flavours == set(PRESETS) - {"seed"}, "nothing was ever recorded for the message's own rules"
    assert operations == {name.removeprefix("_op_") for name in dir(Replayer) if name.startswith("_op_")}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_larger_set_of_cases_agrees_with_the_kernel() -> None:
    """PAGEALLOC_GOLDEN names folders, as PATH does; what is carried, too, is not replayed twice.

    Of the others a sample of the random ones, and none that takes minutes; all with PAGEALLOC_GOLDEN_ALL=1, or by
    `stress golden FOLDER`.
    """
    folders = os.environ.get("PAGEALLOC_GOLDEN")
    if not folders:
        pytest.skip("PAGEALLOC_GOLDEN names no folder with more recorded cases")
    cases = find_cases([Path(folder) for folder in folders.split(os.pathsep)])
    cases.sort(key=lambda case: -case.stat().st_size)  # the longest first: no process is left alone with one
    if os.environ.get("PAGEALLOC_GOLDEN_ALL") != "1":
        carried = {case.read_bytes() for case in find_cases([GOLDEN])}
        cases = [
            case for case in cases if case.stat().st_size <= LONG_BYTES and case.read_bytes() not in carried
        ]
        made_at_random = [case for case in cases if case.parent.name.startswith("random")]
        kept = set(random.Random(1).sample(made_at_random, min(SAMPLE, len(made_at_random))))
        cases = [case for case in cases if case in kept or case not in made_at_random]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as executor:
        results = executor.map(replay, cases)
        failures = list(map(describe_difference, filter(differs, results)))
    assert not failures, "\n".join(failures)


# -- differences are found and named -------------------------------------------------------------------------


def load(path: Path) -> list[Json]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def store(path: Path, lines: list[Json]) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return path


@pytest.fixture
def case() -> list[Json]:
    """A case with a pass and a batch, to be changed."""
    return load(DESIGNED / "12_capacity_plus_one.jsonl.gz")


def first_pass(lines: list[Json]) -> Json:
    return next(line for line in lines if line.get("res", {}).get("reports"))


def golden(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[str], str]:
    status = main(["golden", "--jobs", "1", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err


def test_cases_that_agree_are_counted_and_nothing_else_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    paths = [DESIGNED / "10_leftover_only.jsonl.gz", DESIGNED / "11_exactly_capacity.jsonl.gz"]
    assert golden(capsys, *paths) == (0, ["2 passed, 0 failed"], "")


def test_a_folder_stands_for_the_cases_below_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    below = tmp_path / "deep" / "deeper"
    below.mkdir(parents=True)
    for name in ("one", "two", "three"):
        store(below / f"{name}.jsonl.gz", load(DESIGNED / "10_leftover_only.jsonl.gz"))
    (below / "notes.txt").write_text("no case", encoding="utf-8")
    assert golden(capsys, tmp_path) == (0, ["3 passed, 0 failed"], "")


def test_several_processes_come_to_the_same_result(tmp_path: Path, case: list[Json]) -> None:
    case[3]["digest"] = "00000000"
    store(tmp_path / "b.jsonl.gz", case)
    for name in ("a", "c"):
        store(tmp_path / f"{name}.jsonl.gz", load(DESIGNED / "10_leftover_only.jsonl.gz"))
    run = subprocess.run(
        [sys.executable, "-m", "stress", "golden", "--jobs", "2", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    out = run.stdout.splitlines()
    assert (run.returncode, run.stderr) == (1, "")
    assert out[0].startswith(f"FAILED {tmp_path}/b.jsonl.gz: operation 2 ")
    assert out[-1] == "2 passed, 1 failed"


def assert_differs(
    capsys: pytest.CaptureFixture[str], path: Path, *, where: str, kernel: str, ours: str
) -> None:
    status, out, err = golden(capsys, path)
    assert (status, err) == (1, "")
    assert out == [
        f"FAILED {path}: {where}",
        f"    kernel: {kernel}",
        f"    ours:   {ours}",
        "0 passed, 1 failed",
    ]


def test_a_changed_digest_is_named_beside_ours(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, case: list[Json]
) -> None:
    line = case[3]
    ours, line["digest"] = line["digest"], "00000000"
    path = store(tmp_path / "case.jsonl.gz", case)
    where = f"operation 2 ({line['op']['op']}), digest"
    assert_differs(capsys, path, where=where, kernel='"00000000"', ours=f'"{ours}"')


def test_a_changed_batch_is_named_down_to_the_block(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, case: list[Json]
) -> None:
    line = first_pass(case)
    block = line["res"]["reports"][0]["batch"][1]
    ours = block[0]
    block[0] = 9999
    path = store(tmp_path / "case.jsonl.gz", case)
    where = f"operation {line['i']} (run_worker), res.reports[0].batch[1][0]"
    assert_differs(capsys, path, where=where, kernel="9999", ours=str(ours))


def test_a_batch_that_is_missing_is_shown_whole(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, case: list[Json]
) -> None:
    line = first_pass(case)
    line["res"]["reports"].append({"zone": 0, "batch": [[1, 0]], "digest": "0", "nested": [], "err": 0})
    status, out, _ = golden(capsys, store(tmp_path / "case.jsonl.gz", case))
    assert status == 1
    assert out[0].endswith("(run_worker), res.reports")
    assert "[[1, 0]]" in out[1]
    assert "[[1, 0]]" not in out[2]


def test_a_changed_pfn_of_an_allocation_is_named_beside_ours(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lines = load(DESIGNED / "37_alloc_clears_reported.jsonl.gz")
    line = next(line for line in lines if "pfn" in line.get("res", {}))
    ours = line["res"]["pfn"]
    line["res"]["pfn"] = ours + 1
    path = store(tmp_path / "case.jsonl.gz", lines)
    where = f"operation {line['i']} (alloc), res.pfn"
    assert_differs(capsys, path, where=where, kernel=str(ours + 1), ours=str(ours))


def test_a_changed_entry_of_a_list_is_named_before_the_digest(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, case: list[Json]
) -> None:
    line = case[1]
    name, pfns = next(iter(line["state"]["zones"][0]["lists"].items()))
    ours, pfns[0] = pfns[0], 4242
    line["digest"] = digest(line["state"])
    path = store(tmp_path / "case.jsonl.gz", case)
    where = f"operation 0 (init), state.zones[0].lists.{name}[0]"
    assert_differs(capsys, path, where=where, kernel="4242", ours=str(ours))


def test_a_refusal_is_no_difference_whatever_its_words(tmp_path: Path) -> None:
    lines = load(DESIGNED / "82_refused_ops.jsonl.gz")
    refused = [line for line in lines if "refused" in line.get("res", {})]
    assert refused
    for line in refused:
        line["res"]["refused"] = "in other words"
    assert replay(store(tmp_path / "case.jsonl.gz", lines)).difference is None


def test_a_refusal_that_should_not_be_is_a_difference(tmp_path: Path) -> None:
    lines = load(DESIGNED / "82_refused_ops.jsonl.gz")
    line = next(line for line in lines if "refused" in line.get("res", {}))
    line["res"] = {"ok": True}
    difference = replay(store(tmp_path / "case.jsonl.gz", lines)).difference
    assert difference is not None
    assert (difference.operation, difference.kernel) == (line["i"], "true")


# -- files that are no cases ---------------------------------------------------------------------------------


def with_header(change: Callable[[Json], object]) -> Callable[[list[Json]], None]:
    return lambda lines: (change(lines[0]), None)[1]


def with_op(change: Callable[[Json], object], number: int = 1) -> Callable[[list[Json]], None]:
    return lambda lines: (change(lines[number]["op"]), None)[1]


CORRUPTIONS: dict[str, tuple[Callable[[list[Json]], None], str]] = {
    "header without flavour": (with_header(lambda h: h.pop("flavour")), "the header lacks flavour"),
    "header without name and ops": (
        with_header(lambda h: (h.pop("name"), h.pop("ops"))),
        "the header lacks name, ops",
    ),
    "too few operations": (lambda lines: lines.__delitem__(-1), "operations, the header promises"),
    "too many operations": (lambda lines: lines.append(lines[-1]), "operations, the header promises"),
    "operation count in words": (with_header(lambda h: h.update(ops="five")), "the header promises five"),
    "unknown flavour": (with_header(lambda h: h.update(flavour="v9.9")), "flavour 'v9.9' is none of"),
    "flavour is a list": (with_header(lambda h: h.update(flavour=["v6.1"])), "flavour"),
    "unknown operation": (with_op(lambda op: op.update(op="reboot")), "unknown operation 'reboot'"),
    "operation is a list": (lambda lines: lines[1].update(op=["init"]), "operation 0"),
    "operation name is a list": (with_op(lambda op: op.update(op=["init"])), "unknown operation ['init']"),
    "operation is missing": (lambda lines: lines[1].pop("op"), "operation 0"),
    "result is missing": (lambda lines: lines[1].pop("res"), "operation 0"),
    "digest is missing": (lambda lines: lines[1].pop("digest"), "operation 0"),
    "zones is no list": (with_op(lambda op: op.update(zones=7)), "operation 0"),
    "zone is a list": (with_op(lambda op: op.update(zones=[[]])), "operation 0"),
    "pages are words": (with_op(lambda op: op["zones"][0].update(pages="many")), "operation 0"),
    "too many orders": (with_op(lambda op: op.update(max_order=99)), "operation 0"),
    "capacity of zero": (with_op(lambda op: op.update(capacity=0)), "operation 0"),
    "capacity beyond measure": (with_op(lambda op: op.update(capacity=10**30)), "operation 0"),
    "first operation is no init": (
        lambda lines: lines[1].update(op={"op": "alloc", "zone": 0, "order": 0, "mt": 1}),
        "operation 0",
    ),
}

IN_LAST_OPERATION: dict[str, Json] = {
    "zone index out of range": {"op": "alloc", "zone": 5, "order": 0, "mt": 1},
    "zone index below zero": {"op": "alloc", "zone": -1, "order": 0, "mt": 1},
    "zone index is null": {"op": "set_boost", "zone": None, "pages": 1},
    "unknown migratetype": {"op": "alloc", "zone": 0, "order": 0, "mt": 7},
    "unknown flag": {"op": "alloc", "zone": 0, "order": 0, "mt": 1, "flags": ["turbo"]},
    "unknown watermark": {"op": "alloc", "zone": 0, "order": 0, "mt": 1, "wmark": "promo"},
    "order beyond measure": {"op": "free", "pfn": 0, "order": 10**30},
    "device out of range": {"op": "unregister", "dev": 2},
    "pfn is a list": {"op": "free", "pfn": [1], "order": 0},
    "field missing": {"op": "set_wmark", "zone": 0, "min": 1},
    "Reported page that is not free": {
        "op": "load_state",
        "zones": [{"lists": {}, "reported": [1], "blocks": "1" * 8}],
    },
    "list of an order that is not there": {
        "op": "load_state",
        "zones": [{"lists": {"77.1": [0]}, "reported": [], "blocks": "1" * 8}],
    },
    "fewer zones than there are": {"op": "load_state", "zones": []},
}


def assert_corrupt(capsys: pytest.CaptureFixture[str], path: Path, message: str) -> None:
    with pytest.raises(CorruptCase) as corrupt:
        replay(path)
    assert str(corrupt.value).startswith(f"{path}: ")
    assert message in str(corrupt.value)
    status, out, err = golden(capsys, path)
    assert (status, out) == (2, [])
    assert err.startswith("stress: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_case_that_is_not_as_it_must_be_is_named_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, case: list[Json], name: str
) -> None:
    corrupt, message = CORRUPTIONS[name]
    corrupt(case)
    assert_corrupt(capsys, store(tmp_path / "case.jsonl.gz", case), message)


@pytest.mark.parametrize("name", IN_LAST_OPERATION)
def test_an_operation_that_cannot_be_carried_out_is_named_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, case: list[Json], name: str
) -> None:
    case[-1]["op"] = IN_LAST_OPERATION[name]
    path = store(tmp_path / "case.jsonl.gz", case)
    assert_corrupt(capsys, path, f"operation {len(case) - 2}")


BYTES: dict[str, tuple[bytes, str]] = {
    "plain text": (b"this is no gzip file\n", "no readable gzip file"),
    "nothing at all": (b"", "empty, expected a header line"),
    "empty gzip": (gzip.compress(b""), "empty, expected a header line"),
    "truncated gzip": (gzip.compress(b'{"flavour": "v6.1"}\n' * 100)[:30], "no readable gzip file"),
    "gzip with a wrong checksum": (gzip.compress(b"{}")[:-8] + b"\0" * 8, "no readable gzip file"),
    "no JSON": (gzip.compress(b'{"flavour": \n'), "line 1 is no JSON"),
    "JSON that breaks off in line 2": (gzip.compress(b'{"flavour": "v6.1"}\n{"op"'), "line 2 is no JSON"),
    "a header that is a list": (gzip.compress(b"[1, 2]\n"), "line 1 is no JSON object"),
    "no UTF-8": (gzip.compress(b'{"name": "\xff"}'), "no readable gzip file of UTF-8 text"),
    "brackets without end": (gzip.compress(b"[" * 100_000), "line 1 is no JSON"),
    "a number of 5000 digits": (gzip.compress(b'{"ops": ' + b"9" * 5000 + b"}"), "line 1 is no JSON"),
}


@pytest.mark.parametrize("name", BYTES)
def test_a_file_that_cannot_be_read_is_named_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    content, message = BYTES[name]
    path = tmp_path / "case.jsonl.gz"
    path.write_bytes(content)
    assert_corrupt(capsys, path, message)


def test_a_file_that_is_no_case_does_not_keep_the_others_from_being_replayed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, case: list[Json]
) -> None:
    store(tmp_path / "a.jsonl.gz", case)
    (tmp_path / "b.jsonl.gz").write_bytes(b"no gzip")
    store(tmp_path / "c.jsonl.gz", case)
    status, out, err = golden(capsys, tmp_path)
    assert (status, out) == (2, ["2 passed, 1 failed"])
    assert err.count("\n") == 1
    assert "b.jsonl.gz" in err


def test_a_path_that_leads_nowhere_is_named_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, out, err = golden(capsys, tmp_path / "nowhere")
    assert (status, out, err) == (2, [], f"stress: {tmp_path}/nowhere: no such file or folder\n")
    status, out, err = golden(capsys, tmp_path)
    assert (status, out) == (2, [])
    assert err == f"stress: {tmp_path}: no *.jsonl.gz file below this folder\n"


@pytest.mark.parametrize(
    "arguments", [["golden"], ["golden", "--jobs", "0", "x"], ["golden", "--jobs", "two", "x"]]
)
def test_bad_arguments_are_answered_with_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    try:
        status: object = main(arguments)
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    assert captured.err.count("\n") == 1
