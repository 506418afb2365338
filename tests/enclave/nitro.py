"""Documents made as Nitro makes them, with one thing wrong at a time, for tests of the verifier.

Encoded with the libraries, not with the code under test.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)
LEAF = 4
"""The leaf's place in a chain: root, three intermediates, leaf."""


@cache
def key(index: int) -> ec.EllipticCurvePrivateKey:
    """Return the chain's key at `index`, the same one throughout a run."""
    return ec.generate_private_key(ec.SECP384R1())


@dataclass(frozen=True)
class Certificate:
    """What differs between the chain's certificates; None leaves an extension out."""

    key: ec.EllipticCurvePrivateKey
    issuer: str
    issuer_key: ec.EllipticCurvePrivateKey
    subject: str
    ca: bool | None = True
    ca_critical: bool = True
    path_length: int | None = None
    key_cert_sign: bool | None = True
    digital_signature: bool = False
    not_before: datetime = NOW - timedelta(hours=1)
    not_after: datetime = NOW + timedelta(hours=2)
    extra: x509.UnrecognizedExtension | None = None
    extra_critical: bool = True

    def der(self) -> bytes:
        """Sign it."""
        builder = (
            x509.CertificateBuilder()
            .serial_number(x509.random_serial_number())
            .subject_name(_name(self.subject))
            .issuer_name(_name(self.issuer))
            .public_key(self.key.public_key())
            .not_valid_before(self.not_before)
            .not_valid_after(self.not_after)
        )
        if self.ca is not None:
            builder = builder.add_extension(
                x509.BasicConstraints(self.ca, self.path_length), critical=self.ca_critical
            )
        if self.key_cert_sign is not None:
            usage = x509.KeyUsage(
                digital_signature=self.digital_signature,
                key_cert_sign=self.key_cert_sign,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            )
            builder = builder.add_extension(usage, critical=True)
        if self.extra is not None:
            builder = builder.add_extension(self.extra, critical=self.extra_critical)
        return builder.sign(self.issuer_key, hashes.SHA384()).public_bytes(Encoding.DER)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def chain(changes: Mapping[int, Mapping[str, Any]] | None = None) -> list[bytes]:
    """Make a chain, the root first, the leaf last, with `changes` by place."""
    made = []
    for place in range(LEAF + 1):
        standard: dict[str, Any] = {
            "key": key(place),
            "subject": f"ca{place}",
            "issuer": f"ca{max(place - 1, 0)}",
            "issuer_key": key(max(place - 1, 0)),
            # Root: no limit; then 2, 1, 0, as AWS's chain has it.
            "path_length": None if place in (0, LEAF) else 3 - place,
        }
        if place == LEAF:
            standard |= {"ca": False, "key_cert_sign": False, "digital_signature": True}
        made.append(Certificate(**(standard | dict((changes or {}).get(place, {})))).der())
    return made


@dataclass
class Document:
    """A document: its payload, and what it is wrapped in."""

    certificates: list[bytes] = field(default_factory=chain)
    payload: dict[str, Any] = field(default_factory=dict)
    protected: bytes = bytes.fromhex("a1013822")
    signer: ec.EllipticCurvePrivateKey = field(default_factory=lambda: key(LEAF))

    def __post_init__(self) -> None:
        self.payload = {
            "module_id": "i-0123456789abcdef0-enc0123456789abcdef",
            "digest": "SHA384",
            "timestamp": int(NOW.timestamp() * 1000),
            "pcrs": {index: bytes([index]) * 48 for index in range(16)},
            "certificate": self.certificates[-1],
            "cabundle": self.certificates[:-1],
            "public_key": None,
            "user_data": None,
            "nonce": None,
        } | self.payload

    @property
    def root_fingerprint(self) -> bytes:
        """SHA-256 of the root's DER."""
        return sha256(self.certificates[0]).digest()

    @classmethod
    def of_an_instance(cls, **payload: Any) -> Document:
        """Make the document of an EC2 instance's NitroTPM: other PCRs, all 24 of them."""
        made = cls(payload={"module_id": "i-0123456789abcdef0-tpm0000000000000000"} | payload)
        del made.payload["pcrs"]
        pcrs = {index: bytes([index]) * 48 for index in range(24)}
        made.payload = {"nitrotpm_pcrs": pcrs} | made.payload
        return made

    def encode(self) -> bytes:
        """Sign and wrap."""
        payload = cbor2.dumps(self.payload)
        return cbor2.dumps([self.protected, {}, payload, self.sign(payload)])

    def sign(self, payload: bytes) -> bytes:
        """Make the COSE signature: r and s over the Sig_structure of RFC 9052 section 4.4."""
        signed = cbor2.dumps(["Signature1", self.protected, b"", payload])
        r, s = decode_dss_signature(self.signer.sign(signed, ec.ECDSA(hashes.SHA384())))
        size = (self.signer.curve.key_size + 7) // 8
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
