"""What a kernel must keep: each rule on batches that keep it and on batches that do not."""

from __future__ import annotations

import pytest

from stress.host.contract import Contract, Range

MIB = 1 << 20
BLOCK = 4 * MIB  # order 10


class Watched(Contract):
    """A contract over memory of which `touched` ranges were written to since they were given back."""

    def __init__(self, order: int = 10, capacity: int = 32) -> None:
        self.touched: set[Range] = set()
        super().__init__(lambda each: each not in self.touched, order=order, capacity=capacity, delay_s=2.0)


@pytest.fixture
def contract() -> Watched:
    return Watched()


def blocks(*numbers: int) -> list[Range]:
    return [(number * BLOCK, BLOCK) for number in numbers]


def test_batches_of_a_pass_follow_at_once_and_the_next_pass_after_the_delay(contract: Watched) -> None:
    for batch, at_s in enumerate((0.0, 0.1, 0.2, 2.3, 2.4, 9.0), 1):
        assert contract.begin(batch, at_s, blocks(batch)) == []
        contract.end(batch, at_s + 0.05, blocks(batch))
    assert contract.passes == 3
    assert contract.in_flight_max == 1


@pytest.mark.parametrize(
    ("pause_s", "wrong"), [(0.9, False), (1.1, True), (1.9, True), (1.96, False), (2.0, False)]
)
def test_a_pass_never_begins_before_its_delay(contract: Watched, pause_s: float, wrong: bool) -> None:
    contract.begin(1, 0.0, blocks(1))
    contract.end(1, 10.0, blocks(1))
    found = contract.begin(2, 10.0 + pause_s, blocks(2))
    assert found == (
        [f"batch 2: a pass begins {pause_s:.2f} s after the one before, expected 2 s or more"]
        if wrong
        else []
    )


def test_the_delay_counts_from_the_answer_not_from_the_batch(contract: Watched) -> None:
    contract.begin(1, 0.0, blocks(1))
    contract.end(1, 1.5, blocks(1))
    assert contract.begin(2, 1.6, blocks(2)) == []
    assert contract.passes == 1


@pytest.mark.parametrize(
    ("count", "wrong"), [(1, []), (32, []), (33, ["batch 1: it has 33 ranges, expected 32 at most"])]
)
def test_a_batch_has_no_more_ranges_than_its_capacity(
    contract: Watched, count: int, wrong: list[str]
) -> None:
    assert contract.begin(1, 0.0, blocks(*range(count))) == wrong


@pytest.mark.parametrize(
    ("each", "what"),
    [
        ((0, 0), "no block of a power of two pages"),
        ((0, 4096 + 512), "no block of a power of two pages"),
        ((0, 3 * BLOCK), "no block of a power of two pages"),
        ((BLOCK // 2, BLOCK), "not aligned to its size"),
        ((0, BLOCK // 2), "is of order 9, expected 10 or more"),
    ],
)
def test_a_range_is_a_block_of_the_buddy_allocator(contract: Watched, each: Range, what: str) -> None:
    (found,) = contract.begin(1, 0.0, [each])
    assert what in found


def test_larger_blocks_than_the_order_are_fine() -> None:
    assert Watched(order=5).begin(1, 0.0, [(0, BLOCK), (BLOCK, 128 << 10)]) == []


@pytest.mark.parametrize(
    "ranges",
    [
        blocks(1, 1),
        [(0, 2 * BLOCK), (BLOCK, BLOCK)],
        [(BLOCK, BLOCK), (0, 4 * BLOCK), (3 * BLOCK, BLOCK)],
    ],
)
def test_ranges_of_a_batch_do_not_overlap(contract: Watched, ranges: list[Range]) -> None:
    found = contract.begin(1, 0.0, ranges)
    assert any("is in flight already" in text for text in found)


def test_ranges_do_not_overlap_with_what_is_in_flight(contract: Watched) -> None:
    assert contract.begin(1, 0.0, blocks(1, 2, 3)) == []
    assert contract.begin(2, 0.0, blocks(4, 5)) == []
    (found,) = contract.begin(3, 0.0, blocks(6, 2))
    assert found == f"batch 3: {2 * BLOCK:#x} is in flight already, up to {3 * BLOCK - 1:#x}"
    assert contract.in_flight_max == 3
    contract.end(1, 0.1, blocks(1, 2, 3))
    contract.touched.update(blocks(1))
    assert contract.begin(4, 0.1, blocks(1)) == []


def report(contract: Contract, batch: int, ranges: list[Range]) -> list[str]:
    found = contract.begin(batch, batch * 3.0, ranges)
    contract.end(batch, batch * 3.0, ranges)
    return found


def test_a_whole_batch_that_comes_again_untouched_has_lost_its_flags(contract: Watched) -> None:
    assert report(contract, 1, blocks(*range(8))) == []
    (found,) = report(contract, 2, blocks(*range(8)))
    assert "all of its 8 ranges were reported before and not written to since, the first at 0x0" in found
    assert contract.again_untouched == 8


def test_what_was_written_to_may_come_again(contract: Watched) -> None:
    report(contract, 1, blocks(*range(8)))
    contract.touched.update(blocks(3))
    assert report(contract, 2, blocks(*range(8))) == [], "one of them was in use"
    assert contract.again_untouched == 7


def test_few_that_come_again_untouched_are_counted_and_no_more(contract: Watched) -> None:
    """A block may have been allocated and freed without a byte written to it."""
    report(contract, 1, blocks(1, 2, 3))
    assert report(contract, 2, blocks(1, 2, 3)) == []
    assert contract.again_untouched == 3


def test_a_block_that_merged_with_its_buddy_is_another_block(contract: Watched) -> None:
    report(contract, 1, blocks(*range(8)))
    assert report(contract, 2, [(at * BLOCK, 2 * BLOCK) for at in range(0, 16, 2)]) == []
    assert contract.again_untouched == 0


def test_what_the_host_kept_may_come_again(contract: Watched) -> None:
    contract.begin(1, 0.0, blocks(*range(8)))
    contract.end(1, 0.0, [])
    assert report(contract, 2, blocks(*range(8))) == []
