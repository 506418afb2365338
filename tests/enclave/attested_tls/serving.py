"""Attested TLS in a thread of its own, before a program that says what it was told."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from enclave import Nsm
from enclave.attested_tls.context import AttestedContext
from enclave.attested_tls.documents import Documents
from enclave.attested_tls.identity import CurrentIdentity
from enclave.attested_tls.server import AttestedServer
from enclave.cut_off import report_cut_offs
from enclave_simulator.authority import Authority
from enclave_simulator.nsm import SimulatedNsm
from tests.loops import LoopThread, loop_thread
from tests.sockets import read_all
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import TcpAddress

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from enclave.attested_tls.connection import Limits
    from enclave.attester import Attester

AUTHORITY = Authority.generate()
NSM = SimulatedNsm(AUTHORITY)
IMAGE = NSM._pcrs[0]
ROOT = bytes.fromhex(AUTHORITY.fingerprint)
PATH = "/.well-known/nitro-attestation"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def expecting(**changes: Any) -> AttestedContext:
    """What a relying party asks for: this image, signed under the simulator's root."""
    settings = {"pcrs": {0: IMAGE}, "root_fingerprint": ROOT, "timeout": TEST_TIMEOUT}
    return AttestedContext(**{**settings, **changes})


@dataclass
class Program:
    """A server on 127.0.0.1 in a thread: each connection is handed to `handle`.

    Attributes:
        seen: what was read from all connections, by the default `handle`, up to their ends.
        reset: connections that ended with a reset.
    """

    handle: Callable[[socket.socket], None] | None = None
    seen: list[bytes] = field(default_factory=list)
    reset: int = 0
    port: int = 0
    ended: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(TEST_TIMEOUT)
            try:
                (self.handle or self._http)(connection)
            except ConnectionResetError:
                self.reset += 1
        self.ended.release()

    def _http(self, connection: socket.socket) -> None:
        received = b""
        while data := connection.recv(1 << 16):
            received += data
            if data.endswith((b"\r\n\r\n", b"\n")):
                connection.sendall(RESPONSE)
        self.seen.append(received)


@contextlib.contextmanager
def program(made: Program) -> Iterator[Program]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        made.port = server.getsockname()[1]

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=made.serve, args=(connection,), daemon=True).start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield made
        server.shutdown(socket.SHUT_RDWR)
        accepting.join(TEST_TIMEOUT)


class Served(LoopThread):
    """Attested TLS on `port` of 127.0.0.1."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        port: int,
        server: AttestedServer,
        documents: Documents,
    ) -> None:
        super().__init__(loop)
        self.port = port
        self.server = server
        self.documents = documents

    def connect(self, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        """Connect; by default as a client that proves nothing."""
        connected = socket.create_connection(("127.0.0.1", self.port), TEST_TIMEOUT)
        return (context or trusting()).wrap_socket(
            connected, server_hostname="localhost", suppress_ragged_eofs=False
        )


def ended(made: Program) -> None:
    """Wait until one more of the program's connections has ended."""
    assert made.ended.acquire(timeout=TEST_TIMEOUT)


def trusting() -> ssl.SSLContext:
    """Return a context of a client that trusts whatever it meets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    report_cut_offs(context)
    return context


@contextlib.contextmanager
def served(
    target: int,
    attester: Attester | None = None,
    *,
    limits: Limits | None = None,
    rate: int = 1000,
    monotonic: Callable[[], float] = time.monotonic,
    timeout: float = TEST_TIMEOUT,
    listener: socket.socket | None = None,
) -> Iterator[Served]:
    """Serve on a free port of 127.0.0.1, or another listener, for the length of a block."""
    with contextlib.ExitStack() as stack:
        loop = stack.enter_context(loop_thread("attested TLS"))
        bound = listener or stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        async def start() -> Served:
            documents = Documents(attester or Nsm(NSM), rate=rate, timeout=timeout)
            identity = CurrentIdentity(
                "localhost", now=lambda: datetime.now(UTC), monotonic=monotonic
            )
            server = AttestedServer(
                TcpAddress("127.0.0.1", target), identity, documents, limits=limits, sweep=0.02
            )
            server.accept_from(bound)
            return Served(loop.loop, bound.getsockname()[1], server, documents)

        made: Served = loop.run(start())
        try:
            yield made
        finally:
            loop.loop.call_soon_threadsafe(made.documents.close)
            made.close(made.server)


def end(tls: ssl.SSLSocket) -> None:
    """Send TLS's end, and still be able to read: `unwrap` would wait for the other one.

    OpenSSL looks for that at once, and loses what has come instead of it: so it gets to see a pipe
    of ours, and the server what it writes there.
    """
    fd = tls.fileno()
    connection = os.dup(fd)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        os.dup2(theirs.fileno(), fd)
        tls.settimeout(0)
        with contextlib.suppress(ssl.SSLWantReadError):
            tls._sslobj.shutdown()  # type: ignore[attr-defined]
        os.dup2(connection, fd)
        tls.settimeout(TEST_TIMEOUT)
        theirs.close()
        while data := ours.recv(1024):
            with socket.socket(fileno=os.dup(connection)) as server:
                server.settimeout(TEST_TIMEOUT)
                server.sendall(data)
    os.close(connection)


def get(connection: ssl.SSLSocket, target: str = "/") -> bytes:
    """Send a request that is the connection's last, and read to the end."""
    request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    connection.sendall(request.encode())
    return read_all(connection)
