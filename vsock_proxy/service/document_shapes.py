"""Attestation documents out of the shapes in which people keep them. No I/O, and no CBOR decoder.

Nothing is verified here: what is returned are the bytes to parse. Both sides use it: `enclave`
verifies documents, `parent` reads measurements from them.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Any

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.service.json_text import parse_json
from vsock_proxy.service.printed_bytes import name_of, printed_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

SHAPES = (
    "as it is, in hex, base64 or base64url, as a language prints bytes, in PEM-like armour, in a "
    "JSON string, list of bytes or object, or in the NSM's response"
)
"""What `document_bytes` reads, for help texts."""

_COSE_TAG = b"\xd2"
_NSM_RESPONSE = b"\xa1\x6bAttestation\xa1\x68document"
"""CBOR of ``{"Attestation": {"document": `` (aws-nitro-enclaves-nsm-api)."""

_MAX_DEPTH = 8
"""Shapes within shapes: JSON with base64 of the NSM's response, for example."""

_MAX_STRINGS = 2000
_TRAILING = b" \t\r\n"
_BEGIN = re.compile(r"-----BEGIN ([^\n-]*)-----")
_END = re.compile(r"-----END [^\n-]*-----")
_BOMS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}

_OTHERS = (
    # start of the file, what it is
    (b".eif", "an enclave image, not an attestation document"),
    (b"\x7fELF", "an ELF program, not an attestation document"),
    (b"\x1f\x8b", "compressed with gzip: decompress it"),
    (b"PK\x03\x04", "a zip file: unpack it"),
    (b"\x30\x82", "DER, such as a certificate, not an attestation document"),
)


def document_bytes(data: bytes) -> bytes:
    """Return the attestation document in some input.

    Input of no known shape is returned unchanged, for the parser to report what is wrong.

    Raises:
        ConfigurationError: it is something else that is recognised, or holds several documents.
    """
    if not data.strip(_TRAILING):
        raise ConfigurationError("the attestation document is empty")
    _reject_others(data)
    found = list(dict.fromkeys(_documents(data, 0)))
    if len(found) > 1:
        raise ConfigurationError(
            f"the input holds {len(found)} different attestation documents",
            hint="give a file with one of them",
        )
    if found:
        return found[0]
    return _unrecognised(data)


def _documents(data: bytes, depth: int) -> Iterator[bytes]:
    """Yield the documents in some bytes."""
    if depth > _MAX_DEPTH:
        return
    if (document := _trimmed(data)) is not None:
        yield document
    elif data.startswith(_NSM_RESPONSE):
        yield from _documents(_byte_string(data, len(_NSM_RESPONSE)), depth + 1)
    else:
        if (text := _text(data)) is not None:
            yield from _documents_in_text(text, depth)
        # A byte string of CBOR, as COSE_Sign1 is often passed on. Around text it is text as well:
        # its head may be letters.
        start, size = _head(data, 0)
        end = (start or 0) + size
        if start is not None and end <= len(data) and not data[end:].strip(_TRAILING):
            yield from _documents(data[start:end], depth + 1)


def _documents_in_text(text: str, depth: int) -> Iterator[bytes]:
    text = text.strip()
    if text[:1] in ("{", "[", '"') and (value := _json(text)) is not None:
        for part in _parts(value):
            yield from _documents(part, depth + 1)
        return
    if armour := _armour(text):
        # Headers, as in RFC 4880, stand before an empty line.
        body = re.split(r"\r?\n\s*\r?\n", armour[1].strip("\r\n"), maxsplit=1)[-1]
        yield from _documents_in_text(body, depth + 1)
        return
    printed = printed_bytes(text)
    if isinstance(printed, str):
        yield from _documents(printed.encode(), depth + 1)
    elif (decoded := _decoded(text) if printed is None else printed) is not None:
        yield from _documents(decoded, depth + 1)


def _armour(text: str) -> tuple[str, str] | None:
    """Return the label of the first PEM-like armour and what is in it.

    Two searches: as one pattern, each BEGIN without an END would search the rest of the text.
    """
    begin = _BEGIN.search(text)
    end = _END.search(text, begin.end()) if begin else None
    return (begin[1], text[begin.end() : end.start()]) if begin and end else None


def _trimmed(data: bytes) -> bytes | None:
    """Return a document without white space after it; None if the bytes are not like one."""
    if data[:1] != b"\x84" and data[:2] != _COSE_TAG + b"\x84":
        return None
    end = _end(data)
    # A signature may end in a byte that is white space: only what follows it is cut.
    return data[:end] if end is not None and not data[end:].strip(_TRAILING) else data


def _end(data: bytes) -> int | None:
    """Return where a COSE_Sign1 ends: header, empty map, payload, signature."""
    index = 2 if data[:1] == _COSE_TAG else 1
    for is_map in (False, True, False, False):
        if is_map:
            if data[index : index + 1] != b"\xa0":
                return None
            index += 1
        else:
            start, size = _head(data, index)
            if start is None or start + size > len(data):
                return None
            index = start + size
    return index


def _head(data: bytes, index: int) -> tuple[int | None, int]:
    """Read the head of a CBOR byte string; where its bytes begin (None: no such), and how many."""
    if index >= len(data) or data[index] >> 5 != 2:
        return None, 0
    kind = data[index] & 0x1F
    if kind < 24:
        return index + 1, kind
    width = {24: 1, 25: 2, 26: 4}.get(kind)
    if width is None or index + 1 + width > len(data):
        return None, 0
    return index + 1 + width, int.from_bytes(data[index + 1 : index + 1 + width])


def _byte_string(data: bytes, index: int) -> bytes:
    start, size = _head(data, index)
    return b"" if start is None else data[start : start + size]


def _text(data: bytes) -> str | None:
    encoding = next((name for bom, name in _BOMS.items() if data.startswith(bom)), "utf-8")
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError:
        return None
    return text if "\0" not in text else None


def _json(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return None


def _parts(value: Any) -> Iterator[bytes]:
    """Yield what may be a document in a JSON value: its strings, and its lists of bytes."""
    ahead, strings = [value], 0
    while ahead and strings < _MAX_STRINGS:
        item = ahead.pop()
        if isinstance(item, str):
            strings += 1
            yield item.encode(errors="replace")
        elif isinstance(item, dict):
            ahead.extend(item.values())
        elif isinstance(item, list):
            if (listed := _bytes(item)) is not None:
                yield listed
            else:
                ahead.extend(item)


def _bytes(item: list[Any]) -> bytes | None:
    """Return a list of numbers as bytes; those of Java and of Scala are signed."""
    if not item or not all(type(byte) is int and -128 <= byte < 256 for byte in item):
        return None
    if min(item) < 0 and max(item) > 127:
        return None
    return bytes(byte & 0xFF for byte in item)


def _decoded(text: str) -> bytes | None:
    """Decode hex, base64 or base64url; None for other text."""
    text = "".join(text.split())
    digits = text.removeprefix("0x")
    if re.fullmatch(r"(?:[0-9a-fA-F]{2})+", digits):
        return bytes.fromhex(digits)
    if not re.fullmatch(r"[A-Za-z0-9+/_-]+={0,2}", text):
        return None
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _unrecognised(data: bytes) -> bytes:
    """Return the input, decoded if it is text, or name what it is.

    Raises:
        ConfigurationError: it is something else that is recognised.
    """
    text = _text(data)
    if text is None:
        return data
    text = text.strip()
    if armour := _armour(text):
        label = armour[0].strip()
        label = label if label.isprintable() else "?"
        raise ConfigurationError(f"this is a PEM file of {label:.40}, not an attestation document")
    if text[:1] in ("{", "[", '"'):
        value = _json(text)
        if value is None:
            _reject_named(text)
            raise ConfigurationError("the attestation document begins like JSON, but is not JSON")
        item = value[0] if isinstance(value, list) and value else value
        if isinstance(item, dict) and "Measurements" in item:
            raise ConfigurationError(
                "this is nitro-cli's JSON with measurements, not an attestation document",
                hint="enclave-parent key-policy reads it; a document comes from the enclave's NSM",
            )
        raise ConfigurationError("no attestation document in the JSON")
    if decoded := _decoded(text):
        _reject_others(decoded)
        return decoded
    _reject_named(text)
    if all(c.isprintable() or c.isspace() for c in text):
        odd = re.search(r"[^A-Za-z0-9+/=_\s-]", text)
        where = f": {odd[0]!r} stands at character {odd.start() + 1}" if odd else ""
        raise ConfigurationError(
            f"this is text, but neither hex nor base64{where}",
            hint="give the document alone: as bytes, in hex, base64 or JSON",
        )
    return data


def _reject_named(text: str) -> None:
    if named := name_of(text):
        what, advice = named
        raise ConfigurationError(f"this is {what}, not an attestation document", hint=advice)


def _reject_others(data: bytes) -> None:
    for start, description in _OTHERS:
        if data.startswith(start):
            raise ConfigurationError(f"this is {description}")
