"""Bytes over a plain socket, until a deadline."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from enclave.http import stream as module
from enclave.http.errors import ConnectionLostError
from enclave.http.stream import PlainStream
from tests.enclave.http.servers import Reluctant, late, soon
from tests.waiting import TEST_TIMEOUT, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


def read_until(stream: PlainStream, deadline: float) -> None:
    while stream.receive(deadline):
        pass


@pytest.fixture
def pair() -> Iterator[tuple[PlainStream, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield PlainStream(ours), theirs


Pair = tuple[PlainStream, socket.socket]


def test_a_silent_peer_is_waited_for_until_the_deadline(pair: Pair) -> None:
    with pytest.raises(TimeoutError):
        pair[0].receive(soon())


def test_a_peer_that_sends_bytes_one_by_one_does_not_move_the_deadline(pair: Pair) -> None:
    stream, theirs = pair
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.005):
            theirs.send(b"x")

    dripping = threading.Thread(target=drip)
    dripping.start()
    deadline = time.monotonic() + 0.1
    with pytest.raises(TimeoutError):
        read_until(stream, deadline)
    stop.set()
    dripping.join(TEST_TIMEOUT)


def test_a_peer_that_does_not_read_is_waited_for_until_the_deadline(pair: Pair) -> None:
    with pytest.raises(TimeoutError):
        pair[0].send(bytes(1 << 24), soon())


def test_everything_is_sent_to_a_slow_reader(pair: Pair) -> None:
    stream, theirs = pair
    received = bytearray()

    def read() -> None:
        while len(received) < 1 << 22:
            received.extend(theirs.recv(10_000))

    reading = threading.Thread(target=read)
    reading.start()
    data = bytes(range(256)) * (1 << 14)
    stream.send(data, late())
    reading.join(TEST_TIMEOUT)
    assert received == data


def test_the_end_of_the_stream_is_empty_bytes(pair: Pair) -> None:
    stream, theirs = pair
    theirs.send(b"last")
    theirs.close()
    assert stream.receive(late()) == b"last"
    assert stream.receive(late()) == b""
    with pytest.raises(ConnectionLostError):
        stream.send(b"x", late())


def test_quiet_is_open_with_nothing_to_read(pair: Pair) -> None:
    stream, theirs = pair
    assert stream.is_quiet()
    theirs.send(b"x")
    eventually(lambda: not stream.is_quiet())
    stream.receive(late())
    assert stream.is_quiet()
    theirs.close()
    eventually(lambda: not stream.is_quiet())


def test_a_closed_stream_is_not_quiet(pair: Pair) -> None:
    pair[0].close()
    assert not pair[0].is_quiet()
    with pytest.raises(ConnectionLostError):
        pair[0].send(b"x", late())


def test_the_reason_of_a_lost_connection_is_the_systems(pair: Pair) -> None:
    stream, theirs = pair
    theirs.close()
    with pytest.raises(ConnectionLostError, match="Broken pipe"):
        stream.send(b"x", late())


def test_a_lost_connection_without_a_reason() -> None:
    ours, theirs = Reluctant.pair(failure=OSError())
    with ours, theirs, pytest.raises(ConnectionLostError, match="the connection is closed"):
        PlainStream(ours).send(b"x", late())


def test_what_is_there_now_and_nothing_is_waited_for(pair: Pair) -> None:
    stream, theirs = pair
    assert stream.receive_now() is None
    theirs.send(b"x")
    assert stream.receive_now() == b"x"
    assert stream.receive_now() is None
    theirs.close()
    assert stream.receive_now() == b""
    stream.close()
    with pytest.raises(ConnectionLostError):
        stream.receive_now()


def test_a_socket_that_seemed_ready_and_was_not_is_tried_again() -> None:
    """Linux may report a socket as readable or writable that then blocks (select(2), BUGS)."""
    ours, theirs = Reluctant.pair(times=3)
    with ours, theirs:
        stream = PlainStream(ours)
        stream.send(b"all of it", late())
        assert theirs.recv(100) == b"all of it"
        theirs.send(b"all of this")
        ours.times = 3
        assert stream.receive(late()) == b"all of this"


def test_a_socket_that_is_full_is_not_tried_until_it_has_room() -> None:
    ours, theirs = Reluctant.pair(times=0)
    with ours, theirs:
        theirs.send(b"readable, which does not matter")
        with pytest.raises(TimeoutError):
            PlainStream(ours).send(bytes(1 << 24), soon())
    assert ours.calls < 20


def test_a_descriptor_that_another_socket_has_now_is_not_quiet(pair: Pair) -> None:
    stream, _ = pair
    open_socket, its_peer = socket.socketpair()
    with open_socket, its_peer:
        fd = stream.fileno()
        stream.close()
        os.dup2(open_socket.fileno(), fd)  # Open, with nothing to read.
        try:
            assert not stream.is_quiet()
        finally:
            os.close(fd)


class Polled:
    """A poll object; it keeps the milliseconds that it was asked to wait."""

    def __init__(self, *, ready_after: int) -> None:
        self.waits: list[int] = []
        self._ready_after = ready_after

    def poll(self, milliseconds: int) -> list[tuple[int, int]]:
        self.waits.append(milliseconds)
        return [(0, select.POLLIN)] if len(self.waits) > self._ready_after else []


def test_a_wait_is_for_all_the_time_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter((100.0, 102.5, 104.9996, 105.0))
    monkeypatch.setattr(module, "monotonic", lambda: next(now))
    polled: Any = Polled(ready_after=10)
    with pytest.raises(TimeoutError):
        module._wait(polled, 105.0)
    assert polled.waits == [5000, 2500, 1]


def test_a_wait_ends_when_the_socket_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "monotonic", lambda: 100.0)
    polled: Any = Polled(ready_after=1)
    module._wait(polled, 100.5)
    assert polled.waits == [500, 500]
