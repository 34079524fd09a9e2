"""The schema of the run log: one class for each event, and what its fields mean.

A log is NDJSON: one record a line, `event` names its class. Everybody's records have

    t         nanoseconds since the run began, on a clock that never goes back
    thread    number of the thread to which it happened; `thread_begin` has the thread's name
    n         number of the record among its thread's, from 1, without a gap

and what happens under a zone lock (`ZoneRecord`) has

    zone      number of the zone; `zone_begin` describes it
    seq       number of the record among the zone's, from 1, without a gap: the true order

A record stands behind all those that it could have seen: the file's order is a possible order of events.
Names and fields are the kernel's where it has the event (kmem.h, lock.h); a pfn is a plain number, orders are
log2 of pages, migratetypes are 0 unmovable, 1 movable, 2 reclaimable, 3 high-atomic, 4 isolated.

What a record says is held against what the others say of the same (`stress/invariants`); `test_verify` alters every
field. Two kinds are told by nobody else, and are declared as what they are: `Text`, words and figures that somebody
chose, and `Measured`, a clock's or a look's without a lock, which is held to bounds at most.

A change that an old reader would misread counts `SCHEMA_VERSION` up; `log_begin` has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from msgspec import Struct
else:
    try:
        from msgspec import Struct
    except ModuleNotFoundError:  # whoever only writes a log needs the names of the fields, and no decoder

        class Struct:
            """Stand in for msgspec's class: names without types."""

            def __init_subclass__(cls, **kwargs: Any) -> None:
                cls.tag = kwargs.get("tag")


Text = str  # free text
Given = dict[str, Any]  # free text with names: what a run was told to do, and by which program
Measured = int  # of this moment, by nobody else: a time, a sum of counts that go on, a look without the lock

SCHEMA_VERSION = 1


class Record(Struct, tag_field="event", gc=False, forbid_unknown_fields=True):
    """What every record has."""

    t: Measured
    thread: int
    n: int


class ZoneRecord(Record):
    """What a record has that was made under a zone lock."""

    zone: int
    seq: int


# -- the log itself ------------------------------------------------------------------------------------------


class LogBegin(Record, tag="log_begin"):
    """What the log is of, behind the first thread's `thread_begin`.

    `params` are those of the run, `versions` of the program, Python and the machine.
    """

    schema: int
    params: Given
    versions: Given


class ThreadBegin(Record, tag="thread_begin"):
    """A thread is here for the first time."""

    name: Text


class Lost(Record, tag="lost"):
    """`count` records of this thread are missing here; its next `n` leaves room for them."""

    count: int


class LogEnd(Record, tag="log_end"):
    """The last record: the last `n` of every thread and the last `seq` of every zone, by number."""

    threads: dict[str, int]
    zones: dict[str, int]


# -- zones ---------------------------------------------------------------------------------------------------


class ZoneBegin(ZoneRecord, tag="zone_begin"):
    """A zone is described: pfns `start_pfn` .. `end_pfn` - 1, orders 0 .. `nr_orders` - 1."""

    name: str
    node: int
    start_pfn: int
    end_pfn: int
    nr_orders: int
    pageblock_order: int
    policy: str  # the name of its `Revision`; the field keeps its first name, since old logs have it


class ZoneSnapshot(ZoneRecord, tag="zone_snapshot"):
    """Everything that a zone holds at this moment.

    `lists` are [order, migratetype, pfns from head to tail], empty ones left out; `reported` the pfns of the
    frames that bear Reported, heads of free blocks or not; `in_use` [pfn, order, kind] of all other blocks, kind
    "allocated", "page set" or "in flight";
    `block_types` one digit for each pageblock, from the one in which the zone starts.
    """

    nr_free_pages: int
    nr_free: list[int]
    nr_reported: list[int]
    watermark: list[int]
    highatomic: int
    lists: list[tuple[int, int, list[int]]]
    reported: list[int]
    in_use: list[tuple[int, int, str]]
    block_types: str


class ZoneState(ZoneRecord, tag="zone_state"):
    """The counts of a zone: free pages, and free and Reported blocks by order."""

    nr_free_pages: int
    nr_free: list[int]
    nr_reported: list[int]


class SetWatermarks(ZoneRecord, tag="set_watermarks"):
    """The marks change, in pages, without the boost."""

    min: int
    low: int
    high: int


class LockRelease(ZoneRecord, tag="lock_release"):
    """A hold of the zone lock ends; it was acquired `hold_ns` before `t`, after waiting `wait_ns`.

    All of the zone's records since the last `lock_release` belong to this hold. `site` is the function that held it.
    """

    wait_ns: Measured
    hold_ns: Measured
    site: Text


class LockContended(Record, tag="lock_contended"):
    """A thread finds a zone lock taken, and begins to wait."""

    zone: int
    site: Text


# -- allocating and freeing ------------------------------------------------------------------------------------


class MmPageAlloc(Record, tag="mm_page_alloc"):
    """An allocation returns; `pfn` is -1 if there was no memory, and `order` then told by nobody else."""

    pfn: int
    order: int
    migratetype: int
    gfp_flags: str


