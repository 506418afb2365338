"""Thousands of idle connections: they stay alive, and the proxy sleeps."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from tests.vsock_proxy.rig import COMMAND, LOCAL, Place, Server, allow_descriptors
from tests.waiting import TEST_TIMEOUT, eventually
from vsock_proxy.net.addresses import ConnectProxy, TcpAddress, UnixAddress, VsockAddress
from vsock_proxy.net.dialing import ConnectDialer, SocketDialer

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from vsock_proxy.net.addresses import Address
    from vsock_proxy.net.dialing import Dialer

MANY = 10_000 if LOCAL == "vsock" else 2_000
"""Each is two descriptors here and two in the proxy: machines let one process have 20,000 at times.
In the guest of ``make test-vsock`` they are ours to give."""

TUNNELS = 10_000 if LOCAL == "vsock" else 500
"""The same through an egress listener."""

OTHERS = 1000  # that the tests and the proxy have besides
FEW = 50  # that a proxy without connections has
BATCH = 50  # connections opened before they are accepted; less than a backlog
OBSERVED = 4.0
"""Seconds, at least. An idle proxy wakes up once in each."""


@pytest.fixture
def descriptors() -> Iterator[None]:
    yield from allow_descriptors(2 * MANY + OTHERS)


class Proxy:
    """The command, as a process."""

    def __init__(self, place: Place, server: Server, folder: Path, *, egress: bool) -> None:
        self.address = place.address("proxy")
        settings = folder / "parent.yaml"
        what = f"  forwards:\n  - {{listen: '{self.address}', to: '{server.address}'}}\n"
        if egress:
            assert isinstance(server.address, TcpAddress)
            cids = "cids: any, " if LOCAL == "vsock" else ""
            what = (
                f"  egress: {{listen: '{self.address}', {cids}allowlist: "
                f"[{{address: 127.0.0.1, port: {server.address.port}}}]}}\n"
            )
        limits = f"{{connections: {MANY}, per_cid_per_second: {MANY}}}"
        settings.write_text(f"proxy:\n  limits: {limits}\n{what}")
        self._process = subprocess.Popen(
            [*COMMAND, "--config", str(settings)], stderr=subprocess.PIPE
        )
        self._proc = Path("/proc", str(self._process.pid))

    def __enter__(self) -> Self:
        assert self._process.stderr
        line = self._process.stderr.readline()
        assert line.startswith(b"vsock-proxy: listening on"), line
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()

    def waits(self) -> int:
        """Return how often it has waited so far: proc(5), status. One that spins never does."""
        status = (self._proc / "status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("voluntary_ctxt"))
        return int(line.split()[1])

    def descriptors(self) -> int:
        return sum(1 for _ in (self._proc / "fd").iterdir())


def all_of_them(senders: list[socket.socket], receivers: list[socket.socket]) -> None:
    """All at once: one by one, each would cost the guest two process switches."""
    for sender in senders:
        sender.sendall(b"x")
    for receiver in receivers:
        assert receiver.recv(2) == b"x"


@pytest.mark.usefixtures("descriptors")
def test_ten_thousand_idle_connections_let_it_sleep(
    place: Place, server: Server, tmp_path: Path
) -> None:
    with Proxy(place, server, tmp_path, egress=False) as proxy:
        check_idle(proxy, server, SocketDialer(), proxy.address, MANY)


@pytest.mark.usefixtures("descriptors")
def test_ten_thousand_idle_tunnels_let_it_sleep(place: Place, tmp_path: Path) -> None:
    with (
        Server(TcpAddress("127.0.0.1", 0)) as server,
        Proxy(place, server, tmp_path, egress=True) as proxy,
    ):
        assert isinstance(proxy.address, VsockAddress | UnixAddress)
        dialer = ConnectDialer(ConnectProxy(proxy.address))
        check_idle(proxy, server, dialer, server.address, TUNNELS)


def check_idle(proxy: Proxy, server: Server, dialer: Dialer, address: Address, many: int) -> None:
    with contextlib.ExitStack() as stack:
        clients: list[socket.socket] = []
        accepted: list[socket.socket] = []
        while len(clients) < many:
            for _ in range(BATCH):
                client = stack.enter_context(dialer.dial(address, TEST_TIMEOUT))
                client.settimeout(TEST_TIMEOUT)
                clients.append(client)
            accepted += [stack.enter_context(server.accept()) for _ in range(BATCH)]
        assert proxy.descriptors() > 2 * many

        # Not its CPU time: a guest counts the host's other work as its own.
        began, before = time.monotonic(), proxy.waits()
        eventually(
            lambda: time.monotonic() >= began + OBSERVED and proxy.waits() >= before + 2  # no spin
        )
        waits, elapsed = proxy.waits() - before, time.monotonic() - began
        # One tick a second; a descriptor that is ready again and again would be thousands.
        assert waits <= 2 * elapsed + 2

        all_of_them(clients, accepted)
        all_of_them(accepted, clients)
        for client in clients:
            client.close()
        for end in accepted:
            assert end.recv(1) == b""
            end.close()
        eventually(lambda: proxy.descriptors() < FEW)
