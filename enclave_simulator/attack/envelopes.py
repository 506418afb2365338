"""CMS that KMS does not send. No I/O.

Anybody can encrypt to the public key in a document; so what is valid here opens with the program's
key, unless the program insists on KMS's algorithms and on itself as the only recipient. All else is
in KMS's own form: a reader of that form alone must refuse what is attacked, and not the form.
"""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asn1crypto import algos, cms, core
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cryptography.hazmat.primitives.asymmetric import rsa


_BLOCK = 16
_DEEP = 4 << 20
_INDEFINITE_SEQUENCE, _INDEFINITE_CONTEXT_0, _END_OF_CONTENTS = b"\x30\x80", b"\xa0\x80", b"\0\0"


@dataclass(frozen=True, slots=True)
class KeyCipher:
    """An algorithm that encrypts content keys: its AlgorithmIdentifier, and its padding."""

    algorithm: dict[str, Any]
    padding: padding.AsymmetricPadding


@dataclass(frozen=True, slots=True)
class ContentCipher:
    """An algorithm that encrypts content.

    Attributes:
        name: asn1crypto's.
        key_size: bytes of its key.
        encrypt: returns the algorithm's parameters and the ciphertext, from key and content.
    """

    name: str
    key_size: int
    encrypt: Callable[[bytes, bytes], tuple[core.Asn1Value, bytes]]


def _cbc(key: bytes, content: bytes) -> tuple[core.Asn1Value, bytes]:
    iv = os.urandom(_BLOCK)
    return core.OctetString(iv), _encrypted(key, iv, _padded(content))


def _padded(content: bytes) -> bytes:
    padder = PKCS7(8 * _BLOCK).padder()
    return padder.update(content) + padder.finalize()


def _encrypted(key: bytes, iv: bytes, padded: bytes) -> bytes:
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return encryptor.update(padded) + encryptor.finalize()


