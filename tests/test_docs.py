"""The documents are held to the program: what they name is there, and what must be named is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pagealloc.revision import PRESETS
from stress.cli import COMMANDS
from stress.invariants import INVARIANTS
from stress.mutants import MUTANTS, NOT_EXPRESSIBLE
from workers.policies import POLICIES
from workers.reporters import SHIPPED

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
README_LINES_MAX = 200

Complaints = list[str]

LINK = re.compile(r"\]\(([^)#\s]+)(?:#([^)\s]+))?\)")
# What stands in code and looks like a file of ours; a name in capitals stands for any.
PATH = re.compile(r"`((?:pagealloc|workers|stress|tests|docs)/[\w./-]*)`")
ROW = re.compile(r"^\| (\S+) \| (.*?) \|", re.MULTILINE)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def broken_links(text: str, folder: Path) -> Complaints:
    """Complain of a link to a file that is not there, or to a heading that it lacks."""
    complaints = []
    for target, heading in LINK.findall(text):
        if "://" in target:
            continue
        path = folder / target
        if not path.exists():
            complaints.append(target)
        elif heading and heading not in headings(path.read_text(encoding="utf-8")):
            complaints.append(f"{target}#{heading}")
    return complaints


def headings(text: str) -> set[str]:
    """Return the names by which a page's headings are linked to."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def missing_paths(text: str) -> Complaints:
    """Complain of a path of the program that is not there."""
    return [
        path for path in PATH.findall(text) if not re.search("[A-Z]{3}", path) and not (ROOT / path).exists()
    ]


def unnamed(names: list[str], text: str) -> Complaints:
    """Complain of a name that no piece of code in the text begins with."""
    return [name for name in names if f"`{name}`" not in text and f"`{name}:" not in text]


def rows(text: str) -> dict[str, str]:
    """Return the first two columns of all tables."""
    return {name: words for name, words in ROW.findall(text) if name not in ("---", "name", "fault")}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_points_to_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert broken_links(text, path.parent) == []
    assert missing_paths(text) == []


def test_the_readme_is_short_and_has_every_command() -> None:
    text = text_of("README.md")

    assert len(text.splitlines()) <= README_LINES_MAX
    assert [command for command in COMMANDS if f"stress {command}" not in text] == []


@pytest.mark.parametrize(
    ("document", "names"),
    [
        ("docs/RUNS.md", list(SHIPPED)),
        ("docs/LAB.md", list(POLICIES)),
        ("docs/ARCHITECTURE.md", list(PRESETS)),
    ],
    ids=["reporters", "policies", "presets"],
)
def test_what_can_be_chosen_by_its_name_is_in_the_documents(document: str, names: list[str]) -> None:
    assert unnamed(names, text_of(document)) == []


def test_each_invariant_is_in_its_list_in_the_words_of_the_program() -> None:
    listed = {
        name: words for name, words in rows(text_of("docs/INVARIANTS.md")).items() if name in INVARIANTS
    }

    assert listed == INVARIANTS


def test_each_fault_is_in_its_list_in_the_words_of_the_program() -> None:
    listed = {name: words for name, words in rows(text_of("docs/FAULTS.md")).items() if name.startswith("M-")}

    assert listed == {name: mutant.about for name, mutant in MUTANTS.items()} | NOT_EXPRESSIBLE
    mistakes = {name.rstrip("abcdefgh") for name in listed}
    assert f" {len(mistakes)} mistakes." in text_of("docs/FAULTS.md")


def test_each_of_the_64_mistakes_is_planted_or_said_to_be_out_of_reach() -> None:
    numbers = {int(re.findall(r"\d+", name)[0]) for name in (*MUTANTS, *NOT_EXPRESSIBLE)}

    assert numbers >= set(range(1, 65))


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (
            lambda text: broken_links(text, ROOT),
            "[a](README.md), [b](https://x.org/y)",
            "[a](docs/NOTHING.md)",
        ),
        (lambda text: broken_links(text, ROOT), "[a](README.md#see-it)", "[a](README.md#see-nothing)"),
        (lambda text: unnamed(["age", "flush"], text), "`age:S` and `flush`", "`aged` and `flush`"),
        (missing_paths, "`stress/cli.py`, `workers/`, `stress/ROOM/command.py`", "`stress/cly.py`"),
    ],
)
def test_a_rule_tells_good_from_bad(rule: Callable[[str], Complaints], good: str, bad: str) -> None:
    assert rule(good) == []
    assert rule(bad) != []
