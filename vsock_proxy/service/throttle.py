"""A log that a hostile peer cannot flood: a few lines a period, and the number left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable


class Throttle:
    """Warnings, at most `burst` in every `period` seconds."""

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
        self._said = 0
        self._left_out = 0

    def warning(self, message: str, *args: object) -> None:
        """Log one line, or count it."""
        self.catch_up()
        if self._said < self._burst:
            self._said += 1
            self._log.warning(message, *args)
        else:
            self._left_out += 1

    def catch_up(self) -> None:
        """Say how many lines were left out, once their period is over. Call now and then."""
        if self._monotonic() - self._since < self._period:
            return
        if self._left_out:
            self._log.warning("%d more such lines left out", self._left_out)
        self._since = self._monotonic()
        self._said = self._left_out = 0
