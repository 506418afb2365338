"""A vhost-user device on a UNIX socket: reads QEMU's messages and kicks, on an event loop."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from typing import TYPE_CHECKING

from enclave_simulator.machine import messages
from enclave_simulator.machine.errors import ProtocolError
from enclave_simulator.machine.vhost_user import Backend
from vsock_proxy.net.addresses import UnixAddress
from vsock_proxy.net.listening import listen

if TYPE_CHECKING:
    from pathlib import Path

    from enclave_simulator.machine.vhost_user import Device
    from vsock_proxy.relay.loop import Loop

_MESSAGE_WITHIN = 5.0
"""Seconds for the rest of a message that QEMU began."""


class Endpoint:
    """Serves one device to the one QEMU that connects to a path.

    Attributes:
        path: the UNIX socket that QEMU's chardev connects to.
    """

    def __init__(self, loop: Loop, path: Path, device: Device) -> None:
        self.path = path
        self._loop = loop
        self._device = device
        self._backend = Backend(device)
        self._kicks: dict[int, int] = {}
        self._listener = listen(UnixAddress(str(path)), backlog=1)
        self._qemu: socket.socket | None = None
        loop.add(self._listener.fileno(), self, select.EPOLLIN)

    def ready(self, fd: int, _events: int) -> None:
        """See `loop.Handler.ready`."""
        # Later, because what follows from any of these may open descriptors.
        index = self._kicks.get(fd)
        if index is None:
            self._loop.later(self._receive if self._qemu else self._accept)
            return
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(fd)
        self._loop.later(lambda: self._device.kicked(index))

    def close(self) -> None:
        """Close the device."""
        self._unwatch_kicks()
        self._backend.close()
        for end in (self._qemu, self._listener):
            if end is not None:
                self._loop.forget(end.fileno())
                end.close()
        self._qemu = None

    def _accept(self) -> None:
        self._qemu, _ = self._listener.accept()
        self._qemu.settimeout(_MESSAGE_WITHIN)
        self._loop.forget(self._listener.fileno())
        self._listener.close()
        self._loop.add(self._qemu.fileno(), self, select.EPOLLIN)

    def _receive(self) -> None:
        if self._qemu is None:
            return
        fds: list[int] = []
        try:
            with contextlib.suppress(ConnectionResetError):
                header, fds, _, _ = socket.recv_fds(
                    self._qemu, messages.HEADER.size, messages.MAX_FDS, socket.MSG_CMSG_CLOEXEC
                )
                if header:
                    self._handle(self._qemu, header, fds)
                    return
            # QEMU ended, or closed the device: its exit status tells more.
            self.close()
        except (TimeoutError, BrokenPipeError) as e:
            raise ProtocolError(f"QEMU left in the middle of a message: {e}") from e
        finally:
            for fd in fds:
                os.close(fd)

    def _handle(self, qemu: socket.socket, header: bytes, fds: list[int]) -> None:
        header += _receive_all(qemu, messages.HEADER.size - len(header))
        _, _, size = messages.parse_header(header)
        message = messages.parse(header, _receive_all(qemu, size))
        self._unwatch_kicks()
        try:
            response = self._backend.handle(message, fds)
        finally:
            self._watch_kicks()
        if response is not None:
            qemu.sendall(response)

    def _watch_kicks(self) -> None:
        for index, queue in enumerate(self._backend.queues):
            if queue.kick is not None:
                self._kicks[queue.kick] = index
                self._loop.add(queue.kick, self, select.EPOLLIN)

    def _unwatch_kicks(self) -> None:
        for fd in self._kicks:
            self._loop.remove(fd)
        self._kicks.clear()


def _receive_all(qemu: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = qemu.recv(size - len(data))
        if not part:
            raise ProtocolError("QEMU left in the middle of a message")
        data += part
    return data
