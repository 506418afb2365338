"""Responds to calls: from the pool or from KMS, with a bounded queue and a deadline."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enclave.errors import AgentError, KmsUnreachableError
from enclave.key_id import note_key_id
from enclave.random_store import MAX_TAKEN
from enclave.serve.caller import Caller
from enclave.serve.metrics import CallNumbers
from enclave.serve.outcomes import word_for
from enclave.serve.protocol import (
    Call,
    EndpointError,
    Response,
    call_response,
    error_response,
    pooled_bytes,
    random_response,
    request_ids,
    usable_request_id,
)
from vsock_proxy.service.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Mapping

    from enclave.serve.caller import Begin, MakeCall
    from enclave.serve.pooled import PooledRandom

log = logging.getLogger(__name__)

MAX_WAITING = 256
"""Calls that wait for their turn; with 16 at a time and 10 ms a call the last waits 0.2 s."""


@dataclass(slots=True)
class Counts:
    """What became of calls since the start.

    Attributes:
        calls: all of them.
        pooled: those that got bytes from the pool.
        failed: those that got an error, throttled ones included.
        throttled: those rejected because too many were waiting.
    """

    calls: int = 0
    pooled: int = 0
    failed: int = 0
    throttled: int = 0


class Calls:
    """Responds to calls on the running loop.

    Args:
        regions: makes calls to KMS of each region; the first is for callers that name none.
        most: calls made at the same time.
        deadline: seconds for one call.
        begin: begins calls to KMS on the loop, by region; other regions' are made in threads.
        max_waiting: calls that wait for their turn.
        pool: random bytes fetched ahead, of the first region.

    Attributes:
        counts: what became of calls.
        busy: calls being made or waiting now.
        warnings: where failures are logged.
        numbers: the same by operation, outcome and time, for ``/metrics``.
        request_id: makes ids for responses that are not KMS's.
    """

    def __init__(
        self,
        regions: Mapping[str, MakeCall],
        *,
        most: int,
        deadline: float,
        begin: Mapping[str, Begin] | None = None,
        max_waiting: int = MAX_WAITING,
        pool: PooledRandom | None = None,
    ) -> None:
        self.counts = Counts()
        self.busy = 0
        self.warnings = Throttle(log, time.monotonic)
        self.request_id = request_ids(os.urandom(10))
        self.numbers = CallNumbers()
        self._regions = regions
        self._default = next(iter(regions))
        self._deadline = deadline
        self._begin = begin or {}
        self._most = most + max_waiting
        self._pool = pool
        self._caller = Caller(most)

    def check_region(self, call: Call) -> None:
        """Reject a call whose caller signed for a region that is not served.

        Raises:
            EndpointError: this endpoint does not serve that region.
        """
        if call.region is not None and call.region not in self._regions:
            raise EndpointError(
                "EnclaveRegionException",
                f"the request is signed for {call.region}, and this endpoint serves "
                + ", ".join(self._regions),
                hint="give the client that region, or enclave-agent serve one more --region",
            )

    def respond_now(self, call: Call) -> Response | None:
        """Return the response if the pool has the bytes; otherwise None."""
        pool = self._pool_for(call)
        if pool is None or (number := pooled_bytes(call, MAX_TAKEN)) is None:
            return None
        taken = pool.take_now(number)
        if taken is None:
            return None
        self.counts.calls += 1
        self.counts.pooled += 1
        self.numbers.count(call.operation, "ok")
        return random_response(taken, self.request_id())

    async def respond(self, call: Call) -> Response:
        """Return the response, the result or an error, within the deadline."""
        self.counts.calls += 1
        ours = self.request_id()
        note_key_id(call.operation, call.parameters)
        began = time.monotonic()
        try:
            response = await self._respond(call, ours)
        except AgentError as e:
            self.numbers.count(call.operation, word_for(e), time.monotonic() - began)
            self.counts.failed += 1
            self.warnings.warning("%s failed: %s [request %s]", call.operation, e, ours)
            return error_response(e, ours)
        self.numbers.count(call.operation, "ok", time.monotonic() - began)
        return response

    async def _respond(self, call: Call, ours: str) -> Response:
        if self.busy >= self._most:
            self.counts.throttled += 1
            raise EndpointError(
                "ThrottlingException",
                f"{self.busy} calls are being made or waiting",
                hint="KMS is slow, or there are more requests than it serves",
            )
        self.busy += 1
        try:
            async with asyncio.timeout(self._deadline):
                pool = self._pool_for(call)
                if pool is not None and (number := pooled_bytes(call, MAX_TAKEN)):
                    taken = await pool.take(number)
                    self.counts.pooled += 1
                    return random_response(taken, ours)
                region = call.region or self._default
                # The call is withdrawn when this is cancelled.
                result = await self._caller.call(
                    self._regions[region],
                    self._begin.get(region),
                    call.operation,
                    call.parameters,
                    timeout=self._deadline,
                )
                if pool is not None and call.operation == "GenerateRandom":
                    pool.go_on()
                return call_response(result.content, usable_request_id(result.request_id, ours))
        except TimeoutError as e:
            raise KmsUnreachableError(
                f"no response from KMS within {self._deadline:g} s",
                hint="is vsock-proxy running on the parent, and does it reach KMS?",
            ) from e
        finally:
            self.busy -= 1

    def _pool_for(self, call: Call) -> PooledRandom | None:
        return self._pool if call.region in (None, self._default) else None

    def close(self) -> None:
        """Withdraw what waits. Calls under way end by themselves, unheard."""
        self._caller.close()
