"""Signing identities for enclave images."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOT_BEFORE, NOT_AFTER = (
    datetime(2026, 1, 5, 7, 8, 9, tzinfo=UTC),
    datetime(2999, 11, 30, tzinfo=UTC),  # Commands look at the real clock.
)
WITHIN = datetime(2026, 6, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Identity:
    """A signer's certificate and key."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def make_identity(curve: ec.EllipticCurve) -> Identity:
    key = ec.generate_private_key(curve)
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, 'A "B" \\ Ü'),
            x509.NameAttribute(NameOID.COMMON_NAME, "signer"),
        ]
    )
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, NOT_BEFORE, NOT_AFTER)
    return Identity(key, builder.sign(key, hashes.SHA256()))


@pytest.fixture(scope="session")
def identity() -> Identity:
    return make_identity(ec.SECP384R1())
