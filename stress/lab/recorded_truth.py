"""What really happened, beside what was predicted: the passes of a recording, and the host's measured curve."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from pagealloc.mmzone import PAGE_SHIFT
from stress.errors import BadInput
from stress.lab.loads.catalogue import parse_load
from stress.lab.options import Options
from stress.lab.predict import pass_rows, recorded_rows, run_machine
from stress.lab.proc_state import read_text
from stress.lab.recording import PAGEBLOCK_ORDER, Recording
from stress.lab.sweep import Sweep

KIB_PER_PAGE = 1 << PAGE_SHIFT - 10
NEARLY_NOTHING = 0.05  # of what was reported
UNEXPLAINED = 0.1  # of the measured rise: more than that, and the recording does not hold the load


@dataclass(slots=True)
class Measured:
    """The host's curve: times on the recording's clock, resident KiB."""

    t_s: list[float]
    kib: list[float]


def read_rss(path: Path) -> Measured:
    """Read lines of host seconds, guest seconds and KiB. Raises BadInput."""
    t_s: list[float] = []
    kib: list[float] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.startswith("#") or not line.strip():
            continue
        try:
            _, at, value = map(float, line.split())
        except ValueError as error:
            raise BadInput(
                f"{path}: line {number}: {error}, expected host seconds, guest seconds and KiB"
            ) from error
        if t_s and at < t_s[-1]:
            raise BadInput(f"{path}: line {number}: {at:g} s comes before {t_s[-1]:g} s")
        t_s.append(at)
        kib.append(value)
    if len(t_s) < 2:
        raise BadInput(f"{path}: {len(t_s)} samples, expected two or more")
    return Measured(t_s, kib)


@dataclass(slots=True)
class Truth:
    """The recorded passes and the measured curve, and how far the prediction is off."""

    recording: Recording
    measured: Measured | None
    predicted: list[dict[str, Any]] = field(default_factory=list)
    curve_kib: list[float] = field(
        default_factory=list
    )  # predicted, at the measured times within the recording
    distance: float | None = None  # mean |predicted - measured| as a share of the measured range
    said: list[str] = field(default_factory=list)

    def judge(self, points: list[Options], sweep: Sweep) -> None:
        """Predict the first point's passes and curve again, and hold them against the truth."""
        machine, _ = run_machine(points[0])
        self.predicted = pass_rows(machine.passes)
        if self.measured is not None:
            self._judge_curve(machine)
        self.said += explain(self.recording, machine, self.measured)

    def _judge_curve(self, machine: Any) -> None:
        measured = self.measured
        assert measured is not None, "there is a curve"
        inside = [
            at for at, t_s in enumerate(measured.t_s) if self.recording.begin_s <= t_s <= self.recording.end_s
        ]
        if not inside:
            raise BadInput(
                f"the measured curve ({measured.t_s[0]:g} .. {measured.t_s[-1]:g} s) and the recording "
                f"({self.recording.begin_s:g} .. {self.recording.end_s:g} s) do not overlap, expected one clock"
            )
        model = [machine.resident_at(measured.t_s[at]) * KIB_PER_PAGE for at in inside]
        real = [measured.kib[at] for at in inside]
        # Where the curve begins is the host's business: what else its process holds, and what was touched before.
        curve = [value - model[0] + real[0] for value in model]
        rises = [max(0.0, after - before) for before, after in pairwise(real)]
        shown = sum(max(0.0, after - before) for before, after in pairwise(model))
        unseen = sum(rises) - shown
        if unseen > UNEXPLAINED * (max(real) - min(real)):
            curve = self._with_measured_rises(machine, curve, rises, inside)
            self.said.append(
                f"the recording leaves out what raised the host's memory (events of order "
                f"{self.recording.smallest_order} and more only): the rises of the curve are the "
                "measured ones, and only its falls are predicted"
            )
        self.curve_kib = curve
        spread = max(measured.kib) - min(measured.kib)
        off = sum(abs(one - other) for one, other in zip(curve, real, strict=True)) / len(real)
        self.distance = off / spread if spread else 0.0

    def _with_measured_rises(
        self, machine: Any, curve: list[float], rises: list[float], inside: list[int]
    ) -> list[float]:
        assert self.measured is not None, "there is a curve"
        unseen_kib = [
            sum(pages for t_s, pages in machine.unseen_touches if t_s <= self.measured.t_s[at]) * KIB_PER_PAGE
            for at in inside
        ]
        adjusted = [curve[0]]
        extra = 0.0
        for at in range(1, len(curve)):
            visible = curve[at] - curve[at - 1] - (unseen_kib[at] - unseen_kib[at - 1])
            extra += max(0.0, rises[at - 1] - max(0.0, visible))
            adjusted.append(curve[at] - unseen_kib[at] + extra)
        return adjusted

    def as_json(self) -> dict[str, Any]:
        """Return what the JSON output says of the truth."""
        output: dict[str, Any] = {
            "predicted": self.predicted,
            "recorded": recorded_rows(self.recording),
            "explanation": self.said,
        }
        if self.measured is not None and self.distance is not None:
            inside = [
                (t_s, kib)
                for t_s, kib in zip(self.measured.t_s, self.measured.kib, strict=True)
                if self.recording.begin_s <= t_s <= self.recording.end_s
            ]
            output["rss"] = {
                "measured": [{"t_s": t_s, "bytes": round(kib * 1024)} for t_s, kib in inside],
                "predicted": [
                    {"t_s": t_s, "bytes": round(kib * 1024)}
                    for (t_s, _), kib in zip(inside, self.curve_kib, strict=True)
                ],
                "distance": round(self.distance, 6),
            }
        return output

    def lines(self) -> list[str]:
        """Say it in the terminal."""
        recorded = recorded_rows(self.recording)
        sizes = [sum(each["bytes"] for each in passes) / (1 << 20) for passes in (recorded, self.predicted)]
        lines = [
            f"recorded  {len(recorded)} passes, {sizes[0]:,.0f} MiB",
            f"predicted {len(self.predicted)} passes, {sizes[1]:,.0f} MiB",
        ]
        if len(recorded) == len(self.predicted) and recorded:
            worst = max(
                abs(one["t_s"] - other["t_s"]) for one, other in zip(recorded, self.predicted, strict=True)
            )
            lines.append(f"times of passes differ by {worst * 1e3:.1f} ms at most")
        if self.distance is not None:
            lines.append(f"the resident curve is off by {self.distance:.1%} of its range on average")
        return lines + self.said


