"""The signature section: who signed an image. No I/O.

Source: aws-nitro-enclaves-image-format, ``eif_signer.rs`` and ``eif_reader.rs``. The section is
CBOR, ``[{"signing_certificate": PEM, "signature": COSE_Sign1}]``, in which bytes are written as
arrays of numbers (serde's ``Vec<u8>``). The COSE_Sign1 (RFC 9052, untagged, header protected, no
other) is made over ``{"register_index": 0, "register_value": PCR0}``, encoded the same way.
PCR8 measures the certificate, so a key policy can name who signed instead of what was signed.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cbor2
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from parent.eif.errors import EifError
from parent.eif.measurement import extend
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Algorithm:
    """An ECDSA algorithm of COSE (RFC 9053 section 2.1).

    Attributes:
        name: in COSE.
        protected: the COSE header that says it.
        hash: of the message.
        size: bytes in r, and in s.
        kms: its name in KMS.
    """

    name: str
    protected: bytes
    hash: hashes.HashAlgorithm
    size: int
    kms: str


ALGORITHMS = {
    "secp256r1": Algorithm("ES256", b"\xa1\x01\x26", hashes.SHA256(), 32, "ECDSA_SHA_256"),
    "secp384r1": Algorithm("ES384", b"\xa1\x01\x38\x22", hashes.SHA384(), 48, "ECDSA_SHA_384"),
    "secp521r1": Algorithm("ES512", b"\xa1\x01\x38\x23", hashes.SHA512(), 66, "ECDSA_SHA_512"),
}
"""By the curve of the key; AWS's signer knows no others."""

MAX_SIGNATURE = 32768
"""Bytes in a signature section that the hypervisor takes."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What a signature section says, proven or not.

    Attributes:
        certificate: the signer's; nothing says who issued it.
        protected: the COSE header, as it was signed.
        payload: what was signed.
        signature: r and s.
    """

    certificate: x509.Certificate
    protected: bytes = field(repr=False)
    payload: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    def is_over(self, pcr0: bytes) -> bool:
        """Return whether it was made over an image that measures `pcr0`."""
        return self.payload == _payload(pcr0)

    @property
    def pcr8(self) -> bytes:
        """48 bytes: the measurement of the certificate's DER."""
        return measure_certificate(self.certificate)


def decode(data: bytes, *, offset: int) -> Signature:
    """Read the payload of a signature section.

    The array has room for signatures over other PCRs, but no tool writes or reads them.

    Args:
        data: the payload.
        offset: where it stands in the file.

    Raises:
        EifError: it is something else.
    """
    reader = _Reader(data)
    try:
        reader.expect_one()
        reader.expect_map_of_two("signing_certificate")
        pem = reader.byte_array()
        reader.expect_text("signature")
        cose = _Reader(reader.byte_array())
        reader.expect_end()
        protected, payload, signature = cose.sign1()
    except ValueError as e:
        raise EifError(
            f"the signature section is not what signers write: {e}", offset=offset + reader.at
        ) from None
    try:
        with warnings.catch_warnings():
            # The library would tell the terminal what it thinks of odd but readable ones.
            warnings.simplefilter("ignore")
            certificate = x509.load_pem_x509_certificate(pem)
            # Decoded only when asked for: ask here, where failing has a name.
            _ = certificate.public_key(), certificate.issuer
            _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except Exception as e:  # noqa: BLE001 (what the library raises for bad DER is no fixed list)
        raise EifError(
            f"the signing certificate cannot be read ({type(e).__name__})", offset=offset
        ) from None
    return Signature(certificate, protected, payload, signature)


def failures(signature: Signature, pcr0: bytes, *, at: datetime | None) -> Iterator[str]:
    """Yield each reason why a signature is not valid for an image.

    Whether the signer is trusted is not checked: a key policy decides that, by PCR8.

    Args:
        signature: what the image's section says.
        pcr0: what the image measures, 48 bytes.
        at: the present, aware: when the certificate must be valid; None: not looked at, as
            ``nitro-cli describe-eif`` has it. ``nitro-cli run-enclave`` does look.
    """
    key = signature.certificate.public_key()
    algorithm = (
        ALGORITHMS.get(key.curve.name) if isinstance(key, ec.EllipticCurvePublicKey) else None
    )
    if not isinstance(key, ec.EllipticCurvePublicKey) or algorithm is None:
        yield "the certificate's key is not on P-256, P-384 or P-521"
    elif signature.protected != algorithm.protected:
        yield f"the signature's header is not that of {algorithm.name}, as the key would have it"
    elif not _is_made_by(signature, key, algorithm):
        yield "the signature was not made by the certificate's key"
    if not signature.is_over(pcr0):
        yield "the signature was made over another image: PCR0 differs"
    if at:
        yield from validity(signature.certificate, at)


def validity(certificate: x509.Certificate, at: datetime) -> Iterator[str]:
    """Yield why a certificate is not valid at a time; ``nitro-cli run-enclave`` looks at it.

    Args:
        certificate: the signer's.
        at: aware.
    """
    if at < certificate.not_valid_before_utc:
        yield f"the certificate is not valid before {certificate.not_valid_before_utc:%F %TZ}"
    if at > certificate.not_valid_after_utc:
        yield f"the certificate expired on {certificate.not_valid_after_utc:%F %TZ}"


