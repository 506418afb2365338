"""Sockets in tests: reading to the end, a free port."""

from __future__ import annotations

import socket


def read_all(connection: socket.socket) -> bytes:
    """Read until the end."""
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def unused_port() -> int:
    """Return a TCP port of 127.0.0.1 that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
