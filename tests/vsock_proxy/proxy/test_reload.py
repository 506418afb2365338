"""Other forwards for a daemon that is running, and the numbers it shows meanwhile."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from typing import TYPE_CHECKING, Self

import pytest

from tests.vsock_proxy.rig import PATIENCE, Server, check, read_all, refused
from vsock_proxy.errors import ConfigurationError, DialError, ListenError
from vsock_proxy.net.addresses import TcpAddress, UnixAddress
from vsock_proxy.net.dialing import SocketDialer
from vsock_proxy.proxy.allowlist import Allowlist
from vsock_proxy.proxy.counters import LATENCY_BOUNDS
from vsock_proxy.proxy.daemon import Daemon
from vsock_proxy.proxy.forward import Forward
from vsock_proxy.relay.connection import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vsock_proxy.proxy.counters import Snapshot


class Running:
    """A daemon in a thread, and servers and listeners by one letter."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self.servers = {
            name: self._stack.enter_context(Server(self.path(f"server-{name}"))) for name in "ab"
        }
        self.daemon = Daemon([self.forward("x", "a")], tick=0.01)
        self.thread = threading.Thread(target=self.daemon.run)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.daemon.stop()
        self.daemon.stop()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        self._stack.close()

    def path(self, name: str) -> UnixAddress:
        return UnixAddress(str(self._folder / name))

    def forward(self, listen: str, to: str, **more: object) -> Forward:
        address = self.path(f"server-{to}")
        return Forward(self.path(listen), address, name=listen, **more)  # type: ignore[arg-type]

    def dial(self, listen: str) -> socket.socket:
        return SocketDialer().dial(self.path(listen), PATIENCE)

    @contextlib.contextmanager
    def pair(self, listen: str, to: str) -> Iterator[tuple[socket.socket, socket.socket]]:
        with self.dial(listen) as client, self.servers[to].accept() as accepted:
            yield client, accepted

    def wait_until(self, true: Callable[[Snapshot], bool]) -> Snapshot:
        """Ask after every turn, of which there is one a tick at least."""
        for _ in range(2000):
            snapshot = self.daemon.snapshot()
            if true(snapshot):
                return snapshot
            self.thread.join(0.01)
        raise AssertionError("it never became true")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with Running(tmp_path) as running:
        yield running


def test_listeners_come_and_go_and_connections_stay(running: Running) -> None:
    with running.pair("x", "a") as (old, old_accepted):
        check(old, old_accepted)
        running.daemon.reload([running.forward("y", "b")])
        with running.pair("y", "b") as (client, accepted):
            check(client, accepted)
        assert not (running._folder / "x").exists()
        with pytest.raises(DialError):
            running.dial("x")
        check(old, old_accepted)
        assert running.daemon.snapshot().leaving == 1
        old.shutdown(socket.SHUT_WR)
        assert read_all(old_accepted) == b""
        old_accepted.sendall(b"last words")
        old_accepted.close()
        assert read_all(old) == b"last words"
    running.wait_until(lambda snapshot: snapshot.leaving == 0)
    # The loop has forgotten it: a reload costs nothing for ever.
    running.wait_until(lambda _: len(running.daemon._loop._tickers) == 2)


def test_a_listener_that_stays_is_the_same_one(running: Running) -> None:
    (before,) = running.daemon.forwarders
    running.daemon.reload([running.forward("y", "b"), running.forward("x", "a")])
    assert running.daemon.forwarders[1] is before
    assert running.daemon.addresses == [running.path("y"), running.path("x")]
    assert [forward.name for forward in running.daemon.snapshot().forwards] == ["y", "x"]


def test_a_target_that_changes_is_that_of_new_connections(running: Running) -> None:
    with running.pair("x", "a") as (old, old_accepted):
        running.daemon.reload([running.forward("x", "b", limits=Limits(connections=7))])
        check(old, old_accepted)
        with running.pair("x", "b") as (client, accepted):
            check(client, accepted)
            (forward,) = running.wait_until(
                lambda snapshot: snapshot.forwards[0].bytes_up == 10
            ).forwards
            assert (forward.to, forward.limit) == (running.path("server-b"), 7)
            assert (forward.accepted, forward.connections) == (2, 2)


def test_a_connection_in_the_backlog_survives_a_reload(tmp_path: Path) -> None:
    running = Running(tmp_path)
    with running.dial("x") as client:
        running.daemon.reload([running.forward("x", "b")])  # Not running yet: taken at once.
        with running, running.servers["b"].accept() as accepted:
            check(client, accepted)


