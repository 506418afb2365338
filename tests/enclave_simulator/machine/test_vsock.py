"""The vsock device between a guest made of packets and services made of sockets."""

from __future__ import annotations

import collections
import contextlib
import os
import resource
import socket
import struct
import time
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_simulator.machine.errors import ProtocolError
from enclave_simulator.machine.parent_side import Folder, GuestPorts, Init, Listener
from enclave_simulator.machine.virtqueue import Chain
from enclave_simulator.machine.vsock_connection import BUFFER_SIZE
from enclave_simulator.machine.vsock_device import MAX_CONNECTIONS, VsockDevice
from enclave_simulator.machine.vsock_packet import BOTH, NO_MORE_SENDING, Operation, Packet
from vsock_proxy.relay.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from enclave_simulator.machine.vhost_user import Queue

CID, PORT, GUEST_PORT = 16, 8000, 1234
WITHIN = 20.0


class Chains:
    """A queue without rings: see `vhost_user.Queue`."""

    def __init__(self) -> None:
        self.offered: collections.deque[Chain] = collections.deque()
        self.returned: list[bytes] = []

    def pop(self) -> Chain | None:
        return self.offered.popleft() if self.offered else None

    def push(self, chain: Chain, written: int) -> None:
        self.returned.append(b"".join(chain.writable)[:written])

    def notify(self) -> None:
        pass


class Guest:
    """A guest's kernel, and the loop that serves it."""

    def __init__(self, loop: Loop, folder: Path) -> None:
        self.loop = loop
        self.folder = folder
        self.device = VsockDevice(loop, CID, Folder(folder, {}))
        self.rx, self.tx = Chains(), Chains()
        self.device.attach(cast("list[Queue]", [self.rx, self.tx]))
        self.buffers = 64
        self.buffer_size = 4096
        self.forwarded = 0

    def say(self, operation: Operation | None, payload: bytes = b"", **changed: int) -> None:
        packet = Packet(
            source_cid=CID,
            source_port=GUEST_PORT,
            destination_cid=3,
            destination_port=PORT,
            operation=operation,
            buffer_size=1 << 18,
            forwarded=self.forwarded,
            payload=payload,
        )
        self.say_bytes(replace(packet, **changed).encode())  # type: ignore[arg-type]

    def say_bytes(self, data: bytes) -> None:
        self.tx.offered.append(Chain(0, (memoryview(data),), ()))
        self.device.kicked(1)

    def turn(self) -> None:
        while len(self.rx.offered) < self.buffers:
            buffer = memoryview(bytearray(self.buffer_size))
            self.rx.offered.append(Chain(0, (), (buffer,)))
        self.device.kicked(0)
        self.loop.later(lambda: None)  # so that no turn waits
        self.loop.turn()

    def heard(self) -> list[Packet]:
        found = [Packet.decode(data) for data in self.rx.returned]
        self.rx.returned.clear()
        return found

    def until(self, *wanted: Operation) -> list[Packet]:
        """Return what was heard up to the first packet of each of these."""
        found: list[Packet] = []
        left = set(wanted)
        deadline = time.monotonic() + WITHIN
        while left:
            assert time.monotonic() < deadline, f"heard only {[p.operation for p in found]}"
            self.turn()
            heard = self.heard()
            found += heard
            left -= {packet.operation for packet in heard if packet.operation}
        return found

    def wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WITHIN
        while not condition():
            assert time.monotonic() < deadline
            self.turn()

    def connect(self, server: socket.socket) -> socket.socket:
        self.say(Operation.REQUEST)
        assert [p.operation for p in self.until(Operation.RESPONSE)] == [Operation.RESPONSE]
        end, _ = server.accept()
        end.settimeout(WITHIN)
        return end


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    with Loop(tick=0.05) as loop:
        guest = Guest(loop, tmp_path)
        yield guest
        guest.device.close()


@pytest.fixture
def server(guest: Guest) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(guest.folder / f"3_{PORT}"))
        listening.listen()
        listening.settimeout(WITHIN)
        yield listening


