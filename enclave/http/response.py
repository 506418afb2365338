"""Reads one HTTP/1.1 response from bytes, however they are cut (RFC 9112). No I/O.

httptools (llhttp) parses the head, in its strict form. The body's end is found here, since
httptools does not report where in its input a message ends, and everything depends on that: the
byte behind the end belongs to no call.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import httptools

from enclave.http.errors import ConnectionLostError, HttpProtocolError, ResponseTooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_HEAD: Final = 32_768
"""Bytes of a status line with its headers, and of the trailers of a chunked body."""

MAX_INTERIM: Final = 16
"""Interim responses before the final one. A server sends one or two, if any."""

_MAX_CHUNK_LINE = 1024

_START = b"HTTP/1."
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")
# What may stand behind the size (RFC 9112, section 7.1.1), without control characters.
_CHUNK_EXTENSION = re.compile(rb"[ \t]*;[\t -~\x80-\xff]*")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*")
_LENGTH = re.compile(r"[0-9]{1,20}")
_WHOLE_HEAD = re.compile(
    rb"HTTP/1\.1 ([2-5][0-9]{2}) [\t -~]*\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*\r\n)*)\r\n"
)
"""A head as the grammar of RFC 9112 has it, in ASCII. What this does not match may still be a
head: llhttp, which takes three times as long, decides."""


@dataclass(frozen=True, slots=True)
class Response:
    """One response.

    Attributes:
        status: 200..599.
        headers: by lower-case name; values of one name are joined by a comma.
        body: whole, as it came.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class ResponseReader:
    """Reads the final response to one GET or POST; interim responses are skipped.

    Args:
        max_body: bytes of the body, at most.

    Attributes:
        response: the response, once it is complete.
    """

    response: Response | None = None
    _searched = _interim = _status = _length = _framing = 0
    _until_close = _keep_alive = _started = False
    _headers: Mapping[str, str] = MappingProxyType({})

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body
        self._unread = bytearray()
        self._body = bytearray()
        # A plain function: a bound method would make a cycle, and garbage of each response.
        self._step: Callable[[ResponseReader], bool] = ResponseReader._read_head

    @property
    def may_reuse(self) -> bool:
        """Whether another request may follow on the connection, by what has been received."""
        return self.response is not None and self._keep_alive and not self._unread

    def receive(self, data: bytes) -> bool:
        """Take what came next; return whether the response is complete.

        Raises:
            HttpProtocolError: it is not a response; the connection must be closed.
            ResponseTooLargeError: the body is too long; so it must.
        """
        if not self._started and not self._unread and self._receive_whole(data):
            return True
        self._unread += data
        while self.response is None and self._step(self):
            pass
        return self.response is not None

    def end(self) -> None:
        """Take the end of the stream, which completes a body of unknown length.

        Raises:
            ConnectionLostError: the response is not complete.
        """
        if self.response is not None:
            self._keep_alive = False
        elif self._until_close:
            self._complete(bytes(self._unread))
            self._unread.clear()
        elif not self._started and not self._unread:
            raise ConnectionLostError("the server closed the connection without a response")
        else:
            raise ConnectionLostError("the server closed the connection before the response ended")

    def _receive_whole(self, data: bytes) -> bool:
        """Take a response that comes in one piece and has a length, as KMS's do; return whether
        it was one. All others, faulty ones included, go through the steps below.
        """
        found = _WHOLE_HEAD.match(data, 0, MAX_HEAD)
        if found is None:
            return False
        headers = _fields(found[2])
        length = headers.get("content-length", "")
        if (
            "transfer-encoding" in headers
            or not _LENGTH.fullmatch(length)
            or found.end() + int(length) != len(data)
            or found[1] in (b"204", b"304")
        ):
            return False
        self._check_size(int(length))
        self._started = True
        self._keep_alive = _keeps_alive(headers)
        self.response = Response(int(found[1]), headers, data[found.end() :])
        return True

    def _complete(self, body: bytes) -> None:
        self.response = Response(self._status, self._headers, body)

    # Each step reads as much as is there of one part; it returns whether there may be more to do.

    def _read_head(self) -> bool:
        unread = self._unread
        if not unread.startswith(_START[: len(unread)]):
            raise HttpProtocolError("the response does not begin as HTTP/1.1 does")
        end = unread.find(b"\r\n\r\n", max(self._searched - 3, 0))
        if end < 0 and len(unread) < MAX_HEAD:
            self._searched = len(unread)
            return False
        if not 0 <= end <= MAX_HEAD - 4:
            raise HttpProtocolError(f"the head of the response is longer than {MAX_HEAD} bytes")
        head = _parse_head(bytes(unread[: end + 4]))
        del unread[: end + 4]
        self._searched = 0
        self._started = True
        if head.status < 200:
            self._interim += 1
            if head.status == 101:
                raise HttpProtocolError("the server switches protocols, which nobody asked for")
            if self._interim > MAX_INTERIM:
                raise HttpProtocolError(f"more than {MAX_INTERIM} interim responses")
            return True
        self._begin_body(head)
        return True

    def _begin_body(self, head: _Head) -> None:
        """Find out how the body ends (RFC 9112, section 6.3)."""
        headers = head.headers
        self._status, self._headers = head.status, headers
        self._keep_alive = head.version == "1.1" and _keeps_alive(headers)
        coding, length = headers.get("transfer-encoding"), headers.get("content-length")
        if head.status in (204, 304):
            # No body, whatever the headers say; but one may follow all the same.
            self._keep_alive &= coding is None and length in (None, "0")
            self._complete(b"")
        elif coding is not None:
            if coding.lower() != "chunked" or length is not None or head.version != "1.1":
                raise HttpProtocolError("a Transfer-Encoding that is not `chunked` alone")
            self._step = ResponseReader._read_chunk_size
        elif length is None:
            self._until_close, self._keep_alive = True, False
            self._step = ResponseReader._read_until_close
        elif not _LENGTH.fullmatch(length):
            raise HttpProtocolError("the Content-Length is not a number")
        else:
            self._length = int(length)
            self._check_size(self._length)
            self._step = ResponseReader._read_length

    def _read_length(self) -> bool:
        if len(self._unread) < self._length:
            return False
        body = bytes(self._unread[: self._length])
        del self._unread[: self._length]
        self._complete(body)
        return False

    def _read_until_close(self) -> bool:
        self._check_size(len(self._unread))
        return False

    def _read_chunk_size(self) -> bool:
        line = self._take_line(_MAX_CHUNK_LINE)
        if line is None:
            return False
        size = _CHUNK_SIZE.match(line)
        if size is None or (
            size.end() < len(line) and not _CHUNK_EXTENSION.fullmatch(line, size.end())
        ):
            raise HttpProtocolError("the size of a chunk is malformed")
        self._framing += len(line) + 4
        # Tiny chunks with long extensions would keep us reading for little.
        if self._framing > MAX_HEAD + 8 * len(self._body):
            raise HttpProtocolError("chunks with more framing than data")
        self._length = int(size[0], 16)
        if not self._length:
            self._framing = 0
            self._step = ResponseReader._read_trailers
            return True
        self._check_size(len(self._body) + self._length)
        self._step = ResponseReader._read_chunk
        return True

    def _read_chunk(self) -> bool:
        if len(self._unread) < self._length + 2:
            return False
        self._body += self._unread[: self._length]
        if self._unread[self._length : self._length + 2] != b"\r\n":
            raise HttpProtocolError("a chunk is longer or shorter than its size")
        del self._unread[: self._length + 2]
        self._step = ResponseReader._read_chunk_size
        return True

    def _read_trailers(self) -> bool:
        """Skip the trailer fields: none means anything here."""
        line = self._take_line(MAX_HEAD)
        if line is None:
            return False
        self._framing += len(line) + 2
        if self._framing > MAX_HEAD:
            raise HttpProtocolError(f"trailers of more than {MAX_HEAD} bytes")
        if line and not _TRAILER.fullmatch(line):
            raise HttpProtocolError("a trailer field is malformed")
        if not line:
            self._complete(bytes(self._body))
        return bool(line)

    def _take_line(self, most: int) -> bytes | None:
        unread = self._unread
        end = unread.find(b"\r\n", max(self._searched - 1, 0), most + 2)
        if end < 0:
            if len(unread) >= most + 2:
                raise HttpProtocolError(f"a line of more than {most} bytes")
            self._searched = len(unread)
            return None
        line = bytes(unread[:end])
        del unread[: end + 2]
        self._searched = 0
        return line

    def _check_size(self, size: int) -> None:
        if size > self._max_body:
            raise ResponseTooLargeError(f"the response is longer than {self._max_body} bytes")


