"""Servers that say what a test wants, each at the other end of a socket pair."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import UnixAddress

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from vsock_proxy.net.addresses import Address

ADDRESS = UnixAddress("/the/test's/server")
HOST = "kms.us-east-1.amazonaws.com"

_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n")


def soon() -> float:
    return time.monotonic() + 0.05


def late() -> float:
    return time.monotonic() + TEST_TIMEOUT


class Reluctant(socket.socket):
    """A socket that blocks though it seemed ready, is full, or fails.

    Attributes:
        times: how often sends and reads block from now on.
        full: whether every send blocks.
        failure: what every send raises.
        calls: sends so far.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.times, self.full, self.calls = 0, False, 0
        self.failure: OSError | None = None

    @classmethod
    def pair(
        cls, *, times: int = 0, full: bool = False, failure: OSError | None = None
    ) -> tuple[Reluctant, socket.socket]:
        """Return one, and an ordinary socket at its other end."""
        one, theirs = socket.socketpair()
        ours = cls(fileno=one.detach())
        ours.times, ours.full, ours.failure = times, full, failure
        return ours, theirs

    def send(self, *args: Any) -> int:
        self.calls += 1
        if self.failure is not None:
            raise self.failure
        self._block(always=self.full)
        return super().send(*args)

    def recv(self, *args: Any) -> bytes:
        self._block()
        return super().recv(*args)

    def _block(self, *, always: bool = False) -> None:
        if always or self.times > 0:
            self.times -= 1
            raise BlockingIOError


class Server:
    """A dialer whose connections end in a thread that runs `handle`, each in one of its own.

    Attributes:
        connections: how many were made.
    """

    def __init__(
        self,
        handle: Callable[[socket.socket], None],
        *,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.connections = 0
        self._handle = handle
        self._context = context
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def dial(self, _address: Address, timeout: float) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(timeout)
        theirs.settimeout(TEST_TIMEOUT)
        thread = threading.Thread(target=self._serve, args=(theirs,))
        with self._lock:
            self.connections += 1
            self._ends.append(theirs)
            self._threads.append(thread)
        thread.start()
        return ours

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):  # the client may leave at any time
            if self._context is None:
                self._handle(connection)
                return
            with self._context.wrap_socket(connection, server_side=True) as tls:
                self._ends.append(tls)  # it took the descriptor from `connection`
                self._handle(tls)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for end in self._ends:
            with contextlib.suppress(OSError):
                # The descriptor alone: SSLSocket.shutdown takes TLS from the thread that uses it.
                socket.socket.shutdown(end, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(TEST_TIMEOUT)
            assert not thread.is_alive()


def read_request(connection: socket.socket) -> bytes | None:
    """Return the next request's body, or None at the end of the stream."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := connection.recv(65_536)):
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(found[1]) if (found := _LENGTH.search(head + b"\r\n")) else 0
    while len(body) < length:
        if not (more := connection.recv(65_536)):
            return None
        body += more
    return body


def response(body: bytes, *, more: int = 0, head: bytes = b"") -> bytes:
    """Return a response; `more` is added to the length it claims."""
    return b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (head, len(body) + more, body)


def until_the_client_leaves(connection: socket.socket) -> None:
    while connection.recv(65_536):
        pass
