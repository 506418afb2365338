"""The parent's side of the boot test's checks: services behind CID 3, and a call into the guest."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING

from tests.programs.boot.ports import DOCUMENT_PORT, ECHO_PORT, GUEST_PORT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CID = 16
WITHIN = 60.0
"""Seconds for a call into the guest."""

_WORDS = b"from the parent" * 1000


class Host:
    """Listens in the folder where vsock addresses are UNIX sockets.

    Attributes:
        nonce: what the guest is to attest.
        document: what it attested.
    """

    def __init__(self, folder: Path) -> None:
        self.nonce = os.urandom(32)
        self.document = b""
        self._folder = folder
        self._said_back = b""
        self._trouble = ""
        self._serve(DOCUMENT_PORT, self._take_document)
        self._serve(ECHO_PORT, echo)

    def call(self) -> None:
        """Call the guest, as Firecracker's users do: CONNECT, OK, and then the connection."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
                end.settimeout(WITHIN)
                end.connect(str(self._folder / str(CID)))
                end.sendall(b"CONNECT %d\n" % GUEST_PORT)
                greeting = b""
                while not greeting.endswith(b"\n"):
                    part = end.recv(1)
                    if not part:
                        raise ConnectionError("closed without a greeting")
                    greeting += part
                end.sendall(_WORDS)
                end.shutdown(socket.SHUT_WR)
                while part := end.recv(1 << 16):
                    self._said_back += part
        except OSError as e:
            self._trouble = f": {e}"

    def failures(self) -> list[str]:
        """What was wrong with the call."""
        if self._said_back == _WORDS:
            return []
        said = f"{len(self._said_back)} of {len(_WORDS)} bytes"
        return [f"called, the guest said {said} back{self._trouble}"]

    def _take_document(self, end: socket.socket) -> None:
        end.sendall(self.nonce)
        while part := end.recv(1 << 16):
            self.document += part

    def _serve(self, port: int, talk: Callable[[socket.socket], None]) -> None:
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.bind(str(self._folder / f"3_{port}"))
        server.listen()

        def run() -> None:
            while True:
                end, _ = server.accept()
                with end:
                    talk(end)

        threading.Thread(target=run, daemon=True).start()


def echo(end: socket.socket) -> None:
    """Say back what is said, and end when the other side does."""
    while part := end.recv(1 << 16):
        end.sendall(part)
