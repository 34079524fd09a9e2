"""The machine of a search: watched zones, booted once for all executions of a program.

Every execution begins with the same machine in the same state. So it boots in a world of its own, and what an
execution gets is a copy: zones as they are after boot, with locks of its own, and what the judge knows of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, NoReturn, Self

from pagealloc.inventory import bears_reported
from pagealloc.memory import Memory, ZoneSpec
from pagealloc.mmzone import Layout
from pagealloc.pcp import PageSets
from pagealloc.revision import Revision
from pagealloc.sync import Sync
from pagealloc.sync_real import RealSync
from pagealloc.zone import Zone
from stress.controlled.strategy import Replay
from stress.controlled.sync import ControlledSync
from stress.controlled.world import Violation, World
from stress.invariants import Judge
from stress.invariants.judge import UnknownEvent
from stress.invariants.lists import Fail
from stress.log.snapshot import begin_zone


class WatchedZone(Zone):
    """A zone whose rotations and allocations are judged where they happen."""

    __slots__ = ("_fail",)

    _fail: Fail | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._fail = None
        super().__init__(*args, **kwargs)

    def become_twin_of(self, other: Self) -> None:
        super().become_twin_of(other)
        self._fail = self.trace = None  # whoever listens to the other one

    def tell_of_wrongs(self, fail: Fail | None) -> None:
        """Let `fail` hear from here on what no event tells, or nobody."""
        self._fail = fail

    def rotate_to_front(self, pfn: int, order: int, migratetype: int) -> None:
        super().rotate_to_front(pfn, order, migratetype)
        if self._fail is not None:  # the event tells what was done; what was asked for is known here only
            first = self.first_in_list(order, migratetype)
            if first != pfn:
                self._fail("S19", f"a list is turned to pfn {pfn:#x}, and begins with pfn {first:#x}")

    def marks_changed(self) -> None:
        super().marks_changed()
        if self._fail is not None and not self.lock.owned():  # no event tells of a boost
            self._fail("S9", f"the marks of zone {self.name} change without its lock")

    def rmqueue_buddy(self, order: int, migratetype: int, alloc_flags: int = 0) -> int:
        pfn = Zone.rmqueue_buddy(self, order, migratetype, alloc_flags)
        if pfn >= 0 and self._fail is not None and bears_reported(self, pfn):
            self._fail("S25", f"pfn {pfn:#x} is allocated with the Reported bit set")
        return pfn


class WatchedMemory(Memory):
    """A memory of watched zones."""

    zone_class = WatchedZone
    zones: list[WatchedZone]  # type: ignore[assignment]

    def twin(self, sync: Sync) -> WatchedMemory:
        """Return a memory in the same state, with locks of its own."""
        memory = WatchedMemory.__new__(WatchedMemory)
        vars(memory).update(vars(self))
        memory.sync = sync
        memory.trace = None  # whoever listens to the other one
        memory.zones = []
        for zone in self.zones:
            memory.zones.append(zone.twin(sync, tuple(memory.zones)))
        memory._last_zone = memory.zones[-1]  # noqa: SLF001 - ours
        memory._requests = {}  # noqa: SLF001 - the old ones name zones
        if memory.page_sets is not None:
            memory.page_sets = self._twin_of_page_sets(memory.page_sets, memory.zones, sync)
        return memory

    def _twin_of_page_sets(self, page_sets: PageSets, zones: Sequence[WatchedZone], sync: Sync) -> PageSets:
        """Return page sets of the same size: it goes by the marks at the time when a memory is built."""
        twin = PageSets(zones, self.revision, sync)
        twin.bounds = page_sets.bounds
        return twin


@dataclass(eq=False, slots=True)
class Machine:
    """A machine that nobody runs, and a judge who knows its zones as they are: executions begin with copies of it.

    `after` has the machines that it became by a step of some execution's set-up, see `Kit`.
    """

    memory: WatchedMemory
    judge: Judge
    after: dict[Step, After] = field(default_factory=dict)


Step = tuple[str, tuple[Any, ...], tuple[tuple[str, Any], ...]]  # a method of the kit, and its arguments


class After(NamedTuple):
    """What a step of set-up comes to: for whoever asked, in points, and for the machine."""

    result: Any
    points: int
    machine: Machine


class Build(NamedTuple):
    """What a scenario asks for: zones of (name, pages), all with the same marks."""

    zones: tuple[tuple[str, int], ...]
    marks: tuple[int, int, int]
    page_sets: bool
    layout: Layout
    boost_factor: int


def _fail(invariant: str, text: str) -> NoReturn:
    raise Violation(invariant, text)


def boot(build: Build, revision: Revision) -> Machine:
    """Build a machine and boot it. Raises what goes wrong there, and Violation for a deadlock."""
    world = World(Replay([]))
    judge = Judge(_fail)
    machines = []

    def hear(zone: int, event: str, /, *fields: object) -> None:
        handler = judge.handlers.get(event)
        if handler is None:
            raise UnknownEvent(event)
        handler(0, zone, 0, *fields)

    def main() -> None:
        memory = WatchedMemory(
            [ZoneSpec(name, pages) for name, pages in build.zones],
            layout=build.layout,
            revision=revision,
            sync=ControlledSync(world),
            ram=None,
            page_sets=build.page_sets,
            watermark_boost_factor=build.boost_factor,
        )
        for zone in memory.zones:
            zone.set_watermarks(*build.marks)
            begin_zone(zone, partial(hear, zone.number))
        machines.append(Machine(memory.twin(RealSync()), judge))  # on locks that keep no world alive

    world.run(main)
    return machines[0]
