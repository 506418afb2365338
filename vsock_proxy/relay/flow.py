"""One direction of a relayed connection, with no sockets of its own: bytes from a source to a
sink, in order, each once, and then the end of them.

A connection is two flows, and a half-close is the natural case: one flow ends, the other goes on.
"""

from __future__ import annotations

import errno
import socket
from typing import Protocol

READS_PER_TURN = 4
"""Full buffers one flow may move before the others get their turn."""

_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_NOTHING = memoryview(b"")


class Source(Protocol):
    """What is read from: a non-blocking stream socket."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Fill `buffer` from its start; 0 is the end. Raises OSError as a socket does."""
        ...


class Sink(Protocol):
    """What is written to: a non-blocking stream socket."""

    def send(self, data: memoryview | bytes, flags: int, /) -> int:
        """Take as many leading bytes as there is room for. Raises OSError as a socket does."""
        ...

    def shutdown(self, how: int, /) -> None:
        """Pass on the end. Raises OSError as a socket does."""
        ...


class Flow:
    """Bytes from `source` to `sink`.

    Attributes:
        delivered: bytes the sink has taken.
        tail: bytes read that the sink had no room for. While there are any nothing is read, so
            they are never more than one buffer: this is the backpressure.
        short_reads_lie: an event said that there is an end, or a mark of urgent data, in the
            source: a read may stop short of what is there, and no edge follows.
        reset: the source is known to be broken, so that an end of its bytes is not to be
            mistaken for an orderly one.
        last: the other direction is over, so that both sockets are closed as soon as this one
            is: its end needs no passing on by itself.
        done: nothing more will move: the end was passed on, or the sink is gone.
        ended: done in the first of these ways.
        failure: why the sink is gone, where that was not an orderly close.
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

        Made for edge-triggered readiness: a read that does not fill the buffer emptied the
        source, and whatever comes after it raises a new edge, so it is not read again. The
        exception is `short_reads_lie`.

        Args:
            buffer: scratch space; what is in it afterwards means nothing.

        Returns:
            True where only the budget stopped it: call again soon, for no event will come.

        Raises:
            OSError: the source broke. Nothing it sent before that is held back, but its end is
                not orderly and must not be passed on as one.
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
            # The first send is made here: it is nearly always the only one, and a call of our
            # own is dear where a message takes four.
            try:
                sent = self.sink.send(data, _FLAGS)
            except BlockingIOError:
                self.tail = memoryview(bytes(data))
                return False
            except OSError as e:
                self._lose(e)
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
        """Find out whether the sink still listens, once its own sending has ended.

        On vsock the events of a half-close and of a full close are alike. Sending nothing
        tells them apart: it succeeds on the first and fails with EPIPE on the second (so it
        does on UNIX sockets; on TCP only a reset shows, for the protocol says no more).
        """
        if self.done or self.tail:
            return  # Nothing to learn, or the next flush learns it.
        try:
            self.sink.send(b"", _FLAGS)
        except BlockingIOError:
            pass
        except OSError as e:
            self._lose(e)

    def _flush(self) -> bool:
        rest = self._send(self.tail)
        self.tail = rest or _NOTHING
        return rest is not None and not rest

    def _send(self, data: memoryview) -> memoryview | None:
        """Send bytes until the sink has no room; returns what is left, or None if it is gone."""
        try:
            while True:
                sent = self.sink.send(data, _FLAGS)
                self.delivered += sent
                if sent == len(data):
                    return _NOTHING
                if not sent:
                    return data  # No socket does this; if one did, a loop here would spin.
                data = data[sent:]
        except BlockingIOError:
            return data
        except OSError as e:
            self._lose(e)
            return None

    def _finish(self) -> None:
        self.done = self.ended = True
        if self.last:
            return
        try:
            self.sink.shutdown(socket.SHUT_WR)
        except OSError as e:
            # Already disconnected: the other flow, which reads from it, sees how.
            if e.errno != errno.ENOTCONN:
                self.failure = e

    def _lose(self, error: OSError) -> None:
        self.done = True
        # EPIPE: the sink closed. It may have said all it had to say, orderly, before that.
        if error.errno != errno.EPIPE:
            self.failure = error
