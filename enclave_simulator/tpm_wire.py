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
RC_OBJECT_MEMORY, RC_SESSION_HANDLES = 0x902, 0x905


class RefusedError(Exception):
    """The TPM's own error; its argument is the response code."""


def sized(data: bytes) -> bytes:
    """Return a TPM2B structure."""
    return struct.pack(">H", len(data)) + data


def take(data: bytes) -> tuple[bytes, bytes]:
    """Return the content of the TPM2B structure at the start, and what follows it."""
    size = int.from_bytes(data[:2], "big")
    if len(data) < 2 + size:
        raise RefusedError(RC_SIZE)
    return data[2 : 2 + size], data[2 + size :]
