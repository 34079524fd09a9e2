"""The parameters of a stress run: read from words, checked, and repeated in every result."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

from pagealloc.memory import ZoneSpec
from pagealloc.mmzone import PAGE_SHIFT, ZONE_NAMES, Layout
from pagealloc.policy import PRESETS
from stress.mutants import MUTANTS
from workers.page_reporting import CAPACITY_MAX

ALLOCATORS_MAX = 1024
TIME_MAX_S = 1e8  # three years; threads cannot wait for much longer
ZONE_BYTES_MAX = 1 << 46  # as much as x86-64 can address

_SIZE = re.compile(r"(\d+(?:\.\d+)?)(KiB|MiB|GiB|TiB)")
_UNIT_BYTES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


class BadArgument(Exception):
    """An argument is not what it must be; the message names it, its value and what is expected."""


@dataclass(frozen=True, slots=True)
class RunParams:
    """All that a run depends on beside the machine. Raises BadArgument for values that make no run.

    Times are seconds, rates are probabilities for one batch, `order` 0 stands for the pageblock order.
    `reporter_sleep_s` are the shortest and the longest time that a batch takes beside its work.
    """

    allocators: int = 4
    seconds: float = 8.0
    zones: str = "DMA32=128MiB,Normal=384MiB"
    ram: str = "anonymous"
    reporter: str = "discard"
    reporter_sleep_s: tuple[float, float] = (0.0, 0.0)
    delay: float = 0.2
    order: int = 0
    capacity: int = 32
    preset: str = "v6.1"
    seed: int = 1
    fail_rate: float = 0.0
    delay_rate: float = 0.0
    lose_rate: float = 0.0
    mutant: str | None = None

    def __post_init__(self) -> None:
        top_order = Layout().top_order
        _expect(
            "--allocators", self.allocators, 1 <= self.allocators <= ALLOCATORS_MAX, f"1 .. {ALLOCATORS_MAX}"
        )
        _expect(
            "--seconds", self.seconds, 0 < self.seconds <= TIME_MAX_S, f"more than 0, {TIME_MAX_S:g} at most"
        )
        _expect("--delay", self.delay, 0 <= self.delay <= TIME_MAX_S, f"0 .. {TIME_MAX_S:g} seconds")
        _expect("--order", self.order, 0 <= self.order <= top_order, f"0 .. {top_order}")
        _expect("--capacity", self.capacity, 1 <= self.capacity <= CAPACITY_MAX, f"1 .. {CAPACITY_MAX}")
        _expect("--preset", self.preset, self.preset in PRESETS, f"one of {', '.join(PRESETS)}")
        _expect("--ram", self.ram, self.ram in ("anonymous", "memfd"), "anonymous or memfd")
        shortest, longest = self.reporter_sleep_s
        in_order = 0 <= shortest <= longest <= TIME_MAX_S
        _expect("--reporter-sleep", f"{shortest}..{longest}", in_order, "S or S..T, with 0 <= S <= T")
        for name in ("fail", "delay", "lose"):
            rate: float = getattr(self, f"{name}_rate")
            _expect(f"--{name}-rate", rate, 0 <= rate <= 1, "a probability, 0 .. 1")
        if self.mutant is not None:
            _expect(
                "--mutant", self.mutant, self.mutant in MUTANTS, "one that explore --list shows, M-1 .. M-64"
            )
        self.zone_specs()

    def zone_specs(self) -> list[ZoneSpec]:
        """Return the zones to build, in the order of their addresses. Raises BadArgument."""
        specs = [_parse_zone(word) for word in self.zones.split(",")]
        seen: set[tuple[int, str]] = set()
        for spec in specs:
            key = (spec.node, spec.name)
            _expect("--zones", self.zones, key not in seen, f"zone {spec.name} of node {spec.node} once")
            seen.add(key)
        return sorted(specs, key=lambda spec: (spec.node, ZONE_NAMES.index(spec.name)))

    def as_dict(self) -> dict[str, object]:
        return asdict(self)

    def words(self) -> str:
        """Return every parameter as NAME=VALUE, for the first and the last line of a run."""
        shown = self.as_dict()
        shown["reporter_sleep_s"] = "{:g}..{:g}".format(*self.reporter_sleep_s)
        return " ".join(f"{name}={value}" for name, value in shown.items() if value is not None)


def parse_size(text: str) -> int:
    """Return a size in bytes from digits and a unit: 64MiB, 1.5GiB. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size with a unit, such as 64MiB")
    return int(float(match[1]) * _UNIT_BYTES[match[2]])


def parse_sleep(text: str) -> tuple[float, float]:
    """Return (shortest, longest) seconds from S or S..T. Raises ValueError."""
    shortest, dots, longest = text.partition("..")
    return float(shortest), float(longest if dots else shortest)


def _parse_zone(word: str) -> ZoneSpec:
    name, equals, size = word.strip().partition("=")
    node, colon, zone_name = name.rpartition(":")
    expected = f"[NODE:]NAME=SIZE with NAME one of {', '.join(ZONE_NAMES)}, such as Normal=192MiB"
    _expect("--zones", word, bool(equals) and zone_name in ZONE_NAMES, expected)
    _expect("--zones", word, not colon or node.isdecimal(), expected)
    try:
        nr_bytes = parse_size(size)
    except ValueError as error:
        raise BadArgument(f"--zones: {word!r}: {error}") from error
    page = 1 << PAGE_SHIFT
    whole = page <= nr_bytes <= ZONE_BYTES_MAX and nr_bytes % page == 0
    _expect(
        "--zones", word, whole, f"a size of whole pages of {page} bytes, {ZONE_BYTES_MAX >> 40} TiB at most"
    )
    return ZoneSpec(zone_name, nr_bytes >> PAGE_SHIFT, node=int(node) if colon else 0)


def _expect(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise BadArgument(f"{name}: {value!r}, expected {expected}")
