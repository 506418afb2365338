"""An `ssl.SSLContext` whose handshake ends with a proven server, or with an error.

Whatever takes a context gets attested TLS: `http.client`, `urllib`, urllib3, httpx, asyncio. No
byte of the caller's is sent before the proof, since none is sent before the handshake is done.
"""

from __future__ import annotations

import contextlib
import os
import select
import ssl
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, cast

from enclave.attestation.verify import AWS_ROOT_FINGERPRINT
from enclave.attested_tls.exchange import NONCE_BYTES, DocumentExchange, Expectation
from enclave.cut_off import cut_off, report_cut_offs
from enclave.errors import AttestedTlsError, ConfigurationError
from vsock_proxy.net.sockets import wait_ready

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Self

    from enclave.attestation.document import AttestationDocument

TIMEOUT: Final = 10.0
"""Seconds for the document, on a blocking socket."""

_CLOSE_TIMEOUT: Final = 2.0
"""Seconds until TLS's own end can be sent."""

_PIECE: Final = 16_384


class _Proof:
    """The exchange on one connection: as many steps as the connection's I/O needs."""

    def __init__(
        self,
        tls: AttestedSocket | AttestedObject,
        read: Callable[[int], bytes],
        write: Callable[[bytes], int],
    ) -> None:
        """Take the connection, and its methods that need no proof."""
        self._tls = tls
        self._read, self._write = read, write
        self._exchange = DocumentExchange(tls.server_hostname, os.urandom(NONCE_BYTES))
        self._unsent = self._exchange.request
        self._complete = False

    def step(self) -> bool:
        """Send or receive once; return whether the response is complete.

        Raises:
            ssl.SSLWantReadError: nothing has come yet.
            AttestedTlsError: it is not a response.
        """
        if self._unsent:
            self._unsent = self._unsent[self._write(self._unsent) :]
        elif not self._complete:
            try:
                data = self._read(_PIECE)
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                data = b""
            self._complete = self._exchange.receive(data)
        return self._complete

    def check(self, context: AttestedContext) -> AttestationDocument:
        """Return the document; see `DocumentExchange.check`."""
        if self._tls.version() != "TLSv1.3" or self._tls.session_reused:
            raise AttestedTlsError("the handshake did not prove the server's key")
        if self._tls.pending():
            raise AttestedTlsError("the server sent more than the document")
        return self._exchange.check(
            self._tls.getpeercert(binary_form=True),
            self._tls.get_channel_binding("tls-unique"),
            context.expectation,
            at=context.now(),
        )


