"""CMS that is valid, but not what KMS sends: other algorithms, or no encryption. No I/O."""

from __future__ import annotations

import base64
import hashlib
import os
from typing import TYPE_CHECKING

from asn1crypto import cms
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa


def in_the_clear(secret: bytes) -> str:
    """Return a secret as CMS's content type "data", in base64: nothing is encrypted."""
    content = cms.ContentInfo({"content_type": "data", "content": secret})
    return base64.b64encode(content.dump()).decode()


def pkcs1(key: rsa.RSAPublicKey, secret: bytes) -> str:
    """Return an envelope whose content key is encrypted by PKCS #1 v1.5, in base64.

    Who decrypts that at all, and tells errors apart, is an oracle (Bleichenbacher, 1998).
    """
    content_key, iv = os.urandom(32), os.urandom(16)
    padder = PKCS7(128).padder()
    padded = padder.update(secret) + padder.finalize()
    cipher = Cipher(algorithms.AES256(content_key), modes.CBC(iv)).encryptor()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    recipient = cms.KeyTransRecipientInfo(
        {
            "version": "v2",
            "rid": cms.RecipientIdentifier("subject_key_identifier", hashlib.sha256(spki).digest()),
            "key_encryption_algorithm": {"algorithm": "rsaes_pkcs1v15"},
            "encrypted_key": key.encrypt(content_key, padding.PKCS1v15()),
        }
    )
    content = {
        "content_type": "data",
        "content_encryption_algorithm": {"algorithm": "aes256_cbc", "parameters": iv},
        "encrypted_content": cipher.update(padded) + cipher.finalize(),
    }
    enveloped = cms.EnvelopedData(
        {
            "version": "v2",
            "recipient_infos": [cms.RecipientInfo("ktri", recipient)],
            "encrypted_content_info": content,
        }
    )
    whole = cms.ContentInfo({"content_type": "enveloped_data", "content": enveloped})
    return base64.b64encode(whole.dump()).decode()
