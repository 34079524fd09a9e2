"""Scenarios: runs that are kept as data, each one danger on real threads.

A scenario is a TOML file. Its keys are the options of `python -m stress run`, with `_` for `-`, and `about`, one
line on what it is for. A run may go through several phases:

    about = "calm, then a device that fails"
    allocators = 8
    zones = "Normal=256MiB"

    [[phases]]
    name = "calm"

    [[phases]]
    name = "storm"
    share = 2            # twice as long as the other one
    fail_rate = 0.5

    [[phases]]
    scenario = "handover"  # the manners of another scenario

A phase changes the load, its rhythm and the reporter's manners; the machine stays. A phase that takes over
another scenario leaves that one's machine out. What the command line says holds in every phase.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from stress.errors import BadArgument, quoted
from stress.run.params import (
    ALLOCATORS_MAX,
    MANNERS,
    OPTIONS,
    Phase,
    RunParams,
    key_of,
    option_of,
    parse_value,
)
from stress.system.files import read_text
from workers.reporters import DEFAULT_SLEEP_S

SUFFIX = ".toml"
SHARE_MAX = 1e6
NAMES_BY_KEY = {key_of(name): name for name in OPTIONS}


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a file says: the parameters that differ from the defaults, and the phases, if there are several."""

    name: str
    about: str
    values: dict[str, Any]
    phases: tuple[Phase, ...]

    def params(self, chosen: Mapping[str, Any]) -> RunParams:
        """Return the parameters of a run, with what the command line chose above all. Raises BadArgument."""
        phases = tuple(
            Phase(phase.name, phase.share, _beside(chosen, phase.changes)) for phase in self.phases
        )
        values = with_reporter_defaults({**_beside(chosen, self.values), **chosen})
        return RunParams(**values, scenario=self.name, phases=phases)


def _beside(chosen: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a scenario says and the command line does not; of fewer threads no more can stay."""
    left = {name: value for name, value in values.items() if name not in chosen}
    if "allocators" in chosen and "allocators_min" in left:
        left["allocators_min"] = min(left["allocators_min"], max(1, chosen["allocators"]))
    return left


def with_reporter_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """The reporter sleep takes its time, and qemu gets memory that it can map, if nobody says otherwise."""
    if values.get("reporter") == "sleep":
        return {"reporter_sleep_s": (DEFAULT_SLEEP_S, DEFAULT_SLEEP_S), **values}
    if values.get("reporter") == "qemu":
        return {"ram": "memfd", **values}
    return values


def shipped() -> list[str]:
    """Return the names of the scenarios that come with the package, sorted."""
    folder = resources.files("stress.run") / "scenarios"
    return sorted(file.name.removesuffix(SUFFIX) for file in folder.iterdir() if file.name.endswith(SUFFIX))


def load_scenario(name: str) -> Scenario:
    """Read a scenario that ships, or a file of your own by its path. Raises BadArgument, which names the key."""
    return _read(name, nested=False)


def _read(name: str, *, nested: bool) -> Scenario:
    if name in shipped():
        text = (resources.files("stress.run") / "scenarios" / f"{name}{SUFFIX}").read_text(encoding="utf-8")
    elif name.endswith(SUFFIX):
        try:
            text = read_text(Path(name))
        except ValueError as error:
            raise BadArgument(f"{name}: expected a scenario's file in TOML: {error}") from error
    else:
        raise BadArgument(
            f"scenario {quoted(name)}, expected one of {', '.join(shipped())}, or a file that ends in {SUFFIX}"
        )
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers and nesting beyond Python's limits
        raise BadArgument(f"{name}: expected TOML: {error}") from error
    return _Reader(name).scenario(table, nested=nested)


class _Reader:
    """Turns a file's tables into parameters, and says where a value is not what it must be."""

    def __init__(self, file: str) -> None:
        self._file = file

    def scenario(self, table: dict[str, Any], *, nested: bool) -> Scenario:
        rows = table.pop("phases", [])
        self._expect(
            "phases", rows, isinstance(rows, list) and not (nested and rows), "one scenario, no phases"
        )
        options = {key: value for key, value in table.items() if key != "about"}
        values = self._values(
            options, "", OPTIONS, "an option of run, about or phases"
        )  # first: a typing error
        about = self._text(table, "about", "", required=True)
        self._check(values, "")
        phases = tuple(self._phase(row, f"phases[{at}].") for at, row in enumerate(rows, 1))
        names = [phase.name for phase in phases]
        for name in names:
            self._expect("phases", name, names.count(name) == 1, "a name of its own for each phase")
        return Scenario(self._file, about, values, phases)

    def _phase(self, row: Any, where: str) -> Phase:
        self._expect(where.rstrip("."), row, isinstance(row, dict), "a table")
        row = dict(row)
        other = self._text(row, "scenario", where, required=False)
        name = self._text(row, "name", where, required=not other)
        share = row.pop("share", 1.0)
        is_number = isinstance(share, int | float) and not isinstance(share, bool)
        self._expect(
            f"{where}share",
            share,
            is_number and 0 < share <= SHARE_MAX,
            f"more than 0, {SHARE_MAX:g} at most",
        )
        changes: dict[str, Any] = {}
        if other:
            taken_over = _read(other, nested=True).values
            changes = {name: value for name, value in taken_over.items() if name in MANNERS}
        expected = "name, share, scenario, or an option of run that may change from phase to phase"
        changes |= self._values(row, where, MANNERS, expected)
        self._check(changes, where)
        return Phase(name or other, float(share), changes)

    def _text(self, table: dict[str, Any], key: str, where: str, *, required: bool) -> str:
        value = table.pop(key, "")
        given = isinstance(value, str) and bool(value or not required)
        self._expect(f"{where}{key}", value, given, "a line of text")
        return str(value)

    def _values(
        self,
        table: Mapping[str, Any],
        where: str,
        known: Mapping[str, object] | frozenset[str],
        expected: str,
    ) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in table.items():
            name = NAMES_BY_KEY.get(key)
            if name is None or name not in known:
                raise BadArgument(f"{self._file}: {where}{key}: {quoted(value)}, expected {expected}")
            values[name] = self._value(name, value, f"{where}{key}")
        return values

    def _value(self, name: str, value: Any, where: str) -> object:
        kind = OPTIONS[name].type
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if kind in ("int", "int | None", "float"):
            self._expect(where, value, is_number, "a number")
        elif kind == "bool":
            self._expect(where, value, isinstance(value, bool), "true or false")
        elif kind == "Range":
            self._expect(where, value, is_number or isinstance(value, str), "a number, or a text S..T")
        else:
            self._expect(where, value, isinstance(value, str), "a text")
        try:
            return parse_value(name, str(value))
        except ValueError as error:
            raise BadArgument(f"{self._file}: {where}: {quoted(value)}, expected {error}") from error

    def _check(self, values: dict[str, Any], where: str) -> None:
        """Let the parameters check themselves; the complaint then names this file's key, not an option."""
        try:
            # A phase says nothing of the machine; it is held against the file's when the run is made.
            RunParams(**({"allocators": ALLOCATORS_MAX} if where else {}) | values)
        except BadArgument as error:
            option, _, rest = str(error).partition(": ")
            keys = {option_of(name): key_of(name) for name in OPTIONS}
            raise BadArgument(f"{self._file}: {where}{keys.get(option, option)}: {rest}") from error

    def _expect(self, key: str, value: object, holds: bool, expected: str) -> None:
        if not holds:
            raise BadArgument(f"{self._file}: {key}: {quoted(value)}, expected {expected}")
