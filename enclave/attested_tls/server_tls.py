"""The server's end of one TLS connection, from bytes to bytes. No I/O."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from enclave.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Callable

_RECORD: Final = 16_384
"""Bytes in a TLS record, at most (RFC 8446, section 5.1)."""


class ServerTlsError(AgentError):
    """What the client sent is not TLS 1.3, was altered, or ends without TLS's own end."""

    default_hint = "clients need TLS 1.3"


class ServerTls:
    """One TLS connection. TLS half-closes as TCP does: each side ends its own direction.

    Args:
        context: of `identity.server_context`.

    Attributes:
        established: whether the handshake is done.
        ended: whether the client has ended its direction, in TLS.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self.established = self.ended = False
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    @property
    def finished(self) -> bytes:
        """The client's Finished message; empty before the handshake is done."""
        return self._tls.get_channel_binding("tls-unique") or b"" if self.established else b""

    def receive(self, data: bytes | memoryview) -> bytes:
        """Take what came; return what it says.

        Raises:
            ServerTlsError: see there; `outgoing` may have an alert.
        """
        if self.ended:
            return b""  # TLS takes no more, and would keep it
        self._incoming.write(data)
        if not self.established and not self._handshake():
            return b""
        parts = []
        while part := self._checked(lambda: self._tls.read(_RECORD)):
            parts.append(part)
        return b"".join(parts)

    def end_of_stream(self) -> None:
        """Take the end of the stream beneath.

        Raises:
            ServerTlsError: the client had not ended its direction in TLS: what it sent may have
                been cut off on the way.
        """
        if not self.ended:
            raise ServerTlsError("the connection ended without TLS's own end")

    def send(self, data: bytes | memoryview) -> None:
        """Encrypt; `outgoing` has it then."""
        if data:
            self._tls.write(data)

    def end(self) -> None:
        """End our direction. What the client still sends is received."""
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            return  # it waits for the client's end, which is not its business

    def outgoing(self) -> bytes:
        """Return what is to be sent to the client, once."""
        return self._outgoing.read()

    def _handshake(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as e:
            raise _error(e) from e
        self.established = True
        return True

    def _checked(self, read: Callable[[], bytes]) -> bytes:
        try:
            data = read()
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLZeroReturnError:
            data = b""
        except ssl.SSLError as e:
            raise _error(e) from e
        if not data:
            # Never the end of the stream beneath, of which it is not told: Python 3.11.2 reports
            # that one in the same way.
            self.ended = True
        return data


def _error(error: ssl.SSLError) -> ServerTlsError:
    return ServerTlsError("TLS: " + (error.reason or "unknown error").lower().replace("_", " "))
