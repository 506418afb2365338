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


def key_identifier(key: rsa.RSAPrivateKey | rsa.RSAPublicKey) -> bytes:
    public = key.public_key() if isinstance(key, rsa.RSAPrivateKey) else key
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()


@dataclass(frozen=True)
class Envelope:
    """One envelope's choices; a test changes one and expects one error.

    Attributes:
        recipient: whose it is; left out, `private_key`'s.
    """

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
    recipient: rsa.RSAPublicKey | None = None

    def der(self) -> bytes:
        key = self.recipient or private_key().public_key()
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
            "encrypted_key": key.encrypt(self.content_key, OAEP),
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


# Forms of the same envelope: only lengths and the split of the content differ.


def element(tag: int, *parts: bytes, indefinite: bool) -> bytes:
    body = b"".join(parts)
    if indefinite:
        return bytes([tag, 0x80]) + body + b"\0\0"
    size = len(body)
    if size < 0x80:
        return bytes([tag, size]) + body
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + body


def rebuilt(envelope: Envelope | bytes, *, indefinite: bool, pieces: int | None) -> bytes:
    """The envelope as KMS writes it: outer lengths left open, content in `pieces` or whole."""
    info = cms.ContentInfo.load(envelope if isinstance(envelope, bytes) else envelope.der())
    data = info["content"]
    encrypted = data["encrypted_content_info"]
    ciphertext = encrypted["encrypted_content"].native
    if pieces is None:
        content = element(0x80, ciphertext, indefinite=False)
    else:
        step = -(-len(ciphertext) // pieces)
        chunks = [ciphertext[i : i + step] for i in range(0, len(ciphertext), step)]
        strings = [element(0x04, chunk, indefinite=False) for chunk in chunks]
        content = element(0xA0, *strings, indefinite=indefinite)
    inner = element(
        0x30,
        encrypted["content_type"].dump(),
        encrypted["content_encryption_algorithm"].dump(),
        content,
        indefinite=indefinite,
    )
    body = element(
        0x30, data["version"].dump(), data["recipient_infos"].dump(), inner, indefinite=indefinite
    )
    explicit = element(0xA0, body, indefinite=indefinite)
    return element(0x30, info["content_type"].dump(), explicit, indefinite=indefinite)
