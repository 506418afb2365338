"""A transport for httpx whose connections leave through the egress proxy."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import httpcore
import httpx

from enclave.errors import DialError

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from enclave.network.dialer import EgressDialer


class EgressTransport(httpx.HTTPTransport):
    """For ``httpx.Client(transport=...)``.

    Args:
        dialer: makes the connections.
        verify: as httpx takes it.
        cert: as httpx takes it.
        limits: as httpx takes it.
    """

    def __init__(
        self,
        dialer: EgressDialer,
        *,
        verify: ssl.SSLContext | bool = True,
        cert: Any = None,
        limits: httpx.Limits | None = None,
    ) -> None:
        limits = limits or httpx.Limits(max_connections=100, max_keepalive_connections=20)
        super().__init__(verify=verify, cert=cert, limits=limits)
        # httpx has no argument for httpcore's network backend, which is public there.
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(verify=verify, cert=cert),
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=_Backend(dialer),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """See ``httpx.BaseTransport``."""
        if request.url.scheme != "https":
            raise httpx.UnsupportedProtocol(
                "plain http:// could be read on the parent; use https://", request=request
            )
        return super().handle_request(request)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, dialer: EgressDialer) -> None:
        self._dialer = dialer

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,  # noqa: ARG002 (there is none over vsock)
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002 (as above)
    ) -> httpcore.NetworkStream:
        try:
            return _Stream(self._dialer.connect(host, port, timeout))
        except DialError as e:
            raise httpcore.ConnectError(str(e)) from e


class _Stream(httpcore.NetworkStream):
    """A connected socket as httpcore uses one."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            self._socket.settimeout(timeout)
            return self._socket.recv(max_bytes)
        except TimeoutError as e:
            raise httpcore.ReadTimeout(str(e)) from e
        except OSError as e:
            raise httpcore.ReadError(str(e)) from e

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(buffer)
        except TimeoutError as e:
            raise httpcore.WriteTimeout(str(e)) from e
        except OSError as e:
            raise httpcore.WriteError(str(e)) from e

    def close(self) -> None:
        self._socket.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        try:
            self._socket.settimeout(timeout)
            return _Stream(ssl_context.wrap_socket(self._socket, server_hostname=server_hostname))
        except TimeoutError as e:
            self.close()
            raise httpcore.ConnectTimeout(str(e)) from e
        except OSError as e:
            self.close()
            raise httpcore.ConnectError(str(e)) from e

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self._socket if isinstance(self._socket, ssl.SSLSocket) else None
        if info == "socket":
            return self._socket
        if info == "is_readable":
            return _is_readable(self._socket)
        return None


def _is_readable(connected: socket.socket) -> bool:
    """Return whether an idle connection has something to read, which only its end can be."""
    import select  # noqa: PLC0415 (for pooled connections)

    poll = select.poll()
    poll.register(connected, select.POLLIN)
    return bool(poll.poll(0))
