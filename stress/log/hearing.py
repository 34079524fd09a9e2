"""From a log to the judge: every record that a rule is about, in the order of the file.

Who brings the records may be the reader of a written log or the writer of one that grows; they differ in what a record
is made of, and in what they do about a broken invariant. That a log cannot be judged is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from stress.errors import Verdict
from stress.invariants import Agreement, Judge
from stress.log.files import LogDamage

# A record as the judge takes it: event, thread, and its fields, of which a record made under a zone lock has the zone
# and its number first.
Heard = tuple[str, int, tuple[Any, ...]]


class Misfit(LogDamage):
    """A record, sound in itself, fits nothing that came before."""


class Hearing:
    """A judge, and the records it hears; `fail` is told of every broken invariant. Events in `unheard` pass it by."""

    def __init__(self, fail: Callable[[str, str], None], unheard: tuple[str, ...] = ()) -> None:
        self.judge = Judge(fail)
        self._handlers = {
            event: handler for event, handler in self.judge.handlers.items() if event not in unheard
        }
        self.agreement = Agreement(self.judge, fail)
        for event, handler in self.agreement.handlers.items():
            if event not in unheard:
                self._handlers[event] = _both(handler, self._handlers.get(event))
        if "run_end" in self._handlers:
            self._handlers["run_end"] = _both(_expect_a_decision, self._handlers["run_end"])

    def hear(self, records: Iterable[Heard]) -> None:
        """Judge records. Raises Misfit, and passes on the LogDamage of whoever brings them."""
        find = self._handlers.get
        try:
            for event, thread, fields in records:
                handler = find(event)
                if handler is not None:
                    handler(thread, *fields)
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise Misfit(
                f"a record fits nothing that came before ({type(error).__name__}: {error})"
            ) from error

    def expect_last_look(self) -> None:
        """Raise LogDamage unless the run looked at all its zones in the end."""
        if not self.judge.rested or self.judge.unseen:
            raise LogDamage("the run ended without a last look at its zones")


def _expect_a_decision(thread: int, verdict: str, violations: int) -> None:
    del thread
    if verdict == Verdict.CANNOT_DECIDE and not violations:
        raise LogDamage("the run itself could not decide")


def _both(first: Callable[..., None], then: Callable[..., None] | None) -> Callable[..., None]:
    if then is None:
        return first

    def handle(*fields: Any) -> None:
        first(*fields)
        then(*fields)

    return handle
