"""The list of scenarios: small closed programs, each aimed at one danger.

A scenario builds a machine of a few dozen frames, lets one to four tasks loose, and rests. A new one is a
function with `@scenario`, in `races` or `vectors`: its name is what `--list` and replay files show, its
docstring the danger.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stress.search.kit import Kit

Body = Callable[[Kit], None]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A closed program and what it is about."""

    name: str
    about: str
    body: Body


SCENARIOS: dict[str, Scenario] = {}


def scenario(body: Body) -> Body:
    """Enter a function into the list, under its own name with dashes."""
    name = body.__name__.replace("_", "-")
    about = " ".join((body.__doc__ or "").split())
    SCENARIOS[name] = Scenario(name, about, body)
    return body
