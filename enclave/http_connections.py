"""HTTP connections that leave through a dialer, and sockets whose every wait ends in time.

urllib3 speaks HTTP; what is added here serves KMS over TLS and the parent's services alike.
"""

from __future__ import annotations

import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

from urllib3.connection import HTTPConnection, HTTPSConnection

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse

    from vsock_proxy.net.addresses import Address
    from vsock_proxy.net.dialing import Dialer

_PIECE = 65_536


class DeadlineSocket(socket.socket):
    """A socket whose timeout bounds everything until the next `settimeout`.

    The plain one starts its timeout anew at each byte, so that a peer who sends one byte a
    second is never late. urllib3 sets the timeout once before sending and once before reading.
    """

    _ends: float | None = None

    def settimeout(self, value: float | None) -> None:
        """Bound all that follows, together, to `value` seconds from now."""
        self._ends = None if value is None else time.monotonic() + value
        super().settimeout(value)

    def _count_down(self) -> None:
        if self._ends is not None:
            left = self._ends - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            super().settimeout(left)

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        """See `socket.socket.recv_into`."""
        self._count_down()
        return super().recv_into(*args, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> int:
        """See `socket.socket.send`."""
        self._count_down()
        return super().send(*args, **kwargs)


class DeadlineTlsSocket(DeadlineSocket, ssl.SSLSocket):
    """The same over TLS: for `ssl.SSLContext.sslsocket_class`."""


class _Dialed(HTTPConnection):
    """urllib3's connection, on a socket of the dialer's."""

    def __init__(self, *args: Any, dialer: Dialer, address: Address, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._dialer = dialer
        self.address = address

    def _new_conn(self) -> socket.socket:
        timeout = self.timeout
        if not isinstance(timeout, (int, float)):
            raise TypeError("a connection without a deadline")  # its users always set one
        started = time.monotonic()
        dialed = DeadlineSocket(fileno=self._dialer.dial(self.address, timeout).detach())
        # What comes next, TLS or the request, gets what is left, not a second timeout.
        dialed.settimeout(max(timeout - (time.monotonic() - started), 0.001))
        return dialed


class DialedHTTPConnection(_Dialed):
    """Plain HTTP, for what the parent itself serves. Nothing in it is secret from the parent."""


class DialedHTTPSConnection(_Dialed, HTTPSConnection):
    """HTTPS; its context's sockets are `DeadlineTlsSocket`."""


def read_body(response: BaseHTTPResponse, limit: int) -> bytes:
    """Read the body to its end, or a little over `limit` bytes of a longer one.

    To the end: only the read that finds nothing tells a body cut short.
    """
    received = bytearray()
    while len(received) <= limit and (more := response.read(_PIECE)):
        received += more
    return bytes(received)


def innermost_text(error: BaseException) -> str:
    """What went wrong at the bottom: urllib3 wraps errors in errors."""
    while error.args and isinstance(error.args[-1], BaseException):
        error = error.args[-1]
    return str(error)