class AttestedSocket(ssl.SSLSocket):
    """A TLS connection over a socket.

    Attributes:
        document: the attestation document that proves the server; None before the handshake is
            done.
    """

    document: AttestationDocument | None = None
    _proof: _Proof | None = None

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 (ssl's signature)
        """Do the TLS handshake and have the server proven; see `ssl.SSLSocket.do_handshake`.

        Raises:
            AttestedTlsError: the server gives no attestation document, or not in time.
            AttestationError: the document proves something else.
            DecodingError: what it gives is not a document.
            OSError: as in `ssl.SSLSocket`.
        """
        try:
            self._prove(block)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise  # a non-blocking socket: to be called again
        except BaseException:
            self.close()
            raise

    def _prove(self, block: bool) -> None:  # noqa: FBT001 (as above)
        if self.document is not None:
            return
        if self._proof is None:
            super().do_handshake(block)
            self._proof = _Proof(self, super().read, super().write)
        context = cast("AttestedContext", self.context)
        timeout = self.gettimeout()
        if timeout == 0.0:
            while not self._proof.step():
                pass
        else:
            try:
                self._exchange(self._proof, timeout, monotonic() + context.timeout)
            finally:
                self.settimeout(timeout)
        self.document = self._proof.check(context)

    def _real_close(self) -> None:
        # Python's HTTP clients close the socket without TLS's own end, which the enclave's side
        # takes for a connection that was cut off. The server's end is not waited for.
        if self.document is not None:
            with contextlib.suppress(OSError, ValueError):
                self.settimeout(0)
                self._end()
        super()._real_close()  # type: ignore[misc] # not in typeshed

    def _end(self) -> None:
        try:
            self.unwrap()
        except ssl.SSLWantWriteError:
            # What was sent before is still on its way.
            wait_ready(self.fileno(), select.POLLOUT, _CLOSE_TIMEOUT)
            self.unwrap()

    def _exchange(self, proof: _Proof, timeout: float | None, deadline: float) -> None:
        """Take all steps; whatever the server sends, it has no longer than the deadline."""
        while (left := deadline - monotonic()) > 0:
            self.settimeout(left if timeout is None else min(timeout, left))
            try:
                if proof.step():
                    return
            except TimeoutError:
                break
        raise AttestedTlsError("timeout: the server gave no attestation document")

    def read(self, *args: Any) -> Any:
        """See `ssl.SSLSocket.read`; `recv` and `recv_into` come here as well."""
        _require(self.document)
        try:
            return super().read(*args)
        except ssl.SSLZeroReturnError:
            # TLS's own end, after ours: only then is it an error to `ssl`.
            return b"" if len(args) < 2 or args[1] is None else 0
        except ssl.SSLWantReadError:
            raise
        except ssl.SSLError as e:
            raise cut_off(e) from None

    def write(self, data: Any) -> int:
        """See `ssl.SSLSocket.write`."""
        _require(self.document)
        return super().write(data)

    def send(self, data: Any, flags: int = 0) -> int:
        """See `ssl.SSLSocket.send`; `sendall` and `sendfile` come here as well."""
        _require(self.document)
        return super().send(data, flags)


class AttestedObject(ssl.SSLObject):
    """A TLS connection in memory, for asyncio and others.

    Attributes:
        document: as in `AttestedSocket`.
    """

    document: AttestationDocument | None = None
    _proof: _Proof | None = None

    def do_handshake(self) -> None:
        """Do the TLS handshake and have the server proven; see `ssl.SSLObject.do_handshake`.

        Raises:
            AttestedTlsError: the server gives no attestation document.
            AttestationError: the document proves something else.
            DecodingError: what it gives is not a document.
            ssl.SSLError: as in `ssl.SSLObject`.
        """
        if self.document is not None:
            return
        if self._proof is None:
            super().do_handshake()
            self._proof = _Proof(self, super().read, super().write)
        while not self._proof.step():
            pass
        self.document = self._proof.check(cast("AttestedContext", self.context))

    def read(self, *args: Any) -> Any:
        """See `ssl.SSLObject.read`."""
        _require(self.document)
        try:
            return super().read(*args)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            raise
        except ssl.SSLError as e:
            raise cut_off(e) from None

    def write(self, data: Any) -> int:
        """See `ssl.SSLObject.write`."""
        _require(self.document)
        return super().write(data)


def _require(document: AttestationDocument | None) -> None:
    """Check that the server is proven: OpenSSL would do a handshake of its own on first use.

    Raises:
        AttestedTlsError: it is not.
    """
    if document is None:
        raise AttestedTlsError(
            "the server of this connection is not proven", hint="do_handshake must have succeeded"
        )


class AttestedContext(ssl.SSLContext):
    """TLS 1.3 to one enclave image: an `ssl.SSLContext` for clients of any kind.

    Certificates and names are not looked at: the attestation document vouches for the key of each
    connection. Raises `AttestedTlsError` or `AttestationError` from the handshake.

    Args:
        pcrs: what PCRs must be, by index; several values for one PCR mean one of these. Of an
            enclave PCR0 (or PCR8, the signer; or PCR1 and PCR2), which names the image.
        platform: ``enclave``; ``sandbox``, a Nitro Sandbox, with PCR17; or ``instance``, an EC2
            instance with a NitroTPM.
        allow_debug: accept an enclave in debug mode, which keeps no secrets.
        root_fingerprint: SHA-256 of the root to trust in place of AWS's: a simulator's.
        timeout: seconds for the document, on a blocking socket.
        now: returns the time, for tests.

    Raises:
        ConfigurationError: no PCR names an image.
    """

    sslsocket_class = AttestedSocket
    sslobject_class = AttestedObject

    def __new__(cls, *_args: Any, **_options: Any) -> Self:
        """Make a client's context."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(
        self,
        *,
        pcrs: Mapping[int, bytes | Collection[bytes]],
        platform: str = "enclave",
        allow_debug: bool = False,
        root_fingerprint: bytes = AWS_ROOT_FINGERPRINT,
        timeout: float = TIMEOUT,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.expectation = Expectation(pcrs, platform, allow_debug, root_fingerprint)
        self.timeout = timeout
        self.now = now
        self.check_hostname = False
        self.verify_mode = ssl.CERT_NONE
        self.minimum_version = ssl.TLSVersion.TLSv1_3
        self.options |= ssl.OP_NO_TICKET
        report_cut_offs(self)
        super().set_alpn_protocols(["http/1.1"])

    def wrap_socket(self, *args: Any, **options: Any) -> Any:
        """See `ssl.SSLContext.wrap_socket`. Sessions are not resumed.

        Unless the caller wants otherwise, a connection that ends without TLS's own end is an
        error, `ssl.SSLEOFError`: whoever carries the bytes can end any connection.
        """
        _check_options(options)
        options.setdefault("suppress_ragged_eofs", False)
        return super().wrap_socket(*args, **options)

    def wrap_bio(self, *args: Any, **options: Any) -> Any:
        """See `ssl.SSLContext.wrap_bio`. Sessions are not resumed."""
        _check_options(options)
        return super().wrap_bio(*args, **options)

    def set_alpn_protocols(self, alpn_protocols: Any) -> None:
        """Change nothing: the document is requested in HTTP/1.1, whatever a library prefers."""


def _check_options(options: dict[str, Any]) -> None:
    if options.get("server_side") or options.get("session") is not None:
        raise ConfigurationError(
            "a context for clients that want each connection proven anew",
            hint="leave out server_side and session",
        )
