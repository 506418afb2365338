"""What is kept of a program's output, however long it is. No I/O."""

from __future__ import annotations

from typing import Final

RESULT: Final = b"ATTACK-RESULT"
"""How a line begins that tells a result."""


class Transcript:
    """Keeps the beginning of an output, and after that its lines with results.

    Without these, a program that is talkative under an attack would have its results cut off, and
    a secret that it took would not be seen.
    """

    def __init__(self, most: int) -> None:
        """Start empty.

        Args:
            most: bytes of the beginning, of the results after it, and of one line.
        """
        self._most = most
        self._kept, self._results, self._line = bytearray(), bytearray(), bytearray()
        self._is_full = False

    def add(self, data: bytes) -> None:
        """Take the next part of the output."""
        if self._is_full and not self._may_hold_result(data):
            _, newline, rest = data.rpartition(b"\n")
            if newline:
                self._line.clear()
            self._append(rest)
            return
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._append(line)
            self._end_line()
        self._append(rest)

    def _may_hold_result(self, data: bytes) -> bool:
        return self._line.startswith(RESULT) or RESULT in self._line[-len(RESULT) :] + data

    def _append(self, part: bytes) -> None:
        self._line += part[: self._most - len(self._line)]

    def _end_line(self) -> None:
        self._line += b"\n"
        if not self._is_full and len(self._kept) + len(self._line) <= self._most:
            self._kept += self._line
        else:
            self._is_full = True
            if self._line.startswith(RESULT) and len(self._results) + len(self._line) <= self._most:
                self._results += self._line
        self._line.clear()

    def __bytes__(self) -> bytes:
        """Return what is kept."""
        return bytes(self._kept + self._results + self._line)
