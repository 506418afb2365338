"""CiphertextForRecipient: CMS EnvelopedData (RFC 5652, section 6) in the BER that KMS writes.

KMS's outer structures have indefinite lengths; the encrypted content is constructed or primitive.
Real ones begin with the same 127 bytes but for the key identifier.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Literal

from asn1crypto import algos, cms, core
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa

ContentForm = Literal["constructed", "primitive"]
"""How the encrypted content is encoded: ``[0]`` with OCTET STRINGs in it, or ``[0]`` itself."""

_INDEFINITE_SEQUENCE = b"\x30\x80"
_INDEFINITE_CONTEXT_0 = b"\xa0\x80"
_END_OF_CONTENTS = b"\x00\x00"
_OAEP = padding.OAEP(mgf=padding.MGF1(SHA256()), algorithm=SHA256(), label=None)
_SHA256 = {"algorithm": "sha256", "parameters": core.Null()}


class Enveloper:
    """Encrypts to one RSA-2048 key. The constant part of its envelopes is encoded once.

    Attributes:
        key: the key.
    """

    def __init__(self, key: rsa.RSAPublicKey) -> None:
        self.key = key
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        modulus_size = key.key_size // 8
        recipient = cms.KeyTransRecipientInfo(
            {
                "version": "v2",
                "rid": cms.RecipientIdentifier(
                    "subject_key_identifier", hashlib.sha256(spki).digest()
                ),
                "key_encryption_algorithm": {
                    "algorithm": "rsaes_oaep",
                    "parameters": algos.RSAESOAEPParams(
                        {
                            "hash_algorithm": _SHA256,
                            "mask_gen_algorithm": {"algorithm": "mgf1", "parameters": _SHA256},
                        }
                    ),
                },
                "encrypted_key": bytes(modulus_size),
            }
        )
        recipients = cms.RecipientInfos([cms.RecipientInfo("ktri", recipient)])
        # The encrypted key comes last: the bytes before it are constant for a key.
        self._prefix = (
            _INDEFINITE_SEQUENCE
            + core.ObjectIdentifier("1.2.840.113549.1.7.3").dump()  # envelopedData
            + _INDEFINITE_CONTEXT_0
            + _INDEFINITE_SEQUENCE
            + core.Integer(2).dump()
            + recipients.dump()[:-modulus_size]
        )

    def encrypt(self, secret: bytes, form: ContentForm) -> bytes:
        """Return the BER of an envelope around `secret`."""
        content_key, iv = os.urandom(32), os.urandom(16)
        padder = PKCS7(128).padder()
        padded = padder.update(secret) + padder.finalize()
        cipher = Cipher(algorithms.AES256(content_key), modes.CBC(iv)).encryptor()
        ciphertext = cipher.update(padded) + cipher.finalize()
        if form == "constructed":
            content = _INDEFINITE_CONTEXT_0 + core.OctetString(ciphertext).dump() + _END_OF_CONTENTS
        else:
            content = core.OctetString(ciphertext, implicit=0).dump()
        return b"".join(
            (
                self._prefix,
                self.key.encrypt(content_key, _OAEP),
                _INDEFINITE_SEQUENCE,
                _CONTENT_TYPE,
                _CIPHER_PREFIX,
                iv,
                content,
                4 * _END_OF_CONTENTS,
            )
        )


_CONTENT_TYPE = core.ObjectIdentifier("1.2.840.113549.1.7.1").dump()  # data
_CIPHER_PREFIX = algos.EncryptionAlgorithm(
    {"algorithm": "aes256_cbc", "parameters": core.OctetString(bytes(16))}
).dump()[:-16]
