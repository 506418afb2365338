"""Growing delays between attempts. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_EXPONENT = 64
"""2.0 to a power of thousands overflows; no delay doubles this often."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays that double from the first to the longest.

    With jitter, clients that failed together do not retry together (AWS Architecture Blog,
    "Exponential Backoff And Jitter").

    Attributes:
        first: seconds after the first failure.
        most: seconds at most.
        jitter: the share of a delay that is random: 0.0 is none, 0.5 waits for a half to the whole
            of it, 1.0 ("full jitter") for anything up to it.
    """

    first: float
    most: float
    jitter: float = 0.0

    def delay(
        self, failures: int, uniform: Callable[[float, float], float] = lambda _, most: most
    ) -> float:
        """Return the seconds to wait before the next attempt.

        Args:
            failures: failures in a row, 1 or more.
            uniform: returns a random number between two, such as `random.uniform`.
        """
        whole = min(self.most, self.first * 2.0 ** min(failures - 1, _MAX_EXPONENT))
        return uniform(whole * (1.0 - self.jitter), whole) if self.jitter else whole
