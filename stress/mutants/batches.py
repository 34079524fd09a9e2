"""M-19 .. M-27: the scatterlist's bookkeeping."""

from __future__ import annotations

from stress.mutants.planting import Mutant, edited
from workers.page_reporting import PageReporting
from workers.scatterlist import Scatterlist

BATCHES = {
    "M-19": Mutant(
        "fills the scatterlist from its first entry on, and reports from `offset` on",
        "S15",
        (
            edited(
                Scatterlist,
                "add",
                """
                - self.entries[self.offset] = pfn, order
                + self.entries[-1 - self.offset] = pfn, order
                """,
            ),
        ),
    ),
    "M-20": Mutant(
        "does not report what is left over at a zone's end",
        "S15",
        (
            edited(
                PageReporting,
                "process_zone",
                """
                - if not sgl.batch():
                -     return None
                + return None
                """,
            ),
        ),
    ),
    "M-21": Mutant(
        "reports what is left over only if the scatterlist is not quite full",
        "S15",
        (
            edited(
                PageReporting,
                "process_zone",
                """
                - if not sgl.batch():
                + if not sgl.batch() or not sgl.offset:
                """,
            ),
        ),
    ),
    "M-22": Mutant(
        "carries what is left over to the next zone",
        "S15",
        (
            edited(
                PageReporting,
                "process_zone",
                """
                - if not sgl.batch():
                + if not sgl.batch() or zone is not self.zones[-1]:
                """,
            ),
        ),
    ),
    "M-23": Mutant(
        "reports the whole scatterlist at a zone's end, with entries of batches before",
        "S11",
        (
            edited(
                Scatterlist,
                "batch",
                """
                - return self.entries[self.offset :]
                + return [entry for entry in self.entries if entry[0] >= 0]
                """,
            ),
            edited(
                Scatterlist,
                "reset",
                """
                - self.entries[:] = [NO_ENTRY] * self.offset
                """,
            ),
        ),
    ),
    "M-24": Mutant(
        "does not make the scatterlist ready again once its blocks are back",
        "S11",
        (
            edited(
                Scatterlist,
                "reset",
                """
                - self.offset = len(self.entries)
                + self.offset = 0
                """,
            ),
        ),
    ),
    "M-25": Mutant(
        "puts a batch's blocks back last entry first",
        "vectors",
        (
            edited(
                PageReporting,
                "drain",
                """
                - for pfn, order in sgl.batch():
                + for pfn, order in reversed(sgl.batch()):
                """,
            ),
        ),
    ),
    "M-25a": Mutant(
        "hands a batch over in the order in which its blocks were isolated",
        "log",
        (
            edited(
                PageReporting,
                "_report",
                """
                - batch = tuple([self._block(zone, pfn, order) for pfn, order in blocks])
                + batch = tuple([self._block(zone, pfn, order) for pfn, order in blocks[::-1]])
                """,
            ),
        ),
    ),
    "M-26": Mutant(
        "forgets to put the batch back",
        "L4",
        (
            edited(
                PageReporting,
                "drain",
                """
                + sgl.reset()
                  for pfn, order in sgl.batch():
                """,
            ),
        ),
    ),
    "M-26a": Mutant(
        "forgets to put the batch back when its report failed",
        "L4",
        (
            edited(
                PageReporting,
                "drain",
                """
                + if not reported:
                +     sgl.reset()
                  for pfn, order in sgl.batch():
                """,
            ),
        ),
    ),
    "M-27": Mutant(
        "rounds the budget up with a mask, which is wrong for a capacity that is no power of two",
        "vectors",
        (
            edited(
                PageReporting,
                "cycle",
                """
                - calls_left = policy.calls(nr_free, registration.capacity)
                + unit = registration.capacity * policy.budget_divisor
                + calls_left = ((nr_free + unit - 1) & ~(unit - 1)) // unit
                """,
            ),
        ),
    ),
}
