"""The endpoint as a process has it: signals, the pool, the program it runs for, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from typing import TYPE_CHECKING, Any, Final

from enclave.errors import ConfigurationError
from enclave.kms.retry import is_worth_retrying
from enclave.serve.calls import Calls
from enclave.serve.connection import Limits
from enclave.serve.pooled import PooledRandom
from enclave.serve.program_environment import endpoint_environment
from enclave.serve.readiness import Readiness
from enclave.serve.server import Endpoint
from vsock_proxy.net.addresses import TcpAddress
from vsock_proxy.net.listening import local_address
from vsock_proxy.service.child import exit_code
from vsock_proxy.service.notify import notify

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence

    from enclave.agent import Agent
    from enclave.serve.user import User
    from vsock_proxy.net.addresses import Address

log = logging.getLogger(__name__)

DRAIN: Final = 10.0
"""Seconds that calls under way get to end by themselves after SIGTERM."""

READY_WITHIN: Final = 60.0
"""Seconds before the program is given up: a parent may start its proxy after the enclave."""

_READY_INTERVAL = 0.2


class Service:
    """The endpoint and what runs with it, on one event loop. Runs once.

    Args:
        agent: makes the calls.
        command: the program to run once calls succeed, and its arguments; or nothing.
        environ: its variables, beside the endpoint's URL.
        user: whom it runs as; None: the agent's own user.
        pool_size: bytes of the pool; None: no pool.
        clients: connections of clients, at most.
        calls: calls to KMS at the same time, at most.
        deadline: seconds for one call.

    Attributes:
        busy: calls that were still under way at the end.
    """

    def __init__(
        self,
        agent: Agent,
        command: Sequence[str],
        environ: Mapping[str, str],
        *,
        user: User | None = None,
        pool_size: int | None,
        clients: int,
        calls: int,
        deadline: float,
    ) -> None:
        self.busy = 0
        self._agent = agent
        self._command = command
        self._environ = environ
        self._user = user
        self._pool_size = pool_size
        self._limits = Limits(clients=clients)
        self._threads = calls
        self._deadline = deadline
        self._signals = 0
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, listener: socket.socket) -> int:
        """Serve until a signal, or until the program has ended; returns the exit code.

        Raises:
            ConfigurationError: the program cannot be run, or the pool not made.
            AgentError: the program was not run, for this is why no call would succeed.
        """
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        with contextlib.ExitStack() as stack:
            pool = None
            if self._pool_size is not None:
                pool = PooledRandom(self._agent.generate_random, capacity=self._pool_size)
                stack.callback(pool.close)
            calls = Calls(
                self._agent.call, threads=self._threads, deadline=self._deadline, pool=pool
            )
            stack.callback(calls.close)
            readiness = Readiness(lambda: self._agent.generate_random(32))
            endpoint = Endpoint(
                calls,
                readiness,
                limits=self._limits,
                check_hosts=listener.family != socket.AF_UNIX,
                clock_drift=lambda: self._agent.clock_drift,
            )
            await endpoint.start(listener)
            stack.callback(endpoint.close)
            address = local_address(listener)
            log.info("serving KMS on %s", address)
            notify(f"READY=1\nSTATUS=listening on {address}")
            try:
                if self._command:
                    return await self._run_command(readiness, address)
                await self._stop.wait()
                return 0
            finally:
                notify("STOPPING=1")
                await _either(endpoint.drain(DRAIN), self._hurry)
                self.busy = calls.busy

    async def _run_command(self, readiness: Readiness, address: Address) -> int:
        await _either(self._ready(readiness), self._stop)
        if self._stop.is_set():
            return 0
        assert isinstance(address, TcpAddress)  # noqa: S101 (`command` lets no other through)
        url = str(address).replace("tcp://", "http://")
        env = {**self._environ, **endpoint_environment(self._environ, address.host, url)}
        identity: dict[str, Any] = {}
        if (user := self._user) is not None:
            env |= user.environ
            identity = {"user": user.uid, "group": user.gid, "extra_groups": user.groups}
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, env=env, **identity
            )
        except (OSError, ValueError) as e:  # ValueError: NUL in an argument
            reason = getattr(e, "strerror", None) or str(e)
            raise ConfigurationError(
                f"cannot run {self._command[0]!r}: {reason}",
                hint="can the user of --user execute it?" if user else "is it in PATH?",
            ) from e
        return exit_code(await self._process.wait())

    async def _ready(self, readiness: Readiness) -> None:
        loop = asyncio.get_running_loop()
        ends = loop.time() + READY_WITHIN
        while (obstacle := await readiness.obstacle()) is not None:
            if loop.time() > ends or not is_worth_retrying(obstacle):
                raise obstacle
            await asyncio.sleep(_READY_INTERVAL)

    def _signalled(self, number: int) -> None:
        self._signals += 1
        if self._process is not None and self._process.returncode is None:
            # The program decides when it ends; the keyboard's interrupt has reached it already.
            with contextlib.suppress(ProcessLookupError):
                if self._signals > 1:
                    self._process.kill()
                elif number == signal.SIGTERM:
                    self._process.terminate()
        elif self._signals == 1 and not self._stop.is_set():
            self._stop.set()
        else:
            self._hurry.set()


async def _either(work: Coroutine[Any, Any, None], event: asyncio.Event) -> None:
    """Work until it is done or the event has happened."""
    task, happened = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    await asyncio.wait((task, happened), return_when=asyncio.FIRST_COMPLETED)
    happened.cancel()
    if task.done():
        task.result()
    task.cancel()
