"""Encrypted values of a SOPS file. No I/O.

Source: getsops/sops, ``aes/cipher.go``.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from enclave.errors import DecodingError
from vsock_proxy.service.sops_values import Timestamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from vsock_proxy.service.sops_values import Scalar

FORMAT: Final = "SOPS file"

_ENCRYPTED: Final = re.compile(
    r"ENC\[AES256_GCM,data:([A-Za-z0-9+/=]*),iv:([A-Za-z0-9+/=]+),tag:([A-Za-z0-9+/=]+),"
    r"type:([a-z]+)\]"
)
_TAG_SIZE: Final = 16
_IV_SIZES: Final = range(12, 65)
"""Bytes: SOPS writes 32; its first versions, 12."""

_INT64: Final = range(-(2**63), 2**63)


def open_value(text: str, key: bytes | bytearray, additional_data: str) -> Scalar:
    """Decrypt one value, or the MAC.

    Args:
        text: as the file has it; an empty text stands for itself, as SOPS never encrypts one.
        key: the file's data key.
        additional_data: the path of the value, each part with a colon behind it.

    Raises:
        DecodingError: it is not an encrypted value, or not of this key and place.
    """
    if not text:
        return ""
    if (match := _ENCRYPTED.fullmatch(text)) is None:
        raise DecodingError(FORMAT, "a value that should be encrypted is not")
    data, iv, tag = (_base64(part) for part in match.groups()[:3])
    if len(tag) != _TAG_SIZE or len(iv) not in _IV_SIZES:
        raise DecodingError(FORMAT, "an encrypted value has a tag or an IV of the wrong size")
    if (read := _READERS.get(match[4])) is None:
        raise DecodingError(FORMAT, f"an encrypted value is of the unknown type {match[4][:20]!r}")
    try:
        opened = AESGCM(bytes(key)).decrypt(iv, data + tag, additional_data.encode())
    except InvalidTag:
        raise DecodingError(
            FORMAT,
            "a value does not open with the file's data key in this place",
            hint="it was altered, truncated, moved within the file or copied from another one",
        ) from None
    try:
        return read(opened)
    except ValueError:  # of which UnicodeDecodeError is one; its text has the value
        raise DecodingError(FORMAT, f"a decrypted value is not of its type {match[4]}") from None


def read_int(text: str) -> int:
    """Return a decimal number of 64 bits.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", text):
        raise ValueError
    number = int(text)
    if number not in _INT64:
        raise ValueError
    return number


def _bool(opened: bytes) -> bool:
    if opened not in (b"True", b"False", b"true", b"false"):
        raise ValueError
    return opened in (b"True", b"true")


def _text(opened: bytes) -> str:
    return opened.decode("utf-8", "surrogateescape")


def _float(opened: bytes) -> float:
    return float(opened.decode("ascii"))


_READERS: Final[dict[str, Callable[[bytes], Scalar]]] = {
    "str": _text,
    "int": lambda opened: read_int(opened.decode("ascii")),
    "float": _float,
    "bool": _bool,
    "bytes": _text,
    "time": lambda opened: Timestamp(opened.decode("ascii")),
}


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise DecodingError(FORMAT, "an encrypted value is not base64") from None
