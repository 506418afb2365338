"""The program's network in process, and the Python adapters, against servers that have names."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import requests
import urllib3
from botocore.session import Session

import enclave
from enclave import Agent, EgressDialer
from enclave.errors import ConfigurationError, DialError, KmsUnreachableError
from enclave.network.options import NetworkOptions, Target
from enclave.network.service import network
from tests.egress import HttpsServer, bundle, https_server, parent_egress
from tests.enclave.conftest import SIMULATED
from tests.sockets import read_all, unused_port
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import ConnectProxy, TcpAddress, UnixAddress
from vsock_proxy.net.dialing import ConnectDialer
from vsock_proxy.net.listening import listen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from enclave_simulator.kms.threaded import KmsSimulator
    from enclave_simulator.nsm import SimulatedNsm
    from vsock_proxy.proxy.daemon import Daemon

NAME = "api.example.com"


@pytest.fixture
def server() -> Iterator[HttpsServer]:
    with https_server(NAME) as server:
        yield server


@pytest.fixture
def parent(
    tmp_path: Path, server: HttpsServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Daemon]:
    address = UnixAddress(str(tmp_path / "3_8004"))
    with parent_egress(address, {(NAME, 443): server.port}, monkeypatch) as daemon:
        yield daemon


@pytest.fixture
def dialer(parent: Daemon) -> EgressDialer:
    return EgressDialer(str(parent.addresses[0]))


@pytest.fixture
def ca(tmp_path: Path, server: HttpsServer) -> str:
    return str(bundle(tmp_path, server))


def options(parent: Daemon, **changes: Any) -> NetworkOptions:
    (address,) = parent.addresses
    assert isinstance(address, UnixAddress)
    return NetworkOptions(**{"listen": None, "proxy": ConnectProxy(address), **changes})


def test_egress_forward_and_ingress(parent: Daemon, server: HttpsServer, tmp_path: Path) -> None:
    program = listen(TcpAddress("127.0.0.1", 0))
    front = UnixAddress(str(tmp_path / "4_8443"))
    made = options(
        parent,
        listen=TcpAddress("127.0.0.1", 0),
        allowed=frozenset({(NAME, 443)}),
        targets=(Target(NAME, 443, TcpAddress("127.0.0.1", 0)),),
        ingress=((front, TcpAddress("127.0.0.1", program.getsockname()[1])),),
    )
    context = ssl.create_default_context(cadata=server.ca.decode())
    with program, network(made) as running:
        assert running.proxy == running.addresses[0]
        assert isinstance(running.proxy, TcpAddress)
        forward = running.addresses[1]
        assert isinstance(forward, TcpAddress)
        through = ConnectDialer(ConnectProxy(running.proxy))
        for plain in (
            through.dial(TcpAddress(NAME, 443), TEST_TIMEOUT),
            socket.create_connection((forward.host, forward.port), TEST_TIMEOUT),
        ):
            with context.wrap_socket(plain, server_hostname=NAME) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert read_all(client).endswith(b"hello from outside\n")
        with socket.socket(socket.AF_UNIX) as outside:
            outside.connect(front.path)
            inside, _ = program.accept()
            with inside:
                outside.sendall(b"hello")
                assert inside.recv(5) == b"hello"
        with pytest.raises(DialError, match="allowlist of the image"):
            through.dial(TcpAddress("other.example.com", 443), TEST_TIMEOUT)
        found = running.snapshot().forwards
        assert found[0].hosts[f"{NAME}:443"].relayed == 1
        assert found[1].counters.relayed == found[2].counters.relayed == 1
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((running.proxy.host, running.proxy.port), 1)


def test_name_of_its_own(parent: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts, port = tmp_path / "hosts", unused_port()
    original = enclave.network.hosts.named
    monkeypatch.setattr("enclave.network.hosts.named", lambda names: original(names, path=hosts))
    with network(options(parent, targets=(Target(NAME, port),))) as running:
        assert hosts.read_text() == f"127.20.0.1\t{NAME}\t# enclave-agent\n"
        assert running.addresses == [TcpAddress("127.20.0.1", port)]
        assert running.names == {NAME}
        assert running.proxy is None
    assert hosts.read_text() == ""


def test_two_listeners_on_one_address_are_an_error(parent: Daemon) -> None:
    address = TcpAddress("127.0.0.1", unused_port())
    targets = (Target("a", 1, address), Target("b", 1, address))
    with (
        pytest.raises(ConfigurationError, match="two forwards listen on"),
        network(options(parent, targets=targets)),
    ):
        pass


# Python adapters


def test_urllib3(dialer: EgressDialer, ca: str, parent: Daemon) -> None:
    pools = dialer.pool_manager(ca_certs=ca)
    assert [pools.request("GET", f"https://{NAME}/").data for _ in range(3)] == [
        b"hello from outside\n"
    ] * 3
    assert parent.snapshot().forwards[0].counters.accepted == 1, "the connection is kept"
    with pytest.raises(urllib3.exceptions.MaxRetryError, match="not on the egress allowlist"):
        pools.request("GET", "https://other.example.com/", retries=urllib3.Retry(0))
    with pytest.raises(urllib3.exceptions.URLSchemeUnknown, match="use https"):
        pools.request("GET", f"http://{NAME}/")
    pools.clear()


def test_requests(dialer: EgressDialer, ca: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    with requests.Session() as session:
        session.mount("https://", dialer.requests_adapter(pool_maxsize=3))
        assert session.get(f"https://{NAME}/", verify=ca).text == "hello from outside\n"
        with pytest.raises(requests.exceptions.SSLError):
            session.get(f"https://{NAME}/", verify=True)
        with pytest.raises(requests.exceptions.ConnectionError, match="egress allowlist"):
            session.get("https://other.example.com/", verify=ca)


def test_httpx(
    dialer: EgressDialer, server: HttpsServer, parent: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    context = ssl.create_default_context(cadata=server.ca.decode())
    with httpx.Client(transport=dialer.httpx_transport(verify=context)) as client:
        for _ in range(3):
            assert client.get(f"https://{NAME}/").text == "hello from outside\n"
        assert parent.snapshot().forwards[0].counters.accepted == 1, "the connection is kept"
        with pytest.raises(httpx.ConnectError, match="egress allowlist"):
            client.get("https://other.example.com/")
        with pytest.raises(httpx.UnsupportedProtocol, match="use https"):
            client.get(f"http://{NAME}/")
    transport = dialer.httpx_transport()
    with (
        httpx.Client(transport=transport) as client,
        pytest.raises(httpx.ConnectError, match="CERT"),
    ):
        client.get(f"https://{NAME}/")


def test_library_that_is_not_there_is_named(
    dialer: EgressDialer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("enclave.network.dialer.import_module", missing)
    for make, library in (
        (dialer.httpx_transport, "httpx"),
        (dialer.requests_adapter, "requests"),
        (dialer.pool_manager, "urllib3"),
    ):
        with pytest.raises(ConfigurationError, match=f"{library} is not installed"):
            make()


# boto3

BUCKETS = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListAllMyBucketsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Owner><ID>x</ID></Owner>
<Buckets><Bucket><Name>sealed</Name></Bucket></Buckets></ListAllMyBucketsResult>"""


