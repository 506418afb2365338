"""What a pool of random bytes holds, and its limits; `pool` fills it. No I/O."""

from __future__ import annotations

from typing import Final

from enclave.errors import ConfigurationError

FETCH: Final = 1024
"""Bytes in one fetch: as many as KMS GenerateRandom gives."""

MAX_TAKEN: Final = 256
"""Bytes in one request, at most; a larger one gains little and empties the pool for others."""

CAPACITY: Final = 65_536
"""Bytes held, by default: 2,048 requests of 32 bytes."""

MAX_CAPACITY: Final = 1 << 24

REFILLERS: Final = 4
"""Fetches at the same time: with 5 ms to KMS and back, 4 of them bring 800 KiB/s."""


class RandomStore:
    """The bytes themselves: a ring, filled at one end and wiped at the other. No I/O, no locks.

    Whatever is not held is zero. Python may still hold copies out of our reach: the bytes objects
    that came in, until they are freed, and those that were handed out, which belong to the taker.
    """

    def __init__(self, capacity: int) -> None:
        self._ring = bytearray(capacity)
        self._start = 0
        self._held = 0

    def __len__(self) -> int:
        return self._held

    @property
    def room(self) -> int:
        """How many bytes `add` takes."""
        return len(self._ring) - self._held

    def add(self, data: bytes) -> None:
        """Put bytes in, behind all others; the caller has checked `room`."""
        if len(data) > self.room:
            raise ValueError("more bytes than there is room for")
        at = (self._start + self._held) % len(self._ring)
        first = min(len(data), len(self._ring) - at)
        self._ring[at : at + first] = data[:first]
        self._ring[: len(data) - first] = data[first:]
        self._held += len(data)

    def take(self, number_of_bytes: int) -> bytes | None:
        """Hand bytes out, the oldest first, and wipe them here; None if too few are held."""
        if number_of_bytes > self._held:
            return None
        first = min(number_of_bytes, len(self._ring) - self._start)
        taken = self._cut(self._start, first)
        if first < number_of_bytes:
            taken += self._cut(0, number_of_bytes - first)
        self._start = (self._start + number_of_bytes) % len(self._ring)
        self._held -= number_of_bytes
        return taken

    def wipe(self) -> None:
        """Forget everything."""
        self._ring[:] = bytes(len(self._ring))
        self._held = 0

    def _cut(self, at: int, length: int) -> bytes:
        # Through a view: a slice of a bytearray is one more copy, and one nobody would wipe.
        with memoryview(self._ring)[at : at + length] as view:
            cut = view.tobytes()
            view[:] = bytes(length)
        return cut


def check_settings(capacity: int, refillers: int = REFILLERS) -> None:
    """Check the numbers that a `RandomPool` is made with.

    Raises:
        ConfigurationError: a number makes no sense.
    """
    # Room for one fetch even if all but enough for the largest request is held.
    if not 2 * FETCH <= capacity <= MAX_CAPACITY or not 1 <= refillers <= 64:
        raise ConfigurationError(
            f"a pool of {capacity} bytes with {refillers} fetches at a time",
            hint=f"{2 * FETCH} to {MAX_CAPACITY} bytes, 1 to 64 fetches",
        )
