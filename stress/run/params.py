"""The parameters of a stress run: read from words, checked, and repeated in every result."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import accumulate
from typing import Any

from pagealloc import COMPILED, gfp
from pagealloc.memory import ZoneSpec
from pagealloc.mmzone import ORDERS_MAX, ZONE_NAMES, Layout
from pagealloc.pcp import CPUS
from pagealloc.revision import DEFAULT, PRESETS
from stress.errors import BadArgument, quoted
from stress.log.machine import PAGE_SHIFTS
from stress.mutants import MUTANTS
from stress.provenance import INTERPRETED_ONLY
from workers.allocators import Load, Mix, Rhythm
from workers.page_reporting import CAPACITY_MAX
from workers.reporters import ALL_BATCHES, SHIPPED

ALLOCATORS_MAX = 1024
TIME_MAX_S = 1e8  # three years; threads cannot wait for much longer
ZONE_BYTES_MAX = 1 << 46  # as much as x86-64 can address
NODE_MAX = 1023  # MAX_NUMNODES of x86-64 is 1024
WEIGHT_MAX = 1_000_000
INBOX_MAX = 1 << 20
DIGITS_MAX = 18  # of a whole number
KBYTES_MAX = (1 << 31) - 1  # an int of the kernel's
CPUS_MAX = 8192  # NR_CPUS of the largest x86-64 kernels
SWITCH_INTERVAL_MIN_S, SWITCH_INTERVAL_MAX_S = 1e-6, 1.0

_SIZE = re.compile(r"(\d+(?:\.\d+)?)(KiB|MiB|GiB|TiB)")
_UNIT_BYTES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

Range = tuple[float, float]


def _option(default: Any, about: str, metavar: str = "S", *, manner: bool = True) -> Any:
    """Make a parameter. A *manner* may change from phase to phase of a run; the rest is the machine."""
    return field(default=default, metadata={"about": about, "metavar": metavar, "manner": manner})


def _machine(default: Any, about: str, metavar: str = "S") -> Any:
    return _option(default, about, metavar, manner=False)


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a run: its name, its share of the run's time, and the manners that differ from the run's own."""

    name: str
    share: float
    changes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunParams:
    """All that a run depends on beside the machine. Raises BadArgument for values that make no run.

    Times are seconds, rates are probabilities, an interval of 0 is never. Each is an option of the command
    line and a key of a scenario's file; what it means stands beside it.
    """

    allocators: int = _machine(4, "allocator threads", "N")
    seconds: float = _machine(8.0, "length of the load")
    zones: str = _machine(
        "DMA32=128MiB,Normal=384MiB",
        "zones with their sizes, as [NODE:]NAME=SIZE separated by commas",
        "LIST",
    )
    ram: str = _machine("anonymous", "memory behind the pages: anonymous or memfd", "KIND")
    reporter: str = _machine(
        "discard", f"who gets the free blocks: {', '.join(SHIPPED)}, or module:Class for your own", "NAME"
    )
    reporter_timeout: float = _machine(
        0.0, "seconds until QEMU is killed for a batch that it does not give back, 0: never"
    )
    delay: float = _machine(0.2, "seconds from request to pass")
    order: int | None = _machine(
        None, "smallest order to report, 0: single pages (default: the pageblock's, as kernels have it)", "K"
    )
    capacity: int = _machine(
        32, "blocks in a batch; kernels have 32, and since 7.2 up to that; more is ours", "N"
    )
    page_size: str = _machine("4KiB", "of the machine: 4KiB, 16KiB or 64KiB", "SIZE")
    pageblock_order: int = _machine(
        9, "pages of a pageblock, as their power of two; 13 with pages of 64KiB on arm64", "K"
    )
    cpus: int = _machine(CPUS, "CPUs that share what page sets may hold back", "N")
    min_free_kbytes: int | None = _machine(
        None,
        "vm.min_free_kbytes; khugepaged raises it, to 67584 on a PC with one zone Normal (default: by size)",
        "N",
    )
    preset: str = _machine(DEFAULT.name, f"kernel to follow: {', '.join(PRESETS)}", "P")
    seed: int = _machine(1, "of every random choice", "N")
    must_release: bool = _machine(False, "a block that a reporter acknowledges and keeps is a failure", "")
    log: str = _machine("all", "tracepoints in the run directory: all or off", "WHICH")
    mutant: str | None = _machine(None, "plant a fault first, one that explore --list names", "M")
    stat_interval: float = _machine(1.0, "seconds between two status lines")
    fair_interval: float = _machine(5.0, "seconds over which all threads must get their turn")
    hang_after: float = _machine(30.0, "seconds without a step of some thread that are a hang")

    reporter_sleep_s: Range = _option(  # noqa: RUF009 - makes a field
        (0.0, 0.0), "seconds that each batch takes, or a range S..T (the sleep reporter: 0.01)"
    )
    fail_rate: float = _option(0.0, "share of batches that the reporter fails", "R")
    delay_rate: float = _option(0.0, "share of batches that come back 50 ms late", "R")
    lose_rate: float = _option(0.0, "share of batches that never come back", "R")
    release_interval: float = _option(0.0, "seconds between two releases of such batches, as failed")
    register_interval: float = _option(0.0, "seconds between two times that the device leaves and comes back")
    rhythm: str = _option(
        "1:1,0.9:0.6,0.02:0.3,0.05:0.9:idle,0.7:0.3,0.4:0.6",
        "what threads go through, as FILL:SECONDS[:idle] separated by commas; FILL is a share of a thread's part",
        "LIST",
    )
    alloc_orders: str = _option("0-3=75,3-6=17,7-10=8", "orders with their weights, as K[-K]=WEIGHT", "LIST")
    gfp: str = _option(
        "HIGHUSER_MOVABLE=58,KERNEL=20,KERNEL|RECLAIMABLE=10,KERNEL|DMA32=6,ATOMIC=3,KERNEL|ZERO=3",
        "requests with their weights, as FLAG[|FLAG]=WEIGHT without GFP_",
        "LIST",
    )
    fill: float = _option(0.85, "share of all pages that the threads divide among them", "R")
    towards: float = _option(0.85, "share of operations that go the rhythm's way, not the other", "R")
    handover: float = _option(0.1, "share of frees that are left to another thread", "R")
    inbox_max: int = _option(1024, "blocks that may wait for a thread to free them", "N")
    stutter: float = _option(0.0, "seconds that all threads go, and then stop, in turn")
    long_hold: float = _option(0.0, "seconds that a zone lock is held now and then")
    long_hold_interval: float = _option(1.0, "seconds between two long holds")
    switch_interval: Range = _option(  # noqa: RUF009 - makes a field
        (0.0, 0.0), "the interpreter's switch interval, or a range S..T to draw from"
    )
    shuffle_interval: float = _option(1.0, "seconds between two draws of the switch interval")
    onoff_interval: float = _option(0.0, "seconds between two times that an allocator thread comes or goes")
    allocators_min: int = _option(1, "allocator threads that stay when others go", "N")

    scenario: str | None = None
    phases: tuple[Phase, ...] = ()

    def __post_init__(self) -> None:
        self._check_machine()
        self._check_manners()
        self.zone_specs()
        self.load(1)
        for phase in self.phases:
            self.during(phase)

    def _check_machine(self) -> None:
        _expect(
            "--page-size", self.page_size, self.page_size in PAGE_SHIFTS, f"one of {', '.join(PAGE_SHIFTS)}"
        )
        highest = ORDERS_MAX - 1
        in_range = 1 <= self.pageblock_order <= highest
        _expect("--pageblock-order", self.pageblock_order, in_range, f"1 .. {highest}")
        top_order = self.layout().top_order
        _expect("--cpus", self.cpus, 1 <= self.cpus <= CPUS_MAX, f"1 .. {CPUS_MAX}")
        reserve = self.min_free_kbytes
        allowed = reserve is None or 0 <= reserve <= KBYTES_MAX
        _expect("--min-free-kbytes", reserve, allowed, f"0 .. {KBYTES_MAX}")
        _expect(
            "--allocators", self.allocators, 1 <= self.allocators <= ALLOCATORS_MAX, f"1 .. {ALLOCATORS_MAX}"
        )
        for name in ("seconds", "stat_interval", "fair_interval", "hang_after"):
            value: float = getattr(self, name)
            in_range = 0 < value <= TIME_MAX_S
            _expect(option_of(name), value, in_range, f"more than 0, {TIME_MAX_S:g} at most")
        order = self.order
        _expect("--order", order, order is None or 0 <= order <= top_order, f"0 .. {top_order}")
        _expect("--capacity", self.capacity, 1 <= self.capacity <= CAPACITY_MAX, f"1 .. {CAPACITY_MAX}")
        _expect("--preset", self.preset, self.preset in PRESETS, f"one of {', '.join(PRESETS)}")
        _expect("--ram", self.ram, self.ram in ("anonymous", "memfd"), "anonymous or memfd")
        mapped = self.ram == "memfd" or self.reporter != "qemu"
        _expect("--ram", self.ram, mapped, "memfd, which QEMU can map")
        timeout = self.reporter_timeout
        _expect("--reporter-timeout", timeout, 0 <= timeout <= TIME_MAX_S, f"0 .. {TIME_MAX_S:g} seconds")
        killable = not timeout or self.reporter == "qemu"
        _expect("--reporter-timeout", timeout, killable, "--reporter qemu, which can be killed")
        _expect("--log", self.log, self.log in ("all", "off"), "all or off")
        if self.mutant is not None:
            _expect("--mutant", self.mutant, not COMPILED, INTERPRETED_ONLY)
            known = self.mutant in MUTANTS
            _expect("--mutant", self.mutant, known, "one that explore --list shows, as M-1")

    def _check_manners(self) -> None:
        shortest, longest = self.reporter_sleep_s
        in_order = 0 <= shortest <= longest <= TIME_MAX_S
        _expect("--reporter-sleep", f"{shortest}..{longest}", in_order, "S or S..T, with 0 <= S <= T")
        for name in ("fail_rate", "delay_rate", "lose_rate", "towards", "handover"):
            rate: float = getattr(self, name)
            _expect(option_of(name), rate, 0 <= rate <= 1, "a probability, 0 .. 1")
        rates = (self.fail_rate, self.delay_rate, self.lose_rate)
        shown = " + ".join(f"{rate:g}" for rate in rates)
        names = "--fail-rate + --delay-rate + --lose-rate"
        _expect(names, shown, sum(rates) <= ALL_BATCHES, "shares of all batches, 1 together at most")
        for name in (
            "delay", "release_interval", "register_interval", "stutter", "long_hold", "onoff_interval",
        ):  # fmt: skip
            value: float = getattr(self, name)
            _expect(option_of(name), value, 0 <= value <= TIME_MAX_S, f"0 .. {TIME_MAX_S:g} seconds")
        for name in ("long_hold_interval", "shuffle_interval"):
            value = getattr(self, name)
            _expect(option_of(name), value, 0 < value <= TIME_MAX_S, f"more than 0, {TIME_MAX_S:g} at most")
        for name in ("long_hold", "stutter"):
            value = getattr(self, name)
            shorter = value < self.hang_after
            _expect(option_of(name), value, shorter, f"less than --hang-after, {self.hang_after:g}")
        low, high = self.switch_interval
        off_or_on = low == high == 0 or SWITCH_INTERVAL_MIN_S <= low <= high <= SWITCH_INTERVAL_MAX_S
        expected = f"S or S..T within {SWITCH_INTERVAL_MIN_S:g} .. {SWITCH_INTERVAL_MAX_S:g}, or 0"
        _expect("--switch-interval", f"{low}..{high}", off_or_on, expected)
        _expect("--fill", self.fill, 0 < self.fill <= 1, "more than 0, 1 at most")
        _expect("--inbox-max", self.inbox_max, 0 <= self.inbox_max <= INBOX_MAX, f"0 .. {INBOX_MAX}")
        at_least = 1 <= self.allocators_min <= self.allocators
        _expect(
            "--allocators-min", self.allocators_min, at_least, f"1 .. --allocators, here {self.allocators}"
        )

    def load(self, nr_pages: int) -> Load:
        """Return what the allocators of a memory of `nr_pages` are to do. Raises BadArgument."""
        top_order = self.layout().top_order
        return Load(
            quota_pages=int(nr_pages * self.fill) // self.allocators,
            rhythms=[_parse_rhythm(word) for word in self.rhythm.split(",")],
            orders=Mix(*(_parse_orders(word, top_order) for word in self.alloc_orders.split(","))),
            requests=Mix(*(_parse_gfp(word) for word in self.gfp.split(","))),
            towards=self.towards,
            handover=self.handover,
            inbox_max=self.inbox_max,
        )

    def timetable(self) -> list[tuple[Phase, float]]:
        """Return the phases with the seconds from the run's start to their ends; a run without any is one."""
        phases = self.phases or (Phase(self.scenario or "load", 1.0, {}),)
        shares = sum(phase.share for phase in phases)
        ends = accumulate(self.seconds * phase.share / shares for phase in phases)
        return list(zip(phases, ends, strict=True))

    def during(self, phase: Phase) -> RunParams:
        """Return the parameters that hold in a phase. Raises BadArgument."""
        return replace(self, phases=(), **phase.changes)

    def layout(self) -> Layout:
        """Return the machine's sizes of pages and blocks: the largest block is a pageblock at least."""
        nr_orders = max(Layout().nr_orders, self.pageblock_order + 1)
        return Layout(nr_orders, self.pageblock_order, PAGE_SHIFTS[self.page_size])

    def zone_specs(self) -> list[ZoneSpec]:
        """Return the zones to build, in the order of their addresses. Raises BadArgument."""
        specs = [_parse_zone(word, PAGE_SHIFTS[self.page_size]) for word in self.zones.split(",")]
        seen: set[tuple[int, str]] = set()
        for spec in specs:
            key = (spec.node, spec.name)
            _expect("--zones", self.zones, key not in seen, f"zone {spec.name} of node {spec.node} once")
            seen.add(key)
        return sorted(specs, key=lambda spec: (spec.node, ZONE_NAMES.index(spec.name)))

    def as_dict(self) -> dict[str, object]:
        """Return every parameter by its name, the phases with what they change."""
        return asdict(self)

    def words(self) -> str:
        """Return what differs from the defaults as NAME=VALUE, for the first and the last line of a run."""
        defaults = RunParams().as_dict()
        shown = {name: value for name, value in self.as_dict().items() if value != defaults[name]}
        for name in RANGES:
            if name in shown:
                shown[name] = "{:g}..{:g}".format(*shown[name])  # type: ignore[misc]
        if self.phases:
            shown["phases"] = ",".join(phase.name for phase in self.phases)
        return " ".join(f"{name}={value}" for name, value in shown.items()) or "the defaults"


