"""HTTP CONNECT (RFC 9110, section 9.3.6), from both sides: heads are written and parsed. No I/O.

A head ends with an empty line; what follows it belongs to the tunnel.
"""

from __future__ import annotations

import errno
import re
from typing import Protocol

from vsock_proxy.net.addresses import may_be_host

MAX_HEAD = 8192
"""Bytes in the head of a request or response."""

MAX_REASON = 240
"""Characters of a reason phrase that are passed on."""

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"

_END = b"\r\n\r\n"
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_FIELDS = rb"(?:" + _TOKEN + rb":[\t -~\x80-\xff]*\r\n)*"
_CONNECT = re.compile(
    rb"CONNECT ([^][@/:?#\s]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5}) HTTP/1\.[01]\r\n("
    + _FIELDS
    + rb")\r\n"
)
_CONTENT = re.compile(rb"(?im)^(?:transfer-encoding:|content-length:(?![\t ]*0[\t ]*\r))")
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([^ \r\n]*) (HTTP/[0-9](?:\.[0-9])?)\r\n")
_STATUS_LINE = re.compile(
    rb"HTTP/1\.[01] ([0-9]{3})(?: ([\t -~\x80-\xff]*))?\r\n" + _FIELDS + _END[2:]
)
_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")
_KNOWN_METHODS = {b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE"}
_UNPRINTABLE = re.compile(r"[^ -~]")

_PHRASES = {
    400: "Bad Request",
    403: "Forbidden",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}


class HeadStream(Protocol):
    """A stream socket to read a head from."""

    def recv(self, count: int, flags: int = ..., /) -> bytes:
        """Receive, as `socket.socket.recv` does."""
        ...


class RequestError(Exception):
    """A request that is rejected.

    Attributes:
        status: of the response.
        reason: one line.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason


class TunnelRefusedError(ConnectionError):
    """The proxy that a tunnel was to lead through has refused it.

    Attributes:
        status: of its response; 0 if that was not HTTP.
        reason: the reason phrase, printable and bounded: who wrote it is not trusted.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"the egress proxy responded {status or 'no HTTP'}: {reason}")
        self.status = status
        self.reason = reason


class HeadReader:
    """Reads a head.

    Args:
        peek: MSG_PEEK, which this module cannot know: the bytes are looked at first and then taken
            up to the end of the head, so that what follows stays in the socket. 0: what comes with
            the end of the head is taken too, which saves a system call.

    Attributes:
        rest: what was taken beyond the head; less than `MAX_HEAD`.
    """

    __slots__ = ("_head", "_peek", "rest")

    def __init__(self, peek: int = 0) -> None:
        self._head = b""
        self._peek = peek
        self.rest = b""

    def read(self, stream: HeadStream) -> bytes:
        """Return the head.

        Raises:
            BlockingIOError: it is incomplete; call again.
            RequestError: it is too long, or no head begins like this.
            ConnectionResetError: the stream ended.
            OSError: as the socket does.
        """
        while True:
            seen = stream.recv(MAX_HEAD - len(self._head), self._peek)
            if not seen:
                raise ConnectionResetError(errno.ECONNRESET, "closed before the end of a head")
            overlap = self._head[-3:]
            found = (overlap + seen).find(_END)
            count = len(seen) if found < 0 else found + len(_END) - len(overlap)
            if self._peek:
                self._head += stream.recv(count)
            else:
                self._head += seen[:count]
                self.rest = seen[count:]
            if found >= 0:
                return self._head
            if len(self._head) >= MAX_HEAD:
                raise RequestError(431, f"the head is longer than {MAX_HEAD} bytes")
            _check_beginning(self._head)


def _check_beginning(head: bytes) -> None:
    """Raise RequestError for what will never be a head: its end would be waited for in vain."""
    if head[0] == 0x16:
        raise RequestError(400, "TLS where HTTP is expected: the proxy's URL begins with http://")
    if head[0] in (4, 5):
        raise RequestError(400, "SOCKS where HTTP is expected: the proxy's URL begins with http://")
    if not 0x41 <= head[0] <= 0x5A:
        raise RequestError(400, "not HTTP")
    if _BARE_LINE_FEED.search(head):
        raise RequestError(400, "a line does not end with CR LF")


def request(host: str, port: int) -> bytes:
    """Return the request for a tunnel to a host."""
    authority = authority_of(host, port)
    return f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode("ascii")


def authority_of(host: str, port: int) -> str:
    """Return ``HOST:PORT``, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_request(head: bytes) -> tuple[str, int]:
    """Return the host, without brackets, and the port that a CONNECT request names.

    Raises:
        RequestError: it is another request, or malformed.
    """
    match = _CONNECT.fullmatch(head)
    if match is None:
        raise _diagnosed(head)
    if _CONTENT.search(match[3]):
        # Two readers could disagree about where the tunnel begins.
        raise RequestError(400, "a CONNECT request has no content")
    host, port = match[1].strip(b"[]").decode("latin-1"), int(match[2])
    bracketed = match[1][:1] == b"["
    if not may_be_host(host) or bracketed != (":" in host) or not 0 < port <= 0xFFFF:
        raise RequestError(400, "the target is not HOST:PORT")
    return host, port


def _diagnosed(head: bytes) -> RequestError:
    line = _REQUEST_LINE.match(head)
    if line is None:
        return RequestError(400, "not an HTTP request")
    method, version = line[1], line[3]
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        return RequestError(505, "HTTP/1.1 is spoken here")
    if method == b"CONNECT":
        named = _CONNECT.match(line[0] + b"\r\n")
        what = "a header is malformed" if named else "the target is not HOST:PORT"
        return RequestError(400, what)
    if method not in _KNOWN_METHODS:
        return RequestError(501, "only CONNECT is served")
    return RequestError(
        405, "only CONNECT is served: plain http:// could be read on the parent, use https://"
    )


def rejection(status: int, reason: str, hint: str = "") -> bytes:
    """Return a response that refuses a tunnel.

    Most clients show the reason phrase and not the body: so it is the reason, in one line.
    """
    reason = printable(reason) or _PHRASES.get(status, "Error")
    lines = [f"{status} {_PHRASES.get(status, 'Error')}", reason, *filter(None, [printable(hint)])]
    body = "\n".join(lines) + "\n"
    allow = "Allow: CONNECT\r\n" if status == 405 else ""
    head = (
        f"HTTP/1.1 {status} {reason}\r\n{allow}Content-Type: text/plain\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return (head + body).encode("ascii")


def printable(text: str) -> str:
    """Return text for a reason phrase: printable ASCII, bounded."""
    return _UNPRINTABLE.sub("?", text[:MAX_REASON])


def check_response(head: bytes) -> None:
    """Check the response to `request`.

    Raises:
        TunnelRefusedError: it refuses the tunnel, or is malformed.
    """
    match = _STATUS_LINE.fullmatch(head)
    if match is None:
        raise TunnelRefusedError(0, "the response to CONNECT is malformed")
    status = int(match[1])
    if not 200 <= status <= 299:
        raise TunnelRefusedError(status, printable((match[2] or b"").decode("latin-1")))
