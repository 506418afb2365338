"""Random bytes for the kernel's entropy pool, credited (random(4), RNDADDENTROPY)."""

from __future__ import annotations

import fcntl
import os
import struct
from typing import TYPE_CHECKING

from enclave.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

RNDADDENTROPY = 0x40085203
"""``_IOW('R', 0x03, int [2])`` (<linux/random.h>)."""

BITS_PER_BYTE = 4
"""Bits credited of the 8 that a good source gives: half of them, for what is unknown of the source.
The kernel is ready at 256 bits, which are 64 such bytes."""

MAX_BYTES = 1024

# struct rand_pool_info: bits credited, bytes that follow.
_HEAD = struct.Struct("=ii")

# Over 1024 bytes, so that `fcntl.ioctl` hands the kernel this buffer, which is wiped, and not a
# copy on its stack, which would stay.
_BUFFER = 2048


def add_entropy(
    data: bytes,
    *,
    _open: Callable[[str, int], int] = os.open,
    _ioctl: Callable[[int, int, bytearray, bool], int] = fcntl.ioctl,
) -> int:
    """Mix 1..1024 bytes into the kernel's pool; return the bits credited.

    Needs CAP_SYS_ADMIN. What was mixed in cannot be read back, and bytes that an attacker
    knows do no harm but for their credit.

    Raises:
        ConfigurationError: no bytes, or too many.
        OSError: the kernel refused.
    """
    if not 0 < len(data) <= MAX_BYTES:
        raise ConfigurationError(f"{len(data)} bytes for the entropy pool, not 1..{MAX_BYTES}")
    bits = len(data) * BITS_PER_BYTE
    buffer = bytearray(_BUFFER)
    fd = _open("/dev/random", os.O_WRONLY | os.O_CLOEXEC)
    try:
        _HEAD.pack_into(buffer, 0, bits, len(data))
        buffer[_HEAD.size : _HEAD.size + len(data)] = data
        _ioctl(fd, RNDADDENTROPY, buffer, True)  # noqa: FBT003 (fcntl takes no keyword)
    finally:
        # Of `data` itself Python may hold copies that nobody can wipe; they end with the boot.
        buffer[:] = bytes(_BUFFER)
        os.close(fd)
    return bits
