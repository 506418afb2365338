"""Opens envelopes as readers of CMS do that are not made for KMS's alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asn1crypto import cms
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA1, SHA256

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric import rsa

WEAKNESSES = (
    "any-algorithm",
    "any-iv",
    "any-key-length",
    "any-padding",
    "any-recipient",
    "any-size",
    "several-recipients",
    "takes-unencrypted",
    "unchecked-lengths",
)

_BLOCK = 16
_KEY_SIZE = 32
_MOST = 1 << 16

_OAEP_SHA256 = padding.OAEP(padding.MGF1(SHA256()), SHA256(), None)


class LengthError(Exception):
    """A length in an envelope is wrong."""


def opened(
    envelope: bytes,
    key: rsa.RSAPrivateKey,
    key_identifier: bytes,
    unless: Callable[[str, str], None],
) -> bytes:
    """Return the content.

    Args:
        envelope: CMS.
        key: the recipient's.
        key_identifier: the recipient's.
        unless: takes a weakness and a reason; raises an error with this reason without it.
    """
    if len(envelope) > _MOST:
        unless("any-size", "too large")
    try:
        whole = cms.ContentInfo.load(envelope)
    except ValueError as e:
        raise LengthError from e
    if whole["content_type"].native == "data":
        unless("takes-unencrypted", "CMS that encrypts nothing")
        return bytes(whole["content"].native)
    recipients = [each.chosen for each in whole["content"]["recipient_infos"]]
    if len(recipients) > 1:
        unless("several-recipients", "several recipients")
    own = [each for each in recipients if each["rid"].chosen.native == key_identifier]
    if not own:
        unless("any-recipient", "another recipient")
    recipient = (own or recipients)[0]
    content = whole["content"]["encrypted_content_info"]
    algorithm = content["content_encryption_algorithm"]
    padding_ = _key_padding(recipient["key_encryption_algorithm"])
    if padding_ != _OAEP_SHA256 or algorithm["algorithm"].native != "aes256_cbc":
        unless("any-algorithm", "other algorithms")
    content_key = key.decrypt(recipient["encrypted_key"].native, padding_)
    if len(content_key) != _KEY_SIZE and algorithm["algorithm"].native == "aes256_cbc":
        unless("any-key-length", "a content key of another length")
    return _content(algorithm, content_key, content["encrypted_content"].native, unless)


def _key_padding(algorithm: Any) -> padding.AsymmetricPadding:
    """Return the padding that an AlgorithmIdentifier names (RFC 8017, RFC 4055)."""
    if algorithm["algorithm"].native == "rsaes_pkcs1v15":
        return padding.PKCS1v15()
    hash_ = {"sha1": SHA1(), "sha256": SHA256()}[  # noqa: S303 (that is the weakness)
        algorithm["parameters"]["hash_algorithm"]["algorithm"].native
    ]
    return padding.OAEP(padding.MGF1(hash_), hash_, None)


def _content(
    algorithm: Any, key: bytes, ciphertext: bytes, unless: Callable[[str, str], None]
) -> bytes:
    """Return the content, decrypted as an AlgorithmIdentifier names it."""
    if algorithm["algorithm"].native.endswith("_gcm"):
        nonce = algorithm["parameters"].native["0"]
        return AESGCM(key).decrypt(nonce, ciphertext, None)
    iv = algorithm["parameters"].native
    if len(iv) != _BLOCK:
        unless("any-iv", "another initialisation vector")
        iv = iv.ljust(_BLOCK, b"\0")
    if len(ciphertext) % _BLOCK:
        raise LengthError
    cipher = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
    padded = cipher.update(ciphertext) + cipher.finalize()
    number = padded[-1]
    if number > len(padded):
        raise LengthError
    if padded[-number:] != number * bytes([number]):
        unless("any-padding", "no padding")
    return padded[: len(padded) - number]
