"""One direction of the relay, against scripted sockets."""

from __future__ import annotations

import errno
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsock_proxy.relay.flow import READS_PER_TURN, Flow

SIZE = 8


class FakeSource:
    """Holds bytes that have arrived; an arrival is an edge, as with EPOLLET."""

    def __init__(self, arrived: bytes = b"", *, ended: bool = False) -> None:
        self.arrived = arrived
        self.ended = ended
        self.read_error: OSError | None = None
        self.reads = 0

    def recv_into(self, buffer: memoryview, /) -> int:
        self.reads += 1
        count = min(len(buffer), len(self.arrived))
        buffer[:count] = self.arrived[:count]
        self.arrived = self.arrived[count:]
        if count:
            return count
        if self.read_error:
            raise self.read_error
        if self.ended:
            return 0
        raise BlockingIOError


class FakeSink:
    """Has room for so many bytes."""

    def __init__(self, room: int = 1_000_000) -> None:
        self.room = room
        self.got = b""
        self.ends = 0
        self.full = False
        self.send_error: OSError | None = None

    def send(self, data: memoryview | bytes, flags: int, /) -> int:
        assert flags & socket.MSG_NOSIGNAL
        assert not self.ends, "sent after the end"
        if self.send_error:
            raise self.send_error
        if not self.room and len(data):
            self.full = True
            raise BlockingIOError
        count = min(self.room, len(data))
        self.got += bytes(data[:count])
        self.room -= count
        return count

    def shutdown(self, how: int, /) -> None:
        assert how == socket.SHUT_WR
        self.ends += 1


def pump(flow: Flow, buffer: memoryview | None = None) -> int:
    """Pump until the flow waits for an event; return the number of turns."""
    buffer = buffer or memoryview(bytearray(SIZE))
    turns = 1
    while flow.pump(buffer):
        turns += 1
        assert turns < 10_000, "it spins"
    return turns


def broken(code: int) -> OSError:
    return OSError(code, "broken")


@given(
    steps=st.lists(
        st.one_of(st.binary(max_size=3 * SIZE), st.integers(0, 2 * SIZE)),
        max_size=40,
    )
)
def test_every_byte_arrives_once_in_order_then_the_end(
    steps: list[bytes | int],
) -> None:
    # Bytes arrive, or room appears; the flow is pumped only after what would be an edge.
    source, sink = FakeSource(), FakeSink(room=0)
    flow = Flow(source, sink)
    sent = b""
    for step in steps:
        if isinstance(step, bytes):
            source.arrived += step
            sent += step
            edge = bool(step)
        else:
            sink.room += step
            edge = sink.full and step > 0
            sink.full = sink.full and not step
        if edge:
            pump(flow)
        assert len(flow.tail) <= SIZE
        assert sent == sink.got + bytes(flow.tail) + source.arrived
    source.ended = True
    flow.short_reads_lie = True
    pump(flow)
    while sink.full:
        sink.full = False
        sink.room += 5
        pump(flow)
    assert sink.got == sent
    assert sink.ends == 1
    assert flow.done
    assert flow.delivered == len(sent)


def test_short_read_is_not_repeated() -> None:
    source = FakeSource(b"abc")
    assert not Flow(source, FakeSink()).pump(memoryview(bytearray(SIZE)))
    assert source.reads == 1


def test_short_read_is_repeated_if_the_end_was_announced() -> None:
    sink = FakeSink()
    flow = Flow(FakeSource(b"abc", ended=True), sink)
    flow.short_reads_lie = True
    flow.pump(memoryview(bytearray(SIZE)))
    assert (sink.got, sink.ends) == (b"abc", 1)


def test_flood_is_split_into_turns() -> None:
    flow = Flow(FakeSource(b"x" * SIZE * READS_PER_TURN * 3), FakeSink())
    assert flow.pump(memoryview(bytearray(SIZE)))
    assert flow.delivered == SIZE * READS_PER_TURN


