"""CMS envelopes for tests, made with asn1crypto and `cryptography`, not with our reader."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from functools import cache

from asn1crypto import algos, cms
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


@cache
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def key_identifier(key: rsa.RSAPrivateKey) -> bytes:
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()


@dataclass(frozen=True)
class Envelope:
    """One envelope's choices; a test changes one and expects one error."""

    plaintext: bytes = b"secret" * 8
    content_type: str = "enveloped_data"
    inner_type: str = "data"
    version: str = "v2"
    recipient_version: str = "v2"
    recipients: int = 1
    transport: str = "rsaes_oaep"
    oaep_hash: str = "sha256"
    mgf_hash: str = "sha256"
    label: bytes = b""
    cipher: str = "aes256_cbc"
    iv: bytes = b"\x07" * 16
    content_key: bytes = b"\x2a" * 32
    identifier: bytes | None = None
    ciphertext: bytes | None = None

    def der(self) -> bytes:
        key = private_key()
        padder = PKCS7(128).padder()
        padded = padder.update(self.plaintext) + padder.finalize()
        ciphertext = self.ciphertext
        if ciphertext is None:
            # The content is encrypted soundly even where the envelope then lies about it.
            iv = self.iv if len(self.iv) == 16 else b"\x07" * 16
            content_key = self.content_key if len(self.content_key) == 32 else os.urandom(32)
            encryptor = Cipher(algorithms.AES(content_key), modes.CBC(iv)).encryptor()
            ciphertext = encryptor.update(padded) + encryptor.finalize()
        parameters: dict[str, object] = {
            "hash_algorithm": {"algorithm": self.oaep_hash},
            "mask_gen_algorithm": {
                "algorithm": "mgf1",
                "parameters": algos.DigestAlgorithm({"algorithm": self.mgf_hash}),
            },
        }
        if self.label:
            parameters["p_source_algorithm"] = {
                "algorithm": "p_specified",
                "parameters": self.label,
            }
        transport: dict[str, object] = {"algorithm": self.transport}
        if self.transport == "rsaes_oaep":
            transport["parameters"] = algos.RSAESOAEPParams(parameters)
        recipient = {
            "version": self.recipient_version,
            "rid": cms.RecipientIdentifier(
                "subject_key_identifier", self.identifier or key_identifier(key)
            ),
            "key_encryption_algorithm": transport,
            "encrypted_key": key.public_key().encrypt(self.content_key, OAEP),
        }
        content = {
            "version": self.version,
            "recipient_infos": [cms.RecipientInfo("ktri", recipient)] * self.recipients,
            "encrypted_content_info": {
                "content_type": self.inner_type,
                "content_encryption_algorithm": {"algorithm": self.cipher, "parameters": self.iv},
                "encrypted_content": ciphertext,
            },
        }
        info = cms.ContentInfo(
            {"content_type": "enveloped_data", "content": cms.EnvelopedData(content)}
        )
        der: bytes = info.dump()
        if self.content_type != "enveloped_data":
            der = der.replace(
                cms.ContentType("enveloped_data").dump(), cms.ContentType(self.content_type).dump()
            )
        return der

    def but(self, **changes: object) -> Envelope:
        return replace(self, **changes)  # type: ignore[arg-type]
