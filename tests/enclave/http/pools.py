"""What the tests of the pool share."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from enclave.http.connection import HttpConnection
from tests.enclave.http.servers import late
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from enclave.http.pool import ConnectionPool


class FakeStream:
    """A stream that is quiet until it is told otherwise."""

    def __init__(self) -> None:
        self.quiet, self.closed = True, False

    def send(self, data: bytes, deadline: float) -> None:
        raise NotImplementedError

    def receive(self, deadline: float) -> bytes:
        raise NotImplementedError

    def receive_now(self) -> bytes | None:
        raise NotImplementedError

    def fileno(self) -> int:
        raise NotImplementedError

    def is_quiet(self) -> bool:
        return self.quiet and not self.closed

    def close(self) -> None:
        self.closed = True


def keep(pool: ConnectionPool) -> FakeStream:
    """Have the pool keep a new connection."""
    stream = FakeStream()
    place = pool.take(late())
    assert place.connection is None
    place.fill(HttpConnection(stream))
    pool.give(place)
    return stream


def queue_up(pool: ConnectionPool, work: Callable[[], None]) -> threading.Thread:
    """Start a thread that waits for a place, and return once it does."""
    waiting = len(pool._state.waiters)
    thread = threading.Thread(target=work)
    thread.start()
    eventually(lambda: len(pool._state.waiters) == waiting + 1)
    return thread
