"""CiphertextBlobs of symmetric keys: they name their key and are authenticated as a whole. No I/O.

The format is the simulator's own, as KMS documents none: version, which key (16 bytes), which of
its key materials (16), nonce (12), AES-256-GCM.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from enclave_simulator.kms.messages import KmsError

if TYPE_CHECKING:
    from collections.abc import Mapping

_VERSION = bytes.fromhex("01020200")  # as KMS's own begin
_TAG_SIZE = 16
_KEY_END = len(_VERSION) + _TAG_SIZE
_MATERIAL_END = _KEY_END + _TAG_SIZE
_HEADER_SIZE = _MATERIAL_END + 12


def tag(name: str) -> bytes:
    """Return how a blob names a key or a key material."""
    return hashlib.sha256(name.encode()).digest()[:_TAG_SIZE]


def seal(
    secret: bytes, key: bytes, material: bytes, plaintext: bytes, context: Mapping[str, str]
) -> bytes:
    """Return a CiphertextBlob.

    Args:
        secret: the key material.
        key: tag of the key.
        material: tag of the key material.
        plaintext: to encrypt.
        context: EncryptionContext.
    """
    header = _VERSION + key + material + os.urandom(12)
    associated = header + _canonical(context)
    return header + AESGCM(secret).encrypt(header[_MATERIAL_END:], plaintext, associated)


def read_header(blob: bytes) -> tuple[bytes, bytes]:
    """Return the tags of the key and of the key material that made a CiphertextBlob.

    Raises:
        KmsError: InvalidCiphertextException: it is not a CiphertextBlob.
    """
    if len(blob) <= _HEADER_SIZE or not blob.startswith(_VERSION):
        raise invalid_ciphertext()
    return blob[len(_VERSION) : _KEY_END], blob[_KEY_END:_MATERIAL_END]


def unseal(secret: bytes, blob: bytes, context: Mapping[str, str]) -> bytes:
    """Decrypt a CiphertextBlob that names this key material.

    Raises:
        KmsError: InvalidCiphertextException: it was changed, or the context is another.
    """
    header = blob[:_HEADER_SIZE]
    associated = header + _canonical(context)
    try:
        return AESGCM(secret).decrypt(header[_MATERIAL_END:], blob[_HEADER_SIZE:], associated)
    except InvalidTag:
        raise invalid_ciphertext() from None


def _canonical(context: Mapping[str, str]) -> bytes:
    return json.dumps(context, sort_keys=True).encode()


def invalid_ciphertext() -> KmsError:
    """Return KMS's error for every ciphertext that it cannot decrypt: it has no text."""
    return KmsError("InvalidCiphertextException")
