"""`stress verify RUN`: the invariants decided from the log alone.

The log is read once, record by record, and the memory that takes is that of the run's zones and threads. Three
verdicts: SUCCESS, every invariant that has events holds in a log that is whole; FAILURE, with the records that
prove it; CANNOT DECIDE, the log itself is damaged before anything was found. What stands behind the first damage is
not judged: a gap may hide anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten

from msgspec.structs import astuple

from stress.invariants import INVARIANTS, Judge
from stress.log.events import EVENTS, Record
from stress.log.reader import LogDamage, LogReader, check_is_log

PROOFS_MAX = 3  # kept in words of each invariant; one fault breaks much that follows
HEADER_FIELDS = 3
PROGRESS_RECORDS = 50_000
RECORD_WIDTH_MAX = 200  # of a record that is quoted


@dataclass(frozen=True, slots=True)
class Proof:
    """A broken invariant, and the record that breaks it: file:line, time in seconds, thread."""

    invariant: str
    text: str
    where: str
    seconds: float
    thread: str
    record: str


@dataclass(slots=True)
class Verdict:
    """What a log proves. `undecided` says why, when nothing was found in a log that is damaged."""

    verdict: str = "SUCCESS"
    violations: list[Proof] = field(default_factory=list)
    violation_count: int = 0
    damage: str | None = None
    records: int = 0


def verify(run: Path, progress: Callable[[int], None] = lambda records: None) -> Verdict:
    """Judge a run's log. Raises BadLog when the path holds none that can be read."""
    check_is_log(run)
    reader = LogReader(run)
    verdict = Verdict()
    current: list[Record] = []

    def fail(invariant: str, text: str) -> None:
        verdict.violation_count += 1
        if sum(proof.invariant == invariant for proof in verdict.violations) < PROOFS_MAX:
            record = current[0]
            verdict.violations.append(
                Proof(
                    invariant,
                    text,
                    reader.where,
                    record.t / 1e9,
                    reader.threads.get(record.thread, str(record.thread)),
                    shorten(repr(record), RECORD_WIDTH_MAX, placeholder=" …)"),
                )
            )

    judge = Judge(fail)
    handlers = judge.handlers
    names = {cls: handlers.get(tag) for tag, cls in EVENTS.items()}
    current.append(Record(0, 0, 0))
    try:
        for record in reader:
            handler = names[type(record)]
            if handler is not None:
                current[0] = record
                handler(record.thread, *astuple(record)[HEADER_FIELDS:])
            if not reader.records % PROGRESS_RECORDS:
                progress(reader.records)
        if not judge.rested or judge.unseen:
            verdict.damage = "the log ends without the run's last look at its zones"
    except LogDamage as damage:
        verdict.damage = str(damage)
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        verdict.damage = (
            f"{reader.where}: the record fits nothing that came before ({type(error).__name__}: {error})"
            if judge.zones
            else "the log describes no zone: it is of a guest seen from its host, which does not see free lists"
        )
    verdict.records = reader.records
    if verdict.violation_count:
        verdict.verdict = "FAILURE"
    elif verdict.damage is not None:
        verdict.verdict = "CANNOT DECIDE"
    return verdict


def describe(proof: Proof) -> str:
    """Say in words what a record proves."""
    return (
        f"{proof.invariant}: {proof.text}\n"
        f"    expected: {INVARIANTS[proof.invariant]}\n"
        f"    proved by {proof.where}, {proof.seconds:.6f} s, thread {proof.thread}: {proof.record}"
    )
