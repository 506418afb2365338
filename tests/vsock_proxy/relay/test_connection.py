"""When a relayed connection ends, and how, against scripted sockets."""

from __future__ import annotations

import errno
import select
import socket
from typing import TYPE_CHECKING, cast

import pytest

from tests.vsock_proxy.relay.test_flow import FakeSink, FakeSource, broken
from vsock_proxy.relay.connection import RelayedConnection, RelayLimits
from vsock_proxy.relay.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDED = select.EPOLLIN | select.EPOLLRDHUP
GONE = ENDED | select.EPOLLHUP | select.EPOLLERR


class FakeEnd(FakeSource, FakeSink):
    """One socket: the source of what it sends, the sink of what it receives."""

    family = socket.AF_INET

    def __init__(self, number: int) -> None:
        FakeSource.__init__(self)
        FakeSink.__init__(self)
        self.number = number
        self.closed = self.was_reset = False

    def fileno(self) -> int:
        return self.number

    def setsockopt(self, level: int, option: int, _value: bytes) -> None:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER)
        self.was_reset = True

    def close(self) -> None:
        self.closed = True

    @property
    def told_of_the_end(self) -> bool:
        """A close without a reset is an event too."""
        return self.ends == 1 or (self.closed and not self.was_reset)


class Joined:
    """A client and a server, relayed, and the events of the connection."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.client, self.server = FakeEnd(1001), FakeEnd(1002)
        self.told: list[OSError | None] = []
        self.connection = RelayedConnection(
            loop,
            cast("socket.socket", self.client),
            cast("socket.socket", self.server),
            limits=RelayLimits(),
            events=self,
        )

    def closed(self, _connection: RelayedConnection, failure: OSError | None) -> None:
        self.told.append(failure)

    def happens(self, end: FakeEnd, events: int) -> None:
        self.connection.ready(end.number, events)


@pytest.fixture
def joined() -> Iterator[Joined]:
    with Loop() as loop:
        yield Joined(loop)


def test_connection_ends_when_both_directions_have(joined: Joined) -> None:
    joined.client.ended = joined.server.ended = True
    joined.happens(joined.client, ENDED)
    assert joined.server.ends == 1
    assert joined.told == []
    joined.happens(joined.server, ENDED)
    assert joined.client.ends == 0, "a system call for nothing: the close says it"
    assert joined.told == [None]
    assert joined.client.closed
    assert joined.server.closed
    assert not joined.client.was_reset
    joined.connection.close()
    joined.happens(joined.client, GONE)
    assert joined.told == [None], "it was told twice"


def test_reset_is_passed_on_as_a_reset(joined: Joined) -> None:
    joined.client.arrived = b"part"
    joined.client.read_error = broken(errno.ECONNRESET)
    joined.happens(joined.client, GONE)
    assert joined.server.got == b"part"
    assert joined.server.ends == 0
    assert joined.server.was_reset
    assert len(joined.told) == 1
    assert joined.told[0] is joined.client.read_error


@pytest.mark.parametrize("upwards", [True, False])
def test_reset_seen_by_a_send_is_not_taken_for_an_orderly_end(
    joined: Joined, *, upwards: bool
) -> None:
    near, far = joined.client, joined.server
    if not upwards:
        near, far = far, near
    near.arrived = b"question"
    far.send_error = broken(errno.ECONNRESET)
    far.arrived = b"half an answ"
    far.ended = True  # As recv(2) says after the error was told of once.
    joined.happens(near, select.EPOLLIN)
    assert joined.told == []
    joined.happens(far, GONE)
    assert near.got == b"half an answ"
    assert near.ends == 0
    assert near.was_reset


def test_data_of_an_orderly_closed_sink_is_relayed(joined: Joined) -> None:
    joined.client.arrived = b"more than the server wants"
    joined.server.send_error = broken(errno.EPIPE)
    joined.server.arrived = b"enough"
    joined.server.ended = True
    joined.happens(joined.client, select.EPOLLIN)
    joined.happens(joined.server, GONE)
    assert joined.client.got == b"enough"
    assert joined.client.told_of_the_end
    assert joined.told == [None]
    assert not joined.client.was_reset


def test_full_close_of_the_client_ends_the_connection(joined: Joined) -> None:
    joined.client.arrived = b"bye"
    joined.client.ended = True
    joined.client.send_error = broken(errno.EPIPE)
    joined.happens(joined.client, GONE)
    assert (joined.server.got, joined.server.ends) == (b"bye", 1)
    assert joined.told == [None]


def test_full_close_after_half_close_ends_the_connection(joined: Joined) -> None:
    joined.client.ended = True
    joined.happens(joined.client, ENDED)
    assert joined.told == []
    joined.client.send_error = broken(errno.EPIPE)
    joined.happens(joined.client, ENDED)  # On vsock it looks no different from the first.
    assert joined.told == [None]


@pytest.mark.parametrize(
    ("event", "reads"), [(select.EPOLLIN, 1), (select.EPOLLPRI, 2), (select.EPOLLRDHUP, 2)]
)
def test_second_read_only_if_the_first_may_be_short(joined: Joined, event: int, reads: int) -> None:
    joined.client.arrived = b"abc"
    joined.happens(joined.client, event)
    assert joined.client.reads == reads


def test_held_bytes_are_counted(joined: Joined) -> None:
    joined.server.room = 1
    joined.client.arrived = b"x" * 100
    joined.happens(joined.client, select.EPOLLIN)
    assert joined.loop._held == 99
    joined.server.room = 50
    joined.happens(joined.server, select.EPOLLOUT)
    assert joined.loop._held == 49
    joined.connection.close()
    assert joined.loop._held == 0


def test_held_bytes_are_counted_when_the_source_breaks(joined: Joined) -> None:
    joined.server.room = 1
    joined.client.arrived = b"x" * 100
    joined.happens(joined.client, select.EPOLLIN)
    joined.server.room = 1000
    joined.client.read_error = broken(errno.ECONNRESET)
    joined.happens(joined.server, select.EPOLLOUT)
    assert joined.server.got == b"x" * 100
    assert joined.loop._held == 0
    assert len(joined.told) == 1
