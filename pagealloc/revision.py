"""Which kernel a run follows, as data.

The allocator and the worker are one program; where kernels differ, they ask a field of the frozen
`Revision`. The presets are the revisions that recorded kernel runs exist for, and `seed`, the rules as the
message of the first commit words them. Sources: 36e66c554b5c (the core), 02cf8719b8cb (rotation),
43b76f295e3d (budget), the release v5.7 that holds all three, 6.1.192, and 6.12.117. The last has some rules
that came with 6.13 and 6.14 and that stable releases took over: the first releases of 6.12 lack those.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Revision:
    """The differences between kernels that can be seen from outside."""

    name: str

    # mm/page_alloc.c
    putback_to_tail: bool
    """A block back from the reporter goes to its list's tail (v5.10), else by the usual head or tail rule."""
    move_to_tail: bool
    """A block that changes its migratetype while free goes to the tail of its new list (v5.10), else the head."""
    boot_to_tail: bool
    """Frees at boot fill lists from the tail, so that they ascend (v5.10), else by the usual rule."""
    highatomic_merges: bool
    """Blocks of a whole pageblock and more merge across the border of a high-atomic pageblock (before v5.18)."""
    list_type_is_block_type: bool
    """A free block is on the list of its pageblocks' type, always (v6.10): it moves when the type changes, a merge
    gives the neighbour's pageblocks the type of what is freed, and what is larger than a pageblock is freed, and
    withheld, a pageblock at a time."""
    claim_then_steal: bool
    """A request without own blocks claims a whole pageblock or else takes one block and leaves the rest where it
    was (v6.14, 6.12.y); else it moves blocks to its own lists, whether it gets their pageblock or not."""
    highatomic_free_withheld: bool
    """Watermarks leave out the free pages of high-atomic pageblocks (v6.13, 6.12.y), else all of the reserve."""
    highatomic_whole_percent: bool
    """The high-atomic reserve is 1 % of a zone in whole pageblocks, none if that is less than one (seen in 6.12);
    else 1 % and a pageblock."""
    pcp_max_order: int
    """Largest of the small orders that page sets hold: 0, and 3 since v5.13."""
    pcp_pageblock_order: bool
    """Page sets also hold blocks of pageblock order (v5.13), in two lists: movable ones, and all others."""
    pcp_high_by_marks: bool
    """A page set's limit is its CPU's share of the zone's low mark (v5.13), else six batches."""
    pcp_tunes_high: bool
    """Limits and batches of page sets tune themselves, up to an eighth of the zone (v6.7)."""
    pcp_drains_by_turns: bool
    """A drain takes a few pages from each list of a set in turn (before v5.13), else the whole list first."""
    pcp_remembers_type: bool
    """A drained block goes to the lists of the type that it was freed as (before v6.7), else of its pageblock's now."""

    movable_keeps_token: bool
    """The min mark of a zone Movable is 32 to 128 pages (v6.6), else its share of `min_free_kbytes`."""

    # mm/page_reporting.c
    capacity_max: int
    """Most blocks of one batch (`PAGE_REPORTING_CAPACITY`). A device has just as many, since v7.2 fewer if it likes."""
    report_when_full: bool
    """A full batch is sent at once; else when one more unreported block is met, or at the end of the zone."""
    rotate: bool
    """Before the zone lock is dropped, and when a list is left, the next block to handle becomes its first."""
    budget: bool
    """One visit to a list makes ceil(nr_free / (16 * capacity)) + 1 report calls at most, then asks again."""
    leave_after_nr_free: bool
    """A list is left once as many blocks were taken as its free area held when the visit began."""
    full_barrier: bool
    """A full barrier orders the worker's store of ACTIVE before its looks at the lists; no kernel has it (`preset`)."""
    order_settled_once: bool
    """The first device to register settles the order of all later ones (v6.2), else each brings its own."""


V6_12 = Revision(
    name="v6.12",
    putback_to_tail=True,
    move_to_tail=True,
    boot_to_tail=True,
    highatomic_merges=False,
    list_type_is_block_type=True,
    claim_then_steal=True,
    highatomic_free_withheld=True,
    highatomic_whole_percent=True,
    pcp_max_order=3,
    pcp_pageblock_order=True,
    pcp_high_by_marks=True,
    pcp_tunes_high=True,
    pcp_drains_by_turns=False,
    pcp_remembers_type=False,
    movable_keeps_token=True,
    capacity_max=32,
    report_when_full=False,
    rotate=True,
    budget=True,
    leave_after_nr_free=False,
    order_settled_once=True,
    full_barrier=False,
)

V6_1 = replace(
    V6_12,
    name="v6.1",
    list_type_is_block_type=False,
    claim_then_steal=False,
    highatomic_free_withheld=False,
    highatomic_whole_percent=False,
    pcp_tunes_high=False,
    pcp_remembers_type=True,
    movable_keeps_token=False,
    order_settled_once=False,
)

V5_7 = replace(
    V6_1,
    name="v5.7",
    putback_to_tail=False,
    move_to_tail=False,
    boot_to_tail=False,
    highatomic_merges=True,
    pcp_max_order=0,
    pcp_pageblock_order=False,
    pcp_high_by_marks=False,
    pcp_drains_by_turns=True,
)

ROTATION = replace(V5_7, name="02cf8719", budget=False)

CORE = replace(ROTATION, name="36e66c55", rotate=False, report_when_full=True)

# The message of 36e66c55 already speaks of the rotation, and ends a visit when "as many pages as were
# contained in the free area when we started" were processed; the code of that commit has neither.
SEED = replace(CORE, name="seed", rotate=True, leave_after_nr_free=True)

PRESETS = {revision.name: revision for revision in (CORE, ROTATION, V5_7, V6_1, V6_12, SEED)}

DEFAULT = V6_12  # what most machines run: Debian 13, and most clouds

WITH_BARRIER = "+mb"  # behind a preset's name: with the full barrier that the kernels lack


def preset(name: str) -> Revision:
    """Return a preset; `v6.1+mb` is v6.1 with `full_barrier`. Raises KeyError for a name that is none."""
    revision = PRESETS[name.removesuffix(WITH_BARRIER)]
    return replace(revision, full_barrier=True) if name.endswith(WITH_BARRIER) else revision
