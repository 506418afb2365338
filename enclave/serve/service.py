"""The endpoint as a process: signals, the pool, the program it runs for, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from enclave.errors import ConfigurationError
from enclave.kms.retry import is_worth_retrying
from enclave.network.numbers import network_families
from enclave.secrets.delivery import memory_files, path_of
from enclave.serve.calls import Calls
from enclave.serve.connection import Limits
from enclave.serve.control import ControlServer
from enclave.serve.diagnostics import diagnostics_to_log
from enclave.serve.metrics import agent_families, process_families
from enclave.serve.pooled import PooledRandom
from enclave.serve.program_environment import endpoint_environment
from enclave.serve.readiness import Readiness
from enclave.serve.server import REJECTED_HELD, EndpointServer
from vsock_proxy.net.addresses import TcpAddress
from vsock_proxy.net.listening import local_address
from vsock_proxy.service.child import exit_code
from vsock_proxy.service.descriptors import raise_descriptor_limit
from vsock_proxy.service.notify import notify

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence

    from enclave.agent import Agent
    from enclave.attested_tls.service import IngressTls
    from enclave.errors import AgentError
    from enclave.network.service import Network
    from enclave.secrets.opening import Given
    from enclave.secrets.options import SecretOptions
    from enclave.serve.user import User
    from enclave.serve.workers import Workers
    from vsock_proxy.net.addresses import Address

log = logging.getLogger(__name__)

DRAIN: Final = 10.0
"""Seconds that calls under way get to end by themselves after SIGTERM."""

CONTROL_DRAIN: Final = 2.0
"""Seconds that the parent gets to read a response."""

READY_TIMEOUT: Final = 60.0
"""Seconds until the program is given up: a parent may start its proxy after the enclave."""

_READY_INTERVAL = 0.2

SPARE_DESCRIPTORS: Final = 16
"""File descriptors for all but connections: standard streams, the NSM, the loop, modules."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The options of `serve`.

    Attributes:
        command: the program to run once calls succeed, and its arguments; or nothing.
        environ: its variables, apart from the endpoint's.
        user: whom it runs as; None: the agent's own user.
        secrets: what it is given besides; None: nothing.
        pool_size: bytes of the pool; None: no pool.
        clients: connections of clients at the same time.
        calls: calls to KMS at the same time.
        deadline: seconds for one call.
        processes: processes that serve on the same socket; clients, calls and the pool are of each.
        ingress_tls: attested TLS for clients from outside; None: none.
        network: the program's network, for its numbers; None: none.
        control: the listening socket for the parent; None: it may ask nothing.
    """

    command: Sequence[str]
    environ: Mapping[str, str]
    user: User | None = None
    secrets: SecretOptions | None = None
    pool_size: int | None
    clients: int
    calls: int
    deadline: float
    processes: int = 1
    ingress_tls: IngressTls | None = None
    network: Network | None = None
    control: socket.socket | None = None


class Ended(NamedTuple):
    """How `serve` has ended: the exit code, and how many calls were still under way."""

    code: int
    busy: int


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


async def serve(
    agents: Mapping[str, Agent],
    listener: socket.socket,
    options: ServeOptions,
    workers: Workers | None = None,
) -> Ended:
    """Serve until a signal, or until the program has ended.

    Args:
        agents: make the calls, by region; the first region is the default.
        listener: the listening socket.
        options: everything else.
        workers: the further processes, which end with this one.

    Raises:
        WorkerEndedError: one of them has ended by itself.
        ConfigurationError: the program cannot be run, the pool cannot be made, or there are too
            few file descriptors.
        AgentError: the program was not run, because every call would end in this error.
    """
    stop = _Stop()
    if workers is not None:
        workers.watch(stop.fail)
    with contextlib.ExitStack() as stack:
        server, calls, readiness = await _start(stack, agents, listener, options)
        if (network := options.network) is not None:
            server.metrics.add_slow(lambda: network_families(network.snapshot()))
        if (ingress := options.ingress_tls) is not None:
            await ingress.start()
            stack.callback(ingress.close)
            server.metrics.add(ingress.families)
        control = None
        if options.control is not None:
            control = ControlServer(calls, readiness, metrics=server.metrics, stop=stop.end)
            await control.start(options.control)
            stack.callback(control.close)
        address = local_address(listener)
        log.info("serving KMS on %s", address)
        notify(f"READY=1\nSTATUS=listening on {address}")
        code = 0
        try:
            if options.command:
                code = await _run_command(options, stop, readiness, address, agents)
            else:
                await stop.requested.wait()
        finally:
            notify("STOPPING=1")
            await _either(_drain(server, workers, ingress), stop.hurry)
            if control is not None:  # The parent hears how the program has ended.
                await _either(control.drain(CONTROL_DRAIN), stop.hurry)
            busy = calls.busy
        if stop.failure is not None:
            raise stop.failure
        return Ended(code, busy)


async def serve_as_worker(
    agents: Mapping[str, Agent],
    listener: socket.socket,
    options: ServeOptions,
    number: int,
    life: socket.socket,
) -> Ended:
    """Serve as one more process on a socket, until the first process says so or has died.

    Args:
        agents: see `serve`.
        listener: see `serve`.
        options: see `serve`; `command` is the first process's.
        number: which process this is.
        life: ends when this process is to end (`enclave.serve.workers`).
    """
    life.setblocking(False)  # noqa: FBT003 (the standard library's signature)
    with contextlib.ExitStack() as stack:
        server, calls, readiness = await _start(stack, agents, listener, options, number)
        log.debug("process %d serves as well", number)
        # Its first call makes the key pair: not one of a client's.
        first = asyncio.ensure_future(readiness.obstacle())
        stack.callback(first.cancel)
        await asyncio.get_running_loop().sock_recv(life, 1)
        await server.drain(DRAIN)
        return Ended(0, calls.busy)


async def _start(
    stack: contextlib.ExitStack,
    agents: Mapping[str, Agent],
    listener: socket.socket,
    options: ServeOptions,
    number: int = 0,
) -> tuple[EndpointServer, Calls, Readiness]:
    """Serve from now on, and until `stack` is closed."""
    ingress = options.ingress_tls
    # A worker has attested TLS's listeners as well, and serves none of them.
    reserved = 0 if ingress is None else ingress.descriptors
    limits = Limits(
        clients=fit_clients(options.clients, options.calls, len(agents), reserved=reserved)
    )
    agent = next(iter(agents.values()))
    stack.enter_context(diagnostics_to_log(asyncio.get_running_loop()))
    pool = None
    if options.pool_size is not None:
        pool = PooledRandom(agent.generate_random, capacity=options.pool_size)
        stack.callback(pool.close)
    calls = Calls(
        {region: each.call for region, each in agents.items()},
        most=options.calls,
        deadline=options.deadline,
        begin={region: each.begin for region, each in agents.items()},
        pool=pool,
    )
    stack.callback(calls.close)
    readiness = Readiness(lambda: [each.generate_random(32) for each in agents.values()])
    server = EndpointServer(
        calls,
        readiness,
        limits=limits,
        check_hosts=listener.family != socket.AF_UNIX,
        clock_drift=lambda: agent.clock_drift,
        process=(number, options.processes),
        document=None if ingress is None else ingress.document,
    )
    for source in (process_families, calls.numbers.families, server.families):
        server.metrics.add(source)
    server.metrics.add(lambda: agent_families(agents))
    if pool is not None:
        server.metrics.add(pool.families)
    await server.start(listener)
    stack.callback(server.close)
    return server, calls, readiness


async def _drain(
    server: EndpointServer, workers: Workers | None, ingress: IngressTls | None
) -> None:
    await asyncio.gather(
        server.drain(DRAIN),
        *([workers.stop()] if workers else []),
        *([ingress.drain(DRAIN)] if ingress else []),
    )


class _Stop:
    """Signals: the program gets them while it runs; otherwise the first stops, the next hurries.

    Attributes:
        requested: set by the first signal.
        hurry: set by the next.
        process: the program, once it runs.
        failure: why it stops without a signal, if it does.
    """

    def __init__(self) -> None:
        self.requested, self.hurry = asyncio.Event(), asyncio.Event()
        self.process: asyncio.subprocess.Process | None = None
        self.failure: AgentError | None = None
        self._signals = 0
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)

    def fail(self, error: AgentError) -> None:
        """Stop because of an error; the program is told to end."""
        log.warning("stopping: %s", error)
        self.failure = self.failure or error
        self.requested.set()
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()

    async def end(self, seconds: float) -> int | None:
        """End the program by SIGTERM, after `seconds` by SIGKILL; return its exit code.

        None if no program runs: then all of this process ends.
        """
        process = self.process
        if process is None or process.returncode is not None:
            self.requested.set()
            return None
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(seconds):
                code = await process.wait()
        except TimeoutError:
            log.warning("the program did not end within %g s and is killed", seconds)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            code = await process.wait()
        return exit_code(code)

    def _signalled(self, number: int) -> None:
        self._signals += 1
        if self.process is not None and self.process.returncode is None:
            # The program decides when it ends; the keyboard's interrupt has reached it already.
            with contextlib.suppress(ProcessLookupError):
                if self._signals > 1:
                    self.process.kill()
                elif number == signal.SIGTERM:
                    self.process.terminate()
        elif self._signals == 1 and not self.requested.is_set():
            self.requested.set()
        else:
            self.hurry.set()


async def _run_command(
    options: ServeOptions,
    stop: _Stop,
    readiness: Readiness,
    address: Address,
    agents: Mapping[str, Agent],
) -> int:
    await _either(_ready(readiness), stop.requested)
    given = None
    if options.secrets is not None and not stop.requested.is_set():
        given = await _opened_secrets(options.secrets, agents, stop)
    if stop.requested.is_set():
        return 0
    assert isinstance(address, TcpAddress)  # noqa: S101 (`command` lets no other through)
    url = str(address).replace("tcp://", "http://")
    env = {**options.environ, **endpoint_environment(options.environ, address.host, url)}
    return await _run(options.command, env, options.user, stop, given)


async def run_program(
    command: Sequence[str],
    environ: Mapping[str, str],
    user: User | None,
    ingress_tls: IngressTls | None = None,
) -> int:
    """Run a program, without an endpoint; without one, wait for a signal. Return the exit code.

    Raises:
        ConfigurationError: the program cannot be run.
    """
    stop = _Stop()
    with contextlib.ExitStack() as stack:
        stack.enter_context(diagnostics_to_log(asyncio.get_running_loop()))
        if ingress_tls is not None:
            raise_descriptor_limit(ingress_tls.descriptors + SPARE_DESCRIPTORS)
            await ingress_tls.start()
            stack.callback(ingress_tls.close)
        log.info("ready")
        notify("READY=1")
        try:
            if command:
                return await _run(command, environ, user, stop)
            await stop.requested.wait()
        finally:
            notify("STOPPING=1")
            if ingress_tls is not None:
                await _either(ingress_tls.drain(DRAIN), stop.hurry)
    return 0


async def _run(
    command: Sequence[str],
    environ: Mapping[str, str],
    user: User | None,
    stop: _Stop,
    given: Given | None = None,
) -> int:
    """Run a program to its end; return its exit code."""
    env, identity = dict(environ), dict[str, Any]()
    if user is not None:
        env |= user.environ
        identity = {"user": user.uid, "group": user.gid, "extra_groups": user.groups}
    try:
        with contextlib.ExitStack() as stack:
            if given is not None:
                env |= given.variables
                files = stack.enter_context(memory_files(given.files, user.uid if user else None))
                env |= {name: path_of(fd) for name, fd in files.items()}
                identity["pass_fds"] = tuple(files.values())
            stop.process = await asyncio.create_subprocess_exec(*command, env=env, **identity)
    except (OSError, ValueError) as e:  # ValueError: NUL in an argument
        reason = getattr(e, "strerror", None) or str(e)
        raise ConfigurationError(
            f"cannot run {command[0]!r}: {reason}",
            hint="can the user of --user execute it?" if user else "is it in PATH?",
        ) from e
    return exit_code(await stop.process.wait())


async def _opened_secrets(
    options: SecretOptions, agents: Mapping[str, Agent], stop: _Stop
) -> Given | None:
    """Open the secrets in a thread; return None if a signal came before the end."""
    from enclave.secrets.opening import open_secrets  # noqa: PLC0415 (for this option only)

    loop = asyncio.get_running_loop()
    opened: asyncio.Future[Given] = loop.create_future()

    def settle(result: Given | None, error: BaseException | None) -> None:
        if error is not None:
            opened.set_exception(error)
        elif result is not None:
            opened.set_result(result)

    def work() -> None:
        result = error = None
        try:
            result = open_secrets(options, agents)
        except BaseException as e:  # noqa: BLE001 (it is raised on the loop's thread)
            error = e
        with contextlib.suppress(RuntimeError):  # The loop has ended before these calls.
            loop.call_soon_threadsafe(settle, result, error)

    # A daemon: after a signal the process does not wait for its calls.
    threading.Thread(target=work, name="secrets", daemon=True).start()
    await _either(_result(opened), stop.requested)
    return opened.result() if opened.done() else None


async def _result(opened: asyncio.Future[Given]) -> None:
    await asyncio.shield(opened)


async def _ready(readiness: Readiness) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + READY_TIMEOUT
    while (obstacle := await readiness.obstacle()) is not None:
        if loop.time() > deadline or not is_worth_retrying(obstacle):
            raise obstacle
        await asyncio.sleep(_READY_INTERVAL)


async def _either(work: Coroutine[Any, Any, None], event: asyncio.Event) -> None:
    """Work until it is done or the event has happened."""
    task, happened = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    await asyncio.wait((task, happened), return_when=asyncio.FIRST_COMPLETED)
    happened.cancel()
    if task.done():
        task.result()
    task.cancel()
