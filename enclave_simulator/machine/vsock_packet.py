"""virtio-vsock's packets (virtio 1.2, section 5.10.6): bytes to values and back. No I/O."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from enclave_simulator.machine.errors import ProtocolError

# source and destination CID, source and destination port, payload, type, operation, flags,
# buffer of the sender, bytes of it that it has freed so far
_HEADER = struct.Struct("<QQIIIHHIII")
HEADER_SIZE = _HEADER.size
MAX_PAYLOAD = 64 * 1024
"""Bytes in one packet (Linux, VIRTIO_VSOCK_MAX_PKT_BUF_SIZE)."""

MASK = 0xFFFF_FFFF
"""Counts of bytes are 32-bit and wrap."""

_STREAM = 1


class Operation(enum.IntEnum):
    """What a packet is for."""

    REQUEST = 1
    RESPONSE = 2
    RST = 3
    SHUTDOWN = 4
    RW = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


_OPERATIONS = frozenset(Operation)
NO_MORE_RECEIVING = 1
NO_MORE_SENDING = 2
BOTH = NO_MORE_RECEIVING | NO_MORE_SENDING


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """One packet.

    Attributes:
        operation: None if it is unknown, or not of a stream: to be rejected.
        flags: of SHUTDOWN.
        buffer_size: bytes the sender can hold for this connection.
        forwarded: bytes of the connection it has passed on, modulo 2**32.
    """

    source_cid: int
    source_port: int
    destination_cid: int
    destination_port: int
    operation: Operation | None
    flags: int = 0
    buffer_size: int = 0
    forwarded: int = 0
    payload: bytes = b""

    def encode(self) -> bytes:
        """Encode it; its operation is a known one."""
        return (
            _HEADER.pack(
                self.source_cid,
                self.destination_cid,
                self.source_port,
                self.destination_port,
                len(self.payload),
                _STREAM,
                self.operation or 0,
                self.flags,
                self.buffer_size,
                self.forwarded & MASK,
            )
            + self.payload
        )

    @classmethod
    def decode(cls, data: bytes) -> Packet:
        """Read a packet.

        Raises:
            ProtocolError: it is shorter than a header, or not as long as that says.
        """
        if len(data) < HEADER_SIZE:
            raise ProtocolError(f"a vsock packet of {len(data)} bytes")
        source, destination, source_port, destination_port, size, kind, op, flags, *credit = (
            _HEADER.unpack_from(data)
        )
        payload = data[HEADER_SIZE:]
        if len(payload) != size:
            raise ProtocolError(f"a vsock packet with {len(payload)} bytes, said to be {size}")
        known = kind == _STREAM and op in _OPERATIONS
        return cls(
            source_cid=source,
            source_port=source_port,
            destination_cid=destination,
            destination_port=destination_port,
            operation=Operation(op) if known else None,
            flags=flags,
            buffer_size=credit[0],
            forwarded=credit[1],
            payload=payload,
        )
