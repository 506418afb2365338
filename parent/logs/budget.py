"""How much a writer may write: a token bucket that counts what it refuses. Does no I/O."""

from __future__ import annotations


class Budget:
    """`rate` units a second, and as many at once as `burst` seconds are worth.

    Attributes:
        dropped: units refused so far.
    """

    def __init__(self, rate: float, *, burst: float = 5.0, period: float = 10.0) -> None:
        self.dropped = 0
        self._rate = rate
        self._burst = burst
        self._left = rate * burst
        self._at = float("-inf")
        self._period = period
        self._reported = 0
        self._report_at = float("-inf")

    def change(self, rate: float) -> None:
        """Have another rate from now on."""
        self._rate = rate

    def take(self, now: float, units: float = 1) -> bool:
        """Take some units; False, and counted, where there are too few."""
        if now > self._at:
            self._left = min(self._rate * self._burst, self._left + (now - self._at) * self._rate)
            self._at = now
        if self._left < units:
            self.dropped += 1
            return False
        self._left -= units
        return True

    def report(self, now: float) -> int:
        """How many were refused since the last report; 0 if that was less than a period ago."""
        fresh = self.dropped - self._reported
        if not fresh or now < self._report_at:
            return 0
        self._reported = self.dropped
        self._report_at = now + self._period
        return fresh
