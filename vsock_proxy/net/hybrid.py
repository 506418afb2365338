"""Hybrid vsock: the vsock of a virtual machine as a UNIX socket on the host (Firecracker, Cloud
Hypervisor, vhost-device-vsock). No I/O.

The host writes ``CONNECT PORT`` and a line feed, reads ``OK NUMBER`` and a line feed, and from
there on has the stream. Source: Firecracker, ``docs/vsock.md``, "Host-Initiated Connections".
"""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_OK = re.compile(rb"OK [0-9]+\n")

MAX_RESPONSE = 32
"""Bytes in the response; the number in it has 32 bits."""


def request(port: int) -> bytes:
    """Return the request: what to write first."""
    return b"CONNECT %d\n" % port


class Response:
    """The response, a line; the bytes after it are the stream's and are not read."""

    __slots__ = ("_line",)

    def __init__(self) -> None:
        self._line = b""

    def read(self, recv: Callable[[int], bytes]) -> None:
        """Read to the end of the line.

        Args:
            recv: reads from the socket.

        Raises:
            BlockingIOError: the line is incomplete; call again.
            OSError: nothing listens on the port, or this is not the socket of a virtual machine.
        """
        # Byte by byte: the next one may belong to the stream.
        while not self._line.endswith(b"\n"):
            byte = recv(1)
            if not byte:
                raise ConnectionRefusedError(errno.ECONNREFUSED, "nothing listens on the port")
            self._line += byte
            if len(self._line) > MAX_RESPONSE:
                break
        if not _OK.fullmatch(self._line):
            raise ConnectionError("the response is not that of a virtual machine's socket")
