"""What the parts of a simulated TPM share: response codes, and structures on the wire. No I/O.

TCG TPM 2.0 Library, Part 2.
"""

from __future__ import annotations

import struct

RC_BAD_TAG, RC_COMMAND_SIZE, RC_COMMAND_CODE = 0x01E, 0x142, 0x143
RC_AUTH_MISSING, RC_AUTHSIZE = 0x125, 0x144
RC_BAD_AUTH, RC_AUTH_FAIL = 0x9A2, 0x98E  # of session 1
RC_NV_RANGE, RC_NV_UNINITIALIZED, RC_NV_SPACE, RC_NV_DEFINED = 0x146, 0x14A, 0x14B, 0x14C
RC_HANDLE = 0x08B  # and the number of the handle, from bit 8 on
RC_SIZE, RC_VALUE = 0x1D5, 0x1C4  # of parameter 1
RC_NV_AUTHORIZATION = 0x149
RC_INITIALIZE, RC_LOCALITY = 0x100, 0x907
RC_VALUE_OF_HANDLE = 0x184  # the first
RC_ALL_SIZE = 0x095  # TPM_RC_SIZE: of all parameters, or all authorizations
RC_INSUFFICIENT = 0x09A  # and what ended too soon: see `Reader`
RC_ATTRIBUTES, RC_HASH, RC_RANGE = 0x082, 0x083, 0x08D
RC_OBJECT_MEMORY, RC_SESSION_HANDLES = 0x902, 0x905


class RefusedError(Exception):
    """The TPM's own error; its argument is the response code."""


def of_parameter(number: int, code: int) -> RefusedError:
    """Return an error of a command's first, second or third parameter."""
    return RefusedError(code & ~0xF40 | 0x40 | number << 8)


class Reader:
    """Reads the parameters of a command one by one; each must be there whole, and nothing else.

    Part 1, "Command Processing": what is short, or too long, is refused before anything is done.
    """

    def __init__(self, data: bytes) -> None:
        self.rest = data
        self.number = 0

    def integer(self, size: int) -> int:
        """Read a number of `size` bytes."""
        self.number += 1
        return int.from_bytes(self._take(size), "big")

    def sized(self) -> bytes:
        """Read a TPM2B structure."""
        self.number += 1
        return self._take(int.from_bytes(self._take(2), "big"))

    def part(self, size: int) -> bytes:
        """Read more of the parameter that was begun last."""
        return self._take(size)

    def end(self) -> None:
        """Check that nothing follows."""
        if self.rest:
            raise RefusedError(RC_ALL_SIZE)

    def _take(self, size: int) -> bytes:
        if len(self.rest) < size:
            raise of_parameter(self.number, RC_INSUFFICIENT)
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken


def sized(data: bytes) -> bytes:
    """Return a TPM2B structure."""
    return struct.pack(">H", len(data)) + data


def take(data: bytes) -> tuple[bytes, bytes]:
    """Return the content of the TPM2B structure at the start, and what follows it."""
    size = int.from_bytes(data[:2], "big")
    if len(data) < 2 + size:
        raise RefusedError(RC_SIZE)
    return data[2 : 2 + size], data[2 + size :]
