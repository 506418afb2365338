"""One request and its response, strictly after HTTP/1.1 (RFC 9112). No I/O.

h11 knows the grammar and rejects what two readers could take differently; this also rejects what
these services have no use for: bodies, other methods, a second request.
"""

from __future__ import annotations

import http
import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import h11

if TYPE_CHECKING:
    from collections.abc import Sequence

METHODS: Final = ("GET", "HEAD")

MAX_HEAD: Final = 8_192
"""Bytes of request line and headers; a Prometheus scrape has about 500."""

_ABSOLUTE: Final = re.compile(r"http://([^/?]+)(.*)", re.IGNORECASE)
"""An absolute-form target: its authority, and its path and query."""


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request.

    Attributes:
        method: GET or HEAD, or another that the server allows.
        path: as it was sent, without what follows a question mark.
        host: the Host header; "" if an HTTP/1.0 client sent none.
        cid: the context id of the enclave, which the kernel vouches for; None if the
            connection is not a vsock connection.
    """

    method: str
    path: str
    host: str = ""
    cid: int | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response; the connection is closed after it.

    Attributes:
        status: its code.
        body: its content.
        content_type: of the body.
        headers: more headers, as name and value; ASCII, without line ends.
    """

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


def message(status: int, text: str) -> Response:
    """Return an error response: JSON with a ``message``."""
    return Response(status, json.dumps({"message": text}).encode())


class Exchange:
    """Parses the request of one connection, and encodes its response."""

    def __init__(self, cid: int | None = None, methods: Sequence[str] = METHODS) -> None:
        self._cid = cid
        self._methods = methods
        self._head_only = False
        self._request: Request | None = None
        self._first, self._begun = b"", False
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)

    def feed(self, data: bytes) -> Request | Response | None:
        """Take the next bytes; none if the client has half-closed the connection.

        Returns:
            The request, an error response if it is invalid, or None if incomplete. Not to be
            called after the first two.
        """
        if not self._begun:
            # An empty line before the request, as some old clients send it (RFC 9112, 2.2).
            self._first += data
            if data and b"\r\n".startswith(self._first):
                return None
            data, self._begun = self._first.removeprefix(b"\r\n"), True
        try:
            self._http.receive_data(data)
            return self._read()
        except h11.RemoteProtocolError as e:
            return message(e.error_status_hint, f"not an HTTP request: {e}")

    def _read(self) -> Request | Response | None:
        while True:
            event = self._http.next_event()
            match event:
                case h11.Request():
                    headers: dict[bytes, bytes] = dict(event.headers)
                    method = event.method.decode("ascii")
                    self._head_only = method == "HEAD"
                    if event.http_version not in (b"1.0", b"1.1"):
                        return message(505, "this is not HTTP/1.1")
                    if method not in self._methods:
                        return message(405, f"only {' and '.join(self._methods)} are supported")
                    length = headers.get(b"content-length", b"0")
                    if b"transfer-encoding" in headers or int(length):
                        return message(413, "a request here has no body")
                    target = event.target.decode("ascii")
                    host = headers.get(b"host", b"").decode("latin-1")
                    absolute = _ABSOLUTE.fullmatch(target)
                    if absolute:  # Then the header does not count (RFC 9112, 3.2.2).
                        host, target = absolute[1], absolute[2]
                    path = target.partition("?")[0] or "/"
                    self._request = Request(method, path, host, self._cid)
                case h11.EndOfMessage():
                    return self._request
                case h11.ConnectionClosed():
                    return message(400, "no request")
                case _:
                    return None

    def encode(self, response: Response, *, date: str) -> bytes:
        """Return the bytes of the response."""
        headers = [
            ("Date", date),
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(response.body))),
            ("Cache-Control", "no-store"),
            ("Connection", "close"),
            *response.headers,
        ]
        if response.status == 405:
            headers.append(("Allow", ", ".join(self._methods)))
        reason = http.HTTPStatus(response.status).phrase
        head = [f"HTTP/1.1 {response.status} {reason}"]
        head += [f"{name}: {value}" for name, value in headers]
        shown = replace(response, body=b"") if self._head_only else response
        return "\r\n".join((*head, "", "")).encode("ascii") + shown.body
