"""Writes HTTP/1.1 requests (RFC 9112). No I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from enclave.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

USER_AGENT = "nitro-enclave-agent"

_TARGET = re.compile(r"/[!-~]*")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# RFC 9110, section 5.5, without the bytes above 0x7E: KMS and its SDKs send none.
_VALUE = re.compile(r"[!-~]([\t -~]*[!-~])?")


class RequestWriter:
    """Writes requests to one server that differ in a few headers and the body.

    Args:
        method: for example ``POST``.
        host: the Host header: the name, and the port if it is not the scheme's own.
        target: the path.
        headers: sent with every request, unless a request brings its own.

    Raises:
        ConfigurationError: a part has characters that it cannot have.
    """

    def __init__(
        self, method: str, host: str, target: str, headers: Mapping[str, str] | None = None
    ) -> None:
        if not _TARGET.fullmatch(target):
            raise ConfigurationError(
                f"not the path of a URL: {target!a}", hint="percent-encode other characters"
            )
        # Identity: a small compressed body could be made to grow without end.
        fixed = {
            "Host": host,
            "User-Agent": USER_AGENT,
            "Accept-Encoding": "identity",
            **(headers or {}),
        }
        self._expects_body = method in ("PATCH", "POST", "PUT")
        self._start = f"{method} {target} HTTP/1.1\r\n"
        self._fixed = {name.lower(): _line(name, value) for name, value in fixed.items()}

    def write(self, headers: Mapping[str, str], body: bytes = b"") -> bytes:
        """Return a request as it goes over the wire, in one piece.

        Args:
            headers: further headers. Those that frame the message are this class's own, and are
                left out here: Host, Content-Length, Transfer-Encoding, Accept-Encoding.
            body: sent with its length; without a body no Content-Length is sent, but for methods
                whose requests have one (RFC 9110, section 8.6).

        Raises:
            ConfigurationError: a header has characters that no header has.
        """
        has_length = body or self._expects_body
        length = f"Content-Length: {len(body)}\r\n\r\n" if has_length else "\r\n"
        return self.begin(headers) + length.encode() + body

    def begin(self, headers: Mapping[str, str]) -> bytes:
        """Return a request's start: the request line, and all headers but the body's length.

        Raises:
            ConfigurationError: a header has characters that no header has.
        """
        lines = dict(self._fixed)
        for name, value in headers.items():
            lower = name.lower()
            if lower not in FRAMING:
                lines[lower] = _line(name, value)
        return f"{self._start}{''.join(lines.values())}".encode("ascii")


FRAMING = frozenset({"host", "content-length", "transfer-encoding", "accept-encoding", "te"})
"""Headers that a caller cannot set."""


def _line(name: str, value: str) -> str:
    if not _NAME.fullmatch(name) or (value and not _VALUE.fullmatch(value)):
        # The value stays out of the message: it may be a session token.
        raise ConfigurationError(
            f"the header {name!a} has characters that HTTP headers cannot have",
            hint="was a line break or a letter outside ASCII copied with a name or a key?",
        )
    return f"{name}: {value}\r\n"
