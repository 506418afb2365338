"""The limits of one listener: connections, queue, descriptors, idle times."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import socket
from typing import NoReturn

import pytest

from tests.sockets import read_all
from tests.vsock_proxy.rig import (
    Place,
    Rig,
    Server,
    check,
    closed_without_a_byte,
    peer_name,
    read_exactly,
)
from vsock_proxy.net.listening import listen
from vsock_proxy.relay import connecting
from vsock_proxy.relay.connection import RelayLimits

pytestmark = pytest.mark.usefixtures("innermost")


def test_many_connections_are_served_concurrently(place: Place, server: Server) -> None:
    # AWS's proxy has four threads: it accepts the fifth connection and lets it hang.
    with Rig(place.address("proxy"), server.address) as rig, contextlib.ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(rig.connect())
            check(client, stack.enter_context(server.accept()))
        assert rig.forwarder.in_use == 20


def test_client_over_the_limit_is_queued_and_logged(
    place: Place, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with Rig(place.address("proxy"), server.address, limits=RelayLimits(connections=1)) as rig:
        with rig.connect() as first, server.accept() as accepted:
            check(first, accepted)
            second = rig.connect()
            rig.wait_until(lambda: rig.forwarder.waiting == 1)
        with second, server.accept() as accepted:
            check(second, accepted)
        assert rig.forwarder.counters.waited == 1
    assert "connection limit reached (1); new clients are queued" in caplog.text


def test_client_queued_for_too_long_is_rejected(
    place: Place, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    limits = RelayLimits(connections=1, connect_timeout=100)
    with Rig(place.address("proxy"), server.address, limits=limits) as rig:
        with rig.connect() as first, server.accept() as accepted:
            check(first, accepted)
            with rig.connect() as second:
                rig.wait_until(lambda: rig.forwarder.waiting == 1)
                rig.pass_time(101)
                name = peer_name(second)
                assert closed_without_a_byte(second)
            check(first, accepted)
        assert rig.forwarder.counters.rejected == {"limit": 1}
    assert f"the server: rejected {name}: no connection ended in time for it" in caplog.text


def test_queue_is_bounded(place: Place, server: Server) -> None:
    limits = RelayLimits(connections=1, waiting=1)
    with Rig(place.address("proxy"), server.address, limits=limits) as rig:
        with rig.connect() as first, server.accept() as accepted:
            check(first, accepted)
            others = [rig.connect() for _ in range(5)]
            rig.wait_until(lambda: rig.forwarder._acceptor.paused)
            check(first, accepted)
            assert rig.forwarder.waiting == 1
        for other in others:
            with other, server.accept() as accepted:
                check(other, accepted)


@pytest.mark.parametrize("scarce", [False, True])
def test_loop_is_quiet_while_clients_are_queued(
    place: Place, server: Server, *, scarce: bool
) -> None:
    with listen(place.address("proxy")) as plain:
        listener = ScarceListener(fileno=plain.detach())
    limits = RelayLimits(connections=1, waiting=1)
    with (
        Rig(place.address("proxy"), server.address, limits=limits, listener=listener) as rig,
        contextlib.ExitStack() as stack,
    ):
        listener.scarce = scarce
        for _ in range(5):
            stack.enter_context(rig.connect())
        rig.wait_until(lambda: rig.forwarder._acceptor.paused)
        rig.assert_quiet()


def test_descriptors_above_1023_work(place: Place, server: Server) -> None:
    # AWS's proxy uses select(2), and panics.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip(f"only {hard} file descriptors are allowed here (ulimit -Hn): needs 2048")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        rig = stack.enter_context(Rig(place.address("proxy"), server.address))
        for _ in range(1100):
            stack.callback(os.close, os.dup(0))
        with rig.connect() as client, server.accept() as accepted:
            assert min(client.fileno(), accepted.fileno()) > 1023
            check(client, accepted)


class ScarceListener(socket.socket):
    """A listener that finds no free descriptor while `scarce`."""

    scarce = False

    def _accept(self) -> tuple[int, object]:
        if self.scarce:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super()._accept()  # type: ignore[misc, no-any-return]


def test_accepting_survives_lack_of_descriptors(
    place: Place, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with listen(place.address("proxy")) as plain:
        listener = ScarceListener(fileno=plain.detach())
    with Rig(place.address("proxy"), server.address, listener=listener) as rig:
        with rig.connect() as first, server.accept() as accepted:
            check(first, accepted)
            listener.scarce = True
            second = rig.connect()
            rig.wait_until(lambda: rig.forwarder._acceptor.paused)
            check(first, accepted)
            listener.scarce = False
        with second, server.accept() as accepted:
            check(second, accepted)
    assert "accepting is paused: Too many open files" in caplog.text


def test_connecting_survives_lack_of_descriptors(
    place: Place, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_stream(_family: socket.AddressFamily) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with Rig(place.address("proxy"), server.address) as rig:
        with rig.connect() as first, server.accept() as accepted:
            check(first, accepted)
            monkeypatch.setattr(connecting, "open_stream", no_stream)
            second = rig.connect()
            rig.wait_until(lambda: rig.forwarder.waiting == 1)
            check(first, accepted)
            monkeypatch.undo()
        with second, server.accept() as accepted:
            check(second, accepted)


def test_idle_connection_is_closed_and_a_used_one_is_not(place: Place, server: Server) -> None:
    limits = RelayLimits(idle_timeout=100)
    with (
        Rig(place.address("proxy"), server.address, limits=limits) as rig,
        rig.connect() as idle,
        server.accept() as idle_accepted,
        rig.connect() as used,
        server.accept() as accepted,
    ):
        check(idle, idle_accepted)
        check(used, accepted)
        rig.pass_time(21)
        check(used, accepted)  # So a tick has seen by now that both were used.
        rig.pass_time(60)
        check(used, accepted)
        rig.pass_time(60)
        assert idle.recv(1) == b""
        assert idle_accepted.recv(1) == b""
        check(used, accepted)


def test_half_closed_connection_has_a_shorter_timeout(place: Place, server: Server) -> None:
    limits = RelayLimits(idle_timeout=1000, linger_timeout=100)
    with (
        Rig(place.address("proxy"), server.address, limits=limits) as rig,
        rig.connect() as idle,
        server.accept() as idle_accepted,
        rig.connect() as half_closed,
        server.accept() as accepted,
    ):
        check(idle, idle_accepted)
        half_closed.shutdown(socket.SHUT_WR)
        assert read_all(accepted) == b""
        rig.pass_time(101)
        assert half_closed.recv(1) == b""
        check(idle, idle_accepted)


def test_bytes_are_counted_and_verbose_log_has_connections(
    place: Place, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "vsock_proxy")
    with Rig(place.address("proxy"), server.address) as rig:
        with rig.connect() as client, server.accept() as accepted:
            name = peer_name(client)
            check(client, accepted)
            accepted.sendall(b"hi")
            read_exactly(client, 2)
        rig.wait_until(lambda: rig.forwarder.in_use == 0)
        counters = rig.forwarder.counters
        assert (counters.accepted, counters.relayed) == (1, 1)
        assert counters.bytes == {"up": 5, "down": 2}
    assert f"the server: connected for {name}" in caplog.text
    assert "ended after 5 bytes up, 2 down" in caplog.text
