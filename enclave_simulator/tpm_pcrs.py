"""The PCRs of a simulated TPM: TPM2_PCR_Read, TPM2_PCR_Extend, TPM2_PCR_Reset. No I/O.

TCG TPM 2.0 Library, Parts 2 and 3; which PCRs can be changed: TCG PC Client Platform TPM Profile.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

from enclave_simulator.tpm_wire import (
    RC_HASH,
    RC_LOCALITY,
    RC_SIZE,
    RC_VALUE,
    RefusedError,
    of_parameter,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from enclave_simulator.tpm_wire import Reader

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

_MOST_BANKS = 4
"""Selections, or digests, in one command: at most one for each of these."""

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

    def read(self, reader: Reader) -> bytes:
        """Return the parameters of the response to TPM2_PCR_Read.

        Raises:
            RefusedError: the parameters are not a selection.
        """
        count = reader.integer(4)
        selections: list[bytes] = []
        digests: list[bytes] = []
        if count > _MOST_BANKS:
            raise of_parameter(1, RC_SIZE)
        asked = []
        for _ in range(count):
            algorithm, size = struct.unpack(">HB", reader.part(3))
            if algorithm not in _DIGEST_SIZES:
                raise of_parameter(1, RC_HASH)
            if size != SELECT_SIZE:
                raise of_parameter(1, RC_VALUE)
            asked.append((algorithm, size, reader.part(size)))
        reader.end()
        for algorithm, size, wanted in asked:
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
        listed = struct.pack(">II", self.changes, count) + b"".join(selections)
        return listed + struct.pack(">I", len(digests)) + b"".join(digests)

    def change(self, is_reset: bool, index: int, reader: Reader) -> None:  # noqa: FBT001
        """Reset a PCR, or extend it.

        Raises:
            RefusedError: this one cannot be changed so, or the digests are malformed.
        """
        digests = [] if is_reset else _digests(reader)
        reader.end()
        if index in NEVER_RESET or (is_reset and index not in _RESETTABLE):
            raise RefusedError(RC_LOCALITY)
        if is_reset:
            self.values[index] = bytes(PCR_SIZE)
        for algorithm, digest in digests:
            if algorithm == SHA384:  # other banks are not there
                self.values[index] = hashlib.sha384(self.values[index] + digest).digest()
        self.changes += 1


def _digests(reader: Reader) -> list[tuple[int, bytes]]:
    """Read a TPML_DIGEST_VALUES."""
    count = reader.integer(4)
    if count > _MOST_BANKS:
        raise of_parameter(1, RC_SIZE)
    digests = []
    for _ in range(count):
        algorithm = int.from_bytes(reader.part(2), "big")
        if algorithm not in _DIGEST_SIZES:
            raise of_parameter(1, RC_HASH)
        digests.append((algorithm, reader.part(_DIGEST_SIZES[algorithm])))
    return digests


def selection(algorithm: int, indexes: Sequence[int]) -> bytes:
    """Return a TPMS_PCR_SELECTION."""
    bits = sum(1 << index for index in indexes)
    return struct.pack(">HB", algorithm, SELECT_SIZE) + bits.to_bytes(SELECT_SIZE, "little")
