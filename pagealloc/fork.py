"""What a child of a fork does with its parent's objects: it parts with them.

A child has a copy of every object and none of the threads: a lock may be held by a thread that it does not
have, and shared memory is still the parent's. Whatever must not be used in a child says so here, and is
told in the child before anything else runs there; the parent's own path asks nobody for its number.
"""

from __future__ import annotations

import os
from typing import NoReturn, Protocol
from weakref import ref

from pagealloc.errors import AnotherProcess


class Parting(Protocol):
    """Something that belongs to the process that made it."""

    def part(self) -> None:
        """Stop being the parent's: in the child, whose only thread is the caller."""
        ...


# By number, which a thing that has gone leaves to the next. A set of weak references would call a function of its
# own when a thing goes, and an exception from outside that comes into one is lost.
_ours: dict[int, ref[Parting]] = {}
_swept = [1000]  # how many there may be before those that have gone are looked for


def belongs_to_this_process(thing: Parting) -> None:
    """Have `thing` told in every child of a fork. It is not kept alive."""
    _ours[id(thing)] = ref(thing)
    if len(_ours) > _swept[0]:
        for number, left in list(_ours.items()):
            if left() is None:
                _ours.pop(number, None)
        _swept[0] = 1000 + 2 * len(_ours)


def refuse_everything(thing: Parting, what: str) -> None:
    """Put a refusal in the place of every public method of `thing`, for `part`: the parent's calls pay nothing."""

    def refuse(*_arguments: object, **_named: object) -> NoReturn:
        raise AnotherProcess(
            f"{what} is the parent process's, from which this one was forked; expected one of the child's own"
        )

    for name in dir(type(thing)):
        if not name.startswith("_") and name != "part" and callable(getattr(type(thing), name)):
            setattr(thing, name, refuse)


def _part() -> None:
    for left in list(_ours.values()):
        thing = left()
        if thing is not None:
            thing.part()


os.register_at_fork(after_in_child=_part)
