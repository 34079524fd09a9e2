"""The tables of figures in the documents are written from the figures, not by hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from stress.bench import table
from stress.bench.builds import Column
from stress.bench.measure import Row, compare

ROOT = Path(__file__).parents[3]


@pytest.fixture
def documents() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks", ROOT / "docs" / "benchmarks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(name: str, ratio: float, goal: float | None, *, at_most: bool = False) -> Row:
    return compare(name, [ratio], [1.0], goal=goal, at_most=at_most, unit="", against="it")


def results() -> table.Results:
    machine = table.describe_machine()
    here = Column({**machine, "compiled": False}, [], "", {})
    there = Column({**machine, "compiled": True}, [], "", {})
    here.rows += [
        row("speed", 0.5, 0.6),
        row("hold", 3.7, 1.25, at_most=True),
        Row("none", skipped="no time"),
    ]
    there.rows += [row("speed", 1634.0, 1.5)]
    return table.Results(here, [], there)


def test_a_ratio_that_falls_short_has_its_goal_beside_it(documents: ModuleType) -> None:
    assert documents.ratios({"cpython-3.11": results()}) == (
        "|  | 3.11, interpreted | 3.11, compiled |\n"
        "| --- | --- | --- |\n"
        "| speed | 0.5 < 0.6 | 1.63 k |\n"
        "| hold | 3.7 > 1.25 |  |\n"
    )


def test_a_table_takes_the_place_of_the_last_one_and_nothing_else(documents: ModuleType) -> None:
    found = {"cpython-3.11": results()}
    text = f"before\n{documents.MARK}| an old | table |\n\nafter\n\nmore\n"
    written = documents.with_ratios(text, found)

    assert written == f"before\n{documents.MARK}{documents.ratios(found)}\nafter\n\nmore\n"
    assert documents.with_ratios(written, found) == written


def test_the_tables_in_the_documents_are_those_of_the_figures(documents: ModuleType) -> None:
    text = documents.SUMMARY.read_text(encoding="utf-8")
    assert documents.MARK in text
    found = documents.all_results()
    if not found:
        pytest.skip("there are no figures yet")
    assert documents.with_ratios(text, found) == text
    for name, each in found.items():
        assert (documents.FIGURES / f"{name}.md").read_text(encoding="utf-8") == f"{table.markdown(each)}\n"


def test_the_peers_of_the_documents_are_those_of_the_extra(documents: ModuleType) -> None:
    extras = (
        (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("\npeers = [")[2].partition("]")[0]
    )
    assert all(f'"{name}>=' in extras for name in documents.PEERS)
    assert extras.count(">=") == len(documents.PEERS)
