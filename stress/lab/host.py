"""The host: which of the guest's pages it backs with memory, what it takes back, and what comes in again.

A page is *absent* until the guest touches it, *backed* afterwards, and absent again once it was reported. With
transparent huge pages the first touch of a 2 MiB region that is wholly absent backs all of it; otherwise a touch backs
the page. Counts come first; a price is put on them afterwards, and only when one was asked for (`Cost`).
"""

from __future__ import annotations

from dataclasses import dataclass

HUGE_ORDER = 9  # 2 MiB: what the host's transparent huge pages hold
HUGE_PAGES = 1 << HUGE_ORDER

ABSENT, BACKED, DISCARDED = 0, 1, 2  # of a page; DISCARDED is absent after it was backed


@dataclass(frozen=True, slots=True)
class Cost:
    """Prices, in seconds, named by where they were measured."""

    name: str
    source: str
    call_s: float  # of a report call
    block_s: float  # of a block in it: the guest's isolating, the transport
    discard_4k_s: float  # of taking a backed page away
    discard_2m_s: float  # of taking a backed huge page away
    refault_4k_s: float  # of the guest's CPU time for a page that comes back
    refault_2m_s: float
    host_share: float  # of a refault: what the host spends in system time


# EuroSys 2025, HyperAlloc, raw data of `inflate` (Xeon Gold 6252, one VM that does nothing else): for each page
# (shrink - never touched) and (touch - second touch). With 12 busy vCPUs, `compiling`: extra CPU time for each refault.
QUIET = Cost(
    "quiet",
    "one idle VM, Xeon 6252: HyperAlloc's inflate benchmark",
    20e-6,
    2.5e-6,
    1.8e-6,
    8.3e-6,
    3.75e-6,
    360e-6,
    1.0,
)
CONTENDED = Cost(
    "contended-12vcpu",
    "12 busy vCPUs that build clang: HyperAlloc's factorial, within 30 %",
    20e-6,
    2.5e-6,
    1.8e-6,
    8.3e-6,
    127e-6,
    360e-6,
    64 / 127,
)
COSTS = {cost.name: cost for cost in (QUIET, CONTENDED)}


class Host:
    """What the host holds of one guest; pages by frame number below `end_pfn`."""

    __slots__ = (
        "_backed_in",
        "_state",
        "absent_4k",
        "broken_2m",
        "end_pfn",
        "faults_2m",
        "faults_4k",
        "refaults_2m",
        "refaults_4k",
        "resident_pages",
        "thp",
    )

    def __init__(self, end_pfn: int, *, thp: bool) -> None:
        self.end_pfn = -(-end_pfn // HUGE_PAGES) * HUGE_PAGES
        self.thp = thp
        self.resident_pages = 0
        self.faults_4k = self.faults_2m = 0  # first touches
        self.refaults_4k = self.refaults_2m = 0  # touches of what had been given back
        self.broken_2m = 0  # huge pages of which only a part was given back
        self.absent_4k = 0  # reported pages that were absent anyway
        self._state = bytearray(self.end_pfn)
        self._backed_in = [0] * (self.end_pfn >> HUGE_ORDER)

    def back(self, pfn: int, nr_pages: int) -> None:
        """Back pages at the start of a run; no fault is counted."""
        end = pfn + nr_pages
        while pfn < end:
            region = pfn >> HUGE_ORDER
            upto = min(end, (region + 1) << HUGE_ORDER)
            absent = upto - pfn - self.backed(pfn, upto - pfn)
            self._state[pfn:upto] = bytes([BACKED]) * (upto - pfn)
            self._backed_in[region] += absent
            self.resident_pages += absent
            pfn = upto

    def touch(self, pfn: int, order: int) -> None:
        """The guest writes to a block: what is absent of it is faulted in."""
        state, backed_in = self._state, self._backed_in
        if order == 0:
            was = state[pfn]
            if was == BACKED:
                return
            region = pfn >> HUGE_ORDER
            if self.thp and not backed_in[region]:
                self._touch_region(region)
                return
            state[pfn] = BACKED
            backed_in[region] += 1
            self.resident_pages += 1
            if was == DISCARDED:
                self.refaults_4k += 1
            else:
                self.faults_4k += 1
            return
        end = pfn + (1 << order)
        while pfn < end:
            region = pfn >> HUGE_ORDER
            upto = min(end, (region + 1) << HUGE_ORDER)
            if self.thp and not backed_in[region]:
                self._touch_region(region)
            elif backed_in[region] < HUGE_PAGES:
                self._touch_pages(region, pfn, upto)
            pfn = upto

    def _touch_region(self, region: int) -> None:
        first = region << HUGE_ORDER
        if self._state.find(DISCARDED, first, first + HUGE_PAGES) >= 0:
            self.refaults_2m += 1
        else:
            self.faults_2m += 1
        self._state[first : first + HUGE_PAGES] = bytes([BACKED]) * HUGE_PAGES
        self._backed_in[region] = HUGE_PAGES
        self.resident_pages += HUGE_PAGES

    def _touch_pages(self, region: int, pfn: int, upto: int) -> None:
        part = self._state[pfn:upto]
        absent, discarded = part.count(ABSENT), part.count(DISCARDED)
        self._state[pfn:upto] = bytes([BACKED]) * (upto - pfn)
        self._backed_in[region] += absent + discarded
        self.resident_pages += absent + discarded
        self.faults_4k += absent
        self.refaults_4k += discarded

    def backed(self, pfn: int, nr_pages: int) -> int:
        """Count the backed pages of a range."""
        return self._state.count(BACKED, pfn, pfn + nr_pages)

    def discard(self, pfn: int, order: int) -> int:
        """Take a reported block's memory back; returns how many pages were backed."""
        end = pfn + (1 << order)
        taken = 0
        while pfn < end:
            region = pfn >> HUGE_ORDER
            upto = min(end, (region + 1) << HUGE_ORDER)
            held = self._backed_in[region]
            nr_pages = upto - pfn
            backed = nr_pages if held == HUGE_PAGES else self.backed(pfn, nr_pages) if held else 0
            if backed:
                if backed == nr_pages:
                    self._state[pfn:upto] = bytes([DISCARDED]) * nr_pages
                else:
                    self._state[pfn:upto] = self._state[pfn:upto].replace(bytes([BACKED]), bytes([DISCARDED]))
                if self.thp and held == HUGE_PAGES and nr_pages < HUGE_PAGES:
                    self.broken_2m += 1
                self._backed_in[region] -= backed
                self.resident_pages -= backed
                taken += backed
            self.absent_4k += nr_pages - backed
            pfn = upto
        return taken

    def discard_s(self, cost: Cost, backed_pages: int) -> float:
        """Return how long taking so many backed pages away lasts, in seconds."""
        if self.thp:
            huge, small = divmod(backed_pages, HUGE_PAGES)
            return huge * cost.discard_2m_s + small * cost.discard_4k_s
        return backed_pages * cost.discard_4k_s
