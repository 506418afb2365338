"""What the parent's log sink and those who send to it agree on. Does no I/O.

Lines of text, each ended by LF, over a stream connection; the sink never answers. Both sides cut
lines in the same way: the enclave, so that it keeps little of a line that never ends; the sink,
because it trusts nobody to have done so.
"""

from __future__ import annotations

LOG_PORT = 8003
"""vsock port of the log sink, beside 8000 (KMS) and 8002 (credentials)."""

MAX_LINE = 8192
"""Bytes of a line as the sink takes it; what is beyond is left out and counted."""

CUT = "\N{HORIZONTAL ELLIPSIS}".encode()
"""How a line ends that was cut."""


class LineSplitter:
    """A stream cut into lines, none longer than `limit` bytes.

    Attributes:
        cut: bytes left out, of lines that were too long.
    """

    def __init__(self, limit: int = MAX_LINE) -> None:
        self.cut = 0
        self._limit = limit
        self._part = bytearray()
        self._over = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes; return the lines that end in them, without their ends."""
        first, *rest = data.split(b"\n")
        self._add(first)
        if not rest:
            return []
        lines = [self._take()]
        # Lines that are whole in `data`, without a call for each: a hostile writer sends 16,384
        # empty ones at once.
        *whole, last = rest
        if max(map(len, whole), default=0) > self._limit:
            whole = [self._shortened(line) for line in whole]
        if b"\r" in data:
            whole = [line.removesuffix(b"\r") for line in whole]
        lines += whole
        self._add(last)
        return lines

    def end(self) -> list[bytes]:
        """Return the last line, which nothing ended, if there is one."""
        return [self._take()] if self._part else []

    def _add(self, piece: bytes) -> None:
        room = self._limit - len(self._part)
        if len(piece) > room:
            self.cut += len(piece) - room
            self._over = True
            piece = piece[:room]
        self._part += piece

    def _shortened(self, line: bytes) -> bytes:
        if len(line) <= self._limit:
            return line
        self.cut += len(line) - self._limit
        return line[: self._limit] + CUT

    def _take(self) -> bytes:
        line = bytes(self._part)
        # Most writers of CR LF mean what LF means.
        line = line + CUT if self._over else line.removesuffix(b"\r")
        self._part.clear()
        self._over = False
        return line
