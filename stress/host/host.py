"""The host of one guest: takes its batches, treats them as the manners say, and judges what the kernel does.

One thread does everything: it waits for messages of the front end, kicks of the queues, and batches that are due.
"""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pagealloc.mmzone import PAGE_SHIFT
from pagealloc.sync import Sync
from pagealloc.tracepoints import Trace
from stress.host import wire
from stress.host.balloon import REPORTING_QUEUE, Balloon
from stress.host.contract import Contract, Range
from stress.host.device_queue import Chain
from stress.host.manners import HostManners, Treatment, Treatments
from stress.host.wire import PeerError

SAMPLE_INTERVAL_S = 0.2
REVERSE_PATIENCE_S = 1.0
MESSAGE_PATIENCE_S = 5.0  # for the rest of a message that has begun
VIOLATIONS_MAX = 50  # kept in words
FRONT = "front"


@dataclass(slots=True)
class HostStatus:
    """What the guest looks like from its host at one moment; counts are since it connected."""

    seconds: float = 0.0
    batches: int = 0
    passes: int = 0
    reported_blocks: int = 0
    reported_bytes: int = 0
    kept_blocks: int = 0  # acknowledged, and still resident
    kept_bytes: int = 0
    failed_batches: int = 0  # kept on purpose
    in_flight: int = 0
    longest_flight_s: float = 0.0
    resident_bytes: int = 0
    resident_bytes_peak: int = 0
    total_bytes: int = 0
    violations: int = 0


@dataclass(slots=True)
class Flight:
    """A batch that was not answered yet."""

    number: int
    chain: Chain
    treatment: Treatment
    since_s: float
    due_s: float


