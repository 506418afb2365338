"""HTTPS to KMS through the dialer; errors of HTTP and TLS become errors of KMS here, once.

TLS ends here; the proxy on the parent carries bytes.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from enclave.errors import (
    AgentError,
    ConfigurationError,
    DialError,
    KmsResponseError,
    KmsUnreachableError,
)
from enclave.http.client import HttpClient, open_tls
from enclave.http.errors import (
    ConnectionLostError,
    HttpError,
    HttpProtocolError,
    HttpTimeoutError,
    PoolClosedError,
    ResponseTooLargeError,
    TlsError,
)
from enclave.http.request import RequestWriter
from vsock_proxy.net.addresses import ConnectProxy, TcpAddress
from vsock_proxy.net.dialing import ConnectDialer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from enclave.clock import Clock
    from enclave.http.client import BegunRequest
    from enclave.http.response import Response
    from enclave.http.stream import TlsStream
    from enclave.kms.endpoint import Endpoint
    from vsock_proxy.net.addresses import Address
    from vsock_proxy.net.dialing import Dialer

log = logging.getLogger(__name__)

MAX_RESPONSE = 1_048_576
"""Bytes of a response's body, at most; KMS's largest are a tenth of it."""


class BegunPost:
    """A request that was sent, and whose response is received without waiting for it.

    One that will not be received to its end must be closed.
    """

    __slots__ = ("_begun", "_transport")

    def __init__(self, transport: Transport, begun: BegunRequest) -> None:
        self._transport = transport
        self._begun = begun

    def fileno(self) -> int:
        """Return the file descriptor that is readable when more of the response has come."""
        return self._begun.fileno()

    def receive(self) -> Response | None:
        """Read what has come; return the response once that is all of it.

        Raises:
            KmsUnreachableError: the connection broke.
            KmsResponseError: the response is too long, or is not HTTP.
        """
        try:
            return self._begun.receive()
        except HttpError as e:
            raise self._transport.translated(e) from e

    def expire(self, seconds: float) -> KmsUnreachableError:
        """Receive no more; return the error of a response that did not come within `seconds`."""
        self._begun.close()
        return self._transport.timed_out(HttpTimeoutError("response"), f"{seconds:g} s")

    def close(self) -> None:
        """Receive no more: the connection is closed."""
        self._begun.close()


def way_to(
    endpoint: Endpoint, proxy: Address | ConnectProxy | None, dialer: Dialer
) -> tuple[Dialer, Address]:
    """Return what to dial, and with what, for a connection to an endpoint. See `Transport`."""
    if isinstance(proxy, ConnectProxy):
        return ConnectDialer(proxy, dialer), TcpAddress(endpoint.host, endpoint.port)
    return dialer, proxy or TcpAddress(endpoint.host, endpoint.port)


class Transport:
    """A pool of kept connections to one endpoint. Safe for many threads, and over forks.

    Args:
        endpoint: the host that TLS must prove, its port, and the path.
        dialer: where connections come from.
        proxy: where vsock-proxy listens, or an egress proxy; None: connect to the endpoint itself.
        tls: what is trusted.
        max_connections: connections at the same time; further threads wait for one.
        clock: for how long connections have been idle.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        dialer: Dialer,
        proxy: Address | ConnectProxy | None,
        tls: ssl.SSLContext,
        max_connections: int = 16,
        clock: Clock | None = None,
    ) -> None:
        self._is_direct = proxy is None
        through = f" through {proxy}" if proxy else ""
        self._where = f"{endpoint.host}{through}"
        dialer, address = way_to(endpoint, proxy, dialer)
        self._requests = RequestWriter("POST", endpoint.authority, endpoint.path)

        def connect(deadline: float) -> TlsStream:
            stream = open_tls(dialer, address, tls, endpoint.host, deadline)
            log.info("connected to %s%s, %s", endpoint.host, through, stream.version)
            return stream

        self._client = HttpClient(
            connect,
            size=max_connections,
            max_body=MAX_RESPONSE,
            may_keep=_is_from_kms,
            clock=clock,
        )

    def post(
        self,
        headers: Mapping[str, str],
        body: bytes,
        *,
        connect_timeout: float,
        read_timeout: float,
        timeout: float,
        deadline: float,
    ) -> Response:
        """Send one request with these headers, and receive the whole response; see `send`.

        Args:
            headers: signed headers; Host is added as it was signed.
            body: the request's body.
            connect_timeout: see `send`, as the other seconds.
            read_timeout: see `send`.
            timeout: see `send`.
            deadline: see `send`.

        Raises:
            ConfigurationError: a header has characters that no header has, or `close` was called.
            AgentError: as `send` raises it.
        """
        return self.send(
            self._requests.write(headers, body),
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            timeout=timeout,
            deadline=deadline,
        )

    def send(
        self,
        request: bytes,
        *,
        connect_timeout: float,
        read_timeout: float,
        timeout: float,
        deadline: float,
    ) -> Response:
        """Send one request and receive the whole response.

        Args:
            request: as it goes over the wire.
            connect_timeout: seconds for a connection with TLS, where a new one is needed, and
                for sending.
            read_timeout: seconds for the whole response, first byte to last.
            timeout: seconds for all of it together, the wait for a free connection included.
            deadline: seconds of the whole call, of which `timeout` is left; for messages.

        Raises:
            ConfigurationError: `close` was called.
            KmsUnreachableError: no connection, no TLS, no complete response in time.
            KmsResponseError: the response is too long, or is not HTTP.
        """
        try:
            return self._client.request(
                request,
                connect_timeout=connect_timeout,
                read_timeout=read_timeout,
                timeout=timeout,
            )
        except (DialError, HttpError) as e:
            if isinstance(e, HttpTimeoutError):
                own = {"queue": timeout, "response": read_timeout}.get(e.stage, connect_timeout)
                limit = f"{own:g} s" if own < timeout else f"the call's deadline of {deadline:g} s"
                raise self.timed_out(e, limit) from e
            raise self.translated(e) from e

    def begin(self, request: bytes) -> BegunPost | None:
        """Send one request without waiting for anything; see `HttpClient.begin`."""
        begun = self._client.begin(request)
        return None if begun is None else BegunPost(self, begun)

    def renew_connections(self) -> None:
        """Use none of the connections that there are again: one of them is out of step."""
        self._client.renew_connections()

    def close(self) -> None:
        """Close every kept connection; further requests fail."""
        self._client.close()

    def timed_out(self, error: HttpTimeoutError, limit: str) -> KmsUnreachableError:
        """Return the error of a deadline that has passed."""
        text, hint = _TIMEOUTS[error.stage]
        if self._is_direct and error.stage in _DIRECT_HINTS:
            hint = _DIRECT_HINTS[error.stage]
        return KmsUnreachableError(f"{text.format(self._where)} within {limit}", hint=hint)

    def translated(self, error: DialError | HttpError) -> AgentError:
        """Return an error of connections as one of KMS."""
        match error:
            case DialError():
                hint = error.hint or "does vsock-proxy run on the parent, where --proxy says?"
                if self._is_direct:
                    hint = _NO_ROUTE_HINT
                return KmsUnreachableError(f"KMS cannot be reached: {error}", hint=hint)
            case TlsError():
                return self._tls_error(error)
            case ConnectionLostError():
                closer = "KMS" if self._is_direct else "the proxy or KMS"
                return KmsUnreachableError(
                    f"the connection to {self._where} broke: {error}",
                    hint=f"{closer} closed it before the response was complete",
                )
            case HttpProtocolError():
                return KmsResponseError(
                    f"KMS's response is not HTTP/1.1: {error}",
                    hint="TLS proved KMS's name, so whatever ends TLS for KMS is at fault",
                )
            case ResponseTooLargeError():
                return KmsResponseError(
                    f"KMS's response is longer than {MAX_RESPONSE} bytes",
                    hint="KMS sends a tenth of it at most: does something else end TLS?",
                )
            case PoolClosedError():
                return ConfigurationError(
                    "the connections to KMS are closed", hint="the Agent's close() was called"
                )
        return KmsUnreachableError(f"no response from {self._where}: {error}")

    def _tls_error(self, error: TlsError) -> KmsUnreachableError:
        if not error.unverified:
            hint = "does the proxy lead to KMS, and to nothing else?"
            if "certificate required" in str(error):
                hint = "the server wants a client certificate, which KMS does not: is it KMS?"
            return KmsUnreachableError(f"TLS with {self._where} failed: {error}", hint=hint)
        text = str(error)
        hint = "name a private CA with --ca-bundle; docs/trust.md has the CAs trusted without"
        if "mismatch" in text:
            hint = "its subjectAltName lacks the host: does the proxy lead to another one?"
        elif "expired" in text or "not yet valid" in text:
            hint = "is the enclave's clock right?"
        return KmsUnreachableError(
            f"{self._where} does not prove to be KMS: {text}", hint=hint, transient=False
        )


def _is_from_kms(response: Response) -> bool:
    """Tell whether KMS itself wrote a response, as far as it says.

    What lacks KMS's request id was written by something before KMS, which is where responses get
    out of step: its connection is not kept.
    """
    return "x-amzn-requestid" in response.headers


_NO_ROUTE_HINT = (
    "does the subnet lead to KMS: a VPC endpoint, or a NAT gateway? Is DNS on in the VPC, and does "
    "the security group let TCP out to port 443?"
)
_DIRECT_HINTS = {
    "connect": _NO_ROUTE_HINT,
    "send": "the connection is there, but nothing is read: is something between this and KMS?",
}
"""Where no proxy is in between."""

_TIMEOUTS = {
    "queue": (
        "no connection to {} became free",
        "more threads than connections: give the Agent more max_connections",
    ),
    "connect": (
        "no TLS with {}",
        "the proxy is there; does it reach KMS from the parent?",
    ),
    "send": (
        "{} did not receive the request",
        "the proxy is there, but does not read; does it reach KMS from the parent?",
    ),
    "response": (
        "no complete response from {}",
        "a longer --cli-read-timeout helps only if KMS is slow, not if it is silent",
    ),
}
"""What was waited for until a timeout, and a hint."""
