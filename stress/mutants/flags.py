"""M-1 .. M-9: Reported on blocks that the device was not told about, or off where it was."""

from __future__ import annotations

from pagealloc.buddy import Buddy
from pagealloc.free_area import FreeArea
from pagealloc.zone import Zone
from stress.mutants.planting import Mutant, edited
from workers.page_reporting import PageReporting

FLAGS = {
    "M-1": Mutant(
        "sets Reported after putback without looking whether the block merged",
        "S13",
        (
            edited(
                PageReporting,
                "drain",
                """
                - if reported and zone.page_is_buddy(pfn, order):
                -     zone.set_reported(pfn)
                + if reported:
                +     zone.state[pfn - zone.base_pfn] |= REPORTED
                +     zone.nr_reported[zone.state[pfn - zone.base_pfn] & ORDER_MASK] += 1
                """,
            ),
        ),
    ),
    "M-2": Mutant(
        "sets Reported if the block is Buddy after putback, of whatever order",
        "S13",
        (
            edited(
                PageReporting,
                "drain",
                """
                - if reported and zone.page_is_buddy(pfn, order):
                + if reported and zone.state[pfn - zone.base_pfn] & KIND_MASK == BUDDY:
                """,
            ),
        ),
    ),
    "M-3": Mutant(
        "sets Reported although the report failed",
        "S14",
        (
            edited(
                PageReporting,
                "drain",
                """
                - if reported and zone.page_is_buddy(pfn, order):
                + if zone.page_is_buddy(pfn, order):
                """,
            ),
        ),
    ),
    "M-4": Mutant(
        "clears Buddy before it looks whether Reported has to be cleared too",
        "S1..S5",
        (
            edited(
                FreeArea,
                "del_page_from_free_list",
                """
                + state[index] = TAIL
                  if state[index] & REPORTED:
                """,
            ),
        ),
    ),
    "M-5a": Mutant(
        "does not clear Reported on a block that merges with one being freed",
        "S1..S5",
        (
            edited(
                Buddy,
                "free_one_page",
                """
                + reported = state[buddy] & REPORTED
                  self.del_page_from_free_list(buddy, order)

                + state[buddy] |= reported
                  index &= buddy
                """,
            ),
        ),
    ),
    "M-5b": Mutant(
        "does not clear Reported on a block that is split",
        "S25",
        (
            edited(
                Buddy,
                "rmqueue_smallest",
                """
                + reported = state[index] & REPORTED
                  if state[index] & REPORTED:

                + if current_order > order:
                +     state[index] |= reported
                  return index
                """,
            ),
            edited(
                Zone,
                "rmqueue_buddy",
                """
                - self.state[index] = ALLOCATED | order
                + self.state[index] = self.state[index] & REPORTED | ALLOCATED | order
                """,
            ),
        ),
    ),
    "M-5c": Mutant(
        "does not clear Reported on a block that is allocated whole",
        "S25",
        (
            edited(
                Buddy,
                "rmqueue_smallest",
                """
                + reported = state[index] & REPORTED
                  if state[index] & REPORTED:

                + if current_order == order:
                +     state[index] |= reported
                  return index
                """,
            ),
            edited(
                Zone,
                "rmqueue_buddy",
                """
                - self.state[index] = ALLOCATED | order
                + self.state[index] = self.state[index] & REPORTED | ALLOCATED | order
                """,
            ),
        ),
    ),
    "M-5d": Mutant(
        "does not clear Reported on a block that is isolated",
        "S1..S5",
        (
            edited(
                Zone,
                "isolate_free_page",
                """
                + reported = self.state[index] & REPORTED
                  self.del_page_from_free_list(index, order)

                - self.state[index] = IN_FLIGHT | order
                + self.state[index] = IN_FLIGHT | order | reported
                """,
            ),
        ),
    ),
    "M-6": Mutant(
        "makes the pieces of a split block Reported because the whole was",
        "S13",
        (
            edited(
                Buddy,
                "rmqueue_smallest",
                """
                + reported = self.page_reported(index)
                  if state[index] & REPORTED:

                + if reported:
                +     for piece in range(order, current_order):
                +         self.set_page_reported(index + (1 << piece))
                  return index
                """,
            ),
        ),
    ),
    "M-7": Mutant(
        "does not scrub Uptodate, the alias of Reported, from a page that is freed",
        "S13",
        (
            edited(
                Zone,
                "free_pages_ok",
                """
                + uptodate = self.state[index] & UPTODATE
                  self.state[index] = TAIL  # scrubs Uptodate, which would read as Reported once the page is Buddy

                + if uptodate and self.state[index] & KIND_MASK == BUDDY:
                +     self.set_page_reported(index)
                  lock.inside = False
                """,
            ),
        ),
    ),
    "M-8": Mutant(
        "clears Reported when a block moves to another migratetype's list",
        "S18",
        (
            edited(
                FreeArea,
                "move_to_free_list",
                """
                + if self.state[index] & REPORTED:
                +     self.state[index] &= ~REPORTED
                +     self.nr_reported[order] -= 1
                  next_, prev = self._next, self._prev
                """,
            ),
        ),
    ),
    "M-9": Mutant(
        "sets Reported on a frame inside the block instead of on its head",
        "S1..S5",
        (
            edited(
                FreeArea,
                "set_page_reported",
                """
                - self.state[index] |= REPORTED
                + self.state[index + 1] |= REPORTED
                """,
            ),
        ),
    ),
}
