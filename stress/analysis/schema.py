"""The columns of a log in SQL: one table of all records and a view for each event, made from `stress.log.events`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from stress.log.events import EVENTS, HEADER, field_names

SCALARS: dict[Any, str] = {int: "BIGINT", bool: "BOOLEAN", str: "VARCHAR"}
JSON = "JSON"  # what has no type of its own in SQL, or not the same one in all events


def sql_type(hint: Any) -> str:
    """Return the SQL type of a field's annotation; nested lists of numbers are arrays."""
    if hint in SCALARS:
        return SCALARS[hint]
    arguments = [
        argument for argument in get_args(hint) if argument is not type(None) and argument is not ...
    ]
    if type(None) in get_args(hint):
        return sql_type(arguments[0])
    if get_origin(hint) in {list, tuple} and len({sql_type(argument) for argument in arguments}) == 1:
        inner = sql_type(arguments[0])
        return JSON if inner == JSON else f"{inner}[]"
    return JSON


@cache  # the view of each event asks for the columns of all
def event_columns(event: str) -> Mapping[str, str]:
    """Return the SQL type of each field that an event has behind the header."""
    hints = get_type_hints(EVENTS[event])
    return {name: sql_type(hints[name]) for name in field_names(event)}


@cache
def table_columns() -> Mapping[str, str]:
    """Return the SQL types of the table that holds all records; a field that differs between events is JSON."""
    columns = {"event": "VARCHAR", **dict.fromkeys(HEADER, "BIGINT")}
    for event in EVENTS:
        for name, kind in event_columns(event).items():
            columns[name] = kind if columns.get(name, kind) == kind else JSON
    return columns


def event_view(event: str) -> str:
    """Return the query behind an event's view: seconds in front, then the header, then its own fields."""
    shared = table_columns()
    own = [
        f'"{name}"' if shared[name] == kind else f'CAST("{name}" AS {kind}) AS "{name}"'
        for name, kind in event_columns(event).items()
    ]
    columns = ", ".join(["t / 1e9 AS seconds", *HEADER, *own])
    return f"SELECT {columns} FROM records WHERE event = '{event}'"


def event_meaning(event: str) -> str:
    """Return the first sentence of an event's docstring."""
    text = " ".join((EVENTS[event].__doc__ or "").split())
    sentence, dot, _ = text.partition(". ")
    return sentence + dot.strip()
