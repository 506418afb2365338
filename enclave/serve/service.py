"""`serve` as a process: the parts that run beside the program, and the end of all of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from enclave.network.numbers import network_families
from enclave.serve.control import ControlServer
from enclave.serve.diagnostics import diagnostics_to_log
from enclave.serve.endpoint import SPARE_DESCRIPTORS, LocalEndpoint
from enclave.serve.program import opened_secrets, run_to_end
from enclave.serve.program_environment import endpoint_environment
from enclave.serve.stop import Stop, either
from vsock_proxy.net.addresses import TcpAddress
from vsock_proxy.net.listening import local_address
from vsock_proxy.service.descriptors import raise_descriptor_limit
from vsock_proxy.service.notify import notify

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Mapping

    from enclave.agent import Agent
    from enclave.attested_tls.service import IngressTls
    from enclave.network.service import Network
    from enclave.serve.options import EndpointOptions
    from enclave.serve.program import Program
    from enclave.serve.program_credentials import ProgramCredentials
    from enclave.serve.workers import Workers
    from vsock_proxy.net.addresses import Address

log = logging.getLogger(__name__)

DRAIN: Final = 10.0
"""Seconds that calls under way get to end by themselves after SIGTERM."""

CONTROL_DRAIN: Final = 2.0
"""Seconds that the parent gets to read a response."""


class Ended(NamedTuple):
    """How `serve` has ended: the exit code, and how many calls were still under way."""

    code: int
    busy: int


class Part(Protocol):
    """What serves beside the program, from when it is added to `Parts`."""

    async def drain(self, seconds: float) -> None:
        """Accept no more, and let what is under way end."""
        ...

    def close(self) -> None:
        """Abort what is left."""
        ...


class Parts(contextlib.ExitStack):
    """Parts that are drained together, and closed when this is."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[Part] = []

    def add(self, part: Part) -> None:
        """Drain and close one more."""
        self._parts.append(part)
        self.callback(part.close)

    async def drain(self, seconds: float) -> None:
        """Drain all of them."""
        await asyncio.gather(*(part.drain(seconds) for part in self._parts))


async def serve(
    agents: Mapping[str, Agent],
    listener: socket.socket,
    options: EndpointOptions,
    *,
    program: Program | None = None,
    ingress: IngressTls | None = None,
    network: Network | None = None,
    control: socket.socket | None = None,
    credentials: ProgramCredentials | None = None,
    workers: Workers | None = None,
) -> Ended:
    """Serve KMS until a signal, or until the program has ended.

    Args:
        agents: make the calls, by region; the first region is the default.
        listener: the listening socket.
        options: of the endpoint.
        program: what to run once calls succeed; None: nothing.
        ingress: attested TLS for clients from outside; None: none.
        network: the program's network, for its numbers; None: none.
        control: the listening socket for the parent; None: it may ask nothing.
        credentials: AWS credentials for the program; None: it is given none.
        workers: the further processes, which end with this one.

    Raises:
        WorkerEndedError: one of them has ended by itself.
        ConfigurationError: the program cannot be run, the pool cannot be made, or there are too
            few file descriptors.
        AgentError: the program was not run, because every call would end in this error.
    """
    stop = Stop()
    if workers is not None:
        workers.watch(stop.fail)
    with Parts() as parts, Parts() as last:
        parts.enter_context(diagnostics_to_log(asyncio.get_running_loop()))
        endpoint = LocalEndpoint(agents, listener, options, ingress=ingress)
        parts.add(endpoint)
        metrics = endpoint.server.metrics
        if workers is not None:
            parts.add(workers)
        if network is not None:
            metrics.add_slow(lambda: network_families(network.snapshot()))
        if ingress is not None:
            await ingress.start()
            parts.add(ingress)
            metrics.add(ingress.families)
        if credentials is not None:
            credentials.start()
            parts.add(credentials)
        if control is not None:
            server = ControlServer(endpoint.server, stop=stop.end)
            server.accept_from(control)
            last.add(server)  # The parent hears how the program has ended.
        address = local_address(listener)
        log.info("serving KMS on %s", address)
        async with (
            _drained(last, CONTROL_DRAIN, stop),
            _drained(parts, DRAIN, stop),
            _notified(f"READY=1\nSTATUS=listening on {address}"),
        ):
            if program is None:
                await stop.requested.wait()
                code = 0
            else:
                code = await _run_once_ready(program, stop, endpoint, address, agents, credentials)
        if stop.failure is not None:
            raise stop.failure
        return Ended(code, endpoint.busy)


