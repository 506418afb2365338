"""One client of attested TLS: the handshake, documents, and then the program's bytes.

The client's transport carries TLS records, the program's the plain bytes. Neither side is read
while the other one does not take what it is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol

from enclave.attested_tls import first_request
from enclave.attested_tls.binding import key_user_data, session_user_data
from enclave.attested_tls.documents import TooManyRequestsError
from enclave.attested_tls.first_request import DocumentRequest, Programs, Rejection
from enclave.attested_tls.program_side import ProgramSide
from enclave.attested_tls.server_tls import ServerTls, ServerTlsError
from enclave.errors import AgentError, DialError
from vsock_proxy.service.async_server import NEVER, AsyncConnection

if TYPE_CHECKING:
    import ssl
    from collections.abc import Coroutine
    from typing import Any

    from enclave.attested_tls.documents import Documents
    from enclave.attested_tls.identity import Identity

RECEIVE: Final = 65_536
"""Bytes read at once."""

MAX_UNSENT: Final = 1_048_576
"""Bytes that a client may leave unread: more than the program's, which stop at a quarter."""

State = Literal["handshake", "waiting", "attesting", "connecting", "relaying"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of clients. Times in seconds, checked once a second.

    Attributes:
        clients: connections at the same time.
        handshake_timeout: for the TLS handshake.
        wait_timeout: for the first request after it, and for the next after a document.
        connect_timeout: until the program accepts; it may be starting.
        idle_timeout: without a byte in either direction.
        linger_timeout: the same after one side has half-closed.
        close_timeout: for the client to read the last bytes.
    """

    clients: int = 256
    handshake_timeout: float = 10.0
    wait_timeout: float = 30.0
    connect_timeout: float = 10.0
    idle_timeout: float = 3600.0
    linger_timeout: float = 120.0
    close_timeout: float = 5.0


class Server(Protocol):
    """What a connection needs of its server; `server.AttestedServer`.

    Attributes:
        limits: the limits of clients.
        draining: whether each document is its connection's last.
        documents: makes them.
        receive_buffer: of `RECEIVE` bytes, for whichever transport is being read.
    """

    limits: Limits
    draining: bool
    documents: Documents
    receive_buffer: bytearray

    def release(self, connection: Connection) -> None:
        """Note that a client has disconnected."""
        ...

    async def dial(self, program: asyncio.BaseProtocol) -> None:
        """Connect a protocol to the program.

        Raises:
            DialError: it does not accept in time.
        """
        ...

    def failed(self, message: str, error: BaseException) -> None:
        """Log why a connection ended that should not have."""
        ...


class Connection(AsyncConnection, asyncio.BufferedProtocol):
    """The client's side of one connection.

    Args:
        server: has the limits, the documents and the way to the program.
        identity: the key that this connection is ended with.
        context: of this identity.

    Attributes:
        tls: the TLS connection.
        server: has the limits, the documents and the way to the program.
    """

    def __init__(self, server: Server, identity: Identity, context: ssl.SSLContext) -> None:
        super().__init__()
        self.tls = ServerTls(context)
        self.server = server
        self._loop = asyncio.get_running_loop()
        self._public_key = identity.public_key
        self._state: State = "handshake"
        self._plain = bytearray()  # received and not passed on yet
        self._program = ProgramSide(self)
        self._task: asyncio.Task[None] | None = None
        self._ended = False  # our direction, in TLS
        self._client_closed = False  # its direction of the transport
        self._unread = MAX_UNSENT + 1
        self._enter("handshake")

    # The methods of asyncio.BufferedProtocol, for the client's transport.

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`. Unless TLS has ended, the program sees a reset."""
        self.closing = True
        self._client_closed = True
        if self._task is not None:
            self._task.cancel()
        self._program.close(cut_off=exc is not None or not self.tls.ended)
        self.server.release(self)

    def get_buffer(self, _sizehint: int) -> bytearray:
        """See `asyncio.BufferedProtocol`."""
        return self.server.receive_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        if self.closing:
            return  # read only so that the last response arrives
        try:
            plain = self.tls.receive(memoryview(self.server.receive_buffer)[:nbytes])
        except ServerTlsError as e:
            self.flush()  # the alert
            self.server.failed("a client's TLS failed", e)
            self.abort()
            return
        self.flush()
        if self._state == "handshake" and self.tls.established:
            self._enter("waiting")
        if self._state == "relaying":
            self._touch()
            self._program.send(plain)
        else:
            self._plain += plain
        self._advance()

    def eof_received(self) -> bool:
        """See `asyncio.BaseProtocol`."""
        self._client_closed = True
        if not self.closing:
            with contextlib.suppress(ServerTlsError):
                self.tls.end_of_stream()
                return True  # our direction may go on
            self.abort()
        return False

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._program.pause_reading()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._touch()
        self._program.resume_reading()

    # For the server.

    def finish(self) -> None:
        """Close, unless the program's bytes are on their way."""
        if not self.closing and self._state in ("handshake", "waiting"):
            self.close()

    def expire(self) -> None:
        """Close, or abort: its time is over."""
        if self.closing and self._reads_on():
            self._touch()
        elif self._state == "waiting" and not self.closing:
            self.close()
        else:
            self.abort()

    def abort(self) -> None:
        """See `AsyncConnection.abort`."""
        self.closing = True
        self._program.close(cut_off=True)
        super().abort()

    def _reads_on(self) -> bool:
        """Return whether the client has read some of what was left when last asked."""
        unread = 0 if self.transport is None else self.transport.get_write_buffer_size()
        before, self._unread = self._unread, unread
        return 0 < unread < before

    def close(self) -> None:
        """End TLS, and close once the client has read all that was written."""
        self.end()
        if not self.closing:
            self.closing = True
            self._touch()
        self._program.close(cut_off=False)
        self.close_once_read(ended=self._client_closed)

    # For the program's side.

    @property
    def receive_buffer(self) -> bytearray:
        """See `program_side.ClientSide`."""
        return self.server.receive_buffer

    def deliver(self, data: memoryview) -> None:
        """Send the program's bytes to the client."""
        self._touch()
        self.tls.send(data)
        self.flush()

    def end(self) -> None:
        """End our direction; the client may still send."""
        if not self._ended and self.tls.established:
            self._ended = True
            self.tls.end()
            self.flush()

    def program_ended(self) -> None:
        """Pass on that the program sends no more."""
        self.end()
        self._touch()
        if self.tls.ended:
            self.close()

    def program_lost(self, *, cut_off: bool) -> None:
        """Pass on that the program has closed, or broken, its connection."""
        if self.closing:
            return
        if cut_off:
            self.abort()  # without TLS's end: the client sees that something is missing
        else:
            self.close()

    def settle_reading(self) -> None:
        """Read from the client, or not."""
        if self.transport is None or self.transport.is_closing() or self._client_closed:
            return
        if not self.closing and (self._task is not None or self._program.full):
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def flush(self) -> None:
        """Send what TLS has to send."""
        data = self.tls.outgoing()
        if not data or self.transport is None or self.transport.is_closing():
            return
        self.transport.write(data)
        if self.transport.get_write_buffer_size() > MAX_UNSENT:
            # The program is not read any more by then: a client that makes TLS itself respond,
            # with key updates, and does not read that.
            self.abort()

    # Steps.

    def _advance(self) -> None:
        """Do what the bytes received so far ask for."""
        if self.closing:
            return
        if self._state == "waiting":
            verdict = first_request.look(self._plain)
            match verdict:
                case DocumentRequest():
                    self._start("attesting", self._attest(verdict))
                case Rejection():
                    self._reject(verdict.status, verdict.reason)
                case Programs():
                    self._start("connecting", self._connect())
                case _ if self.tls.ended:
                    self.close()
        elif self._state == "relaying" and self.tls.ended:
            self._program.end()
            if self._ended:
                self.close()

    def _start(self, state: State, work: Coroutine[Any, Any, None]) -> None:
        """Do work that takes a while; nothing is read meanwhile."""
        self._enter(state)
        self._task = self._loop.create_task(work)
        self._task.add_done_callback(self._done)
        self.settle_reading()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if task.cancelled() or self.closing:
            return
        if (error := task.exception()) is not None:
            self.server.failed("internal error", error)
            self.abort()
            return
        self.settle_reading()
        self._advance()

    async def _attest(self, request: DocumentRequest) -> None:
        documents = self.server.documents
        try:
            if request.nonce is None:
                document = await documents.cached(key_user_data(self._public_key))
            else:
                user_data = session_user_data(self._public_key, self.tls.finished)
                document = await documents.fresh(user_data, request.nonce)
        except TooManyRequestsError as e:
            self._reject(429, str(e), retry_after=1)
            return
        except AgentError as e:
            self.server.failed("no attestation document", e)
            self._reject(503, "no attestation document: see the enclave's log")
            return
        close = not request.keep_alive or self.server.draining
        self.tls.send(
            first_request.document_response(document, fresh=request.nonce is not None, close=close)
        )
        self.flush()
        del self._plain[: request.size]
        if close:
            self.close()
        else:
            self._enter("waiting")

    def _reject(self, status: int, reason: str, *, retry_after: int | None = None) -> None:
        self.tls.send(first_request.rejection_response(status, reason, retry_after=retry_after))
        self.close()

    async def _connect(self) -> None:
        try:
            await self.server.dial(self._program)
        except DialError as e:
            self.server.failed("the program does not accept a connection", e)
            self.abort()
            return
        self._enter("relaying")
        plain, self._plain = self._plain, bytearray()
        self._program.send(bytes(plain))

    def _enter(self, state: State) -> None:
        """Begin to do something, and its time."""
        if not self.closing:
            self._state = state
            self._touch()

    def _touch(self) -> None:
        """Start the time for what it is doing now."""
        limits = self.server.limits
        if self.closing:
            seconds = limits.close_timeout
        elif self._state == "relaying":
            half_closed = self._ended or self.tls.ended
            seconds = limits.linger_timeout if half_closed else limits.idle_timeout
        elif self._state == "handshake":
            seconds = limits.handshake_timeout
        elif self._state == "waiting":
            seconds = limits.wait_timeout
        else:
            seconds = NEVER  # ends by its own deadline
        self.expires = self._loop.time() + seconds
