"""When to renew credentials, and when to retry after a failure. No I/O.

The parent and the enclave keep credentials by the same rules: renewed after half of the time left,
so that an enclave's always have a quarter of their lifetime left while the source responds; and at
least every 15 minutes, since a role may have changed. After a failure, pauses double. All times
are drawn at random from a range, so that machines that started together do not ask together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from vsock_proxy.service.backoff import Backoff

LONGEST_USE: Final = 900.0
"""Seconds after which credentials are renewed even if they are valid for longer."""


@dataclass(frozen=True, slots=True)
class RenewalPolicy:
    """What differs between the parent and the enclave; all in seconds.

    Attributes:
        shortest_use: before the next renewal, however soon the credentials expire.
        pause: after failures.
    """

    shortest_use: float
    pause: Backoff


class Renewal:
    """Tells when to renew. Times are monotonic seconds.

    Args:
        policy: how soon, how often.
        uniform: returns a random number between two.

    Attributes:
        due: when to renew; it has passed until the first response.
        failures: in a row.
    """

    def __init__(self, policy: RenewalPolicy, uniform: Callable[[float, float], float]) -> None:
        self.due = float("-inf")
        self.failures = 0
        self._policy = policy
        self._uniform = uniform

    def wait(self, now: float) -> float:
        """Return how many seconds are left before renewing; 0 if that is now."""
        return max(0.0, self.due - now)

    def is_due(self, now: float) -> bool:
        """Return whether to renew now."""
        return now >= self.due

    def succeeded(self, now: float, lifetime: float | None) -> None:
        """Note credentials that are valid for so many seconds; None: no end is known."""
        use = LONGEST_USE
        if lifetime is not None:
            use = min(max(lifetime / 2, self._policy.shortest_use), LONGEST_USE)
        self.failures = 0
        self.due = now + self._uniform(0.8 * use, use)

    def failed(self, now: float) -> None:
        """Note that the source gave no credentials."""
        self.failures += 1
        self.due = now + self._policy.pause.delay(self.failures, self._uniform)

    def renew_at_once(self, now: float) -> None:
        """Make it due now, for example if KMS rejected the credentials."""
        self.due = min(self.due, now)
