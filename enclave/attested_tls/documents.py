"""Attestation documents for many clients from one NSM: bounded per second, and shared."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from enclave.attested_tls.options import RATE
from enclave.errors import AgentError, AttesterError
from vsock_proxy.service.budget import Budget

if TYPE_CHECKING:
    from collections.abc import Callable

    from enclave.attester import Attester

MAX_AGE: Final = 60.0
"""Seconds for which a document without a nonce is given out again."""

MAX_WAITING: Final = 64
"""Requests that wait for the NSM, which makes one document after the other."""

TIMEOUT: Final = 10.0
"""Seconds until a client is told that the NSM does not respond. The NSM's own limit is 120."""


class TooManyRequestsError(AgentError):
    """More documents are requested than the limit allows."""


class Documents:
    """Makes documents on the running loop, in a thread of its own.

    Args:
        attester: signs the documents.
        rate: documents a second; as many may come at once after a second of rest.
        monotonic: returns seconds.

    Attributes:
        made: documents that were made.
        rejected: requests beyond the limits.
    """

    def __init__(
        self,
        attester: Attester,
        *,
        rate: int = RATE,
        monotonic: Callable[[], float] = time.monotonic,
        timeout: float = TIMEOUT,
    ) -> None:
        self.made = self.rejected = 0
        self._attester = attester
        self._budget = Budget(rate, burst=1.0)
        self._monotonic = monotonic
        self._timeout = timeout
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="attestation")
        self._pending: dict[tuple[bytes, bytes | None], asyncio.Future[bytes]] = {}
        self._cached: tuple[float, bytes, bytes] = (float("-inf"), b"", b"")

    async def fresh(self, user_data: bytes, nonce: bytes) -> bytes:
        """Return a document with this nonce.

        Raises:
            TooManyRequestsError: a limit is reached.
            AttesterError: there is none, or not in time.
        """
        return await self._shared(user_data, nonce)

    async def cached(self, user_data: bytes) -> bytes:
        """Return a document without a nonce, a minute old at most.

        Raises:
            TooManyRequestsError: a limit is reached.
            AttesterError: there is none, or not in time.
        """
        made_at, what, document = self._cached
        if what == user_data and self._monotonic() - made_at < MAX_AGE:
            return document
        document = await self._shared(user_data, None)
        self._cached = self._monotonic(), user_data, document
        return document

    def close(self) -> None:
        """Withdraw what waits. A request that the NSM has ends by itself, unheard."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _shared(self, user_data: bytes, nonce: bytes | None) -> bytes:
        key = user_data, nonce
        pending = self._pending.get(key)
        if pending is None:
            self._admit()
            pending = asyncio.ensure_future(self._make(user_data, nonce))
            self._pending[key] = pending
            pending.add_done_callback(lambda done: self._made(key, done))
        try:
            async with asyncio.timeout(self._timeout):
                # One client's timeout is not that of the others.
                return await asyncio.shield(pending)
        except TimeoutError as e:
            raise AttesterError(
                f"no attestation document within {self._timeout:g} s",
                hint="does `enclave-agent describe` respond?",
            ) from e

    async def _make(self, user_data: bytes, nonce: bytes | None) -> bytes:
        loop = asyncio.get_running_loop()
        try:
            made = loop.run_in_executor(self._thread, self._attester.attest, None, user_data, nonce)
        except RuntimeError as e:  # the system has no more threads, or the end has begun
            raise AttesterError(f"no thread to request a document with: {e}") from e
        return await made

    def _made(self, key: tuple[bytes, bytes | None], done: asyncio.Future[bytes]) -> None:
        del self._pending[key]
        # Looked at, so that asyncio does not report it if all clients have gone.
        if not done.cancelled() and done.exception() is None:
            self.made += 1

    def _admit(self) -> None:
        if len(self._pending) >= MAX_WAITING or not self._budget.take(self._monotonic()):
            self.rejected += 1
            raise TooManyRequestsError("too many documents are requested: retry in a second")
