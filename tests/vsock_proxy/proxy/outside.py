"""An egress listener, and the hosts and the name server that it leads to."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from tests.sockets import read_all
from tests.vsock_proxy.rig import (
    Place,
    Rig,
    Server,
    read_exactly,
)
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import TcpAddress
from vsock_proxy.net.http_connect import ESTABLISHED, request
from vsock_proxy.proxy.allowlist import Allowlist
from vsock_proxy.proxy.forward import Egress
from vsock_proxy.relay.connection import RelayLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vsock_proxy.net.resolving import InternetName


NAME = "api.example.com"


class Names:
    """A name server: what each name resolves to, a list for each look-up, the last one for ever."""

    def __init__(self, **names: list[list[str]]) -> None:
        self.names = {name.replace("_", "."): found for name, found in names.items()}
        self.asked: list[str] = []

    def __call__(
        self, host: str, port: int, _family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> Sequence[tuple[socket.AddressFamily, InternetName]]:
        self.asked.append(host)
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        found = self.names[host]
        addresses = found.pop(0) if len(found) > 1 else found[0]
        return [
            (socket.AF_INET6 if ":" in each else socket.AF_INET, (each, port)) for each in addresses
        ]


class Outside:
    """A server with a name, and a rig that lets clients reach it."""

    def __init__(self, rig: Rig, server: Server, names: Names) -> None:
        self.rig, self.server, self.names = rig, server, names
        assert isinstance(server.address, TcpAddress)
        self.port = server.address.port

    def send(self, data: bytes) -> socket.socket:
        client = self.rig.connect()
        client.settimeout(TEST_TIMEOUT)
        client.sendall(data)
        return client

    def connect(self, host: str = NAME, port: int = 0) -> socket.socket:
        return self.send(request(host, port or self.port))

    def response(self, data: bytes) -> str:
        """Send a request and return the whole response."""
        with self.send(data) as client:
            return read_all(client).decode()

    @contextlib.contextmanager
    def tunnel(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        with self.connect() as client, self.server.accept() as accepted:
            assert read_exactly(client, len(ESTABLISHED)) == ESTABLISHED
            yield client, accepted


def allowing(port: int, *others: tuple[str, int]) -> Allowlist:
    """Return a list with the server's name, and its loopback address, which is special."""
    return Allowlist(frozenset({(NAME, port), ("127.0.0.1", port), *others}))


@contextlib.contextmanager
def outside(
    place: Place,
    *others: tuple[str, int],
    limits: RelayLimits | None = None,
    names: Names | None = None,
    allowlist: Callable[[int], Allowlist] = allowing,
) -> Iterator[Outside]:
    names = names or Names(api_example_com=[["127.0.0.1"]])
    with Server(TcpAddress("127.0.0.1", 0)) as server:
        assert isinstance(server.address, TcpAddress)
        list_ = allowlist(server.address.port)
        list_ = Allowlist(list_.entries | {*others})
        with Rig(
            place.address("egress"),
            egress=Egress(),
            allowlist=list_,
            look_up=names,
            limits=limits or RelayLimits(),
        ) as rig:
            yield Outside(rig, server, names)
