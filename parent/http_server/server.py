"""Serves short HTTP responses, with a limit on everything a client can take up.

One thread with an asyncio loop. A client has a few seconds for everything together, so that none
holds a place by being slow. Each enclave has only so many places, and so many new connections a
second, so that it takes neither all places nor the time of what else runs in this process. No
response is waited for: nothing that a client requests makes another wait.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from parent.http_server.connection import Connection
from parent.http_server.protocol import METHODS, Request, Response, message
from vsock_proxy.net.listening import listening, local_address
from vsock_proxy.net.peers import peer_cid
from vsock_proxy.service.async_server import AsyncServer
from vsock_proxy.service.budget import Budget, BudgetsByCid
from vsock_proxy.service.scarcity import LOOP_DESCRIPTORS, require_descriptors
from vsock_proxy.service.threads import start_thread

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from vsock_proxy.net.addresses import Address

log = logging.getLogger(__name__)

_GRACE: Final = 1.0
"""Seconds that the server gets to stop, beyond those for its clients."""

_REJECTIONS_PER_SECOND: Final = 500
"""Connections closed at once, at 0.03 ms each. Beyond that they wait in the kernel's backlog."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a server.

    Attributes:
        connections: at the same time.
        per_enclave: of those, from one CID. Other clients share all there are.
        timeout: seconds from connecting until the client has its response and has disconnected.
        per_second: new connections of all clients together; more wait in the kernel's backlog.
        per_enclave_per_second: of those, from one CID; more are closed.
    """

    connections: int = 128
    per_enclave: int = 16
    timeout: float = 5.0
    per_second: int = 100
    per_enclave_per_second: int = 10


@dataclass(slots=True)
class Counters:
    """What a server has done since it began. Written by the server's thread, read by any.

    Attributes:
        accepted: clients.
        rejected: clients, because of a limit.
        expired: clients whose time was over before they sent a request.
        responses: by status.
    """

    accepted: int = 0
    rejected: int = 0
    expired: int = 0
    responses: collections.Counter[int] = field(default_factory=collections.Counter)


class HttpServer(AsyncServer[Connection]):
    """Responds to one request of each client, from `start` to `stop`.

    Args:
        address: where to listen.
        respond: returns the response to a request. Called on the server's thread: it is quick and
            raises nothing.
        name: for the log.
        limits: other than the default ones.
        methods: that requests may have.

    Attributes:
        address: what it listens on; with the real port, once started.
        counters: what it has done.
        limits: its limits.
        methods: that requests may have.
    """

    def __init__(
        self,
        address: Address,
        respond: Callable[[Request], Response],
        *,
        name: str,
        limits: Limits | None = None,
        methods: Sequence[str] = METHODS,
    ) -> None:
        super().__init__(log, name)
        self.address = address
        self.methods = methods
        self.counters = Counters()
        self.limits = limits or Limits()
        self._respond = respond
        self._name = name
        self._of_enclave: collections.Counter[int] = collections.Counter()
        self._arrivals = Budget(self.limits.per_second)
        self._rejections = Budget(_REJECTIONS_PER_SECOND, burst=1.0)
        self._arrivals_of_enclave = BudgetsByCid(self.limits.per_enclave_per_second)
        self._stopping = asyncio.Event()
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._thread_loop: asyncio.AbstractEventLoop | None = None

    @property
    def connected(self) -> int:
        """How many clients are connected."""
        return len(self.connections)

    @property
    def running(self) -> bool:
        """Whether clients are served."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Listen, and serve on a thread of its own. To be called once.

        Raises:
            ListenError: the address cannot be listened on.
            ConfigurationError: there are too few file descriptors.
            AgentError: the system has no more threads.
        """
        with contextlib.ExitStack() as undo:
            listener = undo.enter_context(listening(self.address))
            require_descriptors(LOOP_DESCRIPTORS, self._name)
            self.address = local_address(listener)
            thread = threading.Thread(
                target=self._run, args=(listener,), name=self._name, daemon=True
            )
            start_thread(thread)
            self._thread = thread
            self._listening = undo.pop_all()
        self._ready.wait()
        log.info("%s: listening on %s", self._name, self.address)

    def stop(self, timeout: float) -> None:
        """Accept no more, drain for `timeout` seconds, abort the clients that are left."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._drain_timeout = timeout
            if self._thread_loop is not None:
                with contextlib.suppress(RuntimeError):  # The loop has ended by itself.
                    self._thread_loop.call_soon_threadsafe(self._stopping.set)
            thread.join(timeout + _GRACE)
            self._listening.close()

    def _run(self, listener: socket.socket) -> None:
        try:
            asyncio.run(self._serve(listener))
        finally:
            # If no descriptor is left for the loop, `start` must not wait for it for ever.
            self._ready.set()

    async def _serve(self, listener: socket.socket) -> None:
        self._thread_loop = asyncio.get_running_loop()
        self._thread_loop.set_exception_handler(self._exception)
        self.accept_from(listener)
        self._ready.set()
        await self._stopping.wait()
        self.stop_accepting()
        await self._made()  # Those of clients that were accepted just now.
        # Now, not at the end: by then a successor may be listening on the same path.
        self._listening.close()
        await self.drain(self._drain_timeout)
        self.close()
        await self.closed()

    # The methods of `AsyncServer`, on the server's thread.

    def may_accept(self) -> float:
        """See `AsyncAcceptEvents.may_accept`."""
        now = time.monotonic()
        return max(self._arrivals.wait(now), self._rejections.wait(now))

    def admit(self, client: socket.socket, peer: object) -> Connection | None:
        """See `AsyncServer.admit`."""
        connection = self.place_for(peer_cid(client, peer))
        if connection is None:
            client.close()
        return connection

    def place_for(self, cid: int | None) -> Connection | None:
        """Return a place for a client; None if it has to be rejected."""
        now = time.monotonic()
        if cid is not None and not self._arrivals_of_enclave.take(cid, now):
            reason = f"it opens more than {self.limits.per_enclave_per_second} a second"
        elif cid is not None and self._of_enclave[cid] >= self.limits.per_enclave:
            reason = f"limit of {self.limits.per_enclave} connections of one enclave reached"
        elif len(self.connections) >= self.limits.connections:
            reason = f"limit of {self.limits.connections} connections reached"
        else:
            self._arrivals.take(now)
            self.counters.accepted += 1
            connection = Connection(self, cid, self.limits.timeout)
            if cid is not None:
                self._of_enclave[cid] += 1
            return connection
        self._rejections.take(now)
        self.counters.rejected += 1
        of_enclave = "" if cid is None else f" of the enclave with CID {cid}"
        self._warnings.warning("%s: rejected a client%s: %s", self._name, of_enclave, reason)
        return None

    # The methods of `connection.Server`, on the server's thread.

    def release(self, connection: Connection) -> None:
        """See `Server.release`."""
        super().release(connection)
        if connection.cid is not None:
            self._of_enclave[connection.cid] -= 1
            # Without this every CID ever seen would stay.
            self._of_enclave += collections.Counter()

    def respond(self, asked: Request | Response) -> Response:
        """See `Server.respond`."""
        response = asked if isinstance(asked, Response) else self._responded(asked)
        self.counters.responses[response.status] += 1
        return response

    def expired(self) -> None:
        """See `Server.expired`."""
        self.counters.expired += 1
        self._warnings.warning("%s: a client sent no request in time; closed", self._name)

    def _responded(self, request: Request) -> Response:
        try:
            return self._respond(request)
        except Exception as e:
            # A bug of ours, which must not take the server away.
            log.error("%s: internal error: %s", self._name, type(e).__name__)  # noqa: TRY400
            log.debug("internal error", exc_info=e)
            return message(500, "internal error")

    def _exception(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log what asyncio reports, throttled."""
        self._warnings.warning(
            "%s: %s: %s", self._name, context.get("message"), context.get("exception")
        )
