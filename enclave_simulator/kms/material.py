"""What KMS does with key material: data keys, envelopes of its own, RSA and ECDH. Pure."""

from __future__ import annotations

import functools
import json
import os
import uuid
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)

from enclave_simulator.kms.messages import KmsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_GENERATORS: dict[str, Callable[[], PrivateKey]] = {
    "RSA_2048": functools.partial(rsa.generate_private_key, 65537, 2048),
    "RSA_3072": functools.partial(rsa.generate_private_key, 65537, 3072),
    "RSA_4096": functools.partial(rsa.generate_private_key, 65537, 4096),
    "ECC_NIST_P256": functools.partial(ec.generate_private_key, ec.SECP256R1()),
    "ECC_NIST_P384": functools.partial(ec.generate_private_key, ec.SECP384R1()),
    "ECC_NIST_P521": functools.partial(ec.generate_private_key, ec.SECP521R1()),
    "ECC_SECG_P256K1": functools.partial(ec.generate_private_key, ec.SECP256K1()),
    "ECC_NIST_EDWARDS25519": ed25519.Ed25519PrivateKey.generate,
}

_OAEP = {
    "RSAES_OAEP_SHA_1": padding.OAEP(padding.MGF1(SHA1()), SHA1(), None),  # noqa: S303 (KMS has it)
    "RSAES_OAEP_SHA_256": padding.OAEP(padding.MGF1(SHA256()), SHA256(), None),
}
_OAEP_OVERHEAD = {"RSAES_OAEP_SHA_1": 42, "RSAES_OAEP_SHA_256": 66}  # RFC 8017, 2 * hash + 2

_BLOB_VERSION = bytes.fromhex("01020200")  # as KMS's own begin
_KEY_ID_END = len(_BLOB_VERSION) + 16
_BLOB_HEADER = _KEY_ID_END + 12


def generate_private_key(spec: str) -> PrivateKey:
    """Make a key pair.

    Raises:
        KmsError: UnsupportedOperationException: KMS has this spec, the simulator has not.
    """
    generate = _GENERATORS.get(spec)
    if generate is None:
        raise KmsError("UnsupportedOperationException", f"The simulator makes no {spec} keys.")
    return generate()


def private_der(key: PrivateKey) -> bytes:
    """Return PKCS #8 (RFC 5208) in DER, as PrivateKeyPlaintext has it."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def public_der(key: PrivateKey) -> bytes:
    """Return SubjectPublicKeyInfo (RFC 5280) in DER, as PublicKey has it."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


# Symmetric keys. A CiphertextBlob names its key and is authenticated as a whole:
# version, key id (16 bytes), nonce (12), AES-256-GCM.


def seal(material: bytes, key_id: str, plaintext: bytes, context: Mapping[str, str]) -> bytes:
    """Return a CiphertextBlob."""
    header = _BLOB_VERSION + uuid.UUID(key_id).bytes + os.urandom(12)
    associated = header + _canonical(context)
    return header + AESGCM(material).encrypt(header[_KEY_ID_END:], plaintext, associated)


def sealing_key_id(blob: bytes) -> str:
    """Return the id of the key that made a CiphertextBlob.

    Raises:
        KmsError: InvalidCiphertextException: it is none.
    """
    if len(blob) <= _BLOB_HEADER or not blob.startswith(_BLOB_VERSION):
        raise invalid_ciphertext()
    return str(uuid.UUID(bytes=blob[len(_BLOB_VERSION) : _KEY_ID_END]))


def unseal(material: bytes, blob: bytes, context: Mapping[str, str]) -> bytes:
    """Open a CiphertextBlob that names this key.

    Raises:
        KmsError: InvalidCiphertextException: it was changed, or the context is another.
    """
    header = blob[:_BLOB_HEADER]
    associated = header + _canonical(context)
    try:
        return AESGCM(material).decrypt(header[_KEY_ID_END:], blob[_BLOB_HEADER:], associated)
    except InvalidTag:
        raise invalid_ciphertext() from None


def _canonical(context: Mapping[str, str]) -> bytes:
    return json.dumps(context, sort_keys=True).encode()


def invalid_ciphertext() -> KmsError:
    """Return what KMS says of every ciphertext it cannot open: no more than that."""
    return KmsError("InvalidCiphertextException")


# Asymmetric keys


def rsa_encrypt(key: rsa.RSAPrivateKey, plaintext: bytes, algorithm: str) -> bytes:
    """Encrypt to the public half.

    Raises:
        KmsError: ValidationException: the plaintext is too long for the key.
    """
    longest = key.key_size // 8 - _OAEP_OVERHEAD[algorithm]
    if len(plaintext) > longest:
        raise KmsError(
            "ValidationException",
            f"Algorithm {algorithm} and key spec RSA_{key.key_size} cannot encrypt data larger "
            f"than {longest} bytes.",
        )
    return key.public_key().encrypt(plaintext, _OAEP[algorithm])


def rsa_decrypt(key: rsa.RSAPrivateKey, ciphertext: bytes, algorithm: str) -> bytes:
    """Decrypt what `rsa_encrypt`, or anyone with the public key, made.

    Raises:
        KmsError: InvalidCiphertextException.
    """
    try:
        return key.decrypt(ciphertext, _OAEP[algorithm])
    except ValueError:
        raise invalid_ciphertext() from None


def agree(key: ec.EllipticCurvePrivateKey, peer_der: bytes) -> bytes:
    """Return the raw shared secret of ECDH: the x coordinate (SEC 1, section 3.3.1).

    Args:
        key: one side.
        peer_der: the other side's SubjectPublicKeyInfo in DER.

    Raises:
        KmsError: ValidationException: that is no public key on the same curve.
    """
    try:
        peer = load_der_public_key(peer_der)
    except Exception:  # noqa: BLE001 (UnsupportedAlgorithm and ValueError, by what is wrong)
        peer = None
    if not isinstance(peer, ec.EllipticCurvePublicKey) or peer.curve.name != key.curve.name:
        raise KmsError(
            "ValidationException", "The public key is not a DER key on the curve of the KMS key."
        )
    return key.exchange(ec.ECDH(), peer)