def test_nothing_is_read_while_the_sink_is_full() -> None:
    source, sink = FakeSource(b"x" * 100), FakeSink(room=3)
    flow = Flow(source, sink)
    pump(flow)
    reads = source.reads
    for _ in range(5):
        pump(flow)
    assert source.reads == reads
    assert bytes(flow.tail) == b"x" * (SIZE - 3)


def test_tail_outlives_the_read_buffer() -> None:
    sink = FakeSink(room=0)
    flow = Flow(FakeSource(b"abcd"), sink)
    buffer = memoryview(bytearray(SIZE))
    pump(flow, buffer)
    buffer[:] = b"!" * SIZE
    sink.room = 100
    pump(flow)
    assert sink.got == b"abcd"


def test_end_is_passed_on_after_the_tail() -> None:
    sink = FakeSink(room=1)
    flow = Flow(FakeSource(b"abc", ended=True), sink)
    flow.short_reads_lie = True
    pump(flow)
    assert not sink.ends
    sink.room = 10
    pump(flow)
    assert (sink.got, sink.ends) == (b"abc", 1)


def test_broken_source_delivers_its_data_but_no_end() -> None:
    source, sink = FakeSource(b"abc"), FakeSink()
    source.read_error = broken(errno.ECONNRESET)
    flow = Flow(source, sink)
    flow.short_reads_lie = True
    with pytest.raises(OSError, match="broken"):
        pump(flow)
    assert (sink.got, sink.ends) == (b"abc", 0)


def test_end_of_a_reset_source_is_not_passed_on() -> None:
    # The kernel reports a reset once: after a failed send, reads return an orderly end.
    source, sink = FakeSource(b"abc", ended=True), FakeSink()
    flow = Flow(source, sink)
    flow.short_reads_lie = flow.reset = True
    with pytest.raises(ConnectionResetError):
        pump(flow)
    assert (sink.got, sink.ends) == (b"abc", 0)


@pytest.mark.parametrize(
    ("code", "failed"), [(errno.EPIPE, False), (errno.ECONNRESET, True), (errno.ETIMEDOUT, True)]
)
def test_lost_sink_ends_the_flow(code: int, *, failed: bool) -> None:
    source, sink = FakeSource(b"x" * 100), FakeSink()
    sink.send_error = broken(code)
    flow = Flow(source, sink)
    assert not flow.pump(memoryview(bytearray(SIZE)))
    assert flow.done
    assert (flow.failure is not None) is failed
    reads = source.reads
    pump(flow)
    assert source.reads == reads


def test_sink_lost_while_bytes_wait_ends_the_flow() -> None:
    sink = FakeSink(room=1)
    flow = Flow(FakeSource(b"abc"), sink)
    pump(flow)
    sink.send_error = broken(errno.EPIPE)
    pump(flow)
    assert flow.done
    assert not flow.tail


def test_sink_that_takes_no_bytes_counts_as_full() -> None:
    class Stuck(FakeSink):
        def send(self, _data: memoryview | bytes, _flags: int, /) -> int:
            return 0

    flow = Flow(FakeSource(b"abc"), Stuck())
    assert not flow.pump(memoryview(bytearray(SIZE)))
    assert bytes(flow.tail) == b"abc"


@pytest.mark.parametrize(
    ("error", "gone"), [(None, False), (BlockingIOError(), False), (broken(errno.EPIPE), True)]
)
def test_probe_tells_half_close_from_full_close(error: OSError | None, *, gone: bool) -> None:
    sink = FakeSink()
    sink.send_error = error
    flow = Flow(FakeSource(), sink)
    flow.probe()
    assert flow.done is gone
    assert flow.failure is None


def test_shutdown_of_a_disconnected_socket_is_ignored() -> None:
    class Disconnected(FakeSink):
        def shutdown(self, _how: int, /) -> None:
            raise broken(errno.ENOTCONN)

    flow = Flow(FakeSource(ended=True), Disconnected())
    pump(flow)
    assert flow.done
    assert flow.failure is None
