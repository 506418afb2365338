r"""The parent instance as the guest sees it: a folder of UNIX sockets.

- ``FOLDER/3_PORT`` is CID 3, port PORT, to the guest.
- ``FOLDER/CID``: write ``CONNECT PORT\n``, read ``OK N\n``, and be connected to port PORT of the
  guest (the convention of Firecracker).
- ``FOLDER/CID_PORT``, for ports named beforehand: the same without the greeting, as in
  ``enclave-simulator run``.
"""

from __future__ import annotations

import contextlib
import logging
import re
import select
import socket
from typing import TYPE_CHECKING

from vsock_proxy.net.addresses import MAX_VSOCK, VMADDR_CID_PARENT, UnixAddress
from vsock_proxy.net.listening import listen
from vsock_proxy.relay.accepting import Acceptor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from enclave_simulator.machine.vsock_device import VsockDevice
    from vsock_proxy.net.sockets import Stream
    from vsock_proxy.relay.loop import Loop

log = logging.getLogger(__name__)

HEARTBEAT_PORT = 9000
HEARTBEAT = b"\xb7"
"""The byte that a Nitro EIF's init sends when it runs, and expects back
(aws-nitro-enclaves-sdk-bootstrap, init/init.c)."""

EXIT_PORT = 9001
"""The port where a guest may report the exit code of its program, in decimal."""

_CONNECT = re.compile(rb"CONNECT ([0-9]{1,10})\n")
_EXIT = re.compile(rb"([0-9]{1,3})\s*")
_LINE_LIMIT = 32
_LINE_WITHIN = 10.0
"""Seconds for a client to send its line: each that has not holds a descriptor."""


class Folder:
    """Connects the guest to services; see `vsock_device.Parent`."""

    def __init__(self, folder: Path, elsewhere: Mapping[int, UnixAddress]) -> None:
        """Prepare; `elsewhere` has, by port, the services that do not listen in `folder`."""
        self._folder = folder
        self._elsewhere = elsewhere

    def connect(self, port: int) -> socket.socket:
        """See `vsock_device.Parent.connect`."""
        elsewhere = self._elsewhere.get(port)
        path = elsewhere.path if elsewhere else f"{self._folder}/{VMADDR_CID_PARENT}_{port}"
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            # Connects at once or not at all: vsock, too, is reset if the other side's queue is
            # full.
            end.connect(path)
        except BaseException:
            end.close()
            raise
        return end


class Listener:
    """A UNIX socket on the loop; gives each connection to a function.

    If descriptors or memory are scarce, connections wait in the kernel's queue until the next tick.
    """

    def __init__(self, loop: Loop, path: Path, accepted: Callable[[socket.socket], None]) -> None:
        """Listen.

        Raises:
            ListenError: the path is taken.
        """
        self._loop = loop
        self._path = path
        self._accepted = accepted
        self._acceptor = Acceptor(loop, listen(UnixAddress(str(path))), self)
        self._acceptor.start()
        loop.every_tick(self._acceptor.resume)

    def has_room(self) -> bool:
        """See `accepting.AcceptEvents`."""
        return True

    def accepted(self, client: Stream, peer: object) -> None:
        """See `accepting.AcceptEvents`."""
        del peer
        self._acceptor.pause_reason = ""
        self._accepted(socket.socket(fileno=client.detach()))

    def paused(self, reason: str) -> None:
        """See `accepting.AcceptEvents`."""
        log.warning("connections to %s wait: %s", self._path, reason)

    def close(self) -> None:
        """Stop listening."""
        self._loop.no_more_ticks(self._acceptor.resume)
        self._acceptor.close()


class Line:
    """Reads the first line on a connection, and nothing after it."""

    def __init__(
        self, loop: Loop, end: socket.socket, found: Callable[[socket.socket, bytes], None]
    ) -> None:
        """Call `found` with the line; what follows it is left in the socket.

        End of file ends a line too. A line that is too long, or does not come in time, counts as
        empty.
        """
        self._loop = loop
        self._end = end
        self._found = found
        self._deadline = loop.now + _LINE_WITHIN
        end.setblocking(False)  # noqa: FBT003
        loop.add(end.fileno(), self)
        loop.every_tick(self._look_over)

    def ready(self, fd: int, events: int) -> None:
        """See `loop.Handler.ready`."""
        if self._end.fileno() != fd:
            return
        try:
            seen = self._end.recv(_LINE_LIMIT, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            seen = b""
        line, newline, _ = seen.partition(b"\n")
        line += newline
        ended = events & (select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR)
        if not newline and not ended and len(seen) < _LINE_LIMIT:
            return
        if newline:
            self._end.recv(len(line))
        elif len(seen) == _LINE_LIMIT:
            line = b""
        self._finish(line)

    def _look_over(self) -> None:
        if self._loop.now >= self._deadline:
            self._finish(b"")

    def _finish(self, line: bytes) -> None:
        self._loop.no_more_ticks(self._look_over)
        self._loop.remove(self._end.fileno())
        self._loop.later(lambda: self._found(self._end, line))


class GuestPorts:
    """Connections from the host into the guest."""

    def __init__(self, loop: Loop, device: VsockDevice) -> None:
        self._loop = loop
        self._device = device

    def greet(self, end: socket.socket) -> None:
        """Wait for ``CONNECT PORT``."""
        Line(self._loop, end, self._connect)

    def to(self, port: int) -> Callable[[socket.socket], None]:
        """Connect straight to a port."""
        return lambda end: self._device.dial(port, end, _Quiet())

    def _connect(self, end: socket.socket, line: bytes) -> None:
        match = _CONNECT.fullmatch(line)
        if match is None or int(match[1]) >= MAX_VSOCK:
            end.close()
        else:
            self._device.dial(int(match[1]), end, _Greeted(end))


class _Quiet:
    def accepted(self, host_port: int) -> None:
        pass


class _Greeted:
    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def accepted(self, host_port: int) -> None:
        # The first bytes on an empty socket: they fit, or the client is gone.
        with contextlib.suppress(OSError):
            self._end.send(b"OK %d\n" % host_port, socket.MSG_NOSIGNAL)


class Init:
    """What the guest's init reports: that it runs, and its program's exit code.

    Attributes:
        started: whether the heartbeat came.
        exit_code: the reported one, or None.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.started = False
        self.exit_code: int | None = None

    def heartbeat(self, end: socket.socket) -> None:
        """Return the byte."""
        _Echo(self._loop, end, self)

    def exited(self, end: socket.socket) -> None:
        """Receive the exit code."""
        Line(self._loop, end, self._report)

    def _report(self, end: socket.socket, line: bytes) -> None:
        end.close()
        match = _EXIT.fullmatch(line)
        if match is not None:
            self.exit_code = int(match[1]) & 0xFF


class _Echo:
    def __init__(self, loop: Loop, end: socket.socket, init: Init) -> None:
        self._loop = loop
        self._end = end
        self._init = init
        end.setblocking(False)  # noqa: FBT003
        loop.add(end.fileno(), self)

    def ready(self, fd: int, _events: int) -> None:
        if self._end.fileno() != fd:
            return
        try:
            received = self._end.recv(len(HEARTBEAT))
            if received == HEARTBEAT:
                self._init.started = True
                self._end.send(HEARTBEAT, socket.MSG_NOSIGNAL)
                return  # The guest closes.
        except BlockingIOError:
            return
        except OSError:
            pass
        self._loop.forget(fd)
        self._end.close()
