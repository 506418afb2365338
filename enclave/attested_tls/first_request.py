"""Tells a request for an attestation document from the program's bytes. No I/O.

Only what begins with `START` is parsed at all, and strictly: anything else, in whatever protocol,
belongs to the program from its first byte on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from enclave.attested_tls.binding import MAX_NONCE, MIN_NONCE, PATH, parse_nonce

MAX_HEAD: Final = 8_192
"""Bytes of the head of a request for a document."""

MEDIA_TYPE: Final = 'application/cose; cose-type="cose-sign1"'
"""RFC 9052, section 11.3.1."""

_START: Final = b"GET " + PATH.encode()
_LINE: Final = re.compile(rb"GET [^ ?]+(?:\?nonce=([!-~]*))? HTTP/1\.1")
_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t -~\x80-\xff]*)")
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class DocumentRequest:
    """A request for a document.

    Attributes:
        nonce: what the document must have; None: any document of the key.
        keep_alive: whether the client will send another request.
        size: bytes of it.
    """

    nonce: bytes | None
    keep_alive: bool
    size: int


@dataclass(frozen=True, slots=True)
class Rejection:
    """An invalid request for a document: the status, and why."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class Undecided:
    """More bytes are needed."""


@dataclass(frozen=True, slots=True)
class Programs:
    """The bytes are the program's, all of them, and all that follow."""


Verdict = DocumentRequest | Rejection | Undecided | Programs


def look(data: bytes | bytearray) -> Verdict:
    """Return what the first bytes of a client are, or of those after a document."""
    start = bytes(data[: len(_START) + 1])
    if not start.startswith(_START):
        return Undecided() if _START.startswith(start) else Programs()
    if len(start) > len(_START) and start[-1:] not in b" ?":
        return Programs()  # a longer path
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD)
    if end < 0:
        if len(data) >= MAX_HEAD:
            return Rejection(431, f"the request is longer than {MAX_HEAD} bytes")
        return Undecided()
    return _parse(bytes(data[:end]), end + 4)


def _parse(head: bytes, size: int) -> DocumentRequest | Rejection:
    line, *lines = head.split(b"\r\n")
    request = _LINE.fullmatch(line)
    if request is None:
        return Rejection(400, "not GET with ?nonce=HEX or no query, in HTTP/1.1")
    headers: dict[bytes, bytes] = {}
    for each in lines:
        header = _HEADER.fullmatch(each)
        if header is None:
            return Rejection(400, "a header is malformed")
        headers[header[1].lower()] = header[2].strip(b" \t").lower()
    # With a body two readers could disagree on where the program's bytes begin.
    if headers.keys() & {b"content-length", b"transfer-encoding"}:
        return Rejection(400, "a body, where none belongs")
    nonce = None
    if request[1] is not None and (nonce := parse_nonce(request[1].decode("ascii"))) is None:
        return Rejection(400, f"the nonce is not {MIN_NONCE} to {MAX_NONCE} bytes in hex")
    closes = b"close" in [each.strip() for each in headers.get(b"connection", b"").split(b",")]
    return DocumentRequest(nonce, not closes, size)


def document_response(document: bytes, *, fresh: bool, close: bool) -> bytes:
    """Return the response with a document; `fresh` is one with the client's nonce."""
    cache = "no-store" if fresh else "max-age=60"
    return _response(200, MEDIA_TYPE, document, (f"Cache-Control: {cache}",), close=close)


def rejection_response(status: int, reason: str, *, retry_after: int | None = None) -> bytes:
    """Return the response to a request that gets no document; the connection ends with it."""
    more = () if retry_after is None else (f"Retry-After: {retry_after}",)
    body = reason.encode("ascii", "replace") + b"\n"
    return _response(status, "text/plain", body, more, close=True)


def _response(
    status: int, media_type: str, body: bytes, more: tuple[str, ...], *, close: bool
) -> bytes:
    lines = (
        f"HTTP/1.1 {status} {_REASONS[status]}",
        f"Content-Type: {media_type}",
        f"Content-Length: {len(body)}",
        *more,
        f"Connection: {'close' if close else 'keep-alive'}",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii") + body
