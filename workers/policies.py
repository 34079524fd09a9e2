"""Policies that no kernel has: what other allocators do with free memory, and a few ideas of our own.

Each is exact as far as its source says (jemalloc `src/decay.c`, tcmalloc `background.cc`, Go `mgcscavenge.go`,
mimalloc's documentation), with one difference in common: blocks are taken in the order in which the worker meets them.
"""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Callable, Mapping
from math import floor, inf

from pagealloc.errors import PageAllocError
from pagealloc.inventory import reported_blocks
from pagealloc.zone import Zone
from workers.policy import SKIP, STOP, TAKE, Core, ReportingPolicy

REGION_SHIFT = 21  # 2 MiB: what the host's huge pages hold
SOON_S = 0.05  # how long a policy rests before it looks again at what it left just now
WITHOUT_LIMIT = 1 << 40  # report calls
ENTRIES_MAX = 1 << 20  # blocks whose age is known, before old ones are forgotten


class PolicyError(PageAllocError):
    """There is no such policy, or its parameter cannot be used."""


class Patient(ReportingPolicy):
    """Leaves blocks alone until something about them is old enough; asks again when the first of them is."""

    def __init__(self, patience_s: float) -> None:
        super().__init__()
        self.patience_s = patience_s
        self._now_s = 0.0
        self._soonest_s = inf

    def begin_pass(self, now_s: float) -> None:
        self._now_s = now_s
        self._soonest_s = inf

    def wait(self, since_s: float) -> int:
        """Take what has been so since `since_s` for long enough, and skip the rest."""
        remaining_s = since_s + self.patience_s - self._now_s
        if remaining_s <= 0:
            return TAKE
        self._soonest_s = min(self._soonest_s, remaining_s)
        return SKIP

    def end_pass(self, now_s: float) -> float | None:
        if self._soonest_s == inf:
            return None
        return max(SOON_S, self._soonest_s - (now_s - self._now_s))


class MinimumAge(Patient):
    """Reports a block only when it has been free for so many seconds."""

    def attach(self, reporting: Core) -> None:
        super().attach(reporting)
        self._since_s: dict[int, float] = {}  # by the pfn that a free left at its block's head

    def begin_pass(self, now_s: float) -> None:
        super().begin_pass(now_s)
        if len(self._since_s) > ENTRIES_MAX:
            old_s = now_s - self.patience_s
            self._since_s = {pfn: since_s for pfn, since_s in self._since_s.items() if since_s > old_s}

    def freed(self, zone: Zone, pfn: int, order: int) -> None:
        self._since_s[pfn] = self.reporting.now_s()

    def take(self, zone: Zone, pfn: int, order: int) -> int:
        # A part of a block that was split counts from when it was first seen.
        return self.wait(self._since_s.setdefault(pfn, self._now_s))


class QuietRegion(Patient):
    """Reports a block only when nothing was freed for so many seconds in the 2 MiB around it.

    Where memory is freed it is soon allocated again. A region that has been quiet for a while is worth giving back,
    down to its single pages.
    """

    def attach(self, reporting: Core) -> None:
        super().attach(reporting)
        end_pfn = max(zone.end_pfn for zone in reporting.zones)
        self._region_order = REGION_SHIFT - reporting.zones[0].layout.page_shift
        self._last_s = [-inf] * ((end_pfn >> self._region_order) + 1)

    def freed(self, zone: Zone, pfn: int, order: int) -> None:
        now_s = self.reporting.now_s()
        for region in self._regions(pfn, order):
            self._last_s[region] = now_s

    def take(self, zone: Zone, pfn: int, order: int) -> int:
        return self.wait(max(self._last_s[region] for region in self._regions(pfn, order)))

    def _regions(self, pfn: int, order: int) -> range:
        return range(pfn >> self._region_order, (pfn + (1 << order) - 1 >> self._region_order) + 1)


class KeepOnSplit(ReportingPolicy):
    """Reports no piece of a block that was reported as a whole, and of which another piece was allocated since.

    The kernel takes the flag off what is left of a split block, and reports it once more, though nobody has touched it.
    A flag of the kernel's means that the device was told of exactly this block, so the pieces do not get it back: they
    are left out, until a free makes something larger of them. A piece that is left out is one that the host has not.
    """

    def attach(self, reporting: Core) -> None:
        super().attach(reporting)
        self._order = 0
        self._told = (
            bytearray()
        )  # for each block of the reported order: 1 if the device has it, whoever owns it

    def registered(self, order: int) -> None:
        zones = self.reporting.zones
        self._order = order
        self._told = bytearray((max(zone.end_pfn for zone in zones) >> order) + 1)
        for zone in zones:
            with zone.lock:  # frees are heard already: what they say comes before, or after
                for pfn, of_order in reported_blocks(zone):
                    self.reported(zone, pfn, of_order)

    def reported(self, zone: Zone, pfn: int, order: int) -> None:
        self._note(pfn, order, b"\1")

    def freed(self, zone: Zone, pfn: int, order: int) -> None:
        self._note(pfn, order, b"\0")

    def _note(self, pfn: int, order: int, told: bytes) -> None:
        count = 1 << order - self._order
        at = pfn >> self._order
        if self._told:
            self._told[at : at + count] = told * count

    def knows(self, pfn: int, order: int) -> bool:
        """Whether the device was told of all of a free block, and nobody has had any of it since."""
        at = pfn >> self._order
        return bool(self._told) and self._told.find(0, at, at + (1 << order - self._order)) < 0

    def take(self, zone: Zone, pfn: int, order: int) -> int:
        return SKIP if self.knows(pfn, order) else TAKE


