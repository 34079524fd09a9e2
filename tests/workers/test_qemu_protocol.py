"""The driver of QEMU's balloon against a thread that speaks qtest: what goes wrong, in milliseconds."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest
from fake_qemu import HINT, REPORTING, RINGS_BYTES, STATS, VERSION_1, FakeQemu

from pagealloc.memory import Memory, ZoneSpec
from pagealloc.sync import Sync
from workers.errors import DeviceGone, DeviceRefused, DeviceSilent
from workers.qemu import process
from workers.qemu.balloon import POISON_VAL, BalloonDriver
from workers.qemu.qtest import QTest
from workers.qemu.reporter import QemuReporter
from workers.qemu.virtio_mmio import DEVICE_ID, STATUS, VERSION
from workers.qemu.virtqueue import SplitQueue
from workers.reporters import load_reporter

RANGES = [(0, 4096), (1 << 22, 1 << 22), (1 << 30, 8192)]


@pytest.fixture
def build(sync: Sync) -> Iterator[Callable[..., tuple[FakeQemu, BalloonDriver]]]:
    """Build a fake QEMU, change it, and set the driver up against it."""
    fakes: list[FakeQemu] = []

    def make(
        change: Callable[[FakeQemu], object] = lambda fake: None, *, poison: int | None = None, **options: int
    ) -> tuple[FakeQemu, BalloonDriver]:
        fake = FakeQemu(sync, **options)
        fakes.append(fake)
        change(fake)
        return fake, BalloonDriver(QTest(fake.ours), fake, fake.rings, sync, poison=poison)

    yield make
    for fake in fakes:
        fake.end()
        fake.ours.close()


Build = Callable[..., tuple[FakeQemu, BalloonDriver]]


# -- what goes well --------------------------------------------------------------------------------------------


def test_a_batch_is_one_chain_of_ranges_behind_the_rings(build: Build) -> None:
    fake, driver = build()
    driver.discard(RANGES, None)
    assert fake.chains == [RANGES]
    assert not fake.ended


def test_a_batch_larger_than_the_queue_is_several_chains(build: Build) -> None:
    fake, driver = build(queue_max=4)
    ranges = [(at << 12, 4096) for at in range(10)]
    driver.discard(ranges, None)
    assert fake.chains == [ranges[:4], ranges[4:8], ranges[8:]]


def test_the_rings_indices_wrap_after_65536_chains(build: Build) -> None:
    fake, driver = build(queue_max=4)
    fake._seen = driver._ring._posted = (1 << 16) - 2
    for at in range(4):
        driver.discard([(at, 4096)], None)
    assert fake.chains == [[(at, 4096)] for at in range(4)]


@pytest.mark.parametrize(("also", "queue"), [(0, 2), (STATS, 3), (HINT, 3), (STATS | HINT, 4)])
def test_queues_are_numbered_over_what_is_offered(build: Build, also: int, queue: int) -> None:
    fake, driver = build(features=REPORTING | VERSION_1 | also)
    assert fake.reporting_queue() == queue
    driver.discard(RANGES, None)  # the fake holds the kick's queue against its own
    assert fake.chains == [RANGES]


def test_a_device_that_gives_back_behind_its_answer_is_waited_for(build: Build) -> None:
    fake, driver = build()
    looks = []

    def read(register: int) -> str:
        looks.append(register)
        if len(looks) == 3:
            fake.work()
        return f"OK {fake.read(register):#x}"

    fake.on_kick = lambda: "OK"
    fake.on_read = read
    driver.discard(RANGES, None)
    assert fake.chains == [RANGES]


def test_poison_is_told_when_it_is_wanted(build: Build) -> None:
    fake, _ = build(poison=0xAA, features=REPORTING | VERSION_1 | 1 << 4)
    assert fake.registers[POISON_VAL] == 0xAA
    fake, _ = build(features=REPORTING | VERSION_1 | 1 << 4)
    assert POISON_VAL not in fake.registers


# -- no device: bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "poison", "what"),
    [
        (VERSION_1, None, "does not offer free page reporting; it offers 0x100000000"),
        (REPORTING, None, "does not offer virtio 1;"),
        (REPORTING | VERSION_1, 1, "does not offer page poison;"),
    ],
)
def test_a_feature_that_is_missing_is_named(
    build: Build, features: int, poison: int | None, what: str
) -> None:
    with pytest.raises(DeviceRefused, match=what):
        build(features=features, poison=poison)


def read_as(register: int, answer: str) -> Callable[[FakeQemu], None]:
    """Have one register answer otherwise."""

    def change(fake: FakeQemu) -> None:
        fake.on_read = lambda at: answer if at == register else f"OK {fake.read(at):#x}"

    return change


@pytest.mark.parametrize(
    ("register", "answer", "what"),
    [
        (DEVICE_ID, "OK 0x2", "no virtio device 5 in 32 slots"),
        (VERSION, "OK 0x1", "virtio-mmio version 1, expected 2"),
        (STATUS, "OK 0x3", "refuses the features 0x100000020"),
        (DEVICE_ID, "FAIL Unknown command", "answered with 'FAIL Unknown command', expected OK"),
        (DEVICE_ID, "OK", "expected OK and a number"),
        (DEVICE_ID, "OK five", "expected OK and a number"),
        (DEVICE_ID, "hang up", "QEMU ended at once .exit status 1: no such machine"),
    ],
)
def test_a_device_that_is_none_is_bad_input(build: Build, register: int, answer: str, what: str) -> None:
    with pytest.raises(DeviceRefused, match=what):
        build(read_as(register, answer))


def test_a_queue_that_does_not_exist_is_bad_input(build: Build) -> None:
    with pytest.raises(DeviceRefused, match="no queue 2"):
        build(queue_max=0)


def test_whoever_is_refused_has_ended(sync: Sync) -> None:
    fake = FakeQemu(sync, features=VERSION_1)
    with pytest.raises(DeviceRefused):
        BalloonDriver(QTest(fake.ours), fake, fake.rings, sync)
    assert fake.ended
    assert fake.rings.closed


@pytest.mark.parametrize("missing", ["qemu-system-aarch64", "setpriv"])
def test_a_missing_program_is_bad_input_that_names_the_package(
    sync: Sync, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == missing else f"/bin/{name}")
    package = process.PACKAGE_OF[missing]
    with pytest.raises(DeviceRefused, match=f"reporter qemu: {missing} is not installed: .*{package}"):
        load_reporter("qemu", sync)


@pytest.mark.parametrize("ram", ["anonymous", None])
def test_memory_that_qemu_cannot_map_is_bad_input(
    sync: Sync, ram: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    with (
        Memory([ZoneSpec("Normal", 64)], ram=ram, sync=sync) as memory,  # type: ignore[arg-type]
        pytest.raises(DeviceRefused, match=f"RAM is {ram or 'absent'}, expected memfd"),
    ):
        QemuReporter(sync).start(memory)


# -- a batch that goes wrong: QEMU has ended before anybody hears of it ------------------------------------------


def kick_as(answer: str | None) -> Callable[[FakeQemu], None]:
    def change(fake: FakeQemu) -> None:
        fake.on_kick = lambda: answer

    return change


@pytest.mark.parametrize(
    ("change", "timeout_s", "error", "what"),
    [
        (kick_as("hang up"), None, DeviceGone, "QEMU has ended .exit status 1: no such machine"),
        (kick_as("FAIL out of order"), None, DeviceGone, "QEMU was killed: .*FAIL out of order"),
        (kick_as("ERR" + "x" * 9999), None, DeviceGone, "QEMU was killed: .*ERRx{77}'"),
        (kick_as(None), 0.02, DeviceSilent, "did not answer within 0.02 s, and was killed"),
        (kick_as("OK"), 0.02, DeviceSilent, "did not answer within 0.02 s"),
    ],
)
def test_a_batch_fails_only_when_qemu_has_ended(
    build: Build,
    change: Callable[[FakeQemu], None],
    timeout_s: float | None,
    error: type[Exception],
    what: str,
) -> None:
    fake, driver = build(change)
    with pytest.raises(error, match=what):
        driver.discard(RANGES, timeout_s)
    assert fake.ended


def test_a_device_that_breaks_is_no_device_any_more(build: Build) -> None:
    fake, driver = build()
    fake.on_kick = fake.break_down
    with pytest.raises(DeviceGone, match="its device broke"):
        driver.discard(RANGES, None)
    assert fake.ended


def test_without_a_timeout_a_batch_waits_until_qemu_is_ended(sync: Sync, build: Build) -> None:
    _, driver = build(kick_as(None))
    raised: list[Exception] = []

    def discard() -> None:
        try:
            driver.discard(RANGES, None)
        except DeviceGone as error:
            raised.append(error)

    worker = sync.spawn("worker", discard)
    assert not worker.join(0.05)
    driver.end()
    worker.join()
    assert len(raised) == 1


@pytest.mark.parametrize("ranges", [[(0, 0)], [(0, 1 << 32)]])
def test_a_range_that_would_break_the_device_never_reaches_it(
    build: Build, ranges: list[tuple[int, int]]
) -> None:
    fake, driver = build()
    with pytest.raises(ValueError, match=r"expected 1 \.\."):
        driver.discard(ranges, None)
    assert fake.chains == []


@pytest.mark.parametrize("count", [0, 5])
def test_a_chain_fits_its_queue(count: int) -> None:
    with pytest.raises(ValueError, match=f"a chain of {count} ranges, expected 1 .. 4"):
        SplitQueue(bytearray(RINGS_BYTES), 0, 4).post([(0, 4096)] * count)
