"""A run's log as a DuckDB database: read once into a temporary file, and asked in SQL.

    with open_run(path) as log:
        log.rows("SELECT count(*) FROM mm_page_alloc")

The database keeps to `MEMORY_LIMIT` and spills to disk beyond that, so a log may be larger than memory. It lies in a
folder of its own among the temporary files (TMPDIR chooses where), which goes when it is closed. The run itself is
only read.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
from rich.console import Console

from stress.analysis.schema import event_view, table_columns
from stress.analysis.views import VIEWS
from stress.errors import one_line
from stress.log.events import EVENTS
from stress.log.files import BadLog, log_files
from stress.log.reader import check_is_log, damage_of
from stress.system.files import temporary_folder

MEMORY_LIMIT = "512MiB"
# A snapshot of a zone in small pieces is one long line; two such buffers for each thread.
LINE_BYTES_MAX = 32 << 20


class RunLog:
    """An open log."""

    def __init__(self, run: Path, connection: duckdb.DuckDBPyConnection) -> None:
        self.run = run
        self.connection = connection

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of one of our own queries."""
        return self.connection.execute(query).fetchall()

    def row(self, query: str) -> tuple[Any, ...]:
        """Return the one row of a query that has one."""
        return self.rows(query)[0]

    def records(self, query: str) -> list[dict[str, Any]]:
        """Return the rows of one of our own queries, by column."""
        self.connection.execute(query)
        names = [column[0] for column in self.connection.description or ()]
        return [dict(zip(names, row, strict=True)) for row in self.connection.fetchall()]


@contextmanager
def open_run(run: Path, writable: Path | None = None) -> Iterator[RunLog]:
    """Read a run's log into a database. Raises BadLog when the path holds none, or one that is not whole lines.

    Queries can reach no file but those below `writable`.
    """
    check_is_log(run)
    with temporary_folder() as folder:
        connection = duckdb.connect(
            str(folder / "log.duckdb"),
            config={
                "memory_limit": MEMORY_LIMIT,
                "temp_directory": str(folder),
                "preserve_insertion_order": False,
            },
        )
        try:
            with Console(stderr=True).status("reading the log"):
                _load(connection, run)
            if writable is not None:
                connection.execute("SET allowed_directories = $folders", {"folders": [str(writable)]})
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            yield RunLog(run, connection)
        finally:
            connection.close()


def warn_of_damage(run: Path) -> None:
    """Say on stderr when a log that can be asked is not as it was written: its figures may mislead."""
    if (damage := damage_of(run)) is not None:
        print(f"stress: warning: {one_line(f'{run}: {damage}')}; verify says more", file=sys.stderr)


def _load(connection: duckdb.DuckDBPyConnection, run: Path) -> None:
    columns = ", ".join(f"'{name}': '{kind}'" for name, kind in table_columns().items())
    try:
        connection.execute(
            "CREATE TABLE records AS SELECT * FROM read_json($files, format = 'newline_delimited', "
            f"columns = {{{columns}}}, maximum_object_size = {LINE_BYTES_MAX})",
            {"files": [str(path) for path in log_files(run)]},
        )
    except duckdb.Error as error:
        raise BadLog(_where(str(error))) from error
    for event in EVENTS:
        connection.execute(f'CREATE VIEW "{event}" AS {event_view(event)}')
    for view in VIEWS:
        connection.execute(f'CREATE VIEW "{view.name}" AS {view.query}')


def _where(message: str) -> str:
    """Say which line of which file DuckDB could not read."""
    found = re.search(r'in file "([^"]*)".*? in (?:line|record/value) (\d+)', message)
    if found is None:
        return f"the log cannot be read: {message.partition(chr(10))[0]}"
    return (
        f"{found[1]}:{found[2]}: expected a whole JSON record, the line is damaged or cut off "
        "(without it the rest can be read)"
    )
