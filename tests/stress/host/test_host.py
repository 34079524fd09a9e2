"""The device against a front end that the test is: the handshake, batches, manners, and what breaks the protocol."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_front import AVAIL, BLOCK, DESC, FRONT_ADDRESS, GPA, NR_BYTES, FakeFront

from pagealloc.sync import Sync
from stress.analysis.log import open_run
from stress.cli import main
from stress.errors import BadInput
from stress.host import wire
from stress.host.host import Host
from stress.host.manners import HostManners
from stress.host.serve_command import listen
from stress.lab.guest_log import read_guest_log

Told = list[tuple[object, ...]]


class Served:
    """A host on a thread of its own, with the front end at the other end of its connection."""

    def __init__(self, sync: Sync, manners: HostManners, *, order: int = 10) -> None:
        ours, theirs = socket.socketpair()
        self.front = FakeFront(theirs)
        self.told: Told = []
        self.host = Host(
            ours,
            sync,
            manners,
            lambda *event: self.told.append(event),
            lambda status: None,
            order=order,
            capacity=32,
            delay_s=2.0,
            seed=1,
        )
        self._thread = sync.spawn("host", self.host.serve)

    def end(self) -> Host:
        """Let the guest leave, and return the host when it has noticed."""
        self.front.connection.close()
        self._thread.join()
        return self.host

    def close(self) -> None:
        self.host._left = True  # a deaf device does not hear that the guest leaves
        self.end()
        self.front.close()

    def events(self, name: str) -> list[tuple[object, ...]]:
        return [event[1:] for event in self.told if event[0] == name]


Serve = Callable[..., Served]


@pytest.fixture
def serve(sync: Sync) -> Iterator[Serve]:
    served: list[Served] = []

    def make(*, hands: bool = True, order: int = 10, **manners: object) -> Served:
        one = Served(sync, HostManners(**manners), order=order)  # type: ignore[arg-type]
        served.append(one)
        if hands:
            one.front.shake_hands()
        return one

    yield make
    for one in served:
        one.close()


def blocks(*numbers: int) -> list[tuple[int, int]]:
    return [(GPA + number * BLOCK, BLOCK) for number in numbers]


# -- what goes well ----------------------------------------------------------------------------------------------


def test_what_is_offered_is_reporting_and_poison_and_no_hinting(serve: Serve) -> None:
    served = serve(hands=False)
    assert served.front.word(wire.GET_FEATURES) == 1 << 4 | 1 << 5 | 1 << 30 | 1 << 32
    assert served.front.word(wire.GET_PROTOCOL_FEATURES) == 1 << 3 | 1 << 5 | 1 << 9
    assert served.front.word(wire.GET_QUEUE_NUM) == 3


def test_reported_blocks_are_given_back_and_no_others(serve: Serve) -> None:
    served = serve()
    front = served.front
    front.fill(GPA, 8 * BLOCK)
    front.report(blocks(0, 2, 4))
    front.report(blocks(6))
    for number in range(8):
        assert front.memory[number * BLOCK] == (0 if number % 2 == 0 else ord("x"))
    host = served.end()
    assert host.violations == []
    status = host.status
    assert (status.batches, status.passes, status.reported_blocks, status.kept_blocks) == (2, 1, 4, 0)
    assert status.reported_bytes == 4 * BLOCK
    assert status.resident_bytes_peak - status.resident_bytes >= 0


def test_each_report_is_told_with_the_memory_before_and_after(serve: Serve) -> None:
    served = serve()
    served.front.fill(GPA, 2 * BLOCK)
    served.front.report(blocks(0, 1))
    served.end()
    ((batch, ranges, before, after, answer),) = served.events("guest_report")
    assert (batch, list(ranges), answer) == (1, blocks(0, 1), "given back")  # type: ignore[call-overload]
    assert before - after == 2 * BLOCK  # type: ignore[operator]
    assert served.events("page_reporting_report_begin") == [
        (1, 0, [(GPA >> 12, 10), (GPA + BLOCK >> 12, 10)])
    ]
    assert served.events("page_reporting_pass_begin") == [(1,)]
    assert served.events("sample")[-1][:2] == (served.host.status.resident_bytes, NR_BYTES)


def test_no_descriptor_is_left(serve: Serve) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = descriptors()
    served = serve()
    served.front.do(wire.SET_BACKEND_REQ_FD, fds=[served.front.call_fd])
    served.front.report(blocks(0))
    served.front.shake_hands()  # everything anew
    served.close()
    assert descriptors() == before


def test_what_the_kernel_does_not_keep_is_a_violation(serve: Serve) -> None:
    served = serve()
    served.front.report([(GPA + BLOCK // 2, BLOCK)])
    host = served.end()
    assert host.violations == [f"batch 1: {GPA + BLOCK // 2:#x} + {BLOCK:#x} is not aligned to its size"]
    assert served.events("violation") == [(host.violations[0],)]


def test_a_range_outside_of_the_guests_memory_is_a_violation(serve: Serve) -> None:
    served = serve()
    served.front.fill(GPA, BLOCK)
    served.front.report([(GPA + NR_BYTES, BLOCK), *blocks(0)])
    host = served.end()
    assert host.violations == [f"{GPA + NR_BYTES:#x} + {BLOCK:#x} is not within the guest's memory"]
    assert served.events("guest_report")[0][4] == "given back"


def test_a_guest_that_poisons_free_pages_keeps_them(serve: Serve) -> None:
    served = serve(hands=False)
    front = served.front
    front.shake_hands(1 << 4 | 1 << 5 | 1 << 32)
    front.do(wire.SET_CONFIG, wire.CONFIG_HEAD.pack(12, 4, 0) + (0xAA).to_bytes(4, "little"))
    answer = front.ask(wire.GET_CONFIG, wire.CONFIG_HEAD.pack(0, 16, 0) + bytes(16))
    assert struct.unpack_from("<IIII", answer, wire.CONFIG_HEAD.size) == (0, 0, 0, 0xAA)
    front.fill(GPA, BLOCK)
    front.report(blocks(0))
    assert front.memory[0] == ord("x")
    host = served.end()
    assert (host.status.kept_blocks, host.status.kept_bytes) == (1, BLOCK)
    assert host.notes == ["the guest poisons free pages: they are acknowledged and kept"]


def test_a_poison_of_zero_is_none(serve: Serve) -> None:
    served = serve(hands=False)
    served.front.shake_hands(1 << 4 | 1 << 5 | 1 << 32)
    served.front.fill(GPA, BLOCK)
    served.front.report(blocks(0))
    assert served.front.memory[0] == 0


# -- manners -----------------------------------------------------------------------------------------------------


def test_a_batch_that_fails_is_acknowledged_and_kept(serve: Serve) -> None:
    served = serve(fail_rate=1.0)
    served.front.fill(GPA, BLOCK)
    served.front.report(blocks(0))
    assert served.front.memory[0] == ord("x")
    host = served.end()
    assert (host.status.failed_batches, host.status.kept_blocks) == (1, 1)


def test_a_batch_that_is_held_is_in_flight_for_its_time(serve: Serve, sync: Sync) -> None:
    served = serve(hold=(0.2, 0.2))
    begin_s = sync.monotonic()
    served.front.report(blocks(0))
    assert sync.monotonic() - begin_s >= 0.2
    assert served.end().status.longest_flight_s >= 0.2


def test_a_batch_that_is_lost_was_given_back_and_never_comes(
    serve: Serve, until: Callable[..., None]
) -> None:
    served = serve(lose_rate=1.0)
    served.front.fill(GPA, BLOCK)
    served.front.post(blocks(0))
    until(lambda: served.front.memory[0] == 0, "the block is given back")
    assert not served.front.await_call(0.05)
    host = served.end()
    assert served.front.used() == []
    assert host.contract.in_flight == 1
    assert "1 batches were never answered" in host.notes


def test_a_garbled_answer_names_a_chain_that_nobody_has(serve: Serve) -> None:
    served = serve(garble_rate=1.0)
    served.front.report(blocks(0))
    assert served.front.used()[0] >= 64


def test_two_batches_are_answered_in_reverse(serve: Serve, until: Callable[..., None]) -> None:
    served = serve(reverse=2)
    served.front.post(blocks(0), head=0)
    served.front.post(blocks(1), head=8)
    until(lambda: len(served.front.used()) == 2, "both come back")
    assert served.front.used() == [8, 0]
    assert served.end().contract.in_flight_max == 2


def test_a_single_batch_is_answered_when_no_other_comes(serve: Serve) -> None:
    served = serve(reverse=2)
    served.front.report(blocks(0))
    assert served.front.used() == [0]


def test_a_deaf_device_reads_nothing_more(serve: Serve) -> None:
    served = serve(deaf_at=2)
    served.front.report(blocks(0))
    served.front.post(blocks(1))
    assert not served.front.await_call(0.3)
    served.front.connection.settimeout(0.2)
    with pytest.raises(TimeoutError):
        served.front.word(wire.GET_FEATURES)


def test_a_device_that_dies_closes_the_connection(serve: Serve) -> None:
    served = serve(die_at=1)
    served.front.post(blocks(0))
    assert served.front.connection.recv(1) == b""
    assert served.front.used() == []
    assert "the device ended at batch 1" in served.end().notes


# -- what breaks the protocol ------------------------------------------------------------------------------------


def send_half(front: FakeFront) -> None:
    front.connection.sendall(wire.HEAD.pack(wire.GET_FEATURES, 1, 8) + b"123")
    front.connection.shutdown(socket.SHUT_WR)


def circle(front: FakeFront) -> None:
    front.shake_hands()
    struct.pack_into("<QIHH", front.memory, DESC + 16 * 5, GPA, BLOCK, 3, 5)
    front.offer(5)


def message(request: int, payload: bytes = b"", **more: object) -> Callable[[FakeFront], None]:
    return lambda front: front.send(request, payload, **more)  # type: ignore[arg-type]


VRING_STATE, U64 = wire.VRING_STATE, wire.U64
BREACHES: dict[str, tuple[Callable[[FakeFront], None], str]] = {
    "hinting is refused": (
        message(wire.SET_FEATURES, U64.pack(1 << 3)),
        "takes free page hinting, which is not offered",
    ),
    "a feature that is not offered": (message(wire.SET_FEATURES, U64.pack(1 << 1)), "takes features 0x2"),
    "a payload of another size": (
        message(wire.SET_FEATURES, b"1234"),
        "request 2 has a payload of 4 bytes, expected 8",
    ),
    "another version": (message(wire.GET_FEATURES, flags=2), "a message's head has flags 0x2"),
    "a payload too large": (message(wire.GET_FEATURES, bytes(5000)), "a payload of 5000 bytes"),
    "half a message": (send_half, "closed within a message"),
    "a queue that is none": (
        message(wire.SET_VRING_NUM, VRING_STATE.pack(3, 64)),
        "queue 3, expected 0 .. 2",
    ),
    "a queue of an odd size": (message(wire.SET_VRING_NUM, VRING_STATE.pack(2, 48)), "queue 2 of 48"),
    "no descriptor": (
        message(wire.SET_VRING_KICK, U64.pack(2)),
        "request 12 has 0 file descriptors, expected 1",
    ),
    "memory without its file": (
        message(wire.SET_MEM_TABLE, struct.pack("<II", 1, 0) + bytes(32)),
        "1 regions of memory come with 0 descriptors",
    ),
    "a config that is written past its end": (
        message(wire.SET_CONFIG, wire.CONFIG_HEAD.pack(14, 4, 0) + bytes(4)),
        "bytes 14 .. 17 of the config are written, it has 16",
    ),
    "a chain that is a circle": (circle, "leaves its queue of 64, or is a circle"),
}


@pytest.mark.parametrize("name", BREACHES)
def test_a_front_end_that_breaks_the_protocol_is_told_of(
    serve: Serve, name: str, until: Callable[..., None]
) -> None:
    breach, what = BREACHES[name]
    served = serve(hands=False)
    breach(served.front)
    until(lambda: bool(served.host.violations), "the host notices")
    assert what in served.host.violations[0]
    assert served.host.violations[0].startswith("the front end or the driver breaks the protocol")


def test_a_queue_outside_of_the_guests_memory_is_told_of(serve: Serve, until: Callable[..., None]) -> None:
    served = serve()
    addresses = wire.VRING_ADDRESS.pack(2, 0, 1 << 40, 1 << 40, FRONT_ADDRESS + AVAIL, 0)
    served.front.do(wire.SET_VRING_ADDR, addresses)
    served.front.post(blocks(0))
    until(lambda: bool(served.host.violations), "the host notices")
    assert "a queue at 0x10000000000 is not within the guest's memory" in served.host.violations[0]


# -- the command -------------------------------------------------------------------------------------------------


def test_serve_balloon_serves_a_guest_and_leaves_what_a_run_leaves(
    sync: Sync, until: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = tmp_path / "socket", tmp_path / "run"
    statuses: list[int] = []
    command = ["serve-balloon", str(path), "--order=10", f"--run-dir={run}"]
    thread = sync.spawn("serve", lambda: statuses.append(main(command)))
    connection = socket.socket(socket.AF_UNIX)
    until(lambda: connection.connect_ex(str(path)) == 0, "the device listens")
    front = FakeFront(connection)
    front.shake_hands()
    front.fill(GPA, 2 * BLOCK)
    front.report(blocks(0, 1))
    front.report([(GPA + BLOCK // 2, BLOCK)])
    front.close()
    thread.join()
    assert statuses == [1]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("FAILURE")
    assert "1 violations: command=serve-balloon order=10 seed=1" in last
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["batches"], summary["reported_blocks"]) == (2, 3)
    assert summary["params"]["command"] == "serve-balloon"
    assert not path.exists()
    with open_run(run) as log:
        assert log.rows("SELECT batch, len(ranges), answer FROM guest_report") == [
            (1, 2, "given back"),
            (2, 1, "given back"),
        ]
        assert [blocks for (blocks,) in log.rows("SELECT blocks FROM batches")] == [2, 1]
    recording = read_guest_log(run)
    (only,) = recording.passes
    assert (only.blocks, only.pages, only.sizes) == (3, 3 * BLOCK >> 12, [2, 1])
    assert recording.begin_s <= only.t_s <= only.end_s <= recording.end_s


def test_a_log_without_a_guests_reports_is_no_recording(recorded_run: Path) -> None:
    with pytest.raises(BadInput, match="expected a run of stress guest or serve-balloon"):
        read_guest_log(recorded_run)


def test_a_path_where_somebody_listens_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        assert main(["serve-balloon", str(path)]) == 2
        assert f"{path}: expected a path to listen at" in capsys.readouterr().err
        assert path.exists()


def test_a_socket_that_nobody_listens_at_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
    with listen(path) as server:
        assert server.getsockname() == str(path)
