"""What only a kernel with AF_VSOCK can show: dialing, listening, and their errors."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.vsock_proxy.rig import PATIENCE, VMADDR_CID_LOCAL, Rig, Server, ask, read_exactly
from vsock_proxy.addresses import VMADDR_CID_ANY, VsockAddress
from vsock_proxy.dialing import SocketDialer
from vsock_proxy.errors import DialError, ListenError
from vsock_proxy.listening import listen, local_address

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.vsock

FREE = VsockAddress(VMADDR_CID_LOCAL, socket.VMADDR_PORT_ANY)


@pytest.fixture(autouse=True)
def _vsock(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--vsock"):
        pytest.skip("needs a kernel of its own with vsock: make boot-test")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(FREE) as server:
        yield server


def test_a_port_of_choice_is_told(server: Server) -> None:
    assert isinstance(server.address, VsockAddress)
    assert server.address.cid == VMADDR_CID_LOCAL
    assert server.address.port != socket.VMADDR_PORT_ANY


def test_ports_are_wider_than_those_of_tcp() -> None:
    # AWS's tools cut them to 16 bits here and there.
    wide = VsockAddress(VMADDR_CID_LOCAL, 0x1_0000 + 8000)
    with Server(wide) as server:
        assert server.address == wide
        with SocketDialer().dial(wide, PATIENCE) as client, server.accept() as accepted:
            assert client.getpeername() == (VMADDR_CID_LOCAL, wide.port)
            client.sendall(b"hello")
            assert read_exactly(accepted, 5) == b"hello"


def test_every_cid_can_be_listened_on() -> None:
    with Server(VsockAddress(VMADDR_CID_ANY, socket.VMADDR_PORT_ANY)) as server:
        assert isinstance(server.address, VsockAddress)
        assert str(server.address) == f"vsock://any:{server.address.port}"
        dialed = VsockAddress(VMADDR_CID_LOCAL, server.address.port)
        with SocketDialer().dial(dialed, PATIENCE), server.accept() as accepted:
            assert accepted.getpeername()[0] == VMADDR_CID_LOCAL


def test_a_port_in_use_is_a_listen_error(server: Server) -> None:
    with pytest.raises(ListenError, match="Address already in use"):
        listen(server.address)


def test_a_cid_that_is_not_ours_is_a_listen_error() -> None:
    with pytest.raises(ListenError, match="Cannot assign requested address"):
        listen(VsockAddress(77, 8000))


def test_nobody_there_is_a_dial_error() -> None:
    with listen(FREE) as listener:
        free = local_address(listener)
    with pytest.raises(DialError) as refusal:
        SocketDialer().dial(free, PATIENCE)
    assert refusal.value.reason == "Connection reset by peer"
    assert "is vsock-proxy running" in refusal.value.hint


def test_a_target_that_refuses_ends_the_client_and_nothing_else(server: Server) -> None:
    with listen(FREE) as listener:
        nobody = local_address(listener)
    with Rig(FREE, nobody) as rig, rig.connect() as client:
        assert client.recv(1) == b""
    with Rig(FREE, server.address) as rig:
        ask(rig, server)
