"""Bytes over a connected socket, plain or TLS; each wait ends at a deadline (docs/adr/0004).

A deadline is a moment of `time.monotonic`.
"""

from __future__ import annotations

import contextlib
import math
import select
import ssl
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from enclave.http.errors import ConnectionLostError, TlsError

if TYPE_CHECKING:
    import socket

_PIECE = 65_536
_RECORD = 16_384
"""Bytes in a TLS record, at most (RFC 8446, section 5.1): one read takes a whole one."""


class Stream(Protocol):
    """Bytes in both directions. For one thread at a time."""

    def send(self, data: bytes, deadline: float) -> None:
        """Send all of `data`.

        Raises:
            TimeoutError: the deadline passed.
            ConnectionLostError: the connection broke.
        """
        ...

    def receive(self, deadline: float) -> bytes:
        """Return the next bytes; ``b""`` at the end of the stream.

        Raises:
            TimeoutError: the deadline passed.
            ConnectionLostError: the connection broke, or ended without TLS's own end.
            TlsError: what came is not TLS, was altered, or is an alert.
        """
        ...

    def receive_now(self) -> bytes | None:
        """Return the next bytes that are there, as `receive`; None if there are none yet.

        Raises:
            ConnectionLostError: as `receive`; also if a TLS message of ours cannot be sent now.
            TlsError: as `receive`.
        """
        ...

    def fileno(self) -> int:
        """Return the socket's file descriptor, to wait for what can be received."""
        ...

    def is_quiet(self) -> bool:
        """Return whether the connection is open and nothing at all is left to read."""
        ...

    def close(self) -> None:
        """Close the socket."""
        ...


class PlainStream:
    """A socket without TLS, for what the parent itself serves. It owns the socket."""

    def __init__(self, connected: socket.socket) -> None:
        connected.settimeout(0)
        self._socket = connected
        self._readable = select.poll()
        self._readable.register(connected, select.POLLIN)

    def send(self, data: bytes, deadline: float) -> None:
        """See `Stream.send`."""
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as e:
            raise _lost(e) from e
        if sent < len(data):
            self._send_rest(memoryview(data)[sent:], deadline)

    def _send_rest(self, rest: memoryview, deadline: float) -> None:
        writable = select.poll()
        writable.register(self._socket, select.POLLOUT)
        while rest:
            _wait(writable, deadline)
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                continue
            except OSError as e:
                raise _lost(e) from e

    def receive(self, deadline: float) -> bytes:
        """See `Stream.receive`."""
        while True:
            _wait(self._readable, deadline)
            try:
                return self._socket.recv(_PIECE)
            except BlockingIOError:
                continue
            except OSError as e:
                raise _lost(e) from e

    def receive_now(self) -> bytes | None:
        """See `Stream.receive_now`."""
        try:
            return self._socket.recv(_PIECE)
        except BlockingIOError:
            return None
        except OSError as e:
            raise _lost(e) from e

    def fileno(self) -> int:
        """See `Stream.fileno`."""
        return self._socket.fileno()

    def is_quiet(self) -> bool:
        """See `Stream.is_quiet`."""
        # The end of the stream and errors are "readable" as well.
        return self._socket.fileno() != -1 and not self._readable.poll(0)

    def close(self) -> None:
        """See `Stream.close`."""
        self._socket.close()


_CUT_OFF = "the connection ended without TLS's own end"


