"""Make docs/benchmarks/ anew, and the table of docs/BENCHMARKS.md: both builds on each interpreter, one after the other.

    python docs/benchmarks.py python3.11 python3.13 python3.13t

makes an environment for each build of this source (it needs a C compiler), and takes a quarter of an hour for each
interpreter; the first one has the curves as well. `--environments FOLDER` keeps the environments there, and takes those
that have this source already (which does not look at hatch_build.py). Without an interpreter the tables are written
again from the figures, which stand as JSON beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from stress.bench.builds import different_file, probe
from stress.bench.measure import Row
from stress.bench.table import Results, build, markdown, number
from stress.errors import BadArgument

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "benchmarks"
SUMMARY = ROOT / "docs" / "BENCHMARKS.md"
MARK = "<!-- ratios: written by docs/benchmarks.py -->\n"
NEEDS = ["rich", "sortedcontainers", "structlog"]
PEERS = [
    "cocotbext-axi",
    "tinygrad",
]  # one module of each is loaded alone, so what they depend on is not needed
# Asked of an interpreter: what its files are called. A "t" is free-threaded, and greenlet would give it its GIL back.
NAME = """
import platform, sys, sysconfig
threaded = sysconfig.get_config_var("Py_GIL_DISABLED")
print(f"cpython-{sys.version_info[0]}.{sys.version_info[1]}{'t' if threaded else ''}")
"""


def run(*command: str | Path, compiled: bool = False) -> str:
    """Run a program from the source's folder; returns its output, and lets its complaints through."""
    environment = {name: value for name, value in os.environ.items() if name != "PAGEALLOC_COMPILE"}
    if compiled:
        environment["PAGEALLOC_COMPILE"] = "1"
    ended = subprocess.run(  # noqa: S603 - interpreters that the user names
        [*map(str, command)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return ended.stdout


def environment(folder: Path, python: str, *extra: str, compiled: bool) -> Path:
    """Make an environment that has this source and all peers; returns its Python."""
    own = folder / "bin" / "python"
    if not own.exists():
        run(python, "-m", "venv", folder)
    if is_current(own, compiled=compiled):
        return own
    pip = (own, "-m", "pip", "install", "-q", "--disable-pip-version-check")
    run(*pip, *NEEDS, *extra)
    run(*pip, "--no-deps", *PEERS)
    run(*pip, "--no-deps", "--force-reinstall", ".", compiled=compiled)
    return own


def is_current(python: Path, *, compiled: bool) -> bool:
    """Whether an environment has the wanted build of this source."""
    try:
        file, found = probe(str(python))
    except BadArgument:
        return False
    return found == compiled and different_file(ROOT, Path(file).parents[1]) is None


def measure(python: str, environments: Path, *options: str) -> None:
    """Measure both builds on one interpreter, and write what they came to."""
    name = run(python, "-c", NAME).strip()
    search = [] if name.endswith("t") else ["greenlet"]
    interpreted = environment(environments / f"{name}-interpreted", python, *search, compiled=False)
    compiled = environment(environments / f"{name}-compiled", python, compiled=True)
    print(f"{name}: measuring", file=sys.stderr, flush=True)
    found = run(interpreted, "-I", "-m", "stress", "bench", "--json", "--compiled", compiled, *options)
    figures = json.dumps(json.loads(found), indent=1, ensure_ascii=False)
    (FIGURES / f"{name}.json").write_text(f"{figures}\n", encoding="utf-8")


def all_results() -> dict[str, Results]:
    """Read the figures that there are, by interpreter."""
    files = sorted(FIGURES.glob("*.json"))
    return {file.stem: Results.from_dict(json.loads(file.read_text(encoding="utf-8"))) for file in files}


def ratios(found: dict[str, Results]) -> str:
    """Return a table of all ratios, a column for each build on each interpreter; one that falls short has its goal."""
    columns = {
        f"{name.removeprefix('cpython-')}, {build(column.machine)}": {row.name: row for row in column.rows}
        for name, results in found.items()
        for column in results.columns
    }
    names = dict.fromkeys(
        name for rows in columns.values() for name, row in rows.items() if row.ratio is not None
    )
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[name, *(cell(rows.get(name)) for rows in columns.values())] for name in names]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(row: Row | None) -> str:
    """Write a ratio, and the goal that it does not reach."""
    if row is None or row.ratio is None:
        return ""
    short = "" if row.met is not False else f" {'>' if row.at_most else '<'} {row.goal:g}"
    return f"{number(row.ratio, '')}{short}"


def with_ratios(text: str, found: dict[str, Results]) -> str:
    """Put the table of ratios into a document: from its mark to the next empty line."""
    before, mark, after = text.partition(MARK)
    return f"{before}{mark}{ratios(found)}{after[after.index(chr(10) * 2) + 1 :]}"


def write_tables() -> None:
    """Write every table from the figures."""
    found = all_results()
    for name, results in found.items():
        (FIGURES / f"{name}.md").write_text(f"{markdown(results)}\n", encoding="utf-8")
    SUMMARY.write_text(with_ratios(SUMMARY.read_text(encoding="utf-8"), found), encoding="utf-8")


def main() -> None:
    """Measure on every interpreter that is named, and write all tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pythons", nargs="*", metavar="PYTHON")
    parser.add_argument("--environments", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--quick", action="store_true", help="tiny windows: shows that it works, measures little"
    )
    arguments = parser.parse_args()
    options = ["--quick"] if arguments.quick else []
    with tempfile.TemporaryDirectory() as folder:
        environments = (arguments.environments or Path(folder)).resolve()
        for number, python in enumerate(arguments.pythons):
            measure(python, environments, *options, *([] if number else ["--growth"]))
    write_tables()


if __name__ == "__main__":
    main()
