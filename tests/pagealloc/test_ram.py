"""Bytes that really come from the operating system and really go back, of both kinds."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from pagealloc import PAGE_SIZE, Ram, RamError
from pagealloc.ram import RamKind

START_PFN = 1024
NR_PAGES = 4096
NR_BYTES = NR_PAGES * PAGE_SIZE
HALF = NR_BYTES // 2


@pytest.fixture(params=["anonymous", "memfd"])
def ram(request: pytest.FixtureRequest) -> Iterator[Ram]:
    kind: RamKind = request.param
    ram = Ram(START_PFN, NR_PAGES, kind)
    yield ram
    ram.close()


@pytest.fixture
def memfd() -> Iterator[Ram]:
    ram = Ram(START_PFN, NR_PAGES, "memfd")
    yield ram
    ram.close()


def touch(ram: Ram, offset: int = 0, nr_bytes: int = NR_BYTES) -> None:
    for at in range(offset, offset + nr_bytes, PAGE_SIZE):
        ram.memory[at] = 0xA5


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# -- taking and giving back ----------------------------------------------------------------------------


def test_untouched_memory_costs_nothing_and_reads_zero(ram: Ram) -> None:
    assert ram.resident_bytes() == 0
    assert not any(ram.view(START_PFN))


def test_touched_memory_is_resident(ram: Ram) -> None:
    touch(ram)

    assert ram.resident_bytes() == NR_BYTES


def test_a_discarded_range_is_no_longer_resident_and_reads_zero(ram: Ram) -> None:
    touch(ram)
    ram.discard(0, HALF)

    assert ram.resident_bytes() == HALF
    assert not any(ram.memory[:HALF])
    assert ram.memory[HALF:].tobytes().count(0xA5) == NR_PAGES // 2


def test_a_discard_spares_its_neighbours(ram: Ram) -> None:
    touch(ram)
    ram.discard(ram.offset(START_PFN + 7), PAGE_SIZE)

    assert [ram.view(START_PFN + page)[0] for page in (6, 7, 8)] == [0xA5, 0, 0xA5]


def test_discarded_memory_can_be_written_again(ram: Ram) -> None:
    touch(ram)
    ram.discard(0, NR_BYTES)
    assert ram.resident_bytes() == 0

    touch(ram, HALF, HALF)
    assert ram.memory[HALF] == 0xA5
    assert ram.resident_bytes() >= HALF


def test_discarding_twice_is_like_discarding_once(ram: Ram) -> None:
    touch(ram)
    for _ in range(2):
        ram.discard(0, HALF)

    assert ram.resident_bytes() == HALF


def test_the_resident_bytes_of_a_range_are_counted_page_by_page(ram: Ram) -> None:
    assert ram.resident_in(0, NR_BYTES) == 0
    for page in (0, 1, 7, NR_PAGES - 1):
        touch(ram, page * PAGE_SIZE, PAGE_SIZE)
    assert ram.resident_in(0, NR_BYTES) == 4 * PAGE_SIZE
    assert ram.resident_in(0, PAGE_SIZE) == PAGE_SIZE
    assert ram.resident_in(PAGE_SIZE, 6 * PAGE_SIZE) == PAGE_SIZE
    assert ram.resident_in(2 * PAGE_SIZE, 5 * PAGE_SIZE) == 0
    assert ram.resident_in(8 * PAGE_SIZE, (NR_PAGES - 9) * PAGE_SIZE) == 0
    assert ram.resident_in(NR_BYTES - PAGE_SIZE, PAGE_SIZE) == PAGE_SIZE


def test_a_range_that_was_given_back_in_part_has_the_rest(ram: Ram) -> None:
    touch(ram)
    ram.discard(0, HALF)
    assert ram.resident_in(0, HALF) == 0
    assert ram.resident_in(HALF - PAGE_SIZE, 3 * PAGE_SIZE) == 2 * PAGE_SIZE
    assert ram.resident_in(0, NR_BYTES) == HALF


def test_asking_what_is_resident_makes_nothing_resident(ram: Ram) -> None:
    ram.resident_in(0, NR_BYTES)
    assert ram.resident_bytes() == 0


@pytest.mark.parametrize(
    ("offset", "nr_bytes"), [(-PAGE_SIZE, PAGE_SIZE), (0, NR_BYTES + 1), (NR_BYTES, 1), (0, 0)]
)
def test_a_range_outside_is_not_asked_about(ram: Ram, offset: int, nr_bytes: int) -> None:
    with pytest.raises(RamError, match="is not within"):
        ram.resident_in(offset, nr_bytes)


@pytest.mark.parametrize(
    ("offset", "nr_bytes"),
    [(-PAGE_SIZE, PAGE_SIZE), (0, 0), (0, -PAGE_SIZE), (0, NR_BYTES + PAGE_SIZE), (NR_BYTES, PAGE_SIZE)],
)
def test_a_range_outside_is_not_discarded(ram: Ram, offset: int, nr_bytes: int) -> None:
    touch(ram)
    with pytest.raises(RamError, match="is not within"):
        ram.discard(offset, nr_bytes)

    assert ram.memory.tobytes().count(0xA5) == NR_PAGES


def test_what_the_operating_system_refuses_is_an_error_with_its_reason() -> None:
    ram = Ram(START_PFN, NR_PAGES)
    with pytest.raises(RamError, match=r"madvise\(MADV_DONTNEED\) at 0x1: Invalid argument \(errno 22\)"):
        ram.discard(1, PAGE_SIZE)
    ram.close()


def test_memory_that_nobody_has_is_refused() -> None:
    with pytest.raises(RamError, match="no anonymous mapping of"):
        Ram(0, 1 << 40)


def test_a_file_that_cannot_be_so_large_is_refused_and_closed() -> None:
    before = open_descriptors()
    with pytest.raises(RamError, match="no memfd mapping of"):
        Ram(0, 1 << 50, "memfd")

    assert open_descriptors() == before


# -- looking at pages ----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [-1, 52, 4 << 20])
def test_a_length_that_is_taken_for_an_order_is_one_short_line(ram: Ram, order: int) -> None:
    with pytest.raises(RamError, match="expected a block's pfn and order") as error:
        ram.view(0, order)
    assert len(str(error.value)) < 200


def test_a_view_is_the_block_and_writes_through(ram: Ram) -> None:
    view = ram.view(START_PFN + 4, 2)
    view[:5] = b"hello"

    assert len(view) == 4 * PAGE_SIZE
    assert ram.memory[4 * PAGE_SIZE :][:5].tobytes() == b"hello"
    view.release()


def test_the_words_of_a_block_are_the_first_of_every_page(ram: Ram) -> None:
    words = ram.page_words(START_PFN + 4, 2)
    words[2] = 0x0102030405060708

    assert len(words) == 4
    assert int.from_bytes(ram.view(START_PFN + 6)[:8], sys.byteorder) == 0x0102030405060708
    assert ram.memory.tobytes().count(0) == NR_BYTES - 8
    words.release()


def test_zeroing_a_block_spares_its_neighbours(ram: Ram) -> None:
    for page in range(3, 9):
        ram.view(START_PFN + page)[:] = b"\xff" * PAGE_SIZE
    ram.zero(START_PFN + 4, 2)

    assert not any(ram.view(START_PFN + 4, 2))
    for page in (3, 8):
        assert ram.view(START_PFN + page).tobytes() == b"\xff" * PAGE_SIZE


def test_zeroing_reaches_the_end_of_a_large_block(ram: Ram) -> None:
    """8 MiB are zeroed in pieces."""
    ram.memory[:] = b"\xff" * NR_BYTES
    ram.zero(START_PFN, 11)

    assert ram.memory.tobytes().count(0) == PAGE_SIZE << 11


def test_threads_may_look_at_pages_at_the_same_time(ram: Ram, run_together: Callable[..., None]) -> None:
    """Each has pages of its own; views are only looked through, yet nobody's fails, and the end can come."""

    def look(pfn: int) -> None:
        for value in range(10_000):
            with ram.page_words(pfn, 1) as words:
                words[1] = value
            with ram.view(pfn + 1) as view:
                assert int.from_bytes(view[:8], sys.byteorder) == value

    run_together(*[partial(look, START_PFN + 2 * number) for number in range(4)])
    ram.close()
    with pytest.raises(RamError, match="not within"):
        ram.view(START_PFN)


