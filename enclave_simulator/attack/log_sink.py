"""An honest log sink, which keeps what it reads: a program may print its results there."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from enclave_simulator.attack.transcript import Transcript

if TYPE_CHECKING:
    import socket

_MOST: Final = 1 << 20
_READ: Final = 1 << 16


class LogSink:
    """Keeps a `Transcript` of what several connections send, line by line. Thread-safe."""

    def __init__(self) -> None:
        self._kept = Transcript(_MOST)
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
            self._keep(line + b"\n" if line else b"")
            with self._changed:
                self._reading -= 1
                self._changed.notify_all()

    def _keep(self, data: bytes) -> None:
        with self._changed:
            self._kept.add(data)

    def logged(self, within: float) -> bytes:
        """Return what was sent, when all connections have ended or after `within` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._reading, within)
            return bytes(self._kept)