async def serve_as_worker(
    agents: Mapping[str, Agent],
    listener: socket.socket,
    options: EndpointOptions,
    ingress: IngressTls | None,
    number: int,
    life: socket.socket,
) -> Ended:
    """Serve as one more process on a socket, until the first process says so or has died.

    Args:
        agents: see `serve`.
        listener: see `serve`.
        options: see `serve`.
        ingress: for its documents; the first process serves it.
        number: which process this is.
        life: ends when this process is to end (`enclave.serve.workers`).
    """
    life.setblocking(False)  # noqa: FBT003 (the standard library's signature)
    with Parts() as parts:
        parts.enter_context(diagnostics_to_log(asyncio.get_running_loop()))
        endpoint = LocalEndpoint(agents, listener, options, ingress=ingress, number=number)
        parts.add(endpoint)
        log.debug("process %d serves as well", number)
        # Its first call makes the key pair: not one of a client's.
        first = asyncio.ensure_future(endpoint.probe())
        parts.callback(first.cancel)
        await asyncio.get_running_loop().sock_recv(life, 1)
        await parts.drain(DRAIN)
        return Ended(0, endpoint.busy)


async def run_program(
    program: Program | None,
    ingress: IngressTls | None = None,
    credentials: ProgramCredentials | None = None,
) -> int:
    """Run a program, without an endpoint; without one, wait for a signal. Return the exit code.

    Raises:
        ConfigurationError: the program cannot be run.
        CredentialsError: the program was not run, because there are no credentials for it.
    """
    stop = Stop()
    with Parts() as parts:
        parts.enter_context(diagnostics_to_log(asyncio.get_running_loop()))
        if ingress is not None:
            raise_descriptor_limit(ingress.descriptors + SPARE_DESCRIPTORS)
            await ingress.start()
            parts.add(ingress)
        if credentials is not None:
            credentials.start()
            parts.add(credentials)
            await either(credentials.ready(), stop.requested)
        log.info("ready")
        async with _drained(parts, DRAIN, stop), _notified("READY=1"):
            if program is not None and not stop.requested.is_set():
                return await run_to_end(program, stop)
            await stop.requested.wait()
    return 0


async def _run_once_ready(
    program: Program,
    stop: Stop,
    endpoint: LocalEndpoint,
    address: Address,
    agents: Mapping[str, Agent],
    credentials: ProgramCredentials | None,
) -> int:
    await either(endpoint.ready(), stop.requested)
    if credentials is not None and not stop.requested.is_set():
        await either(credentials.ready(), stop.requested)
    given = None
    if program.secrets is not None and not stop.requested.is_set():
        given = await opened_secrets(program.secrets, agents, stop)
    if stop.requested.is_set():
        return 0
    assert isinstance(address, TcpAddress)  # noqa: S101 (`ServeOptions` lets no other through)
    url = str(address).replace("tcp://", "http://")
    found = endpoint_environment(program.environ, address.host, url)
    return await run_to_end(replace(program, environ={**program.environ, **found}), stop, given)


@contextlib.asynccontextmanager
async def _notified(ready: str) -> AsyncIterator[None]:
    """Tell systemd, or whoever started this process, of its readiness and of its end."""
    notify(ready)
    try:
        yield
    finally:
        notify("STOPPING=1")


@contextlib.asynccontextmanager
async def _drained(parts: Parts, seconds: float, stop: Stop) -> AsyncIterator[None]:
    """Drain parts at the end, unless a further signal hurries."""
    try:
        yield
    finally:
        await either(parts.drain(seconds), stop.hurry)
