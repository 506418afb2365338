"""Lines that wait to be sent: a queue of bounded size that says what it leaves out. Does no I/O.

Where there is no room the oldest lines go, because the last ones tell why a program ended. Where
they would have stood, a line of ours says how many there were. A line that a connection took
only half of is sent whole on the next one. What a connection took and its peer never read
nobody can count: a line of ours says that there may be such.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from vsock_proxy.service.log_lines import CUT, MAX_LINE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LIMIT = 4 << 20
"""Bytes that wait, by default."""

LEAST_LIMIT = 1 << 16
MOST_LIMIT = 1 << 30

LONGEST = MAX_LINE - len(CUT)
"""Bytes of a line, so that the sink need not cut again what was cut here."""

OVERHEAD = 64
"""Bytes of memory that each line costs beside its own, at most: they count, or a million of empty
lines would wait."""

BATCH = 1 << 16
"""Bytes taken out of the queue at a time, to be written at once."""

_LEFT_OUT = (
    "enclave-agent: logs: %d lines (%d bytes) left out here: they came faster than they were read\n"
)
_AGAIN = b"enclave-agent: logs: connected again: lines just before this may be missing\n"


class Outbox:
    """Takes lines at any speed, and hands them out at the speed of a connection.

    Attributes:
        left_out: lines that there was no room for, so far.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        """Make one; `limit` is in bytes, with `OVERHEAD` for each line. A batch comes on top."""
        self.left_out = 0
        self._limit = limit
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._gap_lines = self._gap_bytes = 0
        # The batch that is being written: lines of ours in front, then those of the program.
        self._batch = b""
        self._written = self._notes = 0
        self._noted = (0, 0)
        self._lines: list[bytes] = []
        # Whether the connection has taken anything; whether one that had ended, and nobody said so.
        self._touched = self._doubtful = False

    @property
    def lines(self) -> list[bytes]:
        """What no connection has taken the whole of, each with its LF."""
        return [*self._unwritten(), *self._waiting]

    def __bool__(self) -> bool:
        return bool(self._lines or self._waiting)

    def put(self, lines: Iterable[bytes]) -> None:
        """Take lines, without their ends, in their order."""
        for line in lines:
            self._waiting.append(line + b"\n")
            self._size += len(line) + 1 + OVERHEAD
        self._make_room()

    def batch(self) -> bytes:
        """What to write next; b"" where nothing waits."""
        if not self._lines and self._waiting:
            self._fill()
        return self._batch[self._written :]

    def wrote(self, count: int) -> None:
        """The connection took so many bytes of the batch."""
        self._written += count
        self._touched = True
        if self._written >= self._notes > 0:
            self._doubtful = False
            self._noted = (0, 0)
        if self._written == len(self._batch):
            self._empty()

    def broke(self) -> None:
        """The connection ended; what comes next is for another one."""
        self._doubtful = self._doubtful or self._touched
        self._touched = False
        unwritten = self._unwritten()
        if self._gap_lines:
            # Younger lines had to go already.
            self._leave_out(unwritten)
        else:
            self._waiting.extendleft(reversed(unwritten))
            self._size += sum(len(line) + OVERHEAD for line in unwritten)
        self._gap_lines += self._noted[0]
        self._gap_bytes += self._noted[1]
        self._empty()
        self._make_room()

    def _fill(self) -> None:
        notes = _AGAIN if self._doubtful else b""
        if self._gap_lines:
            notes += (_LEFT_OUT % (self._gap_lines, self._gap_bytes)).encode()
        self._notes = len(notes)
        self._noted = self._gap_lines, self._gap_bytes
        self._gap_lines = self._gap_bytes = 0
        room = BATCH - self._notes
        while self._waiting and (not self._lines or len(self._waiting[0]) <= room):
            line = self._waiting.popleft()
            self._size -= len(line) + OVERHEAD
            room -= len(line)
            self._lines.append(line)
        self._batch = b"".join((notes, *self._lines))

    def _unwritten(self) -> list[bytes]:
        end = self._notes
        for number, line in enumerate(self._lines):
            end += len(line)
            if end > self._written:
                return self._lines[number:]
        return []

    def _empty(self) -> None:
        self._batch, self._lines = b"", []
        self._written = self._notes = 0
        self._noted = (0, 0)

    def _make_room(self) -> None:
        while self._size > self._limit:
            line = self._waiting.popleft()
            self._size -= len(line) + OVERHEAD
            self._leave_out((line,))

    def _leave_out(self, lines: Sequence[bytes]) -> None:
        self.left_out += len(lines)
        self._gap_lines += len(lines)
        self._gap_bytes += sum(map(len, lines))