class _Head:
    """What httptools calls back."""

    __slots__ = ("complete", "headers", "status", "version")

    status: int
    version: str

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.complete = False

    def on_header(self, raw_name: bytes, raw_value: bytes) -> None:
        name, value = raw_name.decode("ascii").lower(), raw_value.decode("latin-1").strip(" \t")
        known = self.headers.get(name)
        self.headers[name] = value if known is None else f"{known}, {value}"

    def on_headers_complete(self) -> None:
        self.complete = True


def _fields(lines: bytes) -> dict[str, str]:
    """Return the fields in lines that `_WHOLE_HEAD` has matched, as `_Head` collects them."""
    headers: dict[str, str] = {}
    for line in lines.decode("ascii").split("\r\n")[:-1]:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _keeps_alive(headers: Mapping[str, str]) -> bool:
    """Return whether a server of HTTP/1.1 keeps the connection open (RFC 9112, section 9.3)."""
    options = headers.get("connection")
    return options is None or "close" not in {
        option.strip(" \t").lower() for option in options.split(",")
    }


def _parse_head(data: bytes) -> _Head:
    """Parse one whole head: from the status line to the empty line, and nothing else."""
    head = _Head()
    parser = httptools.HttpResponseParser(head)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # 101: the caller says what is wrong with it
    except httptools.HttpParserError as e:
        raise HttpProtocolError(f"the head of the response is malformed: {e}") from e
    if not head.complete:
        raise HttpProtocolError("the head of the response is malformed")
    head.status, head.version = parser.get_status_code(), parser.get_http_version()
    if head.version not in ("1.0", "1.1") or not 100 <= head.status <= 599:
        raise HttpProtocolError("the status line of the response is malformed")
    return head
