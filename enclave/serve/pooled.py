"""The pool of random bytes for an event loop: the loop fills it with calls of its own, and requests
wait in order, without a thread each.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from typing import TYPE_CHECKING

from enclave.errors import AgentError
from enclave.kms.retry import wait_before
from enclave.random_store import CAPACITY, FETCH, REFILLERS, RandomStore, check_settings
from enclave.serve.caller import Caller
from vsock_proxy.service.exposition import single

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from enclave.kms.client import KmsResponse
    from enclave.serve.caller import Begin, MakeCall
    from vsock_proxy.service.exposition import Family

log = logging.getLogger(__name__)


class PooledRandom:
    """A `RandomStore` that the running loop fills. To be closed.

    Args:
        make: see `Caller.call`.
        begin: see `Caller.call`.
        deadline: seconds for one fetch.
        capacity: bytes held, at most; 2,048 to 16 MiB.
        uniform: jitter; production code leaves it out.

    Attributes:
        fetches: under way.

    Raises:
        ConfigurationError: the capacity is out of range.
    """

    def __init__(
        self,
        make: MakeCall,
        begin: Begin | None = None,
        *,
        deadline: float,
        capacity: int = CAPACITY,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        check_settings(capacity)
        self._loop = asyncio.get_running_loop()
        self._make, self._begin, self._deadline = make, begin, deadline
        self._uniform = uniform
        self._caller = Caller(REFILLERS)
        self._store = RandomStore(capacity)
        self._waiting: deque[tuple[int, asyncio.Future[bytes]]] = deque()
        self.fetches = 0
        self._failures = 0
        self._error: BaseException | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._closed = False
        self._fill()

    def take_now(self, number_of_bytes: int) -> bytes | None:
        """Return bytes that the pool holds, unless others are waiting for them."""
        if self._waiting:
            return None
        taken = self._store.take(number_of_bytes)
        self._fill()
        return taken

    async def take(self, number_of_bytes: int) -> bytes:
        """Return bytes, after the requests that came before.

        Raises:
            AgentError: the error of the fetch; while fetches fail, the next one is not waited for.
                How long one is waited for is the caller's decision.
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
                self._serve()  # those behind may want fewer bytes

    def go_on(self) -> None:
        """End a pause after failures: KMS has just given random bytes to another request."""
        self._error = None  # Who comes now waits for the fetch that begins, or is under way.
        if self._pause is not None:
            self._pause.cancel()
            self._resume()

    def families(self) -> Iterable[Family]:
        """Return how full the pool is; see `metrics.Source`."""
        yield single("enclave_agent_pool_bytes", "gauge", "Held by the pool.", len(self._store))

    def close(self) -> None:
        """Wipe the pool, and fetch no more; requests that wait are cancelled."""
        self._closed = True
        self._store.wipe()
        if self._pause is not None:
            self._pause.cancel()
        self._caller.close()
        for _, waiter in self._waiting:
            waiter.cancel()
        self._waiting.clear()

    def _fill(self) -> None:
        """Start as many fetches as there is room for, and as may be under way."""
        while (
            self._store.room - self.fetches * FETCH >= FETCH
            and self.fetches < REFILLERS
            and self._pause is None
            and not self._closed
        ):
            self.fetches += 1
            self._caller.call(
                self._make,
                self._begin,
                "GenerateRandom",
                {"NumberOfBytes": FETCH},
                timeout=self._deadline,
            ).add_done_callback(self._fetched)

    def _fetched(self, fetch: asyncio.Future[KmsResponse]) -> None:
        self.fetches -= 1
        if fetch.cancelled():
            return
        error = fetch.exception()
        if self._closed:
            return
        if error is None:
            self._succeeded(fetch.result().content["Plaintext"])
        else:
            self._failed(error)
        self._serve()
        self._fill()

    def _succeeded(self, fetched: bytes) -> None:
        if self._failures:
            log.warning("random bytes for the pool again")
        self._failures, self._error = 0, None
        self._store.add(fetched)

    def _failed(self, error: BaseException) -> None:
        if not self._failures:
            what = str(error) if isinstance(error, AgentError) else type(error).__name__
            log.warning("no random bytes for the pool: %s", what)
        self._error = error
        if self._pause is None:  # Fetches that fail together are one failure.
            self._failures += 1
            seconds = wait_before(min(self._failures, 16) + 1, self._uniform)
            self._pause = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._fill()

    def _serve(self) -> None:
        """Give those that wait their bytes, in order, as far as the bytes go; or the error."""
        while self._waiting:
            number_of_bytes, waiter = self._waiting[0]
            if not waiter.done():  # otherwise it was cancelled just now
                taken = self._store.take(number_of_bytes)
                if taken is not None:
                    waiter.set_result(taken)
                elif self._error is not None:
                    waiter.set_exception(self._error.with_traceback(None))
                else:
                    return
            self._waiting.popleft()
        self._fill()
