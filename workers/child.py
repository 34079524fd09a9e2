"""A child process that never outlives us, and that somebody attends until it has ended.

The kernel kills it when we end, whatever ends us (PR_SET_PDEATHSIG). That signal follows the *thread* that started the
process, so the thread stays: it hears what the child says, and waits for its end. The child leads a session of its
own: Ctrl-C is for us, and `end` reaches whatever the child started.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from pagealloc.fork import belongs_to_this_process, refuse_everything
from pagealloc.sync import Sync

# The signal is armed first, and then it is made sure that whom it waits for was still there.
ARMED = ("setpriv", "--pdeathsig", "KILL", "sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"')


class Child:
    """A process that runs, with `fds` passed to it; `hear` is called with each line of its output and errors.

    Raises OSError when it cannot be started.
    """

    def __init__(
        self,
        sync: Sync,
        command: Sequence[str],
        *,
        fds: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
        hear: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._command = [*ARMED, str(os.getpid()), *command]
        self._fds = tuple(fds)
        self._environment = {**os.environ, **(environment or {})}
        self._hear = hear
        self._process: subprocess.Popen[bytes] | None = None
        self._refusal: OSError | None = None
        self._last_words = ""
        self._started = sync.event(f"{command[0]} has started")
        self._ended = sync.event(f"{command[0]} has ended")
        sync.spawn(command[0], self._attend)
        self._started.wait()
        if self._refusal is not None:
            raise self._refusal
        belongs_to_this_process(self)

    def part(self) -> None:
        """Refuse everything in the child of a fork, above all to end what is the parent's."""
        refuse_everything(self, f"the process {self._command[len(ARMED) + 1]}")

    def _attend(self) -> None:
        try:
            self._process = process = subprocess.Popen(  # noqa: S603 - our own words
                self._command,
                pass_fds=self._fds,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self._refusal = error
            self._ended.set()
            return
        finally:
            self._started.set()
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                words = line.decode(errors="replace").strip()
                if words:
                    self._last_words = words
                    self._hear(words)
        self._ended.set()

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process is not None
        return self._process.pid

    def alive(self) -> bool:
        """Whether it still runs, or somebody still reads what it said."""
        return not self._ended.is_set()

    def crashed(self) -> bool:
        """Whether it has ended by itself, and not with exit status 0."""
        return self._process is not None and self._process.poll() not in (None, 0)

    def wait(self, timeout_s: float) -> bool:
        """Wait for it to end by itself; False when it still runs after `timeout_s`."""
        return self._ended.wait(timeout_s)

    def end(self) -> None:
        """Kill it and whatever it started, if it still runs, and return when it is gone."""
        assert self._process is not None
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._ended.wait()

    def how_it_ended(self) -> str:
        """Say how it ended, with its last words, once it has."""
        assert self._process is not None
        status = self._process.returncode
        how = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
        return f"{how}: {self._last_words}" if self._last_words else how
