"""Signatures and MACs by KMS's names of algorithms. No I/O."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512

from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.specs import unsupported

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

    from enclave_simulator.kms.specs import PrivateKey

_HASHES: dict[str, HashAlgorithm] = {"256": SHA256(), "384": SHA384(), "512": SHA512()}
_MU_SIZE = 64  # FIPS 204, section 6.2


def check_message(spec: str, algorithm: str, message: bytes, message_type: str) -> None:
    """Check that a message can be signed as its MessageType says.

    Raises:
        KmsError: ValidationException.
    """
    wrong = ""
    if spec.startswith("ML_DSA"):
        wrong = f"key spec {spec}" if message_type == "DIGEST" else ""
    elif message_type == "EXTERNAL_MU":
        wrong = f"key spec {spec}"
    elif spec == "ECC_NIST_EDWARDS25519":
        needed = "DIGEST" if algorithm == "ED25519_PH_SHA_512" else "RAW"
        wrong = "" if message_type == needed else f"algorithm {algorithm}"
    if wrong:
        raise KmsError(
            "ValidationException", f"Message type {message_type} is incompatible with {wrong}."
        )
    size = {"RAW": len(message), "EXTERNAL_MU": _MU_SIZE}.get(message_type)
    if size is None:
        size = _HASHES[algorithm[-3:]].digest_size
    if len(message) != size:
        raise KmsError(
            "ValidationException", f"Digest is invalid length for algorithm {algorithm}."
        )


def sign(key: PrivateKey, algorithm: str, message: bytes, message_type: str) -> bytes:
    """Sign a message that `check_message` accepted.

    Raises:
        KmsError: UnsupportedOperationException: `cryptography` has no such signature.
    """
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, _padding(algorithm), _hash(algorithm, message_type))
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(message, ec.ECDSA(_hash(algorithm, message_type)))
    return _plain(key, "sign", algorithm, message_type)(message)  # type: ignore[no-any-return]


def verify(
    key: PrivateKey, algorithm: str, message: bytes, message_type: str, signature: bytes
) -> bool:
    """Return whether a signature is the message's.

    Raises:
        KmsError: see `sign`.
    """
    public: Any = key.public_key()
    try:
        if isinstance(key, rsa.RSAPrivateKey):
            hashed = _hash(algorithm, message_type)
            public.verify(signature, message, _padding(algorithm), hashed)
        elif isinstance(key, ec.EllipticCurvePrivateKey):
            public.verify(signature, message, ec.ECDSA(_hash(algorithm, message_type)))
        else:
            _plain(public, "verify", algorithm, message_type)(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _plain(key: Any, verb: str, algorithm: str, message_type: str) -> Any:
    """Return the method of a key whose signatures take nothing but the message."""
    prehashed = algorithm == "ED25519_PH_SHA_512"
    method = None
    if not prehashed:
        method = getattr(key, f"{verb}_mu" if message_type == "EXTERNAL_MU" else verb, None)
    if method is None:
        raise unsupported(f"Algorithm {algorithm} with message type {message_type}")
    return method


def _hash(algorithm: str, message_type: str) -> Any:
    hashed = _HASHES[algorithm[-3:]]
    return Prehashed(hashed) if message_type == "DIGEST" else hashed


def _padding(algorithm: str) -> padding.AsymmetricPadding:
    if "_PSS_" in algorithm:
        # KMS's salt is as long as the digest (Sign, "RSASSA_PSS").
        hashed = _HASHES[algorithm[-3:]]
        return padding.PSS(padding.MGF1(hashed), salt_length=hashed.digest_size)
    return padding.PKCS1v15()


def mac(secret: bytes, algorithm: str, message: bytes) -> bytes:
    """Return the HMAC (FIPS 198-1) of a message."""
    return hmac.digest(secret, message, f"sha{algorithm[-3:]}")
