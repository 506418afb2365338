"""Keys of a simulated TPM: RSA-2048 endorsement keys, to salt sessions with. No I/O.

TCG TPM 2.0 Library, Part 2 (TPMT_PUBLIC) and Part 3 (TPM2_CreatePrimary, TPM2_EvictControl,
TPM2_ReadPublic).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from enclave_simulator.tpm_sessions import HASHES
from enclave_simulator.tpm_wire import (
    RC_HANDLE,
    RC_NV_DEFINED,
    RC_NV_SPACE,
    RC_OBJECT_MEMORY,
    RC_RANGE,
    RC_SIZE,
    RC_VALUE,
    RefusedError,
    of_parameter,
    sized,
    take,
)

FIRST_TRANSIENT, FIRST_PERSISTENT = 0x80000000, 0x81000000
_MOST_TRANSIENT = 3
MOST_PERSISTENT = 7
"""What every TPM of a PC keeps (TCG PC Client Platform TPM Profile, TPM_PT_HR_PERSISTENT_MIN); ours
keeps no more."""

_PLATFORMS = 0x81800000
"""The first persistent handle that the owner may not give (Part 2, PLATFORM_PERSISTENT)."""

_RSA, _NO_ALGORITHM = 0x0001, 0x0010


@dataclass(frozen=True)
class Key:
    """A key: its public area (TPMT_PUBLIC), and what is private."""

    public: bytes
    private: rsa.RSAPrivateKey = field(repr=False)

    @property
    def name(self) -> bytes:
        """The name: the name algorithm, and the digest of the public area."""
        (algorithm,) = struct.unpack_from(">H", self.public, 2)
        return self.public[2:4] + hashlib.new(HASHES[algorithm], self.public).digest()


class Keys:
    """The keys that are loaded, by handle."""

    def __init__(self) -> None:
        self.loaded: dict[int, Key] = {}
        self._primary: rsa.RSAPrivateKey | None = None

    def get(self, handle: int, number: int = 1) -> Key:
        """Return the key of a handle, the command's first or second."""
        if handle not in self.loaded:
            raise RefusedError(RC_HANDLE | number << 8)
        return self.loaded[handle]

    def create_primary(self, parameters: bytes) -> tuple[int, bytes]:
        """Return the handle of a new key, and the response's parameters.

        One seed gives one key: all have the same, whatever the hierarchy and template.
        """
        _, rest = take(parameters)  # inSensitive
        template, rest = take(rest)
        outside, _ = take(rest)
        free = range(FIRST_TRANSIENT, FIRST_TRANSIENT + _MOST_TRANSIENT)
        handle = next((each for each in free if each not in self.loaded), None)
        if handle is None:
            raise RefusedError(RC_OBJECT_MEMORY)
        head = _head(template)
        if self._primary is None:
            self._primary = rsa.generate_private_key(65537, 2048)
        modulus = self._primary.public_key().public_numbers().n.to_bytes(256, "big")
        key = self.loaded[handle] = Key(head + sized(modulus), self._primary)
        algorithm = HASHES[int.from_bytes(template[2:4], "big")]
        # No PCRs, at locality 0, below a hierarchy.
        creation = struct.pack(">I", 0) + sized(hashlib.new(algorithm).digest())
        creation += (
            struct.pack(">BH", 1, _NO_ALGORITHM) + sized(b"\x40\0\0\x0b") * 2 + sized(outside)
        )
        ticket = struct.pack(">HI", 0x8021, 0x4000000B) + sized(bytes(64))
        digest = hashlib.new(algorithm, creation).digest()
        listed = sized(key.public) + sized(creation) + sized(digest) + ticket + sized(key.name)
        return handle, listed

    def evict(self, handle: int, persistent: int) -> None:
        """TPM2_EvictControl: keep a key under a persistent handle, or remove it from there."""
        key = self.get(handle, 2)
        if not FIRST_PERSISTENT <= persistent < FIRST_PERSISTENT + 0x1000000:
            raise RefusedError(RC_VALUE)
        if persistent >= _PLATFORMS:
            raise of_parameter(1, RC_RANGE)
        if handle == persistent:
            del self.loaded[handle]
        elif handle >= FIRST_PERSISTENT:
            raise RefusedError(RC_HANDLE | 2 << 8)
        elif persistent in self.loaded:
            raise RefusedError(RC_NV_DEFINED)
        elif sum(each >= FIRST_PERSISTENT for each in self.loaded) >= MOST_PERSISTENT:
            raise RefusedError(RC_NV_SPACE)
        else:
            self.loaded[persistent] = key

    def read_public(self, handle: int) -> bytes:
        """TPM2_ReadPublic: return public area, name and qualified name."""
        key = self.get(handle)
        algorithm = HASHES[int.from_bytes(key.public[2:4], "big")]
        qualified = hashlib.new(algorithm, b"\x40\0\0\x0b" + key.name).digest()
        return sized(key.public) + sized(key.name) + sized(key.public[2:4] + qualified)

    def decrypt_salt(self, handle: int, encrypted: bytes) -> bytes:
        """Return the salt of a session (Part 1, B.10.2)."""
        label = b"SECRET\0"
        try:
            return self.get(handle).private.decrypt(
                encrypted, padding.OAEP(padding.MGF1(SHA256()), SHA256(), label)
            )
        except ValueError:
            raise RefusedError(RC_VALUE) from None


def _head(template: bytes) -> bytes:
    """Return a TPMT_PUBLIC up to its unique field: of an RSA-2048 key, with SHA-256 names."""
    if len(template) < 10:
        raise RefusedError(RC_SIZE)
    kind, algorithm = struct.unpack_from(">HH", template)
    _, rest = take(template[8:])  # authPolicy
    for more in (4, 2):  # symmetric: key bits and mode; scheme: a hash
        if len(rest) < 2:
            raise RefusedError(RC_SIZE)
        rest = rest[2 if rest[:2] == b"\0\x10" else 2 + more :]
    if len(rest) < 6 or kind != _RSA or algorithm != 0x000B or rest[:2] != b"\x08\0":
        raise RefusedError(RC_VALUE)
    return template[: len(template) - len(rest) + 6]