def _cbc_short_iv(key: bytes, content: bytes) -> tuple[core.Asn1Value, bytes]:
    short = os.urandom(_BLOCK // 2)
    return core.OctetString(short), _encrypted(key, short.ljust(_BLOCK, b"\0"), _padded(content))


def _cbc_ragged(key: bytes, content: bytes) -> tuple[core.Asn1Value, bytes]:
    parameters, ciphertext = _cbc(key, content)
    return parameters, ciphertext[:-1]


def _cbc_padding(number: int) -> Callable[[bytes, bytes], tuple[core.Asn1Value, bytes]]:
    def encrypt(key: bytes, content: bytes) -> tuple[core.Asn1Value, bytes]:
        iv = os.urandom(_BLOCK)
        # Whole blocks: the last byte is taken for the length of a padding.
        ended = content[: len(content) // _BLOCK * _BLOCK - 1] + bytes([number])
        return core.OctetString(iv), _encrypted(key, iv, ended)

    return encrypt


def _gcm(key: bytes, content: bytes) -> tuple[core.Asn1Value, bytes]:
    nonce = os.urandom(12)
    # GCM's parameters have the form of CCM's (RFC 5084, section 3).
    parameters = algos.CcmParams({"aes_nonce": nonce, "aes_icvlen": 16})
    return parameters, AESGCM(key).encrypt(nonce, content, None)


def _oaep(hash_: HashAlgorithm) -> KeyCipher:
    hashing = {"algorithm": hash_.name, "parameters": core.Null()}
    parameters = algos.RSAESOAEPParams(
        {
            "hash_algorithm": hashing,
            "mask_gen_algorithm": {"algorithm": "mgf1", "parameters": hashing},
        }
    )
    return KeyCipher(
        {"algorithm": "rsaes_oaep", "parameters": parameters},
        padding.OAEP(mgf=padding.MGF1(hash_), algorithm=hash_, label=None),
    )


OAEP_SHA256 = _oaep(SHA256())
"""KMS's."""
OAEP_SHA1 = _oaep(SHA1())  # noqa: S303 (that is the attack)
PKCS1 = KeyCipher({"algorithm": "rsaes_pkcs1v15"}, padding.PKCS1v15())
"""Who decrypts that at all, and tells errors apart, is an oracle (Bleichenbacher, 1998)."""

AES_256_CBC = ContentCipher("aes256_cbc", 32, _cbc)
"""KMS's."""
AES_128_CBC = ContentCipher("aes128_cbc", 16, _cbc)
AES_256_GCM = ContentCipher("aes256_gcm", 32, _gcm)
SHORT_KEY = ContentCipher("aes256_cbc", 16, _cbc)
SHORT_IV = ContentCipher("aes256_cbc", 32, _cbc_short_iv)
RAGGED = ContentCipher("aes256_cbc", 32, _cbc_ragged)
OVERPADDED = ContentCipher("aes256_cbc", 32, _cbc_padding(0xFF))
UNPADDED = ContentCipher("aes256_cbc", 32, _cbc_padding(0))


def in_the_clear(secret: bytes) -> str:
    """Return a secret as CMS's content type "data", in base64: nothing is encrypted."""
    whole = (
        _INDEFINITE_SEQUENCE,
        cms.ContentType("data").dump(),
        _INDEFINITE_CONTEXT_0,
        core.OctetString(secret).dump(),
        2 * _END_OF_CONTENTS,
    )
    return base64.b64encode(b"".join(whole)).decode()


def cut(whole: str) -> str:
    """Return an envelope that ends in the middle of a length."""
    ber = base64.b64decode(whole)
    return base64.b64encode(ber[: ber.index(b"\x31\x82") + 2]).decode()


def deep() -> str:
    """Return sequences in each other, in base64."""
    return base64.b64encode(_DEEP * _INDEFINITE_SEQUENCE).decode()


def key_identifier(key: rsa.RSAPublicKey) -> bytes:
    """Return the subjectKeyIdentifier by which KMS names a recipient."""
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()


def envelope(
    secret: bytes,
    *keys: rsa.RSAPublicKey,
    names: Sequence[bytes] = (),
    key_cipher: KeyCipher = OAEP_SHA256,
    content_cipher: ContentCipher = AES_256_CBC,
) -> str:
    """Return a secret as EnvelopedData (RFC 5652, section 6) in KMS's BER, in base64.

    Args:
        secret: the content.
        keys: of the recipients.
        names: their identifiers, if these are not to be those of the keys.
        key_cipher: encrypts the content key.
        content_cipher: encrypts the content.
    """
    content_key = os.urandom(content_cipher.key_size)
    parameters, ciphertext = content_cipher.encrypt(content_key, secret)
    recipients = [
        cms.KeyTransRecipientInfo(
            {
                "version": "v2",
                "rid": cms.RecipientIdentifier("subject_key_identifier", name),
                "key_encryption_algorithm": key_cipher.algorithm,
                "encrypted_key": key.encrypt(content_key, key_cipher.padding),
            }
        )
        for key, name in zip(keys, names or map(key_identifier, keys), strict=True)
    ]
    infos = cms.RecipientInfos([cms.RecipientInfo("ktri", each) for each in recipients])
    algorithm = algos.EncryptionAlgorithm(
        {"algorithm": content_cipher.name, "parameters": parameters}
    )
    whole = (
        _INDEFINITE_SEQUENCE,
        cms.ContentType("enveloped_data").dump(),
        _INDEFINITE_CONTEXT_0,
        _INDEFINITE_SEQUENCE,
        cms.CMSVersion("v2").dump(),
        infos.dump(),
        _INDEFINITE_SEQUENCE,
        cms.ContentType("data").dump(),
        algorithm.dump(),
        _INDEFINITE_CONTEXT_0,
        core.OctetString(ciphertext).dump(),
        5 * _END_OF_CONTENTS,
    )
    return base64.b64encode(b"".join(whole)).decode()
