"""virtio-vsock: the guest's connections to and from the parent, as UNIX sockets on the host.

Source: virtio 1.2, section 5.10. The host has no part in AF_VSOCK itself.
"""

from __future__ import annotations

import collections
import itertools
import logging
import select
import socket
import struct
from typing import TYPE_CHECKING, Protocol

from enclave_simulator.machine.errors import ProtocolError
from enclave_simulator.machine.virtqueue import MAX_SIZE
from enclave_simulator.machine.vsock_connection import BUFFER_SIZE, Connection
from enclave_simulator.machine.vsock_packet import HEADER_SIZE, MAX_PAYLOAD, Operation, Packet
from vsock_proxy.net.addresses import MAX_VSOCK, VMADDR_CID_PARENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from enclave_simulator.machine.vhost_user import Queue
    from enclave_simulator.machine.virtqueue import Chain
    from vsock_proxy.relay.loop import Loop

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 1024
"""Connections at a time; a hostile guest can make the host hold this many buffers."""

_MAX_RESETS = 1024
_PACKETS_PER_TURN = 256
_RX, _TX = 0, 1
_FIRST_HOST_PORT = 1 << 30
_ANSWER_WITHIN = 5.0
"""Seconds for the guest's kernel to accept or reject a connection."""

_LINGER = 30.0
"""Seconds for a service to read the rest, once the guest has closed its socket."""

_READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Parent(Protocol):
    """The services behind CID 3."""

    def connect(self, port: int) -> socket.socket:
        """Connect to a service of the parent, without waiting.

        Raises:
            OSError: nobody listens there.
        """
        ...


class Caller(Protocol):
    """A client on the host that requested a connection into the guest."""

    def accepted(self, host_port: int) -> None:
        """Note that the guest accepted; the first bytes are sent after this."""
        ...


