"""Who waits for a place in the pool: first come, first served, until a deadline or an interrupt."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from enclave.http import pool as module
from enclave.http.connection import HttpConnection
from enclave.http.errors import HttpTimeoutError, PoolClosedError
from enclave.http.pool import ConnectionPool
from tests.doubles import ManualClock
from tests.enclave.http.pools import FakeStream, queue_up
from tests.enclave.http.servers import late
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable


def test_the_wait_for_a_place_ends(pool: ConnectionPool) -> None:
    held = [pool.take(late()), pool.take(late())]
    with pytest.raises(HttpTimeoutError) as caught:
        pool.take(time.monotonic() + 0.01)
    assert caught.value.stage == "queue"
    pool.give(held[0])
    pool.give(pool.take(time.monotonic()))


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


# A wait that is interrupted.


class Interrupted(Exception):  # noqa: N818 (as KeyboardInterrupt)
    pass


def wake_by(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object]) -> list[float]:
    """Have the wait of a thread run a function; return the list of the timeouts to come."""
    timeouts: list[float] = []

    class Wake:
        def acquire(self, timeout: float) -> None:
            timeouts.append(timeout)
            meanwhile()

        def release(self) -> None:
            pass

    class Waiter(module._Waiter):
        def __init__(self) -> None:
            super().__init__()
            self.wake = Wake()  # type: ignore[assignment]

    monkeypatch.setattr(module, "_Waiter", Waiter)
    return timeouts


def interrupt() -> None:
    raise Interrupted


def test_who_is_interrupted_leaves_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = ConnectionPool(1, clock=ManualClock())
    held = pool.take(late())
    wake_by(monkeypatch, interrupt)
    with pytest.raises(Interrupted):
        pool.take(late())
    assert not pool._state.waiters
    pool.give(held)
    assert pool._state.free == 1


def test_who_is_interrupted_as_a_place_comes_gives_it_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = ConnectionPool(1, clock=ManualClock())
    held = pool.take(late())
    connection = HttpConnection(FakeStream())
    held.fill(connection)

    def give_and_interrupt() -> None:
        pool.give(held)
        interrupt()

    wake_by(monkeypatch, give_and_interrupt)
    with pytest.raises(Interrupted):
        pool.take(late())
    assert pool._state.free == 1
    assert pool._state.idle == [connection]


def test_a_place_that_comes_at_the_deadline_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = ConnectionPool(1, clock=ManualClock())
    held = pool.take(late())
    connection = HttpConnection(FakeStream())
    held.fill(connection)
    timeouts = wake_by(monkeypatch, lambda: pool.give(held))
    assert pool.take(time.monotonic() - 1).connection is connection
    assert timeouts == [0.0]


def test_a_wait_that_a_fork_ends_has_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a thread that a signal handler forks in: in the child nobody has its place."""
    pool = ConnectionPool(1, clock=ManualClock())
    pool.take(late())
    wake_by(monkeypatch, pool._after_fork)
    with pytest.raises(HttpTimeoutError):
        pool.take(late())
