"""The daemon: several listeners in one process, draining, descriptor limits."""

from __future__ import annotations

import contextlib
import logging
import queue
import resource
import threading
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sockets import read_all
from tests.vsock_proxy.rig import Place, Server, read_exactly
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.errors import ListenError
from vsock_proxy.net.addresses import TcpAddress, UnixAddress
from vsock_proxy.net.dialing import SocketDialer
from vsock_proxy.net.listening import listen
from vsock_proxy.proxy.daemon import Daemon
from vsock_proxy.proxy.forward import Forward, descriptors_needed, fit
from vsock_proxy.proxy.forwarder import Forwarder
from vsock_proxy.relay.connection import RelayLimits
from vsock_proxy.relay.loop import Loop
from vsock_proxy.service.descriptors import raise_descriptor_limit

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vsock_proxy.net.addresses import Address
    from vsock_proxy.proxy.counters import ForwardSnapshot

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
        client = SocketDialer().dial(self.daemon.addresses[0], TEST_TIMEOUT)
        return client, self.server.accept()

    def join(self) -> None:
        self.thread.join(TEST_TIMEOUT)
        assert not self.thread.is_alive()


def listen_as_soon_as_it_is_free(address: Address) -> socket.socket:
    give_up = time.monotonic() + TEST_TIMEOUT
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
            with SocketDialer().dial(address, TEST_TIMEOUT) as client, server.accept() as accepted:
                client.sendall(b"hello")
                assert read_exactly(accepted, 5) == b"hello"
        daemon.stop()
        thread.join(TEST_TIMEOUT)
        assert not thread.is_alive()


def test_connection_made_before_run_is_served(place: Place) -> None:
    with Server(place.address("server")) as server:
        proxy = place.address("proxy")
        daemon = Daemon([Forward(proxy, server.address)])
        with SocketDialer().dial(proxy, TEST_TIMEOUT) as client:
            thread = threading.Thread(target=daemon.run)
            thread.start()
            with server.accept() as accepted:
                client.sendall(b"hello")
                assert read_exactly(accepted, 5) == b"hello"
        daemon.stop()
        thread.join(TEST_TIMEOUT)
        assert not thread.is_alive()


def test_stop_drains_open_connections_and_accepts_no_new_ones(running: Running) -> None:
    client, accepted = running.pair()
    with client, accepted:
        client.sendall(b"question")
        assert read_exactly(accepted, 8) == b"question"
        running.daemon.stop()
        # The address is free at once, for a successor.
        listen_as_soon_as_it_is_free(running.daemon.addresses[0]).close()
        assert running.thread.is_alive()
        accepted.sendall(b"answer")
        accepted.close()
        assert read_all(client) == b"answer"
    running.join()


