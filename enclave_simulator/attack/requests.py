"""Reads HTTP requests from a blocking socket, without a state that responses must fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enclave_simulator.kms.messages import Request

if TYPE_CHECKING:
    import socket

MAX_HEAD = 1 << 16
MAX_BODY = 1 << 20

_READ = 1 << 16
_HEX = frozenset("0123456789abcdefABCDEF")


class RequestError(Exception):
    """A client sent what no SDK sends."""


def read_request(connection: socket.socket, left: bytes) -> tuple[Request | None, bytes]:
    """Read one request; return it, and what follows it. None if the client has closed.

    Args:
        connection: it has a timeout.
        left: what followed the last request.

    Raises:
        RequestError: it is malformed or too large.
        OSError: the connection is broken.
    """
    data = left
    while b"\r\n\r\n" not in data:
        if len(data) > MAX_HEAD:
            raise RequestError("a head without end")
        part = connection.recv(_READ)
        if not part:
            return None, b""
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, _, rest = first.partition(" ")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.strip().lower(), value.strip()
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    if headers.get("expect", "").lower() == "100-continue" and not body:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    reader = _Body(connection, body)
    if headers.get("transfer-encoding", "").lower() == "chunked":
        content = reader.chunks()
    else:
        length = headers.get("content-length", "0")
        content = reader.read(_number(length, length.isascii() and length.isdigit(), 10))
    if content is None:
        return None, b""
    return Request(method, rest.partition(" ")[0], headers, content), reader.left


class _Body:
    """Reads what follows a head."""

    def __init__(self, connection: socket.socket, left: bytes) -> None:
        self._connection = connection
        self.left = left

    def read(self, count: int) -> bytes | None:
        """Return so many bytes; None if the client closes before."""
        while len(self.left) < count:
            if not self._receive():
                return None
        found, self.left = self.left[:count], self.left[count:]
        return found

    def chunks(self) -> bytes | None:
        """Return a body in chunks (RFC 9112, 7.1); None if the client closes before its end."""
        content = b""
        while (line := self._line()) is not None:
            digits = line.partition(b";")[0].strip().decode("latin-1")
            size = _number(digits, set(digits) <= _HEX, 16)
            if not size:
                while line := self._line():
                    pass  # a trailer
                return None if line is None else content
            chunk = self.read(size + 2)
            if chunk is None:
                return None
            content += chunk[:size]
            if len(content) > MAX_BODY:
                raise RequestError("a body without end")
        return None

    def _line(self) -> bytes | None:
        while b"\r\n" not in self.left:
            if len(self.left) > MAX_HEAD:
                raise RequestError("a line without end")
            if not self._receive():
                return None
        line, _, self.left = self.left.partition(b"\r\n")
        return line

    def _receive(self) -> bool:
        part = self._connection.recv(_READ)
        self.left += part
        return bool(part)


def _number(digits: str, valid: bool, base: int) -> int:  # noqa: FBT001 (of the line above)
    # `int` takes 4,300 digits at most.
    if not digits or not valid or len(digits) > 9 or int(digits, base) > MAX_BODY:
        raise RequestError(f"a body of {digits!r} bytes")
    return int(digits, base)
