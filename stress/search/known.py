"""What executions of one program find out once for all of them.

A search meets the same few machines, zones and events over and over. What a judge says of an event depends on the
events before it and on nothing else; so does what the judge knows afterwards. No judge is changed here: an event leads
from one judge to the next, and is judged when it is first heard by a judge who knows just that. What would be judged
alike again is looked up.
"""

# Why it is like this
#
# Every execution had a judge of its own once, which changed as it heard, and a whole zone was walked (`validate`)
# whenever its lock was given back. So a search found out again, in each execution, what the one before had found out:
# schedules of one program share nearly all of their events.
#
# The first step remembered what an event makes of a *zone's shadow*, in a judge of its own kind. It left the judge's
# other half to be judged each time, and there were two judges to keep alike. Then whole judges became values: `after`
# leads from (judge, event) to the next judge, the second kind of judge went, and an event that was heard before costs a
# look into a dict. It holds up because a judge is a function of its events. Its `key` is all of its attributes, so that
# one which somebody adds tells judges apart at once, without a list to be kept.
#
# What an execution does before anybody else is there was done by each of them, too: a third of a scenario's points. It
# is a function of the steps alone, so a step leads from one machine to the next as an event does from judge to judge
# (`setup`).
#
# Judges and shadows with equal keys are one object (`keep`), and compared by identity: that is what makes `after` and
# `agreed` quick. States of zones are the other way round, looked through and compared, because the containers of a zone
# change and have no hash, and comparing two bytearrays takes less time than making a key of one.
#
# What went wrong here went wrong silently, by calling right what nobody had looked at:
#
#   * The frames alone were the key of what is valid, and machines with another layout or other marks have such frames,
#     too. Whatever a look judges is in the key or in the state (`Oracle.check_zone`).
#   * A judge that was kept knew the `fail` of its execution, which knew the world and everything in it. What is kept
#     gets `_unheard` in its place, and that raises: whoever is remembered has nothing left to judge.
#   * A fault that is planted must not meet what was remembered without it: a search plants first, and each search has
#     a `Known` of its own.
#
# Open questions. `trim` forgets everything at once; whether forgetting the oldest would pay was not measured. The order
# of locks is kept over executions, too, so a cycle whose two halves were met in two of them is found, and a replay of
# the second alone does not show it.

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pagealloc.mmzone import Layout
from stress.controlled.lockdep import Lockdep
from stress.invariants import Judge, ShadowZone
from stress.invariants.judge import Copies
from stress.invariants.lists import Fail
from stress.search.machine import Build, Machine

EVENTS_MAX = 20_000  # remembered; each is a judge of a few kilobytes at most
STEPS_MAX = 2_000  # of set-up, each with a machine behind it
FRAMES_MAX = 50_000  # states of a zone's frames that are remembered as valid
STATES_MAX = 64  # remembered in one place; to look through more takes longer than to judge once more

# An event, and the judge who hears it: (judge, event, thread, the zone that it happens to if any, fields).
Heard = tuple[Judge, str, int, int | None, tuple[Any, ...]]
State = tuple[Any, ...]  # of a zone: whatever a look at it judges


@dataclass(slots=True)
class Known:
    """What is shared: machines that have booted, the order of locks, and what was judged and found right."""

    machines: dict[Build, Machine] = field(default_factory=dict)
    steps: int = 0  # of set-up that are remembered behind the machines, see `setup`
    lockdep: Lockdep = field(default_factory=Lockdep)
    after: dict[Heard, Judge] = field(default_factory=dict)
    judges: dict[tuple[Any, ...], Judge] = field(default_factory=dict)  # by their keys
    shadows: dict[tuple[Any, ...], ShadowZone] = field(default_factory=dict)  # by their keys
    agreed: dict[ShadowZone, list[State]] = field(default_factory=dict)  # zones that are what the shadow says
    # States that are valid by themselves, by layout, first pfn and frames.
    valid: dict[tuple[Layout, int, bytes], list[State]] = field(default_factory=dict)

    def trim(self) -> None:
        """Forget what takes too much memory by now."""
        if len(self.after) > EVENTS_MAX:
            self.after.clear()
            self.judges.clear()
            self.shadows.clear()
            self.agreed.clear()
        if len(self.valid) > FRAMES_MAX:
            self.valid.clear()
        if self.steps > STEPS_MAX:
            self.steps = 0
            for machine in self.machines.values():
                machine.after.clear()

    def judge(self, heard: Heard, fail: Fail) -> Judge:
        """Judge what is heard for the first time, and return the judge who has heard it.

        What breaks a rule is never remembered, for `fail` does not return.
        """
        before, event, thread, zone, fields = heard
        judge = before.twin(fail)
        judge.hear(event, thread, zone, fields)
        self.after[heard] = judge = self.keep(judge)
        return judge

    def keep(self, judge: Judge) -> Judge:
        """Return the judge who knows the same and is kept: this one, unless there is one already."""
        judge.fail = _unheard  # it outlives this execution
        zones = judge.zones
        if isinstance(zones, Copies):
            judge.zones = zones.settled(self._keep_shadow)
        else:
            judge.zones = {number: self._keep_shadow(shadow) for number, shadow in zones.items()}
        return self.judges.setdefault(judge.key(), judge)

    def _keep_shadow(self, shadow: ShadowZone) -> ShadowZone:
        shadow.fail = _unheard
        return self.shadows.setdefault(shadow.key(), shadow)


def _unheard(invariant: str, text: str) -> None:
    raise AssertionError(f"whoever is remembered judges: {invariant}: {text}")


def remember(states: list[State], state: State) -> None:
    """Add to what is looked through."""
    if len(states) == STATES_MAX:
        states.clear()
    states.append(state)