def test_drain_has_a_deadline(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vsock_proxy")
    running = Running(place, drain_timeout=0.1)
    with running.server:
        client, accepted = running.pair()
        with client, accepted:
            running.daemon.stop()
            running.join()
            assert client.recv(1) == b""
            assert accepted.recv(1) == b""
    assert "stopping; 1 connections may end within 0.1 s" in caplog.text
    assert "aborting 1 connections that are still open" in caplog.text


def test_snapshot_is_taken_by_the_loop_thread_until_all_connections_are_closed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread would look at sets that `abort` is changing."""
    waits, taken_by = threading.Event(), []
    results: queue.SimpleQueue[int] = queue.SimpleQueue()
    abort, snapshot = Forwarder.abort, Forwarder.snapshot
    call_from_thread = Loop.call_from_thread

    def noted_snapshot(forwarder: Forwarder) -> ForwardSnapshot:
        taken_by.append(threading.current_thread())
        waits.set()
        return snapshot(forwarder)

    def noted_call(loop: Loop, call: Callable[[], None]) -> None:
        call_from_thread(loop, call)
        waits.set()

    monkeypatch.setattr(Loop, "call_from_thread", noted_call)
    running = Running(place, drain_timeout=0)

    def ask() -> None:
        results.put(running.daemon.snapshot().forwards[0].gauges.connections)

    asking = threading.Thread(target=ask)

    def abort_while_another_thread_asks(forwarder: Forwarder) -> None:
        waits.clear()
        asking.start()
        assert waits.wait(TEST_TIMEOUT)
        abort(forwarder)

    with running.server:
        client, accepted = running.pair()
        with client, accepted:
            monkeypatch.setattr(Forwarder, "snapshot", noted_snapshot)
            monkeypatch.setattr(Forwarder, "abort", abort_while_another_thread_asks)
            running.daemon.stop()
            running.join()
            assert results.get(timeout=TEST_TIMEOUT) == 0
            asking.join(TEST_TIMEOUT)
    assert taken_by == [running.thread]


def test_reload_after_the_end_opens_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the loop ended by an error, and nobody has called `stop`."""
    address, later = place.address("proxy"), place.address("later")
    daemon = Daemon([Forward(address, address)])

    def turn(_: Loop) -> None:
        raise OSError("a loop that breaks")

    monkeypatch.setattr(Loop, "turn", turn)
    with pytest.raises(OSError, match="a loop that breaks"):
        daemon.run()
    daemon.reload([Forward(later, address)])
    listen(later).close()


def test_second_stop_aborts_connections(running: Running) -> None:
    client, accepted = running.pair()
    with client, accepted:
        running.daemon.stop()
        running.daemon.stop()
        running.join()
        assert client.recv(1) == b""


def test_stop_after_the_end_is_ignored(running: Running) -> None:
    running.daemon.stop()
    running.join()
    running.daemon.stop()


def test_failed_listener_leaves_nothing_open(tmp_path: Path) -> None:
    good = UnixAddress(str(tmp_path / "good"))
    bad = UnixAddress(str(tmp_path / "missing" / "bad"))
    with pytest.raises(ListenError):
        Daemon([Forward(good, good), Forward(bad, good)])
    assert not (tmp_path / "good").exists()


def limited(*connections: int) -> list[Forward]:
    to = UnixAddress("/to")
    return [
        Forward(UnixAddress(f"/{n}"), to, limits=RelayLimits(n, waiting=10)) for n in connections
    ]


@given(st.lists(st.integers(1, 10_000), max_size=20), st.integers(0, 100_000))
def test_fitted_limits_need_no_more_descriptors_than_allowed(
    connections: list[int], allowed: int
) -> None:
    forwards = limited(*connections)
    fitted = fit(forwards, allowed)
    assert [f.listen for f in fitted] == [f.listen for f in forwards]
    if descriptors_needed(forwards) <= allowed:
        assert fitted == forwards
    # Each keeps its listener, one connection and one queued client, whatever its share.
    assert descriptors_needed(fitted) <= allowed + 4 * len(forwards)
    assert all(f.limits.connections >= 1 and f.limits.waiting >= 1 for f in fitted)


def test_fitted_limits_keep_their_proportion() -> None:
    few, many = (f.limits.connections for f in fit(limited(1000, 10_000), 4096))
    assert 10 * few <= many < 11 * few


@pytest.mark.parametrize(
    ("limits", "wanted", "raised"),
    [
        ((1024, 4096), 100, (100, (1024, 4096))),
        ((1024, 4096), 2000, (2000, (2000, 4096))),
        ((1024, 4096), 5000, (4096, (4096, 4096))),
        ((1024, resource.RLIM_INFINITY), 5000, (5000, (5000, resource.RLIM_INFINITY))),
        ((resource.RLIM_INFINITY,) * 2, 5000, (5000, (resource.RLIM_INFINITY,) * 2)),
    ],
)
def test_descriptor_limit_is_raised_as_far_as_allowed(
    limits: tuple[int, int],
    wanted: int,
    raised: tuple[int, tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = {"now": limits}
    monkeypatch.setattr(resource, "getrlimit", lambda _: process["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: process.update(now=new))
    assert (raise_descriptor_limit(wanted), process["now"]) == raised


def test_daemon_scales_its_limits_to_the_descriptors_it_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vsock_proxy.proxy.daemon.raise_descriptor_limit", lambda _: 1024)
    address = UnixAddress(str(tmp_path / "proxy"))
    daemon = Daemon([Forward(address, address, limits=RelayLimits(1000, waiting=10))])
    daemon.stop()
    daemon.run()
    (forward,) = daemon.snapshot().forwards
    limit = forward.gauges.connection_limit
    assert 450 < limit < 480
    expected = (
        f"1024 file descriptors (ulimit -Hn) are enough for {limit} connections, not for 1000"
    )
    assert expected in caplog.text
