"""What a story says of works and page sets: operations that are no steps of their own, told by their names.

Only an execution that is kept for its story is told like this; it takes the same steps as all others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pagealloc.pcp import PageSets
from stress.controlled.world import Subject, World
from workers.workqueue import DelayedWork, Workqueue

# Methods of a work queue that get the work, and what they do to it.
WORKS = {
    "_bar": "disarms and bars",
    "cancel_delayed_work_sync": "cancels, and waits for the end of,",
    "_begin": "begins",
    "_end": "ends",
}


def narrate_works(world: World, queue: Workqueue) -> None:
    """Let everything be told that is done to a queue's works."""
    for method, words in WORKS.items():
        _before(queue, method, lambda work, *_, words=words: _tell(world, words, work.name))

    arm = queue.queue_delayed_work

    def queue_delayed_work(work: DelayedWork, delay_s: float) -> bool:
        armed = arm(work, delay_s)
        _tell(world, "queues" if armed else "asks in vain for", work.name)
        return armed

    vars(queue)["queue_delayed_work"] = queue_delayed_work
    _before(queue, "stop", lambda *_: _tell(world, "stops", f"workqueue {queue.name}"))


def narrate_page_sets(world: World, page_sets: PageSets) -> None:
    """Let it be told which blocks go to a page set, and come from it."""
    alloc, free = page_sets.alloc, page_sets.free

    def told_alloc(zone: Any, order: int, migratetype: int, alloc_flags: int) -> int:
        pfn = alloc(zone, order, migratetype, alloc_flags)
        if pfn >= 0:
            world.note("pops from its page set", zone.name, pfn, order)
        return pfn

    def told_free(zone: Any, pfn: int, order: int) -> bool:
        rests = free(zone, pfn, order)
        if rests:
            world.note("has pushed to its page set", zone.name, pfn, order)
        return rests

    vars(page_sets)["alloc"] = told_alloc
    vars(page_sets)["free"] = told_free
    _before(page_sets, "drain_all", lambda *_: _tell(world, "drains", "all page sets"))


def _before(owner: object, method: str, tell: Callable[..., None]) -> None:
    inner = getattr(owner, method)

    def told(*arguments: Any, **named: Any) -> Any:
        tell(*arguments)
        return inner(*arguments, **named)

    vars(owner)[method] = told


def _tell(world: World, words: str, name: str) -> None:
    world.tell(world.current, words, Subject(name))
