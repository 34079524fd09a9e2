"""The list of scenarios: small closed programs, each aimed at one danger.

A scenario builds a machine of a few dozen frames, lets one to four tasks loose, and rests. A new one is a
function with `@scenario`, in one of this folder's files: its name is what `--list` and replay files show, its
docstring the danger.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import overload

from stress.search.kit import Kit

Body = Callable[[Kit], None]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A closed program and what it is about."""

    name: str
    about: str
    body: Body


SCENARIOS: dict[str, Scenario] = {}


@overload
def scenario(body: Body, /) -> Body: ...
@overload
def scenario(*, also_in_two_zones: bool) -> Callable[[Body], Body]: ...
def scenario(
    body: Body | None = None, /, *, also_in_two_zones: bool = False
) -> Body | Callable[[Body], Body]:
    """Enter a function into the list, under its own name with dashes.

    `also_in_two_zones`: there is a second form, with another zone below those that the scenario builds, whose blocks
    the worker comes to first.
    """

    def enter(body: Body) -> Body:
        name = body.__name__.replace("_", "-")
        about = " ".join((body.__doc__ or "").split())
        SCENARIOS[name] = Scenario(name, about, body)
        if also_in_two_zones:
            second = f"{name}-in-two-zones"
            SCENARIOS[second] = Scenario(
                second, f"The same with another zone below: {about}", in_two_zones(body)
            )
        return body

    return enter if body is None else enter(body)


def in_two_zones(body: Body) -> Body:
    """Return the form of a scenario that has another zone below its own."""

    @wraps(body)
    def with_another_zone(kit: Kit) -> None:
        kit.two_zones = True
        body(kit)

    return with_another_zone
