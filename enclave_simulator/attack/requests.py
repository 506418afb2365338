"""Reads HTTP requests from a blocking socket, without a state that responses must fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enclave_simulator.kms.messages import Request

if TYPE_CHECKING:
    import socket

MAX_HEAD = 1 << 16
MAX_BODY = 1 << 20

_READ = 1 << 16


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
    length = headers.get("content-length", "0")
    # `int` takes 4,300 digits at most.
    if not length.isascii() or not length.isdigit() or len(length) > 9 or int(length) > MAX_BODY:
        raise RequestError(f"a body of {length!r} bytes")
    while len(body) < int(length):
        part = connection.recv(_READ)
        if not part:
            return None, b""
        body += part
    request = Request(method, rest.partition(" ")[0], headers, body[: int(length)])
    return request, body[int(length) :]
