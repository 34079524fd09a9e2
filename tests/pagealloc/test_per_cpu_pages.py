"""How many pages a page set holds, takes and returns, and which: three generations of rules."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pagealloc.mmzone import MIGRATE_MOVABLE, MIGRATE_RECLAIMABLE, MIGRATE_UNMOVABLE
from pagealloc.per_cpu_pages import Bounds, PerCpuPages, zone_bounds
from pagealloc.revision import V5_7, V6_1, Revision

# The rules since 6.7, whatever else the kernel does.
TUNED = replace(V6_1, name="tuned", pcp_tunes_high=True, pcp_remembers_type=False)

BATCH, HIGH = 63, 6930


def pcp_of(revision: Revision, high_max: int = 40_000) -> PerCpuPages:
    high = 378 if revision is V5_7 else HIGH
    bounds = Bounds(BATCH, high, high_max if revision.pcp_tunes_high else high)
    return PerCpuPages(bounds, revision.pcp_max_order + 1, 9, revision)


def fill(pcp: PerCpuPages, order: int, migratetype: int, pfns: list[int]) -> None:
    pcp.lists[min(order, len(pcp.lists) // 3 - 1) * 3 + migratetype].extend(pfns)


def pfns_of(taken: list[tuple[int, int, int]]) -> list[int]:
    return [pfn for pfn, _, _ in taken]


# -- limits, from /proc/zoneinfo of running kernels -----------------------------------------------------


@pytest.mark.parametrize(
    ("revision", "managed", "low", "cpus", "bounds"),
    [
        (V6_1, 245_255, 13_860, 2, Bounds(63, 6930, 6930)),  # 6.1.192, 1 GiB
        (V6_1, 3840, 218, 2, Bounds(1, 109, 109)),  # its zone DMA
        (TUNED, 372_383, 13_935, 1, Bounds(63, 13_935, 46_547)),  # 6.12.117, 1.5 GiB
        (V6_1, 262_144, 100, 8, Bounds(63, 252, 252)),  # four batches at least
        (V5_7, 1 << 20, 9999, 4, Bounds(63, 378, 378)),  # whatever the marks
        (
            V5_7,
            3840,
            218,
            2,
            Bounds(1, 0, 0),
        ),  # "high: 0, batch: 1", as every /proc/zoneinfo of the time had it
    ],
)
def test_the_limit_of_a_set(revision: Revision, managed: int, low: int, cpus: int, bounds: Bounds) -> None:
    assert zone_bounds(managed, low, cpus, revision) == bounds


# -- how many pages go back -----------------------------------------------------------------------------


def test_before_v5_13_a_set_returns_a_batch() -> None:
    pcp = pcp_of(V5_7)

    assert [pcp.nr_free(378, 378, free_high=False) for _ in range(3)] == [63, 63, 63]


def test_a_drain_doubles_while_nothing_is_taken_and_leaves_a_batch() -> None:
    pcp = pcp_of(V6_1)

    drains = [pcp.nr_free(HIGH, HIGH, free_high=False) for _ in range(9)]

    assert drains == [63, 126, 252, 504, 1008, 2016, 4032, 6867, 6867]


def test_a_small_block_that_comes_while_drains_double_empties_the_set() -> None:
    pcp = pcp_of(V6_1)

    assert pcp.nr_high(5000, free_high=True, below_high=False) == 0
    assert pcp.nr_free(5000, 0, free_high=True) == 5000


def test_a_tuned_drain_returns_as_many_as_were_freed_in_a_row() -> None:
    pcp = pcp_of(TUNED)
    for _ in range(5000):
        pcp.free_is_high(0)

    assert pcp.frees == BATCH << 5  # and counts no further
    assert pcp.nr_free(HIGH, HIGH, free_high=False) == BATCH << 5
    pcp.frees = 10
    assert pcp.nr_free(HIGH, HIGH, free_high=False) == BATCH
    assert pcp.nr_free(HIGH, HIGH, free_high=True) == BATCH << 5
    assert pcp.nr_free(100, 0, free_high=True) == 100


def test_a_row_of_small_blocks_is_not_kept_once_it_is_longer_than_a_batch() -> None:
    pcp = pcp_of(TUNED)
    fill(pcp, 0, MIGRATE_MOVABLE, list(range(BATCH)))
    pcp.frees = BATCH

    assert not pcp.free_is_high(1)  # the free before it was none of them
    assert pcp.free_is_high(1)
    assert not pcp.free_is_high(0)
    assert not pcp.free_is_high(3)
    pcp.frees = BATCH - 1
    assert not pcp.free_is_high(3)
    assert not pcp.free_is_high(9)


# -- the limit that tunes itself --------------------------------------------------------------------------


def test_a_tuned_limit_rises_with_every_refill_and_no_further_than_an_eighth_of_the_zone() -> None:
    pcp = pcp_of(TUNED, high_max=HIGH + 200)
    highs = []
    for _ in range(5):
        pcp.nr_alloc(0, below_high=False)
        highs.append(pcp.high)

    assert highs[0] == HIGH + 63
    assert highs[-1] == HIGH + 200


def test_a_refill_doubles_while_nothing_is_freed() -> None:
    pcp = pcp_of(TUNED)

    assert [pcp.nr_alloc(0, below_high=False) for _ in range(8)] == [
        63,
        126,
        252,
        504,
        1008,
        2016,
        2016,
        2016,
    ]
    pcp.free_is_high(0)
    assert pcp.nr_alloc(0, below_high=False) == 252  # from the sixth doubling half as far
    assert pcp.nr_alloc(1, below_high=False) == 31
    assert pcp.nr_alloc(9, below_high=False) == 2


def test_a_zone_below_its_high_mark_brings_the_limit_down_with_every_free() -> None:
    pcp = pcp_of(TUNED)
    pcp.high = HIGH + 1000
    pcp.frees = 100

    assert pcp.nr_high(7500, free_high=False, below_high=True) == 7500  # reached, whatever it holds
    assert pcp.high == HIGH + 900
    assert pcp.nr_high(10, free_high=False, below_high=True) == HIGH
    pcp.nr_alloc(0, below_high=True)
    assert pcp.high == HIGH + 800


def test_a_burst_of_frees_raises_the_limit() -> None:
    pcp = pcp_of(TUNED)
    pcp.high, pcp.frees = HIGH, HIGH + 500

    assert pcp.nr_high(HIGH, free_high=False, below_high=False) == HIGH
    assert pcp.high == HIGH + 500 + BATCH


def test_the_vmstat_worker_brings_a_limit_down_by_an_eighth_and_never_below_the_low_marks_share() -> None:
    pcp = pcp_of(TUNED)
    pcp.high = 8000
    fill(pcp, 0, MIGRATE_MOVABLE, list(range(7500)))

    assert pcp.decay_high() == 500
    assert pcp.high == 7000
    assert pcp.decay_high() == 7500 - HIGH
    assert pcp.high == HIGH


def test_before_6_7_a_refill_is_a_batch() -> None:
    pcp = pcp_of(V6_1)

    assert [pcp.nr_alloc(order, below_high=False) for order in (0, 0, 1, 2, 3, 9)] == [63, 63, 31, 15, 7, 2]


# -- which pages ------------------------------------------------------------------------------------------


def test_a_drain_empties_the_list_of_the_block_that_came_and_then_the_next_ones() -> None:
    pcp = pcp_of(V6_1)
    fill(pcp, 0, MIGRATE_UNMOVABLE, [1, 2])
    fill(pcp, 0, MIGRATE_RECLAIMABLE, [3, 4])
    fill(pcp, 1, MIGRATE_UNMOVABLE, [10, 12])
    fill(pcp, 9, MIGRATE_MOVABLE, [512])
    fill(pcp, 9, MIGRATE_RECLAIMABLE, [1024])

    taken = pcp.take_coldest(5, first=2)

    assert taken == [(3, 0, 2), (4, 0, 2), (10, 1, 0), (12, 1, 0)]  # pages in twos: one more than asked for
    assert pfns_of(pcp.take_coldest(1024, first=3)) == [1024, 512]
    assert pfns_of(pcp.take_coldest(99, first=14)) == [1, 2]
    assert pcp.count() == 0


def test_whole_pageblocks_that_are_not_movable_share_a_list() -> None:
    pcp = pcp_of(V6_1)
    fill(pcp, 9, MIGRATE_UNMOVABLE, [512])
    fill(pcp, 9, MIGRATE_RECLAIMABLE, [1024])
    fill(pcp, 9, MIGRATE_MOVABLE, [2048])

    assert pfns_of(pcp.take_coldest(1, first=14)) == [512]
    assert pfns_of(pcp.take_coldest(1, first=13)) == [2048]
    assert pcp.take_coldest(1, first=12) == [(1024, 9, -1)]  # of its pageblock's type, whatever that is


def test_before_v5_13_the_lists_take_turns_with_a_growing_quota() -> None:
    pcp = pcp_of(V5_7)
    for migratetype in range(3):
        fill(pcp, 0, migratetype, [migratetype * 100 + at for at in range(6)])

    assert pfns_of(pcp.take_coldest(7, first=0)) == [100, 200, 0, 101, 201, 1, 102]


def test_before_v5_13_an_empty_list_gives_its_turn_to_the_next_one() -> None:
    pcp = pcp_of(V5_7)
    fill(pcp, 0, MIGRATE_MOVABLE, [100, 101, 102])
    fill(pcp, 0, MIGRATE_UNMOVABLE, [0, 1, 2, 3, 4])

    # one of list 1; list 2 is empty, so two of list 0
    assert pfns_of(pcp.take_coldest(6, first=0)) == [100, 0, 1, 101, 2, 3]


def test_before_v5_13_the_only_list_that_holds_pages_is_taken_whole() -> None:
    pcp = pcp_of(V5_7)
    fill(pcp, 0, MIGRATE_UNMOVABLE, list(range(10)))

    assert pfns_of(pcp.take_coldest(8, first=0)) == list(range(8))
    assert pcp.count() == 2
