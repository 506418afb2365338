"""A forwarder on a loop in a thread, between real sockets."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import resource
import select
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import pytest

from tests.sockets import read_all
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import (
    Address,
    TcpAddress,
    TunnelAddress,
    UnixAddress,
    VsockAddress,
)
from vsock_proxy.net.dialing import SocketDialer
from vsock_proxy.net.listening import listen, local_address
from vsock_proxy.proxy.egress import EgressForwarder
from vsock_proxy.proxy.forward import Egress, Forward
from vsock_proxy.proxy.forwarder import Forwarder
from vsock_proxy.relay.connection import DEFAULT_LIMITS
from vsock_proxy.relay.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vsock_proxy.proxy.allowlist import Allowlist
    from vsock_proxy.relay.connection import RelayedConnection, RelayLimits
    from vsock_proxy.relay.resolver import LookUp, Resolver


LARGE = 6_000_000
"""Bytes; more than all the socket buffers on the way hold."""

COMMAND = [
    sys.executable,
    "-c",
    "import sys; from vsock_proxy.proxy.command import main; sys.exit(main())",
]
"""``vsock-proxy``, as a process."""

TICK = 20.0
"""Seconds between ticks, of the rig's clock, which stands still until a test moves it."""

SETTLED_AFTER = 500
"""Turns; the last moves of a test's peers cause a few dozen at most, a loop that spins any number.
"""

SILENCE = 0.05
"""Seconds without an event. One that comes later only makes another turn."""

VMADDR_CID_LOCAL = 1
"""vsock's loopback (<linux/vm_sockets.h>)."""

_vsock_ports = itertools.count(50_000)


make_loop: Callable[..., Loop] = Loop
"""Makes the loop of a `Rig`. The fixture `innermost` replaces it."""


def _local_kind() -> Literal["unix", "vsock"]:
    if os.environ.get("TEST_OVER_VSOCK") != "1":
        return "unix"
    # Without the loopback module, CID 1 is the hypervisor: a connection would leave this machine.
    if "vsock_loopback " not in Path("/proc/modules").read_text(encoding="ascii"):
        raise RuntimeError("TEST_OVER_VSOCK is for the guest alone: run make test-vsock")
    return "vsock"


LOCAL: Literal["unix", "vsock"] = _local_kind()
"""The kind of socket on the enclave's side: vsock in the guest (`tests.programs.guest`), and UNIX
sockets instead on a machine without vsock loopback."""


class Rig:
    """A forwarder under test, which relays to `to`, or to what `resolver` finds, or, as `egress`,
    to what its clients name."""

    def __init__(
        self,
        listen_on: Address,
        to: Address | TunnelAddress | None = None,
        *,
        resolver: Callable[[Loop], Resolver] | None = None,
        limits: RelayLimits = DEFAULT_LIMITS,
        cids: frozenset[int] | None = None,
        listener: socket.socket | None = None,
        egress: Egress | None = None,
        allowlist: Allowlist | None = None,
        look_up: LookUp | None = None,
    ) -> None:
        self._time = 0.0
        self.loop = make_loop(tick=TICK, monotonic=lambda: self._time)
        listener = listener or listen(listen_on)
        self.address = local_address(listener)
        target = egress or to or TcpAddress("the.server", 1)
        forward = Forward(
            listen_on, target, name="the server", limits=limits, cids=cids, allowlist=allowlist
        )
        self.forwarder: Forwarder = (
            EgressForwarder(self.loop, listener, forward, look_up=look_up)
            if egress
            else Forwarder(
                self.loop, listener, forward, resolver=resolver(self.loop) if resolver else None
            )
        )
        self.forwarder.start()
        self._turned = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="relay")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._halt()
        self.forwarder.stop_accepting()
        self.forwarder.abort()
        self.loop.close()

    def _halt(self) -> None:
        self._stopping = True
        self.loop.call_from_thread(lambda: None)
        self._thread.join(TEST_TIMEOUT)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping:
            self.loop.turn()
            with self._turned:
                self._turned.notify_all()

    def assert_quiet(self) -> None:
        """Halt, and check that nothing but ticks would make the loop turn: that it does not spin.
        A tick may cause a few turns, but no more.
        """
        self._halt()
        for _ in range(3):
            self.loop.later(lambda: None)  # So that the first turn does not wait.
            self.loop.turn()
            self._assert_settles()
            self._time += TICK

    def _assert_settles(self) -> None:
        """What the peers' last moves still cause comes late: TCP acknowledges an end 40 ms after
        it, and that is an event. A loop that spins never runs out of them.
        """
        for _ in range(SETTLED_AFTER):
            if not (self.loop._unfinished or self.loop._later or self._has_events(SILENCE)):
                return
            self.loop.turn()
        raise AssertionError(f"after {SETTLED_AFTER} turns there is still something to do")

    def _has_events(self, timeout: float) -> bool:
        """Look without taking: an edge is reported once, and belongs to the loop."""
        watch = select.poll()
        watch.register(self.loop._epoll.fileno(), select.POLLIN)
        return bool(watch.poll(timeout * 1000))

    def wait_until(self, true: Callable[[], bool]) -> None:
        """Wait for a condition, which is checked after every turn."""
        with self._turned:
            assert self._turned.wait_for(true, TEST_TIMEOUT), "it never became true"

    def pass_time(self, seconds: float) -> None:
        """Advance the clock, and wake the loop so that it has its tick."""
        assert seconds > TICK
        self._time += seconds
        self.loop.call_from_thread(lambda: None)

    def connect(self) -> socket.socket:
        return SocketDialer().dial(self.address, TEST_TIMEOUT)


