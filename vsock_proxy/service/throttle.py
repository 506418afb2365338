"""Limits log lines per period, so that a hostile peer cannot flood the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable


class Throttle:
    """Logs warnings, at most `burst` in every `period` seconds; the others are counted."""

    def __init__(
        self,
        log: logging.Logger,
        monotonic: Callable[[], float],
        *,
        burst: int = 10,
        period: float = 10.0,
    ) -> None:
        self._log = log
        self._monotonic = monotonic
        self._burst = burst
        self._period = period
        self._since = monotonic()
        self._logged = 0
        self._dropped = 0

    def warning(self, message: str, *args: object) -> None:
        """Log one line, or count it."""
        self.catch_up()
        if self._logged < self._burst:
            self._logged += 1
            self._log.warning(message, *args)
        else:
            self._dropped += 1

    def catch_up(self) -> None:
        """Log how many lines were dropped once their period is over. Call now and then."""
        if self._monotonic() - self._since < self._period:
            return
        if self._dropped:
            self._log.warning("%d more such lines dropped", self._dropped)
        self._since = self._monotonic()
        self._logged = self._dropped = 0
