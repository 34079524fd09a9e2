"""What a reporting worker has done so far, in numbers."""

from __future__ import annotations


class PageReportingStats:
    """Counts since the beginning; only the worker writes them."""

    __slots__ = (
        "batches",
        "failed_batches",
        "first_error",
        "lost_passes",
        "passes",
        "refused_in_pass",
        "reported_blocks",
        "reported_bytes",
    )

    def __init__(self) -> None:
        self.passes = 0
        self.lost_passes = 0  # passes that found no memory for a scatterlist
        self.batches = 0  # report calls that returned or raised
        self.refused_in_pass = 0  # lists that the current or last pass left because of the min watermark
        self.failed_batches = 0
        self.first_error: str | None = None
        self.reported_blocks = 0  # blocks of successful batches, merged on their way back or not
        self.reported_bytes = 0