OPTIONS = {each.name: each for each in fields(RunParams) if each.metadata}
MANNERS = frozenset(name for name, each in OPTIONS.items() if each.metadata["manner"])
RANGES = tuple(name for name, each in OPTIONS.items() if each.type == "Range")


def key_of(name: str) -> str:
    """Return the key of a parameter in a scenario's file: its name, without a unit."""
    return name.removesuffix("_s")


def option_of(name: str) -> str:
    """Return the command line's option of a parameter."""
    return f"--{key_of(name).replace('_', '-')}"


def parse_value(name: str, text: str) -> object:
    """Return a parameter's value from words. Raises ValueError with what is expected."""
    kind = OPTIONS[name].type
    if kind == "Range":
        return parse_range(text)
    if kind == "bool":
        return text == "True"
    if kind in ("int", "int | None", "float"):
        expected = "a whole number" if kind == "int" else "a number"
        try:
            return float(text) if kind == "float" else int(text)
        except ValueError as error:
            raise ValueError(expected) from error
    return text


def parse_changes(words: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of parameters, by name, from words of the command line. Raises BadArgument."""
    values: dict[str, Any] = {}
    for name, text in words.items():
        try:
            values[name] = parse_value(name, text)
        except ValueError as error:
            raise BadArgument(f"{option_of(name)}: {quoted(text)}, expected {error}") from error
    return values


def parse_size(text: str) -> int:
    """Return a size in bytes from digits and a unit: 64MiB, 1.5GiB. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size with a unit, such as 64MiB")
    nr_bytes = float(match[1]) * _UNIT_BYTES[match[2]]
    return int(min(nr_bytes, 2 * ZONE_BYTES_MAX))  # more is too much in any case, and may be infinite


def parse_range(text: str) -> Range:
    """Return (shortest, longest) seconds from S or S..T. Raises ValueError."""
    shortest, dots, longest = text.partition("..")
    try:
        return float(shortest), float(longest if dots else shortest)
    except ValueError as error:
        raise ValueError("seconds S, or a range S..T") from error


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= DIGITS_MAX


def _parse_rhythm(word: str) -> Rhythm:
    expected = "FILL:SECONDS or FILL:SECONDS:idle, such as 0.9:0.5"
    fill_text, seconds_text, idle = [*word.strip().split(":"), "", ""][:3]
    well_formed = word.count(":") in (1, 2) and (word.count(":") == 1 or idle == "idle")
    _expect("--rhythm", word, well_formed, expected)
    try:
        fill, seconds = float(fill_text), float(seconds_text)
    except ValueError as error:
        raise BadArgument(f"--rhythm: {quoted(word)}, expected {expected}") from error
    in_range = 0 <= fill <= 1 and 0 < seconds <= TIME_MAX_S
    _expect("--rhythm", word, in_range, "a fill of 0 .. 1, and more than 0 seconds")
    return Rhythm(fill, seconds, idle=bool(idle))


def _parse_orders(word: str, top_order: int) -> tuple[tuple[int, int], int]:
    orders, weight = _parse_weight("--alloc-orders", word, "K=WEIGHT or K-K=WEIGHT, such as 0-3=75")
    lowest_text, dash, highest_text = orders.partition("-")
    digits = _is_number(lowest_text) and (not dash or _is_number(highest_text))
    _expect("--alloc-orders", word, digits, "K=WEIGHT or K-K=WEIGHT, such as 0-3=75")
    lowest, highest = int(lowest_text), int(highest_text if dash else lowest_text)
    _expect("--alloc-orders", word, lowest <= highest <= top_order, f"rising orders of 0 .. {top_order}")
    return (lowest, highest), weight


def _parse_gfp(word: str) -> tuple[int, int]:
    names, weight = _parse_weight("--gfp", word, "FLAG=WEIGHT or FLAG|FLAG=WEIGHT, such as KERNEL|ZERO=3")
    flags = 0
    for name in names.split("|"):
        flag = getattr(gfp, f"GFP_{name}", None)
        _expect(
            "--gfp", word, isinstance(flag, int) and not name.endswith("MASK"), f"flags of {', '.join(FLAGS)}"
        )
        flags |= flag or 0
    both = gfp.GFP_MOVABLE | gfp.GFP_RECLAIMABLE
    _expect("--gfp", word, flags & both != both, "MOVABLE or RECLAIMABLE, not both")
    return flags, weight


FLAGS = sorted(
    name.removeprefix("GFP_") for name in vars(gfp) if name.startswith("GFP_") and not name.endswith("MASK")
)


def _parse_weight(name: str, word: str, expected: str) -> tuple[str, int]:
    thing, equals, weight = word.strip().rpartition("=")
    _expect(name, word, bool(equals) and _is_number(weight), expected)
    _expect(name, word, 1 <= int(weight) <= WEIGHT_MAX, f"a weight of 1 .. {WEIGHT_MAX}")
    return thing, int(weight)


def _parse_zone(word: str, page_shift: int) -> ZoneSpec:
    name, equals, size = word.strip().partition("=")
    node, colon, zone_name = name.rpartition(":")
    expected = f"[NODE:]NAME=SIZE with NAME one of {', '.join(ZONE_NAMES)}, such as Normal=192MiB"
    _expect("--zones", word, bool(equals) and zone_name in ZONE_NAMES, expected)
    _expect("--zones", word, not colon or node.isdecimal(), expected)
    known_node = not colon or (_is_number(node) and int(node) <= NODE_MAX)
    _expect("--zones", word, known_node, f"a node of 0 .. {NODE_MAX}")
    try:
        nr_bytes = parse_size(size)
    except ValueError as error:
        raise BadArgument(f"--zones: {quoted(word)}: {error}") from error
    page = 1 << page_shift
    whole = page <= nr_bytes <= ZONE_BYTES_MAX and nr_bytes % page == 0
    _expect(
        "--zones", word, whole, f"a size of whole pages of {page} bytes, {ZONE_BYTES_MAX >> 40} TiB at most"
    )
    return ZoneSpec(zone_name, nr_bytes >> page_shift, node=int(node) if colon else 0)


def _expect(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise BadArgument(f"{name}: {quoted(value)}, expected {expected}")
