"""Recording a run: tracepoints on, buffers collected, a writer process at the other end of a pipe.

    recorder = Recorder(folder, sync, params, versions)
    recorder.attach(memory, reporting)      # before the first thread allocates
    ...
    result = recorder.finish()              # what was written, what was lost, and why
    recorder.tell("info", "note", text=...) # in the harness's own tale, at any time
    recorder.close()

See `pagealloc.tracepoints` for what the threads do, `stress.log.writer` for the order of the file, and
`stress.log.events` for the schema.
"""

from __future__ import annotations

import json
import marshal
import subprocess
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagealloc.memory import Memory
from pagealloc.sync import Sync
from pagealloc.tracepoints import StatLock, Trace, Tracer
from stress.log.events import SCHEMA_VERSION
from stress.log.live import Judged, LiveProof
from stress.log.snapshot import begin_zone
from stress.log.writer import LENGTH, ROTATE_BYTES
from stress.pool import own_program
from workers.page_reporting import PageReporting

ROUND_S = 0.05
LEAVE_S = 120.0  # for the writer to write what it holds when the run is over
PATIENCE_S = 5.0  # how long a thread waits for room before it loses a record


@dataclass(frozen=True, slots=True)
class LogResult:
    """What became of a log: records written and lost, and the disk's reason, if any."""

    written: int
    lost: int
    error: str | None
    judged: Judged | None = None  # what the judge came to; None when it is not known


class Recorder:
    """Records one run into a folder; without `judged`, which is for measuring, the judge hears nothing."""

    def __init__(
        self,
        folder: Path,
        sync: Sync,
        params: dict[str, object],
        versions: dict[str, object],
        *,
        rotate_bytes: int = ROTATE_BYTES,
        judged: bool = True,
    ) -> None:
        self._sync = sync
        self._tracer = Tracer(sync, patience_s=PATIENCE_S)
        self.trace: Trace = self._tracer.thread_trace()  # for the harness's own events
        start_ns = self._start_ns = sync.monotonic_ns()
        command, environment = own_program(
            "stress.log.writer", str(folder), str(start_ns), str(rotate_bytes), str(judged)
        )
        self._writer = subprocess.Popen(  # noqa: S603 - our own module
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the run: it ends the log
        )
        self.hear: Callable[[LiveProof], None] = lambda proof: (
            None
        )  # told of what the judge finds, as it finds it
        self.proofs: list[LiveProof] = []  # all of that
        self._answer: dict[str, Any] | None = None
        self._answered = sync.event("log answered")  # or nobody is left to answer
        self._heard = 0  # lines of the writer so far
        self._listener = sync.spawn("log listener", self._listen)
        self._pipe_error: str | None = None
        self._lost = 0  # records that were collected, and did not leave this process
        self._lost_in: dict[int, int] = {}  # records that found a full buffer, by the buffer's number
        self._messages: deque[bytes] = deque()  # for the tale; whoever writes to the pipe takes them along
        self._stop = sync.event("collector stops")
        self.trace("log_begin", SCHEMA_VERSION, params, versions)
        self._collector = sync.spawn("log collector", self._collect)

    # -- tracepoints on --------------------------------------------------------------------------------

    def attach(self, memory: Memory, reporting: PageReporting) -> None:
        """Switch every tracepoint on; nobody else uses the memory yet."""
        for zone in memory.zones:
            trace = self._tracer.zone_trace(zone.number)
            begin_zone(zone, trace)
            zone.trace = trace
            zone.use_lock(StatLock(zone.lock.raw, self._sync, zone.number, trace, self.trace))
        memory.trace = self._tracer.waiting_trace()  # no lock is held there: a thread may be slowed down
        reporting.trace = self.trace

    def tell(self, level: str, event: str, **fields: object) -> None:
        """Tell something of the harness in its tale; takes no lock, so that a signal handler may, too."""
        seconds = (self._sync.monotonic_ns() - self._start_ns) / 1e9
        message = {"level": level, "event": event, "seconds": seconds, "fields": fields}
        self._messages.append(marshal.dumps(message))

    # -- collecting ------------------------------------------------------------------------------------

    def _collect(self) -> None:
        while not self._stop.wait(ROUND_S):
            self._round()
        for _ in range(3):  # the writer holds each round back until the next one
            self._round()
        self._send(marshal.dumps(None))
        self._flush()

    def _send_messages(self) -> None:
        while self._messages:
            self._send(self._messages.popleft())

    def _round(self) -> None:
        for buffer, records in self._tracer.collect():
            self._send(marshal.dumps((buffer.number, buffer.name, buffer.lost, records)))
            self._lost_in[buffer.number] = buffer.lost
            if self._pipe_error is not None:
                self._lost += len(records)
        self._send_messages()
        self._send(b"")
        self._flush()

    def _send(self, frame: bytes) -> None:
        """Hand a frame over; a writer that is gone costs the log, not the run."""
        pipe = self._writer.stdin
        if self._pipe_error is not None or pipe is None:
            return
        try:
            pipe.write(LENGTH.pack(len(frame)))
            pipe.write(frame)
        except OSError as error:
            self._pipe_error = f"the log writer is gone ({error.strerror})"

    def _flush(self) -> None:
        if self._pipe_error is None and self._writer.stdin is not None:
            try:
                self._writer.stdin.flush()
            except OSError as error:
                self._pipe_error = f"the log writer is gone ({error.strerror})"

    def finish(self) -> LogResult:
        """End the log and wait until it is written; nobody may trace any more.

        A writer that does not come to an end is killed: the log is then cut, and says so.
        """
        self._stop.set()
        try:
            if not self._collector.join(LEAVE_S):
                raise TimeoutError(f"it took nothing for {LEAVE_S:g} s")
            self._await_answer()
        except OSError as error:
            self._writer.kill()
            self._writer.wait()
            self._listener.join(LEAVE_S)
            why = self._pipe_error or f"the log writer did not end well ({error})"
            return LogResult(0, self._lost + sum(self._lost_in.values()), why)
        answer = self._answer or {}
        lost = self._lost + sum(self._lost_in.values()) + answer["lost"]
        judged = Judged(**answer["judged"])
        return LogResult(answer["written"], lost, answer["error"] or self._pipe_error, judged)

    def close(self) -> None:
        """Send what was told since the log ended, and let the writer go; nobody may tell any more."""
        assert self._writer.stdin is not None
        self._send_messages()
        self._send(marshal.dumps(None))
        with suppress(OSError):  # what it held goes nowhere
            self._writer.stdin.close()
        try:
            self._writer.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            self._writer.kill()
            self._writer.wait()
        self._listener.join(LEAVE_S)

    def _await_answer(self) -> None:
        """Wait as long as the writer gets on, writing and judging. Raises OSError when it does not, or has none."""
        heard = -1
        while not self._answered.wait(LEAVE_S):
            if heard == self._heard:
                raise TimeoutError(f"it said nothing for {LEAVE_S:g} s")
            heard = self._heard
        if self._answer is None:
            raise OSError(f"it ended with status {self._writer.wait()}")

    def _listen(self) -> None:
        """Hear what the writer says, until it has nothing more to say."""
        assert self._writer.stdout is not None
        with self._writer.stdout as lines:
            for line in lines:
                self._heard += 1
                message = json.loads(line)
                if "proof" in message:
                    proof = LiveProof(**message["proof"])
                    self.proofs.append(proof)
                    self.hear(proof)
                elif "written" in message:
                    self._answer = message
                    self._answered.set()
        self._answered.set()
