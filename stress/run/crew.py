"""The allocator threads of a run, as a crew: who is on, who has gone, and what they did altogether."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from pagealloc.memory import Memory
from pagealloc.sync import Sync, Thread
from stress.run.ledger import Ledger
from stress.run.params import RunParams
from stress.run.violations import Violations
from workers.allocators import Allocator, Held, Load


class Crew:
    """Allocators by number, each on a thread of its own while it is on. One thread at a time changes who is on."""

    def __init__(
        self, params: RunParams, memory: Memory, sync: Sync, ledger: Ledger, violations: Violations
    ) -> None:
        self.go = sync.event("go")
        self.go.set()
        self._sync = sync
        self._violations = violations
        self._inboxes: list[deque[Held]] = [deque() for _ in range(params.allocators)]
        self._stops = [sync.event(f"stop {number}") for number in range(params.allocators)]
        self._threads: list[Thread | None] = [None] * params.allocators
        self._spells = [0] * params.allocators  # how often each has come
        nodes = sorted({zone.node for zone in memory.zones})
        load = params.load(memory.nr_pages())
        self.allocators = [
            Allocator(
                number,
                memory,
                sync,
                sync.rng(params.seed, f"allocator {number}"),
                sync.rng(params.seed, "beat"),
                load,
                audit=ledger,
                inboxes=self._inboxes,
                stop=self._stops[number],
                go=self.go,
                node=nodes[number % len(nodes)],
            )
            for number in range(params.allocators)
        ]

    # -- coming and going --------------------------------------------------------------------------------

    def follow(self, load: Load) -> None:
        """Let everybody do something else from now on."""
        for allocator in self.allocators:
            allocator.load = load

    def muster(self) -> None:
        """Start everybody who is not on."""
        for allocator in self.allocators:
            if not self.is_on(allocator.number):
                self.start(allocator.number)

    def start(self, number: int) -> None:
        """Start one that is not on."""
        self._stops[number].clear()
        self._spells[number] += 1
        target = self._guarded(self.allocators[number])
        self._threads[number] = self._sync.spawn(f"allocator-{number}", target)

    def dismiss(self, number: int, timeout_s: float) -> None:
        """Let one free everything and go; whoever is late is still on, and will go when it can."""
        thread = self._threads[number]
        if thread is not None:
            self._stops[number].set()
            if thread.join(timeout_s):
                self._threads[number] = None

    def stop(self) -> None:
        """Tell everybody to free everything and go."""
        for stop in self._stops:
            stop.set()
        self.go.set()

    def is_on(self, number: int) -> bool:
        thread = self._threads[number]
        return thread is not None and thread.is_alive()

    def alive(self) -> list[Thread]:
        """Return the threads that have not ended."""
        return [thread for thread in self._threads if thread is not None and thread.is_alive()]

    def empty_inboxes(self) -> None:
        """Free what was handed over after its thread had left."""
        for allocator in self.allocators:
            allocator.empty_inbox()

    def _guarded(self, allocator: Allocator) -> Callable[[], None]:
        def target() -> None:
            try:
                allocator.run()
            except Exception as error:
                self._violations.add(f"allocator {allocator.number} died: {type(error).__name__}: {error}")

        return target

    # -- counts ------------------------------------------------------------------------------------------

    @property
    def allocs(self) -> int:
        return sum(allocator.stats.allocs for allocator in self.allocators)

    @property
    def frees(self) -> int:
        return sum(allocator.stats.frees for allocator in self.allocators)

    @property
    def failed_allocs(self) -> int:
        return sum(allocator.stats.failed_allocs for allocator in self.allocators)

    def operations(self, number: int) -> int:
        """Return what one has done since the beginning, in vain or not."""
        stats = self.allocators[number].stats
        return stats.allocs + stats.frees + stats.failed_allocs

    def operations_of_spells(self) -> dict[tuple[int, int], int]:
        """Return the operations of everybody who is on, by number and how often it has come."""
        return {
            (number, self._spells[number]): self.operations(number)
            for number in range(len(self.allocators))
            if self.is_on(number)
        }

    def inbox_blocks(self) -> int:
        """Return how many blocks wait to be freed by the thread they were handed to."""
        return sum(len(inbox) for inbox in self._inboxes)
