"""Fields of the product's objects, watched: a property in the place of each, be it a slot or in the dictionary."""

from __future__ import annotations

from collections.abc import Callable
from inspect import getattr_static
from types import MemberDescriptorType
from typing import Any

Look = Callable[[], None]  # told before a field is read, or written
WATCHED = "_watched_fields"  # an attribute of every class that has such properties


def watch(thing: Any, fields: dict[str, tuple[Look | None, Look]]) -> None:
    """Tell of every look at these fields of a thing: before it is read, unless None, and before it is written."""
    cls = type(thing)
    properties = {name: _property(cls, name, *looks) for name, looks in fields.items()}
    thing.__class__ = type(cls.__name__, (cls,), {"__slots__": (), WATCHED: True, **properties})


def _property(cls: type, name: str, before_read: Look | None, before_write: Look) -> property:
    found = getattr_static(cls, name, None)
    field = found if isinstance(found, MemberDescriptorType | property) else None  # a property: watched twice

    def get(thing: Any) -> Any:
        if before_read is not None:
            before_read()
        return vars(thing)[name] if field is None else field.__get__(thing)

    def put(thing: Any, value: Any) -> None:
        before_write()
        if field is None:
            vars(thing)[name] = value
        else:
            field.__set__(thing, value)

    return property(get, put)
