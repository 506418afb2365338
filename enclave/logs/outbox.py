"""A bounded queue of lines to be sent, which reports the lines it drops. No I/O.

If it is full the oldest lines are dropped, because the last ones say why a program ended; a note,
a line of ours, has their number in their place. A line that was half written to a connection is
sent whole on the next one. Lines that a connection took and its peer never read cannot be counted:
a note says that there may be some.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from vsock_proxy.service.log_lines import MAX_LINE, TRUNCATED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LIMIT = 4 << 20
"""Default of the bytes queued."""

LEAST_LIMIT = 1 << 16
MOST_LIMIT = 1 << 30

LONGEST = MAX_LINE - len(TRUNCATED)
"""Bytes of a line, so that the sink does not truncate again what was truncated here."""

OVERHEAD = 64
"""Bytes of memory that each line costs in addition, at most: without it, the number of empty lines
would not be bounded."""

BATCH = 1 << 16
"""Bytes taken out of the queue at a time."""

_DROPPED = (
    "enclave-agent: logs: %d lines (%d bytes) dropped here: they came faster than they were read\n"
)
_RECONNECTED = b"enclave-agent: logs: reconnected: lines just before this may be missing\n"


class Outbox:
    """Takes lines at any speed, and returns them at the speed of a connection.

    Args:
        limit: bytes queued, with `OVERHEAD` for each line. One batch comes on top.

    Attributes:
        dropped: lines dropped so far.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.dropped = 0
        self._limit = limit
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._gap_lines = self._gap_bytes = 0
        # The batch that is being written: notes first, then lines of the program.
        self._batch = b""
        self._written = self._notes = 0
        self._noted = (0, 0)
        self._lines: list[bytes] = []
        # Whether this connection has taken anything; whether an earlier one had, not noted yet.
        self._touched = self._doubtful = False

    @property
    def lines(self) -> list[bytes]:
        """Lines that no connection has taken completely, each with its LF."""
        return [*self._unwritten(), *self._waiting]

    def __bool__(self) -> bool:
        return bool(self._lines or self._waiting)

    def put(self, lines: Iterable[bytes]) -> None:
        """Queue lines, without line ends, in their order."""
        for line in lines:
            self._waiting.append(line + b"\n")
            self._size += len(line) + 1 + OVERHEAD
        self._make_room()

    def batch(self) -> bytes:
        """Return what to write next; b"" if there is nothing."""
        if not self._lines and self._waiting:
            self._fill()
        return self._batch[self._written :]

    def wrote(self, count: int) -> None:
        """Note that the connection took so many bytes of the batch."""
        self._written += count
        self._touched = True
        if self._written >= self._notes > 0:
            self._doubtful = False
            self._noted = (0, 0)
        if self._written == len(self._batch):
            self._empty()

    def broke(self) -> None:
        """Note that the connection ended; what comes next is for another one."""
        self._doubtful = self._doubtful or self._touched
        self._touched = False
        unwritten = self._unwritten()
        if self._gap_lines:
            # Younger lines have been dropped already.
            self._drop(unwritten)
        else:
            self._waiting.extendleft(reversed(unwritten))
            self._size += sum(len(line) + OVERHEAD for line in unwritten)
        self._gap_lines += self._noted[0]
        self._gap_bytes += self._noted[1]
        self._empty()
        self._make_room()

    def _fill(self) -> None:
        notes = _RECONNECTED if self._doubtful else b""
        if self._gap_lines:
            notes += (_DROPPED % (self._gap_lines, self._gap_bytes)).encode()
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
            self._drop((line,))

    def _drop(self, lines: Sequence[bytes]) -> None:
        self.dropped += len(lines)
        self._gap_lines += len(lines)
        self._gap_bytes += sum(map(len, lines))
