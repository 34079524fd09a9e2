"""From rows to an answer: settings with their means over seeds, which is best, and what makes no difference.

A difference below the error that the lab was shown to have (`docs/LAB.md`, validation) is no difference, and said so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

from pagealloc.mmzone import PAGE_SHIFT
from stress.errors import BadInput
from stress.lab.options import Options
from stress.run.params import parse_size

GIB = 1 << 30
ERROR_OF_LOADS = {
    "curve": 0.05,
    "trace": 0.03,
}  # share of a footprint that validation was off by, by kind of load
ERROR = 0.03  # of the others
STUDENT_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)  # for 2, 3, ... values; 1.96 for many
UNITS = {"delay": " s", "hz": " HZ", "mix": " pages"}
DEFAULTS = {"order": 9, "delay": 2.0, "capacity": 32, "budget": 16, "policy": "kernel"}
REFAULT_4K_WEIGHT, REFAULT_2M_WEIGHT = (
    3.75e-6,
    360e-6,
)  # seconds, to compare refaults of both sizes where no cost is chosen


@dataclass(frozen=True, slots=True)
class Goal:
    """What best means: the least `figure`, among those whose cost is within `cost_max` of the cheapest."""

    name: str = "footprint"
    figure: str = "footprint_gib_min"
    unit: str = "GiB*min"
    target_bytes: int = 0
    refaults_max: float | None = None


def parse_goal(text: str) -> Goal:
    """Read footprint, time:SIZE or refaults<=N. Raises BadInput."""
    kind, _, rest = text.partition(":")
    try:
        if text == "footprint":
            return Goal()
        if kind == "time":
            return Goal(text, "below_target_s", "s", target_bytes=parse_size(rest))
        if text == "settle":
            return Goal(text, "settle_s", "s")
        if text.startswith("refaults<="):
            most = float(text.partition("<=")[2])
            if not 0 <= most < inf:
                raise ValueError(f"{most:g} refaults, expected 0 or more")
            return Goal(text, refaults_max=most)
    except ValueError as error:
        raise BadInput(f"--goal: {text!r}: {error}") from error
    raise BadInput(f"--goal: {text!r}, expected footprint, settle, time:SIZE or refaults<=N (of 4 KiB)")


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over seeds with half of its 95 % interval."""

    value: float
    half: float


@dataclass(frozen=True, slots=True)
class Choice:
    """One setting: the values of the options that vary, and the means of its rows."""

    values: Mapping[str, Any]
    means: Mapping[str, Mean]
    point: int  # number of its first point

    def label(self) -> str:
        """Name the setting in words."""
        return (
            ", ".join(f"{name} {shown(name, value)}" for name, value in self.values.items())
            or "the one setting"
        )

    def refaults(self) -> float:
        """Return the refaults in units of 4 KiB refaults, a huge one by its price."""
        return (
            self.means["refaults_4k"].value
            + self.means["refaults_2m"].value * REFAULT_2M_WEIGHT / REFAULT_4K_WEIGHT
        )


def shown(name: str, value: Any) -> str:
    """Print an option's value with its unit."""
    if name in ("guest", "used"):
        return f"{value / GIB:g} GiB"
    return f"{value:g}{UNITS.get(name, '')}" if isinstance(value, float | int) else str(value)


def choices(
    points: Sequence[Options], rows: Mapping[int, Mapping[str, Any]], axes: Sequence[str]
) -> list[Choice]:
    """Group rows by setting, in the order of the points; settings without a row are left out."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, point in enumerate(points):
        if number in rows:
            groups.setdefault(tuple(getattr(point, axis) for axis in axes), []).append(number)
    return [
        Choice(dict(zip(axes, key, strict=True)), _means([rows[number] for number in numbers]), numbers[0])
        for key, numbers in groups.items()
    ]


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mean]:
    return {
        name: mean_of([row[name] for row in rows])
        for name, value in rows[0].items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def mean_of(values: Sequence[float]) -> Mean:
    """Return the mean and half of the 95 % interval of a few values."""
    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return Mean(mean, 0.0)
    deviation = sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    student = STUDENT_95[count - 2] if count - 2 < len(STUDENT_95) else 1.96
    return Mean(mean, student * deviation / sqrt(count))


def error_of(load: str) -> float:
    """Return by which share the lab is known to be off for a load of this kind."""
    return ERROR_OF_LOADS.get(load.partition(":")[0], ERROR)


def same(one: Mean, other: Mean, error: float) -> bool:
    """Whether two figures differ by less than the lab can tell."""
    return abs(one.value - other.value) <= max(
        error * max(abs(one.value), abs(other.value)), one.half + other.half
    )


def best_of(found: Sequence[Choice], goal: Goal, error: float) -> Choice:
    """Return the best setting; of those that are no different the cheapest, and the one most like the kernel's."""
    allowed = [
        choice for choice in found if goal.refaults_max is None or choice.refaults() <= goal.refaults_max
    ] or list(found)
    least = min(allowed, key=lambda choice: _figure(choice, goal).value)
    equal = [choice for choice in allowed if same(_figure(choice, goal), _figure(least, goal), error)]
    return min(
        equal,
        key=lambda choice: (
            round(choice.refaults()),
            round(choice.means["batches"].value),
            -sum(DEFAULTS.get(name) == value for name, value in choice.values.items()),
            _figure(choice, goal).value,
        ),
    )


