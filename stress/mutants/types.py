"""M-80 .. M-88: migratetypes of v6.10 and later, whose lists go by their pageblocks."""

from __future__ import annotations

from pagealloc.buddy import Buddy
from pagealloc.mobility import Mobility
from pagealloc.pageblock import Pageblocks
from pagealloc.zone import Zone
from stress.mutants.planting import Mutant, edited
from workers.page_reporting import PageReporting

TYPES = {
    "M-80": Mutant(
        "leaves a neighbour's pageblocks as they were when it merges with a block of another type",
        "S6",
        (
            edited(
                Buddy,
                "_merge_pageblocks",
                """
                - if self.revision.list_type_is_block_type:
                -     self.change_pageblock_range(buddy, order, migratetype)
                """,
            ),
        ),
    ),
    "M-80a": Mutant(
        "retypes one pageblock of a neighbour that has several",
        "S1..S5",
        (
            edited(
                Buddy,
                "change_pageblock_range",
                """
                - for block in range(index, index + (1 << order), self.layout.pageblock_nr_pages):
                -     self.set_pageblock_migratetype(block, migratetype)
                + self.set_pageblock_migratetype(index, migratetype)
                """,
            ),
        ),
    ),
    "M-81": Mutant(
        "frees a block larger than a pageblock in one piece, by its first pageblock's type",
        "S2",
        (
            edited(
                Buddy,
                "split_large_buddy",
                """
                - piece_order = min(order, self.whole_order)
                + piece_order = order
                """,
            ),
        ),
    ),
    "M-81a": Mutant(
        "reads the type once for all pieces of a large free",
        "S6",
        (
            edited(
                Buddy,
                "split_large_buddy",
                """
                - for piece in range(index, index + (1 << order), 1 << piece_order):
                -     self.free_one_page(piece, piece_order, self.get_pageblock_migratetype(piece), fpi_flags)
                + migratetype = self.get_pageblock_migratetype(index)
                + for piece in range(index, index + (1 << order), 1 << piece_order):
                +     self.free_one_page(piece, piece_order, migratetype, fpi_flags)
                """,
            ),
        ),
    ),
    "M-81b": Mutant(
        "asks for no report but for the last piece of a large free",
        "S24",
        (
            edited(
                Buddy,
                "split_large_buddy",
                """
                - self.free_one_page(piece, piece_order, self.get_pageblock_migratetype(piece), fpi_flags)
                + last = piece + (1 << piece_order) == index + (1 << order)
                + flags = fpi_flags if last else fpi_flags | FPI_SKIP_REPORT_NOTIFY
                + self.free_one_page(piece, piece_order, self.get_pageblock_migratetype(piece), flags)
                """,
            ),
        ),
    ),
    "M-81c": Mutant(
        "loses the last piece of a large free",
        "S1..S5",
        (
            edited(
                Buddy,
                "split_large_buddy",
                """
                - for piece in range(index, index + (1 << order), 1 << piece_order):
                + behind = index + (1 << order) - (1 << piece_order if piece_order < order else 0)
                + for piece in range(index, behind, 1 << piece_order):
                """,
            ),
        ),
    ),
    "M-82": Mutant(
        "leaves the rest of a pageblock on its old lists when half of it is taken for reporting",
        "S1..S5",
        (
            edited(
                Zone,
                "isolate_free_page",
                """
                - if self.revision.list_type_is_block_type and order < self.layout.pageblock_order:
                -     self.move_freepages_block(block, MIGRATE_MOVABLE)
                - else:
                -     self.set_pageblock_migratetype(block, MIGRATE_MOVABLE)
                + self.set_pageblock_migratetype(block, MIGRATE_MOVABLE)
                """,
            ),
        ),
    ),
    "M-83": Mutant(
        "moves a pageblock's free pages before it decides whether to claim it",
        "vectors",
        (
            edited(
                Mobility,
                "try_to_claim_block",
                """
                - if not claimed:
                -     return -1
                + if not claimed:
                +     self.move_freepages(span, block_type, start_type)
                +     return -1
                """,
            ),
        ),
    ),
    "M-83a": Mutant(
        "claims a pageblock without counting the pages in use that are alike",
        "vectors",
        (
            edited(
                Mobility,
                "try_to_claim_block",
                """
                - claimed = free_pages + alike_pages >= len(span) // 2 or self.mobility_disabled
                + claimed = free_pages >= len(span) // 2 or self.mobility_disabled
                """,
            ),
        ),
    ),
    "M-83b": Mutant(
        "claims a pageblock and takes the block that was found, not the smallest that fits",
        "S1..S5",
        (
            edited(
                Mobility,
                "try_to_claim_block",
                """
                - return self.rmqueue_smallest(order, start_type)
                + return self.rmqueue_smallest(current_order, start_type)
                """,
            ),
        ),
    ),
    "M-83c": Mutant(
        "claims a whole pageblock and leaves its type",
        "S1..S5",
        (
            edited(
                Mobility,
                "try_to_claim_block",
                """
                - self.change_pageblock_range(index, current_order, start_type)
                """,
            ),
        ),
    ),
    "M-83d": Mutant(
        "boosts the marks only when a claim succeeds",
        "vectors",
        (
            edited(
                Mobility,
                "try_to_claim_block",
                """
                - if self.boost_watermark() and alloc_flags & ALLOC_KSWAPD:
                -     self.boosted = True
                  span = self.block_span(index)

                  if not claimed:
                      return -1
                + self.boost_watermark()
                """,
            ),
        ),
    ),
    "M-84": Mutant(
        "puts the rest of a stolen block on the requester's lists",
        "S1..S5",
        (
            edited(
                Mobility,
                "rmqueue_steal",
                """
                - self.expand(index, order, current_order, fallback_type)
                + self.expand(index, order, current_order, start_type)
                """,
            ),
        ),
    ),
    "M-84a": Mutant(
        "tries to claim again for every block of a refill that steals",
        "vectors",
        (
            edited(
                Mobility,
                "rmqueue_foreign",
                """
                - index = -1 if stealing else self.rmqueue_claim(order, migratetype, alloc_flags)
                + index = self.rmqueue_claim(order, migratetype, alloc_flags)
                """,
            ),
        ),
    ),
    "M-84b": Mutant(
        "steals for a request that would rather fail than mix types",
        "vectors",
        (
            edited(
                Mobility,
                "rmqueue_foreign",
                """
                - if alloc_flags & ALLOC_NOFRAGMENT:
                -     return -1, False
                """,
            ),
        ),
    ),
    "M-85": Mutant(
        "withholds a pageblock inside a larger free block and leaves that whole",
        "S1..S5",
        (
            edited(
                Pageblocks,
                "move_freepages_block_isolate",
                """
                - if self.state[head] & KIND_MASK == BUDDY and order > self.pageblock_order:
                + if False:
                """,
            ),
        ),
    ),
    "M-86": Mutant(
        "forgets that free pages of a high-atomic pageblock are taken when they go to the reporter",
        "S16",
        (
            edited(
                Zone,
                "isolate_free_page",
                """
                - if migratetype == MIGRATE_HIGHATOMIC:
                -     self.nr_free_highatomic -= 1 << order
                """,
            ),
        ),
    ),
    "M-86a": Mutant(
        "leaves all of the high-atomic reserve out of what marks are held against, not what is free of it",
        "S16",
        (
            edited(
                Mobility,
                "withheld_highatomic",
                """
                - if self.revision.highatomic_free_withheld:
                -     return self.nr_free_highatomic
                """,
            ),
        ),
    ),
    "M-87": Mutant(
        "reserves a pageblock more than 1 % of the zone for urgent blocks",
        "vectors",
        (
            edited(
                Mobility,
                "reserve_highatomic_pageblock",
                """
                - limit = -(-(self.managed_pages // 100) // pageblock_pages) * pageblock_pages
                + pass
                """,
            ),
        ),
    ),
    "M-88": Mutant(
        "lets every device settle the order anew",
        "vectors",
        (
            edited(
                PageReporting,
                "_effective_order",
                """
                - self._settled_order = order = order if self._settled_order is None else self._settled_order
                + self._settled_order = order
                """,
            ),
        ),
    ),
}
