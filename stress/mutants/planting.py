"""What a planted fault is, and how it gets into the product and out again.

An `Edit` is a diff of one method, applied to the method's source and compiled in the method's own module.
A fault is then as small on the page as it is in life, and the rest of the method is always today's: a diff
that no longer fits the product is an error (`StaleMutant`), never a fault that quietly went away.
"""

from __future__ import annotations
import __future__ as future

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from textwrap import dedent, indent
from types import FunctionType, ModuleType

from pagealloc import mmzone, page_flags


class StaleMutant(Exception):
    """The product changed: a planted fault's diff does not fit its method, or fits in two places."""


Owner = type | ModuleType


@dataclass(frozen=True, slots=True)
class Edit:
    """A diff of a method: hunks with an empty line between them, of lines that begin with "- ", "+ " or "  ".

    The indentation is a hunk's own; it fits wherever the lines stand in the method.
    """

    diff: str

    def apply(self, owner: Owner, method: str) -> Callable[..., object]:
        """Return the owner's method, or function, with the diff applied. Raises StaleMutant when it does not fit."""
        function = inspect.unwrap(getattr(owner, method))
        assert isinstance(function, FunctionType), f"{owner.__name__}.{method} is no plain method"
        lines = dedent(inspect.getsource(function)).splitlines()
        for hunk in dedent(self.diff).strip("\n").split("\n\n"):
            removed = [line[2:] for line in hunk.splitlines() if line[0] != "+"]
            added = [line[2:] for line in hunk.splitlines() if line[0] != "-"]
            places = [at for at in range(len(lines)) if _undented(lines[at : at + len(removed)]) == removed]
            if len(places) != 1:
                raise StaleMutant(f"{owner.__name__}.{method} has {len(places)} places for\n{hunk}")
            at = places[0]
            margin = lines[at][: len(lines[at]) - len(lines[at].lstrip()) - _leading(removed[0])]
            lines[at : at + len(removed)] = [indent(line, margin) for line in added]
        # The names of page states and migratetypes are at hand, whether the method's module has them or not.
        namespace = {**vars(page_flags), **vars(mmzone), **function.__globals__}
        code = compile(
            "\n".join(lines),
            f"<mutant of {function.__qualname__}>",
            "exec",
            flags=future.annotations.compiler_flag,
            dont_inherit=True,
        )
        exec(code, namespace)  # noqa: S102 - a fault is a piece of program text, and comes from this folder
        replacement: Callable[..., object] = namespace[method]
        return replacement


def _undented(lines: list[str]) -> list[str]:
    return dedent("\n".join(lines)).splitlines()


def _leading(line: str) -> int:
    return len(line) - len(line.lstrip())


Patch = tuple[Owner, str, Callable[..., object] | Edit]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A planted fault: what is wrong, what must notice it, and (class or module, method, replacement) for each patch.

    `invariant` is the first thing that a search in all scenarios sees: an invariant of the oracle, `vectors`
    for the kernel's exact lists and batches, or `deadlock`, `livelock`, `lockdep`, `exception`.
    """

    about: str
    invariant: str
    patches: tuple[Patch, ...]


def edited(owner: Owner, method: str, diff: str) -> Patch:
    """Make the patch that applies a diff to a method, or to a function as one module has it that calls it."""
    return owner, method, Edit(diff)


@contextmanager
def install(patches: tuple[Patch, ...]) -> Iterator[None]:
    """Put replacements in the place of methods for a while; what a class only inherits, it inherits again."""
    with ExitStack() as undo:
        for owner, method, patch in patches:
            replacement = patch.apply(owner, method) if isinstance(patch, Edit) else patch
            if method in vars(owner):
                undo.callback(setattr, owner, method, vars(owner)[method])
            else:
                undo.callback(delattr, owner, method)
            setattr(owner, method, replacement)
        yield
