"""What one enclave may send: lines out of its connections, within its means. Does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parent.logs.budget import Budget
from parent.logs.lines import neutralise
from vsock_proxy.service.log_lines import LineSplitter

if TYPE_CHECKING:
    from parent.logs.settings import LogSettings

READ_SIZE = 16384
"""Bytes taken from a connection at a time, so that all get their turn."""


class Source:
    """One enclave, however many connections it has and has had.

    Attributes:
        cid: its CID; None behind a UNIX socket.
        name: as logs call it.
        connections: open now.
        lines: passed on so far.
        cut: bytes left out of lines that were too long.
    """

    def __init__(self, cid: int | None, name: str, settings: LogSettings) -> None:
        self.cid = cid
        self.name = name
        self.connections = 0
        self.lines = 0
        self.cut = 0
        self._lines = Budget(settings.lines_per_second)
        self._arrivals = Budget(settings.connections_per_second)
        self._rate = settings.bytes_per_second
        self._resume_at = float("-inf")

    def reconfigure(self, name: str, settings: LogSettings) -> None:
        """Have another name, and other limits, from now on."""
        self.name = name
        self._lines.change(settings.lines_per_second)
        self._arrivals.change(settings.connections_per_second)
        self._rate = settings.bytes_per_second

    @property
    def dropped(self) -> int:
        """Lines left out so far."""
        return self._lines.dropped

    def arrive(self, now: float) -> bool:
        """Tell whether it may make another connection now."""
        return self._arrivals.take(now)

    def resume_at(self, now: float) -> float | None:
        """When it may be read again; None for now."""
        return self._resume_at if self._resume_at > now else None

    def take(self, now: float, lines: list[bytes]) -> list[str]:
        """Return those of some lines that may pass."""
        passed = [neutralise(line) for line in lines if line and self._lines.take(now)]
        self.lines += len(passed)
        return passed

    def spend(self, now: float, size: int) -> None:
        """Count bytes that were read; too many in too short a time make it wait."""
        # A second may be saved up: a burst of that size is read at once.
        self._resume_at = max(self._resume_at, now - 1.0) + size / self._rate

    def report(self, now: float) -> int:
        """How many lines were left out since the last report; 0 where it is too early."""
        return self._lines.report(now)


class Intake:
    """One connection's bytes, on their way to being lines."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._splitter = LineSplitter()

    def feed(self, now: float, data: bytes) -> list[str]:
        """Take what was read; b"" is the end. Returns the lines to pass on."""
        self.source.spend(now, len(data))
        lines = self._splitter.feed(data) if data else self._splitter.end()
        self.source.cut += self._splitter.truncated
        self._splitter.truncated = 0
        return self.source.take(now, lines)