class VsockDevice:
    """The device of one guest."""

    queue_count = 2  # QEMU serves the third, of events, by itself

    def __init__(self, loop: Loop, cid: int, parent: Parent) -> None:
        self.config = struct.pack("<Q", cid)
        self._cid = cid
        self._loop = loop
        self._parent = parent
        self._queues: Sequence[Queue] = ()
        self._connections: dict[tuple[int, int], Connection] = {}
        self._sockets: dict[int, tuple[Connection, socket.socket]] = {}
        self._callers: dict[Connection, Caller] = {}
        self._deadlines: dict[Connection, float] = {}
        self._waiting: dict[Connection, None] = {}  # in turn, those with something to send
        self._resets: collections.deque[tuple[int, int]] = collections.deque()
        self._spare: Chain | None = None
        self._host_ports = itertools.cycle(range(_FIRST_HOST_PORT, MAX_VSOCK))
        loop.every_tick(self._look_over)

    def attach(self, queues: Sequence[Queue]) -> None:
        """See `vhost_user.Device.attach`."""
        self._queues = queues

    def kicked(self, index: int) -> None:
        """See `vhost_user.Device.kicked`."""
        if index == _TX:
            self._receive()
        self._send()

    def resume(self) -> None:
        """Continue where the budget of a turn ended."""
        self._receive()
        self._send()

    def close(self) -> None:
        """Close every connection."""
        for connection in list(self._connections.values()):
            self._drop(connection)
        for connection, _ in list(self._sockets.values()):
            self._close_socket(connection)

    # The host's side

    def dial(self, port: int, accepted: socket.socket, caller: Caller) -> None:
        """Connect `accepted` to a port of the guest; close it if nothing listens there."""
        if len(self._sockets) >= MAX_CONNECTIONS:
            accepted.close()
            return
        host_port = next(p for p in self._host_ports if (port, p) not in self._connections)
        connection = self._open(port, host_port, accepted)
        self._callers[connection] = caller
        self._deadlines[connection] = self._loop.now + _ANSWER_WITHIN
        connection.request()
        self._has_something(connection)
        self._send()

    def ready(self, fd: int, events: int) -> None:
        """See `loop.Handler.ready`."""
        if fd not in self._sockets:
            return
        connection, _ = self._sockets[fd]
        if events & _READABLE:
            connection.readable = True
        if events & (select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR):
            connection.flush()
        self._has_something(connection)
        self._settle(connection)
        self._send()

    def _open(self, guest_port: int, host_port: int, end: socket.socket) -> Connection:
        end.setblocking(False)  # noqa: FBT003 (the standard library's signature)
        connection = Connection(guest_port, host_port, end)
        self._connections[guest_port, host_port] = connection
        self._sockets[end.fileno()] = connection, end
        self._loop.add(end.fileno(), self)
        return connection

    # From the guest

    def _receive(self) -> None:
        queue = self._queues[_TX]
        for _ in range(MAX_SIZE):
            # A guest that does not take its packets gets no further ones.
            if len(self._resets) >= _MAX_RESETS or (chain := queue.pop()) is None:
                break
            packet = Packet.decode(chain.read(HEADER_SIZE + MAX_PAYLOAD))
            queue.push(chain, 0)
            if packet.source_cid == self._cid:
                self._take(packet)
        queue.notify()

    def _take(self, packet: Packet) -> None:
        key = packet.source_port, packet.destination_port
        connection = self._connections.get(key)
        if packet.operation is Operation.RST:
            if connection is not None:
                self._drop(connection)
        elif packet.destination_cid != VMADDR_CID_PARENT:
            self._resets.append(key)
        elif connection is None and packet.operation is Operation.REQUEST:
            self._accept(packet)
        elif connection is None:
            self._resets.append(key)
        else:
            connection.take(packet)
            if connection.established and (caller := self._callers.pop(connection, None)):
                del self._deadlines[connection]
                caller.accepted(connection.host_port)
            self._has_something(connection)
            self._settle(connection)

    def _accept(self, packet: Packet) -> None:
        key = packet.source_port, packet.destination_port
        try:
            if len(self._sockets) >= MAX_CONNECTIONS:
                raise OSError("too many connections")  # noqa: TRY301 (one way to refuse)
            end = self._parent.connect(packet.destination_port)
        except OSError as e:
            log.debug("connect vsock://%d:%d: %s", VMADDR_CID_PARENT, packet.destination_port, e)
            self._resets.append(key)
            return
        log.debug("connect vsock://%d:%d", VMADDR_CID_PARENT, packet.destination_port)
        connection = self._open(*key, end)
        connection.accept(packet)
        self._has_something(connection)

    # To the guest

    def _has_something(self, connection: Connection) -> None:
        if self._connections.get((connection.guest_port, connection.host_port)) is connection:
            self._waiting[connection] = None

    def _send(self) -> None:
        """Fill the buffers that the guest has given, one connection after the other."""
        queue = self._queues[_RX]
        for _ in range(_PACKETS_PER_TURN):
            if not self._waiting and not self._resets:
                break
            chain = self._spare or queue.pop()
            if chain is None:
                break
            if chain.room <= HEADER_SIZE:
                raise ProtocolError(f"a buffer of {chain.room} bytes for vsock packets")
            self._spare = chain
            data = self._next(chain.room - HEADER_SIZE)
            if data is not None:
                self._spare = None
                queue.push(chain, chain.write(data))
        else:
            self._loop.resume_soon(self)
        queue.notify()

    def _next(self, room: int) -> bytes | None:
        if self._resets:
            guest_port, host_port = self._resets.popleft()
            return self._packet(guest_port, host_port, Operation.RST).encode()
        connection = next(iter(self._waiting))
        del self._waiting[connection]
        found = connection.next_packet(room)
        if found is None:
            self._settle(connection)
            return None
        operation, flags, payload = found
        packet = self._packet(
            connection.guest_port,
            connection.host_port,
            operation,
            flags=flags,
            forwarded=connection.forwarded,
            payload=payload,
        )
        connection.announced()
        self._has_something(connection)  # Behind the others.
        return packet.encode()

    def _packet(
        self,
        guest_port: int,
        host_port: int,
        operation: Operation,
        *,
        flags: int = 0,
        forwarded: int = 0,
        payload: bytes = b"",
    ) -> Packet:
        return Packet(
            source_cid=VMADDR_CID_PARENT,
            source_port=host_port,
            destination_cid=self._cid,
            destination_port=guest_port,
            operation=operation,
            flags=flags,
            buffer_size=BUFFER_SIZE,
            forwarded=forwarded,
            payload=payload,
        )

    # Ending

    def _settle(self, connection: Connection) -> None:
        """Close connections that have ended."""
        key = connection.guest_port, connection.host_port
        if self._connections.get(key) is not connection:
            if not connection.held:  # It was dropped, with a rest to be read.
                self._close_socket(connection)
        elif connection.broken or (connection.guest_closed and connection.finished):
            self._drop(connection)
            self._resets.append(key)

    def _drop(self, connection: Connection) -> None:
        """Forget a connection; its socket goes once what was sent before is read."""
        self._connections.pop((connection.guest_port, connection.host_port), None)
        self._callers.pop(connection, None)
        self._waiting.pop(connection, None)
        if connection.guest_closed and connection.held:
            self._deadlines[connection] = self._loop.now + _LINGER
        else:
            self._close_socket(connection)

    def _close_socket(self, connection: Connection) -> None:
        self._deadlines.pop(connection, None)
        self._waiting.pop(connection, None)
        end = connection.stream
        if isinstance(end, socket.socket) and end.fileno() >= 0:
            self._sockets.pop(end.fileno(), None)
            self._loop.forget(end.fileno())
            end.close()

    def _look_over(self) -> None:
        """Give up what took too long. Called once a tick."""
        for connection, deadline in list(self._deadlines.items()):
            if self._loop.now >= deadline:
                if not connection.established:
                    self._resets.append((connection.guest_port, connection.host_port))
                self._drop(connection)
                self._close_socket(connection)
        self._send()
