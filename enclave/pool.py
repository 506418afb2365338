"""A pool of random bytes from KMS: one attested call of 1,024 bytes serves many small requests.

Opt-in, because it holds secrets before they are needed. Every byte is handed out at most once and
wiped from the pool as it is; the pool is bounded, and filled ahead by a few threads.

    with Agent(region="eu-central-1") as agent, RandomPool(agent.generate_random) as pool:
        nonce = pool.take(12, timeout=5.0)
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from typing import TYPE_CHECKING, Self

from enclave import forking
from enclave.errors import AgentError, ConfigurationError, KmsUnreachableError
from enclave.kms.retry import wait_before
from enclave.random_store import (
    CAPACITY,
    FETCH,
    MAX_TAKEN,
    REFILLERS,
    RandomStore,
    check_settings,
)
from vsock_proxy.service.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable


log = logging.getLogger(__name__)


class _Waiter:
    """A thread that waits for bytes."""

    __slots__ = ("error", "number_of_bytes", "taken", "wake")

    def __init__(self, number_of_bytes: int) -> None:
        self.number_of_bytes = number_of_bytes
        self.taken: bytes | None = None
        self.error: AgentError | None = None
        self.wake = threading.Lock()
        self.wake.acquire()


class RandomPool:
    """A store of random bytes that fills itself. A context manager; safe for many threads.

    Threads that wait are served in the order in which they came, each woken once its bytes are
    there.

    Not for use on both sides of a fork: the child's copy is wiped, and refuses, before any of
    the child's code runs. The child makes a pool of its own.

    Args:
        fetch: returns exactly as many fresh random bytes as it is asked for, or raises an
            AgentError; `Agent.generate_random`. Called from several threads.
        capacity: bytes held, at most; 2,048 to 16 MiB.
        refillers: fetches at the same time, at most.
        uniform: jitter; production code leaves it out.

    Raises:
        ConfigurationError: a number is out of range.
        AgentError: the system has no more threads.
    """

    def __init__(
        self,
        fetch: Callable[[int], bytes],
        *,
        capacity: int = CAPACITY,
        refillers: int = REFILLERS,
        uniform: Callable[[float, float], float] | None = None,
    ) -> None:
        check_settings(capacity, refillers)
        self._fetch = fetch
        self._uniform = uniform or random.uniform
        self._store = RandomStore(capacity)
        self._coming = 0
        self._failures = 0
        self._error: AgentError | None = None
        self._closed = self._forked = False
        self._new_locks()
        forking.register(self)
        self._threads = [
            threading.Thread(target=self._refill_forever, name="random pool", daemon=True)
            for _ in range(refillers)
        ]
        try:
            for thread in self._threads:
                start_thread(thread)
        except AgentError:
            self.close()  # those that were started
            raise

    @property
    def error(self) -> AgentError | None:
        """Why the latest fetch failed; None once one has succeeded."""
        return self._error

    @property
    def level(self) -> int:
        """How many bytes are held."""
        return len(self._store)

    def take_now(self, number_of_bytes: int) -> bytes | None:
        """Return bytes if they are here and no thread waits for them, otherwise None.

        Args:
            number_of_bytes: 1..256.

        Raises:
            ConfigurationError: the number is out of range, or the pool is closed.
        """
        _check(number_of_bytes)
        with self._lock:
            return self._take(number_of_bytes)

    def take(self, number_of_bytes: int, *, timeout: float) -> bytes:
        """Return bytes that were handed to nobody else, after those who came before.

        Args:
            number_of_bytes: 1..256.
            timeout: seconds to wait for a fetch, at most.

        Raises:
            ConfigurationError: the number is out of range, or the pool is closed.
            AgentError: the error of the fetch; while fetches fail, the next one is not waited for.
            KmsUnreachableError: no fetch has ended in time.
        """
        _check(number_of_bytes)
        with self._lock:
            taken = self._take(number_of_bytes)
            if taken is not None:
                return taken
            if self._error is not None:
                raise self._error.with_traceback(None)
            waiter = _Waiter(number_of_bytes)
            self._waiters.append(waiter)
        try:
            waiter.wake.acquire(timeout=max(timeout, 0.0))
        finally:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                    self._serve()  # those behind may want fewer bytes
        if waiter.taken is not None:
            return waiter.taken
        if waiter.error is not None:
            raise waiter.error.with_traceback(None)
        self._check_open()
        raise KmsUnreachableError(
            f"the pool was empty, and KMS gave no random bytes within {timeout:g} s",
            hint="callers ask for more than KMS gives, or KMS does not respond",
        )

    def close(self) -> None:
        """Wipe the bytes that are held, and fetch no more. Fetches under way end by themselves."""
        with self._lock:
            self._closed = True
            self._store.wipe()
            self._emptied.notify_all()
            self._wake_all(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # Under the lock:

    def _take(self, number_of_bytes: int) -> bytes | None:
        self._check_open()
        taken = None if self._waiters else self._store.take(number_of_bytes)
        self._have_filled()
        return taken

    def _serve(self) -> None:
        """Give those that wait their bytes, in order, as far as the bytes go."""
        while self._waiters:
            waiter = self._waiters[0]
            waiter.taken = self._store.take(waiter.number_of_bytes)
            if waiter.taken is None:
                break
            self._waiters.popleft()
            waiter.wake.release()
        self._have_filled()

    def _have_filled(self) -> None:
        if self._store.room - self._coming >= FETCH:
            self._emptied.notify()

    def _wake_all(self, error: AgentError | None) -> None:
        for waiter in self._waiters:
            waiter.error = error
            waiter.wake.release()
        self._waiters.clear()

    def _check_open(self) -> None:
        if self._forked or self._closed:
            raise ConfigurationError(
                "the pool of random bytes was made before a fork"
                if self._forked
                else "the pool of random bytes is closed",
                hint="make one in the process that uses it, on an Agent of its own",
            )

    # In the pool's own threads:

    def _refill_forever(self) -> None:
        while self._wait_for_room():
            self._refill()

    def _wait_for_room(self) -> bool:
        with self._lock:
            if self._failures:
                # One wait for all threads: they failed together, and try again together.
                self._emptied.wait_for(
                    lambda: self._closed, wait_before(min(self._failures, 16) + 1, self._uniform)
                )
            while not self._closed and self._store.room - self._coming < FETCH:
                self._emptied.wait()
            self._coming += FETCH
            return not self._closed

    def _refill(self) -> None:
        """Fetch once, and serve those that wait."""
        try:
            fetched = self._fetch(FETCH)
        except AgentError as e:
            with self._lock:
                self._coming -= FETCH
                if not self._failures:
                    log.warning("no random bytes for the pool: %s", e)
                self._failures += 1
                self._error = e
                self._wake_all(e)
        else:
            with self._lock:
                self._coming -= FETCH
                if self._failures:
                    log.warning("random bytes for the pool again")
                self._failures = 0
                self._error = None
                if not self._closed:
                    self._store.add(fetched)
                    self._serve()

    def _new_locks(self) -> None:
        self._lock = threading.Lock()
        self._emptied = threading.Condition(self._lock)
        self._waiters: deque[_Waiter] = deque()

    def _after_fork(self) -> None:
        """See `forking.ForkAware`: the bytes are the parent process's."""
        self._new_locks()
        self._forked = True
        self._store.wipe()


def _check(number_of_bytes: int) -> None:
    if not 1 <= number_of_bytes <= MAX_TAKEN:
        raise ConfigurationError(
            f"{number_of_bytes} bytes from the pool", hint=f"it gives 1 to {MAX_TAKEN} at a time"
        )
