"""Hybrid vsock: into a virtual machine and out of it, through UNIX sockets."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

import pytest

from tests.sockets import read_all
from tests.vsock_proxy.rig import Place, Rig, Server, check, closed_without_a_byte, in_thread
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.errors import DialError
from vsock_proxy.net import hybrid
from vsock_proxy.net.addresses import HybridAddress, UnixAddress
from vsock_proxy.net.dialing import SocketDialer
from vsock_proxy.net.listening import listening

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Server]:
    """The UNIX socket of a virtual machine monitor."""
    with Server(UnixAddress(str(tmp_path / "vm.sock"))) as machine:
        yield machine


@pytest.fixture
def inside(machine: Server) -> HybridAddress:
    assert isinstance(machine.address, UnixAddress)
    return HybridAddress(machine.address.path, 5000)


def asked(machine: Server) -> socket.socket:
    connection = machine.accept()
    assert connection.recv(13) == b"CONNECT 5000\n"
    return connection


def answer(text: bytes, *, step: int = 100) -> None:
    """Read a response in pieces, as from a non-blocking socket."""
    pieces = [text[i : i + step] for i in range(0, len(text), step)]
    left = b""
    reader = hybrid.Response()

    def recv(count: int) -> bytes:
        nonlocal left
        if not left:
            raise BlockingIOError
        taken, left = left[:count], left[count:]
        return taken

    for piece in pieces:
        left += piece
        try:
            reader.read(recv)
        except BlockingIOError:
            continue
        assert b"stream".startswith(left)
        return
    pytest.fail("it waits for more")


@pytest.mark.parametrize("step", [1, 2, 7, 100])
def test_response_is_read_without_a_byte_of_the_stream(step: int) -> None:
    assert hybrid.request(5000) == b"CONNECT 5000\n"
    answer(b"OK 1073741824\nstream", step=step)


@pytest.mark.parametrize(
    "text", [b"NO\n", b"OK\n", b"OK x\n", b"\n", b"x" * 33, b"OK " + b"1" * 99]
)
def test_invalid_response_is_an_error(text: bytes) -> None:
    with pytest.raises(ConnectionError, match="the response is not that of"):
        answer(text)


def test_end_before_the_response_is_a_refused_connection() -> None:
    with pytest.raises(ConnectionRefusedError):
        hybrid.Response().read(lambda _: b"")


def test_dialed_stream_starts_after_the_response(machine: Server, inside: HybridAddress) -> None:
    def serve() -> None:
        with asked(machine) as connection:
            connection.sendall(b"OK 7\nhello")

    with in_thread(serve), SocketDialer().dial(inside, TEST_TIMEOUT) as client:
        assert client.gettimeout() == TEST_TIMEOUT
        assert read_all(client) == b"hello"


@pytest.mark.parametrize(
    ("said", "reason"),
    [(b"", "Connection refused"), (b"NO\n", "the response is not that of a virtual")],
)
def test_refusing_machine_is_a_dial_error(
    machine: Server, inside: HybridAddress, said: bytes, reason: str
) -> None:
    def serve() -> None:
        with asked(machine) as connection:
            connection.sendall(said)

    with in_thread(serve), pytest.raises(DialError, match=reason):
        SocketDialer().dial(inside, TEST_TIMEOUT)


def test_silent_machine_times_out(machine: Server, inside: HybridAddress) -> None:
    with pytest.raises(DialError, match="no response within"):
        SocketDialer().dial(inside, 0.05)


def test_relay_connects_into_the_machine(
    place: Place, machine: Server, inside: HybridAddress
) -> None:
    with Rig(place.address("proxy"), inside) as rig, rig.connect() as client:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        with asked(machine) as connection:
            for byte in b"OK 1024":
                connection.send(bytes([byte]))
            connection.sendall(b"\nbanner")
            assert read_all(connection) == b"question"
            connection.sendall(b"answer")
        assert read_all(client) == b"banneranswer"


@pytest.mark.parametrize("said", [b"", b"NO\n"])
def test_refusing_machine_fails_one_connection_only(
    place: Place,
    machine: Server,
    inside: HybridAddress,
    said: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "vsock_proxy")
    with Rig(place.address("proxy"), inside) as rig:
        with rig.connect() as client:
            with asked(machine) as connection:
                connection.sendall(said)
            assert closed_without_a_byte(client)
        with rig.connect() as client, asked(machine) as connection:
            connection.sendall(b"OK 1\n")
            check(client, connection)
    assert "cannot connect for " in caplog.text


def test_relay_gives_up_a_silent_machine(
    place: Place, machine: Server, inside: HybridAddress
) -> None:
    with (
        Rig(place.address("proxy"), inside) as rig,
        rig.connect() as client,
        asked(machine) as connection,
    ):
        connection.sendall(b"OK")  # Half an answer keeps nobody waiting either.
        rig.pass_time(60)
        assert closed_without_a_byte(client)
        assert rig.forwarder.counters.connect_failures == {"timeout": 1}


def test_connections_from_the_machine_arrive_at_path_port(tmp_path: Path, server: Server) -> None:
    prefix = str(tmp_path / "vm.sock")
    with listening(HybridAddress(prefix, 8000)) as listener:
        rig = Rig(UnixAddress("unused"), server.address, listener=listener)
        with rig:
            at = UnixAddress(f"{prefix}_8000")
            with SocketDialer().dial(at, TEST_TIMEOUT) as client, server.accept() as accepted:
                check(client, accepted)
    assert not (tmp_path / "vm.sock_8000").exists()
