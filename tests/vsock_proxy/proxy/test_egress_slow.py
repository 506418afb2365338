"""Clients and servers that do not read, or a byte now and then: what they cost, and whom.

Through the parent's listener, and through the agent's in front of it. What a tunnel holds is one
buffer in each direction and listener, `MAX_HELD` for all; the rest stays with whoever sends.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import pytest

from tests.vsock_proxy.proxy.outside import NAME, Outside, outside
from tests.vsock_proxy.proxy.test_egress_chain import image
from tests.vsock_proxy.rig import LARGE, Place, Rig, expect, in_thread, read_exactly, say, text
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.http_connect import ESTABLISHED, request
from vsock_proxy.relay import loop
from vsock_proxy.relay.loop import BUFFER_SIZE, SCARCE_BUFFER_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE = bytes(65_536)


@dataclass
class Way:
    """A way out: `rigs` are its listeners, the client's first."""

    out: Outside
    rigs: list[Rig]

    @contextlib.contextmanager
    def tunnel(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        with self.rigs[0].connect() as client:
            client.settimeout(TEST_TIMEOUT)
            client.sendall(request(NAME, self.out.port))
            with self.out.server.accept() as accepted:
                assert read_exactly(client, len(ESTABLISHED)) == ESTABLISHED
                yield client, accepted

    def check_others(self) -> None:
        """Relay much for somebody else, both ways."""
        up, down = text(LARGE), text(LARGE + 1)
        with (
            self.tunnel() as (client, accepted),
            in_thread(lambda: say(client, up)),
            in_thread(lambda: say(accepted, down)),
            in_thread(lambda: expect(accepted, up)),
        ):
            expect(client, down)

    def wait_until_stuck(self, tunnels: int = 1) -> None:
        """Wait until each listener holds what a reader does not take."""
        for rig in self.rigs:
            rig.wait_until(lambda: sum(map(bool, held(rig))) == tunnels)  # noqa: B023 (at once)

    def wait_until_empty(self) -> None:
        for rig in self.rigs:
            rig.wait_until(lambda: rig.forwarder.in_use == 0)  # noqa: B023 (at once)
            assert rig.loop._held == 0


def held(rig: Rig) -> list[int]:
    """Bytes that are held, by connection."""
    return [len(each.up.tail) + len(each.down.tail) for each in tuple(rig.forwarder._relayed)]


class Flood:
    """Sends for ever, until its socket ends.

    Attributes:
        sent: bytes.
    """

    def __init__(self, end: socket.socket) -> None:
        self.sent = 0
        self._end = end
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self._end.settimeout(None)
        with contextlib.suppress(OSError):
            while True:
                self.sent += self._end.send(PIECE)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
        self._thread.join(TEST_TIMEOUT)
        assert not self._thread.is_alive()


@pytest.fixture(params=["parent", "agent"])
def way(request: pytest.FixtureRequest, place: Place, innermost: str) -> Iterator[Way]:
    del innermost
    with outside(place) as out:
        if request.param == "parent":
            yield Way(out, [out.rig])
            return
        with image(place, out.rig.address, (NAME, out.port)) as rig:
            yield Way(out, [rig, out.rig])


@pytest.mark.parametrize("reader", ["client", "server"])
def test_peer_that_reads_nothing_costs_one_buffer_and_nobody_else(way: Way, reader: str) -> None:
    with way.tunnel() as (client, accepted), Flood(accepted if reader == "client" else client):
        way.wait_until_stuck()
        way.check_others()
        for rig in way.rigs:
            assert 0 < rig.loop._held <= BUFFER_SIZE
    way.wait_until_empty()


@pytest.mark.parametrize("reader", ["client", "server"])
def test_peer_that_reads_byte_by_byte_costs_no_more(way: Way, reader: str) -> None:
    with way.tunnel() as (client, accepted):
        slow = client if reader == "client" else accepted
        with Flood(accepted if reader == "client" else client):
            way.wait_until_stuck()
            for _ in range(50):
                assert slow.recv(1) == b"\0"
                assert all(rig.loop._held <= BUFFER_SIZE for rig in way.rigs)
            way.check_others()
    way.wait_until_empty()


def test_many_peers_that_read_nothing_hold_no_more_than_the_bound(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    many, bound = 12, 4 * BUFFER_SIZE
    monkeypatch.setattr(loop, "MAX_HELD", bound)
    with contextlib.ExitStack() as stack:
        for _ in range(many):
            _, accepted = stack.enter_context(way.tunnel())
            stack.enter_context(Flood(accepted))
        way.wait_until_stuck(many)
        way.check_others()
        for rig in way.rigs:
            assert rig.loop._held <= bound + BUFFER_SIZE + many * SCARCE_BUFFER_SIZE
    way.wait_until_empty()
