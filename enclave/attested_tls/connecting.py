"""Connects to a program in an enclave, and proves the enclave before anything is sent."""

from __future__ import annotations

import ssl
from time import monotonic
from typing import TYPE_CHECKING, cast

from enclave.attestation.verify import AWS_ROOT_FINGERPRINT
from enclave.attested_tls.context import TIMEOUT, AttestedContext
from enclave.errors import AttestedTlsError, ConfigurationError
from enclave.http.errors import ConnectionLostError, HttpTimeoutError, Stage
from enclave.http.response import Response, ResponseReader
from vsock_proxy.net.addresses import Address, TcpAddress
from vsock_proxy.net.dialing import SocketDialer, reason_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from enclave.attested_tls.context import AttestedSocket


def connect(
    host: str,
    port: int = 443,
    *,
    pcrs: Mapping[int, bytes | Collection[bytes]],
    platform: str = "enclave",
    allow_debug: bool = False,
    root_fingerprint: bytes = AWS_ROOT_FINGERPRINT,
    timeout: float = TIMEOUT,
) -> AttestedSocket:
    """Return a TLS connection to an enclave; it is proven, and nothing has been sent over it.

    Args:
        host: a name or an IP address. It is not trusted: the document proves the other end.
        port: a TCP port.
        pcrs: what PCRs must be, by index; several values for one PCR mean one of these.
        platform: ``enclave``; ``sandbox``, a Nitro Sandbox, with PCR17; or ``instance``, an EC2
            instance with a NitroTPM.
        allow_debug: accept an enclave in debug mode, which keeps no secrets.
        root_fingerprint: SHA-256 of the root to trust in place of AWS's: a simulator's.
        timeout: seconds to connect, then for the document; later the socket's timeout.

    Raises:
        ConfigurationError: an argument.
        DialError: there is no connection.
        AttestedTlsError: TLS failed, or the server gives no attestation document.
        AttestationError: the document proves something else.
        DecodingError: what the server gives is not a document.
    """
    context = AttestedContext(
        pcrs=pcrs,
        platform=platform,
        allow_debug=allow_debug,
        root_fingerprint=root_fingerprint,
        timeout=timeout,
    )
    return connect_with(context, host, TcpAddress(host, port))


def connect_with(context: AttestedContext, host: str, address: Address) -> AttestedSocket:
    """Return a proven TLS connection to an address; see `connect`.

    Raises:
        ConfigurationError: no TLS server has the name `host`.
    """
    try:
        # First without a socket: Python 3.11 leaves one open if it rejects the name.
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=host)
    except (ValueError, TypeError) as e:
        raise ConfigurationError(
            f"{host!r:.80} cannot be the name of a TLS server", hint="name a host"
        ) from e
    connected = SocketDialer().dial(address, context.timeout)
    try:
        return cast("AttestedSocket", context.wrap_socket(connected, server_hostname=host))
    except OSError as e:  # ssl.SSLError and TimeoutError are
        connected.close()
        reason = getattr(e, "reason", None) or reason_of(e)
        raise AttestedTlsError(f"TLS with {address} failed: {reason}") from e


def exchange(
    connected: AttestedSocket, request: bytes, *, deadline: float, max_body: int
) -> Response:
    """Send one HTTP request over a proven connection, and return the response. On any system.

    Args:
        connected: to be used for nothing else.
        request: as it goes over the wire.
        deadline: moment of `time.monotonic` by which all must be done.
        max_body: bytes of the response's body, at most.

    Raises:
        HttpError: there is no response; see its subclasses.
    """
    reader = ResponseReader(max_body)
    stage: Stage = "send"
    try:
        while request:
            connected.settimeout(_left(deadline))
            request = request[connected.send(request) :]
        stage = "response"
        complete = False
        while not complete:
            connected.settimeout(_left(deadline))
            if data := connected.recv(_PIECE):
                complete = reader.receive(data)
            else:
                reader.end()
                complete = True
    except TimeoutError:
        raise HttpTimeoutError(stage) from None
    except OSError as e:
        raise ConnectionLostError(reason_of(e)) from e
    response = reader.response
    assert response is not None  # noqa: S101 (for mypy: it is complete)
    return response


_PIECE = 65_536


def _left(deadline: float) -> float:
    """Return the seconds to a deadline.

    Raises:
        TimeoutError: it has passed.
    """
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError
    return left
