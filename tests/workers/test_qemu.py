"""QEMU itself as the host: what its device does with our batches, and with us when something goes wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pagealloc.memory import Memory, ZoneSpec
from pagealloc.mmzone import PAGE_SIZE
from pagealloc.sync import Sync, Thread
from workers.child import Child
from workers.errors import DeviceGone, DeviceRefused, DeviceSilent
from workers.page_reporting import Block
from workers.qemu.reporter import QemuReporter

pytestmark = pytest.mark.needs("qemu")

NR_BLOCKS, ORDER = 64, 5
BLOCK_BYTES = PAGE_SIZE << ORDER
NR_BYTES = NR_BLOCKS * BLOCK_BYTES

Until = Callable[[Callable[[], bool], str], None]


@pytest.fixture
def memory(sync: Sync) -> Iterator[Memory]:
    """64 blocks of order 5, every byte of them written."""
    with Memory([ZoneSpec("Normal", NR_BLOCKS << ORDER)], ram="memfd", sync=sync) as memory:
        fill(memory)
        yield memory


def fill(memory: Memory) -> None:
    assert memory.ram is not None
    memory.ram.memory[:] = b"x" * memory.ram.nr_bytes


@pytest.fixture
def start(sync: Sync, memory: Memory) -> Iterator[Callable[..., QemuReporter]]:
    """Start reporters that are closed in the end."""
    started: list[QemuReporter] = []

    def make(timeout_s: float = 0.0, **options: object) -> QemuReporter:
        reporter = QemuReporter(sync, timeout_s, **options)  # type: ignore[arg-type]
        started.append(reporter)
        reporter.start(memory)
        return reporter

    yield make
    for reporter in started:
        reporter.close()


Start = Callable[..., QemuReporter]


def blocks(*numbers: int, length: int = BLOCK_BYTES) -> list[Block]:
    return [Block(number << ORDER, ORDER, number * BLOCK_BYTES, length) for number in numbers]


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


EVEN, ODD = blocks(*range(0, NR_BLOCKS, 2)), blocks(*range(1, NR_BLOCKS, 2))


def report(reporter: QemuReporter, memory: Memory, batch: list[Block]) -> None:
    reporter.report(memory.zones[0], batch)


def pid_of(reporter: QemuReporter) -> int:
    assert reporter.process is not None
    return reporter.process.pid


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"


def report_in_the_background(
    sync: Sync, reporter: QemuReporter, memory: Memory, batch: list[Block]
) -> tuple[Thread, list[Exception | None]]:
    outcomes: list[Exception | None] = []

    def body() -> None:
        try:
            report(reporter, memory, batch)
        except Exception as error:
            outcomes.append(error)
        else:
            outcomes.append(None)

    return sync.spawn("worker", body), outcomes


# -- what goes well --------------------------------------------------------------------------------------------


def test_the_device_gives_back_the_blocks_of_a_batch_and_no_others(memory: Memory, start: Start) -> None:
    report(start(), memory, EVEN)
    assert memory.ram is not None
    assert memory.resident_bytes() == NR_BYTES // 2
    for number in range(NR_BLOCKS):
        byte = memory.ram.memory[number * BLOCK_BYTES]
        assert byte == (0 if number % 2 == 0 else ord("x"))


def test_a_batch_larger_than_the_queue_is_given_back_whole(memory: Memory, start: Start) -> None:
    pages = [Block(pfn, 0, pfn * PAGE_SIZE, PAGE_SIZE) for pfn in range(NR_BLOCKS << ORDER)]
    assert len(pages) == 2048  # two queues full
    report(start(), memory, pages)
    assert memory.resident_bytes() == 0


@pytest.mark.parametrize("pages", [1, 255, 3 << 18])
def test_memory_of_any_size_is_mapped_whole(sync: Sync, pages: int) -> None:
    with Memory([ZoneSpec("Normal", pages, start_pfn=4096)], ram="memfd", sync=sync) as memory:
        assert memory.ram is not None
        memory.ram.memory[-1] = 1
        reporter = QemuReporter(sync)
        reporter.start(memory)
        offset = (pages - 1) * PAGE_SIZE
        reporter.report(memory.zones[0], [Block(4096 + pages - 1, 0, offset, PAGE_SIZE)])
        reporter.close()
        assert memory.ram.memory[-1] == 0


def test_a_reporter_that_was_closed_leaves_nothing_and_can_be_started_again(
    memory: Memory, start: Start
) -> None:
    reporter = start()
    reporter.close()
    before = descriptors()
    for _ in range(3):
        reporter.start(memory)
        pid = pid_of(reporter)
        report(reporter, memory, EVEN)
        reporter.close()
        assert not Path(f"/proc/{pid}").exists()
    assert descriptors() == before
    with pytest.raises(DeviceGone, match="takes no batches: it was closed"):
        report(reporter, memory, ODD)


# -- QEMU acknowledges, and keeps ----------------------------------------------------------------------------------


def test_with_page_poison_the_device_keeps_what_it_acknowledges(memory: Memory, start: Start) -> None:
    report(start(poison=0xAA), memory, EVEN)
    assert memory.resident_bytes() == NR_BYTES


def test_a_poison_of_zero_is_none(memory: Memory, start: Start) -> None:
    report(start(poison=0), memory, EVEN + ODD)
    assert memory.resident_bytes() == 0


def test_what_is_not_aligned_is_acknowledged_and_kept(memory: Memory, start: Start) -> None:
    shifted = [block._replace(offset=block.offset + 512) for block in EVEN]
    report(start(), memory, shifted)
    report(start(), memory, blocks(*range(NR_BLOCKS), length=512))
    assert memory.resident_bytes() == NR_BYTES


def test_a_range_beyond_the_ram_is_acknowledged_and_the_others_are_given_back(
    memory: Memory, start: Start
) -> None:
    report(start(), memory, [*EVEN, Block(0, 0, NR_BYTES + (1 << 30), PAGE_SIZE)])
    assert memory.resident_bytes() == NR_BYTES // 2


def test_two_ranges_beyond_the_ram_break_the_device(memory: Memory, start: Start) -> None:
    beyond = [Block(0, 0, NR_BYTES + (at << 30), PAGE_SIZE) for at in (1, 2)]
    with pytest.raises(DeviceGone, match="its device broke"):
        report(start(), memory, [*EVEN, *beyond])
    assert memory.resident_bytes() == NR_BYTES


# -- no such device ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "what"),
    [
        ("virtio-balloon-device", "reporter qemu: the device does not offer free page reporting"),
        ("virtio-rng-device", "no virtio device 5 in 32 slots"),
        ("no-such-device", "QEMU ended at once .exit status 1: .*'no-such-device' is not a valid device"),
    ],
)
def test_what_is_missing_is_said_before_the_first_batch(start: Start, device: str, what: str) -> None:
    with pytest.raises(DeviceRefused, match=what):
        start(device=device)


# -- QEMU dies or stops ------------------------------------------------------------------------------------------


def test_a_qemu_that_was_killed_fails_this_batch_and_all_others(memory: Memory, start: Start) -> None:
    reporter = start()
    os.kill(pid_of(reporter), signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(DeviceGone, match="SIGKILL"):
            report(reporter, memory, EVEN)
    assert memory.resident_bytes() == NR_BYTES


def test_a_qemu_that_is_killed_in_a_batch_fails_it(
    memory: Memory, sync: Sync, start: Start, until: Until
) -> None:
    reporter = start()
    pid = pid_of(reporter)
    os.kill(pid, signal.SIGSTOP)
    until(lambda: stopped(pid), "QEMU stops")
    worker, outcomes = report_in_the_background(sync, reporter, memory, EVEN)
    assert not worker.join(0.05)
    os.kill(pid, signal.SIGKILL)
    worker.join()
    assert isinstance(outcomes[0], DeviceGone)


def test_a_qemu_that_stops_for_a_while_is_waited_for(
    memory: Memory, sync: Sync, start: Start, until: Until
) -> None:
    reporter = start()
    pid = pid_of(reporter)
    os.kill(pid, signal.SIGSTOP)
    until(lambda: stopped(pid), "QEMU stops")
    worker, outcomes = report_in_the_background(sync, reporter, memory, EVEN + ODD)
    assert not worker.join(0.7)
    assert memory.resident_bytes() == NR_BYTES
    os.kill(pid, signal.SIGCONT)
    worker.join()
    assert outcomes == [None]
    assert memory.resident_bytes() == 0


def test_a_page_that_is_used_again_after_a_timeout_keeps_its_data(
    memory: Memory, start: Start, until: Until
) -> None:
    """What a reporter that gives up and returns loses: QEMU would do the batch when it goes on."""
    reporter = start(timeout_s=0.1)
    pid = pid_of(reporter)
    os.kill(pid, signal.SIGSTOP)
    until(lambda: stopped(pid), "QEMU stops")
    with pytest.raises(DeviceSilent, match=r"within 0\.1 s, and was killed"):
        report(reporter, memory, EVEN + ODD)
    assert not Path(f"/proc/{pid}").exists()
    assert memory.resident_bytes() == NR_BYTES


def test_a_reporter_that_gave_up_a_batch_while_qemu_lives_would_lose_data(
    memory: Memory, start: Start, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault that ending QEMU is against, planted."""
    reporter = start(timeout_s=0.1)
    pid = pid_of(reporter)
    os.kill(pid, signal.SIGSTOP)
    until(lambda: stopped(pid), "QEMU stops")
    with monkeypatch.context() as patch:
        patch.setattr(Child, "end", lambda self: None)
        with pytest.raises(DeviceSilent):
            report(reporter, memory, EVEN + ODD)
    os.kill(pid, signal.SIGCONT)
    until(lambda: memory.resident_bytes() == 0, "QEMU discards what it was told of before")


