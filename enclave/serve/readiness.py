"""Whether a call would succeed now, for ``GET /readyz``."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from enclave.errors import AgentError, KmsRefusedError, KmsUnreachableError
from enclave.serve.background import Background

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

READY_FOR = 10.0
NOT_READY_FOR = 1.0
"""Seconds for which a result is cached, so that a prober cannot load KMS."""

PROBE_TIMEOUT = 5.0
"""Seconds after which an unfinished probe counts as failed; it goes on, for the next request."""


class Readiness:
    """Makes an attested call as a probe, at most one at a time, and keeps its result for a while.

    Args:
        probe: makes the call; blocks, and raises AgentError.
        ready_for, not_ready_for, timeout: seconds, see the constants.
    """

    def __init__(
        self,
        probe: Callable[[], object],
        *,
        ready_for: float = READY_FOR,
        not_ready_for: float = NOT_READY_FOR,
        timeout: float = PROBE_TIMEOUT,
    ) -> None:
        self._probe = probe
        self._ready_for = ready_for
        self._not_ready_for = not_ready_for
        self._timeout = timeout
        self._known: AgentError | None = None
        self._until = float("-inf")
        # Not in the queue of calls, which it would measure.
        self._probing = Background(self._run, "probe", self._settle)

    async def obstacle(self) -> AgentError | None:
        """Return the error that a call would end in; None if it would succeed."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._until:
            return self._known
        try:
            return await self._probing.result(self._timeout)
        except TimeoutError:
            return KmsUnreachableError(f"no response from KMS yet, after {self._timeout:g} s")
        except AgentError as e:  # the system has no more threads
            return e

    def _run(self) -> AgentError | None:
        try:
            self._probe()
        except KmsRefusedError as e:
            # The role need not allow GenerateRandom; that KMS says so, attested, is enough.
            return None if e.type == "AccessDeniedException" else e
        except AgentError as e:
            return e
        except Exception as e:
            # A bug of ours; without a result no probe would ever be made again.
            log.debug("internal error", exc_info=e)
            return AgentError(f"internal error: {type(e).__name__}", hint="a bug in enclave-agent")
        return None

    def _settle(self, found: AgentError | None) -> None:
        self._known = found
        ready_for = self._ready_for if found is None else self._not_ready_for
        self._until = asyncio.get_running_loop().time() + ready_for