def explain(recording: Recording, machine: Any, measured: Measured | None) -> list[str]:
    """Say in words why so little came back, where that is so."""
    given_mib = sum(each.taken_pages for each in machine.passes) / 256
    reported_mib = sum(each.pages for each in machine.passes) / 256
    if reported_mib and given_mib < NEARLY_NOTHING * reported_mib:
        reported = f"{reported_mib:,.0f} MiB are reported and {given_mib:,.0f} MiB come back"
        return [f"{reported}: the guest had never touched the rest, and the host had not backed it"]
    if measured is None:
        return []
    inside = [
        kib
        for t_s, kib in zip(measured.t_s, measured.kib, strict=True)
        if recording.begin_s <= t_s <= recording.end_s
    ]
    kept_mib = (inside[-1] - inside[0]) / 1024
    if kept_mib < 4 * max(given_mib, 1.0):
        return []
    whole = sum(
        1 for op in recording.zone_ops if op.kind in ("return", "unseen") and op.order >= PAGEBLOCK_ORDER
    )
    text = (
        f"hardly anything comes back ({given_mib:,.0f} MiB) although the host's memory rose by {kept_mib:,.0f} MiB: "
        f"only {whole} blocks of 2 MiB became free as a whole, and a pass takes blocks of order {machine.order} "
        "and more. The rest is in use or lies free in smaller pieces, and nobody asks the reporter for those"
    )
    if machine.page_set_high:
        high_mib = machine.page_set_high / 256
        text += (
            ". One page in use or on a CPU's list in each 2 MiB is enough: the lists may hold "
            f"{machine.page_set_high:,} pages ({high_mib:,.0f} MiB), which keep as many blocks of 2 MiB from "
            "becoming whole"
        )
    return [text]


def truth_of(points: list[Options], rss: Path | None) -> Truth | None:
    """Return the truth that a trace holds; None for other loads. Raises BadInput."""
    point = points[0]
    if not point.load.startswith("trace:"):
        if rss is not None:
            raise BadInput("--rss: a measured curve belongs to a trace:FILE, expected that load")
        return None
    recording = parse_load(
        point.load, scale=1, mix=point.mix, slab=point.slab, churn=point.churn, preset=point.preset
    ).recording
    assert recording is not None, "a trace is a recording"
    if not recording.passes and rss is None:
        return None
    return Truth(recording, read_rss(rss) if rss is not None else None)
