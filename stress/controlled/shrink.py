"""Make a failing schedule simple: fewest switches first, for that is what a person has to follow.

A schedule is cut into *turns*: a task, and how many picks it had in a row. Turns are left out, joined with a
later turn of the same task, or allowed to go on until they block, and the program is executed again. What
still breaks the same invariant with fewer switches is the new schedule; until nothing helps any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import NamedTuple

from stress.controlled.strategy import Replay, stay
from stress.controlled.world import Chooser, ScheduleError, Task, Violation, World

Turn = tuple[int, int]  # (number of a task, picks in a row)

UNTIL_IT_BLOCKS = 1 << 30
TRIALS_MAX = 3000  # executions; a schedule that is not simple by then stays as it is

Execute = Callable[[Chooser], World]


class Turns:
    """Chooses by turns: a task goes on until its turn is over or it cannot, and then comes the next turn.

    Behind the last turn, the running task goes on.
    """

    def __init__(self, turns: list[Turn], drawn: list[int]) -> None:
        self._turns = turns
        self._drawn = iter(drawn)
        self._at = 0
        self._left = turns[0][1] if turns else 0

    def pick(self, world: World, candidates: list[Task], current: Task | None) -> int:
        while self._at < len(self._turns):
            if self._left:
                wanted = self._turns[self._at][0]
                for at, task in enumerate(candidates):
                    if task.number == wanted:
                        self._left -= 1
                        return at
            self._at += 1
            if self._at < len(self._turns):
                self._left = self._turns[self._at][1]
        return stay(candidates, current)

    def draw(self, world: World, n: int) -> int:
        return min(next(self._drawn, 0), n - 1)


class Recorder:
    """Chooses what another one does, and keeps the tasks' numbers and the numbers drawn."""

    def __init__(self, chooser: Chooser) -> None:
        self._chooser = chooser
        self.picked: list[int] = []
        self.drawn: list[int] = []

    def pick(self, world: World, candidates: list[Task], current: Task | None) -> int:
        at = self._chooser.pick(world, candidates, current)
        self.picked.append(candidates[at].number)
        return at

    def draw(self, world: World, n: int) -> int:
        self.drawn.append(self._chooser.draw(world, n))
        return self.drawn[-1]


class Attempt(NamedTuple):
    """An execution, and what was chosen in it."""

    world: World
    picked: list[int]
    drawn: list[int]


def _attempt(execute: Execute, chooser: Chooser) -> Attempt:
    recorder = Recorder(chooser)
    return Attempt(execute(recorder), recorder.picked, recorder.drawn)


def shrink(execute: Execute, world: World) -> World:
    """Return the simplest failing execution that was found, `world` itself at worst: of code that does not repeat."""
    try:
        best, trials = _attempt(execute, Replay(world.schedule)), 0
    except ScheduleError:
        return world
    if not isinstance(best.world.failure, Violation):
        return world
    improved = True
    while improved and trials < TRIALS_MAX:
        improved = False
        for turns, drawn in _simpler_ones(_turns(best), best.drawn):
            candidate = _attempt(execute, Turns(turns, drawn))
            trials += 1
            if _is_simpler(candidate, best):
                best, improved = candidate, True
                break
            if trials == TRIALS_MAX:
                break
    return best.world


def _turns(attempt: Attempt) -> list[Turn]:
    return [(task, len(list(picks))) for task, picks in groupby(attempt.picked)]


def _simpler_ones(turns: list[Turn], drawn: list[int]) -> Iterator[tuple[list[Turn], list[int]]]:
    """Yield schedules to try, the boldest first: whole tasks, halves, quarters left out, then single changes."""
    yield [(task, UNTIL_IT_BLOCKS) for task, _ in turns], drawn
    for task in sorted({task for task, _ in turns}):
        yield [turn for turn in turns if turn[0] != task], drawn
    size = len(turns) // 2
    while size >= 1:
        for at in range(0, len(turns), size):
            yield turns[:at] + turns[at + size :], drawn
        size //= 2
    for at, (task, picks) in enumerate(turns):
        for later in range(at + 1, len(turns)):
            if turns[later][0] == task:
                joined = (task, picks + turns[later][1])
                yield [*turns[:at], joined, *turns[at + 1 : later], *turns[later + 1 :]], drawn
                yield [*turns[:at], *turns[at + 1 : later], joined, *turns[later + 1 :]], drawn
                break
        yield [*turns[:at], (task, UNTIL_IT_BLOCKS), *turns[at + 1 :]], drawn
    for at in range(1, len(turns)):
        yield [*turns[: at - 1], turns[at], turns[at - 1], *turns[at + 1 :]], drawn
    for at, value in enumerate(drawn):
        if value:
            yield turns, [*drawn[:at], 0, *drawn[at + 1 :]]


def _is_simpler(attempt: Attempt, than: Attempt) -> bool:
    failure, wanted = attempt.world.failure, than.world.failure
    if not isinstance(failure, Violation) or not isinstance(wanted, Violation):
        return False
    if failure.invariant != wanted.invariant:
        return False
    return _complexity(attempt) < _complexity(than)


def _complexity(attempt: Attempt) -> tuple[int, int, int]:
    return attempt.world.switches, sum(attempt.drawn), len(attempt.world.schedule)
