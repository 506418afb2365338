"""HTTP/1.1 over TLS for the service, and the faults of delivery."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import logging
import socket
import struct
from typing import TYPE_CHECKING, Any

import h11

from enclave_simulator.kms.messages import Request, Response
from vsock_proxy.service.async_server import AsyncConnection, AsyncServer

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from enclave_simulator.kms.service import KmsService
    from enclave_simulator.kms.tls import CertificateAuthority

MAX_BODY = 1 << 20
"""Bytes in a request's body; the largest legal one is an attestation document of 256 KiB."""

IDLE_TIMEOUT = 60.0
"""Seconds until a connection without a complete request is closed."""

_METHODS = (b"GET", b"POST", b"PUT", b"DELETE")
_DRIP_INTERVAL = 0.05

log = logging.getLogger(__name__)


class KmsServer(AsyncServer["Connection"]):
    """Serves one `KmsService` on a listening socket, which it owns, from `start` to `stop`."""

    def __init__(
        self,
        service: KmsService,
        authority: CertificateAuthority,
        listener: socket.socket,
        *,
        idle_timeout: float = IDLE_TIMEOUT,
    ) -> None:
        super().__init__(log, "simulated KMS")
        self.tls = authority.server_context()
        self.service = service
        self.idle_timeout = idle_timeout
        self._listener = listener

    async def start(self) -> None:
        """Start to accept connections."""
        self.accept_from(self._listener)

    async def stop(self) -> None:
        """Stop to accept connections, and abort the open ones, also those in their handshake."""
        self.close()
        await self.closed()

    def may_accept(self) -> float:
        """See `AsyncAcceptEvents.may_accept`."""
        return 0

    def admit(self, client: socket.socket, peer: object) -> Connection:
        """See `AsyncServer.admit`."""
        del client, peer
        return Connection(self)


class Connection(AsyncConnection, asyncio.Protocol):
    """One client. h11 parses and writes HTTP; this class moves the bytes."""

    def __init__(self, server: KmsServer) -> None:
        super().__init__()
        self._server = server
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 16)
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._idle: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._over = False  # the last response was given, or is being spoiled

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment] # it is one
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, _exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self._server.release(self)
        self._stop_waiting()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._writable.clear()
        # A client that sends requests and reads no responses would have them collected here.
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._writable.set()
        self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._over:
            return  # h11 would keep it, as much as comes
        self._http.receive_data(data)
        try:
            self._advance()
        except h11.RemoteProtocolError as e:
            log.info("invalid HTTP: %s", e)
            self._reject(e.error_status_hint)

    def _advance(self) -> None:
        while True:
            event = self._http.next_event()
            match event:
                case h11.Request():
                    self._request = event
                    self._body.clear()
                    if event.method not in _METHODS:
                        self._reject(501)  # HEAD and CONNECT too: their responses have no body
                        return
                    if self._http.they_are_waiting_for_100_continue:
                        # Else a client that asks (RFC 9110, 10.1.1) waits, curl a second long.
                        self._write(h11.InformationalResponse(status_code=100, headers=[]))
                case h11.Data():
                    self._body += event.data
                    if len(self._body) > MAX_BODY:
                        self._reject(413)
                        return
                case h11.EndOfMessage():
                    self._stop_waiting()
                    if not self._respond():
                        self._over = True
                        return
                    self._wait()
                case h11.ConnectionClosed():
                    self._transport.close()
                    return
                case _:  # NEED_DATA, or PAUSED until a response is sent
                    return

    def _respond(self) -> bool:
        """Respond to the current request; return whether the connection accepts another."""
        request = self._request
        assert request is not None  # noqa: S101 (h11 sends Request before EndOfMessage)
        headers: dict[str, str] = {}
        for raw_name, raw_value in request.headers:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]},{value}" if name in headers else value
        response = self._server.service.handle(
            Request(
                request.method.decode("latin-1"),
                request.target.decode("latin-1"),
                headers,
                bytes(self._body),
                _peer(self._transport),
            )
        )
        self._deliver(response)
        if response.delivery or self._transport.is_closing():
            return False
        if self._http.our_state is h11.MUST_CLOSE:
            self._transport.close()
            return False
        self._http.start_next_cycle()
        return True

    def _deliver(self, response: Response) -> None:
        """Send a response, with its fault of `faults.DELIVERY_FAULTS` if it has one."""
        length = len(response.body)
        match response.delivery:
            case "stall":
                pass
            case "drip":
                self._write(_head(response, MAX_BODY))
                self._run(self._drip(response.body))
            case "cut":
                self._write(_head(response, length), h11.Data(response.body[: length // 2]))
                self._transport.abort()
            case "reset":
                raw: socket.socket = self._transport.get_extra_info("socket")
                # With zero linger, close(2) sends RST instead of FIN (socket(7)).
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._transport.abort()
            case "huge":
                self._write(_head(response, None))
                self._run(self._flood())
            case delivery:
                self._write(_head(response, length), h11.Data(response.body), h11.EndOfMessage())
                if delivery == "close-after":
                    self._transport.close()

    async def _drip(self, body: bytes) -> None:
        for byte in body.ljust(MAX_BODY):
            await asyncio.sleep(_DRIP_INTERVAL)
            self._write(h11.Data(bytes([byte])))

    async def _flood(self) -> None:
        while True:
            await self._writable.wait()
            self._write(h11.Data(b" " * (1 << 16)))
            await asyncio.sleep(0)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.get_running_loop().create_task(work)

    def _write(self, *events: h11.Event) -> None:
        # One write: two would be two TLS records and, on a network, two packets.
        self._transport.write(b"".join(self._http.send(event) or b"" for event in events))

    def _reject(self, status: int) -> None:
        self._over = True
        with contextlib.suppress(h11.LocalProtocolError):  # a response has been started
            self._deliver(Response(status, b"", "text/plain"))
        self._transport.close()

    # A connection that sends no complete request in time is closed.

    def _wait(self) -> None:
        self._idle = asyncio.get_running_loop().call_later(
            self._server.idle_timeout, self._transport.close
        )

    def _stop_waiting(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None


def _peer(transport: asyncio.Transport) -> str:
    """Return a client's IP address; empty for one of a UNIX socket."""
    name = transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) else ""


def _head(response: Response, length: int | None) -> h11.Response:
    headers = [
        ("Date", email.utils.formatdate(usegmt=True)),
        ("Content-Type", response.content_type),
        ("Cache-Control", "no-cache, no-store, must-revalidate, private"),
    ]
    if response.request_id:
        headers.append(("x-amzn-RequestId", response.request_id))
    if length is not None:
        headers.append(("Content-Length", str(length)))
    return h11.Response(status_code=response.status, headers=headers)
