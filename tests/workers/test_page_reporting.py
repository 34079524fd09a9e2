"""A pass over small zones, made on the test's own thread: requests, batches, failures, and what must hold between."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest

from pagealloc.mmzone import (
    FPI_SKIP_REPORT_NOTIFY,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    MIGRATE_RECLAIMABLE,
    MIGRATE_UNMOVABLE,
    Layout,
)
from pagealloc.ram import Ram
from pagealloc.sync_real import RealSync
from pagealloc.validate import validate
from pagealloc.zone import Zone
from workers.page_reporting import (
    PAGE_REPORTING_CAPACITY,
    Batch,
    Block,
    PageReporting,
    PageReportingDevice,
)
from workers.scatterlist import Scatterlist
from workers.workqueue import Workqueue

ORDER = 3
CAPACITY = 4
WIDE = Layout(nr_orders=5, pageblock_order=3)
PATIENCE_S = 20.0

Build = Callable[..., Zone]
BuildReporting = Callable[..., PageReporting]


class Recorder:
    """A reporter that keeps every batch, after doing what it is told to do during its first calls."""

    def __init__(self, *during: Callable[[Zone, Batch], None]) -> None:
        self.batches: list[list[tuple[int, int]]] = []
        self.zones: list[Zone] = []
        self._during = list(during)

    def report(self, zone: Zone, batch: Batch) -> None:
        self.batches.append([(block.pfn, block.order) for block in batch])
        self.zones.append(zone)
        if self._during:
            self._during.pop(0)(zone, batch)

    def blocks(self) -> set[tuple[int, int]]:
        return {block for batch in self.batches for block in batch}


def free(zone: Zone, pfn: int, order: int) -> None:
    zone.claim_range(pfn, order)
    zone.free_pages_ok(pfn, order)


def fail(_zone: Zone, _batch: Batch, *, error: BaseException | None = None) -> None:
    raise error if error is not None else OSError("the device refuses")


def reported(zone: Zone) -> set[int]:
    return {
        pfn
        for order in range(zone.layout.nr_orders)
        for migratetype in range(5)
        for pfn in zone.list_pfns(order, migratetype)
        if zone.page_reported(pfn - zone.base_pfn)
    }


def assert_sound(zone: Zone, *, in_flight: int = 0) -> None:
    census = validate(zone)
    assert census.problems == []
    assert census.in_flight == in_flight
    assert not zone.lock.locked()


@pytest.fixture
def islands(build_zone: Build) -> Zone:
    """A zone with six lone blocks of order 3, at pfns 0, 16 .. 80, and pages enough to stay above the marks."""
    zone = build_zone(256, layout=WIDE, free=False)
    for pfn in range(128, 256, 8):
        free(zone, pfn, 2)
    for pfn in range(80, -1, -16):
        free(zone, pfn, ORDER)
    return zone


def register(reporting: PageReporting, recorder: Recorder, capacity: int = CAPACITY) -> PageReportingDevice:
    device = PageReportingDevice(recorder, order=ORDER, capacity=capacity)
    reporting.register(device)
    return device


def settle(reporting: PageReporting) -> int:
    passes = 0
    while reporting.run_now():
        passes += 1
        assert passes < 50, "a quiet system must come to rest (L3)"
    return passes


# -- batches -------------------------------------------------------------------------------------------------


def test_a_batch_tells_where_the_memory_of_each_block_lies(
    islands: Zone, build_reporting: BuildReporting
) -> None:
    seen: list[Block] = []
    recorder = Recorder(lambda _zone, batch: seen.extend(batch))
    reporting = build_reporting(islands)
    register(reporting, recorder)
    reporting.run_now()
    assert seen[0] == Block(pfn=48, order=3, offset=48 * 4096, length=8 * 4096)


def test_offsets_count_from_the_start_of_the_ram(build_zone: Build, build_reporting: BuildReporting) -> None:
    zone = build_zone(128, start_pfn=64)
    zone.ram = ram = Ram(64, 128)
    try:
        offsets: dict[int, int] = {}
        recorder = Recorder(lambda _zone, batch: offsets.update({b.pfn: b.offset for b in batch}))
        reporting = build_reporting(zone)
        register(reporting, recorder, capacity=2)
        reporting.run_now()
        assert offsets
        assert all(offset == (pfn - 64) * 4096 for pfn, offset in offsets.items())
    finally:
        ram.close()


def test_the_scatterlist_is_filled_from_its_end(islands: Zone, build_reporting: BuildReporting) -> None:
    recorder = Recorder()
    reporting = build_reporting(islands)
    register(reporting, recorder)
    reporting.run_now()
    assert recorder.batches == [[(48, 3), (32, 3), (16, 3), (0, 3)], [(80, 3), (64, 3)]]


def test_a_scatterlist_hands_out_only_what_was_added() -> None:
    sgl = Scatterlist(3)
    assert sgl.batch() == []
    sgl.add(8, 3)
    sgl.add(16, 3)
    assert sgl.offset == 1
    assert sgl.batch() == [(16, 3), (8, 3)]
    sgl.reset()
    assert sgl.offset == 3
    assert sgl.batch() == []


def test_one_batch_may_mix_orders_and_types_but_never_zones(
    build_zone: Build, build_reporting: BuildReporting
) -> None:
    low = build_zone(128, name="DMA32")
    high = build_zone(128, start_pfn=128, zones_below=[low])
    recorder = Recorder()
    reporting = build_reporting(low, high)
    low.rmqueue_buddy(3, MIGRATE_MOVABLE)
    register(reporting, recorder, capacity=8)
    settle(reporting)
    assert {order for _, order in recorder.batches[0]} == {3, 4, 5}
    for zone, batch in zip(recorder.zones, recorder.batches, strict=True):
        assert all(zone.start_pfn <= pfn < zone.end_pfn for pfn, _ in batch)
    assert set(recorder.zones) == {low, high}


def test_a_batch_never_has_more_than_capacity_blocks(islands: Zone, build_reporting: BuildReporting) -> None:
    recorder = Recorder()
    reporting = build_reporting(islands)
    register(reporting, recorder, capacity=1)
    settle(reporting)
    assert [len(batch) for batch in recorder.batches] == [1] * 6


def test_every_large_block_is_reported_once_and_none_that_is_small(
    islands: Zone, build_reporting: BuildReporting
) -> None:
    recorder = Recorder()
    reporting = build_reporting(islands)
    register(reporting, recorder)
    settle(reporting)
    assert recorder.blocks() == {(pfn, 3) for pfn in range(0, 96, 16)}
    assert sum(map(len, recorder.batches)) == 6
    assert reported(islands) == set(range(0, 96, 16))
    assert_sound(islands)


def test_order_zero_stands_for_the_pageblock_order(islands: Zone, build_reporting: BuildReporting) -> None:
    assert build_reporting(islands).register(PageReportingDevice(Recorder(), capacity=1)) == 3


def test_the_stats_count_passes_batches_blocks_and_bytes(
    islands: Zone, build_reporting: BuildReporting
) -> None:
    reporting = build_reporting(islands)
    register(reporting, Recorder(lambda *_: None, fail))
    reporting.run_now()
    stats = reporting.stats
    assert (stats.passes, stats.batches, stats.failed_batches) == (1, 2, 1)
    assert (stats.reported_blocks, stats.reported_bytes) == (4, 4 * 8 * 4096)


def test_every_pass_and_every_batch_is_traced_from_start_to_end(
    islands: Zone, build_reporting: BuildReporting
) -> None:
    events: list[tuple[str, object]] = []
    reporting = build_reporting(islands)
    reporting.trace = lambda event, *fields: events.append((event, fields[0]))
    device = register(reporting, Recorder(fail))
    reporting.run_now()
    reporting.unregister(device)
    assert events == [
        ("page_reporting_register", device.name),
        ("page_reporting_request", "idle"),
        ("page_reporting_registered", device.name),
        ("page_reporting_pass_begin", 1),
        ("page_reporting_zone", 0),
        ("page_reporting_report_begin", 1),
        ("page_reporting_report_end", 1),
        ("page_reporting_pass_end", 1),
        ("page_reporting_leave", device.name),
        ("page_reporting_unregister", device.name),
    ]


# -- requests and states -------------------------------------------------------------------------------------


def test_registering_asks_for_a_first_pass(islands: Zone, build_reporting: BuildReporting) -> None:
    reporting = build_reporting(islands)
    assert (reporting.state_name(), reporting.pending()) == ("none", False)
    register(reporting, Recorder())
    assert (reporting.state_name(), reporting.pending()) == ("requested", True)


def test_a_pass_goes_from_requested_over_active_to_idle(
    islands: Zone, build_reporting: BuildReporting
) -> None:
    states: list[tuple[str, bool, bool, bool]] = []

    def look(_zone: Zone, _batch: Batch) -> None:
        states.append((reporting.state_name(), reporting.pending(), reporting.running(), reporting.settled()))

    reporting = build_reporting(islands)
    register(reporting, Recorder(look), capacity=8)
    assert not reporting.settled()
    reporting.run_now()
    assert states == [("active", False, True, False)]
    assert (reporting.state_name(), reporting.pending(), reporting.running()) == ("idle", False, False)
    assert reporting.settled()


def test_a_large_free_arms_an_idle_worker(islands: Zone, build_reporting: BuildReporting) -> None:
    reporting = build_reporting(islands)
    register(reporting, Recorder())
    settle(reporting)
    free(islands, 96, ORDER)
    assert (reporting.state_name(), reporting.pending()) == ("requested", True)


def test_a_small_free_arms_nothing(islands: Zone, build_reporting: BuildReporting) -> None:
    reporting = build_reporting(islands)
    register(reporting, Recorder())
    settle(reporting)
    free(islands, 96, 2)
    assert (reporting.state_name(), reporting.pending()) == ("idle", False)


def test_two_small_frees_that_merge_into_a_large_block_arm_the_work(
    islands: Zone, build_reporting: BuildReporting
) -> None:
    recorder = Recorder()
    reporting = build_reporting(islands)
    register(reporting, recorder)
    settle(reporting)
    free(islands, 96, 2)
    free(islands, 100, 2)
    assert reporting.pending()
    settle(reporting)
    assert (96, 3) in recorder.blocks()


def test_a_free_that_skips_the_notice_arms_nothing(islands: Zone, build_reporting: BuildReporting) -> None:
    reporting = build_reporting(islands)
    register(reporting, Recorder())
    settle(reporting)
    islands.claim_range(96, ORDER)
    islands.free_pages_ok(96, ORDER, FPI_SKIP_REPORT_NOTIFY)
    assert not reporting.pending()


def test_many_frees_make_one_request(islands: Zone, build_reporting: BuildReporting) -> None:
    reporting = build_reporting(islands)
    register(reporting, Recorder())
    settle(reporting)
    before = reporting.stats.passes
    free(islands, 96, ORDER)
    free(islands, 112, ORDER)
    assert settle(reporting) == 1
    assert reporting.stats.passes == before + 1


def test_a_notify_during_a_pass_arms_the_work_again(islands: Zone, build_reporting: BuildReporting) -> None:
    states: list[tuple[str, bool]] = []

    def free_one(zone: Zone, _batch: Batch) -> None:
        free(zone, 96, ORDER)
        states.append((reporting.state_name(), reporting.pending()))

    recorder = Recorder(free_one)
    reporting = build_reporting(islands)
    register(reporting, recorder, capacity=8)
    reporting.run_now()
    assert states == [("requested", False)], "the running pass arms the work, at its end"
    assert (reporting.state_name(), reporting.pending()) == ("requested", True)
    assert settle(reporting) == 1
    assert (96, 3) in recorder.blocks()


def test_putting_blocks_back_notifies_nobody(islands: Zone, build_reporting: BuildReporting) -> None:
    notices: list[str] = []
    reporting = build_reporting(islands)
    register(reporting, Recorder(), capacity=8)
    islands.page_reporting_notify = lambda _pfn, _order: notices.append("free")
    reporting.run_now()
    assert notices == []
    free(islands, 96, ORDER)
    assert notices == ["free"]


def test_a_pass_is_due_one_delay_after_its_request(islands: Zone) -> None:
    class Clock(RealSync):
        def monotonic(self) -> float:
            return 1000.0

    queue = Workqueue(Clock(), "delay")
    reporting = PageReporting([islands], islands.revision, Clock(), queue, delay_s=2.5)
    register(reporting, Recorder())
    registration = reporting._registered
    assert registration is not None
    assert registration.due == (1002.5, 1)
    settle(reporting)
    free(islands, 96, ORDER)
    assert registration.due == (1002.5, 2)


def test_a_budget_that_ends_asks_for_another_pass(islands: Zone, build_reporting: BuildReporting) -> None:
    reporting = build_reporting(islands)
    register(reporting, Recorder(), capacity=1)
    reporting.run_now()
    assert reporting.stats.batches == 2
    assert (reporting.state_name(), reporting.pending()) == ("requested", True)


def test_a_pass_without_memory_for_its_scatterlist_is_lost_until_the_next_notice(
    islands: Zone, build_reporting: BuildReporting
) -> None:
    memory = [False, True]

    def alloc(capacity: int) -> Scatterlist:
        if not memory.pop(0):
            raise MemoryError
        return Scatterlist(capacity)

    recorder = Recorder()
    reporting = build_reporting(islands, alloc_scatterlist=alloc)
    register(reporting, recorder, capacity=8)
    reporting.run_now()
    assert (reporting.stats.lost_passes, recorder.batches) == (1, [])
    assert (reporting.state_name(), reporting.pending()) == ("idle", False)
    free(islands, 96, ORDER)
    reporting.run_now()
    assert reporting.stats.lost_passes == 1
    assert len(recorder.blocks()) == 7


# -- failures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing_call", [1, 2], ids=["full batch", "leftover"])
def test_a_failed_batch_goes_back_unreported_and_ends_the_pass(
    islands: Zone, build_reporting: BuildReporting, failing_call: int
) -> None:
    free_pages = islands.nr_free_pages
    during = [lambda _zone, _batch: None] * (failing_call - 1)
    recorder = Recorder(*during, fail)
    reporting = build_reporting(islands)
    register(reporting, recorder)
    reporting.run_now()
    assert len(recorder.batches) == failing_call
    assert reported(islands) == ({0, 16, 32, 48} if failing_call == 2 else set())
    assert islands.nr_free_pages == free_pages
    assert_sound(islands)


def test_a_failure_is_not_retried_by_itself_but_by_the_next_notice(
    islands: Zone, build_reporting: BuildReporting
) -> None:
    recorder = Recorder(fail)
    reporting = build_reporting(islands)
    register(reporting, recorder, capacity=8)
    reporting.run_now()
    assert (reporting.state_name(), reporting.pending()) == ("idle", False)
    free(islands, 96, ORDER)
    assert settle(reporting) == 1
    assert reported(islands) == set(range(0, 112, 16))


def test_a_request_during_a_failing_call_is_not_forgotten(
    islands: Zone, build_reporting: BuildReporting
) -> None:
    def free_and_fail(zone: Zone, batch: Batch) -> None:
        free(zone, 96, ORDER)
        fail(zone, batch)

    reporting = build_reporting(islands)
    register(reporting, Recorder(free_and_fail), capacity=8)
    reporting.run_now()
    assert reporting.pending()
    settle(reporting)
    assert reported(islands) == set(range(0, 112, 16))


def test_a_failure_in_one_zone_leaves_the_zones_behind_it_unvisited(
    build_zone: Build, build_reporting: BuildReporting
) -> None:
    low = build_zone(128, name="DMA32")
    high = build_zone(128, start_pfn=128, zones_below=[low])
    recorder = Recorder(fail)
    reporting = build_reporting(low, high)
    register(reporting, recorder)
    reporting.run_now()
    assert recorder.zones == [low]


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "input/output error"),
        ValueError(),
        MemoryError(),
        StopIteration(),
        AssertionError(),
        RecursionError(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("capacity", [4, 8], ids=["full batch", "leftover"])
def test_whatever_exception_a_reporter_raises_no_page_is_lost(
    islands: Zone, build_reporting: BuildReporting, error: Exception, capacity: int
) -> None:
    free_pages = islands.nr_free_pages
    reporting = build_reporting(islands)
    register(reporting, Recorder(partial(fail, error=error)), capacity=capacity)
    reporting.run_now()
    assert reporting.stats.failed_batches == 1
    assert reporting.stats.lost_passes == 0
    assert reported(islands) == set()
    assert islands.nr_free_pages == free_pages
    assert reporting.flight is None
    assert_sound(islands)


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), GeneratorExit()], ids=lambda error: type(error).__name__
)
@pytest.mark.parametrize("capacity", [4, 8], ids=["full batch", "leftover"])
def test_what_is_no_failure_of_the_device_goes_up_and_still_no_page_is_lost(
    islands: Zone, build_reporting: BuildReporting, error: BaseException, capacity: int
) -> None:
    free_pages = islands.nr_free_pages
    reporting = build_reporting(islands)
    device = register(reporting, Recorder(partial(fail, error=error)), capacity=capacity)
    with pytest.raises(type(error)):
        reporting.run_now()
    assert reported(islands) == set()
    assert islands.nr_free_pages == free_pages
    assert reporting.flight is None
    assert not reporting.running()
    assert reporting.state_name() == "idle"
    assert_sound(islands)
    reporting.unregister(device)


def test_a_reporter_that_takes_its_batch_apart_loses_no_page(
    islands: Zone, build_reporting: BuildReporting
) -> None:
    def plunder(_zone: Zone, batch: Batch) -> None:
        assert isinstance(batch, list)
        batch.clear()

    free_pages = islands.nr_free_pages
    reporting = build_reporting(islands)
    register(reporting, Recorder(plunder, plunder))
    reporting.run_now()
    assert islands.nr_free_pages == free_pages
    assert_sound(islands)


# -- while a batch is in flight ------------------------------------------------------------------------------


def test_the_reporter_is_called_without_any_zone_lock_held(
    build_zone: Build, build_reporting: BuildReporting
) -> None:
    low = build_zone(128, name="DMA32")
    high = build_zone(128, start_pfn=128, zones_below=[low])
    held: list[bool] = []

    def look(_zone: Zone, _batch: Batch) -> None:
        held.extend(zone.lock.locked() for zone in (low, high))

    reporting = build_reporting(low, high)
    register(reporting, Recorder(*[look] * 20), capacity=1)
    settle(reporting)
    assert len(held) >= 8
    assert not any(held)


def test_blocks_in_flight_are_on_no_list_and_cannot_be_allocated_or_freed(
    islands: Zone, build_reporting: BuildReporting
) -> None:
    def look(zone: Zone, batch: Batch) -> None:
        for block in batch:
            assert not zone.page_is_buddy(block.pfn, block.order)
            assert "in flight" in zone.describe_page(block.pfn)
        census = validate(zone)
        assert census.problems == []
        assert census.in_flight == sum(1 << block.order for block in batch)
        got = [zone.rmqueue_buddy(3, MIGRATE_MOVABLE) for _ in range(3)]
        assert sorted(got) == [-1, 64, 80]
        assert reporting.flight is not None
        assert reporting.flight.batch == batch
        checked.append(True)

    checked: list[bool] = []
    reporting = build_reporting(islands)
    register(reporting, Recorder(look))
    reporting.run_now()
    assert checked == [True]
    assert_sound(islands)


def test_a_retag_in_flight_is_honoured_on_the_way_back(
    islands: Zone, build_reporting: BuildReporting
) -> None:
    def retag(zone: Zone, _batch: Batch) -> None:
        zone.set_block_type(0, MIGRATE_RECLAIMABLE, move=False)

    reporting = build_reporting(islands)
    register(reporting, Recorder(retag), capacity=8)
    reporting.run_now()
    assert list(islands.list_pfns(3, MIGRATE_RECLAIMABLE)) == [0]
    assert 0 in reported(islands)
    assert_sound(islands)


def test_a_pageblock_isolated_in_flight_gets_its_block_without_counting_it_free(
    islands: Zone, build_reporting: BuildReporting
) -> None:
    free_pages = islands.nr_free_pages
    reporting = build_reporting(islands)
    register(reporting, Recorder(lambda zone, _batch: assert_true(zone.isolate_pageblock(0))), capacity=8)
    reporting.run_now()
    assert list(islands.list_pfns(3, MIGRATE_ISOLATE)) == [0]
    assert islands.nr_free_pages == free_pages - 8
    assert_sound(islands)


def assert_true(value: bool) -> None:
    assert value


def test_a_reported_unmovable_block_comes_back_movable(
    islands: Zone, build_reporting: BuildReporting
) -> None:
    islands.set_block_type(0, MIGRATE_UNMOVABLE, move=True)
    reporting = build_reporting(islands)
    register(reporting, Recorder())
    settle(reporting)
    assert list(islands.list_pfns(3, MIGRATE_UNMOVABLE)) == []
    assert 0 in reported(islands)


def test_a_block_that_merged_in_flight_is_not_flagged_and_is_reported_whole_later(
    islands: Zone, build_reporting: BuildReporting
) -> None:
    recorder = Recorder(lambda zone, _batch: free(zone, 8, ORDER))
    reporting = build_reporting(islands)
    register(reporting, recorder, capacity=8)
    reporting.run_now()
    assert islands.page_is_buddy(0, 4)
    assert 0 not in reported(islands)
    assert reporting.pending()
    settle(reporting)
    assert (0, 4) in recorder.blocks()
    assert 0 in reported(islands)
    assert_sound(islands)


def test_a_block_flagged_on_its_way_back_loses_the_flag_when_the_next_one_swallows_it(
    build_zone: Build, build_reporting: BuildReporting
) -> None:
    zone = build_zone(256, free=False)
    for pfn in range(128, 256, 8):
        free(zone, pfn, 2)
    free(zone, 0, 4)
    free(zone, 16, 3)
    recorder = Recorder(lambda zone, _batch: free(zone, 24, 3))
    reporting = build_reporting(zone)
    register(reporting, recorder)
    reporting.run_now()
    assert recorder.batches == [[(0, 4), (16, 3)]], "the larger block is put back first"
    assert zone.page_is_buddy(0, 5)
    assert reported(zone) == set()
    assert_sound(zone)
    settle(reporting)
    assert recorder.batches[1:] == [[(0, 5)]]


def test_a_successor_allocated_in_flight_is_not_walked_into(
    islands: Zone, build_reporting: BuildReporting
) -> None:
    taken: list[int] = []

    def take_the_rest(zone: Zone, _batch: Batch) -> None:
        while (pfn := zone.rmqueue_buddy(3, MIGRATE_MOVABLE)) >= 0:
            taken.append(pfn)

    recorder = Recorder(take_the_rest)
    reporting = build_reporting(islands)
    register(reporting, recorder)
    reporting.run_now()
    assert sorted(taken) == [64, 80]
    assert recorder.blocks() == {(0, 3), (16, 3), (32, 3), (48, 3)}
    assert_sound(islands)


def test_a_reporter_may_allocate_and_free_inside_its_call(
    islands: Zone, build_reporting: BuildReporting
) -> None:
    def work(zone: Zone, _batch: Batch) -> None:
        pfn = zone.rmqueue_buddy(2, MIGRATE_MOVABLE)
        assert pfn >= 0
        zone.free_pages_ok(pfn, 2)

    free_pages = islands.nr_free_pages
    reporting = build_reporting(islands)
    register(reporting, Recorder(*[work] * 10), capacity=2)
    settle(reporting)
    assert islands.nr_free_pages == free_pages
    assert_sound(islands)


def test_other_threads_allocate_and_free_during_a_call(
    islands: Zone, build_reporting: BuildReporting, run_together: Callable[..., None]
) -> None:
    def elsewhere(zone: Zone, _batch: Batch) -> None:
        def churn() -> None:
            for _ in range(200):
                pfn = zone.rmqueue_buddy(2, MIGRATE_MOVABLE)
                if pfn >= 0:
                    zone.free_pages_ok(pfn, 2)

        run_together(churn, churn)

    free_pages = islands.nr_free_pages
    reporting = build_reporting(islands)
    register(reporting, Recorder(elsewhere))
    reporting.run_now()
    assert islands.nr_free_pages == free_pages
    assert_sound(islands)


# -- watermarks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spare", "visited"), [(0, False), (1, True)])
def test_a_zone_is_visited_only_if_more_than_low_and_a_whole_batch_is_free(
    build_zone: Build, build_reporting: BuildReporting, spare: int, visited: bool
) -> None:
    zone = build_zone(128)
    zone.set_watermarks(0, zone.nr_free_pages - (CAPACITY << ORDER) - spare, 128)
    recorder = Recorder()
    reporting = build_reporting(zone)
    register(reporting, recorder)
    reporting.run_now()
    assert bool(recorder.batches) is visited
    assert reporting.state_name() == "idle"


def test_a_boost_counts_for_the_start_of_a_visit(build_zone: Build, build_reporting: BuildReporting) -> None:
    zone = build_zone(128)
    zone.set_watermarks(0, 90, 128)
    zone.set_watermark_boost(8)
    recorder = Recorder()
    reporting = build_reporting(zone)
    register(reporting, recorder)
    reporting.run_now()
    assert recorder.batches == []
    zone.set_watermark_boost(0)
    free(zone, zone.rmqueue_buddy(3, MIGRATE_MOVABLE), 3)
    reporting.run_now()
    assert recorder.batches != []


def test_a_skipped_zone_does_not_keep_the_next_one_waiting(
    build_zone: Build, build_reporting: BuildReporting
) -> None:
    tiny = build_zone(32, name="DMA")
    large = build_zone(128, start_pfn=32, zones_below=[tiny])
    recorder = Recorder()
    reporting = build_reporting(tiny, large)
    register(reporting, recorder)
    settle(reporting)
    assert set(recorder.zones) == {large}


def test_blocks_stay_on_their_list_when_taking_them_would_reach_the_min_watermark(
    islands: Zone, build_reporting: BuildReporting
) -> None:
    # 48 pages in blocks of order 3 and 64 in smaller ones: two blocks may go while more than `min` + 8 stay.
    islands.set_watermarks(88, 0, 0)
    recorder = Recorder()
    reporting = build_reporting(islands)
    register(reporting, recorder, capacity=8)
    reporting.run_now()
    assert recorder.batches == [[(16, 3), (0, 3)]]
    assert not reporting.pending(), "a refusal asks for nothing"
    assert_sound(islands)


# -- many threads --------------------------------------------------------------------------------------------


def test_threads_that_free_and_a_worker_that_reports_come_to_rest_with_everything_reported(
    build_zone: Build,
    build_reporting: BuildReporting,
    run_together: Callable[..., None],
    until: Callable[..., None],
) -> None:
    zone = build_zone(2048)
    reporting = build_reporting(zone, started=True, delay_s=0.001)
    device = register(reporting, Recorder())

    def churn(seed: int) -> None:
        rng = RealSync().rng(seed)
        held: list[tuple[int, int]] = []
        for _ in range(2000):
            if held and rng.random() < 0.5:
                zone.free_pages_ok(*held.pop(rng.choose(len(held))))
            else:
                order = rng.choose(5)
                pfn = zone.rmqueue_buddy(order, MIGRATE_MOVABLE)
                if pfn >= 0:
                    held.append((pfn, order))
        for pfn, order in held:
            zone.free_pages_ok(pfn, order)

    run_together(*[partial(churn, seed) for seed in range(3)])
    until(reporting.settled, "the worker is idle")
    assert zone.nr_free_pages == 2048
    assert zone.nr_free == [0, 0, 0, 0, 0, 64]
    assert zone.nr_reported == zone.nr_free
    reporting.unregister(device, PATIENCE_S)
    assert_sound(zone)


def test_no_notice_is_lost_between_the_end_of_a_scan_and_idle(
    build_zone: Build, build_reporting: BuildReporting, until: Callable[..., None]
) -> None:
    """Free one block at a time, each as soon as the batch before it has come back (L1)."""
    zone = build_zone(512, layout=WIDE, free=False)
    for pfn in range(256, 512, 8):
        free(zone, pfn, 2)
    came = threading.Semaphore(0)
    reporting = build_reporting(zone, started=True, delay_s=0.0)
    recorder = Recorder(*[lambda _zone, _batch: came.release()] * 16)
    device = register(reporting, recorder, capacity=1)
    for pfn in range(0, 256, 16):
        free(zone, pfn, ORDER)
        assert came.acquire(timeout=PATIENCE_S), f"the block at pfn {pfn} is never reported"
    until(reporting.settled, "the worker is idle")
    assert reported(zone) == set(range(0, 256, 16))
    reporting.unregister(device, PATIENCE_S)


def test_the_default_capacity_is_the_kernels() -> None:
    assert PageReportingDevice(Recorder()).capacity == PAGE_REPORTING_CAPACITY == 32
