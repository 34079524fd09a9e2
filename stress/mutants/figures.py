"""M-110 .. M-149: a figure, or a border, that is a little wrong: in what is free, old, whole, allowed or lost."""

from __future__ import annotations

from pagealloc import memory, ram, watermark
from pagealloc.buddy import Buddy
from pagealloc.marks import Marks
from pagealloc.memory import Memory
from pagealloc.mobility import Mobility
from pagealloc.names import Names
from pagealloc.pageblock import Pageblocks
from pagealloc.ram import Ram
from pagealloc.tracepoints import Buffer
from pagealloc.zone import Zone
from stress.mutants.planting import Mutant, edited
from workers.allocators import Allocator
from workers.page_reporting import PageReporting
from workers.policies import ConstantRate, KeepOnSplit, MinimumAge, QuietRegion
from workers.policy import ReportingPolicy
from workers.reporters import FaultInjector, Sleep

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
    "M-122": Mutant(
        "keeps no block back at the tail whose parent is of the second largest order",
        "log",
        (
            edited(
                Buddy,
                "free_one_page",
                """
                - if order < top_order - 1 and not to_tail:
                + if order < top_order - 2 and not to_tail:
                """,
            ),
        ),
    ),
    "M-123": Mutant(
        "opens the zone Movable to movable requests that may not use high memory",
        "vectors",
        (
            edited(
                memory,
                "gfp_zone",
                """
                - if gfp & GFP_HIGHMEM:
                -     return _MOVABLE if gfp & GFP_MOVABLE else _HIGHMEM
                + if gfp & GFP_MOVABLE:
                +     return _MOVABLE
                + if gfp & GFP_HIGHMEM:
                +     return _HIGHMEM
                """,
            ),
        ),
    ),
    "M-124": Mutant(
        "sets the marks of a zone that keeps a token a quarter of the token apart, not of its share",
        "S16",
        (
            edited(
                memory,
                "setup_per_zone_wmarks",
                """
                - step = max(share // 4, zone.managed_pages * WATERMARK_SCALE_FACTOR // 10_000)
                + step = max(min_pages // 4, zone.managed_pages * WATERMARK_SCALE_FACTOR // 10_000)
                """,
            ),
        ),
    ),
    "M-125": Mutant(
        "keeps pages of a zone back for the zones above it on all nodes",
        "S16",
        (
            edited(
                memory,
                "setup_per_zone_lowmem_reserve",
                """
                - node_pages = {other.name: other.managed_pages for other in zones if other.node == zone.node}
                + node_pages = {other.name: other.managed_pages for other in zones}
                """,
            ),
        ),
    ),
    "M-126": Mutant(
        "lets a zone Movable keep a token before v6.6, too",
        "S16",
        (
            edited(
                watermark,
                "_keeps_a_token",
                """
                - return zone.name == "HighMem" or (zone.name == "Movable" and zone.revision.movable_keeps_token)
                + return zone.name in ("HighMem", "Movable")
                """,
            ),
        ),
    ),
    "M-127": Mutant(
        "counts high memory and the zone Movable as low memory when it sizes what all zones keep",
        "S16",
        (
            edited(
                watermark,
                "_is_lowmem",
                """
                - return zone.name not in ("HighMem", "Movable")
                + return zone.managed_pages > 0
                """,
            ),
        ),
    ),
    "M-128": Mutant(
        "never boosts the marks of a zone of just four pageblocks",
        "vectors",
        (
            edited(
                Mobility,
                "boost_watermark",
                """
                - if pageblock_pages * 4 > self.managed_pages:
                + if pageblock_pages * 4 >= self.managed_pages:
                """,
            ),
        ),
    ),
    "M-129": Mutant(
        "does not count pages on an LRU list as movable that are uptodate",
        "vectors",
        (
            edited(
                Pageblocks,
                "count_block_pages",
                """
                - movable_pages += count(movable, start, stop) + count(movable | UPTODATE, start, stop) << order
                + movable_pages += count(movable, start, stop) << order
                """,
            ),
        ),
    ),
    "M-130": Mutant(
        "retypes a reserved pageblock when another type takes a page of it, before v6.10",
        "vectors",
        (
            edited(
                Mobility,
                "steal_suitable_fallback",
                """
                - if old_type == MIGRATE_HIGHATOMIC:
                + if old_type == MIGRATE_ISOLATE:
                """,
            ),
        ),
    ),
    "M-131": Mutant(
        "takes the pieces of a block that is split off its LRU list",
        "vectors",
        (
            edited(
                Zone,
                "claim_range",
                """
                - kind = self.state[head] & KIND_MASK
                + kind = ALLOCATED
                """,
            ),
        ),
    ),
    "M-132": Mutant(
        "counts the length of a range from the start of the memory when it asks what is resident",
        "vectors",
        (
            edited(
                Ram,
                "_mincore_bytes",
                """
                - length = min(MINCORE_CHUNK_BYTES, offset + nr_bytes - start)
                + length = min(MINCORE_CHUNK_BYTES, max(page, nr_bytes - start))
                """,
            ),
        ),
    ),
    "M-133": Mutant(
        "counts the data of a file on behind the end of the range",
        "vectors",
        (
            edited(
                ram,
                "file_data_bytes",
                """
                - offset = min(end, os.lseek(fd, data, os.SEEK_HOLE))
                + offset = os.lseek(fd, data, os.SEEK_HOLE)
                """,
            ),
        ),
    ),
    "M-134": Mutant(
        "zeroes the first 4 MiB of a block, and nothing behind them",
        "S25",
        (
            edited(
                Ram,
                "zero",
                """
                - for at in range(0, len(view), WRITE_CHUNK_BYTES):
                + for at in range(1):
                """,
            ),
        ),
    ),
    "M-135": Mutant(
        "makes a call more for a list whose blocks are an exact multiple of a call's share",
        "S17",
        (
            edited(
                ReportingPolicy,
                "calls",
                """
                - return -(-nr_free // (capacity * self.budget_divisor))
                + return nr_free // (capacity * self.budget_divisor) + 1
                """,
            ),
        ),
    ),
    "M-136": Mutant(
        "takes the region behind a block for busy that ends at a region's end",
        "vectors",
        (
            edited(
                QuietRegion,
                "_regions",
                """
                - return range(pfn >> self._region_order, (pfn + (1 << order) - 1 >> self._region_order) + 1)
                + return range(pfn >> self._region_order, (pfn + (1 << order) >> self._region_order) + 1)
                """,
            ),
        ),
    ),
    "M-137": Mutant(
        "grants all of a long rest at once to a constant rate, not two intervals",
        "S17",
        (
            edited(
                ConstantRate,
                "grant",
                """
                - granted = min(0.0, self.quota_pages) + min(elapsed_s, 2 * self.interval_s) * self._pages_per_s
                + granted = min(0.0, self.quota_pages) + elapsed_s * self._pages_per_s
                """,
            ),
        ),
    ),
    "M-138": Mutant(
        "lets urgent requests of any order below a boost, not pages alone",
        "S16",
        (
            edited(
                Memory,
                "_zone_watermark_fast",
                """
                - urgent = order == 0 and alloc_flags & ALLOC_MIN_RESERVE and not alloc_flags & ALLOC_WMARK_MASK
                + urgent = alloc_flags & ALLOC_MIN_RESERVE and not alloc_flags & ALLOC_WMARK_MASK
                """,
            ),
        ),
    ),
    "M-139": Mutant(
        "forgets what a first device was told when a second one comes, where pieces are kept",
        "vectors",
        (
            edited(
                KeepOnSplit,
                "registered",
                """
                - for pfn, of_order in reported_blocks(zone):
                -     self.reported(zone, pfn, of_order)
                + pass
                """,
            ),
        ),
    ),
    "M-140": Mutant(
        "sleeps the shortest time on top of up to the longest",
        "vectors",
        (
            edited(
                Sleep,
                "report",
                """
                - self._sync.sleep(self._shortest_s + self._rng.random() * (self._longest_s - self._shortest_s))
                + self._sync.sleep(self._shortest_s + self._rng.random() * self._longest_s)
                """,
            ),
        ),
    ),
    "M-141": Mutant(
        "counts one lost record for each gap in a thread's records, however many are lost there",
        "log",
        (
            edited(
                Buffer,
                "overflow",
                """
                - if not records or records[-1][0] != "lost":
                -     records.append(("lost", now_ns, (0,)))
                - self.lost += 1
                + if not records or records[-1][0] != "lost":
                +     records.append(("lost", now_ns, (0,)))
                +     self.lost += 1
                """,
            ),
        ),
    ),
    "M-142": Mutant(
        "asks a policy for a block before there is room for it, and once more afterwards",
        "vectors",
        (
            edited(
                PageReporting,
                "cycle",
                """
                - if chooses and sgl.offset and (verdict := policy.take(zone, pfn, order)):
                + if chooses and (verdict := policy.take(zone, pfn, order)):
                """,
            ),
        ),
    ),
}