class Quota(ReportingPolicy):
    """Reports so many pages a pass, and looks again after `interval_s` while there is more."""

    def __init__(self, interval_s: float) -> None:
        super().__init__()
        self.interval_s = interval_s
        self.quota_pages = 0.0
        self._stopped = False

    def calls(self, nr_free: int, capacity: int) -> int:
        return WITHOUT_LIMIT  # the quota is the limit

    def begin_pass(self, now_s: float) -> None:
        self._stopped = False
        self.quota_pages = self.grant(now_s)

    def grant(self, now_s: float) -> float:
        """Return how many pages this pass may report."""
        raise NotImplementedError

    def take(self, zone: Zone, pfn: int, order: int) -> int:
        if self.quota_pages <= 0:
            self._stopped = True
            return STOP
        self.quota_pages -= (
            1 << order
        )  # the last block may be larger than what is left: the debt is paid back
        return TAKE

    def end_pass(self, now_s: float) -> float | None:
        return self.interval_s if self._stopped else None


class ConstantRate(Quota):
    """Reports a constant number of bytes a second, and keeps what recent demand may want back (tcmalloc).

    tcmalloc's background thread works every second; its guard keeps free what the peak of the last `guard_s` seconds
    used more than is used now.
    """

    def __init__(self, bytes_per_s: float, guard_s: float = 0.0) -> None:
        super().__init__(1.0)
        self._bytes_per_s = bytes_per_s
        self._guard_s = guard_s
        self._last_s: float | None = None
        self._demand: deque[tuple[float, int]] = deque()  # (time, pages in use), falling

    def attach(self, reporting: Core) -> None:
        super().attach(reporting)
        self._pages_per_s = self._bytes_per_s / reporting.zones[0].layout.page_size

    def grant(self, now_s: float) -> float:
        elapsed_s = self.interval_s if self._last_s is None else now_s - self._last_s
        self._last_s = now_s
        granted = min(0.0, self.quota_pages) + min(elapsed_s, 2 * self.interval_s) * self._pages_per_s
        if not self._guard_s:
            return granted
        used = sum(zone.managed_pages - zone.nr_free_pages for zone in self.reporting.zones)
        while self._demand and self._demand[-1][1] <= used:
            self._demand.pop()
        self._demand.append((now_s, used))
        while self._demand[0][0] < now_s - self._guard_s:
            self._demand.popleft()
        kept = self._demand[0][1] - used
        return min(granted, float(self.unreported_pages() - kept))


def smootherstep(share: float) -> float:
    """Return 6x^5 - 15x^4 + 10x^3."""
    return share**3 * (share * (6 * share - 15) + 10)


class Decay(Quota):
    """Lets unreported memory decay along a smooth step within `decay_s` seconds (jemalloc; without its jitter)."""

    STEPS = 200

    def __init__(self, decay_s: float, interval_s: float = SOON_S) -> None:
        super().__init__(max(decay_s / self.STEPS, interval_s))
        self._step_s = decay_s / self.STEPS
        self._weights = [smootherstep((step + 1) / self.STEPS) for step in range(self.STEPS)]
        self._backlog = [0] * self.STEPS  # pages that came in each step, the oldest first
        self._epoch_s: float | None = None
        self._before = 0

    def limit(self, now_s: float, unreported: int) -> int:
        """Return how many pages may stay, having seen that there are so many."""
        if self._epoch_s is None:
            self._epoch_s = now_s - self._step_s
        steps = floor((now_s - self._epoch_s) / self._step_s + 1e-9)
        if steps >= 1:
            self._epoch_s += steps * self._step_s
            kept = self._backlog[steps:]
            self._backlog = kept + [0] * (self.STEPS - len(kept))
            self._backlog[-1] = max(0, unreported - self._before)
        allowed = floor(
            sum(pages * weight for pages, weight in zip(self._backlog, self._weights, strict=True))
        )
        if steps >= 1:
            self._before = max(allowed, unreported)
        return allowed

    def grant(self, now_s: float) -> float:
        unreported = self.unreported_pages()
        return float(unreported - self.limit(now_s, unreported))


