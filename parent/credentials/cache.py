"""The cached credentials, and when to renew them. No I/O, no threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vsock_proxy.service.backoff import Backoff
from vsock_proxy.service.renewal import Renewal, RenewalPolicy

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from parent.clock import Clock
    from parent.credentials.model import Credentials, CredentialsError

POLICY: Final = RenewalPolicy(shortest_use=5.0, pause=Backoff(first=1.0, most=60.0, jitter=0.5))


class Cache:
    """Keeps credentials until they expire. One thread changes it, any reads it.

    Args:
        clock: wall time and monotonic time.
        uniform: returns a random number between two.

    Attributes:
        renewals: how often the source gave credentials.
        failures: how often it did not, in all.
        failure: the last of these; None after a renewal.
        renewed_at: wall time of the last renewal.
    """

    def __init__(self, clock: Clock, uniform: Callable[[float, float], float]) -> None:
        self.renewals = self.failures = 0
        self.failure: CredentialsError | None = None
        self.renewed_at: datetime | None = None
        self._clock = clock
        self._renewal = Renewal(POLICY, uniform)
        self._credentials: Credentials | None = None

    def current(self) -> Credentials | None:
        """Return the cached credentials; None if there are none, or they have expired."""
        credentials = self._credentials
        return credentials if credentials and credentials.valid(self._clock.now()) else None

    def wait(self) -> float:
        """Return how many seconds are left before the source is to be asked; 0 if that is now."""
        if self.failure is None and self.current() is None:
            return 0.0  # Before the first response; or the wall clock was set.
        return self._renewal.wait(self._clock.monotonic())

    def renewed(self, credentials: Credentials) -> None:
        """Take credentials that the source gave."""
        now = self._clock.now()
        end = credentials.expiration
        self._credentials, self.failure, self.renewed_at = credentials, None, now
        self.renewals += 1
        self._renewal.succeeded(
            self._clock.monotonic(), (end - now).total_seconds() if end else None
        )

    def failed(self, error: CredentialsError) -> None:
        """Note that the source gave no credentials, or invalid ones."""
        self.failure = error
        self.failures += 1
        self._renewal.failed(self._clock.monotonic())
