"""One guest, from its connection to the verdict: served, logged, shown and summed up as a run is."""

from __future__ import annotations

import argparse
import json
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live

from pagealloc.mmzone import Layout
from pagealloc.sync import Sync
from pagealloc.tracepoints import Trace
from stress.errors import EXIT_SIGNAL, BadArgument, Verdict
from stress.host.host import SAMPLE_INTERVAL_S, Host
from stress.host.manners import HostManners, add_manners, manners_of
from stress.host.trace_host import TraceHost
from stress.host.view import Watch, lines, picture, print_summary
from stress.run.directory import RunDirectory, default_path
from stress.run.summary import Summary
from stress.system.files import output_path
from workers.page_reporting import PAGE_REPORTING_CAPACITY, PAGE_REPORTING_DELAY_S

SHOWN_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class SessionParams:
    """What a session depends on: what the kernel is held to, and how its host behaves."""

    command: str
    order: int  # the smallest that the guest may report
    manners: HostManners
    seed: int = 1
    seconds: float | None = None
    capacity: int = PAGE_REPORTING_CAPACITY
    delay: float = PAGE_REPORTING_DELAY_S
    log: str = "all"

    def as_dict(self) -> dict[str, object]:
        """Return every parameter by its name, the manners among them."""
        values = asdict(self)
        return {**{name: value for name, value in values.items() if name != "manners"}, **values["manners"]}

    def words(self) -> str:
        """Return every parameter as NAME=VALUE."""
        return " ".join(f"{name}={value}" for name, value in self.as_dict().items() if value is not None)


def add_session_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments that every session has."""
    parser.add_argument("--seconds", metavar="S", help="leave after so long (default: when the guest leaves)")
    parser.add_argument("--seed", metavar="N", help="of the manners' choices (default: 1)")
    parser.add_argument(
        "--run-dir",
        type=output_path,
        metavar="DIR",
        help="where parameters, events and summary go (default: runs/DATE-TIME)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    add_manners(parser)


def number(name: str, text: str | None, default: float, lowest: float, highest: float) -> float:
    """Return a number of the command line. Raises BadArgument."""
    try:
        value = default if text is None else float(text)
    except ValueError as error:
        raise BadArgument(f"{name}: {text!r}, expected a number") from error
    if not lowest <= value <= highest:
        raise BadArgument(f"{name}: {value:g}, expected {lowest:g} .. {highest:g}")
    return value


def session_params(command: str, arguments: argparse.Namespace, order: int) -> SessionParams:
    """Return the parameters that the command line asks for. Raises BadArgument."""
    seconds = number("--seconds", arguments.seconds, 1e8, 0, 1e8)
    return SessionParams(
        command=command,
        order=order,
        manners=manners_of(arguments),
        seed=int(number("--seed", arguments.seed, 1, 0, 1 << 53)),
        seconds=None if arguments.seconds is None else seconds,
    )


def order_of(text: str | None, default: int) -> int:
    """Return the order that --order asks for. Raises BadArgument."""
    return int(number("--order", text, default, 0, Layout().top_order))


class Session:
    """A run directory, a view and a place for the verdict, before the guest is there."""

    def __init__(self, params: SessionParams, sync: Sync, run_dir: Path | None, *, quiet: bool) -> None:
        self.params = params
        self.summary = Summary(params=params.as_dict())
        self._sync = sync
        self._quiet = quiet
        self._console = Console(stderr=quiet)
        self._directory = RunDirectory(run_dir or default_path(sync), sync, params.as_dict())
        recorder = self._directory.recorder
        assert recorder is not None, "a session always keeps its log"
        self._trace = recorder.trace
        self._more: list[tuple[str, str]] = []
        self._signal = 0

    def say(self, text: str) -> None:
        """Tell whoever watches."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def serve(self, connection: socket.socket, over: Callable[[], bool] = lambda: False) -> None:
        """Serve the guest to its end, and sum up. KeyboardInterrupt ends the session, not the verdict."""
        params = self.params
        with self._watched() as watch:
            host = Host(
                connection,
                self._sync,
                params.manners,
                self._trace,
                watch,
                order=params.order,
                capacity=params.capacity,
                delay_s=params.delay,
                seed=params.seed,
            )
            try:
                host.serve(params.seconds, over)
            except KeyboardInterrupt as interruption:
                self.interrupt(interruption)
        self._sum_up(host)

    def follow(
        self,
        make: Callable[[Trace, Watch, SessionParams], TraceHost],
        begin: Callable[[TraceHost], Callable[[], bool]],
    ) -> None:
        """Follow a guest whose host is QEMU: `begin` starts it, and returns what says whether it still runs."""
        params, sync = self.params, self._sync
        with self._watched() as watch:
            host = make(self._trace, watch, params)
            running = begin(host)
            try:
                while running() and (params.seconds is None or host.status.seconds < params.seconds):
                    sync.sleep(SAMPLE_INTERVAL_S)
                    host.sample()
            except KeyboardInterrupt as interruption:
                self.interrupt(interruption)
        self._sum_up(host)

    def _sum_up(self, host: Host | TraceHost) -> None:
        summary, status, contract = self.summary, host.status, host.contract
        summary.seconds = status.seconds
        summary.passes, summary.batches = status.passes, status.batches
        summary.failed_batches, summary.stuck_batches = status.failed_batches, contract.in_flight
        summary.reported_blocks, summary.reported_bytes = status.reported_blocks, status.reported_bytes
        summary.kept_blocks, summary.kept_bytes = status.kept_blocks, status.kept_bytes
        summary.resident_bytes_peak = status.resident_bytes_peak
        summary.resident_bytes_end = status.resident_bytes
        summary.notes += host.notes
        if status.batches:
            most = contract.in_flight_max
            summary.notes.append(f"at most {most} {'batch was' if most == 1 else 'batches were'} in flight")
        else:
            summary.notes.append("nothing was reported")
        summary.violations += host.violations
        summary.violation_count += status.violations
        self._more = [
            ("longest batch", f"{status.longest_flight_s:.2f} s"),
            (
                "again untouched",
                f"{contract.again_untouched} blocks: reported twice, not written to meanwhile",
            ),
        ]

    @contextmanager
    def _watched(self) -> Iterator[Watch]:
        if not self._console.is_interactive:
            yield lines(self._console, SHOWN_EVERY_S)
            return
        with Live(console=self._console, refresh_per_second=8, transient=True) as live:
            yield picture(live, self._console.width)

    def interrupt(self, interruption: KeyboardInterrupt) -> None:
        """Take note of the signal that ended the session: it is the exit status, unless something was found."""
        self.summary.interrupted = True
        self._signal = getattr(interruption, "number", signal.SIGINT)

    def give_up(self, error: BaseException) -> None:
        """End the log of a session that did not come about."""
        self._directory.give_up(f"{type(error).__name__}: {error}")

    def finish(self) -> int:
        """Write the summary, print the verdict, and return the exit status."""
        summary = self.summary
        summary.verdict = Verdict.of(
            failed=bool(summary.violation_count), undecided=summary.undecided is not None
        )
        self._trace("run_end", summary.verdict.value, summary.violation_count)
        summary.notes.append(f"run directory {self._directory.path}")
        self._directory.end_log(summary, judged=False)  # its zones are the guest's, and nobody describes them
        self._directory.finish(summary)
        self._directory.tell_end(summary)
        if self._quiet:
            print(json.dumps(asdict(summary)))
        else:
            print_summary(self._console, summary, self.params.words(), self._more)
        if self._signal and summary.verdict is Verdict.SUCCESS:
            return EXIT_SIGNAL + self._signal
        return summary.exit_status
