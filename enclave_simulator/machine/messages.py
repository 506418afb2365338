"""vhost-user's messages (QEMU, docs/interop/vhost-user.rst): bytes to values and back. No I/O."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from enclave_simulator.machine.errors import ProtocolError

HEADER = struct.Struct("<III")  # request, flags, size of the payload
MAX_PAYLOAD = 4096
"""Bytes; the largest message in use, a memory table or configuration space, is far smaller."""

MAX_FDS = 8
"""File descriptors with one message: one for each memory region."""

F_PROTOCOL_FEATURES = 1 << 30
"""VHOST_USER_F_PROTOCOL_FEATURES, a bit among the virtio features."""

F_VERSION_1 = 1 << 32
"""VIRTIO_F_VERSION_1: little-endian, no legacy layout."""

PROTOCOL_REPLY_ACK = 1 << 3
PROTOCOL_CONFIG = 1 << 9

_VERSION, _VERSION_MASK = 1, 3
_REPLY, _NEED_REPLY = 4, 8
_U64 = struct.Struct("<Q")
_STATE = struct.Struct("<II")
_ADDRESSES = struct.Struct("<IIQQQQ")
_CONFIG = struct.Struct("<III")  # offset, size, flags; then the bytes
_REGION = struct.Struct("<QQQQ")


class Request(enum.IntEnum):
    """The requests that QEMU makes of these devices."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    GET_CONFIG = 24
    SET_CONFIG = 25


@dataclass(frozen=True, slots=True)
class Message:
    """One request, with a payload of the length in its header."""

    request: Request
    needs_reply: bool
    payload: bytes

    def u64(self) -> int:
        """Read the payload of most requests."""
        (value,) = self._unpack(_U64)
        return int(value)

    def vring_state(self) -> tuple[int, int]:
        """Read a queue's index and a number."""
        index, number = self._unpack(_STATE)
        return index, number

    def vring_addresses(self) -> tuple[int, int, int, int]:
        """Read a queue's index, and QEMU's addresses of descriptors, used and available ring."""
        index, _flags, descriptors, used, available, _log = self._unpack(_ADDRESSES)
        return index, descriptors, used, available

    def vring_fd(self) -> tuple[int, bool]:
        """Read a queue's index, and whether a file descriptor comes with it."""
        value = self.u64()
        return value & 0xFF, not value & 0x100

    def regions(self) -> list[Region]:
        """Read the memory table."""
        self._check(len(self.payload) >= _STATE.size)
        count, _ = _STATE.unpack_from(self.payload)
        self._check(len(self.payload) == _STATE.size + count * _REGION.size and count <= MAX_FDS)
        return [Region(*fields) for fields in _REGION.iter_unpack(self.payload[_STATE.size :])]

    def config_range(self) -> tuple[int, int]:
        """Offset and size of the requested part of the configuration space."""
        self._check(len(self.payload) >= _CONFIG.size)
        offset, size, _flags = _CONFIG.unpack_from(self.payload)
        self._check(len(self.payload) == _CONFIG.size + size)
        return offset, size

    def reply(self, payload: bytes) -> bytes:
        """Encode the response."""
        flags = _VERSION | _REPLY
        return HEADER.pack(self.request, flags, len(payload)) + payload

    def reply_u64(self, value: int) -> bytes:
        """Encode a response of one number."""
        return self.reply(_U64.pack(value))

    def reply_state(self, index: int, number: int) -> bytes:
        """Encode a response about a queue."""
        return self.reply(_STATE.pack(index, number))

    def reply_config(self, config: bytes) -> bytes:
        """Encode configuration space; an empty response means that it is not that long."""
        offset, size = self.config_range()
        part = config[offset : offset + size]
        if len(part) != size:
            return self.reply(b"")
        return self.reply(_CONFIG.pack(offset, size, 0) + part)

    def _unpack(self, format: struct.Struct) -> tuple[int, ...]:
        self._check(len(self.payload) == format.size)
        return format.unpack(self.payload)

    def _check(self, well_formed: bool) -> None:  # noqa: FBT001 (reads as an assertion)
        if not well_formed:
            size = len(self.payload)
            raise ProtocolError(f"vhost-user {self.request.name} with a payload of {size} bytes")


@dataclass(frozen=True, slots=True)
class Region:
    """A piece of guest memory: its address for the guest, for QEMU, and its place in the file."""

    guest_address: int
    size: int
    user_address: int
    offset: int


def parse_header(data: bytes) -> tuple[int, bool, int]:
    """Read a header: the request's number, whether it needs a reply, the payload's size.

    Raises:
        ProtocolError: another version, or too large a payload.
    """
    request, flags, size = HEADER.unpack(data)
    if flags & _VERSION_MASK != _VERSION:
        raise ProtocolError(f"vhost-user version {flags & _VERSION_MASK}")
    if size > MAX_PAYLOAD:
        raise ProtocolError(f"a vhost-user message of {size} bytes")
    return request, bool(flags & _NEED_REPLY), size


def parse(header: bytes, payload: bytes) -> Message:
    """Read a message.

    Raises:
        ProtocolError: it is not one of `Request`.
    """
    number, needs_reply, _ = parse_header(header)
    try:
        request = Request(number)
    except ValueError:
        raise ProtocolError(f"vhost-user request {number} is not known") from None
    return Message(request, needs_reply, payload)
