"""How the device behaves towards a guest: at once and in order, or badly on purpose."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from pagealloc.sync import Rng
from stress.errors import BadArgument
from stress.run.params import Range, parse_range
from workers.reporters import ALL_BATCHES

DELAY_S = 0.05
LONGEST_S = 1e6


@dataclass(frozen=True, slots=True)
class HostManners:
    """What goes wrong at the host. Rates are for one batch; numbers count batches from 1, and 0 is never."""

    hold: Range = (0.0, 0.0)
    fail_rate: float = 0.0
    delay_rate: float = 0.0
    lose_rate: float = 0.0
    garble_rate: float = 0.0
    reverse: int = 0
    deaf_at: int = 0
    die_at: int = 0

    def __post_init__(self) -> None:
        low, high = self.hold
        if not 0 <= low <= high <= LONGEST_S:
            raise BadArgument(f"--hold: '{low:g}..{high:g}', expected S or S..T, with 0 <= S <= T")
        for name in ("fail_rate", "delay_rate", "lose_rate", "garble_rate"):
            rate = getattr(self, name)
            if not 0 <= rate <= 1:
                raise BadArgument(f"{option_of(name)}: {rate}, expected a probability, 0 .. 1")
        rates = (self.fail_rate, self.delay_rate, self.lose_rate, self.garble_rate)
        if sum(rates) > ALL_BATCHES:
            shown = " + ".join(f"{rate:g}" for rate in rates)
            raise BadArgument(
                f"--fail-rate + --delay-rate + --lose-rate + --garble-rate: {shown}, expected shares of all batches, "
                "1 together at most"
            )
        for name in ("reverse", "deaf_at", "die_at"):
            number = getattr(self, name)
            if number < 0:
                raise BadArgument(f"{option_of(name)}: {number}, expected 0 or more")


HELP = {
    "hold": "seconds that each batch takes, or a range S..T",
    "fail_rate": "share of batches that are acknowledged and kept (a device has no way to say that it failed)",
    "delay_rate": "share of batches that are answered 50 ms late",
    "lose_rate": "share of batches that are given back and never answered",
    "garble_rate": "share of batches that are answered with a number that none has",
    "reverse": "wait up to a second for so many batches in flight, and answer them in reverse",
    "deaf_at": "stop reading anything from this batch on",
    "die_at": "close the connection at this batch",
}


# By a field's type: how its value is read, and what is expected.
PARSERS: dict[str, tuple[Callable[[str], object], str]] = {
    "Range": (parse_range, "seconds S, or a range S..T"),
    "float": (float, "a number"),
    "int": (int, "a whole number"),
}


def option_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def add_manners(parser: argparse.ArgumentParser) -> None:
    """Describe an option for each of them."""
    group = parser.add_argument_group("manners of the device")
    for field in fields(HostManners):
        metavar = {"hold": "S"}.get(field.name, "R" if field.name.endswith("rate") else "N")
        group.add_argument(option_of(field.name), dest=field.name, metavar=metavar, help=HELP[field.name])


def manners_of(arguments: argparse.Namespace) -> HostManners:
    """Return the manners that the command line asks for. Raises BadArgument."""
    values: dict[str, Any] = {}
    for field in fields(HostManners):
        text = getattr(arguments, field.name)
        if text is None:
            continue
        parse, expected = PARSERS[str(field.type)]
        try:
            values[field.name] = parse(text)
        except ValueError as error:
            raise BadArgument(f"{option_of(field.name)}: {text!r}, expected {expected}") from error
    return HostManners(**values)


@dataclass(frozen=True, slots=True)
class Treatment:
    """What is done with one batch: kept or given back, answered after `delay_s`, wrongly, or never."""

    delay_s: float
    keep: bool
    lose: bool
    garble: bool


class Treatments:
    """Draws a treatment for each batch."""

    def __init__(self, manners: HostManners, rng: Rng) -> None:
        self._manners = manners
        self._rng = rng

    def next(self) -> Treatment:
        manners = self._manners
        hold, drawn = self._rng.random(), self._rng.random()  # both each time; the second decides which fault
        shortest_s, longest_s = manners.hold
        kept = manners.fail_rate
        delayed = kept + manners.delay_rate
        lost = delayed + manners.lose_rate
        return Treatment(
            delay_s=shortest_s
            + hold * (longest_s - shortest_s)
            + (DELAY_S if kept <= drawn < delayed else 0),
            keep=drawn < kept,
            lose=delayed <= drawn < lost,
            garble=lost <= drawn < lost + manners.garble_rate,
        )
