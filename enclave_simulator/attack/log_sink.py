"""An honest log sink, which keeps what it reads: a program may print its results there."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket

_MOST: Final = 1 << 20
_READ: Final = 1 << 16


class LogSink:
    """Keeps the beginning of what several connections send, line by line. Thread-safe."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._reading = 0
        self._changed = threading.Condition()

    def read(self, connection: socket.socket) -> None:
        """Read a connection to its end.

        Raises:
            OSError: it broke.
        """
        with self._changed:
            self._reading += 1
        line = b""
        try:
            while part := connection.recv(_READ):
                lines, newline, line = (line + part)[-_MOST:].rpartition(b"\n")
                self._keep(lines + newline)
        finally:
            self._keep(line)
            with self._changed:
                self._reading -= 1
                self._changed.notify_all()

    def _keep(self, data: bytes) -> None:
        with self._changed:
            self._kept += data[: _MOST - len(self._kept)]

    def logged(self, within: float) -> bytes:
        """Return what was sent, when all connections have ended or after `within` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._reading, within)
            return bytes(self._kept)
