"""How far the system clock is from the NSM's. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


def clock_drift(before: datetime, signed: datetime, after: datetime) -> float:
    """Seconds the system clock is ahead of the NSM's; negative where it is behind.

    The document was signed at some moment between two looks at the system clock, so anything in
    between is no drift.

    Args:
        before: the system clock before the NSM was asked.
        signed: the timestamp in its document, to the millisecond.
        after: the system clock after it answered.
    """
    if signed < before:
        return (before - signed).total_seconds()
    if signed > after:
        return (after - signed).total_seconds()
    return 0.0
