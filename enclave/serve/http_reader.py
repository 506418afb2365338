"""Reads HTTP/1.1 requests, strictly, out of bytes as they come. Does no I/O.

llhttp, Node.js's parser, knows the grammar, and refuses what two readers could take differently:
bare line feeds, folded lines, a length that stands twice or beside Transfer-Encoding. This adds
the limits, and refuses what this endpoint has no use for.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import httptools

from enclave.serve.protocol import EndpointError, Request

MAX_HEAD: Final = 65_536
"""Bytes of request line and headers; the largest part is a session token of a few KiB."""

_USED: Final = frozenset(
    {b"content-length", b"expect", b"host", b"transfer-encoding", b"upgrade", b"x-amz-target"}
)
"""The headers anything is done about. Each may stand once: what two readers could take differently
is refused. The others, signatures and tokens among them, are not kept."""

MAX_BODY: Final = 524_288
"""Bytes of a body. The largest legal one holds an attestation document of 262,144 bytes
(KMS service model), which is 349,528 in base64."""


class RequestReader:
    """One connection's requests.

    Attributes:
        requests: read and not yet taken, in order.
        error: set once the bytes are not a request; those before it still stand in `requests`,
            and nothing can be read any more.
        reading: whether a request has begun and not ended.
        expects_continue: whether the client waits for "100 Continue" before it sends the body.
    """

    def __init__(self) -> None:
        self.requests: deque[Request] = deque()
        self.error: EndpointError | None = None
        self.reading = self.expects_continue = False
        self._parser = httptools.HttpRequestParser(self)
        self._size = 0
        self._begin()

    def feed(self, data: bytes) -> None:
        """Read on."""
        if self.error is not None:
            return
        self._size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.error = _malformed("there is nothing to upgrade to")
        except httptools.HttpParserCallbackError as e:
            if not isinstance(e.__context__, EndpointError):
                raise
            self.error = e.__context__
        except httptools.HttpParserError as e:
            self.error = _malformed(str(e))
        else:
            # A header that does not end is not handed over, and so not counted below.
            if self.reading and not self._head_ended and self._size > MAX_HEAD:
                self.error = _head_too_large()

    def _begin(self) -> None:
        self._target = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._head_size = 0
        self._head_ended = False

    # What httptools calls, in this order.

    def on_message_begin(self) -> None:
        """A request begins."""
        self._begin()
        self.reading = True

    def on_url(self, url: bytes) -> None:
        """The request's target, or a part of it."""
        self._target += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._count(len(name) + len(value))
        lower = name.lower()
        if lower not in _USED:
            return
        key = lower.decode()
        if key in self._headers:
            raise _malformed(f"the header {key} is there twice")
        self._headers[key] = value.decode("latin-1").strip(" \t")

    def on_headers_complete(self) -> None:
        """The headers have ended."""
        self._head_ended = True
        headers = self._headers
        if self._parser.get_http_version() not in ("1.1", "1.0"):
            raise EndpointError("MalformedHttpRequestException", "this is not HTTP/1.1", status=505)
        if not headers.get("host") and self._parser.get_http_version() == "1.1":
            raise _malformed("Host is missing")
        if "transfer-encoding" in headers:
            # No SDK sends KMS a body without its length (RFC 9112, section 6.3, allows 411).
            raise EndpointError(
                "MalformedHttpRequestException", "Content-Length is missing", status=411
            )
        if "upgrade" in headers:
            raise _malformed("there is nothing to upgrade to")
        if len(length := headers.get("content-length", "0")) > 9 or int(length) > MAX_BODY:
            raise EndpointError(
                "RequestEntityTooLargeException",
                f"the body is larger than {MAX_BODY} bytes",
                status=413,
            )
        self.expects_continue = headers.get("expect", "").lower() == "100-continue"

    def on_body(self, body: bytes) -> None:
        """A part of the body, whose length has been checked."""
        self._body += body

    def on_message_complete(self) -> None:
        """The request is whole."""
        self.reading = self.expects_continue = False
        self._size = 0
        self.requests.append(
            Request(
                self._parser.get_method().decode("latin-1"),
                self._target.decode("latin-1"),
                self._headers,
                bytes(self._body),
                self._parser.should_keep_alive(),
            )
        )

    def _count(self, size: int) -> None:
        self._head_size += size
        if self._head_size > MAX_HEAD:
            raise _head_too_large()


def _malformed(message: str) -> EndpointError:
    return EndpointError("MalformedHttpRequestException", message)


def _head_too_large() -> EndpointError:
    return EndpointError(
        "MalformedHttpRequestException",
        f"the headers are larger than {MAX_HEAD} bytes",
        status=431,
    )
