"""Identifiers that KMS makes up: random, or from a seed the same ones in the same order."""

from __future__ import annotations

import random
import secrets
import uuid


class Identifiers:
    """Makes identifiers. Key material never comes from here."""

    def __init__(self, seed: int | None = None) -> None:
        """Start.

        Args:
            seed: for the same identifiers in each run; None for unpredictable ones.
        """
        seeded = None if seed is None else random.Random(seed)  # noqa: S311 (for reproducible ids)
        self._bits = secrets.randbits if seeded is None else seeded.getrandbits

    def uuid(self) -> str:
        """Return a UUID of version 4."""
        return str(uuid.UUID(int=self._bits(128), version=4))

    def hex(self, digits: int) -> str:
        """Return lower-case hex digits."""
        return f"{self._bits(4 * digits):0{digits}x}"

    def nonce(self) -> bytes:
        """Return 16 bytes."""
        return self._bits(128).to_bytes(16, "big")
