"""What precedes the relayed bytes on a connected server: the request for a port or a host."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Protocol

from vsock_proxy.net import http_connect, hybrid
from vsock_proxy.net.addresses import HybridAddress, TunnelAddress

if TYPE_CHECKING:
    from vsock_proxy.net.resolving import SocketName
    from vsock_proxy.net.sockets import Stream


class Handshake(Protocol):
    """A request, and its response."""

    @property
    def rest(self) -> bytes:
        """What came after the response, with its end: the first bytes of the stream."""
        ...

    def advance(self, server: Stream) -> None:
        """Send and read what is possible.

        Raises:
            BlockingIOError: the response is incomplete; call again once there is more.
            OSError: there will be no connection.
        """
        ...


def handshake_for(name: SocketName) -> Handshake | None:
    """Return what an address wants first; None if it is a plain one."""
    match name:
        case HybridAddress(_, port):
            return _HybridHandshake(port)
        case TunnelAddress(_, host, port):
            return _TunnelHandshake(host, port)
        case _:
            return None


class _Request:
    """Bytes to send; a new connection has room for so few."""

    def __init__(self, data: bytes) -> None:
        self._left = data

    def send(self, server: Stream) -> None:
        """Send what is left; raises BlockingIOError then, as there is no response yet."""
        if self._left:
            self._left = self._left[server.send(self._left, socket.MSG_NOSIGNAL) :]
            raise BlockingIOError


class _HybridHandshake:
    def __init__(self, port: int) -> None:
        self.rest = b""
        self._request = _Request(hybrid.request(port))
        self._response = hybrid.Response()

    def advance(self, server: Stream) -> None:
        self._request.send(server)
        self._response.read(server.recv)


class _TunnelHandshake:
    def __init__(self, host: str, port: int) -> None:
        self._request = _Request(http_connect.request(host, port))
        self._reader = http_connect.HeadReader()

    @property
    def rest(self) -> bytes:
        return self._reader.rest

    def advance(self, server: Stream) -> None:
        self._request.send(server)
        try:
            head = self._reader.read(server)
        except http_connect.RequestError as e:
            raise http_connect.TunnelRefusedError(0, e.reason) from e
        http_connect.check_response(head)
