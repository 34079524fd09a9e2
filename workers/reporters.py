"""What a device can do with a batch of free blocks: the reporters that ship, and how to load another.

A reporter of your own is a class with one method; `module:Class` finds it:

    class Count:
        blocks = 0

        def report(self, zone, batch):
            self.blocks += len(batch)

Two more methods it may have: `start(memory)` is called before the first pass, on the memory that it will be told
of, and whatever it raises is a bad argument, not a failed batch; `close()` after its device was unregistered, and
even while a batch is with it that never came back.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import NamedTuple

from pagealloc.memory import Memory
from pagealloc.sync import Event, Rng, Sync
from pagealloc.sync_real import RealSync
from pagealloc.zone import Zone
from workers.errors import ReporterError, describe_error
from workers.page_reporting import Batch, Reporter

DEFAULT_SLEEP_S = 0.01
ALL_BATCHES = 1 + 1e-9  # as a sum of shares: floats may come to a little more than 1


class Null:
    """Takes note of everything and does nothing."""

    def report(self, zone: Zone, batch: Batch) -> None:
        del zone, batch


class Discard:
    """Gives the memory of every block back to the operating system, as a hypervisor would."""

    def report(self, zone: Zone, batch: Batch) -> None:
        if zone.ram is None:
            raise ReporterError(f"zone {zone.name} has no RAM to discard")
        for block in batch:
            zone.ram.discard(block.offset, block.length)


class Sleep:
    """Takes between `shortest_s` and `longest_s` seconds for each batch, and then does what `inner` does."""

    def __init__(self, inner: Reporter, sync: Sync, rng: Rng, shortest_s: float, longest_s: float) -> None:
        if not 0 <= shortest_s <= longest_s:
            raise ValueError(f"sleep of {shortest_s} .. {longest_s} s, expected 0 <= shortest <= longest")
        self._inner = inner
        self._sync = sync
        self._rng = rng
        self._shortest_s = shortest_s
        self._longest_s = longest_s

    def report(self, zone: Zone, batch: Batch) -> None:
        self._sync.sleep(self._shortest_s + self._rng.random() * (self._longest_s - self._shortest_s))
        self._inner.report(zone, batch)


class InjectedError(ReporterError):
    """The failure that `FaultInjector` was asked for."""


class FaultInjector:
    """Makes another reporter fail, dawdle, or never come back, at given rates from a seed.

    Each rate is the share of batches that meet with it, and no batch meets with two. A batch is *lost* after the
    inner reporter has done its work: the host has taken the memory, and the answer never arrives. The call then
    waits until `release`.
    """

    def __init__(
        self,
        inner: Reporter,
        sync: Sync,
        rng: Rng,
        *,
        fail_rate: float = 0.0,
        delay_rate: float = 0.0,
        lose_rate: float = 0.0,
        delay_s: float = 0.05,
    ) -> None:
        for name, rate in (("fail", fail_rate), ("delay", delay_rate), ("lose", lose_rate)):
            if not 0 <= rate <= 1:
                raise ValueError(f"{name} rate is {rate}, expected 0 .. 1")
        total = fail_rate + delay_rate + lose_rate
        if total > ALL_BATCHES:
            raise ValueError(f"the rates of fail, delay and lose add up to {total:g}, expected 1 or less")
        self._inner = inner
        self._sync = sync
        self._rng = rng
        self._fail_rate = fail_rate
        self._delay_rate = delay_rate
        self._lose_rate = lose_rate
        self._delay_s = delay_s
        self._released: Event = sync.event("lost completions are released")

    def report(self, zone: Zone, batch: Batch) -> None:
        drawn = self._rng.random()  # one draw decides which fault it is, if any
        if drawn < self._fail_rate:
            raise InjectedError(f"injected failure of a batch of {len(batch)}")
        lost = drawn >= 1 - self._lose_rate
        if not lost and drawn < self._fail_rate + self._delay_rate:
            self._sync.sleep(self._delay_s)
        self._inner.report(zone, batch)
        if lost:
            self._released.wait()
            raise InjectedError(f"the lost completion of a batch of {len(batch)} was released")

    def release(self) -> None:
        """Let every lost batch come back, as failed; for the end of a run."""
        self._released.set()


def _qemu(sync: Sync, timeout_s: float) -> Reporter:
    from workers.qemu.reporter import QemuReporter  # noqa: PLC0415 - sockets and programs, which hardly anybody needs

    return QemuReporter(sync, timeout_s)


class Shipped(NamedTuple):
    """A reporter that ships: how it is made, and what it does, in a few words for people."""

    make: Callable[[Sync, float], Reporter]
    about: str


SHIPPED = {
    "null": Shipped(lambda sync, timeout_s: Null(), "takes note and does nothing"),
    "sleep": Shipped(lambda sync, timeout_s: Null(), "takes its time, as --reporter-sleep says"),
    "discard": Shipped(lambda sync, timeout_s: Discard(), "gives the memory back to the operating system"),
    "qemu": Shipped(_qemu, "hands the memory to the virtio-balloon of a QEMU that it starts"),
}


def load_reporter(name: str, sync: Sync | None = None, timeout_s: float = 0.0) -> Reporter:
    """Make the reporter called `name`: one that ships, or `module:Class` with no arguments.

    `sleep` is `null` here; the time is added by whoever knows how long (`Sleep`). `timeout_s` is for a reporter
    that can end its device; with 0 a batch may take for ever. Raises ReporterError when there is no such reporter.
    """
    if name in SHIPPED:
        return SHIPPED[name].make(sync if sync is not None else RealSync(), timeout_s)
    module_name, colon, class_name = name.partition(":")
    if not colon or not module_name or not class_name:
        known = ", ".join(SHIPPED)
        raise ReporterError(f"reporter {name!r} is none of {known}, nor of the form module:Class")
    try:
        factory = getattr(importlib.import_module(module_name), class_name)
        reporter: Reporter = factory()
    except (Exception, SystemExit) as error:  # a module may want to leave; it is not asked
        raise ReporterError(f"reporter {name!r} cannot be made: {type(error).__name__}: {error}") from error
    if not callable(getattr(reporter, "report", None)):
        raise ReporterError(f"reporter {name!r} has no method report(zone, batch)")
    return reporter


def start_reporter(reporter: Reporter, memory: Memory) -> None:
    """Call the reporter's `start`, if it has one. Raises ReporterError when it cannot work on this memory."""
    start = getattr(reporter, "start", None)
    if start is not None:
        try:
            start(memory)
        except ReporterError:
            raise
        except (Exception, SystemExit) as error:
            raise ReporterError(f"the reporter cannot start: {describe_error(error)}") from error


def close_reporter(reporter: Reporter) -> None:
    """Call the reporter's `close`, if it has one. Raises ReporterError when that raises."""
    close = getattr(reporter, "close", None)
    if close is not None:
        try:
            close()
        except (Exception, SystemExit) as error:
            raise ReporterError(f"the reporter's close raised {describe_error(error)}") from error
