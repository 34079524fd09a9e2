"""`stress sql`: a run's log asked in SQL, and exported as Parquet."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
from rich.table import Table
from rich.text import Text

from stress.analysis.log import RunLog, open_run, warn_of_damage
from stress.analysis.schema import event_meaning
from stress.analysis.views import VIEWS
from stress.errors import EXIT_SUCCESS, BadArgument, one_line, quoted
from stress.log.events import EVENTS
from stress.system import terminal
from stress.system.files import output_path, write_whole

ROWS_SHOWN = 100  # in a table; --csv and --json have no end
FETCH_ROWS = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `stress sql` can be told."""
    parser.set_defaults(command=command_sql)
    parser.add_argument("run", type=Path, nargs="?", metavar="RUN", help="run directory")
    parser.add_argument("query", nargs="?", metavar="QUERY", help="in DuckDB's SQL; it can only read")
    parser.add_argument("--views", action="store_true", help="list the views and what a row of each is")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a JSON object for each row")
    form.add_argument("--csv", action="store_true", help="print CSV with a line of names")
    parser.add_argument(
        "--parquet", type=output_path, metavar="DIR", help="write each view that has rows to DIR/VIEW.parquet"
    )


def command_sql(arguments: argparse.Namespace) -> int:
    """Answer a query, or export; what DuckDB does not accept is a bad argument."""
    if arguments.views:
        _print_views()
        return EXIT_SUCCESS
    if arguments.run is None:
        raise BadArgument("sql: expected a run directory and a query, or --views")
    if arguments.query is None and arguments.parquet is None:
        raise BadArgument("sql: expected a query, or --parquet DIR (--views lists what can be asked)")
    statements = _statements(arguments.query) if arguments.query is not None else []
    if arguments.parquet is not None:
        _check_folder(arguments.parquet, arguments.run)
    with open_run(arguments.run, arguments.parquet) as log:
        warn_of_damage(arguments.run)
        try:
            for statement in statements:
                _answer(log.connection.execute(statement), arguments)
        except duckdb.Error as error:
            raise BadArgument(f"sql: {error}") from error
        if arguments.parquet is not None:
            sys.stdout.flush()
            written = export(log, arguments.parquet)
            if not (arguments.json or arguments.csv):
                print(f"parquet {arguments.parquet}: {written} files")
    return EXIT_SUCCESS


def _statements(query: str) -> list[duckdb.Statement]:
    """Take a query apart. Raises BadArgument when there is nothing in it, or what DuckDB does not understand."""
    try:
        with duckdb.connect() as parser:
            statements = parser.extract_statements(query)
    except duckdb.Error as error:
        raise BadArgument(f"sql: {error}") from error
    if not statements:
        raise BadArgument(
            f"sql: {quoted(query)} asks nothing, expected a statement such as SELECT count(*) FROM locks"
        )
    return statements


def _answer(answer: duckdb.DuckDBPyConnection, arguments: argparse.Namespace) -> None:
    names = [column[0] for column in answer.description or ()]
    if not names:
        return  # a statement without an answer, such as SET
    if arguments.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(rows_of(answer))
    elif arguments.json:
        for row in rows_of(answer):
            print(json.dumps(dict(zip(names, row, strict=True)), default=str))
    else:
        _print_table(answer, names)


def rows_of(answer: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of an answer, a part at a time."""
    while rows := answer.fetchmany(FETCH_ROWS):
        yield from rows


def _print_table(answer: duckdb.DuckDBPyConnection, names: list[str]) -> None:
    rows = answer.fetchmany(ROWS_SHOWN + 1)
    table = Table()
    for index, name in enumerate(names):
        numbers = bool(rows) and isinstance(rows[0][index], int | float)
        table.add_column(Text(one_line(name)), justify="right" if numbers else "left", overflow="fold")
    for row in rows[:ROWS_SHOWN]:
        table.add_row(*(Text(_cell(value)) for value in row))
    console = terminal.console()
    console.print(table)
    if len(rows) > ROWS_SHOWN:
        console.print(f"only the first {ROWS_SHOWN} rows are shown; --csv and --json print all")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) >= 1 else f"{value:.6g}"
    return "\n".join(map(one_line, str(value).split("\n")))


def _print_views() -> None:
    table = Table(title="views: joined and counted, then one for each event")
    table.add_column("view", no_wrap=True)
    table.add_column("a row is")
    for view in VIEWS:
        table.add_row(view.name, view.meaning)
    table.add_section()
    for event in EVENTS:
        table.add_row(event, Text(event_meaning(event)))
    terminal.console().print(table)


# -- Parquet -------------------------------------------------------------------------------------------------


def _check_folder(folder: Path, run: Path) -> None:
    """Refuse a folder inside the run: what reads a run never writes to it."""
    if folder.resolve().is_relative_to(run.resolve()):
        raise BadArgument(f"--parquet: {folder} is inside the run, expected a folder elsewhere")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        occupied = any(folder.iterdir())
    except OSError as error:
        raise BadArgument(f"--parquet: {folder}: {error.strerror}") from error
    if occupied:
        raise BadArgument(f"--parquet: {folder} is not empty, expected a new or an empty folder")


def export(log: RunLog, folder: Path) -> int:
    """Write every view that has rows to a Parquet file of its own name; returns how many. Raises BadArgument."""
    written = 0
    for name in [*(view.name for view in VIEWS), *EVENTS]:
        if log.rows(f'SELECT 1 FROM "{name}" LIMIT 1'):
            write_whole("--parquet", folder / f"{name}.parquet", partial(_copy, log, name))
            written += 1
    return written


def _copy(log: RunLog, name: str, path: Path) -> None:
    target = str(path).replace("'", "''")
    try:
        log.rows(f"COPY (SELECT * FROM \"{name}\") TO '{target}' (FORMAT parquet, COMPRESSION zstd)")
    except duckdb.Error as error:
        raise BadArgument(f"--parquet: {path.parent}: {error}") from error
