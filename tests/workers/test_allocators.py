"""Allocator threads: what they own stays theirs, what is damaged is named, and nothing is kept at the end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest

from pagealloc.gfp import GFP_ATOMIC, GFP_HIGHUSER_MOVABLE, GFP_KERNEL, GFP_RECLAIMABLE, GFP_ZERO
from pagealloc.memory import Memory, ZoneSpec
from pagealloc.sync import Sync
from pagealloc.sync_real import RealSync
from pagealloc.validate import validate
from workers.allocators import SEQUENCE_BITS, Allocator, Held, Load, Mix, Rhythm, stamp_owner

STEADY = (Rhythm(0.5, 0.05),)
ORDERS = Mix(((0, 3), 75), ((3, 6), 17), ((7, 10), 8))
REQUESTS = Mix(
    (GFP_HIGHUSER_MOVABLE, 60),
    (GFP_KERNEL, 20),
    (GFP_KERNEL | GFP_RECLAIMABLE, 10),
    (GFP_ATOMIC, 5),
    (GFP_KERNEL | GFP_ZERO, 5),
)


class Witness:
    """An audit that writes everything down; `enough` is set after so many allocations."""

    def __init__(self, enough_allocations: int = 1500) -> None:
        self.events: list[tuple[str, int, int, int]] = []
        self.violations: list[str] = []
        self.enough = threading.Event()
        self._enough_allocations = enough_allocations
        self._allocations = 0

    def allocated(self, pfn: int, order: int, stamp: int) -> None:
        self.events.append(("alloc", pfn, order, stamp))
        self._allocations += 1
        if self._allocations >= self._enough_allocations:
            self.enough.set()

    def freeing(self, pfn: int, order: int, stamp: int) -> None:
        self.events.append(("free", pfn, order, stamp))

    def violation(self, text: str) -> None:
        self.violations.append(text)


class Crew:
    """Some allocators over one memory, which nobody has started yet."""

    def __init__(self, memory: Memory, sync: Sync, count: int, rhythms: tuple[Rhythm, ...] = STEADY) -> None:
        self.memory = memory
        self.witness = Witness()
        self.stop = sync.event("stop")
        self.go = sync.event("go")
        self.go.set()
        self.inboxes: list[deque[Held]] = [deque() for _ in range(count)]
        load = Load(
            quota_pages=memory.nr_pages() // (2 * count),
            rhythms=rhythms,
            orders=ORDERS,
            requests=REQUESTS,
            towards=0.85,
            handover=0.1,
            inbox_max=1000,
        )
        self.allocators = [
            Allocator(
                number,
                memory,
                sync,
                sync.rng(number),
                sync.rng(99),
                load,
                audit=self.witness,
                inboxes=self.inboxes,
                stop=self.stop,
                go=self.go,
            )
            for number in range(count)
        ]


@pytest.fixture
def memory() -> Iterator[Memory]:
    with Memory([ZoneSpec("DMA32", 4096), ZoneSpec("Normal", 8192)]) as memory:
        yield memory


@pytest.fixture
def crew(memory: Memory, sync: Sync) -> Callable[..., Crew]:
    def build(count: int = 1, rhythms: tuple[Rhythm, ...] = STEADY) -> Crew:
        return Crew(memory, sync, count, rhythms)

    return build


def run_until_enough(
    crew: Crew, sync: Sync, join_all: Callable[..., None], also: Callable[[], None] = lambda: None
) -> None:
    threads = [sync.spawn(f"allocator-{a.number}", a.run) for a in crew.allocators]
    assert crew.witness.enough.wait(20.0)
    also()
    crew.stop.set()
    join_all(*threads)
    for allocator in crew.allocators:
        allocator.empty_inbox()
    crew.memory.drain_all_pages()


def assert_all_free(memory: Memory) -> None:
    for zone in memory.zones:
        census = validate(zone)
        assert census.problems == []
        assert census.free == zone.managed_pages


# -- a quiet life --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4])
def test_stamps_are_found_intact_and_stopping_frees_everything(
    crew: Callable[..., Crew], sync: Sync, join_all: Callable[..., None], count: int
) -> None:
    team = crew(count)
    run_until_enough(team, sync, join_all)
    assert team.witness.violations == []
    stats = [allocator.stats for allocator in team.allocators]
    assert sum(s.allocs for s in stats) >= 1500
    assert sum(s.allocs for s in stats) == sum(s.frees for s in stats)
    assert_all_free(team.memory)


def test_every_block_is_announced_with_a_stamp_of_its_own_and_freed_with_it(
    crew: Callable[..., Crew], sync: Sync, join_all: Callable[..., None], until: Callable[..., None]
) -> None:
    team = crew(2)

    def both_have_allocated() -> None:
        until(lambda: all(allocator.stats.allocs for allocator in team.allocators), "both have allocated")

    run_until_enough(team, sync, join_all, also=both_have_allocated)
    allocated = [event[1:] for event in team.witness.events if event[0] == "alloc"]
    freed = [event[1:] for event in team.witness.events if event[0] == "free"]
    assert sorted(allocated) == sorted(freed)
    stamps = [stamp for _, _, stamp in allocated]
    assert len(set(stamps)) == len(stamps)
    assert {(stamp >> SEQUENCE_BITS) - 1 for stamp in stamps} == {0, 1}


def test_a_memory_without_ram_is_exercised_all_the_same(sync: Sync, join_all: Callable[..., None]) -> None:
    team = Crew(Memory([ZoneSpec("Normal", 8192)], ram=None), sync, 2)
    run_until_enough(team, sync, join_all)
    assert team.witness.violations == []
    assert_all_free(team.memory)


def test_a_full_memory_is_counted_and_survived(
    crew: Callable[..., Crew], sync: Sync, join_all: Callable[..., None], until: Callable[..., None]
) -> None:
    team = crew(1, (Rhythm(5.0, 10.0),))
    greedy = team.allocators[0]
    thread = sync.spawn("greedy", greedy.run)
    until(lambda: greedy.stats.failed_allocs > 10, "memory has run out")
    team.stop.set()
    join_all(thread)
    team.memory.drain_all_pages()
    assert team.witness.violations == []
    assert_all_free(team.memory)


def test_an_idle_rhythm_ends_at_once_when_told_to_stop(
    crew: Callable[..., Crew], sync: Sync, join_all: Callable[..., None], until: Callable[..., None]
) -> None:
    team = crew(1, (Rhythm(0.0, 3600.0, idle=True),))
    allocator = team.allocators[0]
    thread = sync.spawn("idle", allocator.run)
    until(lambda: allocator.resting, "the thread idles")
    team.stop.set()
    join_all(thread)
    assert allocator.stats.allocs == 0


def test_the_same_seed_makes_the_same_choices(sync: Sync) -> None:
    def choices(seed: int) -> list[tuple[int, int]]:
        memory = Memory([ZoneSpec("Normal", 8192)], ram=None)
        team = Crew(memory, sync, 1)
        allocator = team.allocators[0]
        allocator._rng = sync.rng(seed)
        for _ in range(50):
            allocator._allocate()
        return [(pfn, order) for _, pfn, order, _ in team.witness.events]

    assert choices(3) == choices(3)
    assert choices(3) != choices(4)


def test_a_mix_draws_everything_in_it_about_as_often_as_its_weight_says(sync: Sync) -> None:
    rng = sync.rng(1)
    drawn = [Mix(("often", 3), ("seldom", 1)).draw(rng) for _ in range(4000)]
    assert set(drawn) == {"often", "seldom"}
    assert 2800 < drawn.count("often") < 3200


def test_the_orders_allocated_are_those_of_the_load(crew: Callable[..., Crew]) -> None:
    team = crew()
    allocator = team.allocators[0]
    allocator.load = replace(allocator.load, orders=Mix(((1, 2), 1), ((5, 5), 1)))
    for _ in range(200):
        allocator._allocate()
    assert {order for _, _, order, _ in team.witness.events} == {1, 2, 5}
    allocator.free_everything()


def test_another_load_is_followed_while_the_thread_runs(
    crew: Callable[..., Crew], sync: Sync, join_all: Callable[..., None], until: Callable[..., None]
) -> None:
    team = crew(1, (Rhythm(0.5, 3600.0),))
    allocator = team.allocators[0]
    thread = sync.spawn("follower", allocator.run)
    until(lambda: allocator._held_pages > 1000, "the thread holds something")
    allocator.load = replace(allocator.load, rhythms=[Rhythm(0.0, 3600.0, idle=True)])
    until(lambda: allocator.resting, "the thread has freed everything and idles")
    assert allocator._held_pages == 0
    team.stop.set()
    join_all(thread)


def test_a_thread_that_may_not_go_on_rests_until_it_may(
    crew: Callable[..., Crew], sync: Sync, join_all: Callable[..., None], until: Callable[..., None]
) -> None:
    team = crew(1, (Rhythm(0.5, 3600.0),))
    allocator = team.allocators[0]
    team.go.clear()
    thread = sync.spawn("stutterer", allocator.run)
    until(lambda: allocator.resting, "the thread rests")
    assert allocator.stats.allocs == 0
    team.go.set()
    assert team.witness.enough.wait(20.0)
    team.stop.set()
    join_all(thread)


def test_a_thread_may_come_back_when_it_has_gone(
    crew: Callable[..., Crew], sync: Sync, join_all: Callable[..., None]
) -> None:
    team = crew(1)
    run_until_enough(team, sync, join_all)
    before = team.allocators[0].stats.allocs
    team.stop.clear()
    team.witness.enough.clear()
    run_until_enough(team, sync, join_all)
    assert team.allocators[0].stats.allocs > before
    assert team.witness.violations == []
    assert_all_free(team.memory)


def test_threads_that_look_at_their_pages_at_once_do_not_disturb_each_other(
    run_together: Callable[..., None],
) -> None:
    """Views of one buffer are counted; without a GIL, a count that threads share must not be lost."""
    memory = Memory([ZoneSpec("Normal", 4096)])
    ram = memory.ram
    assert ram is not None

    def look(first_pfn: int) -> None:
        for number in range(30_000):
            assert ram.page_words(first_pfn + number % 512, 0).tolist() == [0]

    run_together(*[partial(look, ram.start_pfn + 1024 * thread) for thread in range(4)])
    memory.close()


# -- damage --------------------------------------------------------------------------------------------------


def one_block(team: Crew, order: int) -> Held:
    allocator = team.allocators[0]
    while True:
        allocator._allocate()
        if allocator._held[-1].order == order:
            return allocator._held[-1]
        assert allocator.stats.allocs < 2000


def test_a_wiped_stamp_is_reported_with_its_owner_in_words(crew: Callable[..., Crew]) -> None:
    team = crew()
    block = one_block(team, 2)
    ram = team.memory.ram
    assert ram is not None
    ram.discard(ram.offset(block.pfn + 1), 4096)
    team.allocators[0].free_everything()
    number = block.stamp & ((1 << SEQUENCE_BITS) - 1)
    expected = (
        f"lost data: pfn {block.pfn + 1:#x}, page 1 of the block of order 2 at pfn {block.pfn:#x}, belongs to "
        f"allocator 0, its block number {number}, but bears the stamp of nothing (it reads zero: the memory was "
        "given back); 1 of 4 pages are wrong"
    )
    assert team.witness.violations == [expected]


def test_a_foreign_stamp_is_reported_with_both_owners(crew: Callable[..., Crew]) -> None:
    team = crew()
    block = one_block(team, 0)
    assert team.memory.ram is not None
    team.memory.ram.page_words(block.pfn, 0)[0] = (7 + 1) << SEQUENCE_BITS | 42
    team.allocators[0].free_everything()
    assert len(team.witness.violations) == 1
    assert "belongs to allocator 0" in team.witness.violations[0]
    assert "bears the stamp of allocator 7, its block number 42" in team.witness.violations[0]


def test_every_page_of_a_block_is_looked_at(crew: Callable[..., Crew]) -> None:
    team = crew()
    block = one_block(team, 3)
    assert team.memory.ram is not None
    words = team.memory.ram.page_words(block.pfn, 3)
    for page in (2, 7):
        words[page] = 0
    del words
    team.allocators[0].free_everything()
    assert "page 2 of the block of order 3" in team.witness.violations[0]
    assert "2 of 8 pages are wrong" in team.witness.violations[0]


def test_memory_that_was_asked_for_zeroed_and_is_not_is_reported(
    crew: Callable[..., Crew], monkeypatch: pytest.MonkeyPatch
) -> None:
    team = crew()
    ram = team.memory.ram
    assert ram is not None
    ram.view(ram.start_pfn, 13)[:] = b"\xff" * (4096 << 13)
    monkeypatch.setattr(type(ram), "zero", lambda _ram, _pfn, _order: None)
    allocator = team.allocators[0]
    while not team.witness.violations:
        allocator._allocate()
        allocator._free_some()
        assert allocator.stats.allocs < 2000
    assert "a page asked for zeroed is not zero" in team.witness.violations[0]
    allocator.free_everything()


@pytest.mark.parametrize(
    ("stamp", "words"),
    [
        (0, "nothing (it reads zero: the memory was given back)"),
        (1 << SEQUENCE_BITS | 1, "allocator 0, its block number 1"),
        (13 << SEQUENCE_BITS | 900, "allocator 12, its block number 900"),
    ],
)
def test_a_stamp_says_whose_it_is(stamp: int, words: str) -> None:
    assert stamp_owner(stamp) == words


# -- handing over --------------------------------------------------------------------------------------------


def test_a_block_handed_over_is_freed_by_the_thread_that_got_it(
    crew: Callable[..., Crew], sync: Sync, join_all: Callable[..., None]
) -> None:
    team = crew(2)
    giver, taker = team.allocators

    for _ in range(20):
        giver._allocate()
    draws = RealSync().rng(1)
    draws.random = lambda: 0.0  # hands over whenever it may
    giver._rng = draws
    while giver._held:
        giver._free_some()
    assert giver.stats.handed_over == 20
    assert giver._held_pages == 0
    assert len(team.inboxes[1]) == 20
    join_all(sync.spawn("taker", taker.empty_inbox))
    assert (giver.stats.frees, taker.stats.frees) == (0, 20)
    assert team.witness.violations == []
    team.memory.drain_all_pages()
    assert_all_free(team.memory)


def test_a_full_inbox_gets_no_more(crew: Callable[..., Crew]) -> None:
    team = crew(2)
    giver = team.allocators[0]
    giver.load = replace(giver.load, handover=1.0, inbox_max=3)
    for _ in range(20):
        giver._allocate()
    while giver._held:
        giver._free_some()
    assert (len(team.inboxes[1]), giver.stats.handed_over, giver.stats.frees) == (3, 3, 17)
    team.allocators[1].empty_inbox()


def test_threads_do_hand_blocks_to_each_other(
    crew: Callable[..., Crew], sync: Sync, join_all: Callable[..., None]
) -> None:
    team = crew(3)
    run_until_enough(team, sync, join_all)
    assert sum(allocator.stats.handed_over for allocator in team.allocators) > 0
    assert not any(team.inboxes)
    assert_all_free(team.memory)


def test_a_lone_thread_hands_over_nothing(
    crew: Callable[..., Crew], sync: Sync, join_all: Callable[..., None]
) -> None:
    team = crew(1)
    run_until_enough(team, sync, join_all)
    assert team.allocators[0].stats.handed_over == 0


def test_a_damaged_block_is_found_by_the_thread_that_got_it(crew: Callable[..., Crew]) -> None:
    team = crew(2)
    block = one_block(team, 1)
    team.allocators[0]._held.remove(block)
    team.inboxes[1].append(block)
    ram = team.memory.ram
    assert ram is not None
    ram.discard(ram.offset(block.pfn), 8192)
    team.allocators[1].empty_inbox()
    assert "belongs to allocator 0" in team.witness.violations[0]
    assert "2 of 2 pages are wrong" in team.witness.violations[0]
