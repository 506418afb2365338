"""Key material: encodings, RSA encryption, ECDH, ML-KEM, and the unwrapping of imports. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap_with_padding
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from enclave_simulator.kms.ciphertexts import invalid_ciphertext
from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.specs import SYMMETRIC_LENGTHS

if TYPE_CHECKING:
    from enclave_simulator.kms.specs import PrivateKey

_OAEP = {
    "SHA_1": padding.OAEP(padding.MGF1(SHA1()), SHA1(), None),  # noqa: S303 (KMS has it)
    "SHA_256": padding.OAEP(padding.MGF1(SHA256()), SHA256(), None),
}
_OAEP_OVERHEAD = {"SHA_1": 42, "SHA_256": 66}  # RFC 8017, 7.1.1: two digests and two bytes

_CURVES = {
    "ECC_NIST_P256": "secp256r1",
    "ECC_NIST_P384": "secp384r1",
    "ECC_NIST_P521": "secp521r1",
    "ECC_SECG_P256K1": "secp256k1",
}


def private_der(key: PrivateKey) -> bytes:
    """Return PKCS #8 (RFC 5208) in DER, the form of PrivateKeyPlaintext."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def public_der(key: PrivateKey) -> bytes:
    """Return SubjectPublicKeyInfo (RFC 5280) in DER, the form of PublicKey."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def encode_material(secret: bytes | PrivateKey) -> bytes:
    """Return key material as bytes: as it is, or PKCS #8 in DER."""
    return secret if isinstance(secret, bytes) else private_der(secret)


def decode_material(spec: str, encoded: bytes) -> bytes | PrivateKey:
    """Read what `encode_material` wrote, or what a caller imports.

    Raises:
        ValueError: it is not key material of this key spec.
    """
    if spec in SYMMETRIC_LENGTHS:
        shortest, longest = SYMMETRIC_LENGTHS[spec]
        if not shortest <= len(encoded) <= longest:
            raise ValueError(f"{spec} has no key material of {len(encoded)} bytes")
        return encoded
    try:
        key: Any = load_der_private_key(encoded, password=None)
    except (TypeError, UnsupportedAlgorithm) as e:
        raise ValueError("not a private key in PKCS #8") from e
    if _spec_of(key) != spec:
        raise ValueError(f"not a private key of key spec {spec}")
    return key  # type: ignore[no-any-return] # its spec was checked


def _spec_of(key: Any) -> str:
    match key:
        case rsa.RSAPrivateKey():
            return f"RSA_{key.key_size}"
        case ec.EllipticCurvePrivateKey():
            return next((spec for spec, name in _CURVES.items() if name == key.curve.name), "")
        case ed25519.Ed25519PrivateKey():
            return "ECC_NIST_EDWARDS25519"
    # MLDSA44PrivateKey, MLKEM768PrivateKey: classes that older releases of the library lack.
    name = type(key).__name__.removesuffix("PrivateKey")
    return f"{name[:2]}_{name[2:5]}_{name[5:]}"


# RSA


def rsa_encrypt(key: rsa.RSAPrivateKey, plaintext: bytes, algorithm: str) -> bytes:
    """Encrypt to the public half.

    Raises:
        KmsError: ValidationException: the plaintext is too long for the key.
    """
    digest = algorithm.removeprefix("RSAES_OAEP_")
    longest = key.key_size // 8 - _OAEP_OVERHEAD[digest]
    if len(plaintext) > longest:
        raise KmsError(
            "ValidationException",
            f"Algorithm {algorithm} and key spec RSA_{key.key_size} cannot encrypt data larger "
            f"than {longest} bytes.",
        )
    return key.public_key().encrypt(plaintext, _OAEP[digest])


def rsa_decrypt(key: rsa.RSAPrivateKey, ciphertext: bytes, algorithm: str) -> bytes:
    """Decrypt a ciphertext of the public key's, made by `rsa_encrypt` or by any other program.

    Raises:
        KmsError: InvalidCiphertextException.
    """
    try:
        return key.decrypt(ciphertext, _OAEP[algorithm.removeprefix("RSAES_OAEP_")])
    except ValueError:
        raise invalid_ciphertext() from None


def unwrap(key: rsa.RSAPrivateKey, wrapped: bytes, algorithm: str) -> bytes:
    """Return the key material in an ImportKeyMaterial request.

    Args:
        key: the wrapping key of the import token.
        wrapped: EncryptedKeyMaterial.
        algorithm: RSAES_OAEP_* (RFC 8017), or RSA_AES_KEY_WRAP_*: an AES key under RSAES_OAEP,
            then the material under AES-KWP (RFC 5649).

    Raises:
        KmsError: InvalidCiphertextException.
    """
    _, _, digest = algorithm.rpartition("SHA_")
    oaep = f"RSAES_OAEP_SHA_{digest}"
    if algorithm == oaep:
        return rsa_decrypt(key, wrapped, oaep)
    size = key.key_size // 8
    try:
        return aes_key_unwrap_with_padding(rsa_decrypt(key, wrapped[:size], oaep), wrapped[size:])
    except (ValueError, InvalidUnwrap):
        raise invalid_ciphertext() from None


# ECDH


def agree(key: ec.EllipticCurvePrivateKey, peer_der: bytes) -> bytes:
    """Return the raw shared secret of ECDH: the x coordinate (SEC 1, section 3.3.1).

    Args:
        key: one side.
        peer_der: the other side's SubjectPublicKeyInfo in DER.

    Raises:
        KmsError: ValidationException, without a text as KMS's has none: it is not a public key
            on the same curve.
    """
    try:
        peer = load_der_public_key(peer_der)
    except Exception:  # noqa: BLE001 (UnsupportedAlgorithm or ValueError, by what is wrong)
        peer = None
    if not isinstance(peer, ec.EllipticCurvePublicKey) or peer.curve.name != key.curve.name:
        raise KmsError("ValidationException")
    return key.exchange(ec.ECDH(), peer)


# ML-KEM (FIPS 203)


def encapsulate(key: Any) -> tuple[bytes, bytes]:
    """Return a shared secret and its ciphertext."""
    secret, ciphertext = key.public_key().encapsulate()
    return secret, ciphertext


def decapsulate(key: Any, ciphertext: bytes) -> bytes:
    """Return the shared secret; of a foreign ciphertext a pseudo-random one, as FIPS 203 has it.

    Raises:
        KmsError: InvalidCiphertextException: its length is not the key spec's.
    """
    try:
        secret: bytes = key.decapsulate(ciphertext)
    except ValueError:
        raise invalid_ciphertext() from None
    return secret
