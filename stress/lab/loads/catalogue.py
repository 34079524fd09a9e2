"""Loads by name, as the command line has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from pagealloc.mmzone import Layout
from pagealloc.revision import PRESETS
from stress.errors import BadInput, quoted
from stress.lab.engine import Load, Machine
from stress.lab.loads.curve import Curve, Follow, read_curve
from stress.lab.loads.synthetic import SETTLE_S, Burst, Churn, Functions, Holes, Idle, pages
from stress.lab.recording import Recording, read_recording
from stress.run.params import parse_size

HELP = (
    "idle, burst:SIZE[@ORDER], churn:SIZE/PERIOD_S, functions:RATE,SIZE,HOLD_S, holes:SIZE/KEEP, curve:CSV, "
    "trace:FILE, or MODULE:CALLABLE"
)


ORDER_MAX = Layout().top_order
# Bounds that keep a run's length one that somebody waits for.
PERIOD_S_MIN, TIME_S_MAX = 1e-3, 1e6
RATE_MIN, RATE_MAX = 1e-6, 1e3


class BadLoad(BadInput):
    """A load is none that there is; the message names it and what was expected."""


MadeUp = Idle | Burst | Churn | Functions | Holes


class NamedLoad(NamedTuple):
    """A load with what a run must know of it beforehand."""

    load: Load | None  # None for a recording: how it is replayed is chosen later
    span_s: float
    recording: Recording | None = None
    orders: tuple[int, ...] = ()


def parse_load(text: str, *, scale: int, mix: int, slab: float, churn: float, preset: str) -> NamedLoad:
    """Make the load that a word of the command line names. Raises BadInput."""
    kind, _, rest = text.partition(":")
    makers: dict[str, Callable[[str], MadeUp]] = {
        "idle": lambda _: Idle(),
        "burst": _burst,
        "churn": _churn,
        "functions": _functions,
        "holes": _holes,
    }
    if kind in makers:
        try:
            made_up = makers[kind](rest)
        except ValueError as error:
            raise BadLoad(f"load {text!r}: {error}; expected {HELP}") from error
        return NamedLoad(_divided(made_up, text, scale), made_up.span_s)
    if kind == "curve":
        load = Follow(_curve(rest), scale, mix=mix, slab=slab, churn=churn)
        return NamedLoad(load, load.span_s)
    if scale > 1:
        raise BadLoad(
            f"load {text!r}: --scale {scale} divides no recording and no load of your own, expected 1"
        )
    if kind == "trace":
        recording = _recording(rest, preset)
        return NamedLoad(None, max(recording.end_s - recording.begin_s, 1.0), recording)
    return _own(text)


def _divided(load: MadeUp, text: str, scale: int) -> Load:
    """Return the load of a guest so many times smaller. Raises BadLoad when nothing would be left of it."""
    if isinstance(load, Idle) or scale == 1:
        return load
    divided = replace(load, nr_pages=load.nr_pages // scale)
    order = getattr(load, "order", 0)
    if not divided.nr_pages >> order:
        raise BadLoad(
            f"load {text!r}: --scale {scale} leaves no block of order {order} of it, expected a smaller scale"
        )
    return divided


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
    return Burst(*_blocks(size, order or "9"))


def _churn(text: str) -> Churn:
    size, _, period = (text or "512MiB/2").partition("/")
    size, _, order = size.partition("@")
    nr_pages, of_order = _blocks(size, order or "0")
    return Churn(nr_pages, _within(period or "2", "period", PERIOD_S_MIN, TIME_S_MAX), of_order)


def _functions(text: str) -> Functions:
    words = (text or "1,64MiB,5").split(",")
    if len(words) != 3:
        raise ValueError(f"{len(words)} values, expected RATE,SIZE,HOLD_S")
    size, _, order = words[1].partition("@")
    nr_pages, of_order = _blocks(size, order or "9")
    return Functions(
        _within(words[0], "rate", RATE_MIN, RATE_MAX),
        nr_pages,
        _within(words[2], "hold", PERIOD_S_MIN, TIME_S_MAX),
        of_order,
    )


def _holes(text: str) -> Holes:
    size, _, keep = (text or "1GiB/512").partition("/")
    if int(keep or 512) < 2:
        raise ValueError(f"keep is {keep}, expected 2 or more")
    return Holes(_blocks(size, "0")[0], int(keep or 512))


def _blocks(size: str, order: str) -> tuple[int, int]:
    """Return pages and the order of the blocks that they come in."""
    if not 0 <= int(order) <= ORDER_MAX:
        raise ValueError(f"order is {order}, expected 0 .. {ORDER_MAX}")
    nr_pages = pages(parse_size(size))
    if not nr_pages >> int(order):
        raise ValueError(f"size is {size}, expected a block of order {int(order)} or more")
    return nr_pages, int(order)


def _within(text: str, what: str, low: float, high: float) -> float:
    value = float(text)
    if not low <= value <= high:
        raise ValueError(f"{what} is {text}, expected {low:g} .. {high:g}")
    return value


@dataclass(frozen=True, slots=True)
class OwnLoad:
    """A load of the user's own; what it does wrong is told as bad input, for it is none of ours."""

    text: str
    load: Load
    unreported: bool

    def __call__(self, machine: Machine) -> Iterator[float]:
        try:
            steps = self.load(machine)
        except Exception as error:
            raise BadLoad(f"load {self.text!r} cannot be made: {type(error).__name__}: {error}") from error
        if not isinstance(steps, Iterator):
            raise BadLoad(
                f"load {self.text!r} cannot be made: it returns a {type(steps).__name__}, expected an iterator of times"
            )
        return self._times(steps)

    def _times(self, steps: Iterator[float]) -> Iterator[float]:
        try:
            for at_s in steps:
                if not isinstance(at_s, int | float) or at_s != at_s:  # noqa: PLR0124 - a NaN
                    raise BadLoad(f"load {self.text!r} yields {quoted(at_s)}, expected a time in seconds")
                yield at_s
        except BadInput:
            raise
        except Exception as error:
            raise BadLoad(f"load {self.text!r} failed: {type(error).__name__}: {error}") from error


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
    own = OwnLoad(text, load, bool(getattr(load, "unreported", False)))
    return NamedLoad(own, float(getattr(load, "span_s", 2 * SETTLE_S)))
