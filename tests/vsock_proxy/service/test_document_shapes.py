"""Attestation documents in the shapes that people keep them in."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import TYPE_CHECKING
from urllib.parse import quote

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.service.document_shapes import document_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

# Encoded by the library: the module under test has no CBOR decoder.
SIGNATURE = b"\x01" * 93 + b"\r\n\n"
DOCUMENT = cbor2.dumps([b"\xa1\x018\x22", {}, cbor2.dumps({"pcrs": {0: bytes(48)}}), SIGNATURE])
LARGE = cbor2.dumps([b"\xa1\x018\x22", {}, bytes(70_000), bytes(96)])
TEXT = base64.b64encode(DOCUMENT).decode()
URL = base64.urlsafe_b64encode(DOCUMENT).decode()
RESPONSE = cbor2.dumps({"Attestation": {"document": DOCUMENT}})


def lines(text: str, width: int = 76, end: str = "\n") -> str:
    return end.join(text[i : i + width] for i in range(0, len(text), width)) + end


SHAPES: dict[str, bytes | str] = {
    "as it is": DOCUMENT,
    "line end": DOCUMENT + b"\n",
    "line end of Windows": DOCUMENT + b"\r\n",
    "tagged, with line end": b"\xd2" + DOCUMENT + b"\n",
    "hex": DOCUMENT.hex(),
    "hex in capitals, in lines": lines(DOCUMENT.hex().upper(), 60),
    "hex with 0x": f"0x{DOCUMENT.hex()}\n",
    "base64": TEXT,
    "base64 in lines": lines(TEXT),
    "base64 in lines of Windows": lines(TEXT, 64, "\r\n"),
    "base64 without padding": TEXT.rstrip("="),
    "base64url": URL,
    "base64url without padding": URL.rstrip("="),
    "byte order mark": b"\xef\xbb\xbf" + lines(TEXT).encode(),
    "UTF-16": lines(TEXT).encode("utf-16"),
    "JSON string": json.dumps(TEXT),
    "JSON string of lines": json.dumps(lines(TEXT)),
    "JSON object": json.dumps({"attestation": TEXT, "at": "2025-01-01"}),
    "JSON within JSON": json.dumps({"result": {"items": [{"document": URL}]}, "ok": True}),
    "JSON in JSON's string": json.dumps({"body": json.dumps({"doc": TEXT})}),
    "twice the same": json.dumps([TEXT, URL]),
    "list of bytes": json.dumps(list(DOCUMENT)),
    "Buffer": json.dumps({"doc": {"type": "Buffer", "data": list(DOCUMENT)}}),
    "NSM's response": RESPONSE,
    "NSM's response in base64": base64.b64encode(RESPONSE),
    "NSM's response in hex": RESPONSE.hex(),
    "base64 of base64": base64.b64encode(TEXT.encode()),
    "byte string of CBOR": cbor2.dumps(DOCUMENT),
    "data: URL": f"data:application/cbor;base64,{TEXT}",
    "percent-encoded": quote(TEXT, safe=""),
    "response with its head": f"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{TEXT}",
    "YAML": f"document: {TEXT}\n",
    "YAML, binary": f"document: !!binary |\n  {lines(TEXT, 60, chr(10) + '  ')}",
    "after a name": f"attestation document: {list(DOCUMENT)}",
    "in quotes": f"'{TEXT}'",
    "C": "unsigned char d[] = {\n" + ", ".join(f"0x{byte:02x}" for byte in DOCUMENT) + "\n};",
    "C, escapes": '"' + "".join(f"\\x{byte:02x}" for byte in DOCUMENT) + '"',
    "C#": DOCUMENT.hex("-").upper(),
    "CBOR's diagnostic notation": f"h'{DOCUMENT.hex()}'",
    "Erlang": f"<<{','.join(map(str, DOCUMENT))}>>",
    "Go": f"[{' '.join(map(str, DOCUMENT))}]",
    "Go, as source": "[]byte{" + ", ".join(hex(byte) for byte in DOCUMENT) + "}",
    "hex with colons": DOCUMENT.hex(":"),
    "hex with spaces, in lines": lines(DOCUMENT.hex(" "), 48),
    "Java": str([byte - 256 if byte > 127 else byte for byte in DOCUMENT]),
    "JavaScript": f"Uint8Array({len(DOCUMENT)}) [ {', '.join(map(str, DOCUMENT))} ]",
    "Python": repr(DOCUMENT),
    "Python, bytearray": repr(bytearray(DOCUMENT)),
    "Rust": f"[{', '.join(f'{byte:02x}' for byte in DOCUMENT)}]",
    "Rust, pretty": "[\n" + "".join(f"    {byte},\n" for byte in DOCUMENT) + "]",
    "shell, octal": "".join(f"\\{byte:03o}" for byte in DOCUMENT),
    "armour": f"-----BEGIN ATTESTATION-----\n{lines(TEXT, 64)}-----END ATTESTATION-----\n",
    "armour with headers": (
        f"-----BEGIN DOC-----\nVersion: 1\n\n{lines(TEXT, 64)}-----END DOC-----"
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str) -> None:
    shape = SHAPES[name]
    data = shape.encode() if isinstance(shape, str) else shape
    expected = b"\xd2" + DOCUMENT if name.startswith("tagged") else DOCUMENT
    assert document_bytes(data) == expected


def test_a_large_document() -> None:
    assert document_bytes(LARGE + b"\n") == LARGE
    assert document_bytes(cbor2.dumps({"Attestation": {"document": LARGE}})) == LARGE


def test_armour_that_never_ends_is_read_once() -> None:
    """As one pattern, each BEGIN would search all that follows it: a MiB would take hours."""
    with pytest.raises(ConfigurationError, match="neither hex nor base64: '!'"):
        document_bytes(b"-----BEGIN X!-----" * 60_000)


@pytest.mark.parametrize("rest", [b"x", b"\nx", b"\0"])
def test_what_follows_a_document_stays(rest: bytes) -> None:
    """The parser says so: what follows may have been meant to be signed."""
    assert document_bytes(DOCUMENT + rest) == DOCUMENT + rest


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b" \r\n", "is empty"),
        (b".eif\0\4", "an enclave image"),
        (b"\x7fELF\2", "an ELF program"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"PK\x03\x04", "zip"),
        (b"\x30\x82\x02\x11", "DER"),
        (
            b"-----BEGIN CERTIFICATE-----\nMIIC\n-----END CERTIFICATE-----",
            "PEM file of CERTIFICATE",
        ),
        (b"-----BEGIN \x1b[2J-----\nMIIC\n-----END X-----", r"PEM file of \?"),
        (b'{"Measurements": {"PCR0": ""}}', "nitro-cli's JSON with measurements"),
        (b'[{"Measurements": {}}]', "nitro-cli's JSON with measurements"),
        (b'{"a": 1}', "no attestation document in the JSON"),
        (b'{"a": ', "begins like JSON, but is not JSON"),
        (base64.b64encode(b"\x1f\x8b\x08"), "gzip"),
        (b"\x7fELF\2".hex().encode(), "an ELF program"),
        (b"hello, world", "neither hex nor base64: ',' stands at character 6"),
        (f"b'{TEXT}".encode(), 'neither hex nor base64: "\'" stands at character 2'),
        (f"a document: {TEXT}".encode(), "neither hex nor base64: ':' stands at character 11"),
        (b"[132 68 300]", "begins like JSON, but is not JSON"),
        (b"{-124, 200}", "begins like JSON, but is not JSON"),
        (b'00000000: 8444 a101 3822 a059 1151 bf69  .D..8"', "a dump, as of xxd"),
        (b"84 44 a1 01  |.D..|", "a dump, as of xxd"),
        (b" 84 44 a1\n*\n 00 01", "a dump, as of xxd"),
        (b"<!doctype html><title>403</title>", "HTML or XML"),
        (b"<Buffer 84 44 a1 ... 4732 more bytes>", "what Node prints of a Buffer"),
        (b"Uint8Array(4782) [ 132, 68,\n  ... 4682 more items ]", "a list that is cut short"),
        (b"[132, 68, ...]", "a list that is cut short"),
        (b"eyJhbGciOiJub25lIn0.aGVsbG8.", "a JSON Web Token"),
        (TEXT[:-3].encode(), "(?m)neither hex nor base64$"),
        (("\n  " + TEXT + "\u20ac").encode(), "neither hex nor base64: '\u20ac'"),
        (b"[" * 100_000, "begins like JSON, but is not JSON"),
        (
            json.dumps({"a": TEXT, "b": base64.b64encode(LARGE).decode()}).encode(),
            "2 different attestation documents",
        ),
    ],
)
def test_what_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        document_bytes(data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x84\x44", b"\x84\x44"),
        (b"\x84\x58", b"\x84\x58"),
        (b"\x84\x5b" + bytes(8), b"\x84\x5b" + bytes(8)),
        (b"\x84\x44\xa1\x018\x22\xa1", b"\x84\x44\xa1\x018\x22\xa1"),
        (b"\xa1\x6bAttestation\xa1\x68document\x60", b"\xa1\x6bAttestation\xa1\x68document\x60"),
        (b"\xff\xfe\x00", b"\xff\xfe\x00"),
        (b"\x1b[2J, world", b"\x1b[2J, world"),
        (b"zzzz", b"\xcf<\xf3"),
    ],
)
def test_what_is_left_to_the_parser(data: bytes, expected: bytes) -> None:
    assert document_bytes(data) == expected


_WRAPS: dict[str, Callable[[bytes], bytes]] = {
    "hex": lambda d: d.hex().encode(),
    "base64": base64.b64encode,
    "url": lambda d: base64.urlsafe_b64encode(d).rstrip(b"="),
    "lines": base64.encodebytes,
    "json": lambda d: json.dumps({"x": [base64.b64encode(d).decode()]}).encode(),
    "bytes": lambda d: json.dumps(list(d)).encode(),
    "nsm": lambda d: cbor2.dumps({"Attestation": {"document": d}}),
    "bytes of CBOR": cbor2.dumps,
    "Python": lambda d: repr(d).encode(),
    "Go": lambda d: f"[{' '.join(map(str, d))}]".encode(),
    "percent": lambda d: quote(d, safe="").encode(),
}


@given(
    st.binary(max_size=80),
    st.binary(min_size=96, max_size=96),
    st.lists(st.sampled_from(sorted(_WRAPS)), max_size=3),
    st.sampled_from([b"", b"\n", b"\r\n"]),
)
@example(b"100 %41", bytes(96), ["Python"], b"")
@example(b"%25%41", bytes(96), ["percent", "Python"], b"\n")
def test_shapes_within_shapes(
    payload: bytes, signature: bytes, shapes: list[str], end: bytes
) -> None:
    document = cbor2.dumps([b"\xa1\x018\x22", {}, payload, signature])
    data = document
    for shape in shapes:
        data = _WRAPS[shape](data)
    assert document_bytes(data + end) == document


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode()))
@example(b"\x84" * 100)
@example(b"[" + b"[1,2]," * 5000 + b"1]")
@example(b"(" * 500_000)
@example(b"[" + b"1 " * 300_000 + b"?")
@example(b"84-" * 200_000 + b"x")
@example(b"HTTP/1.1 200\n" + b" \t" * 300_000 + b"x")
@example(b"%25" * 200_000)
@example(b"b'" + b"\\a" * 300_000)
@example(b"%41" * 200_000 + b"%")
def test_only_the_documented_error(data: bytes) -> None:
    with contextlib.suppress(ConfigurationError):
        assert isinstance(document_bytes(data), bytes)
