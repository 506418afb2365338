"""The key pair KMS encrypts for, made ahead where a program knows that it will need one."""

from __future__ import annotations

import contextlib
import threading
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

KEY_BITS: Final = 2048
"""The one size KMS is known to take in an attestation document."""


def new_private_key() -> rsa.RSAPrivateKey:
    """Make a key pair, in some 30 ms at best and several times as many at worst."""
    return rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)


class KeyPairAhead:
    """A key pair that is being made, in a thread, from when this object is.

    Python may load modules meanwhile: with a second CPU the key costs a program no time.
    """

    def __init__(self) -> None:
        self._made: list[rsa.RSAPrivateKey] = []
        # No daemon: a process that ended in the middle would pull OpenSSL from under it.
        self._thread = threading.Thread(target=self._make, name="key pair")
        with contextlib.suppress(RuntimeError):  # The system has no more threads: see below.
            self._thread.start()

    def private_key(self) -> rsa.RSAPrivateKey:
        """Wait for the private key, and give it away: the second caller gets another one."""
        if self._thread.ident is not None:
            self._thread.join()
        return self._made.pop() if self._made else new_private_key()

    def _make(self) -> None:
        self._made.append(new_private_key())
