"""CiphertextForRecipient: CMS EnvelopedData (RFC 5652 section 6) as AWS KMS writes it. No I/O.

One key-transport recipient, RSAES-OAEP with SHA-256 throughout, AES-256-CBC. Anything else is
rejected by name. Both BER forms that KMS has been seen to send are read, and DER.

Reading it is this project's own: see docs/adr/0003-own-cms-reader.md.
"""

from __future__ import annotations

from hmac import compare_digest
from typing import TYPE_CHECKING, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from enclave.errors import DecodingError, DecryptionError
from enclave.recipient.ber import BerReader

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

MAX_ENVELOPE = 6144
"""Bytes in CiphertextForRecipient (AWS KMS service model, CiphertextType)."""

_FORMAT = "CiphertextForRecipient"

_SEQUENCE, _SET, _INTEGER, _OCTETS, _OID, _NULL = 0x30, 0x31, 0x02, 0x04, 0x06, 0x05
_CONTEXT_0, _CONTEXT_0_CONSTRUCTED, _CONTEXT_1_CONSTRUCTED = 0x80, 0xA0, 0xA1

# Object identifiers, encoded.
_ENVELOPED_DATA = bytes.fromhex("2a864886f70d010703")  # 1.2.840.113549.1.7.3, RFC 5652
_DATA = bytes.fromhex("2a864886f70d010701")  # 1.2.840.113549.1.7.1, RFC 5652
_RSAES_OAEP = bytes.fromhex("2a864886f70d010107")  # 1.2.840.113549.1.1.7, RFC 8017
_MGF1 = bytes.fromhex("2a864886f70d010108")  # 1.2.840.113549.1.1.8, RFC 8017
_SHA256 = bytes.fromhex("608648016503040201")  # 2.16.840.1.101.3.4.2.1, RFC 5754
_AES256_CBC = bytes.fromhex("60864801650304012a")  # 2.16.840.1.101.3.4.1.42, RFC 3565

_OAEP_SHA256 = OAEP(mgf=MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)


class EnvelopedData(NamedTuple):
    """The contents of one envelope, still encrypted.

    Attributes:
        key_identifier: SHA-256 of the recipient's SubjectPublicKeyInfo in DER, 32 bytes.
        encrypted_key: the content key under RSAES-OAEP, as long as the RSA modulus.
        iv: AES-CBC initialisation vector, 16 bytes.
        ciphertext: one or more AES blocks of 16 bytes.
    """

    key_identifier: bytes
    encrypted_key: bytes
    iv: bytes
    ciphertext: bytes

    def __repr__(self) -> str:
        return f"EnvelopedData(key_identifier={self.key_identifier.hex()})"


class _Layout(NamedTuple):
    """Where the parts of an envelope are, and every byte between them.

    All envelopes for one key and one length of secret have the same layout, and whether an envelope
    is valid depends on its layout alone: the contents of the parts are opaque to the parser.
    """

    size: int
    key_identifier: slice
    encrypted_key: slice
    iv: slice
    ciphertext: tuple[slice, ...]
    fixed: tuple[tuple[slice, bytes], ...]

    def fits(self, data: bytes) -> bool:
        """Return whether an envelope has this layout."""
        if len(data) != self.size:
            return False
        for where, value in self.fixed:  # noqa: SIM110 (`all` takes three times as long)
            if data[where] != value:
                return False
        return True

    def read(self, data: bytes) -> EnvelopedData:
        """Return the parts of an envelope that has this layout."""
        pieces = [data[piece] for piece in self.ciphertext]
        return EnvelopedData(
            data[self.key_identifier], data[self.encrypted_key], data[self.iv], b"".join(pieces)
        )


_KEPT = 4
"""KMS writes two forms, and programs ask for few lengths of secret."""

_known: tuple[_Layout, ...] = ()
"""Layouts of the last valid envelopes. Replaced as a whole: threads need no lock."""


def parse_enveloped_data(data: bytes) -> EnvelopedData:
    """Parse an envelope of at most `MAX_ENVELOPE` bytes.

    Raises:
        DecodingError: it is not the CMS that KMS sends; says where and why.
    """
    global _known  # noqa: PLW0603 (a small cache)
    for layout in _known:
        if layout.fits(data):
            return layout.read(data)
    layout = _parse_layout(data)
    _known = (layout, *_known[: _KEPT - 1])
    return layout.read(data)


