"""A zone: free lists behind one lock, with watermarks, and the entries that other parts call.

Two kinds of methods. Those that say *takes the zone lock* are for everybody. The others expect the caller
to hold it, as `mm/page_reporting.c` does while it pulls blocks off the lists. All of them speak in page
frame numbers; below this floor pages are indices (see `free_area`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Self

from pagealloc.errors import (
    BadPage,
    CorruptPageSet,
    NotAllocated,
    NotInFlight,
    ZoneBusy,
)
from pagealloc.mmzone import (
    ALLOC_HIGHATOMIC_LISTS,
    FPI_SKIP_REPORT_NOTIFY,
    FPI_TO_TAIL,
    MIGRATE_HIGHATOMIC,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    MIGRATE_PCPTYPES,
    MIGRATE_TYPES,
    WMARK_MIN,
    Layout,
)
from pagealloc.names import Names
from pagealloc.page_flags import (
    ALLOCATED,
    IN_FLIGHT,
    KIND_MASK,
    LRU,
    ON_PAGE_SET,
    OWNED_MASK,
    TAIL,
)
from pagealloc.ram import Ram
from pagealloc.revision import Revision
from pagealloc.sync import Lock, Sync
from pagealloc.zone_lock import ZoneLock, whole


class Zone(Names):
    """Pages `start_pfn` .. `end_pfn` - 1 of one kind of memory.

    Built empty: `memblock_free_all` puts the pages on the lists, once.
    """

    __slots__ = (
        "below_high",
        "lock",
        "node",
        "number",
        "ram",
    )

    def __init__(
        self,
        name: str,
        start_pfn: int,
        nr_pages: int,
        *,
        layout: Layout,
        revision: Revision,
        sync: Sync,
        zones_below: Sequence[Zone] = (),
        node: int = 0,
        watermark_boost_factor: int = 0,
    ) -> None:
        super().__init__(start_pfn, nr_pages, layout, revision, zones_below, watermark_boost_factor)
        self.name = name
        self.node = node
        self.number = len(zones_below)  # position among the memory's zones
        self.use_lock(sync.spinlock(f"zone->lock {name}"))
        self.ram: Ram | None = None
        self.below_high = False  # an allocation found less than the high mark (ZONE_BELOW_HIGH)

    def twin(self, sync: Sync, zones_below: tuple[Zone, ...]) -> Self:
        """Return a zone in the same state, with a lock of its own from `sync`; nobody changes this one meanwhile."""
        twin = object.__new__(type(self))
        twin.become_twin_of(self)
        twin.name, twin.node, twin.number = self.name, self.node, self.number
        twin.below_high = self.below_high
        twin.ram = self.ram
        twin.zones_below = zones_below
        twin.use_lock(sync.spinlock(f"zone->lock {self.name}"))
        return twin

    def use_lock(self, lock: Lock) -> None:
        """Make this the zone lock, before anybody uses the zone."""
        self.lock = ZoneLock(lock, self.name)

    @property
    def label(self) -> str:
        """The zone's name, with its node unless that is node 0."""
        return self.name if self.node == 0 else f"{self.node}:{self.name}"

    def __repr__(self) -> str:
        return f"<Zone {self.label} pfn {self.start_pfn:#x}..{self.end_pfn - 1:#x} free={self.nr_free_pages}>"

    # -- boot ----------------------------------------------------------------------------------------

    @whole
    def memblock_free_all(self) -> None:
        """Free every page of the zone in the largest aligned pieces, rising. Takes the zone lock."""
        fpi_flags = FPI_TO_TAIL if self.revision.boot_to_tail else 0
        top_order = self.layout.top_order
        with self.lock:
            pfn = self.start_pfn
            while pfn < self.end_pfn:
                alignment = (pfn & -pfn).bit_length() - 1 if pfn else top_order
                order = min(top_order, alignment, (self.end_pfn - pfn).bit_length() - 1)
                self.split_large_buddy(pfn - self.base_pfn, order, fpi_flags)
                pfn += 1 << order

    # -- allocating and freeing ----------------------------------------------------------------------

    def rmqueue_buddy(self, order: int, migratetype: int, alloc_flags: int = 0) -> int:
        """Allocate a block past the page sets; returns its pfn, or -1. Takes the zone lock."""
        lock = self.lock
        entered, pfn = False, -1
        try:
            lock.take(lock.may_wait) or lock.raw.acquire()
            if lock.inside:
                lock.turn_away()
                return -1
            entered = lock.inside = True
            if alloc_flags & ALLOC_HIGHATOMIC_LISTS:
                pfn = self.rmqueue_with_reserve(order, migratetype, alloc_flags)
            else:
                index = self.rmqueue_smallest(order, migratetype)
                if index < 0:
                    index = self.rmqueue(order, migratetype, alloc_flags)
                if index >= 0:
                    self.nr_free_pages -= 1 << order
                    self.state[index] = ALLOCATED | order
                    pfn = self.base_pfn + index
            lock.inside = False
            lock.give()
        except BaseException as error:
            try:
                lock.abandon(error, entered=entered)
            finally:
                lock.abandon(error, entered=entered)  # a second one may have come into the first
            if pfn >= 0 and lock.refusal is None:
                self.free_pages_ok(pfn, order)  # nobody was told of it
            raise
        return pfn

    @whole
    def reserve_highatomic(self, pfn: int, order: int) -> None:
        """Keep the pageblocks of a fresh high-atomic allocation for the next one. Takes the zone lock."""
        with suppress(ZoneBusy), self.lock:
            self.reserve_highatomic_pageblock(pfn - self.base_pfn, order)

    @whole
    def unreserve_highatomic(self, migratetype: int, *, force: bool = True) -> bool:
        """Give one reserved pageblock back; False if none has free pages. Takes the zone lock.

        Without `force` the last reserved pageblock stays one.
        """
        with suppress(ZoneBusy), self.lock:
            return self.unreserve_highatomic_pageblock(migratetype, force=force)
        return False

    def rmqueue_bulk(self, order: int, migratetype: int, count: int, alloc_flags: int) -> list[int]:
        """Take up to `count` blocks for a page set under one hold; returns their pfns. Takes the zone lock."""
        taken: list[int] = []
        stealing = False
        lock = self.lock
        entered = False
        try:
            lock.take(lock.may_wait) or lock.raw.acquire()
            if lock.inside:
                lock.turn_away()
                return taken
            entered = lock.inside = True
            for _ in range(count):
                index = -1 if stealing else self.rmqueue_smallest(order, migratetype)
                if index < 0:
                    index, stealing = self.rmqueue_foreign(order, migratetype, alloc_flags, stealing=stealing)
                    if index < 0:
                        break
                self.nr_free_pages -= 1 << order
                self.state[index] = ON_PAGE_SET | order
                taken.append(self.base_pfn + index)
            lock.release()
        except BaseException as error:
            try:
                lock.abandon(error, entered=entered)
            finally:
                lock.abandon(error, entered=entered)  # a second one may have come into the first
            raise
        return taken

    def free_pages_ok(self, pfn: int, order: int, fpi_flags: int = 0) -> None:
        """Free an allocated block past the page sets. Takes the zone lock.

        Raises BadPage, and changes nothing, unless exactly this block is allocated here.
        """
        # No state equals that of an order below 0, so only the index has to be one, and the block a whole one.
        if not self.start_pfn <= pfn < self.end_pfn or order > self.whole_order:
            self.check_range(pfn, order)
            self._free_in_pieces(pfn, order, fpi_flags)
            return
        index = pfn - self.base_pfn
        lock = self.lock
        entered = False
        try:
            lock.take(lock.may_wait) or lock.raw.acquire()
            if self.state[index] & OWNED_MASK != ALLOCATED | order:
                self.check_range(pfn, order)
                raise self.bad_free(pfn, order)
            if lock.inside:
                lock.turn_away()
                self.state[index] = ON_PAGE_SET | order
                self.leave(pfn, order)
                return
            entered = lock.inside = True
            self.state[index] = TAIL  # scrubs Uptodate, which would read as Reported once the page is Buddy
            self.free_one_page(index, order, self.pageblock_types[index >> self.pageblock_order], fpi_flags)
            lock.inside = False
            lock.give()
        except BaseException as error:
            try:
                lock.abandon(error, entered=entered)
            finally:
                lock.abandon(error, entered=entered)  # a second one may have come into the first
            raise

    @whole
    def _free_in_pieces(self, pfn: int, order: int, fpi_flags: int) -> None:
        """Free an allocated block that is larger than what is freed in one piece. Takes the zone lock."""
        index = pfn - self.base_pfn
        if self.state[index] & OWNED_MASK != ALLOCATED | order:
            raise self.bad_free(pfn, order)
        try:
            with self.lock:
                if self.state[index] & OWNED_MASK != ALLOCATED | order:
                    raise self.bad_free(pfn, order)
                self.state[index] = TAIL
                self.split_large_buddy(index, order, fpi_flags)
        except ZoneBusy:
            self.state[index] = ON_PAGE_SET | order
            self.leave(pfn, order)

    def free_pcppages_bulk(self, blocks: Sequence[tuple[int, int, int]]) -> None:
        """Return blocks from a page set to the lists under one hold. Takes the zone lock.

        A block is (pfn, order, migratetype of its list, or -1 for several). It goes to the lists of its pageblock's
        type at this moment; kernels before 6.7 remember the type from the free while nothing is isolated. Raises
        CorruptPageSet, when all others are back, for a block that was not resting: two threads freed it at the
        same time.
        """
        corrupt: BadPage | None = None
        lock = self.lock
        entered = False
        try:
            lock.take(lock.may_wait) or lock.raw.acquire()
            if lock.inside:
                lock.turn_away()
                for pfn, order, _ in blocks:
                    self.leave(pfn, order)
                return
            entered = lock.inside = True
            corrupt = self._free_resting(blocks)
            lock.release()
        except BaseException as error:
            try:
                lock.abandon(error, entered=entered)
            finally:
                lock.abandon(error, entered=entered)  # a second one may have come into the first
            raise
        if corrupt is not None:
            raise corrupt

    def _free_resting(self, blocks: Sequence[tuple[int, int, int]]) -> BadPage | None:
        corrupt: BadPage | None = None
        trace = self.trace
        remembers = self.revision.pcp_remembers_type and not self.nr_isolate_pageblock
        for pfn, order, freed_as in blocks:
            index = pfn - self.base_pfn
            if self.state[index] != ON_PAGE_SET | order:
                corrupt = CorruptPageSet(pfn, order, self.describe_page(pfn), "free on a page set")
                continue
            self.state[index] = TAIL
            migratetype = self.get_pageblock_migratetype(index)
            if remembers and freed_as >= 0 and migratetype < MIGRATE_PCPTYPES:
                migratetype = freed_as  # a reserved pageblock's pages rest with the movable ones
            self.free_one_page(index, order, migratetype, 0)
            if trace is not None:
                trace("mm_page_pcpu_drain", pfn, order, migratetype)
        return corrupt

    def leave(self, pfn: int, order: int) -> None:
        """Leave a block for the operation of this thread that is under way, which frees it on its way out."""
        self.lock.give = self._free_left_and_give  # or each operation had to look at the list
        self.lock.left.append((pfn, order))  # last: what is on the list is seen to, whatever comes in between

    def _free_left_and_give(self) -> None:
        lock = self.lock
        lock.inside, lock.give = True, lock.raw.release
        self._free_left()
        lock.inside = False
        lock.give()

    @whole
    def free_left(self) -> None:
        """Free the blocks that finalizers and signal handlers left, see `zone_lock`. Takes the zone lock."""
        if self.lock.left:
            with suppress(ZoneBusy), self.lock:
                self._free_left()

    def _free_left(self) -> None:
        while self.lock.left:
            pfn, order = self.lock.left.popleft()
            if order <= self.whole_order:
                self._free_resting([(pfn, order, -1)])
            else:
                self.state[pfn - self.base_pfn] = TAIL
                self.split_large_buddy(pfn - self.base_pfn, order, 0)

    def nr_left_pages(self) -> int:
        """Return the pages of blocks that wait for the next operation, at about this moment."""
        return sum([1 << order for _, order in self.lock.left.copy()])

    # -- what becomes of allocated blocks --------------------------------------------------------------

    @whole
    def lru_add(self, pfn: int) -> None:
        """Mark an allocated block as being on an LRU list until it is freed. Takes the zone lock."""
        self.check_range(pfn, 0)
        index = pfn - self.base_pfn
        with self.lock:
            state = self.state[index]
            if state & KIND_MASK not in (ALLOCATED, LRU):
                raise NotAllocated(pfn, 0, self.describe_page(pfn), "the head of an allocated block")
            self.state[index] = state & ~KIND_MASK | LRU

    @whole
    def claim_range(self, pfn: int, order: int) -> None:
        """Make one allocated block of a range that is allocated already. Takes the zone lock.

        A larger block is split around the range (`split_page`); smaller ones inside it become one. For
        callers that free part of an allocation, or several at once. Raises BadPage, and changes nothing,
        unless the whole range is allocated.
        """
        self.check_range(pfn, order)
        index = pfn - self.base_pfn
        with self.lock:
            heads = self._allocated_heads(index, order)
            if heads is None:
                raise self.bad_free(pfn, order)
            head, head_order = heads[0]
            kind = self.state[head] & KIND_MASK
            for inner, _ in heads:
                self.state[inner] = TAIL
            while head_order > order:
                head_order -= 1
                half = 1 << head_order
                if index & half:
                    self.state[head] = kind | head_order
                    head += half
                else:
                    self.state[head + half] = kind | head_order
            self.state[index] = kind | order
            trace = self.trace
            if trace is not None:
                trace("split_page", pfn, order)

    def _allocated_heads(self, index: int, order: int) -> list[tuple[int, int]] | None:
        """List (head, order) of the allocated blocks that cover a range; None if they do not."""
        heads = []
        at, end = index, index + (1 << order)
        while at < end:
            head, head_order = self.block_of(at)
            if head < 0 or self.state[head] & KIND_MASK not in (ALLOCATED, LRU):
                return None
            heads.append((head, head_order))
            at = head + (1 << head_order)
        return heads

    # -- pulling blocks off the lists and putting them back; the caller holds the lock -----------------

    def isolate_free_page(self, pfn: int, order: int) -> bool:
        """Take a free block off its list for the reporter (`__isolate_free_page`).

        Refused, with nothing changed, when fewer than the raw min watermark + 2**order pages would stay:
        the block is held to the mark as if it were allocated (S16). A block of half a pageblock or more
        turns its pageblocks movable, for the caller may do with it what it likes; since v6.10 the rest of the
        pageblock goes to the movable lists with it, and a pageblock that the zone's border cuts off stays as it is.
        """
        index = pfn - self.base_pfn
        trace = self.trace
        migratetype = self.get_pageblock_migratetype(index)
        if migratetype != MIGRATE_ISOLATE:
            if self.usable_pages() <= self.watermark[WMARK_MIN] + (1 << order):
                if trace is not None:
                    trace("page_reporting_refused", pfn, order, self.usable_pages())
                return False
            self.nr_free_pages -= 1 << order
        if migratetype == MIGRATE_HIGHATOMIC:
            self.nr_free_highatomic -= 1 << order
        self.del_page_from_free_list(index, order)
        self.state[index] = IN_FLIGHT | order
        if trace is not None:
            free_pages, usable_pages = self.nr_free_pages, self.usable_pages()
            trace("page_reporting_isolate", pfn, order, migratetype, free_pages, usable_pages)

        if order >= self.layout.pageblock_order - 1:
            # The last frame is left out, so a block of one page changes nothing; the kernel's loop too.
            for block in range(index, index + (1 << order) - 1, self.layout.pageblock_nr_pages):
                if self.get_pageblock_migratetype(block) >= MIGRATE_PCPTYPES:
                    continue
                # Of a pageblock that is in flight as a whole nothing is left to move, and its walk is long.
                if self.revision.list_type_is_block_type and order < self.layout.pageblock_order:
                    self.move_freepages_block(block, MIGRATE_MOVABLE)
                else:
                    self.set_pageblock_migratetype(block, MIGRATE_MOVABLE)
        return True

    def putback_isolated_page(self, pfn: int, order: int, migratetype: int) -> None:
        """Return an isolated block to the lists without asking for a report (`__putback_isolated_page`)."""
        index = pfn - self.base_pfn
        if self.state[index] != IN_FLIGHT | order:
            raise NotInFlight(pfn, order, self.describe_page(pfn), f"a block of order {order} in flight")
        self.state[index] = TAIL
        fpi_flags = FPI_SKIP_REPORT_NOTIFY
        if self.revision.putback_to_tail:
            fpi_flags |= FPI_TO_TAIL
        self.free_one_page(index, order, migratetype, fpi_flags)

    def pageblock_migratetype(self, pfn: int) -> int:
        return self.get_pageblock_migratetype(pfn - self.base_pfn)

    def block_state(self, pfn: int) -> int:
        """Return the state byte of the frame at `pfn` (`page_flags`)."""
        return self.state[pfn - self.base_pfn]

    def set_block_state(self, pfn: int, state: int) -> None:
        """Say what the block at `pfn` is, for an instrument that plays the part of the free lists."""
        self.state[pfn - self.base_pfn] = state

    def page_is_buddy(self, pfn: int, order: int) -> bool:
        """Whether a free block of exactly this order begins at `pfn`."""
        return self.is_buddy(pfn - self.base_pfn, order)

    def is_reported(self, pfn: int) -> bool:
        """Whether a free block that the host was told about begins here."""
        return self.page_reported(pfn - self.base_pfn)

    def set_reported(self, pfn: int) -> None:
        self.set_page_reported(pfn - self.base_pfn)

    def first_in_list(self, order: int, migratetype: int) -> int:
        """Return the pfn of the list's first block, or -1."""
        index = self.get_page_from_free_area(order, migratetype)
        return -1 if index < 0 else self.base_pfn + index

    def next_in_list(self, pfn: int, order: int, migratetype: int) -> int:
        """Return the pfn of the block behind the one at `pfn`, or -1 at the list's end."""
        after = self._next[pfn - self.base_pfn]
        return -1 if after == self._anchors[order * MIGRATE_TYPES + migratetype] else self.base_pfn + after

    def unreported_from(self, pfn: int, order: int, migratetype: int) -> int:
        """Return `pfn` or the first block behind it that is not Reported, or -1; -1 for a `pfn` of -1."""
        if pfn < 0:
            return -1
        index = self.next_unreported(order, migratetype, pfn - self.base_pfn)
        return -1 if index < 0 else self.base_pfn + index

    def rotate_to_front(self, pfn: int, order: int, migratetype: int) -> None:
        """Turn the list so that the block at `pfn` is its first."""
        self.list_rotate_to_front(order, migratetype, pfn - self.base_pfn)

    # -- whole pageblocks ------------------------------------------------------------------------------

    @whole
    def isolate_pageblock(self, pfn: int) -> bool:
        """Withhold the pageblock that begins at `pfn`; False if it is already. Takes the zone lock."""
        with self.lock:
            return self.set_migratetype_isolate(pfn - self.base_pfn)

    @whole
    def unisolate_pageblock(self, pfn: int, migratetype: int) -> bool:
        """Give a withheld pageblock back as `migratetype`; False if it was not withheld. Takes the zone lock.

        A free block that stayed unmerged beside a withheld one is taken out and put back, so that it merges
        now (`unset_migratetype_isolate`).
        """
        index = pfn - self.base_pfn
        with self.lock:
            if self.get_pageblock_migratetype(index) != MIGRATE_ISOLATE:
                return False
            trace = self.trace
            if trace is not None:
                trace("unset_migratetype_isolate", pfn, migratetype)
            order = self.order_to_merge(index)
            if order >= 0:
                self.isolate_free_page(pfn, order)  # never refused: marks do not apply to a withheld page
                self.set_pageblock_migratetype(index, migratetype)
                self.putback_isolated_page(pfn, order, migratetype)
            else:
                self.move_freepages_block_isolate(index, migratetype)
            self.nr_isolate_pageblock -= 1
            return True

    @whole
    def set_block_type(self, pfn: int, migratetype: int, *, move: bool) -> int:
        """Retag the pageblock that holds `pfn`, and move its free pages along; returns the pages moved.

        Takes the zone lock.
        """
        index = pfn - self.base_pfn
        with self.lock:
            if move:
                return max(0, self.move_freepages_block_isolate(index, migratetype))
            self.set_pageblock_migratetype(index, migratetype)
            return 0

    @whole
    def set_watermarks(self, min_pages: int, low_pages: int, high_pages: int) -> None:
        """Set the three marks, in pages, without the boost. Takes the zone lock."""
        with self.lock:
            self.watermark = [min_pages, low_pages, high_pages]
            self.marks_changed()
            trace = self.trace
            if trace is not None:
                trace("set_watermarks", min_pages, low_pages, high_pages)

    @whole
    def set_watermark_boost(self, pages: int) -> None:
        """Raise all marks by so many pages, or take the boost back with 0. Takes the zone lock."""
        with self.lock:
            self.watermark_boost = pages
            self.marks_changed()

    @whole
    def wakeup_kswapd(self) -> None:
        """Take a boost back at once: there is nothing to reclaim before. Takes the zone lock, if there is one."""
        if self.boosted or self.watermark_boost:
            with suppress(ZoneBusy), self.lock:
                self.boosted = False
                self.watermark_boost = 0
                self.marks_changed()

    @whole
    def set_lowmem_reserve(self, reserve: Sequence[int]) -> None:
        """Withhold `reserve[k]` pages from requests that may use zones up to `ZONE_NAMES[k]`. Takes the zone lock."""
        with self.lock:
            self.lowmem_reserve = list(reserve)
            self.marks_changed()

    # -- looking ---------------------------------------------------------------------------------------

    def list_pfns(self, order: int, migratetype: int) -> Iterator[int]:
        """Yield a free list's pfns from head to tail; the caller holds the lock or is alone."""
        base_pfn = self.base_pfn
        return (base_pfn + index for index in self.free_list(order, migratetype))
