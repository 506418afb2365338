"""The pool: which connections it keeps and gives out again, and which it does not."""

from __future__ import annotations

import time

import pytest

from enclave.http.connection import HttpConnection
from enclave.http.errors import HttpTimeoutError, PoolClosedError
from enclave.http.pool import MAX_IDLE, ConnectionPool
from tests.doubles import ManualClock
from tests.enclave.http.pools import FakeStream, keep, queue_up
from tests.enclave.http.servers import late
from tests.forked import run_in_child
from tests.waiting import TEST_TIMEOUT


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


def test_the_connection_used_last_is_used_first_and_an_older_one_if_it_is_not_fit(
    pool: ConnectionPool,
) -> None:
    first, second = pool.take(late()), pool.take(late())
    streams = [FakeStream(), FakeStream()]
    for place, stream in zip((first, second), streams, strict=True):
        place.fill(HttpConnection(stream))
        pool.give(place)
    streams[1].quiet = False
    connection = pool.take(late()).connection
    assert connection is not None
    assert connection._stream is streams[0]
    assert streams[1].closed
    assert pool._state.connections == {connection}  # The other one is forgotten.


def test_one_is_kept_to_the_last_moment(pool: ConnectionPool, clock: ManualClock) -> None:
    first, second = pool.take(late()), pool.take(late())
    streams = [FakeStream(), FakeStream()]
    for place, stream in zip((first, second), streams, strict=True):
        place.fill(HttpConnection(stream))
        pool.give(place)
    clock.elapsed = MAX_IDLE
    pool.give(pool.take(late()))
    assert not streams[0].closed
    clock.elapsed += 0.001
    pool.give(pool.take(late()))
    assert streams[0].closed


# What is taken without a wait.


def test_a_kept_connection_is_taken_at_once(pool: ConnectionPool) -> None:
    assert pool.take_now() is None
    stream = keep(pool)
    place = pool.take_now()
    assert place is not None
    assert place.connection is not None
    assert place.connection._stream is stream
    assert pool.take_now() is None
    other = pool.take(late())
    with pytest.raises(HttpTimeoutError):
        pool.take(time.monotonic())  # Both places are taken.
    pool.give(other)
    pool.give(place)
    assert pool._state.free == 2


def test_as_many_are_taken_at_once_as_are_kept(pool: ConnectionPool) -> None:
    places = [pool.take(late()), pool.take(late())]
    for place in places:
        place.fill(HttpConnection(FakeStream()))
        pool.give(place)
    taken = [pool.take_now(), pool.take_now()]
    assert None not in taken
    assert pool._state.free == 0


def test_a_kept_connection_that_is_not_fit_is_closed_and_its_place_is_free(
    pool: ConnectionPool, clock: ManualClock
) -> None:
    stream = keep(pool)
    stream.quiet = False
    assert pool.take_now() is None
    assert stream.closed
    old = keep(pool)
    clock.elapsed = MAX_IDLE + 1
    assert pool.take_now() is None
    assert old.closed
    assert (pool._state.free, pool._state.connections) == (2, set())


def test_nothing_is_taken_at_once_while_somebody_waits_or_when_it_is_closed() -> None:
    pool = ConnectionPool(1, clock=ManualClock())
    keep(pool)
    held = pool.take(late())
    waiting = queue_up(pool, lambda: pool.give(pool.take(late())))
    assert pool.take_now() is None
    pool.give(held)
    waiting.join(TEST_TIMEOUT)
    pool.close()
    assert pool.take_now() is None


# What is not used again.


def test_renewing_closes_what_is_idle_now_and_the_rest_when_it_comes_back(
    pool: ConnectionPool,
) -> None:
    for _ in range(3):  # It is renewed more than once.
        idle, busy = FakeStream(), FakeStream()
        places = [pool.take(late()), pool.take(late())]
        for place, stream in zip(places, (busy, idle), strict=True):
            assert place.connection is None
            place.fill(HttpConnection(stream))
        pool.give(places[1])
        pool.renew()
        assert (idle.closed, busy.closed) == (True, False)
        pool.give(places[0])
        assert busy.closed
    stream = keep(pool)
    assert not stream.closed
    connection = pool.take(late()).connection
    assert connection is not None
    assert connection._stream is stream


def test_the_state_after_a_fork(pool: ConnectionPool) -> None:
    """The same in this process, for what a forked one cannot be asked."""
    idle, opened_later = keep(pool), FakeStream()
    without, held = pool.take(late()), pool.take(late())
    if without.connection is not None:
        without, held = held, without
    pool._after_fork()
    assert idle.closed
    assert pool._state.free == 2
    without.connection = None
    pool.give(without)
    held.fill(HttpConnection(opened_later))
    pool.give(held)
    assert opened_later.closed
    assert pool._state.free == 2
    pool.close()
    pool._after_fork()
    with pytest.raises(PoolClosedError):
        pool.take(late())