def load_certificate(pem: bytes) -> x509.Certificate:
    """Read a signing certificate, the first one if there are several.

    Raises:
        ConfigurationError: it is not a certificate in PEM, or its key not on P-256, P-384 or P-521.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            certificate = x509.load_pem_x509_certificate(pem)
            key = certificate.public_key()
    except Exception:  # noqa: BLE001 (what the library raises for bad DER is no fixed list)
        raise ConfigurationError(
            "the signing certificate is not a certificate in PEM",
            hint="openssl x509 -in CERT -out CERT.pem writes one, of DER too",
        ) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in ALGORITHMS:
        raise ConfigurationError("the signing certificate's key is not on P-256, P-384 or P-521")
    return certificate


def measure_certificate(certificate: x509.Certificate) -> bytes:
    """Return PCR8 of an enclave whose image is signed with a certificate: 48 bytes."""
    return extend(certificate.fingerprint(hashes.SHA384()))


def to_be_signed(algorithm: Algorithm, pcr0: bytes) -> bytes:
    """Return what a signature for an image with this PCR0 is made over."""
    return _structure(algorithm.protected, _payload(pcr0))


def encode(certificate: bytes, algorithm: Algorithm, pcr0: bytes, der: bytes) -> bytes:
    """Return the payload of a signature section.

    Args:
        certificate: PEM.
        algorithm: of its key.
        pcr0: what the image measures.
        der: the ECDSA signature over `to_be_signed`.
    """
    signature = b"".join(
        number.to_bytes(algorithm.size, "big") for number in decode_dss_signature(der)
    )
    cose = cbor2.dumps([algorithm.protected, {}, _payload(pcr0), signature])
    return cbor2.dumps([{"signing_certificate": list(certificate), "signature": list(cose)}])


def _payload(pcr0: bytes) -> bytes:
    return cbor2.dumps({"register_index": 0, "register_value": list(pcr0)})


def _structure(protected: bytes, payload: bytes) -> bytes:
    """Return the Sig_structure (RFC 9052 section 4.4)."""
    return cbor2.dumps(["Signature1", protected, b"", payload])


def _is_made_by(signature: Signature, key: ec.EllipticCurvePublicKey, algorithm: Algorithm) -> bool:
    size = algorithm.size
    if len(signature.signature) != 2 * size:
        return False
    r, s = signature.signature[:size], signature.signature[size:]
    der = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    signed = _structure(signature.protected, signature.payload)
    try:
        key.verify(der, signed, ec.ECDSA(algorithm.hash))
    except InvalidSignature:
        return False
    return True


_UNSIGNED, _BYTES, _TEXT, _ARRAY, _MAP = 0, 2, 3, 4, 5
_NAMES = {_UNSIGNED: "a number", _BYTES: "bytes", _TEXT: "text", _ARRAY: "an array", _MAP: "a map"}


class _Reader:
    """The few forms of CBOR (RFC 8949) that a signature section is made of, and no others.

    A full decoder would follow tags into dates, regular expressions and e-mails.
    Raises ValueError, with `at` where it stopped.
    """

    def __init__(self, data: bytes) -> None:
        self.at = 0
        self._data = data

    def head(self, major: int) -> int:
        """Take the head of an item of a type; returns its number, count or length."""
        if self.at == len(self._data):
            raise ValueError("cut short")
        initial = self._data[self.at]
        if initial >> 5 != major:
            raise ValueError(f"no {_NAMES[major].split()[-1]} where it belongs")
        info = initial & 0x1F
        if info < 24:
            self.at += 1
            return info
        if info > 27:
            raise ValueError("an item of indefinite length")
        return int.from_bytes(self._take(1 + (1 << (info - 24)))[1:], "big")

    def byte_string(self) -> bytes:
        return self._take(self.head(_BYTES))

    def byte_array(self) -> bytes:
        """Take an array of numbers, each of them a byte."""
        count = self.head(_ARRAY)
        if count > len(self._data) - self.at:
            raise ValueError("cut short")
        return bytes(self.head(_UNSIGNED) for _ in range(count))

    def expect_one(self) -> None:
        if self.head(_ARRAY) != 1:
            raise ValueError("an array of other than one signature")

    def expect_end(self) -> None:
        if self.at != len(self._data):
            raise ValueError("bytes after the end")

    def expect_text(self, text: str) -> None:
        if self._take(self.head(_TEXT)) != text.encode():
            raise ValueError(f"no {text!r} where it belongs")

    def expect_map_of_two(self, first_key: str) -> None:
        if self.head(_MAP) != 2:
            raise ValueError("a map of other than two entries")
        self.expect_text(first_key)

    def sign1(self) -> tuple[bytes, bytes, bytes]:
        """Take a COSE_Sign1 with an empty unprotected header, to the end of the data."""
        if self.head(_ARRAY) != 4:
            raise ValueError("no COSE_Sign1")
        protected = self.byte_string()
        if self.head(_MAP) != 0:
            raise ValueError("an unprotected header")
        payload, signature = self.byte_string(), self.byte_string()
        self.expect_end()
        return protected, payload, signature

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self.at:
            raise ValueError("cut short")
        taken = self._data[self.at : self.at + size]
        self.at += size
        return taken