def _figure(choice: Choice, goal: Goal) -> Mean:
    """Return the figure that the goal is about; a target that is never met is the worst of all."""
    figure = choice.means[goal.figure]
    return figure if figure.value >= 0 else Mean(inf, 0.0)


def front(found: Sequence[Choice], goal: Goal) -> set[int]:
    """Return the positions of the settings that no other one beats in both the goal's figure and refaults."""
    marks = [(_figure(choice, goal).value, choice.refaults()) for choice in found]
    return {
        at
        for at, (figure, refaults) in enumerate(marks)
        if not any(
            other_figure <= figure
            and other_refaults <= refaults
            and (other_figure, other_refaults) != (figure, refaults)
            for other_figure, other_refaults in marks
        )
    }


def sentence(found: Sequence[Choice], goal: Goal, load: str) -> str:
    """Answer in one sentence with numbers."""
    if not found:
        return "Nothing was computed."
    error = error_of(load)
    best = best_of(found, goal, error)
    figure = best.means[goal.figure]
    text = f"{_capital(best.label())}: {figure.value:.3g} {goal.unit}"
    default = next((choice for choice in found if is_default(choice)), None)
    if default is not None and default is not best:
        before = default.means[goal.figure]
        if same(figure, before, error):
            text += f", which is no difference from the kernel's default ({before.value:.3g} {goal.unit})"
        else:
            text += f", {_less(figure.value, before.value)} beside the kernel's default ({before.value:.3g})"
        text += f", at {best.refaults():,.0f} against {default.refaults():,.0f} refaults"
    else:
        text += f" at {best.refaults():,.0f} refaults"
    effects = [effect for name in best.values if (effect := _effect(found, best, name, goal, error))]
    return "; ".join([text, *effects]) + "."


def is_default(choice: Choice) -> bool:
    """Whether this is what a kernel does that nobody told otherwise."""
    return all(choice.values[name] == value for name, value in DEFAULTS.items() if name in choice.values)


def _less(value: float, than: float) -> str:
    if not 0 < than < inf or not value < inf:
        return f"{value:.3g} instead of {than:.3g}"
    if value > 2 * than:
        return f"{value / than:.1f} times as much"
    share = 1 - value / than
    return f"{abs(share):.0%} {'less' if share > 0 else 'more'}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _effect(found: Sequence[Choice], best: Choice, name: str, goal: Goal, error: float) -> str:
    """Say what one option does when the others stay as in the best setting."""
    line = [
        choice
        for choice in found
        if all(value == best.values[other] for other, value in choice.values.items() if other != name)
    ]
    if len(line) < 2:
        return ""
    figures = [(_figure(choice, goal), choice.values[name]) for choice in line]
    low, high = min(figures, key=lambda each: each[0].value), max(figures, key=lambda each: each[0].value)
    if same(low[0], high[0], error):
        values = ", ".join(shown(name, value) for _, value in figures)
        return f"{name} makes no difference ({values}: below the {error:.0%} that the lab can tell)"
    return (
        f"{name} {shown(name, high[1])} instead of {shown(name, low[1])}: "
        f"{_less(high[0].value, low[0].value)}"
    )


def pages_to_gib(pages: float) -> float:
    """Return pages in GiB."""
    return pages * (1 << PAGE_SHIFT) / GIB