class Host:
    """Serves the guest at the other end of `connection` until it leaves; `watch` is told a few times a second."""

    def __init__(
        self,
        connection: socket.socket,
        sync: Sync,
        manners: HostManners,
        trace: Trace,
        watch: Callable[[HostStatus], None],
        *,
        order: int,
        capacity: int,
        delay_s: float,
        seed: int,
    ) -> None:
        self.status = HostStatus()
        self.violations: list[str] = []
        self.notes: list[str] = []
        self.balloon = Balloon()
        self.contract = Contract(self._untouched, order=order, capacity=capacity, delay_s=delay_s)
        self._connection = connection
        self._sync = sync
        self._manners = manners
        self._treatments = Treatments(manners, sync.rng(seed))
        self._trace = trace
        self._watch = watch
        self._start_s = sync.monotonic()
        self._next_sample_s = 0.0
        self._flights: list[Flight] = []
        self._lost: list[Flight] = []
        self._deaf = False
        self._left = False
        connection.settimeout(MESSAGE_PATIENCE_S)

    # -- serving -------------------------------------------------------------------------------------------

    def serve(self, seconds: float | None = None, over: Callable[[], bool] = lambda: False) -> None:
        """Serve until the guest leaves, `seconds` have passed, or it is `over`; then let go of the guest."""
        try:
            while not self._left and not over() and (seconds is None or self._now_s() < seconds):
                for name in self._wait():
                    if name == FRONT:
                        self._hear()
                    else:
                        self._pump(int(name))
                self._answer_what_is_due()
                self._sample_if_due()
        except PeerError as error:
            self._violation(f"the front end or the driver breaks the protocol: {error}")
        finally:
            self._end()

    def _wait(self) -> list[str]:
        """Return who has something to say, after a while nobody."""
        if self._deaf:
            self._sync.sleep(self._patience_s())
            return []
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection, selectors.EVENT_READ, FRONT)
            for number, queue in enumerate(self.balloon.queues):
                if queue.kick_fd >= 0:
                    selector.register(queue.kick_fd, selectors.EVENT_READ, str(number))
            # Messages first: they say where the queues are.
            return sorted((key.data for key, _ in selector.select(self._patience_s())), reverse=True)

    def _patience_s(self) -> float:
        now_s = self._now_s()
        due_s = min((flight.due_s for flight in self._flights), default=now_s + SAMPLE_INTERVAL_S)
        return max(0.0, min(due_s, self._next_sample_s) - now_s)

    def _hear(self) -> None:
        message = wire.receive(self._connection)
        if message is None:
            self._left = True
            return
        before = self.balloon.poisoned
        answer = self.balloon.handle(message)
        if answer is not None:
            wire.reply(self._connection, message, answer)
        if self.balloon.poisoned and not before:
            self.notes.append("the guest poisons free pages: they are acknowledged and kept")

    def _pump(self, number: int) -> None:
        """Take what is in a queue; only the reporting queue has work."""
        queue = self.balloon.queues[number]
        os.read(queue.kick_fd, 8)
        while not self._left and (chain := queue.pop(self.balloon.memory)) is not None:
            if number != REPORTING_QUEUE:
                queue.push(self.balloon.memory, chain.head)
                continue
            self._take(chain)
            if self.status.batches == self._manners.deaf_at:
                self._deaf = True
                self.notes.append(f"nothing is read from batch {self.status.batches} on")
                return
            if self.status.batches == self._manners.die_at:
                self._left = True
                self.notes.append(f"the device ended at batch {self.status.batches}")

    def _take(self, chain: Chain) -> None:
        """Judge a batch, and put it down for its time."""
        status, now_s = self.status, self._now_s()
        status.batches += 1
        passes = self.contract.passes
        for text in self.contract.begin(status.batches, now_s, chain.ranges):
            self._violation(text)
        if self.contract.passes != passes:
            self._trace("page_reporting_pass_begin", self.contract.passes)
        blocks = [
            (gpa >> PAGE_SHIFT, (length >> PAGE_SHIFT).bit_length() - 1) for gpa, length in chain.ranges
        ]
        self._trace("page_reporting_report_begin", status.batches, 0, blocks)
        treatment = self._treatments.next()
        due_s = now_s + treatment.delay_s
        if self._manners.reverse:
            due_s += REVERSE_PATIENCE_S
        self._flights.append(Flight(status.batches, chain, treatment, now_s, due_s))
        if 0 < self._manners.reverse <= len(self._flights):
            for flight in self._flights:
                flight.due_s = now_s

    # -- answering -------------------------------------------------------------------------------------------

    def _answer_what_is_due(self) -> None:
        if self._left or self._deaf:
            return
        now_s = self._now_s()
        due = [flight for flight in self._flights if flight.due_s <= now_s]
        for flight in reversed(due) if self._manners.reverse else due:
            self._flights.remove(flight)
            self._answer(flight)

    def _answer(self, flight: Flight) -> None:
        memory, status, treatment = self.balloon.memory, self.status, flight.treatment
        before = memory.resident_bytes()
        keep = treatment.keep or self.balloon.poisoned
        given_back = [] if keep else self._give_back(flight.chain.ranges)
        status.failed_batches += treatment.keep
        after = memory.resident_bytes()
        status.longest_flight_s = max(status.longest_flight_s, self._now_s() - flight.since_s)
        answer = (
            "lost" if treatment.lose else "garbled" if treatment.garble else "kept" if keep else "given back"
        )
        self._trace("guest_report", flight.number, flight.chain.ranges, before, after, answer)
        if treatment.lose:
            self._lost.append(flight)
            return
        status.reported_blocks += len(flight.chain.ranges)
        status.reported_bytes += sum(length for _, length in flight.chain.ranges)
        self._count_kept(flight.chain.ranges)
        # Before the driver hears of it: what it does with the blocks then is its own.
        self.contract.end(flight.number, self._now_s(), given_back)
        self._trace("page_reporting_report_end", flight.number, 0, None)
        queue = self.balloon.reporting_queue
        queue.push(memory, queue.size + flight.number if treatment.garble else flight.chain.head)

    def _give_back(self, ranges: Sequence[Range]) -> list[Range]:
        """Give ranges back to the operating system; returns those that are the guest's memory."""
        memory = self.balloon.memory
        done = []
        for gpa, length in ranges:
            region = memory.region(gpa, length)
            if region is None:
                self._violation(f"{gpa:#x} + {length:#x} is not within the guest's memory")
                continue
            memory.give_back(region, gpa, length)
            done.append((gpa, length))
        return done

    def _count_kept(self, ranges: Sequence[Range]) -> None:
        resident = [self._resident_in(each) for each in ranges]
        self.status.kept_blocks += sum(1 for nr_bytes in resident if nr_bytes)
        self.status.kept_bytes += sum(resident)

    def _resident_in(self, each: Range) -> int:
        region = self.balloon.memory.region(*each)
        return 0 if region is None else self.balloon.memory.resident_in(region, *each)

    def _untouched(self, each: Range) -> bool:
        return not self._resident_in(each)

    # -- telling -----------------------------------------------------------------------------------------------

    def _now_s(self) -> float:
        return self._sync.monotonic() - self._start_s

    def _violation(self, text: str) -> None:
        self.status.violations += 1
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(text)
        self._trace("violation", text)

    def _sample_if_due(self) -> None:
        if self._now_s() >= self._next_sample_s:
            self._next_sample_s = self._now_s() + SAMPLE_INTERVAL_S
            self._sample()

    def _sample(self) -> None:
        status = self.status
        status.seconds = self._now_s()
        status.passes = self.contract.passes
        status.in_flight = self.contract.in_flight
        if self.balloon.memory.nr_bytes:
            status.resident_bytes = self.balloon.memory.resident_bytes()
            status.total_bytes = self.balloon.memory.nr_bytes
        status.resident_bytes_peak = max(status.resident_bytes_peak, status.resident_bytes)
        if status.total_bytes:  # else the guest has not shown its memory yet
            no_zones: list[Any] = []
            self._trace("sample", status.resident_bytes, status.total_bytes, 0, 0, 0, no_zones)
        self._watch(status)

    def _end(self) -> None:
        self._sample()
        unanswered = len(self._flights) + len(self._lost)
        if unanswered:
            self.notes.append(f"{unanswered} batches were never answered")
        self.balloon.close()
        self._connection.close()
