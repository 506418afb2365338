"""Parses HTTP/1.1 requests, strictly, from bytes as they arrive. No I/O.

llhttp, Node.js's parser, knows the grammar, and rejects what two readers could take differently:
bare line feeds, folded lines, a length that stands twice or beside Transfer-Encoding. This adds
the limits, and rejects what this endpoint has no use for.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

import httptools

from enclave.serve.protocol import EndpointError, Request

MAX_HEAD: Final = 65_536
"""Bytes of request line and headers; the largest part is a session token of a few KiB."""

MAX_BODY: Final = 524_288
"""Bytes of a body. The largest legal one holds an attestation document of 262,144 bytes
(KMS service model), which is 349,528 in base64."""

MAX_RAW: Final = MAX_HEAD + 2 * MAX_BODY
"""Bytes of a whole request with the frames of its chunks; those of short chunks add up."""

_USED: Final = {
    name.encode(): name
    for name in (
        "authorization",
        "content-length",
        "expect",
        "host",
        "transfer-encoding",
        "x-amz-target",
    )
}
"""The headers that are used. Each may stand once: what two readers could take differently is
rejected. The others, session tokens among them, are not kept. ``Upgrade`` is one of them: a server
may ignore it (RFC 9110, section 7.8), and clients that send it go on in HTTP/1.1."""

_SCOPE: Final = re.compile(
    r"AWS4-HMAC-SHA256\s.*?Credential=[^/\s,]+/[0-9]{8}/([a-z0-9-]{1,64})/[a-z0-9-]+/aws4_request"
)
"""The scope of a signature (AWS Signature Version 4): access key, date, region, service."""

_AUTHORITY: Final = re.compile(r"([^/?#]*)")

_MAX_CREDENTIAL: Final = 512
"""Characters of Authorization in which the scope is looked for; an access key has at most 128."""


class RequestReader:
    """Parses the requests of one connection.

    Attributes:
        requests: parsed and not yet taken, in order.
        error: set once the bytes are not a valid request; those before it are still in
            `requests`, and nothing is parsed any more.
        reading: whether a request has begun and not ended.
        expects_continue: whether the client waits for "100 Continue" before it sends the body.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.error: EndpointError | None = None
        self.reading = self.expects_continue = False
        self._parser = httptools.HttpRequestParser(self)
        self._size = 0
        self._upgraded: Request | None = None
        self._begin()

    def feed(self, data: bytes) -> None:
        """Parse the next bytes."""
        self._size += len(data)
        while data and self.error is None:
            data = self._feed(data)
        if not self.reading or self.error is not None:
            return
        # A header or a chunk that does not end is not handed over, and so not counted below.
        if not self._head_ended and self._size > MAX_HEAD:
            self.error = _head_too_large()
        elif self._size > MAX_RAW:
            self.error = _body_too_large()

    def _feed(self, data: bytes) -> bytes:
        """Parse bytes; return those that are to be parsed after an Upgrade that is ignored."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as e:
            if self._parser.get_method() == b"CONNECT":
                if self.requests:
                    self.requests.pop()  # this error is its response, and the only one
                self.error = EndpointError(
                    "UnknownOperationException",
                    "this is an endpoint of KMS, not a proxy: it does not take CONNECT",
                    status=405,
                    hint="unset HTTP_PROXY and HTTPS_PROXY if they name this endpoint",
                )
                return b""
            return self._without_upgrade(self.requests.pop()) + data[e.args[0] :]
        except httptools.HttpParserCallbackError as e:
            if not isinstance(e.__context__, EndpointError):
                raise
            self.error = e.__context__
        except httptools.HttpParserError as e:
            self.error = _malformed(str(e))
        return b""

    def _without_upgrade(self, request: Request) -> bytes:
        """Return a head that has a new parser go on with the body of a request with an Upgrade.

        httptools takes such a request to end with its headers.
        """
        self._upgraded = request
        version = self._parser.get_http_version().encode()
        lines = [b"%s / HTTP/%s" % (request.method.encode(), version)]
        lines += [
            f"{name}: {request.headers[name]}".encode("latin-1")
            for name in ("host", "content-length", "transfer-encoding", "expect")
            if name in request.headers
        ]
        lines.append(b"connection: keep-alive" if request.keep_alive else b"connection: close")
        self._parser = httptools.HttpRequestParser(self)
        return b"\r\n".join((*lines, b"", b""))

    def _begin(self) -> None:
        self._target = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._head_size = 0
        self._head_ended = False

    # The callbacks of httptools, in this order.

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._begin()
        self.reading = True

    def on_url(self, url: bytes) -> None:
        """Take the request's target, or a part of it."""
        self._target += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header; a trailer, which stands behind a chunked body, is dropped."""
        self._head_size += len(name) + len(value)  # as `_count`: each request has many of them
        if self._head_size > MAX_HEAD:
            raise _head_too_large()
        key = _USED.get(name.lower())
        if key is None or self._head_ended:
            return
        if key in self._headers:
            raise _malformed(f"the header {key} is there twice")
        self._headers[key] = value.decode("latin-1").strip(" \t")

    def on_headers_complete(self) -> None:
        """Check the headers."""
        self._head_ended = True
        headers = self._headers
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise EndpointError("MalformedHttpRequestException", "this is not HTTP/1.1", status=505)
        if not headers.get("host") and version == "1.1":
            raise _malformed("Host is missing")
        if "transfer-encoding" in headers and (
            version == "1.0" or headers["transfer-encoding"].lower() != "chunked"
        ):
            raise EndpointError(
                "MalformedHttpRequestException",
                "the only Transfer-Encoding here is chunked, of HTTP/1.1",
                status=501,
            )
        # llhttp has checked that these are digits; Python refuses to convert thousands of them.
        length = headers.get("content-length", "").lstrip("0") or "0"
        if len(length) > 9 or int(length) > MAX_BODY:
            raise _body_too_large()
        expects = headers.get("expect", "").lower() == "100-continue"
        self.expects_continue = expects and version == "1.1"  # RFC 9110, section 10.1.1

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if len(self._body) + len(body) > MAX_BODY:
            raise _body_too_large()
        self._body += body

    def on_message_complete(self) -> None:
        """End a request."""
        self.reading = self.expects_continue = False
        self._size = 0
        body, keep_alive = bytes(self._body), self._parser.should_keep_alive()
        if self._upgraded is not None:
            request, self._upgraded = self._upgraded, None
            self.requests.append(replace(request, body=body, keep_alive=keep_alive))
            return
        target = self._target.decode("latin-1")
        if target[:7].lower() == "http://":
            target = self._origin_form(target[7:])
        authorization = self._headers.pop("authorization", "")[:_MAX_CREDENTIAL]
        scope = _SCOPE.match(authorization)
        self.requests.append(
            Request(
                self._parser.get_method().decode("latin-1"),
                target,
                self._headers,
                body,
                keep_alive,
                scope[1] if scope else None,
                authorization,
            )
        )

    def _origin_form(self, rest: str) -> str:
        """Return the path of an absolute-form target, whose host counts (RFC 9112, 3.2.2)."""
        _, authority, path = _AUTHORITY.split(rest, maxsplit=1)
        self._headers["host"] = authority
        return path if path.startswith("/") else f"/{path}"

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


def _body_too_large() -> EndpointError:
    return EndpointError(
        "RequestEntityTooLargeException",
        f"the body is larger than {MAX_BODY} bytes",
        status=413,
    )
