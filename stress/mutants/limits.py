"""M-96 .. M-109, M-190 .. M-196: page sets of a wrong size, or whose pages rest or go where they should not."""

from __future__ import annotations

from pagealloc.pcp import PageSets
from pagealloc.per_cpu_pages import PerCpuPages
from pagealloc.zone import Zone
from stress.mutants.planting import Mutant, edited

LIMITS = {
    "M-96": Mutant(
        "a drain of a set that tunes itself may leave nothing, where a batch should stay",
        "vectors",
        (
            edited(
                PerCpuPages,
                "nr_free",
                """
                - return min(max(self.frees, batch), high - batch)
                + return min(max(self.frees, batch), high)
                """,
            ),
        ),
    ),
    "M-97": Mutant(
        "a refill that is just as large as may be does not double the next one",
        "vectors",
        (
            edited(
                PerCpuPages,
                "nr_alloc",
                """
                - if wanted <= most and self.alloc_factor < PCP_BATCH_SCALE_MAX:
                + if wanted < most and self.alloc_factor < PCP_BATCH_SCALE_MAX:
                """,
            ),
        ),
    ),
    "M-98": Mutant(
        "a refill of a larger order may bring one block, where two are the least",
        "vectors",
        (
            edited(
                PerCpuPages,
                "nr_alloc",
                """
                - return max(batch >> order, 2) if batch > 1 else batch
                + return max(batch >> order, 1)
                """,
            ),
        ),
    ),
    "M-99": Mutant(
        "pages that came with a refill are not counted when the limit is looked at",
        "vectors",
        (
            edited(
                PageSets,
                "_refill",
                """
                - pcp.room -= len(taken) << order
                """,
            ),
        ),
    ),
    "M-100": Mutant(
        "two blocks are freed in a row though a page was freed between them",
        "vectors",
        (
            edited(
                PerCpuPages,
                "free_is_high",
                """
                - else:
                + elif order:
                      self.freed_high_order = False
                """,
            ),
        ),
    ),
    "M-101": Mutant(
        "a limit comes down to no less than a batch below what rests, where 32 batches are meant",
        "vectors",
        (
            edited(
                PerCpuPages,
                "decay_high",
                """
                - count - (self.batch << PCP_BATCH_SCALE_MAX), self.high - (self.high >> 3), self.high_min
                + count - self.batch, self.high - (self.high >> 3), self.high_min
                """,
            ),
        ),
    ),
    "M-102": Mutant(
        "a limit that came down is not looked at before the old one would be reached",
        "vectors",
        (
            edited(
                PerCpuPages,
                "decay_high",
                """
                - self.room = 0
                """,
            ),
        ),
    ),
    "M-103": Mutant(
        "deals CPUs out to the nodes in equal parts, and what is left over to none",
        "vectors",
        (
            edited(
                PageSets,
                "_bounds_of",
                """
                - cpus = of_node or self._cpus
                + cpus = self._cpus // len(nodes) or self._cpus
                """,
            ),
        ),
    ),
    "M-104": Mutant(
        "six pages rest on each set of a zone that is too small for batches, in kernels that have none there",
        "vectors",
        (
            edited(
                PageSets,
                "_bounds_of",
                """
                - return zone_bounds(
                -     zone.managed_pages, zone.low_wmark_pages(), cpus, self._revision, zone.layout.page_shift
                - )
                + bounds = zone_bounds(
                +     zone.managed_pages, zone.low_wmark_pages(), cpus, self._revision, zone.layout.page_shift
                + )
                + return bounds if bounds.high_min else Bounds(1, 6, 6)
                """,
            ),
        ),
    ),
    "M-105": Mutant(
        "a page of a reserved pageblock rests with the unmovable ones",
        "vectors",
        (
            edited(
                PageSets,
                "free",
                """
                - migratetype = MIGRATE_MOVABLE
                + migratetype = MIGRATE_UNMOVABLE
                """,
            ),
        ),
    ),
    "M-106": Mutant(
        "what rested of a reserved pageblock goes to the movable lists, where kernels remember how it was freed",
        "vectors",
        (
            edited(
                Zone,
                "_free_resting",
                """
                - if remembers and freed_as >= 0 and migratetype < MIGRATE_PCPTYPES:
                + if remembers and freed_as >= 0:
                """,
            ),
        ),
    ),
    "M-107": Mutant(
        "a pageblock that is not movable reaches the limit, and the movable ones are drained first",
        "vectors",
        (
            edited(
                PerCpuPages,
                "take_coldest",
                """
                - first -= 2
                + first -= 1
                """,
            ),
        ),
    ),
    "M-108": Mutant(
        "a small block that is freed after a doubled drain does not empty the set, in kernels that do so",
        "vectors",
        (
            edited(
                PageSets,
                "free",
                """
                - elif order and pcp.frees and order <= PAGE_ALLOC_COSTLY_ORDER:
                + elif False:
                """,
            ),
        ),
    ),
    "M-109": Mutant(
        "a limit that is reached is not tuned up to what was freed in a row",
        "vectors",
        (
            edited(
                PerCpuPages,
                "nr_high",
                """
                - if count >= high and high < self.frees + batch:
                + if False:
                """,
            ),
        ),
    ),
    "M-190": Mutant(
        "frees to a zone below its high mark neither lower the limit nor go at once",
        "vectors",
        (
            edited(
                PerCpuPages,
                "nr_high",
                """
                - if below_high:
                + if False:
                """,
            ),
        ),
    ),
    "M-191": Mutant(
        "a refill from a zone below its high mark raises the limit",
        "vectors",
        (
            edited(
                PerCpuPages,
                "nr_alloc",
                """
                - if self.high_min != self.high_max and not below_high:
                + if self.high_min != self.high_max:
                """,
            ),
        ),
    ),
    "M-192": Mutant(
        "a row of blocks empties the set and leaves its limit as high as it was",
        "vectors",
        (
            edited(
                PerCpuPages,
                "nr_high",
                """
                - self.high = max(high - (batch << PCP_BATCH_SCALE_MAX), high_min)
                - return 0
                + return 0
                """,
            ),
        ),
    ),
    "M-193": Mutant(
        "a drain empties one list after the other, in kernels that take from them by turns",
        "vectors",
        (
            edited(
                PerCpuPages,
                "take_coldest",
                """
                - if self.revision.pcp_drains_by_turns:
                + if False:
                """,
            ),
        ),
    ),
    "M-194": Mutant(
        "a small block that reaches the limit after a doubled drain makes for one more such drain, not an empty set",
        "vectors",
        (
            edited(
                PageSets,
                "free",
                """
                - elif order and pcp.frees and order <= PAGE_ALLOC_COSTLY_ORDER:
                -     self._shorten(zone, pcp, first + migratetype, free_high=True)  # at the limit, too
                - elif room <= 0:
                -     self._shorten(zone, pcp, first + migratetype, free_high=False)
                + elif room <= 0:
                +     self._shorten(zone, pcp, first + migratetype, free_high=False)
                + elif order and pcp.frees and order <= PAGE_ALLOC_COSTLY_ORDER:
                +     self._shorten(zone, pcp, first + migratetype, free_high=True)
                """,
            ),
        ),
    ),
    "M-195": Mutant(
        "whole pageblocks empty a set after a doubled drain, as small blocks do",
        "vectors",
        (
            edited(
                PageSets,
                "free",
                """
                - elif order and pcp.frees and order <= PAGE_ALLOC_COSTLY_ORDER:
                + elif order and pcp.frees:
                """,
            ),
        ),
    ),
    "M-196": Mutant(
        "a row of blocks empties even a set that holds more than 32 batches",
        "vectors",
        (
            edited(
                PerCpuPages,
                "nr_free",
                """
                - return min(count, batch << PCP_BATCH_SCALE_MAX) if revision.pcp_tunes_high else count
                + return count
                """,
            ),
        ),
    ),
}
