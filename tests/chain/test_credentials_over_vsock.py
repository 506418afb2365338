"""The parent's credential service asked by the enclave's agent, over the enclave's kind of socket.
True AF_VSOCK in the guest (`make test-vsock`), UNIX sockets elsewhere.
"""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from enclave.credentials import ParentCredentials
from enclave.errors import CredentialsError
from parent.credentials import CredentialService, CredentialSettings
from parent.credentials.model import Credentials
from parent.http_server import Limits
from tests.vsock_proxy.rig import LOCAL, Place
from tests.waiting import TEST_TIMEOUT, eventually
from vsock_proxy.net.addresses import Address, VsockAddress
from vsock_proxy.net.dialing import SocketDialer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ONLY_VSOCK = "UNIX sockets have no CIDs: make test-vsock"


def load(now: datetime) -> Credentials:
    return Credentials("ASIA", "s3cret", "t0ken", now + timedelta(hours=1), "test")


@pytest.fixture
def address(tmp_path: Path) -> Address:
    return Place(LOCAL, tmp_path).address("credentials")


@pytest.fixture
def cid(address: Address) -> int:
    """Ours, as the service sees it."""
    if not isinstance(address, VsockAddress):
        pytest.skip(ONLY_VSOCK)
    return address.cid


@contextlib.contextmanager
def serving(
    address: Address, cids: frozenset[int] | None = None, limits: Limits | None = None
) -> Iterator[CredentialService]:
    service = CredentialService(CredentialSettings(address, cids), load=load, limits=limits)
    service.start()
    eventually(lambda: service.status().healthy)
    yield service
    service.stop(1.0)


def access_key(address: Address) -> str:
    return (
        ParentCredentials(address, timeout=TEST_TIMEOUT)
        .credentials(timeout=TEST_TIMEOUT)
        .access_key_id
    )


def test_the_agent_gets_credentials(address: Address) -> None:
    with serving(address) as service:
        assert [access_key(address) for _ in range(20)] == ["ASIA"] * 20
        eventually(lambda: service.server.connected == 0)


def test_an_enclave_that_is_named(address: Address, cid: int) -> None:
    with serving(address, frozenset({cid, 16})):
        assert access_key(address) == "ASIA"


def test_an_enclave_that_is_not_named(address: Address, cid: int) -> None:
    with serving(address, frozenset({cid + 15})), pytest.raises(CredentialsError) as caught:
        access_key(address)
    assert f"HTTP status 403: 'CID {cid} is not among those" in str(caught.value)


@pytest.mark.usefixtures("cid")
def test_one_enclave_cannot_take_every_place(address: Address) -> None:
    limits = Limits(connections=10, per_enclave=2, timeout=TEST_TIMEOUT)
    with serving(address, limits=limits) as service, contextlib.ExitStack() as held:
        for _ in range(2):
            held.enter_context(SocketDialer().dial(address, TEST_TIMEOUT))
        eventually(lambda: service.server.connected == 2)
        third = held.enter_context(SocketDialer().dial(address, TEST_TIMEOUT))
        with contextlib.suppress(ConnectionResetError):
            assert third.recv(10) == b""
        assert service.server.counters.rejected == 1
