"""The contract of `Dialer`, over every address a machine without vsock can dial."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.vsock_proxy.rig import LOCAL, Place, Server, hole, read_exactly
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.errors import DialError
from vsock_proxy.net import dialing, resolving
from vsock_proxy.net.addresses import TcpAddress, UnixAddress, VsockAddress
from vsock_proxy.net.dialing import Dialer, SocketDialer, reason_of
from vsock_proxy.net.listening import listen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vsock_proxy.net.resolving import Candidate

BRIEF = 0.05
"""Seconds: a timeout that a test wants to see pass. Nothing depends on it being enough."""


@pytest.fixture(params=[LOCAL, "tcp"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with Place(request.param, tmp_path).server() as server:
        yield server


@pytest.fixture
def dialer() -> Dialer:
    return SocketDialer()


def test_connection_has_the_timeout_and_nodelay(dialer: Dialer, server: Server) -> None:
    with dialer.dial(server.address, 7) as connection, server.accept() as accepted:
        assert connection.gettimeout() == 7
        if connection.family == socket.AF_INET:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        connection.sendall(b"hello")
        assert read_exactly(accepted, 5) == b"hello"


def test_kernel_send_timeout_is_reset_after_connecting(dialer: Dialer, tmp_path: Path) -> None:
    # Only a UNIX socket has one, while it connects.
    with Place("unix", tmp_path).server() as server, dialer.dial(server.address, 7) as connection:
        assert not any(connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16))


def test_missing_listener_is_a_dial_error(dialer: Dialer, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for address, reason in (
        (TcpAddress("127.0.0.1", port), "Connection refused"),
        (UnixAddress(str(tmp_path / "nobody")), "No such file or directory"),
    ):
        with pytest.raises(DialError) as refusal:
            dialer.dial(address, TEST_TIMEOUT)
        assert refusal.value.address == str(address)
        assert refusal.value.reason == reason
        assert str(refusal.value) == f"cannot connect to {address}: {reason}"


def test_full_backlog_of_a_unix_server_is_waited_for(dialer: Dialer, tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "server"))
    with listen(address, backlog=0) as listener, contextlib.ExitStack() as stack:
        stack.enter_context(dialer.dial(address, TEST_TIMEOUT))
        with pytest.raises(DialError, match=r"no response within 0\.05 s"):
            dialer.dial(address, BRIEF)
        second: list[socket.socket] = []
        thread = threading.Thread(target=lambda: second.append(dialer.dial(address, TEST_TIMEOUT)))
        thread.start()
        for _ in range(2):
            stack.enter_context(listener.accept()[0])
        thread.join()
        stack.enter_context(second[0])


def test_unresponsive_server_times_out(dialer: Dialer) -> None:
    with hole() as address, pytest.raises(DialError, match="no response within"):
        dialer.dial(address, BRIEF)


def test_every_address_of_a_name_is_tried(
    dialer: Dialer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Place("tcp", tmp_path).server() as server:
        assert isinstance(server.address, TcpAddress)
        good = (server.address.host, server.address.port)

        def found(*_: object) -> list[Candidate]:
            return [(socket.AF_INET6, ("::1", 1, 0, 0)), (socket.AF_INET, good)]

        monkeypatch.setattr(dialing, "look_up_within", found)
        with dialer.dial(TcpAddress("the.server", 1), TEST_TIMEOUT) as connection:
            assert connection.getpeername() == good
            assert connection.gettimeout() == TEST_TIMEOUT


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "a" * 64 + ".invalid"])
def test_unresolvable_name_is_a_dial_error(
    dialer: Dialer, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: object) -> list[Candidate]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(resolving, "look_up", nothing)  # A test asks no real name server.
    with pytest.raises(DialError, match="the name does not resolve"):
        dialer.dial(TcpAddress(host, 1), TEST_TIMEOUT)


def test_slow_look_up_times_out(dialer: Dialer, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()

    def slow(*_: object) -> list[Candidate]:
        assert answer.wait(TEST_TIMEOUT)
        return []

    monkeypatch.setattr(resolving, "look_up", slow)
    with pytest.raises(DialError, match=r"no response within 0\.05 s"):
        dialer.dial(TcpAddress("the.server", 1), BRIEF)
    answer.set()


def test_missing_vsock_support_has_a_hint(dialer: Dialer, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_vsock(*_: object) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr(dialing, "_connect", no_vsock)
    with pytest.raises(DialError) as refusal:
        dialer.dial(VsockAddress(3, 8000), TEST_TIMEOUT)
    assert "this kernel has no vsock" in refusal.value.hint


@pytest.mark.parametrize(
    ("port", "service"),
    [
        (8000, "vsock-proxy"),
        (8002, "enclave-parent, with a section `credentials`,"),
        (8003, "enclave-parent, with a section `logs`,"),
    ],
)
def test_a_parent_without_the_service_has_a_hint(
    dialer: Dialer, monkeypatch: pytest.MonkeyPatch, port: int, service: str
) -> None:
    def reset(*_: object) -> socket.socket:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    monkeypatch.setattr(dialing, "_connect", reset)
    with pytest.raises(DialError) as refusal:
        dialer.dial(VsockAddress(3, port), TEST_TIMEOUT)
    assert refusal.value.hint == f"is {service} running on the parent, on port {port}?"


def test_reason_of_an_error_is_text() -> None:
    assert reason_of(OSError(errno.ECONNREFUSED, "x")) == "Connection refused"
    assert reason_of(OSError("something else")) == "something else"
    assert reason_of(socket.gaierror(-2, "unknown")) == "the name does not resolve (unknown)"


def test_a_host_is_not_looked_up_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(DialError, match="cannot start a thread to look it up"):
        SocketDialer().dial(TcpAddress("localhost", 1), TEST_TIMEOUT)
