"""What every credential service does, held over the parent's and the simulator's.

The enclave's agent is the client: docs/credentials.md is what both sides go by.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from enclave.credentials import ParentCredentials
from enclave.credentials.document import MAX_BODY
from enclave_simulator.parent.credentials import CredentialServer
from parent.credentials import CredentialService, CredentialSettings
from parent.credentials.model import Credentials
from tests.doubles import ManualClock
from tests.waiting import TEST_TIMEOUT, eventually
from vsock_proxy.net.addresses import TcpAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager


@dataclass
class Role:
    """What the service has credentials of."""

    key: str = "ASIA1"
    lifetime: timedelta = timedelta(hours=1)
    asked: int = 0

    def expiration(self) -> datetime:
        return (datetime.now(UTC) + self.lifetime).replace(microsecond=0)


@dataclass
class Service:
    """A running service; `renew` makes it take up what the role has now."""

    port: int
    renew: Callable[[], None]

    def client(self, clock: ManualClock | None = None) -> ParentCredentials:
        return ParentCredentials(
            TcpAddress("127.0.0.1", self.port),
            timeout=TEST_TIMEOUT,
            clock=clock,
            uniform=lambda _, high: high,
        )

    def get(self, path: str = "/", method: str = "GET") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TEST_TIMEOUT)
        with contextlib.closing(connection):
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read()


@contextlib.contextmanager
def simulators_service(role: Role) -> Iterator[Service]:
    def document() -> dict[str, Any]:
        role.asked += 1
        return {
            "AccessKeyId": role.key,
            "SecretAccessKey": "s3cret",
            "Token": "t0ken",
            "Expiration": role.expiration().strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    listener = socket.create_server(("127.0.0.1", 0))
    server = CredentialServer(listener, document)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield Service(listener.getsockname()[1], lambda: None)
    server.shutdown()
    thread.join(TEST_TIMEOUT)
    server.server_close()


@contextlib.contextmanager
def parents_service(role: Role) -> Iterator[Service]:
    def load(_now: datetime) -> Credentials:
        role.asked += 1
        return Credentials(role.key, "s3cret", "t0ken", role.expiration(), "test")

    settings = CredentialSettings(listen=TcpAddress("127.0.0.1", 0))
    service = CredentialService(settings, load=load)
    service.start()
    eventually(lambda: service.status().healthy)
    assert isinstance(service.server.address, TcpAddress)
    yield Service(service.server.address.port, service.renew)
    service.stop(1.0)


SERVICES: list[Callable[[Role], AbstractContextManager[Service]]] = [
    simulators_service,
    parents_service,
]


@pytest.fixture
def role() -> Role:
    return Role()


@pytest.fixture(params=SERVICES, ids=lambda make: make.__name__)
def service(request: pytest.FixtureRequest, role: Role) -> Iterator[Service]:
    with request.param(role) as made:
        yield made


def test_the_agent_gets_whole_credentials(service: Service, role: Role) -> None:
    before = role.expiration()
    credentials = service.client().credentials(timeout=TEST_TIMEOUT)
    assert (
        credentials.access_key_id,
        credentials.secret_access_key,
        credentials.session_token,
    ) == (
        "ASIA1",
        "s3cret",
        "t0ken",
    )
    assert credentials.expiration is not None
    assert abs(credentials.expiration - before) < timedelta(minutes=5)


def test_the_document_has_four_names_and_fits(service: Service) -> None:
    status, body = service.get()
    assert status == 200
    assert len(body) <= MAX_BODY
    assert set(json.loads(body)) == {"AccessKeyId", "SecretAccessKey", "Token", "Expiration"}


def test_there_is_one_path(service: Service) -> None:
    status, body = service.get("/latest/meta-data")
    assert status == 404
    assert isinstance(json.loads(body)["message"], str)
    assert b"s3cret" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_there_is_one_method(service: Service, method: str) -> None:
    status, body = service.get(method=method)
    assert status in (405, 501)
    assert b"s3cret" not in body


def test_the_agent_gets_the_roles_new_credentials(service: Service, role: Role) -> None:
    clock = ManualClock()
    client = service.client(clock)
    first = client.credentials(timeout=TEST_TIMEOUT)
    role.key = "ASIA2"
    service.renew()
    clock.elapsed = 60.0
    second = client.credentials(timeout=TEST_TIMEOUT, rejected=first)
    assert (first.access_key_id, second.access_key_id) == ("ASIA1", "ASIA2")


def test_many_agents_at_once(service: Service) -> None:
    got: list[str] = []

    def ask() -> None:
        got.append(service.client().credentials(timeout=TEST_TIMEOUT).access_key_id)

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TEST_TIMEOUT)
    assert got == ["ASIA1"] * 12


def test_a_client_that_says_nothing_holds_nobody_up(service: Service) -> None:
    with contextlib.ExitStack() as stack:
        for sent in (b"", b"GET ", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "):
            silent = socket.create_connection(("127.0.0.1", service.port), TEST_TIMEOUT)
            stack.enter_context(silent).sendall(sent)
        assert service.client().credentials(timeout=TEST_TIMEOUT).access_key_id == "ASIA1"


def test_a_client_of_http_1_0(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port), TEST_TIMEOUT) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert b" 200 OK\r\n" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["AccessKeyId"] == "ASIA1"


def test_the_parents_asks_nobody_for_an_answer(role: Role) -> None:
    """The simulator's makes up each answer; on a parent that would be a call to AWS."""
    with parents_service(role) as service:
        for _ in range(5):
            assert service.get()[0] == 200
    assert role.asked == 1
