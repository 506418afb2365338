"""The program's side of a connection of attested TLS: plain bytes to and from its socket."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Final, Protocol

from vsock_proxy.net.sockets import INTERNET
from vsock_proxy.service.async_server import AsyncConnection

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class ClientSide(Protocol):
    """What it needs of the client's side; `connection.Connection`."""

    @property
    def receive_buffer(self) -> bytearray:
        """The buffer for whichever transport is being read."""
        ...

    def deliver(self, data: memoryview) -> None:
        """Send the program's bytes to the client."""
        ...

    def program_ended(self) -> None:
        """Pass on that the program sends no more."""
        ...

    def program_lost(self, *, cut_off: bool) -> None:
        """Pass on that the program has closed, or broken, its connection."""
        ...

    def settle_reading(self) -> None:
        """Read from the client, or not."""
        ...


class ProgramSide(AsyncConnection, asyncio.BufferedProtocol):
    """The program's side of a connection.

    Attributes:
        full: whether the program does not take what it is sent.
    """

    def __init__(self, client: ClientSide) -> None:
        super().__init__()
        self.full = False
        self._client = client

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self.closing = True
        self._client.program_lost(cut_off=exc is not None)

    def get_buffer(self, _sizehint: int) -> bytearray:
        """See `asyncio.BufferedProtocol`."""
        return self._client.receive_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        if not self.closing:
            self._client.deliver(memoryview(self._client.receive_buffer)[:nbytes])

    def eof_received(self) -> bool:
        """See `asyncio.BaseProtocol`. The client may still send."""
        self._client.program_ended()
        return not self.closing

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self.full = True
        self._client.settle_reading()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self.full = False
        self._client.settle_reading()

    def send(self, data: bytes) -> None:
        """Send the client's bytes."""
        if data and self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def end(self) -> None:
        """Pass on that the client sends no more."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write_eof()

    def pause_reading(self) -> None:
        """Read no more from the program for a while."""
        if self.transport is not None:
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def close(self, *, cut_off: bool) -> None:
        """Close; with a reset if the client's bytes may be incomplete."""
        self.closing = True
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if not cut_off:
            transport.close()
            return
        end = transport.get_extra_info("socket")
        if end.family in INTERNET:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()