def payload(packets: list[Packet]) -> bytes:
    return b"".join(packet.payload for packet in packets if packet.operation is Operation.RW)


def test_bytes_go_both_ways_and_the_answer_follows_a_half_close(
    guest: Guest, server: socket.socket
) -> None:
    with guest.connect(server) as end:
        guest.say(Operation.RW, b"question")
        guest.say(Operation.SHUTDOWN, flags=NO_MORE_SENDING)
        assert end.recv(100) == b"question"
        assert end.recv(100) == b""
        end.sendall(b"answer")
    heard = guest.until(Operation.RW, Operation.SHUTDOWN)
    assert payload(heard) == b"answer"
    assert heard[-1].flags == NO_MORE_SENDING
    guest.say(Operation.SHUTDOWN, flags=BOTH)
    assert guest.until(Operation.RST)[-1].source_port == PORT


def test_nobody_listens(guest: Guest) -> None:
    guest.say(Operation.REQUEST)
    (packet,) = guest.until(Operation.RST)
    assert (packet.source_cid, packet.source_port) == (3, PORT)
    assert (packet.destination_cid, packet.destination_port) == (CID, GUEST_PORT)


def test_only_the_parent_is_there(guest: Guest, server: socket.socket) -> None:
    guest.say(Operation.REQUEST, destination_cid=2)
    guest.until(Operation.RST)


def test_packets_in_another_guests_name_are_not_heard(guest: Guest, server: socket.socket) -> None:
    guest.say(Operation.REQUEST, source_cid=17)
    guest.say(Operation.REQUEST, destination_port=1)
    assert [p.source_port for p in guest.until(Operation.RST)] == [1]


def test_much_from_the_guest_waits_for_its_reader(guest: Guest, server: socket.socket) -> None:
    with guest.connect(server) as end:
        end.setblocking(False)
        data = bytes(range(256)) * 4096
        sent, freed, back = 0, 0, bytearray()
        deadline = time.monotonic() + WITHIN
        while len(back) < len(data):
            assert time.monotonic() < deadline
            while sent < len(data) and sent - freed + 8192 <= BUFFER_SIZE:
                guest.say(Operation.RW, data[sent : sent + 8192])
                sent += 8192
            guest.turn()
            for packet in guest.heard():
                freed = packet.forwarded
            with contextlib.suppress(BlockingIOError):
                back += end.recv(1 << 16)
        assert bytes(back) == data


def test_more_than_it_has_credit_for_ends_the_connection(
    guest: Guest, server: socket.socket
) -> None:
    with guest.connect(server):
        # The socket takes some of it, nobody reads it, and the rest is over the buffer.
        for _ in range(100):
            guest.say(Operation.RW, bytes(1 << 16))
        guest.until(Operation.RST)


def test_no_more_goes_to_the_guest_than_it_has_room_for(
    guest: Guest, server: socket.socket
) -> None:
    with guest.connect(server) as end:
        guest.say(Operation.CREDIT_UPDATE, buffer_size=10_000)
        end.sendall(bytes(50_000))
        for _ in range(50):
            guest.turn()
        assert len(payload(guest.heard())) == 10_000
        guest.say(Operation.CREDIT_UPDATE, buffer_size=10_000, forwarded=4_000)
        for _ in range(50):
            guest.turn()
        assert len(payload(guest.heard())) == 4_000


def test_credit_is_told_on_request(guest: Guest, server: socket.socket) -> None:
    with guest.connect(server) as end:
        guest.say(Operation.RW, b"12345")
        assert end.recv(10) == b"12345"
        guest.say(Operation.CREDIT_REQUEST)
        packet = guest.until(Operation.CREDIT_UPDATE)[-1]
        assert (packet.buffer_size, packet.forwarded) == (BUFFER_SIZE, 5)


def test_what_a_server_said_before_it_left_arrives(guest: Guest, server: socket.socket) -> None:
    end = guest.connect(server)
    end.sendall(b"last words")
    end.close()
    guest.say(Operation.RW, b"to nobody")
    guest.say(Operation.RW, b"to nobody")
    assert payload(guest.until(Operation.RW, Operation.SHUTDOWN)) == b"last words"


