"""The compiled build's column: the same rows, measured by an environment's Python that has that build.

Both builds take turns group by group, on one machine and in one run: this process waits while the other measures. The
other one runs this very source (compared file by file) on the same interpreter, so what differs is the build alone.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pagealloc import COMPILED
from stress.bench.measure import Row
from stress.errors import BadArgument, CannotBeDone, one_line
from stress.system.leaving import owed

ROOT = Path(__file__).parents[2]
FLOORS = ("pagealloc", "workers", "stress")
PROBE_S = 60.0
LONGEST = 200  # characters of what another program complains of
ANSWER = "pagealloc of "  # what a probe's line begins with
# Isolated (`-I`): the current folder, where this source may stand, would hide what is installed.
PROBE = f"""
import json, pagealloc
compiled = getattr(pagealloc, "COMPILED", False)
print({ANSWER!r} + json.dumps([pagealloc.__file__, compiled]))
"""


@dataclass(slots=True)
class Column:
    """What one build came to: on which interpreter and machine, beside which peers."""

    machine: dict[str, object]
    peers: list[str]
    missing: str  # peers that are not installed, and how they are
    absent: dict[str, str]
    rows: list[Row] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        return {
            "machine": self.machine,
            "peers": self.peers,
            "missing": self.missing,
            "rows": [row.as_dict() for row in self.rows],
            "absent": self.absent,
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Column:
        """Make the column again that `as_dict` describes."""
        rows = [Row.from_dict(row) for row in fields["rows"]]
        return cls(fields["machine"], fields["peers"], fields["missing"], fields["absent"], rows)


def check_compiled(python: str) -> None:
    """Raise BadArgument unless an environment's Python has the compiled build of this source."""
    if COMPILED:
        raise BadArgument(
            "--compiled: this is the compiled build itself, expected to be started by the interpreted one"
        )
    file, compiled = probe(python)
    if not compiled:
        raise BadArgument(
            f"--compiled {python}: {file} is the interpreted build, "
            f"expected the compiled one: {how_to_install(python)}"
        )
    other = different_file(ROOT, Path(file).parents[1])
    if other is not None:
        raise BadArgument(
            f"--compiled {python}: it has another version of the source ({other} differs), "
            f"expected this one: {how_to_install(python)}"
        )


def how_to_install(python: str) -> str:
    """Return the line that gives a Python the compiled build of this source."""
    source = ROOT if (ROOT / "pyproject.toml").exists() else "."  # where this build was installed from
    return f"PAGEALLOC_COMPILE=1 {python} -m pip install --force-reinstall {source}"


def probe(python: str) -> tuple[str, bool]:
    """Ask a Python which pagealloc it has: its file, and whether it is compiled. Raises BadArgument without one."""
    try:
        ended = subprocess.run(  # noqa: S603 - the user names it
            [python, "-I", "-c", PROBE],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_S,
            check=False,
        )
    except OSError as error:
        raise BadArgument(f"--compiled {python}: {error.strerror}, expected a Python") from error
    except subprocess.TimeoutExpired as error:
        raise BadArgument(
            f"--compiled {python}: no answer in {PROBE_S:g} s, expected that of a Python"
        ) from error
    if ended.returncode == 0 and ended.stdout.startswith(ANSWER):
        # An environment that says something of its own would do so among the rows, too.
        with suppress(ValueError):
            file, compiled = json.loads(ended.stdout.removeprefix(ANSWER))
            return file, compiled
    lines = f"it says nothing\n{ended.stdout}\n{ended.stderr}".strip().splitlines()
    said = one_line(lines[-1], LONGEST)
    raise BadArgument(
        f"--compiled {python}: it has no pagealloc that can be imported ({said}), "
        f"expected the compiled build: {how_to_install(python)}"
    )


def different_file(here: Path, there: Path) -> str | None:
    """Return the name of a source file that two folders do not share, byte for byte; None when they share all."""
    ours, theirs = _sources(here), _sources(there)
    return next((name for name in sorted(ours | theirs) if ours.get(name) != theirs.get(name)), None)


def _sources(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for floor in FLOORS
        for path in (folder / floor).rglob("*.py")
    }


class OtherBuild:
    """The process that measures the other build's rows (`child`), one group whenever it is asked for one."""

    def __init__(self, python: str, process: subprocess.Popen[str]) -> None:
        self._python = python
        self._process = process
        self.column = Column.from_dict(self._hear())

    def measure(self, group: str) -> None:
        """Have the rows of a group measured, and add them to the column. Raises CannotBeDone when it has died."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # then it gives no answer either
            self._process.stdin.write(f"{group}\n")
            self._process.stdin.flush()
        self.column.rows += [Row.from_dict(row) for row in self._hear()]

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            status = self._process.wait()
            raise CannotBeDone(
                f"--compiled {self._python}: its process ended before its time, status {status}"
            )
        return json.loads(answer)


@contextmanager
def other_build(python: str, machine: dict[str, object], *, quick: bool) -> Iterator[OtherBuild]:
    """Yield a process with the compiled build. Raises BadArgument when its interpreter is not that of `machine`."""
    with (
        subprocess.Popen(  # noqa: S603 - its environment runs this very source
            [python, "-I", "-m", "stress.bench.child", *(["--quick"] if quick else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process, which then ends it
        ) as process,
        owed(process.terminate),
    ):
        other = OtherBuild(python, process)
        theirs, ours = (interpreter(each) for each in (other.column.machine, machine))
        if theirs != ours:
            raise BadArgument(f"--compiled {python}: it is {theirs}, expected {ours}, as this one is")
        yield other


def interpreter(machine: dict[str, object]) -> str:
    """Say which interpreter a column is of."""
    gil = "GIL" if machine["gil_enabled"] else "no GIL"
    return f"{machine['implementation']} {str(machine['python']).split()[0]}, {gil}"