def test_closing_ends_a_batch_that_never_comes_back(
    memory: Memory, sync: Sync, start: Start, until: Until
) -> None:
    reporter = start()
    pid = pid_of(reporter)
    os.kill(pid, signal.SIGSTOP)
    until(lambda: stopped(pid), "QEMU stops")
    worker, outcomes = report_in_the_background(sync, reporter, memory, EVEN)
    assert not worker.join(0.05)
    reporter.close()
    worker.join()
    assert isinstance(outcomes[0], DeviceGone)
    assert not Path(f"/proc/{pid}").exists()


STARTS_QEMU = """
import sys
from pagealloc.memory import Memory, ZoneSpec
from pagealloc.sync_real import RealSync
from workers.qemu.reporter import QemuReporter

sync = RealSync()
memory = Memory([ZoneSpec("Normal", 1024)], ram="memfd", sync=sync)
reporter = QemuReporter(sync)
# On a thread that ends: QEMU belongs to the process.
sync.spawn("passes by", lambda: reporter.start(memory)).join()
print(reporter.process.pid, flush=True)
sys.stdin.read()
"""


def test_qemu_ends_with_whoever_started_it_whatever_ends_them(until: Until) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_QEMU], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        assert "qemu" in Path(f"/proc/{pid}/cmdline").read_text()
        starter.kill()

    def gone() -> bool:
        stat = Path(f"/proc/{pid}/stat")
        try:
            return stat.read_text().rpartition(")")[2].split()[0] == "Z"  # nobody may be there to bury it
        except FileNotFoundError:
            return True

    until(gone, "QEMU ends")