def test_a_reload_that_fails_changes_nothing(running: Running) -> None:
    (running._folder / "file").touch()
    before = running.daemon.snapshot()
    bad: list[list[Forward]] = [
        [running.forward("y", "b"), running.forward("file", "b"), running.forward("x", "b")],
        [Forward(TcpAddress("127.0.0.1", 0), running.path("y")), running.forward("file", "b")],
        [running.forward("y", "b"), running.forward("y", "a")],
    ]
    for forwards in bad:
        with pytest.raises((ListenError, ConfigurationError)):
            running.daemon.reload(forwards)
        assert not (running._folder / "y").exists()
        after = running.daemon.snapshot()
        assert (after.forwards, after.reloads) == (before.forwards, 0)
    with running.pair("x", "a") as (client, accepted):
        check(client, accepted)


def test_a_listener_the_loop_cannot_watch_changes_nothing(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = running.daemon._loop
    add, watched = loop.add, len(loop._handlers)
    left = iter([True, False])

    def full(*arguments: object) -> None:
        if not next(left):
            raise OSError(28, "No space left on device")
        add(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "add", full)
    with pytest.raises(ListenError, match="No space left"):
        running.daemon.reload([running.forward(name, "b") for name in "xyz"])
    assert [f.name for f in running.daemon.snapshot().forwards] == ["x"]
    assert (len(loop._handlers), len(loop._tickers)) == (watched, 2)
    assert not (running._folder / "y").exists()


def test_what_is_no_longer_allowed_is_refused_and_what_is_open_goes_on(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vsock_proxy")
    with Server(TcpAddress("127.0.0.1", 0)) as server:
        assert isinstance(server.address, TcpAddress)
        port = server.address.port
        yes, no = Allowlist(frozenset({("127.0.0.1", port)})), Allowlist(frozenset())
        forward = Forward(running.path("x"), server.address, allowlist=yes)
        running.daemon.reload([forward])
        with running.dial("x") as old, server.accept() as accepted:
            check(old, accepted)
            running.daemon.reload([Forward(forward.listen, forward.to, allowlist=no)])
            with running.dial("x") as client:
                assert refused(client)
            check(old, accepted)
            assert running.daemon.snapshot().forwards[0].refused == {"allowlist": 1}
            running.daemon.reload([forward])
            with running.dial("x") as client, server.accept() as again:
                check(client, again)
    assert f"127.0.0.1:{port} is not on the allowlist: nobody gets there" in caplog.text
    assert "refused a UNIX peer: the target is not on the allowlist" in caplog.text


def test_cids_that_change_are_those_of_new_connections(running: Running) -> None:
    """A UNIX socket has no CID: where some are named, nobody may come from there."""
    with running.dial("x") as old, running.servers["a"].accept() as accepted:
        running.daemon.reload([running.forward("x", "a", cids=frozenset({16}))])
        with running.dial("x") as client:
            assert refused(client)
        check(old, accepted)
        assert running.daemon.snapshot().forwards[0].refused == {"cid": 1}


def test_numbers_of_open_connections_are_seen(running: Running) -> None:
    with running.pair("x", "a") as (client, accepted):
        check(client, accepted)
        accepted.sendall(b"no")
        assert client.recv(2) == b"no"
        # The bytes were delivered before they were counted, in the same turn.
        snapshot = running.wait_until(lambda snapshot: snapshot.forwards[0].bytes_down == 2)
        (forward,) = snapshot.forwards
        assert (forward.bytes_up, forward.bytes_down) == (5, 2)
        assert (forward.connections, forward.connecting, forward.waiting) == (1, 0, 0)
        assert (forward.listen, forward.to) == (running.path("x"), running.path("server-a"))
        assert forward.connect_seconds.count == 1
        assert len(forward.connect_seconds.cumulative) == len(LATENCY_BOUNDS) + 1
        assert forward.connect_seconds.sum >= 0
    (forward,) = running.wait_until(lambda now: now.forwards[0].connections == 0).forwards
    assert (forward.bytes_up, forward.bytes_down, forward.broken) == (5, 2, {})


def test_reloads_and_snapshots_from_many_threads(running: Running) -> None:
    both = [[running.forward("x", "a")], [running.forward("x", "b"), running.forward("y", "b")]]
    failures: list[Exception] = []

    def work(number: int) -> None:
        try:
            for i in range(20):
                running.daemon.reload(both[(number + i) % 2])
                assert len(running.daemon.snapshot().forwards) in (1, 2)
        except Exception as e:  # noqa: BLE001 (raised below)
            failures.append(e)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert failures == []
    assert running.daemon.snapshot().reloads == 80


def test_a_daemon_that_has_stopped_still_shows_its_numbers(tmp_path: Path) -> None:
    with Running(tmp_path) as running, running.pair("x", "a") as (client, accepted):
        check(client, accepted)
    snapshot = running.daemon.snapshot()
    assert [(f.relayed, f.connections) for f in snapshot.forwards] == [(1, 0)]
    running.daemon.reload([running.forward("y", "a")])  # Too late, and no error.
    assert not (tmp_path / "y").exists()
