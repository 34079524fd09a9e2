"""M-110 .. M-149: a figure, or a border, that is a little wrong: in what is free, old, whole, allowed or lost."""

from __future__ import annotations

from pagealloc.buddy import Buddy
from pagealloc.marks import Marks
from pagealloc.memory import Memory
from pagealloc.mobility import Mobility
from pagealloc.names import Names
from pagealloc.pageblock import Pageblocks
from pagealloc.zone import Zone
from stress.mutants.planting import Mutant, edited
from workers.allocators import Allocator
from workers.page_reporting import PageReporting
from workers.policies import MinimumAge
from workers.reporters import FaultInjector

FIGURES = {
    "M-110": Mutant(
        "takes the age of a block from its first free, not from its last (policy age)",
        "vectors",
        (
            edited(
                MinimumAge,
                "freed",
                """
                - self._since_s[pfn] = self.reporting.now_s()
                + self._since_s.setdefault(pfn, self.reporting.now_s())
                """,
            ),
        ),
    ),
    "M-111": Mutant(
        "counts a batch as handed over whose completion was lost, once somebody releases it",
        "S14",
        (
            edited(
                FaultInjector,
                "report",
                """
                - if lost:
                -     self._released.wait()
                -     raise InjectedError(f"the lost completion of a batch of {len(batch)} was released")
                + if lost:
                +     self._released.wait()
                """,
            ),
        ),
    ),
    "M-112": Mutant(
        "takes what an allocator thread frees for others off what it holds itself",
        "witness",
        (
            edited(
                Allocator,
                "empty_inbox",
                """
                - self._check_and_free(inbox.popleft())
                + self._free(inbox.popleft())
                """,
            ),
        ),
    ),
    "M-113": Mutant(
        "takes a block that begins in a zone and ends in the next one for one of the zone",
        "S2",
        (
            edited(
                Names,
                "check_range",
                """
                - if not (self.start_pfn <= pfn and pfn + (1 << order) <= self.end_pfn):
                + if not self.start_pfn <= pfn < self.end_pfn:
                """,
            ),
        ),
    ),
    "M-114": Mutant(
        "looks for a block of the child's order where the buddy of a parent in the zone below would be",
        "vectors",
        (
            edited(
                Buddy,
                "free_one_page",
                """
                - to_tail = self._merge_likely_below(parent, order + 1)
                + to_tail = self._merge_likely_below(parent, order)
                """,
            ),
        ),
    ),
    "M-115": Mutant(
        "takes the last whole pageblock of a zone for one that the zone's end cuts off",
        "vectors",
        (
            edited(
                Pageblocks,
                "block_span",
                """
                - if self.base_pfn + end > self.end_pfn:
                + if self.base_pfn + end >= self.end_pfn:
                """,
            ),
        ),
    ),
    "M-116": Mutant(
        "lets a pageblock that the zone's end cuts off keep its type before v6.10, too",
        "vectors",
        (
            edited(
                Pageblocks,
                "move_freepages_block",
                """
                - if span is None and self.revision.list_type_is_block_type:
                + if span is None:
                """,
            ),
        ),
    ),
    "M-117": Mutant(
        "lets the watermark check of any request pass for a block that only urgent ones may have",
        "S16",
        (
            edited(
                Marks,
                "_has_block",
                """
                - for anchor in self._anchors[at : at + MIGRATE_PCPTYPES]:
                + for anchor in self._anchors[at : at + MIGRATE_HIGHATOMIC + 1]:
                """,
            ),
        ),
    ),
    "M-118": Mutant(
        "keeps types apart on a node without DMA32, too",
        "vectors",
        (
            edited(
                Memory,
                "_alloc_flags_nofragment",
                """
                - if len(self._nodes) > 1 and (node, "DMA32") not in [(zone.node, zone.name) for zone in zonelist]:
                + if node not in self._nodes:
                """,
            ),
        ),
    ),
    "M-118a": Mutant(
        "keeps types apart on a node without DMA32, if another node has one",
        "vectors",
        (
            edited(
                Memory,
                "_alloc_flags_nofragment",
                """
                - if len(self._nodes) > 1 and (node, "DMA32") not in [(zone.node, zone.name) for zone in zonelist]:
                + if len(self._nodes) > 1 and "DMA32" not in [zone.name for zone in zonelist]:
                """,
            ),
        ),
    ),
    "M-119": Mutant(
        "counts free pages of the reserve when it looks whether a block may go to the reporter",
        "S16",
        (
            edited(
                Zone,
                "isolate_free_page",
                """
                - if self.usable_pages() <= self.watermark[WMARK_MIN] + (1 << order):
                + if self.nr_free_pages <= self.watermark[WMARK_MIN] + (1 << order):
                """,
            ),
        ),
    ),
    "M-120": Mutant(
        "gives a whole pageblock to a larger request that would rather fail than mix types",
        "S2",
        (
            edited(
                Mobility,
                "rmqueue_claim",
                """
                - if order < layout.pageblock_order and alloc_flags & ALLOC_NOFRAGMENT:
                + if alloc_flags & ALLOC_NOFRAGMENT:
                """,
            ),
        ),
    ),
    "M-121": Mutant(
        "lets a device have one order more than there are",
        "vectors",
        (
            edited(
                PageReporting,
                "_effective_order",
                """
                - if not 0 <= order < layout.nr_orders:
                + if not 0 <= order <= layout.nr_orders:
                """,
            ),
        ),
    ),
}
