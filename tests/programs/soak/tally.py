"""What became of a soak's calls, and the verdict over them."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_SHOWN = 20
"""Failures of a kind that a report has."""

BLOCK = 16
"""Bytes of a secret that must never come twice; by chance they do once in 10^27 runs."""

ERRORS = frozenset({
    # The endpoint's own (docs/endpoint.md).
    "ServiceUnavailable", "ThrottlingException", "EnclaveAttestationException",
    "EnclaveCredentialsException", "EnclaveUntrustedPeerException",
    "EnclaveUntrustedResponseException",
    # KMS's, of the faults that a soak has.
    "AccessDeniedException", "DependencyTimeoutException", "DisabledException",
    "ExpiredTokenException", "InvalidSignatureException", "KMSInternalException",
    "UnrecognizedClientException", "ValidationException",
})  # fmt: skip
"""Errors that a fault may cause."""


@dataclass
class Tally:
    """Counts of calls; thread-safe.

    Attributes:
        right: calls with the right result, by operation.
        errors: calls with an error of `ERRORS`, by its type.
        away: calls that got no response since the endpoint was killed, stopped or starved.
        wrong: what must not be, in words.
        hung: calls that took longer than they may.
        calm: errors of calls that began in a calm.
        blocks: every block of a secret.
        repeated: blocks that had come before.
        slowest: seconds beyond the time in which the endpoint was impaired.
    """

    right: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    away: int = 0
    wrong: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    calm: list[str] = field(default_factory=list)
    blocks: set[bytes] = field(default_factory=set)
    repeated: int = 0
    slowest: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note_right(self, operation: str, secret: bytes) -> None:
        """Count a right call; every whole block of its secret must be new."""
        with self._lock:
            self.right[operation] += 1
            for at in range(0, len(secret) - BLOCK + 1, BLOCK):
                block = secret[at : at + BLOCK]
                if block in self.blocks:
                    self.repeated += 1
                self.blocks.add(block)

    def note_error(self, operation: str, kind: str, message: str, *, calm: bool) -> None:
        with self._lock:
            if kind not in ERRORS:
                self.wrong.append(f"{operation}: {kind or 'an error without a type'}: {message}")
                return
            self.errors[kind] += 1
            if calm:
                self.calm.append(f"{operation}: {kind}: {message}")

    def note_away(self) -> None:
        with self._lock:
            self.away += 1

    def note_wrong(self, text: str) -> None:
        with self._lock:
            self.wrong.append(text)

    def note_time(
        self, operation: str, seconds: float, allowed: float, waited: float = 0.0
    ) -> None:
        """Note how long a call took, and for how much of it the endpoint waited for a CPU."""
        with self._lock:
            self.slowest = max(self.slowest, seconds)
            if seconds > allowed:
                self.hung.append(
                    f"{operation} took {seconds:.1f} s of {allowed:.1f} s, in which its endpoint "
                    f"waited {waited:.1f} s for a CPU"
                )

    @property
    def calls(self) -> int:
        return self.right.total() + self.errors.total() + self.away + len(self.wrong)


@dataclass
class Growth:
    """Memory, descriptors and threads of one life of a part, at each calm.

    Attributes:
        name: of the part, and which life.
        samples: KiB resident, descriptors, threads.
    """

    name: str
    samples: list[tuple[int, int, int]] = field(default_factory=list)

    def grown(self) -> tuple[int, int, int]:
        """Return how much more there is at the last calm than at the first."""
        if not self.samples:
            return 0, 0, 0
        first, last = self.samples[0], self.samples[-1]
        return last[0] - first[0], last[1] - first[1], last[2] - first[2]


MOST_GROWTH = (32 << 10, 16, 20)
"""KiB, descriptors and threads that a life may grow by. A leak of thousands of calls is more.

An endpoint's 16 calls at a time may each hold a response of 1 MiB twice, the longest that it takes,
and Python keeps memory that it needed once. The 16 have a connection each, and a thread each where
they have to wait; a probe, a renewal and others have a few."""


def failures(tally: Tally, growths: Iterable[Growth]) -> list[str]:
    """Return what must not be; nothing if the soak passed."""
    found = [f"wrong: {text}" for text in tally.wrong[:_SHOWN]]
    found += [f"hung: {text}" for text in tally.hung[:_SHOWN]]
    found += [f"an error without a fault: {text}" for text in tally.calm[:_SHOWN]]
    if tally.repeated:
        found.append(f"{tally.repeated} blocks of random bytes were given out twice")
    units = ("KiB of memory", "descriptors", "threads")
    for growth in growths:
        found += [
            f"{growth.name} has grown by {by} {unit}"
            for by, most, unit in zip(growth.grown(), MOST_GROWTH, units, strict=True)
            if by > most
        ]
    return found
