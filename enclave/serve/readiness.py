"""Whether a call would succeed now, for ``GET /readyz``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING

from enclave.errors import AgentError, KmsRefusedError, KmsUnreachableError

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
        self._probing: asyncio.Future[AgentError | None] | None = None

    async def obstacle(self) -> AgentError | None:
        """Return the error that a call would end in; None if it would succeed."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._until:
            return self._known
        if self._probing is None:
            self._probing = loop.create_future()
            # A thread of its own: in the queue of calls it would measure the queue.
            threading.Thread(target=self._run, args=(loop,), name="probe", daemon=True).start()
        try:
            return await asyncio.wait_for(asyncio.shield(self._probing), self._timeout)
        except TimeoutError:
            return KmsUnreachableError(f"no response from KMS yet, after {self._timeout:g} s")

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        found: AgentError | None = None
        try:
            self._probe()
        except KmsRefusedError as e:
            # The role need not allow GenerateRandom; that KMS says so, attested, is enough.
            found = None if e.type == "AccessDeniedException" else e
        except AgentError as e:
            found = e
        except Exception as e:
            # A bug of ours; without a result no probe would ever be made again.
            log.debug("internal error", exc_info=e)
            found = AgentError(f"internal error: {type(e).__name__}", hint="a bug in enclave-agent")
        with contextlib.suppress(RuntimeError):  # The loop has ended before this probe.
            loop.call_soon_threadsafe(self._settle, found)

    def _settle(self, found: AgentError | None) -> None:
        self._known = found
        ready_for = self._ready_for if found is None else self._not_ready_for
        self._until = asyncio.get_running_loop().time() + ready_for
        if self._probing is not None:
            self._probing.set_result(found)
            self._probing = None
