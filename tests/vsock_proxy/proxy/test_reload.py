"""Reloads and snapshots of a running daemon."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from typing import TYPE_CHECKING, ClassVar, Self

import pytest

from tests.sockets import read_all
from tests.vsock_proxy.rig import Server, check, closed_without_a_byte
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.errors import ConfigurationError, DialError, ListenError
from vsock_proxy.net.addresses import TcpAddress, UnixAddress
from vsock_proxy.net.dialing import SocketDialer
from vsock_proxy.proxy.allowlist import Allowlist
from vsock_proxy.proxy.counters import Gauges
from vsock_proxy.proxy.daemon import Daemon
from vsock_proxy.proxy.forward import Forward
from vsock_proxy.relay.connection import DEFAULT_LIMITS, RelayLimits

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
        self.thread.join(TEST_TIMEOUT)
        assert not self.thread.is_alive()
        self._stack.close()

    def path(self, name: str) -> UnixAddress:
        return UnixAddress(str(self._folder / name))

    def forward(self, listen: str, to: str, **more: object) -> Forward:
        address = self.path(f"server-{to}")
        return Forward(self.path(listen), address, name=listen, **more)  # type: ignore[arg-type]

    def dial(self, listen: str) -> socket.socket:
        return SocketDialer().dial(self.path(listen), TEST_TIMEOUT)

    @contextlib.contextmanager
    def pair(self, listen: str, to: str) -> Iterator[tuple[socket.socket, socket.socket]]:
        with self.dial(listen) as client, self.servers[to].accept() as accepted:
            yield client, accepted

    def wait_until(self, true: Callable[[Snapshot], bool]) -> Snapshot:
        """Check snapshots until one fulfils the condition."""
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


def test_reload_replaces_listeners_and_keeps_connections(running: Running) -> None:
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
    # The loop has forgotten it: reloads do not add up.
    running.wait_until(lambda _: len(running.daemon._loop._tickers) == 2)


def test_unchanged_listener_is_kept(running: Running) -> None:
    (before,) = running.daemon.forwarders
    running.daemon.reload([running.forward("y", "b"), running.forward("x", "a")])
    assert running.daemon.forwarders[1] is before
    assert running.daemon.addresses == [running.path("y"), running.path("x")]
    assert [forward.name for forward in running.daemon.snapshot().forwards] == ["y", "x"]


def test_new_target_applies_to_new_connections(running: Running) -> None:
    with running.pair("x", "a") as (old, old_accepted):
        running.daemon.reload([running.forward("x", "b", limits=RelayLimits(connections=7))])
        check(old, old_accepted)
        with running.pair("x", "b") as (client, accepted):
            check(client, accepted)
            (forward,) = running.wait_until(
                lambda snapshot: snapshot.forwards[0].counters.bytes["up"] == 10
            ).forwards
            assert forward.target == running.path("server-b")
            assert forward.counters.accepted == 2
            assert (forward.gauges.connections, forward.gauges.connection_limit) == (2, 7)


def test_connection_in_the_backlog_survives_a_reload(tmp_path: Path) -> None:
    running = Running(tmp_path)
    with running.dial("x") as client:
        running.daemon.reload([running.forward("x", "b")])  # Not running yet: taken at once.
        with running, running.servers["b"].accept() as accepted:
            check(client, accepted)


def test_failed_reload_changes_nothing(running: Running) -> None:
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


def test_failed_registration_changes_nothing(
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


def test_target_removed_from_the_allowlist_rejects_new_connections_only(
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
            running.daemon.reload([Forward(forward.listen, forward.target, allowlist=no)])
            with running.dial("x") as client:
                assert closed_without_a_byte(client)
            check(old, accepted)
            assert running.daemon.snapshot().forwards[0].counters.rejected == {"allowlist": 1}
            running.daemon.reload([forward])
            with running.dial("x") as client, server.accept() as again:
                check(client, again)
    assert f"127.0.0.1:{port} is not on the allowlist: new connections are rejected" in caplog.text
    assert "rejected a UNIX peer: the target is not on the allowlist" in caplog.text


def test_new_cids_apply_to_new_connections(running: Running) -> None:
    """A UNIX socket has no CID: if CIDs are named, its clients are rejected."""
    with running.dial("x") as old, running.servers["a"].accept() as accepted:
        running.daemon.reload([running.forward("x", "a", cids=frozenset({16}))])
        with running.dial("x") as client:
            assert closed_without_a_byte(client)
        check(old, accepted)
        assert running.daemon.snapshot().forwards[0].counters.rejected == {"cid": 1}


class Watched(Allowlist):
    """Records the threads that look up targets in it, or compare it."""

    threads: ClassVar[set[int]] = set()

    def allows(self, host: str, port: int) -> bool:
        self.threads.add(threading.get_ident())
        return super().allows(host, port)

    def __eq__(self, other: object) -> bool:
        self.threads.add(threading.get_ident())
        return super().__eq__(other)

    __hash__ = Allowlist.__hash__


def test_reload_is_prepared_beside_the_loop(running: Running) -> None:
    """Comparing 256 forwards with 1,000 wildcards each held the loop for 1.8 s."""
    logging_threads: set[int] = set()
    Watched.threads.clear()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002
            logging_threads.add(threading.get_ident())

    def forwards(port: int) -> list[Forward]:
        target, allowlist = TcpAddress("127.0.0.1", port), Watched(frozenset())
        return [Forward(running.path(name), target, allowlist=allowlist) for name in "xyz"]

    log, handler = logging.getLogger("vsock_proxy"), Handler()
    log.addHandler(handler)
    before = log.level
    log.setLevel(logging.INFO)
    try:
        for port in (1, 2, 2):  # New, changed, the same.
            running.daemon.reload(forwards(port))
        running.daemon.reload([running.forward("x", "a")])
    finally:
        log.setLevel(before)
        log.removeHandler(handler)
    here = {threading.get_ident()}
    assert (Watched.threads, logging_threads) == (here, here)


def test_snapshot_includes_open_connections(running: Running) -> None:
    with running.pair("x", "a") as (client, accepted):
        check(client, accepted)
        accepted.sendall(b"no")
        assert client.recv(2) == b"no"
        # The bytes were delivered before they were counted, in the same turn.
        snapshot = running.wait_until(
            lambda snapshot: snapshot.forwards[0].counters.bytes["down"] == 2
        )
        (forward,) = snapshot.forwards
        assert forward.counters.bytes == {"up": 5, "down": 2}
        assert forward.gauges == Gauges(1, 0, 0, DEFAULT_LIMITS.connections)
        assert (forward.listen, forward.target) == (running.path("x"), running.path("server-a"))
        durations = forward.counters.connect_seconds
        assert durations.cumulative[-1] == 1
        assert durations.sum >= 0
    (forward,) = running.wait_until(lambda now: now.forwards[0].gauges.connections == 0).forwards
    assert forward.counters.bytes == {"up": 5, "down": 2}
    assert forward.counters.broken == {}


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
        thread.join(TEST_TIMEOUT)
    assert failures == []
    assert running.daemon.snapshot().reloads == 80


def test_stopped_daemon_still_has_a_snapshot(tmp_path: Path) -> None:
    with Running(tmp_path) as running, running.pair("x", "a") as (client, accepted):
        check(client, accepted)
    snapshot = running.daemon.snapshot()
    assert [(f.counters.relayed, f.gauges.connections) for f in snapshot.forwards] == [(1, 0)]
    running.daemon.reload([running.forward("y", "a")])  # Too late, and no error.
    assert not (tmp_path / "y").exists()
