"""Makes the calls: a bounded number of threads, a bounded queue before them, and a deadline."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from enclave.errors import AgentError, KmsUnreachableError
from enclave.pool import MAX_TAKEN
from enclave.serve.protocol import (
    Answer,
    Call,
    EndpointError,
    call_answer,
    error_answer,
    pooled_bytes,
    random_answer,
    request_ids,
    usable_request_id,
)
from vsock_proxy.service.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from enclave.kms.client import KmsResponse
    from enclave.serve.pooled import PooledRandom

log = logging.getLogger(__name__)

MAX_WAITING = 256
"""Calls that wait for a thread; with 16 threads and 10 ms a call the last waits 0.2 s."""


@dataclass(slots=True)
class Counts:
    """What became of calls since the start.

    Attributes:
        calls: all of them.
        pooled: those answered with bytes from the pool.
        failed: those answered with an error, throttled ones included.
        throttled: those refused because too many were waiting.
    """

    calls: int = 0
    pooled: int = 0
    failed: int = 0
    throttled: int = 0


class Calls:
    """Answers calls, on an event loop, by a blocking `Agent.call` in threads.

    Attributes:
        counts: what became of calls.
        busy: calls being made or waiting now.
        complaints: where failures are logged.
        request_id: makes ids for answers KMS has no part in.
    """

    def __init__(
        self,
        call: Callable[[str, Mapping[str, Any]], KmsResponse],
        *,
        threads: int,
        deadline: float,
        max_waiting: int = MAX_WAITING,
        pool: PooledRandom | None = None,
    ) -> None:
        self.counts = Counts()
        self.busy = 0
        self.complaints = Throttle(log, time.monotonic)
        self.request_id = request_ids(os.urandom(10))
        self._call = call
        self._deadline = deadline
        self._most = threads + max_waiting
        self._pool = pool
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="KMS call")

    def answer_now(self, call: Call) -> Answer | None:
        """The answer, where the pool has it at hand."""
        if self._pool is None or (number := pooled_bytes(call, MAX_TAKEN)) is None:
            return None
        taken = self._pool.take_now(number)
        if taken is None:
            return None
        self.counts.calls += 1
        self.counts.pooled += 1
        return random_answer(taken, self.request_id())

    async def answer(self, call: Call) -> Answer:
        """The answer, good or bad, within the deadline."""
        self.counts.calls += 1
        ours = self.request_id()
        try:
            return await self._answer(call, ours)
        except AgentError as e:
            self.counts.failed += 1
            self.complaints.warning("%s failed: %s [request %s]", call.operation, e, ours)
            return error_answer(e, ours)

    async def _answer(self, call: Call, ours: str) -> Answer:
        if self.busy >= self._most:
            self.counts.throttled += 1
            raise EndpointError(
                "ThrottlingException",
                f"{self.busy} calls are being made or waiting",
                hint="KMS is slow, or more is asked for than it gives",
            )
        self.busy += 1
        try:
            async with asyncio.timeout(self._deadline):
                if self._pool is not None and (number := pooled_bytes(call, MAX_TAKEN)):
                    taken = await self._pool.take(number)
                    self.counts.pooled += 1
                    return random_answer(taken, ours)
                # A call that still waits for a thread is withdrawn when this is cancelled.
                answer = await asyncio.get_running_loop().run_in_executor(
                    self._threads, self._call, call.operation, call.parameters
                )
                return call_answer(answer.content, usable_request_id(answer.request_id, ours))
        except TimeoutError as e:
            raise KmsUnreachableError(
                f"no answer from KMS within {self._deadline:g} s",
                hint="is vsock-proxy running on the parent, and does it reach KMS?",
            ) from e
        finally:
            self.busy -= 1

    def close(self) -> None:
        """Withdraw what waits. Calls under way end by themselves, unheard."""
        self._threads.shutdown(wait=False, cancel_futures=True)
