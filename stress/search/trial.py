"""A user's reporter in a search: made anew for each execution, and what became of its calls in all of them."""

from __future__ import annotations

from collections.abc import Callable
from traceback import extract_tb, format_list

from pagealloc.zone import Zone
from workers.errors import ReporterError, describe_error, only_promised
from workers.page_reporting import Batch, Reporter

FRAMES_MAX = 5  # of what it raised, that are told


class Trial:
    """All that one user's reporter did in the executions of a search; called, it makes the next one."""

    def __init__(self, make: Callable[[], Reporter]) -> None:
        self.name = getattr(make, "__qualname__", None) or repr(make)
        self.calls = 0
        self.refused = 0
        self.first = ""  # what it raised for the first time, and where
        self._make = make

    def __call__(self) -> Tried:
        """Make a reporter. Raises ReporterError when that cannot be done, or when it has no `report`."""
        if not callable(self._make):
            raise ReporterError(f"{self.name} is no class, but has to be made anew for each execution")
        try:
            reporter = self._make()
        except (Exception, SystemExit) as error:
            raise ReporterError(f"{self.name} cannot be made without arguments: {told(error)}") from error
        if not callable(getattr(reporter, "report", None)):
            raise ReporterError(f"{self.name} has no method report(zone, batch)")
        return Tried(reporter, self)

    def note(self, error: BaseException) -> None:
        """Count a batch that was refused."""
        self.refused += 1
        self.first = self.first or told(error)

    def refuses_everything(self) -> bool:
        """Whether it raised in every call: nothing was handed over, and nothing was tried."""
        return self.calls == self.refused

    def describe(self) -> str:
        """Say how often it was called and refused, and what it raised first."""
        if not self.calls:
            return f"{self.name} was never called"
        often = (
            f"every one of {self.calls}" if self.refuses_everything() else f"{self.refused} of {self.calls}"
        )
        return f"{self.name} raised in {often} calls" + (f"; the first: {self.first}" if self.first else "")


class Tried:
    """One reporter of a trial. It may refuse what it likes, as in life."""

    def __init__(self, inner: Reporter, trial: Trial) -> None:
        self.inner = inner
        self.refused = False  # some batch of this execution
        self._trial = trial

    def report(self, zone: Zone, batch: Batch) -> None:
        self._trial.calls += 1
        try:
            answer: object = self.inner.report(zone, batch)  # type: ignore[func-returns-value]
            if (wrong := only_promised(answer)) is not None:
                raise ReporterError(wrong)
        except (Exception, SystemExit) as error:
            self.refused = True
            self._trial.note(error)
            raise


def told(error: BaseException) -> str:
    """Describe what a reporter raised, with the lines of its own that it came by."""
    frames = extract_tb(error.__traceback__)[1:][-FRAMES_MAX:]
    return "\n".join([describe_error(error), *(line.rstrip() for line in format_list(frames))])
