"""A sweep: many points on any `concurrent.futures.Executor`, with the same rows whichever it is.

Points are sent in chunks of a second of work or more, since a task costs a cluster some milliseconds. A point carries
its seed, so equal tasks have equal results: a cluster may compute one of them. Every row that has come is kept in
`rows.jsonl` at once, with the point it belongs to, so a sweep that was cut off goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pagealloc.sync_real import RealSync
from stress.errors import BadInput
from stress.lab.options import Options
from stress.lab.predict import Row, predict
from stress.system.files import unwritten

ROWS_FILE = "rows.jsonl"
CHUNK_S = 1.0
CURVE_POINTS = 700  # of a curve that travels with its row


Result = tuple[Row, list[list[float]], list[str]]


def chunk_rows(points: Sequence[Options]) -> tuple[list[Result], BadInput | None]:
    """Predict a few points, one after the other: each one's row, its curve and what was assumed.

    A point that cannot be predicted ends the chunk; what came before it is not lost.
    """
    results: list[Result] = []
    for point in points:
        try:
            prediction = predict(point)
        except BadInput as error:
            return results, error
        step = max(1, len(prediction.curve) // CURVE_POINTS)
        scale = point.scale
        curve = [
            [round(sample.t_s, 6), sample.used * scale, sample.used_2m * scale, sample.resident * scale]
            for sample in prediction.curve[::step]
        ]
        results.append((prediction.row, curve, prediction.notes))
    return results, None


class Sweep:
    """The points of a grid, what is known of them, and the rest to do."""

    def __init__(self, points: Sequence[Options], folder: Path | None) -> None:
        self.points = points
        self.rows: dict[int, Row] = {}
        self.curves: dict[int, list[list[float]]] = {}
        self.notes: list[str] = []
        self._keys = [key_of(point) for point in points]
        self._path = folder / ROWS_FILE if folder is not None else None
        if self._path is not None:
            self._open(self._path)

    def _open(self, path: Path) -> None:
        """Take over the rows that an earlier, equal sweep has left. Raises BadInput."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # What is no text is no row of ours, as what was cut off while it was written is none.
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        except OSError as error:
            raise unwritten("--out", path, error) from error
        numbers: dict[str, list[int]] = {}
        for number, key in enumerate(self._keys):
            numbers.setdefault(key, []).append(number)
        for line in lines:
            try:
                kept = json.loads(line)
                key, row, curve, notes = kept["point"], kept["row"], kept["curve"], kept["notes"]
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # cut off while it was written: computed again
            for number in numbers.get(key, ()):
                self._take(number, row, curve, notes)

    def _take(self, number: int, row: Row, curve: list[list[float]], notes: list[str]) -> None:
        self.rows[number] = row
        self.curves[number] = curve
        self.notes += [note for note in notes if note not in self.notes]

    def _keep(self, number: int, row: Row, curve: list[list[float]], notes: list[str]) -> None:
        self._take(number, row, curve, notes)
        if self._path is not None:
            kept = {"point": self._keys[number], "row": row, "curve": curve, "notes": notes}
            try:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(kept) + "\n")
            except OSError as error:
                raise unwritten("--out", self._path, error) from error

    def missing(self) -> list[int]:
        """List the numbers of the points without a row."""
        return [number for number in range(len(self.points)) if number not in self.rows]

    def run(self, executor: Executor | None, workers: int, told: Callable[[int], None]) -> None:
        """Compute what is missing; `told` hears how many rows came each time. Without an executor, here.

        Raises BadInput for a point that cannot be predicted, when what was under way has come.
        """
        missing = self.missing()
        if not missing:
            return
        clock = RealSync().monotonic
        begin_s = clock()
        # The pilot: how long a point takes.
        self._done([missing[0]], chunk_rows([self.points[missing[0]]]), told)
        pilot_s = max(clock() - begin_s, 1e-6)
        rest = missing[1:]
        size = max(1, min(round(CHUNK_S / pilot_s), -(-len(rest) // max(1, workers))))
        chunks = [rest[at : at + size] for at in range(0, len(rest), size)]
        for numbers, results in self._results(chunks, executor):
            self._done(numbers, results, told)

    def _done(
        self,
        numbers: Sequence[int],
        done: tuple[list[Result], BadInput | None],
        told: Callable[[int], None],
    ) -> None:
        results, error = done
        for number, (row, curve, notes) in zip(numbers, results, strict=False):
            self._keep(number, row, curve, notes)
        told(len(results))
        if error is not None:
            raise error

    def _results(self, chunks: list[list[int]], executor: Executor | None) -> Iterator[tuple[list[int], Any]]:
        if executor is None:
            for numbers in chunks:
                yield numbers, chunk_rows([self.points[number] for number in numbers])
            return
        futures: dict[Future[Any], list[int]] = {
            executor.submit(chunk_rows, [self.points[number] for number in numbers]): numbers
            for numbers in chunks
        }
        failed: tuple[list[int], Any] | None = None
        for future in as_completed(futures):
            if future.cancelled():
                continue
            if future.result()[1] is None or failed is not None:
                yield futures[future], (future.result()[0], None)
                continue
            failed = futures[future], future.result()
            for other in futures:
                other.cancel()  # what nobody has begun; the rest is waited for, and kept
        if failed is not None:
            yield failed

    def table(self) -> list[Row]:
        """Return the rows in the order of the points."""
        return [self.rows[number] for number in sorted(self.rows)]


def key_of(point: Options) -> str:
    """Identify a point: a hash of all its options."""
    text = json.dumps(asdict(point), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