class MmPageFree(Record, tag="mm_page_free"):
    """A block is about to be freed by its owner."""

    pfn: int
    order: int


class MmPageAllocZoneLocked(ZoneRecord, tag="mm_page_alloc_zone_locked"):
    """A block leaves the free lists, split from one of `from_order`; `percpu_refill`: it may rest on a page set."""

    pfn: int
    order: int
    migratetype: int
    percpu_refill: bool
    from_order: int


class MmPageFreeZoneLocked(ZoneRecord, tag="mm_page_free_zone_locked"):
    """A block came back to the free lists and merged into another one; Linux lacks this event.

    It is the last on its list if `to_tail`, else the first; `migratetype` is the list's.
    """

    pfn: int
    order: int
    migratetype: int
    merged_pfn: int
    merged_order: int
    to_tail: bool


class MmPagePcpuDrain(ZoneRecord, tag="mm_page_pcpu_drain"):
    """The block freed just before came from a page set."""

    pfn: int
    order: int
    migratetype: int


class MmPageAllocExtfrag(ZoneRecord, tag="mm_page_alloc_extfrag"):
    """A request took from another migratetype's lists. The kernel's fields."""

    pfn: int
    alloc_order: int
    fallback_order: int
    pageblock_order: int
    alloc_migratetype: int
    fallback_migratetype: int
    fragmenting: bool
    change_ownership: bool


class RmqueueClaim(ZoneRecord, tag="rmqueue_claim"):
    """A request takes the first pages of a foreign block of a pageblock or more (v6.14).

    Its pageblocks become `migratetype`, the rest of it goes to that type's lists. Linux lacks this event.
    """

    pfn: int
    order: int
    migratetype: int
    from_order: int
    from_migratetype: int


class RmqueueSteal(ZoneRecord, tag="rmqueue_steal"):
    """A request takes the first pages of a foreign block, whose rest stays on the lists of its type (v6.14)."""

    pfn: int
    order: int
    migratetype: int
    from_order: int
    from_migratetype: int


class TryToClaimBlock(ZoneRecord, tag="try_to_claim_block"):
    """A request looks whether a pageblock, from `pfn` on, can be its own type's (v6.14).

    It is `claimed` if its free pages and those in use that are alike make half of it.
    """

    pfn: int
    migratetype: int
    free_pages: int
    alike_pages: Measured
    claimed: bool


class SplitLargeBuddy(ZoneRecord, tag="split_large_buddy"):
    """A block larger than a pageblock is freed a pageblock at a time (v6.10): those frees follow."""

    pfn: int
    order: int


class MoveToFreeList(ZoneRecord, tag="move_to_free_list"):
    """A free block goes to another migratetype's list, the last there if `to_tail`."""

    pfn: int
    order: int
    migratetype: int
    to_tail: bool


class SetPageblockMigratetype(ZoneRecord, tag="set_pageblock_migratetype"):
    """The pageblock that holds `pfn` gets a type."""

    pfn: int
    migratetype: int


class UnsetMigratetypeIsolate(ZoneRecord, tag="unset_migratetype_isolate"):
    """A withheld pageblock is given back; a block may be isolated and put back at once so that it merges."""

    pfn: int
    migratetype: int


class SplitPage(ZoneRecord, tag="split_page"):
    """A range of allocated pages becomes one allocated block."""

    pfn: int
    order: int


# -- free page reporting: Linux has no event for any of this ------------------------------------------------------


class Register(Record, tag="page_reporting_register"):
    """A device begins to register; it wants blocks of `order` and more, `capacity` at a time."""

    device: str
    order: int
    capacity: int


class Registered(Record, tag="page_reporting_registered"):
    """The device is registered: every free of its order and more asks for a report from here on."""

    device: str


class Leave(Record, tag="page_reporting_leave"):
    """A device is on its way out: nothing arms its work any more, and a pass that runs is waited for."""

    device: str


class Unregister(Record, tag="page_reporting_unregister"):
    """A device has left: its reporter does not run and never will."""

    device: str


class Notify(Record, tag="page_reporting_notify"):
    """The free just before asks for a report."""


class Request(Record, tag="page_reporting_request"):
    """A request changed the device's state to requested; `state` is what it was: idle, or active.

    Of two requests in two zones that have both found that nobody asked so far, the second one finds it requested.
    """

    state: str


class PassBegin(Record, tag="page_reporting_pass_begin"):
    """The worker begins a pass over all zones."""

    number: int


class PassEnd(Record, tag="page_reporting_pass_end"):
    """A pass ends; `state` is what the worker found: active, or requested, and then the next one is armed.

    `lost`: there was no memory for a scatterlist, so nothing was looked at.
    """

    number: int
    state: str
    lost: bool


class PassZone(Record, tag="page_reporting_zone"):
    """A pass comes to a zone, which has `usable` free pages; it is left alone unless that is more than `mark`."""

    zone: int
    usable: Measured
    mark: int
    visited: bool