def test_what_a_guest_said_before_it_left_arrives(guest: Guest, server: socket.socket) -> None:
    with guest.connect(server) as end:
        sent = 0
        while sent < 512 * 1024:  # more than a socket holds by itself
            guest.say(Operation.RW, bytes(8192))
            sent += 8192
            guest.turn()
            if next(iter(guest.device._connections.values())).held > BUFFER_SIZE // 2:
                break
        guest.say(Operation.SHUTDOWN, flags=BOTH)
        guest.say(Operation.RST)  # its kernel has waited long enough
        end.setblocking(False)
        received = 0
        deadline = time.monotonic() + WITHIN
        while True:
            assert time.monotonic() < deadline
            guest.turn()
            with contextlib.suppress(BlockingIOError):
                part = end.recv(1 << 16)
                if not part:
                    break
                received += len(part)
        assert received == sent
    assert not guest.device._sockets


def test_a_reset_by_the_guest_closes(guest: Guest, server: socket.socket) -> None:
    with guest.connect(server) as end:
        guest.say(Operation.RST)
        assert end.recv(1) == b""
    assert not guest.device._connections


def test_connections_are_limited(guest: Guest, server: socket.socket) -> None:
    """The device refuses; it does not run out of descriptors or memory."""
    server.listen(MAX_CONNECTIONS)
    guest.device._sockets.update(dict.fromkeys(range(-MAX_CONNECTIONS, 0)))  # type: ignore[arg-type]
    guest.say(Operation.REQUEST)
    guest.until(Operation.RST)
    guest.device._sockets.clear()


def test_a_guest_that_takes_no_answers_gets_no_further_ones(guest: Guest) -> None:
    guest.buffers = 0
    for port in range(3000):
        guest.say(Operation.RW, source_port=port)
    assert len(guest.device._resets) == 1024
    assert len(guest.tx.offered) == 3000 - 1024
    guest.buffers = 64
    answered = 0
    deadline = time.monotonic() + WITHIN
    while answered < 3000:
        assert time.monotonic() < deadline
        guest.device.kicked(1)
        guest.turn()
        answered += len(guest.heard())


def test_the_host_calls_the_guest(guest: Guest) -> None:
    path = guest.folder / str(CID)
    listener = Listener(guest.loop, path, GuestPorts(guest.loop, guest.device).greet)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.connect(str(path))
        caller.sendall(b"CONNECT 5000\nhello")
        request = guest.until(Operation.REQUEST)[-1]
        assert (request.source_cid, request.destination_port) == (3, 5000)
        guest.say(Operation.RESPONSE, source_port=5000, destination_port=request.source_port)
        assert payload(guest.until(Operation.RW)) == b"hello"
        caller.settimeout(WITHIN)
        assert caller.recv(100) == b"OK %d\n" % request.source_port
    listener.close()


def test_a_call_that_nobody_takes_is_closed(guest: Guest) -> None:
    path = guest.folder / f"{CID}_5000"
    listener = Listener(guest.loop, path, GuestPorts(guest.loop, guest.device).to(5000))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.connect(str(path))
        request = guest.until(Operation.REQUEST)[-1]
        guest.say(Operation.RST, source_port=5000, destination_port=request.source_port)
        caller.settimeout(WITHIN)
        assert caller.recv(100) == b""
    listener.close()


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1\r\n", b"CONNECT 4294967295\n", b"x" * 99, b""])
def test_a_greeting_that_is_none_is_closed(guest: Guest, line: bytes) -> None:
    path = guest.folder / str(CID)
    listener = Listener(guest.loop, path, GuestPorts(guest.loop, guest.device).greet)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.connect(str(path))
        caller.sendall(line)
        caller.shutdown(socket.SHUT_WR)
        caller.setblocking(False)

        def closed() -> bool:
            try:
                return caller.recv(1) == b""
            except BlockingIOError:
                return False
            except ConnectionResetError:
                return True  # closed with something unread

        guest.wait(closed)
    listener.close()


