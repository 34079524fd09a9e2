"""What executions of one program find out once for all of them.

A search meets the same few machines, zones and events over and over. What was judged before, and would be judged
alike, is looked up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stress.invariants import Judge, ShadowZone
from stress.invariants.judge import Change
from stress.invariants.shadow import Fail
from stress.search.lockdep import Lockdep
from stress.search.machine import Build, Machine

CHANGES_MAX = 20_000  # remembered; each is a shadow of a few kilobytes
FRAMES_MAX = 50_000  # states of a zone's frames that are remembered as valid
STATES_MAX = 64  # remembered in one place; to look through more takes longer than to judge once more

State = tuple[Any, ...]  # of a zone: whatever a look at it judges


@dataclass(slots=True)
class Known:
    """What is shared: machines that have booted, the order of locks, and what was judged and found right."""

    machines: dict[Build, Machine] = field(default_factory=dict)
    lockdep: Lockdep = field(default_factory=Lockdep)
    changes: dict[tuple[ShadowZone, Change, tuple[Any, ...]], ShadowZone] = field(default_factory=dict)
    shadows: dict[tuple[Any, ...], ShadowZone] = field(default_factory=dict)  # by their keys
    agreed: dict[ShadowZone, list[State]] = field(default_factory=dict)  # zones that are what the shadow says
    valid: dict[tuple[int, bytes], list[State]] = field(default_factory=dict)  # by first pfn and frames

    def trim(self) -> None:
        """Forget what takes too much memory by now."""
        if len(self.changes) > CHANGES_MAX:
            self.changes.clear()
            self.shadows.clear()
            self.agreed.clear()
        if len(self.valid) > FRAMES_MAX:
            self.valid.clear()


def _unheard(invariant: str, text: str) -> None:
    raise AssertionError(f"a remembered shadow judges: {invariant}: {text}")


def remember(states: list[State], state: State) -> None:
    """Add to what is looked through."""
    if len(states) == STATES_MAX:
        states.clear()
    states.append(state)


class RememberingJudge(Judge):
    """A judge of executions, which remembers what an event makes of a zone.

    A zone's shadow depends on its events and on nothing else. So no shadow is changed here: an event leads from one
    shadow to the next, and is judged when it is met first. What breaks a rule is never remembered, for `fail` does
    not return.
    """

    def __init__(self, fail: Fail, known: Known) -> None:
        super().__init__(fail)
        self._changes = known.changes
        self._shadows = known.shadows

    def change(self, zone: int, change: Change, fields: tuple[Any, ...]) -> None:
        shadow = self.zones[zone]
        after = self._changes.get((shadow, change, fields))
        if after is None:
            after = shadow.twin(self.fail)
            change(after, *fields)
            after.fail = _unheard  # it outlives this execution
            after = self._shadows.setdefault(after.key(), after)
            self._changes[shadow, change, fields] = after
        self.zones[zone] = after
