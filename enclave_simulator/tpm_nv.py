"""The NV memory of a simulated TPM. No I/O.

TCG TPM 2.0 Library, Part 2 (TPMS_NV_PUBLIC) and Part 3, "Non-volatile Storage".
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from enclave_simulator.tpm_sessions import HASHES
from enclave_simulator.tpm_wire import (
    RC_HANDLE,
    RC_NV_DEFINED,
    RC_NV_RANGE,
    RC_NV_SPACE,
    RC_NV_UNINITIALIZED,
    RC_SIZE,
    RC_VALUE,
    RefusedError,
    sized,
    take,
)

_AUTHWRITE, _AUTHREAD, _WRITTEN = 1 << 2, 1 << 18, 1 << 29


@dataclass
class NvIndex:
    """An index."""

    algorithm: int
    attributes: int
    size: int
    auth: bytes
    data: bytearray | None = None


class NvMemory:
    """The indexes that are defined.

    Attributes:
        indexes: by handle.
        space: bytes of memory.
        chunk: bytes that one command reads or writes.
    """

    def __init__(self, indexes: dict[int, NvIndex], space: int, chunk: int) -> None:
        self.indexes = indexes
        self.space = space
        self.chunk = chunk

    def read_public(self, handle: int) -> bytes:
        """TPM2_NV_ReadPublic."""
        return sized(self._area(handle)) + sized(self.name(handle))

    def get(self, handle: int, number: int = 1) -> NvIndex:
        """Return the index of a handle, the command's first or second."""
        if handle not in self.indexes:
            raise RefusedError(RC_HANDLE | number << 8)
        return self.indexes[handle]

    def _area(self, handle: int, number: int = 1) -> bytes:
        index = self.get(handle, number)
        attributes = index.attributes | (0 if index.data is None else _WRITTEN)
        return struct.pack(">IHIHH", handle, index.algorithm, attributes, 0, index.size)

    def name(self, handle: int, number: int = 1) -> bytes:
        """Return an index's name: its name algorithm, and the digest of its public area."""
        area = self._area(handle, number)
        algorithm = int.from_bytes(area[4:6], "big")
        digest = hashlib.new(HASHES.get(algorithm, "sha512"), area).digest()
        return struct.pack(">H", algorithm) + digest

    def define(self, parameters: bytes) -> None:
        """TPM2_NV_DefineSpace."""
        auth, rest = take(parameters)
        area, _ = take(rest)
        if len(area) < 14:
            raise RefusedError(RC_SIZE)
        handle, algorithm, attributes = struct.unpack_from(">IHI", area)
        (size,) = struct.unpack(">H", area[-2:])
        if handle in self.indexes:
            raise RefusedError(RC_NV_DEFINED)
        if sum(each.size for each in self.indexes.values()) + size > self.space:
            raise RefusedError(RC_NV_SPACE)
        if not attributes & _AUTHREAD or not attributes & _AUTHWRITE:
            raise RefusedError(0x2C2)  # TPM_RC_ATTRIBUTES of parameter 2
        self.indexes[handle] = NvIndex(algorithm, attributes, size, auth)

    def write(self, index: NvIndex, parameters: bytes) -> None:
        """TPM2_NV_Write."""
        data, rest = take(parameters)
        offset = int.from_bytes(rest, "big")
        if len(data) > self.chunk:
            raise RefusedError(RC_SIZE)
        if offset + len(data) > index.size:
            raise RefusedError(RC_NV_RANGE)
        if index.data is None:
            index.data = bytearray(b"\xff" * index.size)
        index.data[offset : offset + len(data)] = data

    def read(self, index: NvIndex, parameters: bytes) -> bytes:
        """TPM2_NV_Read."""
        size, offset = int.from_bytes(parameters[:2], "big"), int.from_bytes(parameters[2:], "big")
        if index.data is None:
            raise RefusedError(RC_NV_UNINITIALIZED)
        if size > self.chunk:
            raise RefusedError(RC_VALUE)
        if offset + size > index.size:
            raise RefusedError(RC_NV_RANGE)
        return sized(bytes(index.data[offset : offset + size]))
