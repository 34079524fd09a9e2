"""The lock of a zone, and who may be inside: the owner that comes back, an exception from outside, a child.

Three things happen to a thread of Python inside a zone that never happen to a CPU under `zone->lock`.

*A finalizer or a signal handler runs in it*, and frees a block. It would wait for itself. So the lock knows
its owner, and `inside` tells whether the owner is in the middle of an operation: a free from there is left
on the list `left`, which whoever is inside clears on the way out, and an allocation finds nothing. That is
the rule of `free_pages_nolock` (v6.15), which tries the lock and else leaves the page for the next holder.

*An exception from outside arrives*: KeyboardInterrupt, MemoryError, what one thread throws into another. It
may come between any two bytecodes, and so between two stores of a list operation. The lock is given back on
every way out, and what may be torn stays shut: from then on every operation raises TornZone.

*The process forks*: the child has the lock as some thread of the parent left it. It is shut there, too.

And *the memory closes*, at any time, from any thread. That waits for nobody: whoever is inside goes on to the end
of the operation, and whoever comes later is told. So the way in is changed (`close`), and the ways through are not.

The hot paths of `zone` have `acquire` and `release` written out.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from typing import NoReturn, Protocol, TypeVar, cast

from pagealloc.errors import AnotherProcess, MemoryClosed, PageAllocError, TornZone, ZoneBusy
from pagealloc.sync import Lock

# What operations raise themselves, before they change anything, and what Python says of arguments that are no numbers.
MISUSE = (PageAllocError, TypeError)

HOME = __name__.partition(".")[0]
DOOR = __file__  # how frames of the door itself are known


class Locked(Protocol):
    """Whatever has a zone lock."""

    lock: ZoneLock


Operation = TypeVar("Operation", bound=Callable[..., object])


def whole(operation: Operation) -> Operation:
    """Have a zone's method that enters the zone by `with` leave it on every way out.

    An exception from outside may come when the block of a `with` has ended and `__exit__` has not begun.
    """

    @functools.wraps(operation)
    def whole_operation(zone: Locked, *arguments: object, **named: object) -> object:
        lock = zone.lock
        further_out = lock.inside and lock.owned()
        try:
            return operation(zone, *arguments, **named)
        except BaseException as error:
            if not further_out:
                try:
                    lock.let_go(error)
                finally:
                    lock.let_go(error)  # a second one may have come into the first
            raise

    return cast("Operation", whole_operation)


class ZoneLock:
    """A spinlock with a door. As a context manager it is a whole operation: entered, and left or shut."""

    __slots__ = (
        "give",
        "holds",
        "inside",
        "left",
        "may_wait",
        "name",
        "owned",
        "raw",
        "refusal",
        "take",
        "torn_in",
    )

    def __init__(self, raw: Lock, zone_name: str) -> None:
        self.raw = raw
        self.name = zone_name
        # The hot paths go by bound methods. A lock that spins is tried by its inner one first, which lets its owner
        # in again:  lock.take(lock.may_wait) or raw.acquire()
        self.take: Callable[[bool], bool] = getattr(raw, "try_once", raw.acquire)
        self.may_wait = getattr(raw, "may_wait", True)
        # The other way about: whoever left a block has it freed first, by a `give` that stands here once.
        self.give: Callable[[], None] = raw.release
        self.owned = raw.owned
        # How many the calling thread has: more than one, of a lock that lets its owner in again.
        self.holds: Callable[[], int] = getattr(raw, "holds", lambda: 1)
        self.inside = False  # an operation is under way, or was torn; read and written under the lock
        self.left: deque[tuple[int, int]] = deque()  # (pfn, order) of blocks that wait for the next to leave
        # What came in, AnotherProcess or MemoryClosed: nobody enters any more.
        self.refusal: type[BaseException] | None = None
        self.torn_in = ""  # function that it came into
        if hasattr(raw, "in_child"):
            raw.in_child = self.part

    # -- a whole operation -----------------------------------------------------------------------------

    def acquire(self, blocking: bool = True, /) -> bool:
        """Enter the zone. Raises ZoneBusy to the thread that is inside already, and what `refused` returns."""
        entered = False
        try:
            if not (self.take(blocking and self.may_wait) or (blocking and self.raw.acquire())):
                return False
            if self.inside:
                self.turn_away()
                raise ZoneBusy(
                    f"zone {self.name}: a finalizer or a signal handler came back into an operation of its own "
                    "thread; expected nothing but frees and allocations from there"
                )
            entered = self.inside = True
        except BaseException:
            self.withdraw(entered=entered)
            raise
        return True

    def release(self) -> None:
        """Leave the zone as whole as it was entered."""
        self.inside = False
        self.give()

    def __enter__(self) -> None:  # not a second name of `acquire`: compiled classes have no such thing
        self.acquire()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object, /) -> None:
        if error is None:
            self.release()
        else:
            self.abandon(error, entered=True)

    def locked(self) -> bool:
        return self.raw.locked()

    # -- ways out of an operation that did not go well ---------------------------------------------------

    def turn_away(self) -> None:
        """Give back a hold that found the zone entered: by the owner itself, unless this raises.

        Raises what `refused` returns when nobody is inside but the zone is shut.
        """
        self.raw.release()
        if self.refusal is not None or not self.owned():
            raise self.refused()

    def withdraw(self, *, entered: bool) -> None:
        """Give back what a thread took that an exception met before it changed anything.

        An exception may come right before or after the lock is taken or given, so whoever handles it cannot
        know; the lock does. If the thread is inside further out, that hold is not this one's to give.
        """
        if not self.owned():
            return
        if entered:
            self.inside = False
        # Never all of them to take one again: whoever comes in between finds somebody inside, and nobody there.
        kept = 1 if self.inside and self.refusal in (None, MemoryClosed) else 0
        try:
            self._give_all_but(kept)
        except BaseException:  # it came in here, and whoever is inside gives one back, not two
            self._give_all_but(kept)
            raise

    def _give_all_but(self, kept: int) -> None:
        while self.owned() and self.holds() > kept:
            self.raw.release()

    def abandon(self, error: BaseException, *, entered: bool) -> None:
        """Leave an operation by an exception, and shut the zone if it may be torn."""
        if not entered or isinstance(error, MISUSE):
            self.withdraw(entered=entered)
        elif self.owned():  # else it had left already
            self.inside = True
            self._note(error)
            while self.owned():
                self.raw.release()

    def let_go(self, error: BaseException) -> None:
        """Leave whatever an exception from outside kept entered: it came into the way out of a `with` itself."""
        if self.owned():
            self.abandon(error, entered=self.inside)

    def tear(self, error: BaseException) -> None:
        """Shut the zone after an exception that may have lost a block on its way to or from the zone."""
        if isinstance(error, MISUSE) or self.refusal is not None:
            return
        self._note(error)
        if not self.owned():
            self.raw.acquire()
            self.inside = True
            self.raw.release()

    def _note(self, error: BaseException) -> None:
        # There may be no memory left to say it with, so this makes no object.
        traceback = error.__traceback__
        while traceback is not None:
            frame = traceback.tb_frame
            if frame.f_globals["__name__"].startswith(HOME):
                self.torn_in = frame.f_code.co_name
            traceback = traceback.tb_next
        self.refusal = type(error)

    def part(self) -> None:
        """Shut the zone in the child of a fork."""
        self.refusal = AnotherProcess
        self.inside = True
        # The fork may have come into an operation, whose end opens the zone.
        self.take = self.give = self._refuse

    def close(self) -> None:
        """Let nobody in any more, without waiting for whoever is inside; a zone that is shut stays shut as it is."""
        if self.refusal is None:
            self.refusal = MemoryClosed
            self.take = self._refuse

    def _refuse(self, *_: object) -> NoReturn:
        raise self.refused()

    def check(self) -> None:
        """Raise what `refused` returns when the zone is shut, and let everybody else pass."""
        if self.refusal is not None:
            raise self.refused()

    def refused(self) -> PageAllocError:
        """Build what every operation on a shut zone raises."""
        if self.refusal is AnotherProcess:
            return AnotherProcess(
                f"zone {self.name} is the parent process's, from which this one was forked; "
                "expected a memory of the child's own"
            )
        if self.refusal is MemoryClosed:
            return MemoryClosed(
                f"this memory is closed, and zone {self.name} went back to the operating system with all that was "
                "allocated of it; expected no operation after close()"
            )
        what = "an exception" if self.refusal is None else self.refusal.__name__
        return TornZone(
            f"zone {self.name} may be torn: {what} came into {self.torn_in or 'an operation'} and left it half done, "
            "so blocks may be lost; expected no more operations on this memory"
        )
