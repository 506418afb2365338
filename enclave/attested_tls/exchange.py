"""The relying party's request for a document, and the check of the response. No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enclave.attestation.document import MAX_DOCUMENT, AttestationDocument, parse
from enclave.attestation.simulated import simulator_hint
from enclave.attestation.verify import (
    AWS_ROOT_FINGERPRINT,
    alternatives,
    check_pcrs,
    names_image,
    verify,
)
from enclave.attested_tls.binding import PATH, expected_user_data
from enclave.errors import AttestationError, AttestedTlsError, ConfigurationError
from enclave.http.errors import HttpError
from enclave.http.request import RequestWriter
from enclave.http.response import ResponseReader

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

NONCE_BYTES: Final = 32
MAX_AGE: Final = timedelta(minutes=5)
"""Of a document. The nonce proves that it is new; this notices a clock that is wrong."""


_HINTS: Final = {
    404: "does `enclave-agent serve --ingress-tls` end TLS there, or the program itself?",
    429: "retry in a second: the enclave limits documents per second",
    503: "the NSM of the enclave gives no document: see its log",
}


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the other end must be.

    Attributes:
        pcrs: as `enclave.verify` takes them; of an enclave those of one image.
        platform: ``enclave``, ``sandbox`` or ``instance``.
        allow_debug: whether an enclave in debug mode will do.
        root_fingerprint: SHA-256 of the root's DER.

    Raises:
        ConfigurationError: the PCRs name no image: any image of anybody's would pass; or one has a
            value that no PCR can have, such as hex in place of bytes.
    """

    pcrs: Mapping[int, bytes | Collection[bytes]] = field(repr=False)
    platform: str = "enclave"
    allow_debug: bool = False
    root_fingerprint: bytes = field(default=AWS_ROOT_FINGERPRINT, repr=False)

    def __post_init__(self) -> None:
        if not self.pcrs:
            raise ConfigurationError(
                "no PCR: every enclave, of everybody, would be accepted",
                hint="give PCR0 of the image: pcrs={0: ...}, --pcr0 HEX",
            )
        expected = {index: alternatives(value) for index, value in self.pcrs.items()}
        check_pcrs(expected, self.platform)
        if self.platform == "enclave" and not names_image(expected):
            raise ConfigurationError(
                "these PCRs name no image: whoever runs the parent could run another one",
                hint="add PCR0 of the image: pcrs={0: ...}, --pcr0 HEX",
            )
        object.__setattr__(self, "pcrs", MappingProxyType(dict(self.pcrs)))


class DocumentExchange:
    """One request for a document, and its response.

    Args:
        host: for the Host header; None for none that is known.
        nonce: `NONCE_BYTES` random bytes, for this exchange alone.

    Attributes:
        request: to be sent.
    """

    def __init__(self, host: str | None, nonce: bytes) -> None:
        writer = RequestWriter("GET", _host_header(host), f"{PATH}?nonce={nonce.hex()}")
        self.request = writer.write({})
        self._nonce = nonce
        self._reader = ResponseReader(MAX_DOCUMENT)

    def receive(self, data: bytes) -> bool:
        """Take what came next; return whether the response is complete.

        Raises:
            AttestedTlsError: it is not a response, or too long.
        """
        try:
            if data:
                return self._reader.receive(data)
            self._reader.end()
        except HttpError as e:
            raise AttestedTlsError(f"the server gave no attestation document: {e}") from e
        return True

    def check(
        self,
        certificate: bytes | None,
        finished: bytes | None,
        expectation: Expectation,
        *,
        at: datetime,
    ) -> AttestationDocument:
        """Return the document if it proves the other end of this connection.

        Args:
            certificate: the server's, DER, of this connection.
            finished: the client's Finished message of this connection.
            expectation: what the other end must be.
            at: the present, aware.

        Raises:
            AttestedTlsError: there is no document, or the connection cannot be used after it.
            AttestationError: the document proves something else.
            DecodingError: what the server sent is not a document.
        """
        response = self._reader.response
        if response is None or response.status != 200:
            status = "none" if response is None else response.status
            hint = _HINTS.get(response.status, "") if response is not None else ""
            raise AttestedTlsError(
                f"the server gave no attestation document: HTTP status {status}", hint=hint
            )
        if not self._reader.may_reuse:
            raise AttestedTlsError(
                "the server closes the connection after the document, or sent more than it",
                hint="the request must go over the connection that was proven",
            )
        public_key = public_key_of(certificate)
        document = parse(response.body)
        try:
            return verify(
                document,
                at=at,
                max_age=MAX_AGE,
                pcrs=expectation.pcrs,
                platform=expectation.platform,
                nonce=self._nonce,
                user_data=expected_user_data(document.user_data, public_key, finished),
                allow_debug=expectation.allow_debug,
                root_fingerprint=expectation.root_fingerprint,
            )
        except AttestationError as e:
            if any(failure.startswith("user_data") for failure in e.failures):
                e.hint = (
                    "the document is not for the key and session of this connection: "
                    "something other than the enclave ends TLS"
                )
            elif expectation.root_fingerprint == AWS_ROOT_FINGERPRINT:
                e.hint = simulator_hint(document) or e.hint
            raise


def public_key_of(certificate: bytes | None) -> bytes:
    """Return the SubjectPublicKeyInfo of a certificate, DER.

    Raises:
        AttestedTlsError: there is none that can be read.
    """
    try:
        key: Any = x509.load_der_x509_certificate(certificate or b"").public_key()
        encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except Exception as e:  # the library documents no list of what it raises
        raise AttestedTlsError("the server's certificate cannot be read") from e
    return encoded


def _host_header(host: str | None) -> str:
    if not host:
        return "enclave"
    try:
        host = host.encode("ascii").decode("ascii")
    except UnicodeEncodeError:
        return "enclave"
    return f"[{host}]" if ":" in host else host
