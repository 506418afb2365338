"""What the simulator's tests share: the real vectors, and documents made and taken apart."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.paths import VECTORS

if TYPE_CHECKING:
    from enclave_simulator.nsm import SimulatedNsm


def vector(name: str) -> bytes:
    path = VECTORS / name
    if not path.exists():
        pytest.skip(f"the real samples are not here: ../shared/vectors/{name}")
    return path.read_bytes()


@functools.cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def spki(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def attest(nsm: SimulatedNsm, public_key: bytes | None = None, **fields: Any) -> bytes:
    request = {"user_data": None, "nonce": None, "public_key": public_key, **fields}
    response = cbor2.loads(nsm.exchange(cbor2.dumps({"Attestation": request})))
    document = response["Attestation"]["document"]
    assert isinstance(document, bytes)
    return document


def payload(document: bytes) -> dict[str, Any]:
    fields = cbor2.loads(cbor2.loads(document)[2])
    assert isinstance(fields, dict)
    return fields