class Place:
    """Addresses of one kind of socket, for one test."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self._folder = folder
        self._ports: dict[str, int] = {}

    def address(self, name: str) -> Address:
        """The same name gives the same address, except for TCP, where the kernel chooses."""
        match self.kind:
            case "unix":
                return UnixAddress(str(self._folder / name))
            case "vsock":
                port = self._ports.setdefault(name, next(_vsock_ports))
                return VsockAddress(VMADDR_CID_LOCAL, port)
            case _:
                return TcpAddress("127.0.0.1", 0)

    @contextlib.contextmanager
    def server(self) -> Iterator[Server]:
        with Server(self.address("server")) as server:
            yield server


class Server:
    """A listening socket whose connections the test accepts."""

    def __init__(self, address: Address) -> None:
        self._listener = listen(address)
        self._listener.settimeout(TEST_TIMEOUT)
        self.address = local_address(self._listener)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def accept(self) -> socket.socket:
        connection, _ = self._listener.accept()
        connection.settimeout(TEST_TIMEOUT)
        return connection


def read_exactly(connection: socket.socket, count: int) -> bytes:
    read = bytearray(count)
    left = memoryview(read)
    while left:
        size = connection.recv_into(left)
        assert size, f"it ended after {count - len(left)} of {count} bytes"
        left = left[size:]
    return bytes(read)


def reset(connection: socket.socket) -> None:
    """Close it; on TCP with a reset, which other sockets do not have."""
    if connection.family == socket.AF_INET:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@contextlib.contextmanager
def in_thread(work: Callable[[], object]) -> Iterator[None]:
    """Do something in a thread; an exception, or a thread that never ends, fails the test."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as e:  # noqa: BLE001 (raised again where it can be seen)
            failures.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join(2 * TEST_TIMEOUT)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


def ask(rig: Rig, server: Server) -> None:
    """Open a connection, use it, close it."""
    with rig.connect() as client, server.accept() as accepted:
        check(client, accepted)


def check(client: socket.socket, accepted: socket.socket) -> None:
    client.sendall(b"hello")
    assert read_exactly(accepted, 5) == b"hello"


def closed_without_a_byte(client: socket.socket) -> bool:
    """Return whether it was closed without a byte."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


@contextlib.contextmanager
def hole() -> Iterator[Address]:
    """An unresponsive address: its backlog is full."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as server,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield local_address(server)


class Ends:
    """A running rig between two kinds of sockets."""

    def __init__(self, pair: tuple[str, str], rig: Rig, server: Server) -> None:
        self.client_kind, self.server_kind = pair
        self.rig = rig
        self.server = server

    @contextlib.contextmanager
    def pair(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        with self.rig.connect() as client, self.server.accept() as server:
            yield client, server

    def connection(self) -> RelayedConnection:
        """Return the only connection."""
        relayed = self.rig.forwarder._relayed
        self.rig.wait_until(lambda: bool(relayed))
        (connection,) = relayed
        return connection

    def wait_until_empty(self) -> None:
        self.rig.wait_until(lambda: self.rig.forwarder.in_use == 0)


def peer_name(client: socket.socket) -> str:
    """Return the name of this client in the log."""
    if client.family == socket.AF_VSOCK:  # Bound to any CID, says its own end.
        return str(VsockAddress(VMADDR_CID_LOCAL, client.getsockname()[1]))
    return "a UNIX peer" if client.family == socket.AF_UNIX else str(local_address(client))


def text(length: int) -> bytes:
    """Return random bytes: lost, doubled or swapped parts show."""
    return random.Random(length).randbytes(length)  # noqa: S311 (not for secrets)


def say(end: socket.socket, words: bytes, piece: int = LARGE) -> None:
    for start in range(0, len(words), piece):
        end.sendall(words[start : start + piece])
    end.shutdown(socket.SHUT_WR)


def allow_descriptors(needed: int) -> Iterator[None]:
    """Raise the descriptor limit for this process and its children: the body of a fixture."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), max(hard, needed)))
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < needed:
        pytest.skip(f"{needed} file descriptors are needed, {hard} allowed: ulimit -Hn {needed}")
    yield
    # The hard limit stays raised: once lowered it could not be raised again.
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, max(hard, needed)))


def flood(end: socket.socket) -> bool:
    """Send far more than all buffers hold; return whether the other end closed before the end."""
    piece = b"x" * 100_000  # Small: new memory is what costs the guest most.
    try:
        for _ in range(1000):
            end.sendall(piece)
    except ConnectionError:
        return True
    return False


def expect(end: socket.socket, words: bytes) -> None:
    assert read_all(end) == words
