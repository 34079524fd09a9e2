"""What went wrong in a run, in words, from any thread."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from pagealloc.sync import Sync
from stress.errors import one_line

MAX_VIOLATIONS = 50  # kept in words; all are counted
TEXT_MAX = 2000  # characters of one; a reporter's exception may have written it


class Violations:
    """What went wrong, in words, from any thread; the first are kept and all are counted."""

    def __init__(self, sync: Sync, notify: Callable[[str], None]) -> None:
        self.texts: list[str] = []
        self._lock = sync.mutex("violations")
        self._count = sync.atomic("violations", 0)
        self._notify = notify

    def add(self, text: str) -> None:
        text = one_line(text, TEXT_MAX)
        self._count.add(1)
        self._lock.acquire()
        try:
            if len(self.texts) < MAX_VIOLATIONS:
                self.texts.append(text)
        finally:
            self._lock.release()
        self._notify(text)

    @property
    def count(self) -> int:
        return self._count.load()


_FIGURES = re.compile(r"0x[0-9a-f]+|[0-9]+")


def by_kind(texts: Sequence[str]) -> dict[str, int]:
    """Return the first of each kind, with how many there are; a kind is a text without its figures."""
    first: dict[str, str] = {}
    counts: dict[str, int] = {}
    for text in texts:
        one = first.setdefault(_FIGURES.sub("#", text), text)
        counts[one] = counts.get(one, 0) + 1
    return counts
