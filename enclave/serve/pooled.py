"""The pool of random bytes for an event loop: requests wait in order, and take no thread each."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING

from enclave.pool import RandomPool
from enclave.random_store import CAPACITY
from vsock_proxy.service.exposition import single

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vsock_proxy.service.exposition import Family


class PooledRandom:
    """A `RandomPool`, waited for on the running loop. To be closed."""

    def __init__(self, fetch: Callable[[int], bytes], *, capacity: int = CAPACITY) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[int, asyncio.Future[bytes]]] = deque()
        self._pool = RandomPool(fetch, capacity=capacity, on_change=self._changed)

    def take_now(self, number_of_bytes: int) -> bytes | None:
        """Return bytes that the pool holds, unless others are waiting for them."""
        return None if self._waiting else self._pool.take_now(number_of_bytes)

    async def take(self, number_of_bytes: int) -> bytes:
        """Return bytes, after the requests that came before.

        Raises:
            AgentError: see `RandomPool.take`; here the caller ends the wait.
        """
        waiter: asyncio.Future[bytes] = self._loop.create_future()
        place = (number_of_bytes, waiter)
        self._waiting.append(place)
        self._serve()  # A fetch may have ended since the caller looked.
        try:
            return await waiter
        finally:
            if place in self._waiting:  # cancelled
                self._waiting.remove(place)

    def families(self) -> Iterable[Family]:
        """Return how full the pool is; see `metrics.Source`."""
        yield single("enclave_agent_pool_bytes", "gauge", "Held by the pool.", self._pool.level)

    def close(self) -> None:
        """Wipe the pool; requests that wait are cancelled."""
        self._pool.close()
        for _, waiter in self._waiting:
            waiter.cancel()
        self._waiting.clear()

    def _changed(self) -> None:
        with contextlib.suppress(RuntimeError):  # The loop has ended before this fetch.
            self._loop.call_soon_threadsafe(self._serve)

    def _serve(self) -> None:
        while self._waiting:
            number_of_bytes, waiter = self._waiting[0]
            if not waiter.done():  # otherwise it was cancelled just now
                taken = self._pool.take_now(number_of_bytes)
                if taken is not None:
                    waiter.set_result(taken)
                elif self._pool.error is not None:
                    waiter.set_exception(self._pool.error)
                else:
                    return
            self._waiting.popleft()
