"""`stress verify RUN`: the invariants decided from the log alone.

The log is read once, record by record, and the memory that takes is that of the run's zones and threads. Three
verdicts: SUCCESS, every invariant that has events holds in a log that is whole; FAILURE, with the records that
prove it; CANNOT DECIDE, the log itself is damaged before anything was found. What stands behind the first damage is
not judged: a gap may hide anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten

from stress.errors import Verdict, one_line, quoted
from stress.invariants import INVARIANTS
from stress.log.events import Record
from stress.log.files import LogDamage
from stress.log.hearing import Heard, Hearing, Misfit
from stress.log.reader import LogReader, check_is_log, heard

PROOFS_MAX = 3  # kept in words of each invariant; one fault breaks much that follows
PROGRESS_RECORDS = 50_000
RECORD_WIDTH_MAX = 200  # of a record that is quoted
PROOF_MAX = 2000  # characters of what it proves


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
class Judgement:
    """What a log proves. `undecided` says why, when nothing was found in a log that is damaged."""

    verdict: Verdict = Verdict.SUCCESS
    violations: list[Proof] = field(default_factory=list)
    violation_count: int = 0
    damage: str | None = None
    records: int = 0


def verify(run: Path, progress: Callable[[int], None] = lambda records: None) -> Judgement:
    """Judge a run's log. Raises BadLog when the path holds none that can be read."""
    check_is_log(run)
    reader = LogReader(run)
    judgement = Judgement()
    current: list[Record] = []

    def fail(invariant: str, text: str) -> None:
        judgement.violation_count += 1
        if sum(proof.invariant == invariant for proof in judgement.violations) < PROOFS_MAX:
            record = current[0]
            judgement.violations.append(
                Proof(
                    invariant,
                    text,
                    reader.where,
                    record.t / 1e9,
                    reader.threads.get(record.thread, str(record.thread)),
                    shorten(repr(record), RECORD_WIDTH_MAX, placeholder=" …)"),
                )
            )

    def records() -> Iterator[Heard]:
        for record in reader:
            current[0] = record
            yield heard(record)
            if not reader.records % PROGRESS_RECORDS:
                progress(reader.records)

    hearing = Hearing(fail)
    current.append(Record(0, 0, 0))
    try:
        hearing.hear(records())
        hearing.expect_last_look()
    except Misfit as misfit:
        judgement.damage = (
            f"{reader.where}: {misfit}"
            if hearing.judge.zones
            else "the log describes no zone: it is of a guest seen from its host, which does not see free lists"
        )
    except LogDamage as damage:
        judgement.damage = str(damage)
    judgement.records = reader.records
    if judgement.violation_count:
        judgement.verdict = Verdict.FAILURE
    elif judgement.damage is not None:
        judgement.verdict = Verdict.CANNOT_DECIDE
    return judgement


def describe(proof: Proof) -> str:
    """Say in words what a record proves."""
    return (
        f"{proof.invariant}: {one_line(proof.text, PROOF_MAX)}\n"
        f"    expected: {INVARIANTS[proof.invariant]}\n"
        f"    proved by {proof.where}, {proof.seconds:.6f} s, thread {quoted(proof.thread, str)}: {proof.record}"
    )
