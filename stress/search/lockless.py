"""Points at what is read and written without a lock.

Between two operations on primitives a task runs alone, so a search is blind to what happens between a lockless look
and the step that relies on it. A scenario that is about such a look asks for points there (`Kit.build(lockless=True)`):
at every state byte and every list that page sets touch, and at every event that is told without a lock. `peek` makes
points of an object's fields.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, cast

from pagealloc.pcp import PageSet, PageSets
from pagealloc.revision import Revision
from pagealloc.zone import Zone
from stress.controlled.sync import ControlledSync
from stress.controlled.world import Subject, World
from stress.search.fields import watch


def peek(world: World, thing: Any, *names: str) -> None:
    """Make every look at these fields of a thing a point, and every store."""
    subject = Subject(f"fields of {type(thing).__name__}")
    looks = partial(world.point, "read", subject), partial(world.point, "write", subject)
    world.lockless_writes = True
    watch(thing, dict.fromkeys(names, looks))


class PeekedFrames:
    """The state bytes of a zone, as page sets see them."""

    __slots__ = ("_frames", "_subject", "_world")

    def __init__(self, world: World, zone: Zone) -> None:
        self._world = world
        self._frames = zone.state
        self._subject = Subject(f"states of zone {zone.name}")

    def __getitem__(self, index: int) -> int:
        self._world.point("read", self._subject)
        return self._frames[index]

    def __setitem__(self, index: int, state: int) -> None:
        self._world.point("write", self._subject)
        self._frames[index] = state


class PeekedZone:
    """A zone whose state bytes are points to look at; in everything else the zone itself."""

    def __init__(self, world: World, zone: Zone) -> None:
        self._zone = zone
        self.state = PeekedFrames(world, zone)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._zone, name)


class PeekedList(deque[int]):
    """A list of a page set: its owner and whoever drains it take turns at every operation."""

    def __init__(self, world: World, subject: Subject) -> None:
        super().__init__()
        self._world = world
        self._subject = subject

    def append(self, pfn: int, /) -> None:
        self._world.point("append to", self._subject)
        super().append(pfn)

    def extendleft(self, pfns: Iterable[int], /) -> None:
        self._world.point("extend", self._subject)
        super().extendleft(pfns)

    def pop(self) -> int:  # type: ignore[override]
        self._world.point("pop from", self._subject)
        return super().pop()

    def popleft(self) -> int:
        self._world.point("pop from", self._subject)
        return super().popleft()

    def copy(self) -> deque[int]:  # type: ignore[override]  # a plain one
        self._world.point("copy", self._subject)
        return deque(self)

    def clear(self) -> None:
        self._world.point("clear", self._subject)
        super().clear()


class LocklessPageSets(PageSets):
    """Page sets with a point at every look that they take without a lock."""

    def __init__(
        self, page_sets: PageSets, zones: Sequence[Zone], revision: Revision, sync: ControlledSync
    ) -> None:
        super().__init__(zones, revision, sync)
        self.bounds = page_sets.bounds  # they go by the marks at boot
        self._world = sync.world
        self._peeked = [cast("Zone", PeekedZone(sync.world, zone)) for zone in zones]

    def alloc(self, zone: Zone, order: int, migratetype: int, alloc_flags: int) -> int:
        return super().alloc(self._peeked[zone.number], order, migratetype, alloc_flags)

    def free(self, zone: Zone, pfn: int, order: int) -> bool:
        return super().free(self._peeked[zone.number], pfn, order)

    def _add_cpu(self, owner: PageSet | None) -> int:
        cpu = super()._add_cpu(owner)
        subject = Subject(f"page set of CPU {cpu}")
        for pcp in self._sets[cpu]:
            peeked = {id(pages): PeekedList(self._world, subject) for pages in pcp.lists}
            pcp.lists = [peeked[id(pages)] for pages in pcp.lists]
            pcp.stacks = [(peeked[id(pages)], order, of_type) for pages, order, of_type in pcp.stacks]
        return cpu