# -- the end -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["anonymous", "memfd"])
def test_a_page_that_is_looked_at_after_the_end_reads_as_zero(kind: RamKind) -> None:
    ram = Ram(START_PFN, NR_PAGES, kind)
    view = ram.view(START_PFN)
    view[0] = 1
    ram.close()
    ram.close()
    assert view[0] == 0
    view[0] = 2
    assert view[0] == 2
    with pytest.raises(RamError, match="not within"):
        ram.view(START_PFN)


def test_closing_a_memfd_closes_its_descriptor() -> None:
    ram = Ram(START_PFN, NR_PAGES, "memfd")
    fd = ram.fd
    ram.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)

    assert ram.fd == -1


# -- other processes -----------------------------------------------------------------------------------

CHILD = textwrap.dedent(
    """
    import mmap, sys
    fd, nr_bytes, at = map(int, sys.argv[1:])
    shared = mmap.mmap(fd, nr_bytes)
    assert shared[at : at + 5] == b"hello", shared[at : at + 5]
    shared[at : at + 5] = b"world"
    """
)


def test_a_child_process_maps_the_memfd_that_it_inherits(memfd: Ram) -> None:
    memfd.view(START_PFN + 9)[:5] = b"hello"
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(memfd.fd), str(NR_BYTES), str(memfd.offset(START_PFN + 9))],
        pass_fds=(memfd.fd,),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert memfd.view(START_PFN + 9)[:5].tobytes() == b"world"


def test_a_memfd_opened_by_its_path_is_the_same_memory(memfd: Ram) -> None:
    fd = os.open(f"/proc/self/fd/{memfd.fd}", os.O_RDWR)
    with mmap.mmap(fd, NR_BYTES) as shared:
        shared[3 * PAGE_SIZE] = 7
        assert memfd.view(START_PFN + 3)[0] == 7

        memfd.discard(0, NR_BYTES)
        assert shared[3 * PAGE_SIZE] == 0
    os.close(fd)


def test_a_child_process_does_not_inherit_the_memfd_unasked(memfd: Ram) -> None:
    assert not os.get_inheritable(memfd.fd)


def test_anonymous_memory_has_no_descriptor() -> None:
    ram = Ram(START_PFN, NR_PAGES)

    assert ram.fd == -1
    ram.close()
