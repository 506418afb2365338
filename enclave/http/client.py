"""Requests to one server over kept connections."""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING

from enclave.clock import Clock, SystemClock
from enclave.http.connection import HttpConnection
from enclave.http.errors import HttpError, HttpTimeoutError
from enclave.http.pool import MAX_IDLE, ConnectionPool, Place
from enclave.http.stream import PlainStream, Stream, TlsStream
from vsock_proxy.net.sockets import INTERNET, set_keepalive

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from enclave.http.response import Response
    from vsock_proxy.net.addresses import Address
    from vsock_proxy.net.dialing import Dialer

log = logging.getLogger(__name__)

_SHORTEST = 0.001
"""Seconds: a dialer is never given less."""


def open_plain(dialer: Dialer, address: Address, deadline: float) -> PlainStream:
    """Connect without TLS.

    Args:
        dialer: where connections come from.
        address: whom to connect to.
        deadline: moment of `time.monotonic`.

    Raises:
        DialError: there is no connection.
    """
    connected = dialer.dial(address, max(deadline - monotonic(), _SHORTEST))
    if connected.family in INTERNET:
        # vsock and UNIX sockets have no keepalive: there the idle limit and deadlines serve.
        set_keepalive(connected)
    return PlainStream(connected)


def open_tls(
    dialer: Dialer, address: Address, context: ssl.SSLContext, host: str, deadline: float
) -> TlsStream:
    """Connect, and have the server prove that it is `host`.

    Raises:
        DialError: there is no connection.
        HttpTimeoutError: the handshake took too long.
        ConnectionLostError: the connection broke.
        TlsError: TLS failed, or the certificate is not the server's.
    """
    plain = open_plain(dialer, address, deadline)
    try:
        stream = TlsStream(plain, context, host)
        stream.handshake(deadline)
    except TimeoutError:
        plain.close()
        raise HttpTimeoutError("connect") from None
    except BaseException:
        plain.close()
        raise
    return stream


class BegunRequest:
    """A request that was sent, and whose response is received without waiting for it.

    One that will not be received to its end must be closed. For one thread at a time.
    """

    __slots__ = ("_client", "_connection", "_place")

    def __init__(self, client: HttpClient, place: Place, connection: HttpConnection) -> None:
        self._client = client
        self._place = place
        self._connection = connection

    def fileno(self) -> int:
        """Return the file descriptor that is readable when more of the response has come."""
        return self._connection.fileno()

    def receive(self) -> Response | None:
        """Read what has come; return the response once that is all of it.

        After a response or an error nothing is left to close.

        Raises:
            HttpError: no response; see its subclasses.
        """
        try:
            response = self._connection.receive_now()
        except BaseException:
            self._client.end(self._place)
            raise
        if response is not None:
            self._client.end(self._place, response)
        return response

    def close(self) -> None:
        """Receive no more: the connection is closed."""
        self._connection.close()
        self._client.end(self._place)


class HttpClient:
    """Requests to one server over a pool of kept connections. Safe for many threads.

    Args:
        connect: opens a stream to the server by a moment.
        size: connections, at most; further threads wait for one.
        max_body: bytes of a response's body, at most.
        may_keep: returns whether a response's connection may be used again, as far as the
            service above HTTP knows.
        clock: for how long connections have been idle.
        max_idle: seconds after which an idle connection is closed.
    """

    def __init__(
        self,
        connect: Callable[[float], Stream],
        *,
        size: int,
        max_body: int,
        may_keep: Callable[[Response], bool] = lambda _: True,
        clock: Clock | None = None,
        max_idle: float = MAX_IDLE,
    ) -> None:
        self._connect = connect
        self._max_body = max_body
        self._may_keep = may_keep
        self._pool = ConnectionPool(size, clock=clock or SystemClock(), max_idle=max_idle)

    def request(
        self, request: bytes, *, connect_timeout: float, read_timeout: float, timeout: float
    ) -> Response:
        """Send one request and receive the whole response.

        Args:
            request: as it goes over the wire.
            connect_timeout: seconds for a connection with TLS, where a new one is needed, and
                as many for sending.
            read_timeout: seconds for the whole response, first byte to last.
            timeout: seconds for all of it, the wait for a place in the pool included.

        Raises:
            DialError: no connection.
            HttpError: no response; see its subclasses.
        """
        deadline = monotonic() + timeout
        place = self._pool.take(deadline)
        try:
            connection = place.connection
            if connection is None:
                stream = self._connect(min(monotonic() + connect_timeout, deadline))
                connection = HttpConnection(stream)
                place.fill(connection)
            response = connection.exchange(
                request,
                send_by=min(monotonic() + connect_timeout, deadline),
                read_timeout=read_timeout,
                deadline=deadline,
                max_body=self._max_body,
            )
            if not self._may_keep(response):
                connection.close()
            return response
        finally:
            self._pool.give(place)

    def begin(self, request: bytes) -> BegunRequest | None:
        """Send one request without waiting for anything.

        Returns:
            What receives the response; None if there is no kept connection that takes the request
            at once. Then `request` will do.
        """
        place = self._pool.take_now()
        if place is None or (connection := place.connection) is None:
            return None
        try:
            connection.begin(request, max_body=self._max_body)
        except HttpError as e:
            log.debug("a kept connection did not take a request: %s", e)
            self._pool.give(place)
            return None
        except BaseException:
            self._pool.give(place)
            raise
        return BegunRequest(self, place, connection)

    def end(self, place: Place, response: Response | None = None) -> None:
        """Give back the place of a `BegunRequest`."""
        if response is not None and place.connection and not self._may_keep(response):
            place.connection.close()
        self._pool.give(place)

    def renew_connections(self) -> None:
        """Use none of the connections that there are again."""
        self._pool.renew()

    def close(self) -> None:
        """Close every kept connection; further requests fail."""
        self._pool.close()
