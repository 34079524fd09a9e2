"""What one prediction is made from: a guest, its load, its host and a setting. A point of a sweep is one of these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from pagealloc.mmzone import PAGE_SHIFT
from pagealloc.revision import DEFAULT, PRESETS
from stress.errors import BadInput
from stress.lab.host import COSTS
from stress.run.params import parse_size
from workers.page_reporting import CAPACITY_MAX
from workers.policies import POLICIES, PolicyError, load_policy

HZ = (100, 250, 300, 1000)
POINTS_MAX = 100_000
GUEST_PAGEBLOCKS_MIN = 128  # a smaller guest, scaled down, is all edges
LEVELS = ("zone", "calls")


class BadOption(BadInput):
    """An option's value cannot be used; the message names it and what is expected."""


@dataclass(frozen=True, slots=True)
class Options:
    """One point. Times in seconds, sizes in bytes."""

    load: str = "burst:2GiB"
    guest: int = 4 << 30
    guests: int = 1
    cpus: int = 2
    preset: str = DEFAULT.name
    state: tuple[str, ...] = ()
    order: int = 9
    delay: float = 2.0
    capacity: int = 32
    budget: int = 16
    policy: str = "kernel"
    hz: int = 250  # 0: timers fire to the point
    phase: float | None = None
    thp: str = "always"
    cost: str = ""
    level: str = "zone"
    scale: int = 1
    mix: int = 128
    slab: float = 0.003
    churn: float = 0.2
    used: int = 0  # in use before the load begins, from the zone that allocations prefer
    target: int = 0  # resident bytes that the host waits for
    until: float = 0.0  # 0: the load's end
    seed: int = 0


def _choice(*known: str) -> Any:
    def parse(text: str) -> str:
        if text not in known:
            raise ValueError(f"expected one of {', '.join(known)}")
        return text

    return parse


def _number(low: float, high: float, kind: type = int) -> Any:
    def parse(text: str) -> Any:
        value = kind(text)
        if not low <= value <= high:
            raise ValueError(f"expected {low:g} .. {high:g}")
        return value

    return parse


def _policy(text: str) -> str:
    try:
        load_policy(text)
    except PolicyError as error:
        raise ValueError(str(error)) from error
    return text


def _hz(text: str) -> int:
    value = 0 if text == "exact" else int(text)
    if value and value not in HZ:
        raise ValueError(f"expected one of {', '.join(map(str, HZ))} or exact")
    return value


# The values of an option that may be a list, and so make a sweep; the word after it is what a value looks like.
SWEPT: Mapping[str, tuple[Any, str, str]] = {
    "guest": (parse_size, "SIZE", "size of the guest's memory"),
    "used": (parse_size, "SIZE", "memory in use before the load begins"),
    "order": (_number(0, 10), "N", "smallest order that is reported; 9 is 2 MiB"),
    "delay": (_number(0, 3600, float), "S", "from a request to its pass, in seconds"),
    "capacity": (_number(1, CAPACITY_MAX), "N", "blocks that one report call takes"),
    "budget": (
        _number(1, 1 << 20),
        "N",
        "a visit to a list makes a report call for each capacity * N blocks on it, and one",
    ),
    "preset": (_choice(*PRESETS), "NAME", "kernel revision: " + ", ".join(PRESETS)),
    "policy": (
        _policy,
        "NAME",
        "policy of reporting: "
        + ", ".join(f"{name}:{expected}" if expected else name for name, (_, expected) in POLICIES.items())
        + ", or MODULE:CLASS",
    ),
    "hz": (_hz, "HZ", "ticks a second of the guest's timers, or exact"),
    "thp": (_choice("always", "never"), "WHEN", "transparent huge pages on the host: always, never"),
    "mix": (_number(1, 1 << 20), "PAGES", "run length of one owner's pages, for a curve"),
    "slab": (_number(0, 0.2, float), "SHARE", "of the peak that the kernel's caches take, for a curve"),
    "churn": (_number(0, 100, float), "RATE", "jobs that end each second, for a curve"),
    "level": (_choice(*LEVELS), "LEVEL", "of a trace's events: zone, or calls through the CPUs' lists"),
}
SINGLE: Mapping[str, tuple[Any, str, str]] = {
    "guests": (_number(1, 64), "N", "guests of one kind on the host; sizes are sums"),
    "cpus": (_number(1, 1024), "N", "of the guest, each with lists of its own"),
    "scale": (_number(1, 1024), "N", "divide guest, load and capacity"),
    "until": (_number(0, 1e6, float), "S", "end of the run; by default the load's"),
    "phase": (_number(0, 10, float), "S", "where the timers' grid lies; by default from the trace, or drawn"),
    "cost": (_choice(*COSTS), "NAME", "put prices on the counts: " + ", ".join(COSTS)),
}


def parse_words(name: str, text: str) -> list[Any]:
    """Parse the values of an option. Raises BadOption, naming it."""
    parse, _, _ = SWEPT[name] if name in SWEPT else SINGLE[name]
    words = [word.strip() for word in text.split(",") if word.strip()]
    values = []
    for word in words:
        try:
            values.append(parse(word))
        except (ValueError, OverflowError) as error:
            raise BadOption(f"--{name}: {word!r} in {text!r}: {error}") from error
    if not values or (name in SINGLE and len(values) > 1):
        raise BadOption(
            f"--{name}: {len(values)} values in {text!r}, expected one{'' if name in SINGLE else ' or more'}"
        )
    return values


@dataclass(frozen=True, slots=True)
class Grid:
    """A base and the options that vary; points in the order in which the options were given, seeds innermost."""

    base: Options
    axes: Mapping[str, Sequence[Any]]
    seeds: int = 1

    def __len__(self) -> int:
        count = self.seeds
        for values in self.axes.values():
            count *= len(values)
        return count

    def __iter__(self) -> Iterator[Options]:
        for values in product(*self.axes.values()):
            changed = replace(self.base, **dict(zip(self.axes, values, strict=True)))
            for seed in range(self.seeds):
                yield replace(changed, seed=seed)

    def check(self) -> None:
        """Raise BadOption for a grid that nobody wants to wait for, and for points that cannot be."""
        if len(self) > POINTS_MAX:
            sizes = " x ".join(str(len(values)) for values in self.axes.values())
            raise BadOption(
                f"a grid of {len(self):,} points ({sizes} x {self.seeds} seeds), expected {POINTS_MAX:,} at most"
            )
        for point in Grid(self.base, self.axes, 1):
            if point.capacity % point.scale and point.capacity < point.scale:
                raise BadOption(
                    f"--scale {point.scale}: a capacity of {point.capacity} cannot be divided by it"
                )
            if point.state and point.scale > 1:
                raise BadOption(f"--scale {point.scale}: a start state is that of a whole guest, expected 1")
            if not point.state and point.used > point.guest:
                raise BadOption(
                    f"--used {point.used >> 20} MiB: expected the guest's {point.guest >> 20} MiB at most"
                )
            pageblocks = point.guest // point.scale >> PAGE_SHIFT + 9
            if not point.state and pageblocks < GUEST_PAGEBLOCKS_MIN:
                raise BadOption(
                    f"--guest {point.guest >> 20} MiB at --scale {point.scale}: {pageblocks} pageblocks of 2 MiB, "
                    f"expected {GUEST_PAGEBLOCKS_MIN} or more"
                )


def state_paths(point: Options) -> list[Path]:
    """Return the files of the start state."""
    return [Path(path) for path in point.state]
