"""The protocol between the parent's log sink and its clients. No I/O.

Lines of text, each ended by LF, over a stream connection; the sink never sends anything. Both sides
truncate lines in the same way: the enclave, to keep little of a line that never ends; the sink,
because it does not trust the enclave.
"""

from __future__ import annotations

MAX_LINE = 8192
"""Bytes of a line; the rest is truncated and counted."""

TRUNCATED = "\N{HORIZONTAL ELLIPSIS}".encode()
"""The end of a truncated line."""


class LineSplitter:
    """Splits a stream into lines of at most `limit` bytes.

    Attributes:
        truncated: bytes that were truncated so far.
    """

    def __init__(self, limit: int = MAX_LINE) -> None:
        self.truncated = 0
        self._limit = limit
        self._part = bytearray()
        self._over = False

    def feed(self, data: bytes) -> list[bytes]:
        """Add the next bytes; return the lines that end in them, without line ends."""
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
        """Return the last line, if the stream does not end with LF."""
        return [self._take()] if self._part else []

    def _add(self, piece: bytes) -> None:
        room = self._limit - len(self._part)
        if len(piece) > room:
            self.truncated += len(piece) - room
            self._over = True
            piece = piece[:room]
        self._part += piece

    def _shortened(self, line: bytes) -> bytes:
        if len(line) <= self._limit:
            return line
        self.truncated += len(line) - self._limit
        return line[: self._limit] + TRUNCATED

    def _take(self) -> bytes:
        line = bytes(self._part)
        # CR LF is a line end too.
        line = line + TRUNCATED if self._over else line.removesuffix(b"\r")
        self._part.clear()
        self._over = False
        return line
