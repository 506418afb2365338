"""Several listeners in one process, and an end that loses as little as it can."""

from __future__ import annotations

import contextlib
import logging
import resource
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.vsock_proxy.rig import PATIENCE, Place, Server, read_all, read_exactly
from vsock_proxy.errors import ListenError
from vsock_proxy.net.addresses import TcpAddress, UnixAddress
from vsock_proxy.net.dialing import SocketDialer
from vsock_proxy.net.listening import listen
from vsock_proxy.proxy.daemon import Daemon
from vsock_proxy.proxy.forward import Forward, within_descriptors
from vsock_proxy.relay.connection import Limits

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from vsock_proxy.net.addresses import Address

FOREVER = 1000.0


class Running:
    """A daemon in a thread, between two sockets of one place."""

    def __init__(self, place: Place, *, drain_timeout: float = FOREVER) -> None:
        self.server = Server(place.address("server"))
        self.daemon = Daemon(
            [Forward(place.address("proxy"), self.server.address)],
            drain_timeout=drain_timeout,
            tick=0.02,
        )
        self.thread = threading.Thread(target=self.daemon.run)
        self.thread.start()

    def pair(self) -> tuple[socket.socket, socket.socket]:
        client = SocketDialer().dial(self.daemon.addresses[0], PATIENCE)
        return client, self.server.accept()

    def join(self) -> None:
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


def listen_as_soon_as_it_is_free(address: Address) -> socket.socket:
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            return listen(address)
        except ListenError:
            assert time.monotonic() < give_up
            time.sleep(0.01)


@pytest.fixture
def running(place: Place) -> Iterator[Running]:
    running = Running(place)
    with running.server:
        yield running
        for _ in range(2):
            running.daemon.stop()
        running.join()


def test_listeners_are_independent(place: Place) -> None:
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(Server(place.address(name))) for name in "ab"]
        daemon = Daemon([Forward(TcpAddress("127.0.0.1", 0), s.address) for s in servers])
        thread = threading.Thread(target=daemon.run)
        thread.start()
        for address, server in zip(daemon.addresses, servers, strict=True):
            with SocketDialer().dial(address, PATIENCE) as client, server.accept() as accepted:
                client.sendall(b"hello")
                assert read_exactly(accepted, 5) == b"hello"
        daemon.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_what_comes_in_before_it_runs_is_served(place: Place) -> None:
    with Server(place.address("server")) as server:
        proxy = place.address("proxy")
        daemon = Daemon([Forward(proxy, server.address)])
        with SocketDialer().dial(proxy, PATIENCE) as client:
            thread = threading.Thread(target=daemon.run)
            thread.start()
            with server.accept() as accepted:
                client.sendall(b"hello")
                assert read_exactly(accepted, 5) == b"hello"
        daemon.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_stopping_lets_connections_end_and_takes_no_new_ones(running: Running) -> None:
    client, accepted = running.pair()
    with client, accepted:
        client.sendall(b"question")
        assert read_exactly(accepted, 8) == b"question"
        running.daemon.stop()
        # The address is free at once: a successor may want it.
        listen_as_soon_as_it_is_free(running.daemon.addresses[0]).close()
        assert running.thread.is_alive()
        accepted.sendall(b"answer")
        accepted.close()
        assert read_all(client) == b"answer"
    running.join()


def test_stopping_has_a_deadline(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vsock_proxy")
    running = Running(place, drain_timeout=0.1)
    with running.server:
        client, accepted = running.pair()
        with client, accepted:
            running.daemon.stop()
            running.join()
            assert client.recv(1) == b""
            assert accepted.recv(1) == b""
    assert "stopping; 1 connections get 0.1 s to end" in caplog.text
    assert "cutting 1 connections that are still open" in caplog.text


def test_stopping_twice_stops_at_once(running: Running) -> None:
    client, accepted = running.pair()
    with client, accepted:
        running.daemon.stop()
        running.daemon.stop()
        running.join()
        assert client.recv(1) == b""


def test_stopping_what_has_stopped_is_no_error(running: Running) -> None:
    running.daemon.stop()
    running.join()
    running.daemon.stop()


def test_a_listener_that_cannot_be_opened_leaves_nothing_open(tmp_path: Path) -> None:
    good = UnixAddress(str(tmp_path / "good"))
    bad = UnixAddress(str(tmp_path / "missing" / "bad"))
    with pytest.raises(ListenError):
        Daemon([Forward(good, good), Forward(bad, good)])
    assert not (tmp_path / "good").exists()


def test_the_descriptor_limit_is_raised_and_then_respected(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    process = {"now": (1024, 4096)}
    monkeypatch.setattr(resource, "getrlimit", lambda _: process["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: process.update(now=new))

    def fit(*connections: int) -> list[Limits | None]:
        forwards = [
            Forward(UnixAddress(f"/{n}"), UnixAddress("/to"), limits=Limits(n, waiting=10))
            for n in connections
        ]
        fitted = within_descriptors(forwards)
        assert [f.listen for f in fitted] == [f.listen for f in forwards]
        return [f.limits for f in fitted]

    assert fit(100) == [Limits(100, waiting=10)]
    assert process["now"] == (1024, 4096)
    assert fit(300, 700) == [Limits(300, waiting=10), Limits(700, waiting=10)]
    assert process["now"] == (2000 + 20 + 64 + 2, 4096)
    assert not caplog.records
    few, many = fit(1000, 10_000)
    assert few is not None
    assert many is not None
    assert process["now"] == (4096, 4096)
    assert 2 * few.connections + few.waiting + 2 * many.connections + many.waiting <= 4030
    assert 10 * few.connections <= many.connections < 11 * few.connections
    total = few.connections + many.connections
    assert f"4096 file descriptors (ulimit -Hn) are enough for {total} connections" in caplog.text
