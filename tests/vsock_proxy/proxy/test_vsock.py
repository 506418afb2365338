"""What the proxy relies on in true AF_VSOCK, which no stand-in shows."""

from __future__ import annotations

import contextlib
import select
import socket

import pytest

from tests.sockets import read_all
from tests.vsock_proxy.rig import (
    LOCAL,
    VMADDR_CID_LOCAL,
    Place,
    Rig,
    Server,
    check,
    closed_without_a_byte,
    read_exactly,
)
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.errors import DialError, ListenError
from vsock_proxy.net.addresses import VMADDR_CID_ANY, VsockAddress
from vsock_proxy.net.dialing import Dialer, SocketDialer
from vsock_proxy.net.listening import listen, local_address
from vsock_proxy.relay.connection import RelayLimits

if LOCAL != "vsock":
    pytest.skip("no vsock loopback on this machine: make test-vsock", allow_module_level=True)

HIGH_PORT = 4_000_000_000


@pytest.fixture
def dialer() -> Dialer:
    return SocketDialer()


def pair(server: Server, dialer: Dialer) -> tuple[socket.socket, socket.socket]:
    return dialer.dial(server.address, TEST_TIMEOUT), server.accept()


def test_missing_listener_is_a_reset(dialer: Dialer, place: Place) -> None:
    address = place.address("nobody")
    assert isinstance(address, VsockAddress)
    with pytest.raises(DialError) as refusal:
        dialer.dial(address, TEST_TIMEOUT)
    assert refusal.value.reason == "Connection reset by peer"
    hint = f"is vsock-proxy running on the parent, on port {address.port}?"
    assert refusal.value.hint == hint


def test_unused_cid_is_a_dial_error(dialer: Dialer) -> None:
    with pytest.raises(DialError):
        dialer.dial(VsockAddress(77, 8000), TEST_TIMEOUT)


def test_vsock_ports_have_32_bits_and_any_cid_is_accepted(dialer: Dialer) -> None:
    with listen(VsockAddress(VMADDR_CID_ANY, HIGH_PORT)) as listener:
        assert local_address(listener) == VsockAddress(VMADDR_CID_ANY, HIGH_PORT)
        with dialer.dial(VsockAddress(VMADDR_CID_LOCAL, HIGH_PORT), TEST_TIMEOUT) as client:
            accepted, (cid, port) = listener.accept()
            with accepted:
                assert cid == VMADDR_CID_LOCAL
                assert port == client.getsockname()[1]


def test_socket_in_use_is_not_replaced(place: Place) -> None:
    address = place.address("server")
    with listen(address), pytest.raises(ListenError, match="Address already in use"):
        listen(address)


def test_full_backlog_is_a_refused_connection(dialer: Dialer, place: Place) -> None:
    # Unlike with UNIX sockets, where the client waits.
    address = place.address("server")
    with (  # noqa: PT012 (which of them it is does not matter)
        listen(address, backlog=0),
        contextlib.ExitStack() as stack,
        pytest.raises(DialError, match="reset"),
    ):
        for _ in range(10):
            stack.enter_context(dialer.dial(address, TEST_TIMEOUT))


def test_probe_tells_half_close_from_full_close_on_vsock(server: Server, dialer: Dialer) -> None:
    flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
    client, accepted = pair(server, dialer)
    with client, accepted, select.epoll() as epoll:
        epoll.register(accepted, select.EPOLLIN | select.EPOLLRDHUP)
        client.shutdown(socket.SHUT_WR)
        [(_, half_closed)] = epoll.poll(TEST_TIMEOUT)
        assert accepted.recv(1) == b""
        assert accepted.send(b"", flags) == 0
        client.close()
        while True:  # The close is on its way: no event tells that it came.
            try:
                accepted.send(b"", flags)
            except BrokenPipeError:
                break
        [(_, closed)] = epoll.poll(TEST_TIMEOUT)
        assert not closed & select.EPOLLHUP
        assert half_closed & closed & select.EPOLLRDHUP


def test_vsock_has_no_linger_option_and_needs_none(place: Place, server: Server) -> None:
    with Rig(place.address("proxy"), server.address, limits=RelayLimits(idle_timeout=100)) as rig:
        with rig.connect() as client, server.accept() as accepted:
            check(client, accepted)
            rig.pass_time(21)
            rig.wait_until(lambda: rig.loop.now == 21)  # A tick has seen the last byte.
            rig.pass_time(101)
            assert client.recv(1) == b""
            assert accepted.recv(1) == b""
        with Server(place.address("another")) as another:
            another_address = another.address
        with (
            Rig(place.address("second proxy"), another_address) as second,
            second.connect() as client,
        ):
            assert closed_without_a_byte(client)
        with rig.connect() as client, server.accept() as accepted:
            check(client, accepted)


def test_close_with_unread_bytes_frees_the_server(place: Place, server: Server) -> None:
    with Rig(place.address("proxy"), server.address) as rig:
        client = rig.connect()
        with server.accept() as accepted:
            check(client, accepted)
            accepted.sendall(b"never read")
            rig.wait_until(lambda: any(c.down.delivered for c in rig.forwarder._relayed))
            client.close()
            assert read_all(accepted) == b""
        rig.wait_until(lambda: rig.forwarder.in_use == 0)


def test_large_send_is_not_truncated(server: Server, dialer: Dialer) -> None:
    client, accepted = pair(server, dialer)
    with client, accepted:
        client.setblocking(False)
        sent = client.send(b"x" * 10_000_000)
        assert read_exactly(accepted, sent) == b"x" * sent