def test_a_greeting_that_does_not_come_is_not_awaited(tmp_path: Path) -> None:
    now = [0.0]
    with Loop(tick=0.01, monotonic=lambda: now[0]) as loop:
        device = VsockDevice(loop, CID, Folder(tmp_path, {}))
        device.attach(cast("list[Queue]", [Chains(), Chains()]))
        listener = Listener(loop, tmp_path / "16", GuestPorts(loop, device).greet)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            caller.connect(str(tmp_path / "16"))
            caller.sendall(b"CONN")
            loop.turn()
            for now[0] in (5.0, 9.0, 10.0, 10.01):
                loop.later(lambda: None)  # so that the turn does not wait
                loop.turn()
            loop.turn()
            caller.settimeout(WITHIN)
            with contextlib.suppress(ConnectionResetError):  # closed with something unread
                assert caller.recv(1) == b""
        listener.close()


def test_connections_wait_while_descriptors_are_scarce(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A guest that has used them up does not end its machine, and the loop does not spin."""
    accepted: list[socket.socket] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Loop(tick=0.01) as loop, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        listener = Listener(loop, tmp_path / "3_9000", accepted.append)
        caller.connect(str(tmp_path / "3_9000"))
        with open(os.devnull) as highest:  # noqa: PTH123
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest.fileno(), hard))
            try:
                while not caplog.messages:
                    loop.turn()
                turns, ticks = loop.turns, []
                loop.every_tick(lambda: ticks.append(loop.turns))
                while len(ticks) < 5:
                    loop.turn()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert "Too many open files" in caplog.messages[0]
        assert len(caplog.messages) == 1
        assert loop.turns - turns <= 3 * len(ticks), "a tick, an event, and what it asked for"
        assert not accepted
        while not accepted:
            loop.turn()
        listener.close()
        accepted[0].close()


def test_init_reports_that_it_runs_and_how_it_ended(guest: Guest) -> None:
    init = Init(guest.loop)
    heart = Listener(guest.loop, guest.folder / f"3_{PORT}", init.heartbeat)
    guest.say(Operation.REQUEST)
    guest.say(Operation.RW, b"\xb7")
    assert payload(guest.until(Operation.RW)) == b"\xb7"
    assert init.started
    guest.say(Operation.RST)
    heart.close()
    end = Listener(guest.loop, guest.folder / f"3_{PORT}", init.exited)
    guest.say(Operation.REQUEST)
    guest.say(Operation.RW, b"42\n")
    guest.wait(lambda: init.exit_code is not None)
    assert init.exit_code == 42
    end.close()


@given(st.binary(max_size=100))
def test_whatever_a_packet_says_only_the_documented_error_leaves(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        Packet.decode(data)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, *Operation]),
            st.binary(max_size=20),
            st.integers(0, 3),
            st.integers(0, 0xFFFF_FFFF),
        ),
        max_size=12,
    )
)
def test_whatever_a_guest_says_in_whatever_order_the_device_goes_on(
    packets: list[tuple[Operation | None, bytes, int, int]],
) -> None:
    ends: list[socket.socket] = []

    class Anyone:
        def connect(self, _port: int) -> socket.socket:
            ours, theirs = socket.socketpair()
            ends.append(theirs)
            return ours

    with Loop() as loop:
        guest = Guest.__new__(Guest)
        guest.__dict__.update(loop=loop, buffers=8, buffer_size=100, forwarded=0)
        guest.device = VsockDevice(loop, CID, Anyone())
        guest.rx, guest.tx = Chains(), Chains()
        guest.device.attach(cast("list[Queue]", [guest.rx, guest.tx]))
        for operation, data, flags, number in packets:
            guest.say(operation, data, flags=flags, forwarded=number, buffer_size=number)
            guest.turn()
        for _ in range(3):
            guest.turn()
        # Whatever that was, it can connect anew.
        guest.say(Operation.RST)
        guest.turn()
        guest.heard()
        guest.say(Operation.REQUEST)
        guest.until(Operation.RESPONSE)
        guest.device.close()
        for end in ends:
            end.close()


def test_the_device_tells_its_cid(guest: Guest) -> None:
    assert struct.unpack("<Q", guest.device.config) == (CID,)
