"""The words of a run: good ones mean what they say, bad ones are answered with one line and exit status 2."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pagealloc.memory import ZoneSpec
from stress.cli import main
from stress.errors import BadArgument
from stress.mutants import MUTANTS
from stress.run.params import OPTIONS, RunParams, option_of, parse_range, parse_size

# -- good words ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "nr_bytes"),
    [("4KiB", 4096), ("64MiB", 64 << 20), ("1.5GiB", 3 << 29), ("2TiB", 2 << 40), (" 1MiB ", 1 << 20)],
)
def test_a_size_is_digits_with_a_unit(text: str, nr_bytes: int) -> None:
    assert parse_size(text) == nr_bytes


@pytest.mark.parametrize(
    "text", ["", "64", "MiB", "64MB", "64M", "-1MiB", "1,5GiB", "1e3MiB", "0x10MiB", ".5GiB"]
)
def test_a_size_without_digits_or_unit_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no size with a unit, such as 64MiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "range_s"), [("0.5", (0.5, 0.5)), ("0.1..2", (0.1, 2.0)), ("0", (0.0, 0.0))]
)
def test_a_range_is_seconds_or_a_range_of_them(text: str, range_s: tuple[float, float]) -> None:
    assert parse_range(text) == range_s


@pytest.mark.parametrize("text", ["", "fast", "1..", "..1", "1..2..3", "1-2"])
def test_a_range_in_other_words_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        parse_range(text)


def test_zones_are_built_in_the_order_of_their_addresses() -> None:
    params = RunParams(zones="1:Normal=8MiB, Normal=16MiB,DMA32=4MiB,DMA=2MiB")
    assert params.zone_specs() == [
        ZoneSpec("DMA", 512),
        ZoneSpec("DMA32", 1024),
        ZoneSpec("Normal", 4096),
        ZoneSpec("Normal", 2048, node=1),
    ]


def test_the_words_of_a_run_are_what_differs_from_the_defaults() -> None:
    assert RunParams().words() == "the defaults"
    assert RunParams(seed=7, reporter_sleep_s=(0.1, 0.25)).words() == "seed=7 reporter_sleep_s=0.1..0.25"
    assert RunParams(mutant="M-1", seed=1).words() == "mutant=M-1"


@pytest.mark.parametrize("mutant", MUTANTS)
def test_every_mutant_is_a_good_word(mutant: str) -> None:
    assert RunParams(mutant=mutant).mutant == mutant


# -- bad words -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("allocators", 0, "--allocators: 0, expected 1 .. 1024"),
        ("allocators", 1025, "--allocators: 1025, expected 1 .. 1024"),
        ("seconds", 0.0, "--seconds: 0.0, expected more than 0"),
        ("seconds", math.nan, "--seconds: nan, expected more than 0"),
        ("seconds", math.inf, "--seconds: inf, expected more than 0"),
        ("delay", -0.1, "--delay: -0.1, expected 0 .. 1e+08 seconds"),
        ("delay", math.nan, "--delay: nan, expected 0 .. 1e+08 seconds"),
        ("order", 11, "--order: 11, expected 0 .. 10"),
        ("order", -1, "--order: -1, expected 0 .. 10"),
        ("capacity", 0, "--capacity: 0, expected 1 .. 65536"),
        ("capacity", 65537, "--capacity: 65537, expected 1 .. 65536"),
        ("preset", "v9", "--preset: 'v9', expected one of 36e66c55, 02cf8719, v5.7, v6.1, v6.12, seed"),
        ("ram", "disk", "--ram: 'disk', expected anonymous or memfd"),
        ("fail_rate", 1.5, "--fail-rate: 1.5, expected a probability, 0 .. 1"),
        ("delay_rate", math.nan, "--delay-rate: nan, expected a probability, 0 .. 1"),
        ("lose_rate", -1.0, "--lose-rate: -1.0, expected a probability, 0 .. 1"),
        ("mutant", "M-0", "--mutant: 'M-0', expected one that explore --list shows"),
        (
            "reporter_sleep_s",
            (2.0, 1.0),
            "--reporter-sleep: '2.0..1.0', expected S or S..T, with 0 <= S <= T",
        ),
        ("reporter_sleep_s", (0.0, math.inf), "--reporter-sleep: '0.0..inf'"),
        ("reporter_sleep_s", (math.nan, math.nan), "--reporter-sleep: 'nan..nan'"),
        ("hang_after", 0.0, "--hang-after: 0.0, expected more than 0"),
        ("stat_interval", math.nan, "--stat-interval: nan, expected more than 0"),
        ("stutter", 30.0, "--stutter: 30.0, expected less than --hang-after, 30"),
        ("long_hold", 31.0, "--long-hold: 31.0, expected less than --hang-after, 30"),
        ("long_hold_interval", 0.0, "--long-hold-interval: 0.0, expected more than 0"),
        (
            "switch_interval",
            (1e-7, 0.1),
            "--switch-interval: '1e-07..0.1', expected S or S..T within 1e-06 .. 1",
        ),
        ("register_interval", -1.0, "--register-interval: -1.0, expected 0 .. 1e+08 seconds"),
        ("onoff_interval", math.inf, "--onoff-interval: inf, expected 0 .. 1e+08 seconds"),
        ("allocators_min", 0, "--allocators-min: 0, expected 1 .. --allocators, here 4"),
        ("allocators_min", 5, "--allocators-min: 5, expected 1 .. --allocators, here 4"),
        ("inbox_max", -1, "--inbox-max: -1, expected 0 .. 1048576"),
        ("fill", 0.0, "--fill: 0.0, expected more than 0, 1 at most"),
        ("fill", 1.1, "--fill: 1.1, expected more than 0, 1 at most"),
        ("rhythm", "1.5:1", "--rhythm: '1.5:1', expected a fill of 0 .. 1"),
        ("towards", 1.1, "--towards: 1.1, expected a probability, 0 .. 1"),
        ("handover", math.nan, "--handover: nan, expected a probability, 0 .. 1"),
        ("rhythm", "", "--rhythm: '', expected FILL:SECONDS or FILL:SECONDS:idle"),
        ("rhythm", "1:1,0.5", "--rhythm: '0.5', expected FILL:SECONDS"),
        ("rhythm", "1:1:rest", "--rhythm: '1:1:rest', expected FILL:SECONDS or FILL:SECONDS:idle"),
        ("rhythm", "1:1:", "--rhythm: '1:1:', expected FILL:SECONDS or FILL:SECONDS:idle"),
        ("rhythm", "full:1", "--rhythm: 'full:1', expected FILL:SECONDS"),
        ("rhythm", "1:0", "--rhythm: '1:0', expected a fill of 0 .. 1, and more than 0 seconds"),
        ("rhythm", "nan:1", "--rhythm: 'nan:1', expected a fill of 0 .. 1"),
        ("alloc_orders", "0-3", "--alloc-orders: '0-3', expected K=WEIGHT or K-K=WEIGHT"),
        ("alloc_orders", "0-11=1", "--alloc-orders: '0-11=1', expected rising orders of 0 .. 10"),
        ("alloc_orders", "3-1=1", "--alloc-orders: '3-1=1', expected rising orders"),
        ("alloc_orders", "a=1", "--alloc-orders: 'a=1', expected K=WEIGHT"),
        ("alloc_orders", "0=0", "--alloc-orders: '0=0', expected a weight of 1 .. 1000000"),
        ("gfp", "KERNEL", "--gfp: 'KERNEL', expected FLAG=WEIGHT"),
        ("gfp", "KERNAL=1", "--gfp: 'KERNAL=1', expected flags of ATOMIC, "),
        ("gfp", "ZONE_MASK=1", "--gfp: 'ZONE_MASK=1', expected flags of ATOMIC, "),
        ("gfp", "MOVABLE|RECLAIMABLE=1", "expected MOVABLE or RECLAIMABLE, not both"),
        ("zones", "", "--zones: '', expected [NODE:]NAME=SIZE"),
        ("zones", "Normal=3MiB,Normal=4MiB", "expected zone Normal of node 0 once"),
        ("zones", "Normal=64MiB,", "--zones: '', expected"),
        ("zones", "Nomal=64MiB", "--zones: 'Nomal=64MiB', expected [NODE:]NAME=SIZE with NAME one of DMA"),
        ("zones", "x:Normal=64MiB", "--zones: 'x:Normal=64MiB', expected"),
        ("zones", "99999999999999:Normal=64MiB", "expected a node of 0 .. 1023"),
        ("zones", "1024:Normal=64MiB", "expected a node of 0 .. 1023"),
        ("zones", f"Normal={'9' * 5000}MiB", "64 TiB at most"),
        ("gfp", f"KERNEL={'9' * 5000}", "expected FLAG=WEIGHT"),
        ("alloc_orders", f"{'9' * 5000}=1", "expected K=WEIGHT"),
        ("zones", "Normal=64", "--zones: 'Normal=64': '64' is no size with a unit"),
        ("zones", "Normal=5KiB", "expected a size of whole pages of 4096 bytes"),
        ("zones", "Normal=0MiB", "expected a size of whole pages"),
        ("zones", "Normal=65TiB", "64 TiB at most"),
    ],
)
def test_a_bad_parameter_names_itself_its_value_and_what_is_expected(
    field: str, value: object, message: str
) -> None:
    bad: dict[str, object] = {field: value}
    with pytest.raises(BadArgument) as error:
        RunParams(**bad)  # type: ignore[arg-type]
    assert message in str(error.value)


@pytest.mark.parametrize(
    "rates",
    [
        {"fail_rate": 0.6, "lose_rate": 0.6},
        {"fail_rate": 0.6, "delay_rate": 0.6},
        {"delay_rate": 1.0, "lose_rate": 0.1},
    ],
)
def test_rates_that_add_up_to_more_than_all_batches_are_refused(rates: dict[str, float]) -> None:
    with pytest.raises(
        BadArgument, match=r"--fail-rate [+] --delay-rate [+] --lose-rate: .* 1 together at most"
    ):
        RunParams(**rates)  # type: ignore[arg-type]


def test_rates_of_all_batches_together_are_fine_in_spite_of_rounding() -> None:
    RunParams(fail_rate=0.7, delay_rate=0.2, lose_rate=0.1)


@pytest.mark.parametrize("name", ["delay", "reporter_sleep_s"])
def test_a_time_that_no_thread_can_wait_is_refused(name: str) -> None:
    """`Condition.wait` and `sleep` raise OverflowError beyond some 292 years."""
    value = 1e300 if name == "delay" else (0.0, 1e300)
    bad: dict[str, object] = {name: value}
    with pytest.raises(BadArgument):
        RunParams(**bad)  # type: ignore[arg-type]


BAD_COMMANDS = [
    "",
    "fly",
    "run --allocators 0",
    "run --allocators two",
    "run --allocators -3",
    "run --allocators 1.5",
    "run --zones Normal=3MiB,Normal=4",
    "run --zones Normal=3MiB,Normal=4MiB",
    "run --zones Normal",
    "run --zones =64MiB",
    "run --zones -1:Normal=64MiB",
    "run --order 99",
    "run --order ten",
    "run --capacity 0",
    "run --seconds nan",
    "run --seconds 0",
    "run --seconds -1",
    "run --seconds soon",
    "run --delay nan",
    "run --delay -1",
    "run --ram floppy",
    "run --preset v9.9",
    "run --reporter nobody",
    "run --reporter no_such_module:Class",
    "run --reporter workers.reporters:Missing",
    "run --reporter-sleep nan",
    "run --reporter-sleep 2..1",
    "run --reporter-sleep long",
    "run --fail-rate 2",
    "run --delay-rate nan",
    "run --lose-rate -0.1",
    "run --mutant M-999",
    "run --seed pi",
    "run --no-such-option",
    "run --seconds",
    "run no-such-scenario",
    "run no-such-file.toml",
    "run all surplus",
    "run all --seconds 0",
    "run --rhythm fast",
    "run --gfp NONE=1",
    "run --switch-interval 1..2..3",
    "golden",
    "golden --jobs 0 .",
    "golden --jobs x .",
    "golden no/such/path",
]


def answer(arguments: list[str]) -> object:
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize("command", BAD_COMMANDS)
def test_a_bad_argument_gives_status_two_one_line_on_stderr_and_nothing_on_stdout(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    status = answer(command.split())
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    assert captured.err.startswith("stress")
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def assert_run_directory_refused(capsys: pytest.CaptureFixture[str], path: Path, *, because: str) -> None:
    assert answer(["run", "--seconds", "0.1", "--run-dir", str(path)]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert captured.err.startswith(f"stress: --run-dir: {path}")
    assert because in captured.err


def test_a_run_directory_that_is_not_empty_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "precious.txt").write_text("mine", encoding="utf-8")
    assert_run_directory_refused(capsys, tmp_path, because="not empty, expected a new or an empty folder")
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_a_run_directory_that_is_a_file_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_text("mine", encoding="utf-8")
    assert_run_directory_refused(capsys, path, because="File exists")


def test_a_run_directory_that_cannot_be_made_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert_run_directory_refused(capsys, Path("/dev/full/run"), because="Not a directory")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["golden", "--help"]])
def test_help_is_given_on_stdout(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert answer(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("usage: stress")
    assert captured.err == ""


def test_the_help_of_run_names_every_parameter_and_where_the_mutants_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer(["run", "--help"])
    out = capsys.readouterr().out
    assert set(OPTIONS) == set(RunParams().as_dict()) - {"scenario", "phases"}
    for name in OPTIONS:
        assert option_of(name) in out
    assert "explore --list" in out
