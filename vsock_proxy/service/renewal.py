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
    """Tells when to ask the source of the credentials. Times are monotonic seconds.

    Args:
        policy: how soon, how often.
        uniform: returns a random number between two.

    Attributes:
        due: when to ask; it has passed until the first response.
        renewed_at: when the source last gave credentials; minus infinity if never.
        failures: in a row.
    """

    def __init__(self, policy: RenewalPolicy, uniform: Callable[[float, float], float]) -> None:
        self.due = self.renewed_at = float("-inf")
        self.failures = 0
        self._policy = policy
        self._uniform = uniform

    def wait(self, now: float) -> float:
        """Return how many seconds are left before asking; 0 if that is now."""
        return max(0.0, self.due - now)

    def succeeded(self, now: float, lifetime: float | None) -> None:
        """Note credentials that are valid for so many seconds; None: no end is known."""
        use = LONGEST_USE
        if lifetime is not None:
            use = min(max(lifetime / 2, self._policy.shortest_use), LONGEST_USE)
        self.failures = 0
        self.renewed_at = now
        self.due = now + self._uniform(0.8 * use, use)

    def failed(self, now: float) -> None:
        """Note that the source gave no credentials."""
        self.failures += 1
        self.due = now + self._policy.pause.delay(self.failures, self._uniform)

    def ask_now(self, now: float) -> None:
        """Make it due: KMS rejected the credentials, say."""
        self.due = min(self.due, now)
