"""The pool: bounded, first come first served, and what it does not keep."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from enclave.http.connection import HttpConnection
from enclave.http.errors import HttpTimeoutError, PoolClosedError
from enclave.http.pool import MAX_IDLE, ConnectionPool
from tests.doubles import ManualClock
from tests.forked import run_in_child
from tests.waiting import TEST_TIMEOUT, eventually

if TYPE_CHECKING:
    from collections.abc import Callable


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


def late() -> float:
    return time.monotonic() + TEST_TIMEOUT


def keep(pool: ConnectionPool) -> FakeStream:
    """Have the pool keep a new connection."""
    stream = FakeStream()
    place = pool.take(late())
    assert place.connection is None
    place.fill(HttpConnection(stream))
    pool.give(place)
    return stream


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def pool(clock: ManualClock) -> ConnectionPool:
    return ConnectionPool(2, clock=clock)


def test_a_connection_is_used_again(pool: ConnectionPool) -> None:
    stream = keep(pool)
    place = pool.take(late())
    assert place.connection is not None
    assert place.connection._stream is stream
    pool.give(place)


def test_one_that_is_not_reusable_is_closed(pool: ConnectionPool) -> None:
    stream = FakeStream()
    place = pool.take(late())
    place.fill(HttpConnection(stream))
    assert place.connection is not None
    place.connection.reusable = False
    pool.give(place)
    assert stream.closed
    assert pool.take(late()).connection is None


def test_one_on_which_something_came_meanwhile_is_closed(pool: ConnectionPool) -> None:
    stream = keep(pool)
    stream.quiet = False
    assert pool.take(late()).connection is None
    assert stream.closed


def test_one_that_was_idle_for_long_is_closed(pool: ConnectionPool, clock: ManualClock) -> None:
    stream = keep(pool)
    clock.elapsed = MAX_IDLE
    pool.give(pool.take(late()))
    assert not stream.closed
    clock.elapsed += MAX_IDLE + 1
    assert pool.take(late()).connection is None
    assert stream.closed


def test_those_that_nobody_needs_any_more_are_closed_in_passing(
    pool: ConnectionPool, clock: ManualClock
) -> None:
    first, second = pool.take(late()), pool.take(late())
    streams = [FakeStream(), FakeStream()]
    for place, stream in zip((first, second), streams, strict=True):
        place.fill(HttpConnection(stream))
        pool.give(place)
    for _ in range(10):  # one caller at a time has the last used one
        clock.elapsed += MAX_IDLE / 4
        pool.give(pool.take(late()))
    assert [stream.closed for stream in streams] == [True, False]


def test_the_wait_for_a_place_ends(pool: ConnectionPool) -> None:
    held = [pool.take(late()), pool.take(late())]
    with pytest.raises(HttpTimeoutError) as caught:
        pool.take(time.monotonic() + 0.01)
    assert caught.value.stage == "queue"
    pool.give(held[0])
    pool.give(pool.take(time.monotonic()))


def queue_up(pool: ConnectionPool, work: Callable[[], None]) -> threading.Thread:
    """Start a thread that waits for a place, and return once it does."""
    waiting = len(pool._state.waiters)
    thread = threading.Thread(target=work)
    thread.start()
    eventually(lambda: len(pool._state.waiters) == waiting + 1)
    return thread


def test_first_come_first_served() -> None:
    pool = ConnectionPool(1, clock=ManualClock())
    order: list[int] = []

    def wait(number: int) -> None:
        place = pool.take(late())
        order.append(number)
        pool.give(place)

    held = pool.take(late())
    threads = [queue_up(pool, lambda number=n: wait(number)) for n in range(8)]  # type: ignore[misc]
    pool.give(held)
    wait(8)  # comes back at once, and is last all the same
    for thread in threads:
        thread.join(TEST_TIMEOUT)
    assert order == [*range(9)]


def test_who_gave_up_is_passed_over() -> None:
    pool = ConnectionPool(1, clock=ManualClock())
    held = pool.take(late())
    outcomes: list[str] = []

    def give_up() -> None:
        with pytest.raises(HttpTimeoutError):
            pool.take(late())
        outcomes.append("gave up")

    def wait() -> None:
        pool.give(pool.take(late()))
        outcomes.append("served")

    first = queue_up(pool, give_up)
    second = queue_up(pool, wait)
    pool._state.waiters[0].wake.release()  # as at its deadline: it wakes, and has no place
    first.join(TEST_TIMEOUT)
    pool.give(held)
    second.join(TEST_TIMEOUT)
    assert outcomes == ["gave up", "served"]
    assert pool._state.free == 1


def test_never_more_places_than_there_are() -> None:
    pool = ConnectionPool(3, clock=ManualClock())
    lock = threading.Lock()
    in_use, most = 0, 0

    def work() -> None:
        nonlocal in_use, most
        for _ in range(200):
            place = pool.take(late())
            with lock:
                in_use += 1
                most = max(most, in_use)
            if place.connection is None:
                place.fill(HttpConnection(FakeStream()))
            with lock:
                in_use -= 1
            pool.give(place)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TEST_TIMEOUT)
    assert 1 <= most <= 3
    assert pool._state.free == 3
    assert len(pool._state.connections) == len(pool._state.idle) <= 3


def test_closing_closes_what_is_idle_now_and_the_rest_when_it_comes_back(
    pool: ConnectionPool,
) -> None:
    idle, busy = FakeStream(), FakeStream()
    places = [pool.take(late()), pool.take(late())]
    for place, stream in zip(places, (busy, idle), strict=True):
        place.fill(HttpConnection(stream))
    pool.give(places[1])
    pool.close()
    assert (idle.closed, busy.closed) == (True, False)
    pool.give(places[0])
    assert busy.closed
    with pytest.raises(PoolClosedError):
        pool.take(late())


def test_closing_ends_the_wait_for_a_place() -> None:
    pool = ConnectionPool(1, clock=ManualClock())
    pool.take(late())
    ended: list[bool] = []

    def wait() -> None:
        with pytest.raises(PoolClosedError):
            pool.take(late())
        ended.append(True)

    thread = queue_up(pool, wait)
    pool.close()
    thread.join(TEST_TIMEOUT)
    assert ended == [True]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_has_every_place_and_none_of_the_connections(pool: ConnectionPool) -> None:
    idle, busy = keep(pool), FakeStream()
    pool.take(late())
    held = pool.take(late())
    held.fill(HttpConnection(busy))
    queue_up(pool, lambda: pool.give(pool.take(late())))
    pool._state.lock.acquire()

    def in_child() -> None:
        assert idle.closed
        assert busy.closed
        assert pool.take(time.monotonic()).connection is None
        pool.give(held)  # as a call would that a signal handler forked in the middle of
        assert pool.take(time.monotonic()).connection is None
        with pytest.raises(HttpTimeoutError):
            pool.take(time.monotonic())

    try:
        run_in_child(in_child)
    finally:
        pool._state.lock.release()
    assert not idle.closed
    assert not busy.closed
    pool.give(held)
