"""How far the system clock is from the NSM's. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


def clock_drift(before: datetime, signed: datetime, after: datetime) -> float:
    """Return the seconds the system clock is ahead of the NSM's; negative if it is behind.

    The document was signed between two readings of the system clock, so that anything in between
    is no drift.

    Args:
        before: the system clock before the request to the NSM.
        signed: the timestamp in its document, to the millisecond.
        after: the system clock after the response.
    """
    if signed < before:
        return (before - signed).total_seconds()
    if signed > after:
        return (after - signed).total_seconds()
    return 0.0


def describe(drift: float) -> str:
    """Return a drift in words, for example ``12.3 s behind the NSM's``."""
    return f"{abs(drift):.1f} s {'ahead of' if drift > 0 else 'behind'} the NSM's"
