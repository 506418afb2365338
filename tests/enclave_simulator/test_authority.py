"""The simulated PKI: certificates and documents."""

from __future__ import annotations

import hashlib
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from enclave_simulator.authority import LEAF_LIFETIME, Authority
from enclave_simulator.nsm import MODULE_ID, SimulatedNsm
from tests.enclave_simulator.documents import attest, payload, vector

NOW = datetime(2025, 12, 25, 16, 4, 19, tzinfo=UTC)

# The extensions of the instance certificate grew key identifiers in 2025: compare with the new.
REAL = "attestation/dstack-attest.bin"


def certificates(document: bytes) -> list[x509.Certificate]:
    fields = payload(document)
    return [
        x509.load_der_x509_certificate(der) for der in (*fields["cabundle"], fields["certificate"])
    ]


@pytest.fixture(scope="module")
def chain() -> list[x509.Certificate]:
    leaf = Authority.generate().issue_leaf(MODULE_ID, NOW)
    return [x509.load_der_x509_certificate(der) for der in (*leaf.cabundle, leaf.certificate)]


def test_the_chain_verifies_link_by_link(chain: list[x509.Certificate]) -> None:
    for issuer, issued in itertools.pairwise(chain):
        issued.verify_directly_issued_by(issuer)
    assert len(chain) == 5
    chain[0].verify_directly_issued_by(chain[0])


def shape(certificate: x509.Certificate) -> Any:
    """What must be the same in a real certificate and in ours: all but values and names."""
    extensions: list[Any] = []
    for extension in certificate.extensions:
        value: Any = extension.value
        if isinstance(value, x509.BasicConstraints | x509.KeyUsage):
            extensions.append((extension.oid, extension.critical, value))
        else:
            extensions.append((extension.oid, extension.critical, type(value)))
    hash_algorithm = certificate.signature_hash_algorithm
    public_key: Any = certificate.public_key()
    return (
        certificate.version,
        hash_algorithm and hash_algorithm.name,
        public_key.curve.name,
        [attribute.oid for attribute in certificate.subject],
        [attribute._type for attribute in certificate.subject],
        extensions,
    )


def test_certificates_are_shaped_like_real_ones(chain: list[x509.Certificate]) -> None:
    for real, simulated in zip(certificates(vector(REAL)), chain, strict=True):
        assert shape(simulated) == shape(real)


def test_the_leaf_serial_is_built_like_a_real_one(chain: list[x509.Certificate]) -> None:
    def parts(leaf: x509.Certificate, module_id: str) -> tuple[bool, float]:
        enclave_id, issued = divmod(leaf.serial_number, 1 << 64)
        same = enclave_id == int(module_id.rpartition("-enc")[2], 16)
        return same, leaf.not_valid_after_utc.timestamp() - issued

    real = vector(REAL)
    assert parts(chain[-1], MODULE_ID) == (True, LEAF_LIFETIME.total_seconds())
    assert parts(certificates(real)[-1], payload(real)["module_id"]) == parts(chain[-1], MODULE_ID)


def test_a_leaf_lives_three_hours() -> None:
    leaf = Authority.generate().issue_leaf(MODULE_ID, NOW)
    assert leaf.not_after == NOW + timedelta(hours=3)
    assert leaf.not_before == NOW - timedelta(seconds=3)


@pytest.mark.parametrize("days", [1, 10, 300, -300])
def test_intermediates_are_renewed_when_time_has_moved(days: int) -> None:
    authority = Authority.generate()
    first = authority.issue_leaf(MODULE_ID, NOW)
    later = NOW + timedelta(days=days)
    second = authority.issue_leaf(MODULE_ID, later)
    assert second.cabundle[0] == first.cabundle[0]
    assert second.cabundle[1:] != first.cabundle[1:]
    for der in (*second.cabundle, second.certificate):
        certificate = x509.load_der_x509_certificate(der)
        assert certificate.not_valid_before_utc < later
        assert certificate.not_valid_after_utc >= second.not_after


def test_intermediates_are_kept_while_they_are_valid() -> None:
    authority = Authority.generate()
    first = authority.issue_leaf(MODULE_ID, NOW)
    second = authority.issue_leaf(MODULE_ID, NOW + timedelta(hours=3))
    assert second.cabundle == first.cabundle
    assert second.certificate != first.certificate


def test_the_fingerprint_is_that_of_the_root() -> None:
    authority = Authority.generate()
    root = x509.load_pem_x509_certificate(authority.root_pem)
    assert root.public_bytes(Encoding.DER) == authority.root_der
    assert hashlib.sha256(authority.root_der).hexdigest() == authority.fingerprint
    assert authority.issue_leaf(MODULE_ID, NOW).cabundle[0] == authority.root_der


def test_two_authorities_share_nothing() -> None:
    assert Authority.generate().fingerprint != Authority.generate().fingerprint


def test_names_are_not_amazons() -> None:
    for certificate in certificates(attest(SimulatedNsm(Authority.generate()))):
        assert "Amazon" not in certificate.subject.rfc4514_string()
