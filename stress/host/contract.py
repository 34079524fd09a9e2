"""What a kernel that reports free pages must keep, decided by the device from what it is told, and sees in memory.

The rules are the kernel's own (`mm/page_reporting.c`, v6.1): one batch at a time with `PAGE_REPORTING_CAPACITY`
entries at most; blocks of the buddy allocator, of the reporting order or more; a block that was reported is not
reported again unless it was in use; and a pass begins `PAGE_REPORTING_DELAY` after it was asked for, which is never
before the one before it ended.

The last two can be seen from outside only with care. A block may have been in use without a byte written, so one that
comes again untouched is counted; when it is a whole batch of some size, the flag is lost. Passes are told apart by
the pauses between an answer and the next batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pagealloc.mmzone import PAGE_SIZE

Range = tuple[int, int]  # guest physical address, bytes

THIS = 0  # the batch that is judged; batches are numbered from 1
AGAIN_BATCH_MIN = 8  # so many ranges that all come again untouched are no chance
EARLY_S = 0.05  # a jiffy is 10 ms at most, and nobody's clock is perfect


class Contract:
    """Judges batches in the order in which they come; `untouched(range)` says whether nobody wrote there since.

    `order` is the smallest that may come, `capacity` the most ranges in a batch, `delay_s` the seconds from one pass
    to the next.
    """

    def __init__(
        self,
        untouched: Callable[[Range], bool],
        *,
        order: int,
        capacity: int,
        delay_s: float,
    ) -> None:
        self.passes = 0
        self.in_flight_max = 0
        self.again_untouched = 0  # ranges
        self._untouched = untouched
        self._order = order
        self._capacity = capacity
        self._delay_s = delay_s
        self._in_flight: dict[int, Sequence[Range]] = {}
        self._given_back: set[Range] = set()
        self._answered_s: float | None = None

    def begin(self, batch: int, now_s: float, ranges: Sequence[Range]) -> list[str]:
        """Judge a batch that has just come; returns what is wrong, each in one line."""
        wrong = []
        if len(ranges) > self._capacity:
            wrong.append(f"it has {len(ranges)} ranges, expected {self._capacity} at most")
        wrong += [text for each in ranges if (text := self._flaw(each))]
        wrong += self._overlaps(ranges)
        wrong += self._too_early(now_s)
        wrong += self._again(ranges)
        self._in_flight[batch] = ranges
        self.in_flight_max = max(self.in_flight_max, len(self._in_flight))
        return [f"batch {batch}: {text}" for text in wrong]

    def end(self, batch: int, now_s: float, given_back: Sequence[Range]) -> None:
        """Note that a batch was answered, and which of its ranges were given back."""
        del self._in_flight[batch]
        self._given_back |= {*given_back}
        self._answered_s = now_s

    @property
    def in_flight(self) -> int:
        """Batches that were not answered yet."""
        return len(self._in_flight)

    def _flaw(self, each: Range) -> str:
        gpa, length = each
        nr_pages = length // PAGE_SIZE
        if not nr_pages or length % PAGE_SIZE or nr_pages & (nr_pages - 1):
            return f"{gpa:#x} + {length:#x} is no block of a power of two pages"
        if gpa % length:
            return f"{gpa:#x} + {length:#x} is not aligned to its size"
        if nr_pages < 1 << self._order:
            return f"{gpa:#x} is of order {nr_pages.bit_length() - 1}, expected {self._order} or more"
        return ""

    def _overlaps(self, ranges: Sequence[Range]) -> list[str]:
        """Find ranges that share a byte, within the batch or with another one in flight."""
        spans = sorted(
            (gpa, gpa + length, batch == THIS)
            for batch, each in [*self._in_flight.items(), (THIS, ranges)]
            for gpa, length in each
        )
        found = []
        furthest, furthest_is_this = 0, False
        for start, end, is_this in spans:
            if start < furthest and (is_this or furthest_is_this):
                found.append(f"{start:#x} is in flight already, up to {furthest - 1:#x}")
            if end > furthest:
                furthest, furthest_is_this = end, is_this
        return found

    def _too_early(self, now_s: float) -> list[str]:
        """Tell passes apart: a batch of the same pass follows at once, one of the next after the delay."""
        if self._answered_s is None:
            self.passes = max(self.passes, 1)
            return []
        pause_s = now_s - self._answered_s
        if pause_s < self._delay_s / 2:
            return []
        self.passes += 1
        if pause_s < self._delay_s - EARLY_S:
            return [
                f"a pass begins {pause_s:.2f} s after the one before, expected {self._delay_s:g} s or more"
            ]
        return []

    def _again(self, ranges: Sequence[Range]) -> list[str]:
        """Find ranges that were given back, come again just so, and nobody wrote to meanwhile."""
        again = [each for each in ranges if each in self._given_back and self._untouched(each)]
        self.again_untouched += len(again)
        self._given_back -= {*ranges}
        if len(again) == len(ranges) >= AGAIN_BATCH_MIN:
            gpa, length = again[0]
            first = f"the first at {gpa:#x} + {length:#x}"
            return [f"all of its {len(ranges)} ranges were reported before and not written to since, {first}"]
        return []
