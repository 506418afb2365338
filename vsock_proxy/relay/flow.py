"""One direction of a relayed connection: bytes from a source to a sink, in order, then the end.

No I/O of its own: source and sink are given. A connection is two flows; after a half-close one
flow has ended and the other goes on.
"""

from __future__ import annotations

import errno
import socket
from typing import Protocol

READS_PER_TURN = 4
"""Full buffers that one flow may move before the others get their turn."""

_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_NOTHING = memoryview(b"")


class Source(Protocol):
    """A non-blocking stream socket to read from."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Fill `buffer` from its start; 0 is the end. Raises OSError as a socket does."""
        ...


class Sink(Protocol):
    """A non-blocking stream socket to write to."""

    def send(self, data: memoryview | bytes, flags: int, /) -> int:
        """Send as many leading bytes as there is room for. Raises OSError as a socket does."""
        ...

    def shutdown(self, how: int, /) -> None:
        """Send the end. Raises OSError as a socket does."""
        ...


class Flow:
    """Bytes from `source` to `sink`.

    Attributes:
        delivered: bytes the sink has taken.
        tail: bytes read that the sink had no room for. While there are any nothing is read, so
            that they are never more than one buffer: this is the backpressure.
        short_reads_lie: an event announced an end, or a mark of urgent data, in the source: a
            read may stop before all there is, and no edge follows.
        reset: the source is known to be reset: the end of its bytes is not an orderly one.
        last: the other direction is done: both sockets are closed as soon as this one is, and
            its end is not passed on separately.
        done: nothing more will move: the end was passed on, or the sink is lost.
        ended: done in the first of these ways.
        failure: why the sink is lost, unless it closed in an orderly way.
    """

    __slots__ = (
        "delivered",
        "done",
        "ended",
        "failure",
        "last",
        "reset",
        "short_reads_lie",
        "sink",
        "source",
        "tail",
    )

    def __init__(self, source: Source, sink: Sink) -> None:
        self.source = source
        self.sink = sink
        self.delivered = 0
        self.tail = _NOTHING
        self.short_reads_lie = False
        self.reset = self.last = False
        self.ended = False
        self.done = False
        self.failure: OSError | None = None

    def pump(self, buffer: memoryview) -> bool:
        """Move bytes until a side would block, the budget is spent, or the end is passed on.

        Made for edge-triggered readiness: a read that does not fill the buffer has emptied the
        source, and what comes later raises a new edge; so there is no second read. The exception
        is `short_reads_lie`.

        Args:
            buffer: scratch space.

        Returns:
            True if only the budget stopped it: call again soon, because no event will come.

        Raises:
            OSError: the source broke. All it sent before was moved, but its end is not orderly
                and must not be passed on as one.
        """
        if self.done or (self.tail and not self._flush()):
            return False
        reads = READS_PER_TURN
        while reads:
            try:
                count = self.source.recv_into(buffer)
            except BlockingIOError:
                return False
            if not count:
                if self.reset:
                    raise ConnectionResetError(errno.ECONNRESET, "reset by its peer")
                self._finish()
                return False
            data = buffer[:count]
            # The first send is inlined: it is nearly always the only one, and one more Python
            # call is expensive where a message takes four.
            try:
                sent = self.sink.send(data, _FLAGS)
            except BlockingIOError:
                self.tail = memoryview(bytes(data))
                return False
            except OSError as e:
                self.lose(e)
                return False
            self.delivered += sent
            if sent != count:
                rest = self._send(data[sent:])
                if rest is None:
                    return False
                if rest:
                    self.tail = memoryview(bytes(rest))
                    return False
            if count < len(buffer) and not self.short_reads_lie:
                return False
            reads -= 1
        return True

    def probe(self) -> None:
        """Find out whether the sink was closed fully, once it has half-closed.

        On vsock the events of a half-close and of a full close are the same. A send of no bytes
        tells them apart: it succeeds after the first and fails with EPIPE after the second (as on
        UNIX sockets; on TCP only a reset shows, because the protocol has nothing else).
        """
        if self.done or self.tail:
            return  # Known, or the next flush shows it.
        try:
            self.sink.send(b"", _FLAGS)
        except BlockingIOError:
            pass
        except OSError as e:
            self.lose(e)

    def _flush(self) -> bool:
        rest = self._send(self.tail)
        self.tail = rest or _NOTHING
        return rest is not None and not rest

    def _send(self, data: memoryview) -> memoryview | None:
        """Send bytes until the sink has no room; return what is left, or None if it is lost."""
        try:
            while True:
                sent = self.sink.send(data, _FLAGS)
                self.delivered += sent
                if sent == len(data):
                    return _NOTHING
                if not sent:
                    return data  # No socket does this; if one did, this loop would spin.
                data = data[sent:]
        except BlockingIOError:
            return data
        except OSError as e:
            self.lose(e)
            return None

    def _finish(self) -> None:
        self.done = self.ended = True
        if self.last:
            return
        try:
            self.sink.shutdown(socket.SHUT_WR)
        except OSError as e:
            # Already disconnected: the other flow reads from it, and sees how.
            if e.errno != errno.ENOTCONN:
                self.failure = e

    def lose(self, error: OSError) -> None:
        """Note that the sink is lost."""
        self.done = True
        # EPIPE: the sink closed. It may have sent all it had to, orderly, before that.
        if error.errno != errno.EPIPE:
            self.failure = error
