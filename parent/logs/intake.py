"""What one enclave may send: lines out of its connections, within its limits. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from parent.logs.lines import neutralise
from vsock_proxy.service.budget import Budget
from vsock_proxy.service.log_lines import LineSplitter

if TYPE_CHECKING:
    from parent.logs.settings import LogSettings

READ_SIZE: Final = 16384
"""Bytes read from a connection at a time, so that all get their turn."""

READS_PER_SECOND: Final = 256
"""Of one enclave, beyond a second's worth at once: a read of a single byte takes as long as one of
some KiB. Meanwhile more bytes arrive, and the next read has them all."""

LINE_COST: Final = 1
"""Bytes that a line counts as besides its own: splitting 16 KiB takes 0.75 ms if all lines are
empty, and 0.01 ms if there is one."""

KEPT_LINES: Final = 20
"""Last lines of an enclave that are kept to be looked at."""

KEPT_CHARACTERS: Final = 400
"""Of each of them."""


class Source:
    """One enclave, with all connections that it has and has had.

    Attributes:
        cid: its CID; None behind a UNIX socket.
        name: its name in logs.
        connections: open now.
        lines: passed on so far.
        truncated: bytes dropped from lines that were too long.
        last: the last lines passed on, oldest first, each with the time of its arrival. Replaced
            as a whole, so that other threads may read it.
    """

    def __init__(self, cid: int | None, name: str, settings: LogSettings) -> None:
        self.cid = cid
        self.name = name
        self.connections = 0
        self.lines = 0
        self.truncated = 0
        self.last: tuple[tuple[float, str], ...] = ()
        self._lines = Budget(settings.lines_per_second)
        self._arrivals = Budget(settings.connections_per_second)
        self._rate = settings.bytes_per_second
        self._resume_at = float("-inf")

    def reconfigure(self, name: str, settings: LogSettings) -> None:
        """Change the name and the limits."""
        self.name = name
        self._lines.change(settings.lines_per_second)
        self._arrivals.change(settings.connections_per_second)
        self._rate = settings.bytes_per_second

    @property
    def dropped(self) -> int:
        """Lines dropped so far."""
        return self._lines.dropped

    def arrive(self, now: float) -> bool:
        """Return whether it may open another connection now."""
        return self._arrivals.take(now)

    def resume_at(self, now: float) -> float | None:
        """Return when it may be read again; None if that is now."""
        return self._resume_at if self._resume_at > now else None

    def take(self, now: float, lines: list[bytes]) -> list[str]:
        """Return those of some lines that are within the limit, safe to display."""
        filled = [line for line in lines if line]
        allowed = filled[: self._lines.take_some(now, len(filled))]
        self.lines += len(allowed)
        passed = [neutralise(line) for line in allowed]
        if passed:
            kept = [(now, _shortened(line)) for line in passed[-KEPT_LINES:]]
            self.last = (*self.last, *kept)[-KEPT_LINES:]
        return passed

    def spend(self, now: float, size: float) -> None:
        """Count a read of so many bytes; too many in too short a time make it wait."""
        size = max(size, self._rate / READS_PER_SECOND)
        # A second may be saved up: a burst of that size is read at once.
        self._resume_at = max(self._resume_at, now - 1.0) + size / self._rate

    def report(self, now: float) -> int:
        """Return how many lines were dropped since the last report; 0 if that is too recent."""
        return self._lines.report(now)


class Intake:
    """Turns the bytes of one connection into lines."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._splitter = LineSplitter()

    def feed(self, now: float, data: bytes) -> list[str]:
        """Take what was read, b"" at the end; return the lines to pass on.

        What an enclave sends counts by the work that it makes here: a line counts a byte more than
        its own, and escapes count as they are written.
        """
        lines = self._splitter.feed(data) if data else self._splitter.end()
        self.source.truncated += self._splitter.truncated
        self._splitter.truncated = 0
        passed = self.source.take(now, lines)
        written = sum(map(len, passed))
        self.source.spend(now, max(len(data), written) + LINE_COST * len(lines))
        return passed


def _shortened(line: str) -> str:
    return line if len(line) <= KEPT_CHARACTERS else f"{line[:KEPT_CHARACTERS]}…"
