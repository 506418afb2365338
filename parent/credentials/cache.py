"""The credentials at hand, and when to ask for others. Does no I/O, and knows no thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from parent.clock import Clock
    from parent.credentials.model import Credentials, CredentialsError

LONGEST_USE: Final = 900.0
"""Seconds after which even credentials that last are asked for again: a role may have changed."""

SHORTEST_USE: Final = 5.0
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
"""Seconds after a failure; doubled from the first to the longest, less a random half."""


class Cache:
    """Credentials until they expire, renewed when half of their time left is over.

    An enclave does the same with what it is given, so that its credentials always have a quarter
    of their lifetime left, at least, while the parent's source answers. One thread changes it, any
    reads it.

    Attributes:
        renewals: successful answers of the source.
        failures: others, in all.
        failures_in_a_row: since the last renewal.
        failure: the last of these; None after a renewal.
        renewed_at: wall time of the last renewal.
    """

    def __init__(self, clock: Clock, uniform: Callable[[float, float], float]) -> None:
        self.renewals = self.failures = self.failures_in_a_row = 0
        self.failure: CredentialsError | None = None
        self.renewed_at: datetime | None = None
        self._clock = clock
        self._uniform = uniform
        self._credentials: Credentials | None = None
        self._due = float("-inf")

    def current(self) -> Credentials | None:
        """Return the credentials at hand, never expired ones."""
        credentials = self._credentials
        return credentials if credentials and credentials.valid(self._clock.now()) else None

    def wait(self) -> float:
        """Seconds until the source is to be asked; none, where that is now."""
        if self.failure is None and self.current() is None:
            return 0.0  # Before the first answer; or the wall clock was set.
        return max(0.0, self._due - self._clock.monotonic())

    def renewed(self, credentials: Credentials) -> None:
        """The source answered."""
        now = self._clock.now()
        use = LONGEST_USE
        if credentials.expiration is not None:
            left = (credentials.expiration - now).total_seconds()
            use = min(max(left / 2, SHORTEST_USE), LONGEST_USE)
        self._credentials, self.failure, self.renewed_at = credentials, None, now
        self.renewals += 1
        self.failures_in_a_row = 0
        # Not the whole fleet at the same moment.
        self._due = self._clock.monotonic() + self._uniform(0.8 * use, use)

    def failed(self, error: CredentialsError) -> None:
        """The source did not answer, or not with credentials."""
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self.failures_in_a_row, 16))
        self.failure = error
        self.failures += 1
        self.failures_in_a_row += 1
        self._due = self._clock.monotonic() + self._uniform(pause / 2, pause)