def client(service: str, ca: str, **changes: Any) -> Any:
    return Session().create_client(
        service,
        **{
            "region_name": "eu-central-1",
            "aws_access_key_id": "a",
            "aws_secret_access_key": "b",
            "verify": ca,
            **changes,
        },
    )


def test_attach_takes_clients_of_any_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    name = "s3.eu-central-1.amazonaws.com"
    address = UnixAddress(str(tmp_path / "3_8004"))
    with (
        https_server(name, lambda _: BUCKETS) as server,
        parent_egress(address, {(name, 443): server.port}, monkeypatch) as parent,
    ):
        s3 = client("s3", str(bundle(tmp_path, server)))
        assert enclave.attach(s3, egress=str(address)) is s3
        assert [each["Name"] for each in s3.list_buckets()["Buckets"]] == ["sealed"]
        assert server.hosts == [name]
        assert parent.snapshot().forwards[0].hosts[f"{name}:443"].relayed == 1
        s3.close()
        with pytest.raises(ConfigurationError, match="attached already"):
            enclave.attach(s3)


def test_attached_client_shows_what_the_parent_refuses(parent: Daemon, ca: str) -> None:
    from botocore.config import Config  # noqa: PLC0415
    from botocore.exceptions import EndpointConnectionError  # noqa: PLC0415

    sqs = client("sqs", ca, config=Config(retries={"total_max_attempts": 1}))
    enclave.attach(sqs, egress=EgressDialer(str(parent.addresses[0])))
    with pytest.raises(EndpointConnectionError) as caught:
        sqs.list_queues()
    assert "not on the egress allowlist" in str(caught.value.__context__)
    sqs.close()


def test_clients_that_cannot_be_attached(ca: str) -> None:
    plain = client("s3", ca, endpoint_url="http://127.0.0.1:9000")
    with pytest.raises(ConfigurationError, match="which is not https"):
        enclave.attach(plain)
    other = client("s3", ca)
    other._endpoint.http_session = object()
    with pytest.raises(ConfigurationError, match="HTTP session is not one that is known"):
        enclave.attach(other)
    with pytest.raises(ConfigurationError, match="takes no egress"):
        enclave.attach(client("kms", ca), egress="vsock://3:8004")


# KMS


def test_kms_of_several_regions_through_one_listener(
    simulated_nsm: SimulatedNsm,
    kms_simulator: KmsSimulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "kms-ca.pem"
    path.write_bytes(kms_simulator.ca_pem)
    address = UnixAddress(str(tmp_path / "3_8004"))
    regions = ("eu-central-1", "us-east-1")
    servers = {(f"kms.{each}.amazonaws.com", 443): kms_simulator.port for each in regions}
    with parent_egress(address, servers, monkeypatch) as parent:

        def agent(region: str) -> Agent:
            return Agent(
                region=region, credentials=SIMULATED, ca_bundle=str(path), device=simulated_nsm,
                proxy=f"connect:{address}", environ={}, deadline=5,
            )  # fmt: skip

        for region in regions:
            with agent(region) as made:
                assert len(made.generate_random(32)) == 32
        (listener,) = parent.snapshot().forwards
        assert {host: each.relayed for host, each in listener.hosts.items()} == {
            f"kms.{region}.amazonaws.com:443": 1 for region in regions
        }
        with agent("eu-west-1") as made, pytest.raises(KmsUnreachableError) as caught:
            made.generate_random(32)
        assert "kms.eu-west-1.amazonaws.com:443 is not on the egress allowlist" in str(caught.value)
        assert "egress allowlist" in caught.value.hint
