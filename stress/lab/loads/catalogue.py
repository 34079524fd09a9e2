"""Loads by name, as the command line has them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from pagealloc.revision import PRESETS
from stress.errors import BadInput
from stress.lab.engine import Load
from stress.lab.loads.curve import Curve, Follow, read_curve
from stress.lab.loads.synthetic import SETTLE_S, Burst, Churn, Functions, Holes, Idle, pages
from stress.lab.recording import Recording, read_recording
from stress.run.params import parse_size

HELP = (
    "idle, burst:SIZE[@ORDER], churn:SIZE/PERIOD_S, functions:RATE,SIZE,HOLD_S, holes:SIZE/KEEP, curve:CSV, "
    "trace:FILE, or MODULE:CALLABLE"
)


class BadLoad(BadInput):
    """A load is none that there is; the message names it and what was expected."""


class NamedLoad(NamedTuple):
    """A load with what a run must know of it beforehand."""

    load: Load | None  # None for a recording: how it is replayed is chosen later
    span_s: float
    recording: Recording | None = None
    orders: tuple[int, ...] = ()


def parse_load(text: str, *, scale: int, mix: int, slab: float, churn: float, preset: str) -> NamedLoad:
    """Make the load that a word of the command line names. Raises BadInput."""
    kind, _, rest = text.partition(":")
    makers: dict[str, Callable[[str], Load]] = {
        "idle": lambda _: Idle(),
        "burst": _burst,
        "churn": _churn,
        "functions": _functions,
        "holes": _holes,
    }
    if kind in makers:
        try:
            load = makers[kind](rest)
        except ValueError as error:
            raise BadLoad(f"load {text!r}: {error}; expected {HELP}") from error
        return NamedLoad(load, load.span_s)  # type: ignore[attr-defined]
    if kind == "curve":
        load = Follow(_curve(rest), scale, mix=mix, slab=slab, churn=churn)
        return NamedLoad(load, load.span_s)
    if kind == "trace":
        recording = _recording(rest, preset)
        return NamedLoad(None, max(recording.end_s - recording.begin_s, 1.0), recording)
    return _own(text)


@lru_cache(maxsize=4)
def _curve(path: str) -> Curve:
    return read_curve(Path(path))


@lru_cache(maxsize=4)
def _recording(path: str, preset: str) -> Recording:
    if Path(path).is_dir():
        from stress.lab.guest_log import read_guest_log  # noqa: PLC0415 - msgspec is an extra

        return read_guest_log(Path(path))
    return read_recording(Path(path), PRESETS[preset])


def _burst(text: str) -> Burst:
    size, _, order = (text or "2GiB").partition("@")
    return Burst(pages(parse_size(size)), int(order or 9))


def _churn(text: str) -> Churn:
    size, _, period = (text or "512MiB/2").partition("/")
    size, _, order = size.partition("@")
    return Churn(pages(parse_size(size)), _positive(period or "2", "period"), int(order or 0))


def _functions(text: str) -> Functions:
    words = (text or "1,64MiB,5").split(",")
    if len(words) != 3:
        raise ValueError(f"{len(words)} values, expected RATE,SIZE,HOLD_S")
    size, _, order = words[1].partition("@")
    return Functions(
        _positive(words[0], "rate"), pages(parse_size(size)), _positive(words[2], "hold"), int(order or 9)
    )


def _holes(text: str) -> Holes:
    size, _, keep = (text or "1GiB/512").partition("/")
    return Holes(pages(parse_size(size)), max(2, int(keep or 512)))


def _positive(text: str, what: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(f"{what} is {text}, expected more than 0")
    return value


def _own(text: str) -> NamedLoad:
    """Load a generator function of the user's own, `module:callable`."""
    module, _, name = text.partition(":")
    if not name:
        raise BadLoad(f"load {text!r}, expected {HELP}")
    try:
        load: Load = getattr(import_module(module), name)
    except Exception as error:
        raise BadLoad(f"load {text!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(load):
        raise BadLoad(f"load {text!r} is no callable, expected a generator function of one machine")
    return NamedLoad(load, float(getattr(load, "span_s", 2 * SETTLE_S)))
