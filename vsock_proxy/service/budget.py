"""A token bucket that counts what it rejects. No I/O."""

from __future__ import annotations

_MOST_CIDS = 256
"""CIDs whose units are counted; an instance runs a few enclaves at a time."""


class Budget:
    """Allows `rate` units a second, and `burst` seconds' worth at once.

    Args:
        rate: units a second.
        burst: seconds whose units may be saved up.
        period: seconds between two reports, at least.

    Attributes:
        dropped: units rejected so far.
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
        """Change the rate from now on."""
        self._rate = rate

    def take(self, now: float) -> bool:
        """Take one unit; return False, and count it, if there is none."""
        return self.take_some(now, 1) == 1

    def take_some(self, now: float, wanted: int) -> int:
        """Take up to `wanted` units; return how many there were, and count the others."""
        self._refill(now)
        taken = min(wanted, int(self._left))
        self._left -= taken
        self.dropped += wanted - taken
        return taken

    def wait(self, now: float) -> float:
        """Return how many seconds are left until there is a unit to take; 0 if there is one."""
        self._refill(now)
        return max(0.0, (1 - self._left) / self._rate)

    def report(self, now: float) -> int:
        """Return how many were rejected since the last report; 0 if that is too recent."""
        fresh = self.dropped - self._reported
        if not fresh or now < self._report_at:
            return 0
        self._reported = self.dropped
        self._report_at = now + self._period
        return fresh

    def _refill(self, now: float) -> None:
        if now > self._at:
            self._left = min(self._rate * self._burst, self._left + (now - self._at) * self._rate)
            self._at = now


class BudgetsByCid:
    """A budget for each CID.

    Args:
        rate: units a second of each.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._budgets: dict[int, Budget] = {}

    def change(self, rate: float) -> None:
        """Change the rate of all from now on."""
        self._rate = rate
        for budget in self._budgets.values():
            budget.change(rate)

    def take(self, cid: int, now: float) -> bool:
        """Take one unit of a CID's; return False if there is none."""
        budget = self._budgets.get(cid)
        if budget is None:
            if len(self._budgets) >= _MOST_CIDS:
                self._budgets.clear()  # of enclaves that have ended, nearly all
            budget = self._budgets[cid] = Budget(self._rate)
        return budget.take(now)
