"""What is worth a note at the end of a run: nothing broke, and yet it was not as somebody may think.

A note that begins with `???` says that the run shows little of what it was meant to show.
"""

from __future__ import annotations

from collections.abc import Iterator

from stress.run.rig import Rig
from stress.run.summary import Summary

SEEMS_DEAD = 3  # batches in a row, from which on a reporter seems to have died
WITHHELD_SHARE = 0.01  # of all pages, on page sets
KEEPS_BY_NATURE = ("null", "sleep")


def notes_on_reporting(rig: Rig) -> Iterator[str]:
    """Say how the reporter fared, as far as it did not fare well."""
    stats, host = rig.reporting.stats, rig.host
    most = rig.memory.revision.capacity_max
    if rig.params.capacity > most:
        yield f"batches of up to {rig.params.capacity} blocks are ours: no kernel makes one of more than {most}"
    if not stats.batches:
        yield "nothing was reported"
    elif stats.failed_batches == stats.batches:
        yield (
            f"??? the reporter failed every one of its {stats.batches} batches, the first with {stats.first_error}: "
            "nothing was given back"
        )
    elif stats.failed_batches:
        yield f"{stats.failed_batches} batches failed, the first with {stats.first_error}"
    if SEEMS_DEAD <= host.failed_in_a_row < stats.batches:
        yield (
            f"??? the reporter failed its last {host.failed_in_a_row} batches, at the end with {host.last_error}: it "
            "seems to have died"
        )
    if host.kept_blocks and rig.params.reporter not in KEEPS_BY_NATURE:
        yield (
            f"??? the reporter acknowledged {stats.reported_blocks:,} blocks, and of {host.kept_blocks:,} the memory "
            f"was still there: {host.kept_bytes >> 20} of {stats.reported_bytes >> 20} MiB were not given back"
        )


def notes_on_the_rest(rig: Rig, summary: Summary, withheld_pages: int) -> Iterator[str]:
    """Say what page sets withheld from reporting when the load ended, and who is left over."""
    memory = rig.memory
    if withheld_pages > WITHHELD_SHARE * memory.nr_pages():
        yield (
            f"{withheld_pages * memory.layout.page_size >> 20} MiB lay on page sets when the load ended: free, but out "
            "of the worker's reach until their threads free more, or the sets are drained"
        )
    leaked = threads(summary, "after") - threads(summary, "before")
    if leaked > 0:
        yield f"??? {leaked} threads are left that were not there before: the run joins its own, a reporter leaks"


def threads(summary: Summary, when: str) -> int:
    """Return how many threads the process had before or after the run."""
    footprint = summary.footprint[when]
    assert isinstance(footprint, dict)
    return int(footprint["threads"])
