"""Scenarios for what stands below all others: locks, atomics and memory of the real world, and a zone's door.

A search has primitives of its own, so what threads use is tried by nobody else between two of its steps: here the real
classes run with a point at every look and store, and a lock of the search within.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from itertools import permutations
from typing import Any, cast

from pagealloc.errors import RamError, TornZone
from pagealloc.memory import Memory, ZoneSpec
from pagealloc.mmzone import MIGRATE_MOVABLE
from pagealloc.ram import Ram
from pagealloc.sync_real import GilAtomic, ParkingLock, RealAtomic, SpinLock
from stress.search.kit import LAYOUT, Kit
from stress.search.lockless import peek
from stress.search.scenarios.catalogue import scenario
from stress.search.scenarios.sets import expect_refusals

Outcome = tuple[int, ...]  # what each task was told, and the value in the end


def _store(atomic: RealAtomic) -> int:
    atomic.store(8)
    return 0


# What tasks do to an atomic that begins at 0, and the same to a plain number: what it becomes, and what is told.
OPERATIONS: list[tuple[Callable[[RealAtomic], int], Callable[[int], tuple[int, int]]]] = [
    (lambda atomic: atomic.xchg(1), lambda value: (1, value)),
    (lambda atomic: atomic.cmpxchg(0, 2), lambda value: (value or 2, value)),
    (lambda atomic: atomic.add(4), lambda value: (value + 4, value + 4)),
    (_store, lambda _: (8, 0)),
    (lambda atomic: atomic.load(), lambda value: (value, value)),
]


@cache
def _outcomes() -> set[Outcome]:
    """Return all that the operations may come to, done one after the other in any order."""
    return {_outcome(order) for order in permutations(range(len(OPERATIONS)))}


def _outcome(order: tuple[int, ...]) -> Outcome:
    value, told = 0, {}
    for number in order:
        value, told[number] = OPERATIONS[number][1](value)
    return (*(told[number] for number in range(len(OPERATIONS))), value)


def _peeked(kit: Kit, kind: type[RealAtomic]) -> RealAtomic:
    """Return an atomic of the real world: each look at its value, and each store, is a point."""
    atomic = kind(0)
    atomic._lock = kit.sync.mutex("lock of an atomic")  # type: ignore[assignment]  # noqa: SLF001
    peek(kit.world, atomic, "_value")
    return atomic


@scenario
def real_atomics_take_one_step(kit: Kit) -> None:
    """Five threads exchange, compare, add, store and load: it comes out as if they had come one after the other."""
    kit.build(("Normal", 32))
    atomic = _peeked(kit, (GilAtomic, RealAtomic)[kit.world.draw(2)])
    told: dict[int, int] = {}

    def operate(number: int) -> None:
        told[number] = OPERATIONS[number][0](atomic)

    for number in range(len(OPERATIONS)):
        kit.spawn(f"task {number}", partial(operate, number))
    kit.settle(all_reported=False)
    outcome = (*(told[number] for number in range(len(OPERATIONS))), atomic.load())
    kit.expect(
        outcome in _outcomes(),
        "vectors",
        lambda: f"xchg, cmpxchg, add, store and load come to {outcome}, which no order does",
    )


def _over_a_lock_of_the_search(kit: Kit, kind: type[SpinLock]) -> SpinLock:
    """Return a spinlock of the real world, whose inner lock is one of the search."""
    inner = cast("Any", kit.sync.mutex("inner lock of a spinlock"))
    spinlock = kind()
    spinlock.try_once, spinlock.release, spinlock.owned = inner.acquire, inner.release, inner.owned
    return spinlock


@scenario
def real_spinlocks_are_waited_for(kit: Kit) -> None:
    """One thread keeps a spinlock for long: another one has it afterwards, and not together with the first."""
    kit.build(("Normal", 32))
    spinlock = _over_a_lock_of_the_search(kit, (SpinLock, ParkingLock)[kit.world.draw(2)])
    inside: list[str] = []
    done: list[str] = []

    def hold(name: str) -> None:
        spinlock.acquire()
        kit.expect(
            not inside, "lockdep", lambda: f"{name} has a spinlock that {inside[0]} has not given back"
        )
        inside.append(name)
        kit.sync.sleep(1.0)
        inside.remove(name)
        spinlock.release()
        done.append(name)

    for name in ("one", "another"):
        kit.spawn(name, partial(hold, name))
    kit.settle(all_reported=False)
    kit.expect(len(done) == 2, "lockdep", lambda: f"of two who want a spinlock {done} had it")


@scenario
def memory_goes_while_somebody_looks(kit: Kit) -> None:
    """Close the memory behind the pages while somebody asks for a page's bytes: none, or bytes that stay (S12)."""
    kit.build(("Normal", 32))
    ram = Ram(0, 4)
    peek(kit.world, ram, "_mmap", "_descriptor", "nr_bytes")

    def look() -> None:
        try:
            view = ram.view(1)
        except RamError:
            return
        owner = getattr(view.obj, "owner", None)
        kit.expect(
            owner is not None, "S12", lambda: "bytes of a page are given out, and nothing keeps them there"
        )

    kit.spawn("close", ram.close)
    kit.spawn("look", look)
    kit.settle(all_reported=False)


@scenario
def tear_beside_another(kit: Kit) -> None:
    """Tear a zone while somebody else is inside: whoever comes after both is refused, whichever leaves last."""
    kit.build(("Normal", 32))
    memory = Memory([ZoneSpec("Normal", 32)], layout=LAYOUT, revision=kit.revision, sync=kit.sync, ram=None)
    zone = memory.zones[0]
    zone.trace = lambda *_: kit.tick()  # who is inside may stay there for a while

    def use() -> None:
        with suppress(TornZone):
            memory.free_pages(zone.rmqueue_buddy(3, MIGRATE_MOVABLE), 3)

    kit.spawn("use", use)
    kit.spawn("tear", partial(zone.lock.tear, KeyboardInterrupt()))
    kit.settle(all_reported=False)
    block = partial(zone.rmqueue_buddy, 0, MIGRATE_MOVABLE)
    expect_refusals(kit, {"a block": block}, "a torn zone", TornZone)
