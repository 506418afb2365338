"""Documents for foreign verifiers: a genuine one, and what must be rejected, one fault each."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from enclave_simulator.authority import Authority
from enclave_simulator.nsm import SimulatedNsm

if TYPE_CHECKING:
    from pathlib import Path

NONCE = bytes(range(32))
ACCEPTED = ("genuine", "definite map")
"""Cases that a verifier must accept if it lets its root be replaced."""

# What the packages' own protocols require of user_data.
_USER_DATA = {
    "protocol_version": 2,
    "randomx_version": "2.0.1",
    "randomx_commit": "aaafe71322df6602c21a5c72937ac284724ae561",
    "randomx_algorithm": "v2",
    "segments": 7,
    "iterations": 1,
    "service_signing_public_key": "00" * 32,
    "state": "ready",
}


def write_cases(folder: Path) -> dict[str, Path]:
    """Write a file of JSON for each case; return the files by the cases' names."""
    authority, certificate, key = Authority.generate(), *_tls_certificate()
    root = folder / "nitro-root.pem"
    root.write_bytes(authority.root_pem)

    def document(nsm: SimulatedNsm) -> bytes:
        arguments = {
            "public_key": key,
            "user_data": json.dumps(_USER_DATA).encode(),
            "nonce": NONCE,
        }
        response = cbor2.loads(nsm.exchange(cbor2.dumps({"Attestation": arguments})))
        found: bytes = response["Attestation"]["document"]
        return found

    genuine = document(SimulatedNsm(authority))
    at = genuine.index(NONCE)
    altered = genuine[:at] + bytes([genuine[at] ^ 1]) + genuine[at + 1 :]
    signature = genuine[:-1] + bytes([genuine[-1] ^ 1])
    old = SimulatedNsm(authority, now=lambda: datetime.now(UTC) - timedelta(hours=4))
    documents = {
        "genuine": genuine,
        "definite map": document(SimulatedNsm(authority, indefinite_map=False)),
        "altered payload": altered,
        "altered signature": signature,
        "another root": document(SimulatedNsm(Authority.generate())),
        "expired": document(old),
        "another PCR0": document(SimulatedNsm(authority, pcrs={0: bytes([7]) * 48})),
    }
    pcr0 = cbor2.loads(SimulatedNsm(authority).exchange(cbor2.dumps({"DescribePCR": {"index": 0}})))
    common = {
        "root": str(root),
        "fingerprint": x509.load_pem_x509_certificate(authority.root_pem)
        .fingerprint(hashes.SHA256())
        .hex(),
        "pcr0": pcr0["DescribePCR"]["data"].hex(),
        "nonce": b64encode(NONCE).decode(),
        "certificate": b64encode(certificate).decode(),
    }
    paths = {}
    for name, content in documents.items():
        paths[name] = folder / f"{name.replace(' ', '-')}.json"
        paths[name].write_text(json.dumps({**common, "document": b64encode(content).decode()}))
    return paths


def _tls_certificate() -> tuple[bytes, bytes]:
    """Return a server's self-signed certificate, and its public key, which documents attest."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "enclave.example")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return certificate.public_bytes(Encoding.DER), public