def _parse_layout(data: bytes) -> _Layout:
    if len(data) > MAX_ENVELOPE:
        raise DecodingError(_FORMAT, f"{len(data)} bytes, more than {MAX_ENVELOPE}")
    ber = BerReader(data, _FORMAT)
    ber.enter(_SEQUENCE, "ContentInfo")
    ber.expect(_OID, _ENVELOPED_DATA, "contentType")
    ber.enter(_CONTEXT_0_CONSTRUCTED, "content")
    ber.enter(_SEQUENCE, "EnvelopedData")
    ber.expect(_INTEGER, b"\x02", "EnvelopedData version")
    ber.enter(_SET, "recipientInfos")
    key_identifier, encrypted_key = _key_transport_recipient(ber)
    ber.leave("recipientInfos")  # A second recipient is one too many.
    ber.enter(_SEQUENCE, "encryptedContentInfo")
    ber.expect(_OID, _DATA, "type of the encrypted content")
    ber.enter(_SEQUENCE, "contentEncryptionAlgorithm")
    ber.expect(_OID, _AES256_CBC, "contentEncryptionAlgorithm")
    iv = ber.primitive(_OCTETS, "initialisation vector")
    ber.leave("contentEncryptionAlgorithm")
    ciphertext = _encrypted_content(ber)
    ber.leave("encryptedContentInfo")
    ber.leave("EnvelopedData")
    ber.leave("content")
    ber.leave("ContentInfo")
    ber.finish()
    if (length := _length(key_identifier)) != 32:
        raise DecodingError(_FORMAT, f"subjectKeyIdentifier of {length} bytes")
    if (length := _length(iv)) != 16:
        raise DecodingError(_FORMAT, f"initialisation vector of {length} bytes")
    if not (length := sum(map(_length, ciphertext))) or length % 16:
        raise DecodingError(_FORMAT, f"encrypted content of {length} bytes")
    return _Layout(
        len(data),
        key_identifier,
        encrypted_key,
        iv,
        ciphertext,
        _between(data, (encrypted_key, iv, *ciphertext)),
    )


def _length(part: slice) -> int:
    return int(part.stop - part.start)


def _between(data: bytes, parts: tuple[slice, ...]) -> tuple[tuple[slice, bytes], ...]:
    """Return every byte that is in none of these parts, which are in order."""
    gaps = [
        slice(start, stop)
        for start, stop in zip(
            (0, *(part.stop for part in parts)),
            (*(part.start for part in parts), len(data)),
            strict=True,
        )
    ]
    return tuple((gap, data[gap]) for gap in gaps)


def open_enveloped_data(data: bytes, key: RSAPrivateKey, key_identifier: bytes) -> bytes:
    """Decrypt an envelope that was made for `key`.

    Args:
        data: the envelope, at most `MAX_ENVELOPE` bytes.
        key: the private key whose public half was attested.
        key_identifier: SHA-256 of that public half's SubjectPublicKeyInfo in DER.

    Raises:
        DecodingError: the envelope is malformed.
        DecryptionError: it does not open with this key; one message, whatever failed.
    """
    envelope = parse_enveloped_data(data)
    if not compare_digest(envelope.key_identifier, key_identifier):
        raise DecryptionError
    try:
        content_key = key.decrypt(envelope.encrypted_key, _OAEP_SHA256)
        if len(content_key) != 32:
            raise DecryptionError
        cipher = Cipher(algorithms.AES(content_key), modes.CBC(envelope.iv)).decryptor()
        unpadder = PKCS7(algorithms.AES.block_size).unpadder()
        padded = cipher.update(envelope.ciphertext) + cipher.finalize()
        return unpadder.update(padded) + unpadder.finalize()
    except ValueError:
        # Without `from`: which step failed must not be readable from the outside.
        raise DecryptionError from None


def _key_transport_recipient(ber: BerReader) -> tuple[slice, slice]:
    ber.enter(_SEQUENCE, "KeyTransRecipientInfo")
    ber.expect(_INTEGER, b"\x02", "KeyTransRecipientInfo version")
    key_identifier = ber.primitive(_CONTEXT_0, "subjectKeyIdentifier")
    ber.enter(_SEQUENCE, "keyEncryptionAlgorithm")
    ber.expect(_OID, _RSAES_OAEP, "keyEncryptionAlgorithm")
    # RFC 4055 section 4.1; without parameters OAEP would mean SHA-1, so they must be there.
    ber.enter(_SEQUENCE, "RSAES-OAEP-params")
    ber.enter(_CONTEXT_0_CONSTRUCTED, "OAEP hashAlgorithm")
    _sha256(ber, "OAEP hashAlgorithm")
    ber.leave("OAEP hashAlgorithm")
    ber.enter(_CONTEXT_1_CONSTRUCTED, "OAEP maskGenAlgorithm")
    ber.enter(_SEQUENCE, "OAEP maskGenAlgorithm")
    ber.expect(_OID, _MGF1, "OAEP maskGenAlgorithm")
    _sha256(ber, "MGF1 hash")
    ber.leave("OAEP maskGenAlgorithm")
    ber.leave("OAEP maskGenAlgorithm")
    ber.leave("RSAES-OAEP-params")  # A label (pSourceAlgorithm) is refused here.
    ber.leave("keyEncryptionAlgorithm")
    encrypted_key = ber.primitive(_OCTETS, "encryptedKey")
    ber.leave("KeyTransRecipientInfo")
    return key_identifier, encrypted_key


def _sha256(ber: BerReader, what: str) -> None:
    ber.enter(_SEQUENCE, what)
    ber.expect(_OID, _SHA256, what)
    if ber.peek() == _NULL:  # RFC 4055 section 2.1: NULL and absent mean the same.
        ber.expect(_NULL, b"", f"parameters of {what}")
    ber.leave(what)


def _encrypted_content(ber: BerReader) -> tuple[slice, ...]:
    if ber.peek() == _CONTEXT_0:
        return (ber.primitive(_CONTEXT_0, "encryptedContent"),)
    ber.enter(_CONTEXT_0_CONSTRUCTED, "encryptedContent")
    pieces = []
    while ber.peek() is not None:
        pieces.append(ber.primitive(_OCTETS, "piece of encryptedContent"))
    ber.leave("encryptedContent")
    return tuple(pieces)
