"""A bounded number of connections to one server: first come, first served."""

from __future__ import annotations

import threading
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Final

from enclave import forking
from enclave.http.errors import HttpTimeoutError, PoolClosedError

if TYPE_CHECKING:
    from enclave.clock import Clock
    from enclave.http.connection import HttpConnection

MAX_IDLE: Final = 50.0
"""Seconds after which an unused connection is closed, not used again.

What stands between drops idle connections, some without telling either end: AWS documents 350 s
for NAT gateways, VPC endpoints and Network Load Balancers (whose TCP idle timeout can be set from
60 s up), and 60 s for Application and Classic Load Balancers.
"""


class Place:
    """One of the pool's places, from `ConnectionPool.take` to `ConnectionPool.give`.

    Attributes:
        connection: kept from an earlier request and fit for another one; None where the holder
            is to open one.
    """

    __slots__ = ("connection", "generation", "state")

    def __init__(self, state: _State, connection: HttpConnection | None) -> None:
        self.state = state
        self.generation = state.generation
        self.connection = connection

    def fill(self, connection: HttpConnection) -> None:
        """Put in a connection that the holder has opened."""
        self.connection = connection
        self.state.connections.add(connection)


class _Waiter:
    """A thread that waits for a place."""

    __slots__ = ("connection", "served", "wake")

    def __init__(self) -> None:
        self.connection: HttpConnection | None = None
        self.served = False
        self.wake = threading.Lock()
        self.wake.acquire()


class _State:
    """A pool's state in one process. While there are waiters, no place is free."""

    def __init__(self, size: int) -> None:
        self.lock = threading.Lock()  # held for moments, never during I/O
        self.free = size
        self.connections: set[HttpConnection] = set()  # all of them: idle and in use
        self.idle: list[HttpConnection] = []  # the last used at the end
        self.waiters: deque[_Waiter] = deque()
        self.generation = 0
        self.closed = False

    def drop(self, connection: HttpConnection) -> None:
        connection.close()
        self.connections.discard(connection)


class ConnectionPool:
    """Places for connections, and the connections that are kept in them. Safe for many threads.

    A place that becomes free goes to the thread that has waited longest, with the connection in
    it: a thread that gives one back and wants one again queues up behind the others.

    Args:
        size: connections, at most.
        clock: for how long a connection has been idle.
        max_idle: seconds after which an idle connection is closed.
    """

    def __init__(self, size: int, *, clock: Clock, max_idle: float = MAX_IDLE) -> None:
        self._size = size
        self._clock = clock
        self._max_idle = max_idle
        self._state = _State(size)
        forking.register(self)

    def take(self, deadline: float) -> Place:
        """Take a place. The caller gives it back, whatever happens.

        Args:
            deadline: moment of `time.monotonic`.

        Raises:
            HttpTimeoutError: no place became free by the deadline.
            PoolClosedError: the pool is closed.
        """
        state = self._state
        waiter = None
        with state.lock:
            if state.closed:
                raise PoolClosedError("the connections are closed")
            if state.free:
                state.free -= 1
                connection = state.idle.pop() if state.idle else None
            else:
                waiter = _Waiter()
                state.waiters.append(waiter)
        if waiter is not None:
            connection = self._wait(state, waiter, deadline)
        while connection is not None and not self._is_fit(connection):
            state.drop(connection)
            with state.lock:
                connection = state.idle.pop() if state.idle else None
        return Place(state, connection)

    def take_now(self) -> Place | None:
        """Take a place with a kept connection in it, if there is one and no thread waits for it."""
        state = self._state
        with state.lock:
            # What is idle stands in a place that is free, and then no thread waits.
            if not state.idle:
                return None
            state.free -= 1
            connection = state.idle.pop()
        place = Place(state, connection)
        if self._is_fit(connection):
            return place
        connection.close()
        self.give(place)
        return None

    def give(self, place: Place) -> None:
        """Give a place back; its connection is kept if it is reusable."""
        state, connection = place.state, place.connection
        if state is not self._state:  # taken before a fork, and its lock may be held for ever
            if connection is not None:
                connection.close()
            return
        now = self._clock.monotonic()
        stale = []
        with state.lock:
            if connection is not None:
                connection.idle_since = now
                if not connection.reusable or state.closed or place.generation < state.generation:
                    stale.append(connection)
                    connection = None
            if state.waiters:
                waiter = state.waiters.popleft()
                waiter.connection, waiter.served = connection, True
                waiter.wake.release()
            else:
                state.free += 1
                if connection is not None:
                    state.idle.append(connection)
                while state.idle and now - state.idle[0].idle_since > self._max_idle:
                    stale.append(state.idle.pop(0))
        for each in stale:
            state.drop(each)

    def renew(self) -> None:
        """Use none of the connections that there are again."""
        state = self._state
        with state.lock:
            state.generation += 1
            idle, state.idle = state.idle, []
        for connection in idle:
            state.drop(connection)

    def close(self) -> None:
        """Close idle connections now, those in use when they are given back."""
        state = self._state
        with state.lock:
            state.closed = True
            idle, state.idle = state.idle, []
            for waiter in state.waiters:
                waiter.wake.release()
            state.waiters.clear()
        for connection in idle:
            state.drop(connection)

    def _after_fork(self) -> None:
        """See `forking.ForkAware`: two processes must not speak on one connection."""
        inherited, self._state = self._state, _State(self._size)
        self._state.closed = inherited.closed
        for connection in tuple(inherited.connections):
            connection.close()  # the child's descriptor; the parent's connection stays as it is

    def _is_fit(self, connection: HttpConnection) -> bool:
        age = self._clock.monotonic() - connection.idle_since
        return age <= self._max_idle and connection.is_quiet()

    def _wait(self, state: _State, waiter: _Waiter, deadline: float) -> HttpConnection | None:
        """Wait for a place; return the connection in it."""
        try:
            waiter.wake.acquire(timeout=max(deadline - monotonic(), 0.0))
        except BaseException:
            if self._withdraw(state, waiter):
                self.give(Place(state, waiter.connection))
            raise
        if waiter.served or self._withdraw(state, waiter):
            return waiter.connection
        if state.closed:
            raise PoolClosedError("the connections are closed")
        raise HttpTimeoutError("queue")

    def _withdraw(self, state: _State, waiter: _Waiter) -> bool:
        """Wait no longer; return whether the place came in this moment."""
        if state is not self._state:
            return False
        with state.lock:
            if waiter in state.waiters:
                state.waiters.remove(waiter)
            return waiter.served