class CpuShare(Quota):
    """Spends at most a share of one CPU's time, and keeps a tenth of what is in use free (Go's scavenger)."""

    RETAIN = 0.1
    QUANTUM_PAGES = 512  # of a pass: the rest waits until its time is paid for

    def __init__(self, percent: float) -> None:
        super().__init__(SOON_S)
        self._share = percent / 100
        self._begin_s = 0.0
        self._granted_pages = 0.0

    def grant(self, now_s: float) -> float:
        self._begin_s = now_s
        used = sum(zone.managed_pages - zone.nr_free_pages for zone in self.reporting.zones)
        self._granted_pages = min(float(self.QUANTUM_PAGES), self.unreported_pages() - self.RETAIN * used)
        return self._granted_pages

    def end_pass(self, now_s: float) -> float | None:
        if not self._stopped or self._granted_pages <= 0:
            return None  # what is retained stays until the next free
        return max(SOON_S, (now_s - self._begin_s) * (1 / self._share - 1))


class FixedDelay(ReportingPolicy):
    """Reports everything at the first free that comes `fixed_s` or later after the first unreported one (mimalloc).

    No timer: a guest that frees nothing more keeps its memory.
    """

    def __init__(self, fixed_s: float) -> None:
        super().__init__()
        self._fixed_s = fixed_s
        self._expires_s: float | None = None

    def delay_s(self, cause: str) -> float | None:
        return None

    def calls(self, nr_free: int, capacity: int) -> int:
        return WITHOUT_LIMIT

    def begin_pass(self, now_s: float) -> None:
        self._expires_s = None

    def freed(self, zone: Zone, pfn: int, order: int) -> None:
        now_s = self.reporting.now_s()
        if self._expires_s is None:
            self._expires_s = now_s + self._fixed_s
        elif now_s >= self._expires_s:
            self.reporting.flush()


class FlushOnDemand(ReportingPolicy):
    """Reports nothing until somebody calls `PageReporting.flush`, and then everything."""

    def delay_s(self, cause: str) -> float | None:
        return None

    def calls(self, nr_free: int, capacity: int) -> int:
        return WITHOUT_LIMIT


def _number(text: str) -> float:
    value = float(text)
    if not 0 < value < inf:
        raise ValueError(f"{text!r} is not more than 0")
    return value


def _percent(text: str) -> float:
    value = _number(text)
    if value > 100:
        raise ValueError(f"{text!r} is more than 100")
    return value


def _rate(text: str) -> ReportingPolicy:
    rate, _, guard = text.partition("/")
    for suffix, factor in (("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("", 1)):
        if rate.endswith(suffix):
            return ConstantRate(_number(rate.removesuffix(suffix)) * factor, _number(guard) if guard else 0.0)
    raise ValueError(f"{rate!r} is no rate")


POLICIES: Mapping[str, tuple[Callable[[str], ReportingPolicy], str]] = {
    "kernel": (lambda _: ReportingPolicy(), ""),
    "age": (lambda text: MinimumAge(_number(text)), "SECONDS"),
    "quiet": (lambda text: QuietRegion(_number(text)), "SECONDS"),
    "rate": (_rate, "SIZE[/GUARD_SECONDS]"),
    "decay": (lambda text: Decay(_number(text)), "SECONDS"),
    "share": (lambda text: CpuShare(_percent(text)), "PERCENT"),
    "fixed": (lambda text: FixedDelay(_number(text)), "SECONDS"),
    "flush": (lambda _: FlushOnDemand(), ""),
    "keep-on-split": (lambda _: KeepOnSplit(), ""),
}


def load_policy(name: str) -> ReportingPolicy:
    """Make the policy called `name`, as in decay:10, or of a user's own: `module:Class`. Raises PolicyError."""
    kind, _, parameter = name.partition(":")
    if kind in POLICIES:
        make, expected = POLICIES[kind]
        if bool(parameter) != bool(expected):
            raise PolicyError(f"policy {name!r}, expected {kind}{':' if expected else ''}{expected}")
        try:
            return make(parameter)
        except ValueError as error:
            raise PolicyError(f"policy {name!r}: {error}, expected {kind}:{expected}") from error
    known = ", ".join(f"{each}:{expected}" if expected else each for each, (_, expected) in POLICIES.items())
    if not parameter:
        raise PolicyError(f"policy {name!r}, expected one of {known}, or module:Class")
    try:
        policy = getattr(importlib.import_module(kind), parameter)()
    except Exception as error:
        raise PolicyError(f"policy {name!r} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(policy, ReportingPolicy):
        raise PolicyError(f"policy {name!r} is a {type(policy).__name__}, expected a ReportingPolicy")
    return policy
