"""The pool: every byte once, wiped, bounded; what happens while KMS fails; and forks."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.errors import ConfigurationError, KmsRefusedError, KmsUnreachableError
from enclave.pool import RandomPool
from enclave.random_store import FETCH, MAX_TAKEN, RandomStore
from tests.forked import run_in_child
from tests.waiting import TEST_TIMEOUT, eventually

TAKE = st.tuples(st.just("take"), st.integers(1, 40))
ADD = st.tuples(st.just("add"), st.integers(0, 40))


@given(st.integers(1, 64), st.lists(TAKE | ADD, max_size=60))
def test_store_hands_out_what_came_in_once_in_order_and_wiped(
    capacity: int, steps: list[tuple[str, int]]
) -> None:
    store = RandomStore(capacity)
    source = itertools.cycle(range(1, 256))  # never zero, so that what is wiped can be told
    came, went = b"", b""
    for step, size in steps:
        if step == "add" and size <= store.room:
            data = bytes(itertools.islice(source, size))
            store.add(data)
            came += data
        elif step == "take":
            taken = store.take(size)
            assert (taken is None) == (size > len(came) - len(went))
            went += taken or b""
        assert came.startswith(went)
        assert len(store) == len(came) - len(went)
        assert sum(map(bool, store._ring)) == len(store)
    store.wipe()
    assert not any(store._ring)
    assert store.room == capacity


def test_store_takes_no_more_than_it_has_room_for() -> None:
    store = RandomStore(8)
    store.add(b"12345")
    with pytest.raises(ValueError, match="room"):
        store.add(b"6789")


class Source:
    """Stands for `Agent.generate_random`: numbered bytes, let through one fetch at a time."""

    def __init__(self) -> None:
        self.fetches = 0
        self.error: Exception | None = None
        self.changed = threading.Semaphore(0)
        self._allowed = threading.Semaphore(0)
        self._lock = threading.Lock()

    def allow(self, number: int = 1) -> None:
        """Let fetches through, and wait until the pool has their bytes."""
        self._allowed.release(number)
        for _ in range(number):
            assert self.changed.acquire(timeout=TEST_TIMEOUT)

    def __call__(self, number_of_bytes: int) -> bytes:
        assert number_of_bytes == FETCH
        assert self._allowed.acquire(timeout=TEST_TIMEOUT)
        with self._lock:
            if self.error is not None:
                raise self.error
            self.fetches += 1
            return b"".join(
                (self.fetches * FETCH + n).to_bytes(4) for n in range(0, number_of_bytes, 4)
            )

    def release(self) -> None:
        self.error = KmsUnreachableError("over")
        self._allowed.release(10_000)


class Watched(RandomPool):
    """Tells its source when the pool has dealt with a fetch."""

    def __init__(self, source: Source, **settings: Any) -> None:
        self.source = source
        super().__init__(source, **settings)

    def _refill(self) -> None:
        super()._refill()
        self.source.changed.release()


MakePool = Callable[..., RandomPool]


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def make_pool(source: Source) -> Iterator[MakePool]:
    pools = []

    def make(**settings: Any) -> RandomPool:
        pool = Watched(source, **settings)
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.close()
    source.release()
    for pool in pools:
        for thread in pool._threads:
            thread.join(TEST_TIMEOUT)
            assert not thread.is_alive()


def test_one_fetch_serves_many_requests_and_no_byte_twice(
    source: Source, make_pool: MakePool
) -> None:
    pool = make_pool()
    source.allow()
    taken = [pool.take(32, timeout=TEST_TIMEOUT) for _ in range(FETCH // 32)]
    assert source.fetches == 1
    assert pool.take_now(1) is None
    words = [taken[i][j : j + 4] for i in range(len(taken)) for j in range(0, 32, 4)]
    assert len(set(words)) == len(words) == FETCH // 4


def test_no_byte_twice_among_threads(source: Source, make_pool: MakePool) -> None:
    pool = make_pool(capacity=4096)
    words: list[bytes] = []

    def work() -> None:
        words.extend(pool.take(4, timeout=TEST_TIMEOUT) for _ in range(200))

    threads = [threading.Thread(target=work) for _ in range(8)]
    source._allowed.release(8)  # 8 x 200 x 4 bytes need 7 of them
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TEST_TIMEOUT)
    assert len(set(words)) == len(words) == 1600


def test_it_is_bounded(source: Source, make_pool: MakePool) -> None:
    pool = make_pool(capacity=2 * FETCH, refillers=4)
    source.allow(2)
    source._allowed.release(5)  # nobody asks: there is no room
    assert not source.changed.acquire(timeout=0.1)
    assert source.fetches == 2
    assert len(pool._store) == 2 * FETCH
    for _ in range(FETCH // MAX_TAKEN):
        assert pool.take_now(MAX_TAKEN)
    assert source.changed.acquire(timeout=TEST_TIMEOUT)
    assert source.fetches == 3


def test_the_largest_request_is_served_by_the_smallest_pool(
    source: Source, make_pool: MakePool
) -> None:
    pool = make_pool(capacity=2 * FETCH)
    source._allowed.release(100)
    for _ in range(40):
        assert len(pool.take(MAX_TAKEN - 1, timeout=TEST_TIMEOUT)) == MAX_TAKEN - 1


def test_a_request_of_an_empty_pool_waits_for_a_fetch(source: Source, make_pool: MakePool) -> None:
    pool = make_pool()
    taken: list[bytes] = []
    waiting = threading.Thread(target=lambda: taken.append(pool.take(8, timeout=TEST_TIMEOUT)))
    waiting.start()
    source.allow()
    waiting.join(TEST_TIMEOUT)
    assert [len(one) for one in taken] == [8]


def test_those_who_wait_are_served_in_order_and_no_others_are_woken(
    source: Source, make_pool: MakePool
) -> None:
    pool = make_pool(refillers=1)
    order: list[int] = []
    threads = []
    for number in range(8):  # a fetch serves four of them

        def wait(number: int = number) -> None:
            pool.take(256, timeout=TEST_TIMEOUT)
            order.append(number)

        threads.append(threading.Thread(target=wait))
        threads[-1].start()
        eventually(lambda: len(pool._waiters) == len(threads))
    source.allow()
    eventually(lambda: len(order) == 4)
    assert pool.take_now(1) is None, "nobody overtakes"
    assert [waiter.wake.locked() for waiter in pool._waiters] == [True] * 4
    source.allow()
    for thread in threads:
        thread.join(TEST_TIMEOUT)
    assert sorted(order[:4]) == [0, 1, 2, 3]


def test_who_gives_up_holds_nobody_up(source: Source, make_pool: MakePool) -> None:
    """Behind one that wants more than there is, another one wants what there is."""
    pool = make_pool(refillers=1)
    source.allow()
    for _ in range(3):
        pool.take(256, timeout=TEST_TIMEOUT)
    pool.take(200, timeout=TEST_TIMEOUT)
    taken: list[bytes] = []
    first = threading.Thread(target=lambda: _expect_timeout(pool))
    first.start()
    eventually(lambda: len(pool._waiters) == 1)
    second = threading.Thread(target=lambda: taken.append(pool.take(8, timeout=TEST_TIMEOUT)))
    second.start()
    for thread in (first, second):
        thread.join(TEST_TIMEOUT)
    assert [len(data) for data in taken] == [8]


def _expect_timeout(pool: RandomPool) -> None:
    with pytest.raises(KmsUnreachableError):
        pool.take(256, timeout=0.2)


def test_nothing_is_waited_for_longer_than_was_said(make_pool: MakePool) -> None:
    with pytest.raises(KmsUnreachableError, match=r"no random bytes within 0\.01 s") as e:
        make_pool().take(8, timeout=0.01)
    assert e.value.hint


def test_the_error_of_a_fetch_is_the_error_of_who_waits_until_one_succeeds(
    source: Source, make_pool: MakePool
) -> None:
    refused = KmsRefusedError("AccessDeniedException", "no", request_id="r-1", status=400)
    source.error = refused
    waits: list[float] = []

    def no_wait(_least: float, most: float) -> float:
        waits.append(most)
        return 0.0

    pool = make_pool(refillers=1, uniform=no_wait)
    source.allow(3)
    with pytest.raises(KmsRefusedError) as e:
        pool.take(8, timeout=TEST_TIMEOUT)
    assert e.value is refused
    assert waits[:2] == [0.1, 0.2]  # each wait for KMS may be longer than the last
    source.error = None
    source.allow()
    assert pool.error is None
    assert pool.take(8, timeout=TEST_TIMEOUT)


def test_what_is_held_is_given_out_while_fetches_fail(source: Source, make_pool: MakePool) -> None:
    pool = make_pool(uniform=lambda _least, _most: 0.0)
    source.allow()
    source.error = KmsUnreachableError("gone")
    source.allow(3)
    assert pool.take(8, timeout=TEST_TIMEOUT)


def test_a_closed_pool_is_wiped_and_refuses(source: Source, make_pool: MakePool) -> None:
    pool = make_pool()
    source.allow()
    pool.close()
    assert not any(pool._store._ring)
    with pytest.raises(ConfigurationError, match="closed"):
        pool.take_now(1)


def test_bytes_that_arrive_after_the_end_are_not_kept(source: Source, make_pool: MakePool) -> None:
    pool = make_pool(refillers=1)
    pool.close()
    source.allow()
    assert not any(pool._store._ring)


def test_a_request_that_waits_when_the_pool_is_closed_is_told(make_pool: MakePool) -> None:
    pool = make_pool()
    errors: list[Exception] = []

    def wait() -> None:
        try:
            pool.take(8, timeout=TEST_TIMEOUT)
        except ConfigurationError as e:
            errors.append(e)

    waiting = threading.Thread(target=wait)
    waiting.start()
    pool.close()
    waiting.join(TEST_TIMEOUT)
    assert len(errors) == 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_process_gets_none_of_the_bytes(source: Source, make_pool: MakePool) -> None:
    pool = make_pool()
    source.allow()
    held = bytes(pool._store._ring)

    def in_child() -> None:
        assert not any(pool._store._ring)
        with pytest.raises(ConfigurationError, match="fork"):
            pool.take_now(8)

    with pool._lock:  # as if another thread were in the middle of it
        run_in_child(in_child)
    assert bytes(pool._store._ring) == held  # the parent's copy is as it was
    assert pool.take_now(8) == held[:8]


@pytest.mark.parametrize("number_of_bytes", [0, -1, MAX_TAKEN + 1])
def test_numbers_out_of_range_are_refused(make_pool: MakePool, number_of_bytes: int) -> None:
    pool = make_pool()
    with pytest.raises(ConfigurationError, match="from the pool"):
        pool.take_now(number_of_bytes)
    with pytest.raises(ConfigurationError, match="from the pool"):
        pool.take(number_of_bytes, timeout=1)


@pytest.mark.parametrize(
    "settings", [{"capacity": 2047}, {"capacity": 1 << 25}, {"refillers": 0}, {"refillers": 65}]
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="a pool of"):
        RandomPool(bytes, **settings)
