"""How a run ended, in figures and words: what is printed, and kept as summary.json."""

from __future__ import annotations

from dataclasses import dataclass, field

from stress.errors import EXIT_CANNOT, Verdict
from stress.log.live import Judged, LiveProof


@dataclass(slots=True)
class Summary:
    """How a run ended."""

    verdict: Verdict = Verdict.FAILURE
    violations: list[str] = field(default_factory=list)
    violation_count: int = 0
    judged_records: int | None = None  # of the log, by its judge; None when the run's own checks alone judged
    undecided: str | None = None  # why nobody can say SUCCESS: the log was not judged whole, or not kept
    unkept: str | None = None  # what the disk refused to keep of the run
    seconds: float = 0.0
    interrupted: bool = False
    allocators: int = 0
    allocs: int = 0
    frees: int = 0
    failed_allocs: int = 0
    passes: int = 0
    batches: int = 0
    failed_batches: int = 0
    reported_blocks: int = 0
    reported_bytes: int = 0
    stuck_batches: int = 0
    kept_blocks: int = 0  # acknowledged by the reporter, and still resident then
    kept_bytes: int = 0
    resident_bytes_start: int = 0
    resident_bytes_peak: int = 0
    page_set_bytes_peak: int = 0
    resident_bytes_end: int = 0
    operations: list[int] = field(default_factory=list)  # by allocator
    unfair_intervals: int = 0
    footprint: dict[str, object] = field(default_factory=dict)
    kept_max: dict[str, int] = field(default_factory=dict)  # the most that the run itself kept of each
    stacks: list[str] = field(default_factory=list)  # where every thread stood when the run hung
    notes: list[str] = field(default_factory=list)
    next_step: str = ""  # what to do about a failure
    params: dict[str, object] = field(default_factory=dict)

    def heed(self, judged: Judged | None, proofs: list[LiveProof]) -> None:
        """Let the log's judge have the last word: the verdict is what `verify` would say."""
        if judged is None:
            self.undecided = "the log's judge gave no answer"
        else:
            self.judged_records, self.undecided = judged.records, judged.damage
            self.violations += [
                f"{proof.invariant}: {proof.text} (at {proof.seconds:.3f} s)" for proof in proofs
            ]
            self.violation_count += judged.violations
        failed = bool(self.violation_count) or self.verdict is Verdict.FAILURE
        self.verdict = Verdict.of(failed=failed, undecided=self.undecided is not None)

    def lack(self, what: str) -> None:
        """Take down what the disk refused to keep: `verify` could not repeat a SUCCESS, so there is none."""
        self.unkept = what if self.unkept is None else f"{self.unkept}; {what}"
        self.undecided = self.undecided or what
        self.verdict = Verdict.of(failed=self.verdict is Verdict.FAILURE, undecided=True)

    @property
    def exit_status(self) -> int:
        """The verdict's, unless it was the disk that kept it from one."""
        refused = self.unkept is not None and self.verdict is not Verdict.FAILURE
        return EXIT_CANNOT if refused else self.verdict.exit_status
