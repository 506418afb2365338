"""Reaching a port inside a virtual machine whose vsock is a UNIX socket on the host ("hybrid
vsock": Firecracker, Cloud Hypervisor, vhost-device-vsock).

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

MAX_ANSWER = 32
"""Bytes in the answer; the number in it is one of 32 bits."""


def request(port: int) -> bytes:
    """What to write first."""
    return b"CONNECT %d\n" % port


class Answer:
    """The line that says whether there is a stream; what comes after it is not touched."""

    __slots__ = ("_line",)

    def __init__(self) -> None:
        self._line = b""

    def read(self, recv: Callable[[int], bytes]) -> None:
        """Read to the end of the line.

        Args:
            recv: a socket's.

        Raises:
            BlockingIOError: it is not all there yet; call again.
            OSError: there is no stream: nothing listens in there, or this is no such socket.
        """
        # Byte by byte: the next one may be the stream's.
        while not self._line.endswith(b"\n"):
            byte = recv(1)
            if not byte:
                raise ConnectionRefusedError(errno.ECONNREFUSED, "nothing listens on the port")
            self._line += byte
            if len(self._line) > MAX_ANSWER:
                break
        if not _OK.fullmatch(self._line):
            raise ConnectionError("it does not answer as a virtual machine's socket does")
