"""The parent's egress proxy, in this process, and servers outside that have names."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from enclave_simulator.kms.tls import CertificateAuthority
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.proxy import egress
from vsock_proxy.proxy.allowlist import Allowlist
from vsock_proxy.proxy.daemon import Daemon
from vsock_proxy.proxy.forward import Egress, Forward

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from email.message import Message
    from pathlib import Path

    import pytest

    from vsock_proxy.net.addresses import Address
    from vsock_proxy.net.resolving import InternetName
    from vsock_proxy.relay.connection import RelayLimits

LOOPBACK = "127.0.0.1"


@contextlib.contextmanager
def parent_egress(
    address: Address,
    servers: Mapping[tuple[str, int], int],
    patch: pytest.MonkeyPatch,
    *forwards: Forward,
    limits: RelayLimits | None = None,
) -> Iterator[Daemon]:
    """Run the parent's egress proxy.

    Args:
        address: where it listens.
        servers: by name and port, on which port of loopback they are; and these are allowed.
        patch: for its look-ups.
        forwards: that it has besides.
        limits: of the listener.
    """

    def look_up(
        host: str, port: int, _family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> Sequence[tuple[socket.AddressFamily, InternetName]]:
        if (host, port) not in servers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, (LOOPBACK, servers[host, port]))]

    patch.setattr(egress, "system_look_up", look_up)
    allowed = {*servers, *((LOOPBACK, port) for _, port in servers)}
    forward = Forward(address, Egress(), name="egress", allowlist=Allowlist(frozenset(allowed)))
    daemon = Daemon([forward, *forwards], drain_timeout=0, tick=0.05, notify=lambda _: None)
    thread = threading.Thread(target=daemon.run)
    thread.start()
    try:
        yield daemon
    finally:
        daemon.stop()
        thread.join(TEST_TIMEOUT)
        assert not thread.is_alive()


@dataclass
class HttpsServer:
    """A server with a certificate for one name.

    Attributes:
        port: on loopback.
        ca: PEM of what its clients must trust.
        requests: their first lines.
        hosts: their Host headers.
        headers: all of their headers.
    """

    port: int
    ca: bytes
    requests: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    headers: list[Message] = field(default_factory=list, repr=False)


@contextlib.contextmanager
def https_server(
    name: str, respond: Callable[[str], bytes] = lambda _: b"hello from outside\n"
) -> Iterator[HttpsServer]:
    """Serve HTTPS as `name`; `respond` gets the path."""
    authority = CertificateAuthority()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            made.requests.append(self.requestline)
            made.hosts.append(self.headers["Host"])
            made.headers.append(self.headers)
            body = respond(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # A client that rejects the certificate, or has gone.

    with Server((LOOPBACK, 0), Handler) as server:
        made = HttpsServer(server.server_address[1], authority.certificate_pem)
        context = authority._context_for(name)
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join(TEST_TIMEOUT)


def bundle(folder: Path, server: HttpsServer) -> Path:
    """Write what clients of a server must trust."""
    path = folder / "outside-ca.pem"
    path.write_bytes(server.ca)
    return path
