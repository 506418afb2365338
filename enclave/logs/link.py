"""Plans when to connect and when to retry. No I/O."""

from __future__ import annotations

from vsock_proxy.service.backoff import Backoff

BACKOFF = Backoff(first=0.1, most=5.0)
"""Between the end of a connection, or of an attempt, and the next attempt."""

LASTED = 5.0
"""Seconds after which a connection counts as a success and the delays start over. So a parent that
accepts and closes in a loop is retried as rarely as one that refuses."""


class Link:
    """The state of one connection at a time. Times are the caller's, in seconds."""

    def __init__(self) -> None:
        self._failures = 0
        self._dial_at = float("-inf")
        self._since: float | None = None

    def delay(self, now: float) -> float:
        """Return the seconds until the next attempt; 0 for at once, and while connected."""
        return 0.0 if self._since is not None else max(0.0, self._dial_at - now)

    def began(self, now: float) -> None:
        """Note that an attempt succeeded."""
        self._since = now

    def ended(self, now: float) -> None:
        """Note that an attempt failed, or that the connection ended."""
        if self._since is not None and now - self._since >= LASTED:
            self._failures = 0
        self._since = None
        self._failures += 1
        self._dial_at = now + BACKOFF.delay(self._failures)