class TlsStream:
    """TLS over a `PlainStream`, which it owns.

    `ssl.SSLObject` does TLS in memory, so that one `recv` takes all that has come, and what is
    left over, decrypted or not, can be seen.
    """

    def __init__(self, plain: PlainStream, context: ssl.SSLContext, host: str) -> None:
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        # Of a text, ssl makes IDNA's form, with tables of a MiB that no host of AWS's needs.
        name = host.encode() if host.isascii() else host
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._ended = False  # by the server, in TLS

    def handshake(self, deadline: float) -> None:
        """Do the TLS handshake, and check the server's certificate.

        Raises:
            TimeoutError: the deadline passed.
            ConnectionLostError: the connection broke.
            TlsError: TLS failed, or the certificate is not the server's.
        """
        done = False
        while not done:
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as e:
                raise ConnectionLostError("the connection ended in the TLS handshake") from e
            except ssl.SSLError as e:
                self._flush_if_possible()  # the alert for the server
                raise _tls_error(e) from e
            self._flush(deadline)
            if not done:
                self._fill(deadline)

    @property
    def version(self) -> str | None:
        """The TLS version."""
        return self._tls.version()

    def root(self) -> bytes | None:
        """Return the trusted certificate that the server's chains to, in DER.

        None if this Python does not have it: `ssl` has it since 3.13, and the object below before.
        """
        tls: Any = self._tls
        if hasattr(tls, "get_verified_chain"):
            chain = tls.get_verified_chain()
            return bytes(chain[-1]) if chain else None
        inner: Any = getattr(tls, "_sslobj", None)
        if not hasattr(inner, "get_verified_chain"):
            return None
        chain = inner.get_verified_chain()
        return ssl.PEM_cert_to_DER_cert(chain[-1].public_bytes()) if chain else None

    def send(self, data: bytes, deadline: float) -> None:
        """See `Stream.send`."""
        try:
            self._tls.write(data)
        except ssl.SSLError as e:
            raise _tls_error(e) from e
        self._flush(deadline)

    def receive(self, deadline: float) -> bytes:
        """See `Stream.receive`."""
        if not self._incoming.pending:
            self._fill(deadline)
        while (data := self._read()) is None:
            if self._outgoing.pending:  # a key update wants a response
                self._flush(deadline)
            self._fill(deadline)
        return data

    def receive_now(self) -> bytes | None:
        """See `Stream.receive_now`."""
        received = self._plain.receive_now()
        if received is not None:
            self._take(received)
        data = self._read()
        if data is None and self._outgoing.pending:
            try:
                self._flush(monotonic())
            except TimeoutError:
                raise ConnectionLostError("the server does not read") from None
        return data

    def _read(self) -> bytes | None:
        """Return what has been received, decrypted; None if that takes more bytes."""
        try:
            return self._checked(self._tls.read(_RECORD))
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLZeroReturnError:
            return self._checked(b"")
        except ssl.SSLEOFError as e:
            raise ConnectionLostError(_CUT_OFF) from e
        except ssl.SSLError as e:
            raise _tls_error(e) from e

    def fileno(self) -> int:
        """See `Stream.fileno`."""
        return self._plain.fileno()

    def _checked(self, data: bytes) -> bytes:
        """Return what was read, unless it is an end that is not the server's.

        Python 3.11.2, Debian 12's, reports a connection that was cut off as it reports TLS's own
        end. That one is read before the end of the connection is.

        Raises:
            ConnectionLostError: it is the end of the connection alone.
        """
        if not data:
            self._ended = self._ended or not self._incoming.eof
            if not self._ended:
                raise ConnectionLostError(_CUT_OFF)
        return data

    def is_quiet(self) -> bool:
        """See `Stream.is_quiet`. A TLS message without data counts as well, which is rare."""
        return not self._incoming.pending and not self._tls.pending() and self._plain.is_quiet()

    def close(self) -> None:
        """See `Stream.close`."""
        self._plain.close()

    def _fill(self, deadline: float) -> None:
        self._take(self._plain.receive(deadline))

    def _take(self, received: bytes) -> None:
        if received:
            self._incoming.write(received)
        else:
            self._incoming.write_eof()

    def _flush(self, deadline: float) -> None:
        if self._outgoing.pending:
            self._plain.send(self._outgoing.read(), deadline)

    def _flush_if_possible(self) -> None:
        with contextlib.suppress(TimeoutError, ConnectionLostError):
            self._flush(monotonic())


def _wait(poll: select.poll, deadline: float) -> None:
    """Wait until a socket is ready.

    Raises:
        TimeoutError: it is not by the deadline.
    """
    while True:
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        if poll.poll(math.ceil(left * 1000)):
            return


def _lost(error: OSError) -> ConnectionLostError:
    return ConnectionLostError(error.strerror or "the connection is closed")


def _tls_error(error: ssl.SSLError) -> TlsError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return TlsError(error.verify_message, unverified=True)
    return TlsError((error.reason or "unknown error").lower().replace("_", " "))
