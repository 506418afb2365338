"""Time, from outside: everything that waits or compares times takes a `Clock`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time, elapsed time, and waiting."""

    def now(self) -> datetime:
        """Return the wall time, aware, in UTC. Inside an enclave nothing vouches for it."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back and go on through a suspend of the machine.

        Only differences have a meaning.
        """
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """See `Clock.now`."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        # Not CLOCK_MONOTONIC, which stands still while the machine is suspended: a document would
        # seem younger than it is, and KMS refuse it.
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        time.sleep(seconds)
