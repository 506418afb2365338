"""The RSA key pair that KMS encrypts for, and making one in the background."""

from __future__ import annotations

import contextlib
import threading
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

KEY_BITS: Final = 2048
"""The only size that KMS is known to accept in an attestation document."""


def new_private_key() -> rsa.RSAPrivateKey:
    """Make a key pair: some 30 ms at best, and several times as long at worst."""
    return rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)


def subject_public_key_info(public_key: rsa.RSAPublicKey) -> bytes:
    """Return the DER SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7) of a key made here.

    All but the modulus is the same in each. `cryptography` could write it, but would load its
    code for every format of keys first: 3 MiB, and a tenth of the time to the first call.
    """
    return _BEFORE_MODULUS + public_key.public_numbers().n.to_bytes(KEY_BITS // 8) + _EXPONENT


# The lengths count the modulus's 256 bytes and the zero before its first bit, which is always set.
_BEFORE_MODULUS: Final = bytes.fromhex(
    "30820122"  # SubjectPublicKeyInfo
    "300d06092a864886f70d0101010500"  # rsaEncryption, NULL
    "0382010f003082010a"  # BIT STRING of an RSAPublicKey (RFC 8017, A.1.1)
    "0282010100"  # modulus
)
_EXPONENT: Final = bytes.fromhex("0203010001")


class KeyPairAhead:
    """Makes a key pair in a thread, from the moment this object is made.

    Meanwhile Python may load modules: with a second CPU the key costs a program no time.
    """

    def __init__(self) -> None:
        self._made: list[rsa.RSAPrivateKey] = []
        # Not a daemon thread: a process that exits meanwhile would pull OpenSSL from under it.
        self._thread = threading.Thread(target=self._make, name="key pair")
        with contextlib.suppress(RuntimeError):  # no more threads: `private_key` makes it
            self._thread.start()

    def private_key(self) -> rsa.RSAPrivateKey:
        """Wait for the private key and hand it over; a second call returns another one."""
        if self._thread.ident is not None:
            self._thread.join()
        return self._made.pop() if self._made else new_private_key()

    def _make(self) -> None:
        # Too little memory, for example: `private_key` meets it, where somebody is told.
        with contextlib.suppress(Exception):
            self._made.append(new_private_key())
