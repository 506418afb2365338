"""When to connect, and to connect again. Does no I/O."""

from __future__ import annotations

FIRST_DELAY = 0.1
LONGEST_DELAY = 5.0
"""Seconds between the end of a connection, or of an attempt, and the next attempt: doubled from
the first to the longest."""

LASTED = 5.0
"""Seconds after which a connection was a good one, and the delays begin anew. So a parent that
accepts and closes in a loop is met as rarely as one that refuses."""


class Link:
    """One connection at a time, to a peer that may do anything. Times are the caller's, seconds."""

    def __init__(self) -> None:
        self._delay = FIRST_DELAY
        self._dial_at = float("-inf")
        self._since: float | None = None

    def delay(self, now: float) -> float:
        """Seconds until an attempt may be made; 0 for at once, and while there is a connection."""
        return 0.0 if self._since is not None else max(0.0, self._dial_at - now)

    def began(self, now: float) -> None:
        """An attempt succeeded."""
        self._since = now

    def ended(self, now: float) -> None:
        """An attempt failed, or the connection ended."""
        if self._since is not None and now - self._since >= LASTED:
            self._delay = FIRST_DELAY
        self._since = None
        self._dial_at = now + self._delay
        self._delay = min(2 * self._delay, LONGEST_DELAY)
