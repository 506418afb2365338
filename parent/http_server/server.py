"""Carries questions and answers, with a limit to everything a client can take up.

One thread with an asyncio loop. A client has a few seconds for everything together, so that none
holds a place by being slow, and each enclave has only so many places, so that none takes them
all. Every answer is at hand: nothing that a client asks makes another wait.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from parent.http_server.connection import Connection
from parent.http_server.protocol import Request, Response, message
from vsock_proxy.net.listening import BACKLOG, listening, local_address
from vsock_proxy.service.throttle import Throttle

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from vsock_proxy.net.addresses import Address

log = logging.getLogger(__name__)

_GRACE = 1.0
"""Seconds, beyond those for its clients, that a server gets to end."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients are given.

    Attributes:
        connections: at the same time.
        per_enclave: of those, of one CID. Other clients share all there are.
        timeout: seconds from connecting until the client has its answer and has hung up.
    """

    connections: int = 128
    per_enclave: int = 16
    timeout: float = 5.0


@dataclass(slots=True)
class Counters:
    """What a server has seen since it began: clients taken in, turned away, and cut for being
    slow; answers by status. Written by the server's thread, read by any.
    """

    accepted: int = 0
    refused: int = 0
    expired: int = 0
    answers: collections.Counter[int] = field(default_factory=collections.Counter)


class HttpServer:
    """Answers each client's one question, from `start` to `stop`.

    Attributes:
        address: what it listens on; with the real port, once started.
        counters: what it has seen.
        limits: what clients are given.
    """

    def __init__(
        self,
        address: Address,
        answer: Callable[[Request], Response],
        *,
        name: str,
        limits: Limits | None = None,
    ) -> None:
        """Make one. `answer` is called on the server's thread: it is quick and raises nothing."""
        self.address = address
        self.counters = Counters()
        self.limits = limits or Limits()
        self._answer = answer
        self._name = name
        self._connections: set[Connection] = set()
        self._of_enclave: collections.Counter[int] = collections.Counter()
        self._warnings = Throttle(log, time.monotonic)
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def connected(self) -> int:
        """Clients at the moment."""
        return len(self._connections)

    @property
    def running(self) -> bool:
        """Whether clients are served."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Listen, and serve on a thread of its own. Once.

        Raises:
            ListenError: the address cannot be listened on.
        """
        with contextlib.ExitStack() as undo:
            listener = undo.enter_context(listening(self.address))
            self.address = local_address(listener)
            self._thread = threading.Thread(
                target=self._run, args=(listener,), name=self._name, daemon=True
            )
            self._thread.start()
            self._listening = undo.pop_all()
        self._ready.wait()
        log.info("%s: listening on %s", self._name, self.address)

    def stop(self, timeout: float) -> None:
        """Accept no more, let clients take their answers, cut who is left after `timeout`."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._drain_timeout = timeout
            with contextlib.suppress(RuntimeError):  # The loop has ended by itself.
                self._loop.call_soon_threadsafe(self._stopping.set)
            thread.join(timeout + _GRACE)
            self._listening.close()

    def _run(self, listener: socket.socket) -> None:
        try:
            asyncio.run(self._serve(listener))
        finally:
            # Where no descriptor is left for the loop, `start` must not wait for it for ever.
            self._ready.set()

    async def _serve(self, listener: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._trouble)
        self._stopping, self._empty = asyncio.Event(), asyncio.Event()
        server = await self._loop.create_server(
            lambda: Connection(self, self.limits.timeout), sock=listener, backlog=BACKLOG
        )
        self._ready.set()
        await self._stopping.wait()
        # Clients on their way in find a server that is still there, or asyncio loses them.
        self._loop.remove_reader(listener.fileno())
        if arriving := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(arriving)
        server.close()
        # Now, not at the end: by then a successor may be listening on the same path.
        self._listening.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_timeout):
                while self._connections:
                    self._empty.clear()
                    await self._empty.wait()
        for connection in tuple(self._connections):
            connection.abort()
        # Their transports close the sockets in the next turn.
        await asyncio.sleep(0)
        self._warnings.catch_up()

    # What `connection.Owner` has, on the server's thread.

    def admit(self, connection: Connection) -> bool:
        """See `Owner.admit`."""
        cid = connection.cid
        of_enclave = 0 if cid is None else self._of_enclave[cid]
        if (
            len(self._connections) >= self.limits.connections
            or of_enclave >= self.limits.per_enclave
        ):
            self.counters.refused += 1
            self._warnings.warning(
                "%s: refused a client%s: there are too many",
                self._name,
                "" if cid is None else f" of the enclave with CID {cid}",
            )
            return False
        self.counters.accepted += 1
        self._connections.add(connection)
        if cid is not None:
            self._of_enclave[cid] += 1
        return True

    def release(self, connection: Connection) -> None:
        """See `Owner.release`."""
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        if connection.cid is not None:
            self._of_enclave[connection.cid] -= 1
            # Without this every CID ever seen would stay.
            self._of_enclave += collections.Counter()
        if not self._connections:
            self._empty.set()

    def respond(self, asked: Request | Response) -> Response:
        """See `Owner.respond`."""
        response = asked if isinstance(asked, Response) else self._answered(asked)
        self.counters.answers[response.status] += 1
        return response

    def expired(self) -> None:
        """See `Owner.expired`."""
        self.counters.expired += 1
        self._warnings.warning("%s: cut a client that asked nothing in time", self._name)

    def _answered(self, request: Request) -> Response:
        try:
            return self._answer(request)
        except Exception as e:
            # A bug of ours, which must not take the server away.
            log.error("%s: internal error: %s", self._name, type(e).__name__)  # noqa: TRY400
            log.debug("internal error", exc_info=e)
            return message(500, "internal error")

    def _trouble(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Tell what asyncio could not do, such as accepting while out of descriptors."""
        self._warnings.warning(
            "%s: %s: %s", self._name, context.get("message"), context.get("exception")
        )
