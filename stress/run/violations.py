"""What went wrong in a run, in words, from any thread."""

from __future__ import annotations

from collections.abc import Callable

from pagealloc.sync import Sync

MAX_VIOLATIONS = 50  # kept in words; all are counted


class Violations:
    """What went wrong, in words, from any thread; the first are kept and all are counted."""

    def __init__(self, sync: Sync, notify: Callable[[str], None]) -> None:
        self.texts: list[str] = []
        self._lock = sync.mutex("violations")
        self._count = sync.atomic("violations", 0)
        self._notify = notify

    def add(self, text: str) -> None:
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
