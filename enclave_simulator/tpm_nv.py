"""The NV memory of a simulated TPM. No I/O.

TCG TPM 2.0 Library, Part 2 (TPMS_NV_PUBLIC) and Part 3, "Non-volatile Storage".
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from enclave_simulator.tpm_sessions import HASHES
from enclave_simulator.tpm_wire import (
    RC_ATTRIBUTES,
    RC_HANDLE,
    RC_HASH,
    RC_NV_DEFINED,
    RC_NV_RANGE,
    RC_NV_SPACE,
    RC_NV_UNINITIALIZED,
    RC_SIZE,
    RC_VALUE,
    Reader,
    RefusedError,
    of_parameter,
    sized,
)

_AUTHWRITE, _AUTHREAD, _WRITTEN = 1 << 2, 1 << 18, 1 << 29
LARGEST = 8192
"""Bytes that one index may have (TPM_PT_NV_INDEX_MAX): as many as an attestation takes."""

_MOST_INDEXES = 64
"""What the bookkeeping of an index takes of the memory is the maker's; there is an end to it."""

_MOST_AUTH = 64
"""Bytes of an authorization value: the largest digest (Part 2, TPM2B_AUTH)."""

_KIND = 0x01
"""The first byte of an index's handle (Part 2, TPM_HT_NV_INDEX)."""


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
        digest = hashlib.new(HASHES[algorithm], area).digest()
        return struct.pack(">H", algorithm) + digest

    def define(self, parameters: bytes) -> None:
        """TPM2_NV_DefineSpace."""
        reader = Reader(parameters)
        auth = reader.sized()
        if len(auth) > _MOST_AUTH:
            raise of_parameter(1, RC_SIZE)
        area = reader.sized()
        reader.end()
        handle, algorithm, attributes, size = _public(area)
        if not attributes & _AUTHREAD or not attributes & _AUTHWRITE or attributes & _WRITTEN:
            raise of_parameter(2, RC_ATTRIBUTES)
        if size > LARGEST:
            raise of_parameter(2, RC_SIZE)
        if handle in self.indexes:
            raise RefusedError(RC_NV_DEFINED)
        used = sum(each.size for each in self.indexes.values())
        if used + size > self.space or len(self.indexes) >= _MOST_INDEXES:
            raise RefusedError(RC_NV_SPACE)
        self.indexes[handle] = NvIndex(algorithm, attributes, size, auth)

    def write(self, index: NvIndex, parameters: bytes) -> None:
        """TPM2_NV_Write."""
        reader = Reader(parameters)
        data, offset = reader.sized(), reader.integer(2)
        reader.end()
        if len(data) > self.chunk:
            raise RefusedError(RC_SIZE)
        if offset + len(data) > index.size:
            raise RefusedError(RC_NV_RANGE)
        if index.data is None:
            index.data = bytearray(b"\xff" * index.size)
        index.data[offset : offset + len(data)] = data

    def read(self, index: NvIndex, parameters: bytes) -> bytes:
        """TPM2_NV_Read."""
        reader = Reader(parameters)
        size, offset = reader.integer(2), reader.integer(2)
        reader.end()
        if index.data is None:
            raise RefusedError(RC_NV_UNINITIALIZED)
        if size > self.chunk:
            raise RefusedError(RC_VALUE)
        if offset + size > index.size:
            raise RefusedError(RC_NV_RANGE)
        return sized(bytes(index.data[offset : offset + size]))


def _public(area: bytes) -> tuple[int, int, int, int]:
    """Return handle, name algorithm, attributes and size of a TPMS_NV_PUBLIC."""
    if not area:
        raise of_parameter(2, RC_SIZE)
    reader = Reader(area)
    reader.number = 1  # All of it is the second parameter.
    handle = reader.integer(4)
    if handle >> 24 != _KIND:
        raise of_parameter(2, RC_VALUE)
    algorithm = int.from_bytes(reader.part(2), "big")
    if algorithm not in HASHES:
        raise of_parameter(2, RC_HASH)
    attributes = int.from_bytes(reader.part(4), "big")
    policy = reader.part(int.from_bytes(reader.part(2), "big"))
    size = int.from_bytes(reader.part(2), "big")
    if reader.rest or len(policy) not in (0, hashlib.new(HASHES[algorithm]).digest_size):
        raise of_parameter(2, RC_SIZE)
    return handle, algorithm, attributes, size
