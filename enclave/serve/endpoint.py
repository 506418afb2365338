"""The KMS endpoint put together: pool, calls, readiness, server, numbers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Final

from enclave.errors import ConfigurationError
from enclave.kms.retry import is_worth_retrying
from enclave.serve.calls import Calls
from enclave.serve.connection import Limits
from enclave.serve.http_server import REJECTED_HELD
from enclave.serve.metrics import agent_families, process_families
from enclave.serve.readiness import Readiness
from enclave.serve.server import EndpointServer
from vsock_proxy.service.descriptors import raise_descriptor_limit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from enclave.agent import Agent
    from enclave.attested_tls.service import IngressTls
    from enclave.serve.options import EndpointOptions

log = logging.getLogger(__name__)

READY_TIMEOUT: Final = 60.0
"""Seconds until the program is given up: a parent may start its proxy after the enclave."""

_READY_INTERVAL = 0.2

SPARE_DESCRIPTORS: Final = 16
"""File descriptors for all but connections: standard streams, the NSM, the loop, modules."""


class LocalEndpoint:
    """Serves on the running loop, from the start until `close`.

    Args:
        agents: make the calls, by region; the first region is the default.
        listener: the listening socket.
        options: of the endpoint.
        ingress: has the document of a program that ends TLS itself; None: nothing.
        number: which of the processes on this socket it is.

    Attributes:
        server: its clients and its numbers.

    Raises:
        ConfigurationError: the pool cannot be made, or there are too few file descriptors.
    """

    def __init__(
        self,
        agents: Mapping[str, Agent],
        listener: socket.socket,
        options: EndpointOptions,
        *,
        ingress: IngressTls | None = None,
        number: int = 0,
    ) -> None:
        # A worker has attested TLS's listeners as well, and serves none of them.
        reserved = 0 if ingress is None else ingress.descriptors
        clients = fit_clients(options.clients, options.calls, len(agents), reserved=reserved)
        agent = next(iter(agents.values()))
        with contextlib.ExitStack() as stack:
            self._pool = pool = None
            if options.pool_size is not None:
                from enclave.serve.pooled import PooledRandom  # noqa: PLC0415 (for --pool)

                self._pool = pool = PooledRandom(
                    agent.call, agent.begin, deadline=options.deadline, capacity=options.pool_size
                )
                stack.callback(pool.close)
            self._calls = Calls(
                {region: each.call for region, each in agents.items()},
                most=options.calls,
                deadline=options.deadline,
                begin={region: each.begin for region, each in agents.items()},
                pool=pool,
            )
            stack.callback(self._calls.close)
            self._readiness = Readiness(
                lambda: [each.generate_random(32) for each in agents.values()]
            )
            self.server = EndpointServer(
                self._calls,
                self._readiness,
                limits=Limits(clients=clients),
                check_hosts=listener.family != socket.AF_UNIX,
                clock_drift=lambda: agent.clock_drift,
                process=(number, options.processes),
                document=None if ingress is None else ingress.document,
            )
            metrics = self.server.metrics
            for source in (process_families, self._calls.numbers.families, self.server.families):
                metrics.add(source)
            metrics.add(lambda: agent_families(agents))
            if pool is not None:
                metrics.add(pool.families)
            self.server.accept_from(listener)
            stack.callback(self.server.close)
            self._held = stack.pop_all()

    @property
    def busy(self) -> int:
        """Calls being made or waiting now, those of the pool as well."""
        return self._calls.busy + (0 if self._pool is None else self._pool.fetches)

    async def probe(self) -> None:
        """Make a call, so that the first client need not wait for what only the first one does."""
        await self._readiness.obstacle()

    async def ready(self) -> None:
        """Wait until a call succeeds.

        Raises:
            AgentError: no call will, or none has within `READY_TIMEOUT`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + READY_TIMEOUT
        told = False
        while (obstacle := await self._readiness.obstacle()) is not None:
            if loop.time() > deadline or not is_worth_retrying(obstacle):
                raise obstacle
            if not told:
                hint = f" ({obstacle.hint})" if obstacle.hint else ""
                log.warning("waiting for KMS, up to %g s: %s%s", READY_TIMEOUT, obstacle, hint)
                told = True
            await asyncio.sleep(_READY_INTERVAL)

    async def drain(self, seconds: float) -> None:
        """Accept no more, and let calls under way end."""
        await self.server.drain(seconds)

    def close(self) -> None:
        """Abort what is left."""
        self._held.close()


def fit_clients(clients: int, calls: int, regions: int, *, reserved: int = 0) -> int:
    """Raise the limit of file descriptors for so many clients; return how many it allows.

    Args:
        clients: connections of clients that are wanted.
        calls: connections to KMS of one region.
        regions: regions of KMS.
        reserved: descriptors for other services of this process.

    Raises:
        ConfigurationError: the limit allows none.
    """
    others = calls * regions + REJECTED_HELD + SPARE_DESCRIPTORS + reserved
    allowed = raise_descriptor_limit(clients + others)
    fitting = min(clients, allowed - others)
    if fitting < 1:
        raise ConfigurationError(
            f"the limit of {allowed} file descriptors leaves none for clients",
            hint=f"raise the hard limit (ulimit -Hn) to more than {others}, or lower --max-calls",
        )
    if fitting < clients:
        log.warning(
            "%d file descriptors (ulimit -Hn) are enough for %d clients, not for %d",
            allowed, fitting, clients,
        )  # fmt: skip
    return fitting
