"""Bytes as programming languages and tools print them. No I/O.

Who logs an attestation document gets what the language makes of bytes: ``[132 68 161]`` in Go,
signed numbers in Java, ``84-44-A1`` in C#, a literal with escapes in Python. These are read where
nothing of them is lost, and otherwise named, with what to print in their place.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

_LIST = re.compile(
    r"[\w\s\[\]()=!.:&*]{0,60}?[\[{(<]{1,2}\s*([-\w]+(?:[\s,;]+[-\w]+)*)[\s,]*[\]})>]+[);,]*"
)
"""Of numbers, with what some languages write before it: ``[]byte{``, ``Uint8Array(9) [``."""

_PAIR: Final = r"(?:0x|\\x)?[0-9a-fA-F]{2}"
_SEPARATED = re.compile(rf"{_PAIR}(?:(?:[-:,\s]\s*|(?=\\x)){_PAIR})+[,;\s]*")
_LITERAL = re.compile(r"""(?:bytearray\()?[b$]?(['"])((?:[^\\\n]|\\.)*)\1\)?""")
_ESCAPED_ONLY = re.compile(r"(?:\\(?:x[0-9a-fA-F]{2}|[0-7]{3}))+")
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|[0-7]{3}|.)")
_ESCAPED: Final = dict(zip("nrt0abfv", "\n\r\t\0\a\b\f\v", strict=True))
_BEFORE = re.compile(r"data:[^,]{0,200};base64,|[\w.-]{1,80}:\s+(?:!!binary\s*)?(?:[|>][-+]?\s)?")
"""What stands before base64: of a ``data:`` URL (RFC 2397), or a key of YAML."""

_DIAGNOSTIC = re.compile(r"(?:18\()?(h|b64)'([^']*)'\)?")
"""A byte string in CBOR's diagnostic notation (RFC 8949, section 8)."""

_PERCENT = re.compile(r"(?:%[0-9a-fA-F]{2}|[\w.~!*()/+-])+", re.ASCII)
"""Percent-encoding (RFC 3986, section 2.1), and nothing else: other prints may have a % in them."""

_HTTP_HEAD = re.compile(r"HTTP/\d[^\n]*\n(?:[^\s][^\n]*\n)*\r?\n")

_NAMED: Final = (
    # how it looks, what it is, what to do
    (
        r"<Buffer [0-9a-f ]+(?:\.\.\.|>)",
        "what Node prints of a Buffer, which is cut short",
        "print buffer.toString('base64')",
    ),
    (r"<(?:!|\?|[a-zA-Z]+[\s>])", "HTML or XML, such as an error page", "what sent it, and why?"),
    (r"eyJ[\w-]*\.[\w-]+\.", "a JSON Web Token", "give the document that is in it"),
    (
        r"(?:[0-9a-fA-F]{4,16}:?[ \t]+)?[0-9a-fA-F]{2,8}[ \t](?:[^\n]*[ \t]{2}|[\s\S]*^\*$)",
        "a dump, as of xxd, hexdump or od",
        "print it with xxd -p, or base64",
    ),
    (r"(?s).*\d, ?\.\.\.|.*\.{3} \d+ more", "a list that is cut short", "print it in base64"),
)


def printed_bytes(text: str) -> bytes | str | None:
    """Return the bytes in such a text, or the text that is packed in it; None for other text."""
    if head := _HTTP_HEAD.match(text):
        return text[head.end() :]
    if before := _BEFORE.match(text):
        return text[before.end() :]
    if "%" in text and _PERCENT.fullmatch(text):
        return unquote_to_bytes(text)
    if found := _DIAGNOSTIC.fullmatch(text):
        return found[2]
    if found := _LITERAL.fullmatch(text):
        return _unescaped(found[2])
    if _ESCAPED_ONLY.fullmatch(text):
        return _unescaped(text)
    if _SEPARATED.fullmatch(text):
        return bytes.fromhex(re.sub(r"0x|\\x|[^0-9a-fA-F]", "", text))
    if found := _LIST.fullmatch(text):
        return _numbers(re.split(r"[\s,;]+", found[1]))
    return None


def name_of(text: str) -> tuple[str, str] | None:
    """Return what some text is, and what to do about it; None if nobody knows."""
    for pattern, what, advice in _NAMED:
        if re.match(pattern, text, re.MULTILINE):
            return what, advice
    return None


def _unescaped(text: str) -> bytes | str | None:
    """Return the bytes of a literal; without an escape it is text."""
    if "\\" not in text:
        return text

    def plain(found: re.Match[str]) -> str:
        word = found[1]
        if len(word) == 1:
            return _ESCAPED.get(word, word)
        return chr(int(word[1:], 16) if word[0] == "x" else int(word, 8) & 0xFF)

    try:
        return _ESCAPE.sub(plain, text).encode("latin-1")
    except UnicodeEncodeError:
        return None


def _numbers(words: list[str]) -> bytes | None:
    """Return the bytes of numbers: decimal, as Java's signed ones, with 0x, or all in hex."""
    try:
        if any(re.search("[a-fA-F]", word) and word[:2].lower() != "0x" for word in words):
            numbers = [int(word, 16) for word in words if len(word) == 2]
        else:
            numbers = [int(word, 16 if word[:2].lower() == "0x" else 10) for word in words]
    except ValueError:
        return None
    if len(numbers) != len(words) or not numbers:
        return None
    if min(numbers) < -128 or max(numbers) > (127 if min(numbers) < 0 else 255):
        return None
    return bytes(number & 0xFF for number in numbers)
