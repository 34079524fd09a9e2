"""What belongs to a lock is touched under it (the kernel says so with `lockdep_assert_held`).

A race needs two tasks and the right moment. A look without the lock is there in every execution, so one finds it: the
first of each search that comes to an end. Guards add no points, so that one takes the same steps as all others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import currentframe
from typing import Any, cast

from pagealloc.zone import Zone
from stress.controlled.sync import ControlledCondition, ControlledLock
from stress.invariants.lists import Fail
from stress.search.fields import WATCHED, Look, watch
from workers.page_reporting import PageReporting
from workers.workqueue import DelayedWork, Workqueue

PRODUCT = ("pagealloc.", "workers.")  # whose names a message has, not those of the search

# Methods of a work queue that get a work: by them it comes to know those that it has.
GET_A_WORK = ("queue_delayed_work", "bar", "disarm", "cancel_delayed_work_sync", "idle", "run_now")

# Of a zone: read without the lock on purpose, where an old value does no harm; written under it only.
NUMBERS_OF_A_ZONE = (
    "nr_free_pages",
    "nr_isolate_pageblock",
    "nr_reserved_highatomic",
    "nr_free_highatomic",
    "watermark",
    "watermark_boost",
    "boosted",
    "lowmem_reserve",
)


def guard_workqueue(queue: Workqueue, fail: Fail) -> None:
    """Have a queue, and every work that comes to it, touched under the queue's lock only.

    `pending` alone looks without it whether a work is due, and says why that is enough.
    """
    lock = cast("ControlledCondition", queue._changed).lock  # noqa: SLF001 - ours
    guard(queue, lock, fail, reads=("_timers", "_tickets"), writes=("_stopping",))

    def know(work: DelayedWork) -> None:
        if not hasattr(type(work), WATCHED):
            guard(work, lock, fail, reads=("running", "barred"), writes=("due",))

    for name in GET_A_WORK:
        vars(queue)[name] = _knowing(know, getattr(queue, name))


def guard_reporting(reporting: PageReporting, fail: Fail) -> None:
    """Have a device come and go under the mutex only; notifiers look without it, as under RCU."""
    lock = cast("ControlledLock", reporting._mutex)  # noqa: SLF001 - ours
    guard(reporting, lock, fail, writes=("_registered", "_leaving", "_settled_order"))


def guard_zone(zone: Zone, fail: Fail) -> None:
    """Have a zone's plain numbers, and its marks, change under its lock only."""
    guard(zone, cast("ControlledLock", zone.lock.raw), fail, writes=NUMBERS_OF_A_ZONE)


def guard(
    thing: Any, lock: ControlledLock, fail: Fail, *, reads: tuple[str, ...] = (), writes: tuple[str, ...]
) -> None:
    """Let `fail` hear of it when a field is touched, or only written, by a task that does not hold the lock."""
    kinds = [cls.__name__ for cls in type(thing).__mro__ if cls.__module__.startswith(PRODUCT)]
    kind = kinds[0] if kinds else type(thing).__name__

    def look(how: str, name: str) -> None:
        if lock.owner is not lock.world.current and not lock.world.aborting:
            task = lock.world.current.name
            fail("lockdep", f"{kind}.{name} is {how} by {task}, who does not hold {lock} (in {_place()})")

    def looks(name: str) -> tuple[Look | None, Look]:
        return partial(look, "read", name) if name in reads else None, partial(look, "written", name)

    watch(thing, {name: looks(name) for name in (*reads, *writes)})


def _place() -> str:
    """Name the function of the product that touches a field: three calls out, past `look` and the property."""
    frame = currentframe()
    for _ in range(3):
        assert frame is not None
        frame = frame.f_back
    assert frame is not None
    return frame.f_code.co_qualname


def _knowing(know: Callable[[DelayedWork], None], method: Callable[..., Any]) -> Callable[..., Any]:
    def knowing(work: DelayedWork, *arguments: Any, **named: Any) -> Any:
        know(work)
        return method(work, *arguments, **named)

    return knowing
