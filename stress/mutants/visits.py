"""M-28 .. M-43: budget, list order, watermarks and placement of a visit to a list."""

from __future__ import annotations

from pagealloc.free_area import FreeArea
from pagealloc.zone import Zone
from stress.mutants.planting import Mutant, edited
from workers.page_reporting import PageReporting

VISITS = {
    "M-28": Mutant(
        "leaves a list one report call too early: the budget is used up at 0",
        "L2",
        (
            edited(
                PageReporting,
                "cycle",
                """
                - if revision.budget and calls_left < 0:
                + if revision.budget and calls_left <= 0:
                """,
            ),
        ),
    ),
    "M-28a": Mutant(
        "does not count its report calls",
        "S17",
        (
            edited(
                PageReporting,
                "cycle",
                """
                - calls_left -= 1
                """,
            ),
        ),
    ),
    "M-29": Mutant(
        "rounds the budget down",
        "L2",
        (
            edited(
                PageReporting,
                "cycle",
                """
                - calls_left = policy.calls(nr_free, registration.capacity)
                + calls_left = nr_free // (registration.capacity * policy.budget_divisor)
                """,
            ),
        ),
    ),
    "M-30": Mutant(
        "takes the budget from the visited list's length, not from all lists of the order",
        "vectors",
        (
            edited(
                PageReporting,
                "cycle",
                """
                - nr_free = zone.nr_free[order]
                + nr_free = len([*zone.list_pfns(order, migratetype)])
                """,
            ),
        ),
    ),
    "M-31": Mutant(
        "counts the budget in blocks where it is in report calls",
        "vectors",
        (
            edited(
                PageReporting,
                "cycle",
                """
                - calls_left -= 1
                + calls_left -= len(sgl.batch())
                """,
            ),
        ),
    ),
    "M-32": Mutant(
        "leaves a list when the budget is used up without asking for another pass",
        "L1",
        (
            edited(
                PageReporting,
                "cycle",
                """
                - registration.state.store(PAGE_REPORTING_REQUESTED)
                """,
            ),
        ),
    ),
    "M-33": Mutant(
        "leaves a list without turning it to the next block to handle",
        "vectors",
        (
            edited(
                PageReporting,
                "cycle",
                """
                - if revision.rotate and pfn >= 0:
                -     zone.rotate_to_front(pfn, order, migratetype)
                """,
            ),
        ),
    ),
    "M-34": Mutant(
        "turns a list the wrong way: the block becomes its last",
        "S19",
        (
            edited(
                FreeArea,
                "list_rotate_to_front",
                """
                - if next_[anchor] == index:
                + if next_[index] == anchor:

                + index = next_[index]
                  first, last = next_[anchor], prev[anchor]
                """,
            ),
        ),
    ),
    "M-34a": Mutant(
        "moves one block to the front of its list instead of turning the list",
        "S19",
        (
            edited(
                FreeArea,
                "list_rotate_to_front",
                """
                - first, last = next_[anchor], prev[anchor]
                - next_[last] = first
                - prev[first] = last
                - before = prev[index]
                - next_[before] = anchor
                - prev[anchor] = before
                - next_[anchor] = index
                - prev[index] = anchor
                + before, after = prev[index], next_[index]
                + next_[before] = after
                + prev[after] = before
                + self._insert_after(anchor, index)
                """,
            ),
        ),
    ),
    "M-35": Mutant(
        "walks a list from its tail",
        "S19",
        (
            edited(
                Zone,
                "first_in_list",
                """
                - index = self.get_page_from_free_area(order, migratetype)
                - return -1 if index < 0 else self.base_pfn + index
                + return [-1, *self.list_pfns(order, migratetype)][-1]
                """,
            ),
            edited(
                Zone,
                "next_in_list",
                """
                - after = self._next[pfn - self.base_pfn]
                - return -1 if after == self._anchors[order * MIGRATE_TYPES + migratetype] else self.base_pfn + after
                + pfns = [-1, *self.list_pfns(order, migratetype)]
                + return pfns[pfns.index(pfn) - 1]
                """,
            ),
            edited(
                Zone,
                "unreported_from",
                """
                - if pfn < 0:
                -     return -1
                - index = self.next_unreported(order, migratetype, pfn - self.base_pfn)
                - return -1 if index < 0 else self.base_pfn + index
                + while pfn >= 0 and self.page_reported(pfn - self.base_pfn):
                +     pfn = self.next_in_list(pfn, order, migratetype)
                + return pfn
                """,
            ),
        ),
    ),
    "M-36": Mutant(
        "visits the largest blocks first",
        "log",
        (
            edited(
                PageReporting,
                "process_zone",
                """
                - for order in range(registration.order, zone.layout.nr_orders):
                + for order in range(zone.layout.top_order, registration.order - 1, -1):
                """,
            ),
        ),
    ),
    "M-37": Mutant(
        "takes blocks out of ISOLATE pageblocks",
        "S11",
        (
            edited(
                PageReporting,
                "process_zone",
                """
                - if migratetype == MIGRATE_ISOLATE:
                -     continue
                """,
            ),
        ),
    ),
    "M-38": Mutant(
        "skips the high-atomic lists too",
        "vectors",
        (
            edited(
                PageReporting,
                "process_zone",
                """
                - if migratetype == MIGRATE_ISOLATE:
                + if migratetype >= MIGRATE_HIGHATOMIC:
                """,
            ),
        ),
    ),
    "M-39": Mutant(
        "holds a zone to its min mark before a visit, where the low mark is due",
        "S16",
        (
            edited(
                PageReporting,
                "process_zone",
                """
                - watermark = zone.low_wmark_pages() + (registration.capacity << registration.order)
                + watermark = zone.min_wmark_pages() + (registration.capacity << registration.order)
                """,
            ),
        ),
    ),
    "M-39a": Mutant(
        "holds a zone to its low mark without the boost",
        "S16",
        (
            edited(
                PageReporting,
                "process_zone",
                """
                - watermark = zone.low_wmark_pages() + (registration.capacity << registration.order)
                + watermark = zone.watermark[WMARK_LOW] + (registration.capacity << registration.order)
                """,
            ),
        ),
    ),
    "M-39b": Mutant(
        "visits a zone that has exactly the pages it must exceed",
        "S16",
        (
            edited(
                PageReporting,
                "process_zone",
                """
                - visited = usable_pages > watermark
                + visited = usable_pages >= watermark
                """,
            ),
        ),
    ),
    "M-40": Mutant(
        "holds an isolation to the min mark with the boost",
        "S16",
        (
            edited(
                Zone,
                "isolate_free_page",
                """
                - if self.usable_pages() <= self.watermark[WMARK_MIN] + (1 << order):
                + if self.usable_pages() <= self.min_wmark_pages() + (1 << order):
                """,
            ),
        ),
    ),
    "M-40a": Mutant(
        "holds an isolation to the low mark",
        "S16",
        (
            edited(
                Zone,
                "isolate_free_page",
                """
                - if self.usable_pages() <= self.watermark[WMARK_MIN] + (1 << order):
                + if self.usable_pages() <= self.watermark[WMARK_LOW] + (1 << order):
                """,
            ),
        ),
    ),
    "M-40b": Mutant(
        "forgets the block itself when it holds an isolation to the min mark",
        "S16",
        (
            edited(
                Zone,
                "isolate_free_page",
                """
                - if self.usable_pages() <= self.watermark[WMARK_MIN] + (1 << order):
                + if self.usable_pages() <= self.watermark[WMARK_MIN]:
                """,
            ),
        ),
    ),
    "M-41": Mutant(
        "asks for as many spare pages as a batch has blocks",
        "S16",
        (
            edited(
                PageReporting,
                "process_zone",
                """
                - watermark = zone.low_wmark_pages() + (registration.capacity << registration.order)
                + watermark = zone.low_wmark_pages() + registration.capacity
                """,
            ),
        ),
    ),
    "M-42": Mutant(
        "does not turn the pageblock of a large isolated block movable",
        "vectors",
        (
            edited(
                Zone,
                "isolate_free_page",
                """
                  self.state[index] = IN_FLIGHT | order
                + return True
                """,
            ),
        ),
    ),
    "M-42a": Mutant(
        "turns the pageblock of an isolated block movable even if it is high-atomic",
        "vectors",
        (
            edited(
                Zone,
                "isolate_free_page",
                """
                - if self.get_pageblock_migratetype(block) >= MIGRATE_PCPTYPES:
                + if self.get_pageblock_migratetype(block) > MIGRATE_HIGHATOMIC:
                """,
            ),
        ),
    ),
    "M-42b": Mutant(
        "turns the pageblock of an isolated block movable however small the block is",
        "vectors",
        (
            edited(
                Zone,
                "isolate_free_page",
                """
                - if order >= self.layout.pageblock_order - 1:
                + if order > 0:
                """,
            ),
        ),
    ),
    "M-43": Mutant(
        "puts blocks back at the end of the list that the other kernels take",
        "log",
        (
            edited(
                Zone,
                "putback_isolated_page",
                """
                - if self.revision.putback_to_tail:
                + if not self.revision.putback_to_tail:
                """,
            ),
        ),
    ),
}
