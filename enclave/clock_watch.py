"""The system clock, compared with the NSM's each time the NSM signs a document."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from enclave.attestation.document import parse
from enclave.clock import Clock, SystemClock
from enclave.drift import clock_drift, describe
from enclave.errors import DecodingError

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

MAX_DRIFT: Final = 10.0
"""Seconds of drift that are tolerated; KMS rejects signatures that are five minutes off."""

PRECISION: Final = 0.05
"""Seconds of drift below which nothing is corrected: a request to the NSM takes a part of it."""


class ClockWatch:
    """Measures the drift of the system clock, logs it, and corrects it if it may.

    A drift over `max_drift` is corrected by a step, a smaller one by slewing: the kernel then
    gains or loses 0.5 ms in each second, and time never goes back.

    Args:
        clock: the system clock.
        max_drift: seconds of drift that are tolerated.
        step: sets the system clock, in seconds since 1970; None: the clock is never corrected.
        slew: moves the system clock gradually by so many seconds; given if `step` is.

    Attributes:
        drift: seconds the system clock was ahead of the NSM's, before any correction, when they
            were last compared; None if they never were.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        max_drift: float = MAX_DRIFT,
        step: Callable[[float], None] | None = None,
        slew: Callable[[float], None] | None = None,
    ) -> None:
        self.drift: float | None = None
        self._clock = clock or SystemClock()
        self._max_drift = max_drift
        self._step = step
        self._slew = slew

    def fetch(self, attest: Callable[[], bytes]) -> bytes:
        """Fetch a document with `attest`; compare the clocks, and log or correct a drift.

        Raises:
            NsmError: as `attest` raises it. The clock is never a reason to fail.
        """
        document = self.measure(attest)
        try:
            corrected = self.correct()
        except OSError as e:
            log.warning(
                "the system clock is %s, and the kernel refuses to correct it: %s (it takes "
                "CAP_SYS_TIME)",
                describe(self.drift or 0.0),
                os.strerror(e.errno) if e.errno else e,
            )
            return document
        if corrected:
            log.warning("the system clock %s", corrected)
        elif self.is_off:
            log.warning(
                "the system clock is %s: signatures, and certificates on the way to KMS, may be "
                "rejected (enclave-agent serve --correct-clock corrects it)",
                describe(self.drift or 0.0),
            )
        return document

    def measure(self, attest: Callable[[], bytes]) -> bytes:
        """Fetch a document with `attest`, and compare the clocks on the way.

        The document is not verified, and need not be: it comes from this enclave's own device, and
        whoever could forge it there could forge every response of the NSM's. Nor could it be:
        whether a certificate is valid is a question to the clock that is in doubt.
        """
        before = self._clock.now()
        document = attest()
        after = self._clock.now()
        try:
            signed = parse(document).timestamp
        except DecodingError as e:
            log.debug("the clocks were not compared: %s", e)
        else:
            self.drift = clock_drift(before, signed, after)
        return document

    def only_watch(self) -> None:
        """Correct the clock no more: another process does."""
        self._step = self._slew = None

    @property
    def is_off(self) -> bool:
        """Whether the drift is more than what is tolerated."""
        return self.drift is not None and abs(self.drift) > self._max_drift

    def correct(self) -> str:
        """Correct the drift that was measured last, if this may.

        Returns:
            What a step has done, for example ``was 12.3 s behind the NSM's, and is set``; nothing
            if none was needed.

        Raises:
            OSError: the kernel refused.
        """
        if self._step is None or self._slew is None or self.drift is None:
            return ""
        if self.is_off:
            self._step(self._clock.now().timestamp() - self.drift)
            return f"was {describe(self.drift)}, and is set"
        if abs(self.drift) >= PRECISION:
            self._slew(-self.drift)
            log.debug("the system clock is %.3f s ahead of the NSM's: slewed", self.drift)
        return ""