class Visit(ZoneRecord, tag="page_reporting_visit"):
    """A pass comes to a free list that is not empty; `nr_free` blocks of this order, all migratetypes together.

    It looked at the list without the lock, so a `migratetype` from which nothing is taken is told by nobody else.
    """

    order: int
    migratetype: Measured
    nr_free: int


class Isolate(ZoneRecord, tag="page_reporting_isolate"):
    """A free block is taken off its list for the reporter.

    `free_pages` stay free in the zone, `usable_pages` of them beyond the high-atomic reserve.
    """

    pfn: int
    order: int
    migratetype: int
    free_pages: int
    usable_pages: int


class Refused(ZoneRecord, tag="page_reporting_refused"):
    """A block may not be taken: too close to the min watermark."""

    pfn: int
    order: int
    usable_pages: int


class Rotate(ZoneRecord, tag="page_reporting_rotate"):
    """A list is turned so that the block at `pfn` is its first."""

    order: int
    migratetype: int
    pfn: int


class ReportBegin(Record, tag="page_reporting_report_begin"):
    """The reporter gets a batch of [pfn, order]; no lock is held."""

    batch: int
    zone: int
    blocks: list[tuple[int, int]]


class ReportEnd(Record, tag="page_reporting_report_end"):
    """The reporter returned, or raised `error`; which of the two, the blocks tell that are Reported then, or not."""

    batch: int
    zone: int
    error: Text | None


class HostBegin(Record, tag="host_begin"):
    """The host itself has a batch of [pfn, order], whatever the worker believes."""

    zone: int
    blocks: list[tuple[int, int]]


class HostKept(Record, tag="host_kept"):
    """The host acknowledged these blocks, and kept them: [pfn, order, bytes of it that are still resident]."""

    zone: int
    kept: list[tuple[int, int, int]]


class HostEnd(Record, tag="host_end"):
    """The host is done with a batch."""

    zone: int
    blocks: list[tuple[int, int]]


class Putback(ZoneRecord, tag="page_reporting_putback"):
    """A block came back from the reporter to the free lists; the fields are those of a free."""

    pfn: int
    order: int
    migratetype: int
    merged_pfn: int
    merged_order: int
    to_tail: bool


class Reported(ZoneRecord, tag="page_reporting_reported"):
    """A free block is flagged as known to the host."""

    pfn: int
    order: int


# -- a guest outside, seen from its host ------------------------------------------------------------------------


class GuestReport(Record, tag="guest_report", gc=False):
    """A guest's batch of [guest physical address, bytes] is answered; its resident memory before and after that.

    `answer` is what was done: given back, kept, lost (given back and never answered) or garbled. The batch itself
    is a `page_reporting_report_begin` too, and a pass is told from the pause before it.
    """

    batch: int
    ranges: list[tuple[int, int]]
    resident_bytes_before: Measured
    resident_bytes_after: Measured
    answer: str


# -- the harness ---------------------------------------------------------------------------------------------------


class PhaseBegin(Record, tag="phase_begin"):
    """A phase of the load begins; `changes` are the parameters that differ from the run's own."""

    name: str
    changes: Given


class PhaseEnd(Record, tag="phase_end"):
    """A phase of the load is over."""

    name: str


class Sample(Record, tag="sample"):
    """What the run looks like: bytes that the operating system counts, and sums over all threads so far.

    `zones` are [free, allocated, on page sets, in flight, reported] pages, by number.
    """

    resident_bytes: Measured
    total_bytes: int
    allocs: Measured
    frees: Measured
    failed_allocs: Measured
    zones: list[tuple[Measured, Measured, Measured, Measured, Measured]]


class Violated(Record, tag="violation"):
    """The run itself saw a broken promise."""

    text: Text


class Rest(Record, tag="rest"):
    """Everything was freed; the worker came to rest by itself if `settled`. A last snapshot of each zone follows."""

    settled: bool


class RunEnd(Record, tag="run_end"):
    """The run's own verdict."""

    verdict: str
    violations: int


def _leaves(base: type[Record]) -> list[type[Record]]:
    return [leaf for child in base.__subclasses__() for leaf in ([child, *_leaves(child)])]


def _tag(cls: type[Record]) -> str | None:
    config = getattr(cls, "__struct_config__", None)
    tag = config.tag if config is not None else getattr(cls, "tag", None)
    return tag if isinstance(tag, str) and cls not in (Record, ZoneRecord) else None


EVENTS: dict[str, type[Record]] = {tag: cls for cls in _leaves(Record) if (tag := _tag(cls)) is not None}
HEADER = tuple(Record.__annotations__)  # t, thread, n


def field_names(event: str) -> tuple[str, ...]:
    """Return the names of an event's fields behind the header, in the order in which a tracepoint gives them."""
    cls = EVENTS[event]
    own = tuple(cls.__annotations__)
    return (*ZoneRecord.__annotations__, *own) if issubclass(cls, ZoneRecord) else own
