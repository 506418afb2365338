"""The PCRs of a simulated TPM: TPM2_PCR_Read, TPM2_PCR_Extend, TPM2_PCR_Reset. No I/O.

TCG TPM 2.0 Library, Parts 2 and 3; which PCRs can be changed: TCG PC Client Platform TPM Profile.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

from enclave_simulator.tpm_wire import RC_COMMAND_SIZE, RC_LOCALITY, RC_SIZE, RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

SHA256, SHA384, SHA512 = 0x000B, 0x000C, 0x000D
PCR_COUNT = 24
PCR_SIZE = 48
"""Bytes: there is one bank, of SHA-384, which is what NitroTPM's documents have."""

SELECT_SIZE = 3
"""Bytes of a selection of 24 PCRs."""

NEVER_RESET = range(17, 23)
"""PCRs of the dynamic root of trust: not to be changed from locality 0, where programs are."""

_RESETTABLE = (16, 23)
_MOST_DIGESTS = 8
"""In one response of TPM2_PCR_Read (Part 2, TPML_DIGEST)."""

_DIGEST_SIZES = {0x0004: 20, SHA256: 32, SHA384: 48, SHA512: 64}


class Registers:
    """The PCRs, by index.

    Attributes:
        values: 48 bytes each.
        changes: how often one was changed.
    """

    def __init__(self, values: dict[int, bytes]) -> None:
        self.values = values
        self.changes = 0

    def read(self, body: bytes) -> bytes:
        """Return the parameters of the response to TPM2_PCR_Read.

        Raises:
            RefusedError: the body is not a selection.
        """
        if len(body) < 4:
            raise RefusedError(RC_COMMAND_SIZE)
        (count,) = struct.unpack_from(">I", body)
        rest = body[4:]
        selections: list[bytes] = []
        digests: list[bytes] = []
        if count > 16:
            raise RefusedError(RC_COMMAND_SIZE)
        for _ in range(count):
            if len(rest) < 3 or len(rest) < 3 + rest[2]:
                raise RefusedError(RC_COMMAND_SIZE)
            algorithm, size = struct.unpack_from(">HB", rest)
            wanted, rest = rest[3 : 3 + size], rest[3 + size :]
            read = []
            for index in range(8 * size):
                is_wanted = wanted[index // 8] >> index % 8 & 1
                if (
                    is_wanted
                    and algorithm == SHA384
                    and index in self.values
                    and len(digests) < _MOST_DIGESTS
                ):
                    read.append(index)
                    digests.append(struct.pack(">H", len(self.values[index])) + self.values[index])
            selections.append(selection(algorithm, read))
        if rest:
            raise RefusedError(RC_COMMAND_SIZE)
        listed = struct.pack(">II", self.changes, count) + b"".join(selections)
        return listed + struct.pack(">I", len(digests)) + b"".join(digests)

    def change(self, is_reset: bool, index: int, parameters: bytes) -> None:  # noqa: FBT001
        """Reset a PCR, or extend it.

        Raises:
            RefusedError: this one cannot be changed so, or the digests are malformed.
        """
        if index in NEVER_RESET or (is_reset and index not in _RESETTABLE):
            raise RefusedError(RC_LOCALITY)
        if is_reset:
            self.values[index] = bytes(PCR_SIZE)
        else:
            count, rest = int.from_bytes(parameters[:4], "big"), parameters[4:]
            for _ in range(min(count, _MOST_DIGESTS)):
                algorithm = int.from_bytes(rest[:2], "big")
                size = _DIGEST_SIZES.get(algorithm)
                if size is None or len(rest) < 2 + size:
                    raise RefusedError(RC_SIZE)
                digest, rest = rest[2 : 2 + size], rest[2 + size :]
                if algorithm == SHA384:  # other banks are not there
                    self.values[index] = hashlib.sha384(self.values[index] + digest).digest()
        self.changes += 1


def selection(algorithm: int, indexes: Sequence[int]) -> bytes:
    """Return a TPMS_PCR_SELECTION."""
    bits = sum(1 << index for index in indexes)
    return struct.pack(">HB", algorithm, SELECT_SIZE) + bits.to_bytes(SELECT_SIZE, "little")
