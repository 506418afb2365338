"""One vsock connection of the guest: packets on its side, a stream socket on the host's.

Source: virtio 1.2, section 5.10.6; Linux, net/vmw_vsock/virtio_transport_common.c.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Protocol

from enclave_simulator.machine.vsock_packet import (
    BOTH,
    MASK,
    MAX_PAYLOAD,
    NO_MORE_RECEIVING,
    NO_MORE_SENDING,
    Operation,
    Packet,
)

BUFFER_SIZE = 128 * 1024
"""Bytes of one connection that the guest may send before the host's socket takes them."""

_ANNOUNCE_AFTER = BUFFER_SIZE // 4
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class Stream(Protocol):
    """The host's end: a non-blocking stream socket."""

    def recv(self, size: int, /) -> bytes:
        """Read; empty at the end. Raises OSError as a socket does."""
        ...

    def send(self, data: memoryview | bytes, flags: int, /) -> int:
        """Write as much as there is room for. Raises OSError as a socket does."""
        ...

    def shutdown(self, how: int, /) -> None:
        """Close one direction. Raises OSError as a socket does."""
        ...


class Connection:
    """The state of one connection.

    Attributes:
        guest_port: the guest's port.
        host_port: the parent's port.
        stream: the host's socket; its owner closes it.
        established: both sides have agreed.
        readable: the stream may have something; set on its edge.
        broken: the stream failed, or the guest broke the rules: to be reset.
    """

    def __init__(self, guest_port: int, host_port: int, stream: Stream) -> None:
        self.guest_port = guest_port
        self.host_port = host_port
        self.stream = stream
        self.established = False
        self.readable = True
        self.broken = False
        self._opening: Operation | None = None
        # To the guest.
        self._guest_buffer = 0
        self._guest_forwarded = 0
        self._sent = 0
        self._ended = False
        # From the guest.
        self._pending = bytearray()
        self._forwarded = 0
        self._announced = 0
        self._guest_shutdown = 0
        self._credit_asked = False
        self._shutdown_owed = 0
        self._shutdown_told = 0

    @property
    def forwarded(self) -> int:
        """How many bytes of the guest the stream has taken, modulo 2**32."""
        return self._forwarded

    @property
    def held(self) -> int:
        """How many bytes of the guest the stream has not taken yet."""
        return len(self._pending)

    @property
    def finished(self) -> bool:
        """Whether both directions have ended: the stream can be closed."""
        sent_all = bool(self._guest_shutdown & NO_MORE_SENDING) and not self._pending
        return sent_all and (self._ended or bool(self._guest_shutdown & NO_MORE_RECEIVING))

    @property
    def guest_closed(self) -> bool:
        """Whether the guest has closed its socket: it waits for RST alone."""
        return self._guest_shutdown == BOTH

    # Packets of the guest

    def accept(self, request: Packet) -> None:
        """Accept the guest's request: the stream is connected."""
        self._guest_buffer = request.buffer_size
        self.established = True
        self._opening = Operation.RESPONSE

    def request(self) -> None:
        """Request this connection of the guest, which sends RESPONSE or RST."""
        self._opening = Operation.REQUEST

    def take(self, packet: Packet) -> None:
        """Handle a packet other than REQUEST and RST."""
        self._guest_buffer = packet.buffer_size
        self._guest_forwarded = packet.forwarded
        match packet.operation:
            case Operation.RESPONSE if not self.established and self._opening is None:
                self.established = True
            case Operation.RW if self.established:
                self._take_payload(packet.payload)
            case Operation.SHUTDOWN if self.established:
                self._take_shutdown(packet.flags & BOTH)
            case Operation.CREDIT_REQUEST:
                self._credit_asked = True
            case Operation.CREDIT_UPDATE:
                pass
            case _:
                self.broken = True

    def _take_payload(self, payload: bytes) -> None:
        if len(self._pending) + len(payload) > BUFFER_SIZE or self._guest_shutdown & (
            NO_MORE_SENDING
        ):
            self.broken = True  # More than it was given credit for, or after its end.
        elif self._shutdown_owed & NO_MORE_RECEIVING:
            self._count(len(payload))  # There is no reader, and the guest is being notified.
        else:
            self._pending += payload
            self.flush()

    def _take_shutdown(self, flags: int) -> None:
        self._guest_shutdown |= flags
        if flags & NO_MORE_RECEIVING:
            self._shut(socket.SHUT_RD)
        self.flush()

    # The stream

    def flush(self) -> None:
        """Forward as much as the stream has room for."""
        try:
            while self._pending:
                sent = self.stream.send(bytes(self._pending[:MAX_PAYLOAD]), _FLAGS)
                del self._pending[:sent]
                self._count(sent)
        except BlockingIOError:
            return
        except OSError:
            # The reader is gone; what it sent before can still be read.
            self._count(len(self._pending))
            self._pending.clear()
            self._shutdown_owed |= NO_MORE_RECEIVING
        if self._guest_shutdown & NO_MORE_SENDING:
            self._shut(socket.SHUT_WR)

    def _count(self, size: int) -> None:
        self._forwarded = (self._forwarded + size) & MASK

    def _shut(self, how: int) -> None:
        with contextlib.suppress(OSError):  # The other side is gone: reading reports it.
            self.stream.shutdown(how)

    # Packets for the guest

    def next_packet(self, room: int) -> tuple[Operation, int, bytes] | None:
        """Return the next packet: operation, flags, payload; None if there is none.

        Args:
            room: bytes of payload there is a buffer for.
        """
        if self._opening is not None:
            operation, self._opening = self._opening, None
            return operation, 0, b""
        if not self.established or self.broken:
            return None
        if payload := self._read(room):
            return Operation.RW, 0, payload
        if self._shutdown_owed & ~self._shutdown_told:
            self._shutdown_told = self._shutdown_owed
            return Operation.SHUTDOWN, self._shutdown_told, b""
        freed = (self._forwarded - self._announced) & MASK
        if self._credit_asked or freed >= _ANNOUNCE_AFTER:
            return Operation.CREDIT_UPDATE, 0, b""
        return None

    def announced(self) -> None:
        """Note that a packet was sent, with the count of forwarded bytes."""
        self._announced = self._forwarded
        self._credit_asked = False

    def _read(self, room: int) -> bytes:
        in_flight = (self._sent - self._guest_forwarded) & MASK
        size = min(room, MAX_PAYLOAD, self._guest_buffer - in_flight)
        if not self.readable or self._ended or size <= 0:
            return b""
        if self._guest_shutdown & NO_MORE_RECEIVING:
            return b""
        try:
            data = self.stream.recv(size)
        except BlockingIOError:
            self.readable = False
            return b""
        except OSError:
            self.broken = True
            return b""
        if not data:
            self._ended = True
            self._shutdown_owed |= NO_MORE_SENDING
        self._sent = (self._sent + len(data)) & MASK
        return data
