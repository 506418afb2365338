"""What those who run the parent look at, asked as Prometheus and Kubernetes do."""

from __future__ import annotations

import ast
import http.client
import json
import socket
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from parent.component import ComponentStatus
from parent.credentials import CredentialService, CredentialSettings
from parent.credentials.model import Credentials
from parent.daemon.status_table import table
from parent.enclaves.component import EnclaveComponent
from parent.enclaves.runner import Subprocess
from parent.enclaves.settings import EnclaveSettings
from parent.http_server import Request
from parent.logs.component import LogSink
from parent.logs.settings import LogSettings
from parent.operations import OperationsService, OperationsSettings
from parent.operations.metrics import Metrics
from parent.operations.state import state
from parent.proxy import ProxyService
from tests.paths import ROOT
from tests.waiting import TEST_TIMEOUT, eventually
from vsock_proxy.errors import AgentError
from vsock_proxy.net.addresses import ConnectProxy, TcpAddress, UnixAddress
from vsock_proxy.net.dialing import ConnectDialer
from vsock_proxy.proxy.allowlist import Allowlist
from vsock_proxy.proxy.counters import kind_of
from vsock_proxy.proxy.forward import Egress, Forward
from vsock_proxy.proxy.section import ProxySettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from parent.component import JSON, Component

NOW = datetime(2026, 1, 2, tzinfo=UTC)


class Named:
    """A component that is as it is told to be."""

    def __init__(self, name: str, *, healthy: bool = True) -> None:
        self.name = name
        self.healthy = healthy

    def start(self) -> None: ...

    def stop(self, timeout: float) -> None: ...

    def status(self) -> ComponentStatus:
        return ComponentStatus(self.healthy, "as told", {"state": "x"})


def numbers(components: Sequence[Component], *, at: datetime = NOW) -> dict[str, Any]:
    """What is measured, by its name and labels as the text has them."""
    text = Metrics(lambda: components, now=at.timestamp).text().decode()
    samples = [
        (" ".join([sample.name.removeprefix("enclave_parent_"), *sample.labels.values()]),
         sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]  # fmt: skip
    found = dict(samples)
    assert len(found) == len(samples), "Prometheus drops a whole scrape with a doubled series"
    return found


def get(service: OperationsService, path: str) -> tuple[int, str, bytes]:
    assert isinstance(service.server.address, TcpAddress)
    client = http.client.HTTPConnection(
        "127.0.0.1", service.server.address.port, timeout=TEST_TIMEOUT
    )
    client.request("GET", path)
    response = client.getresponse()
    body = response.read()
    client.close()
    return response.status, response.headers["Content-Type"], body


@pytest.fixture
def components() -> list[Named]:
    return [Named("proxy"), Named("other")]


@pytest.fixture
def service(components: list[Named]) -> Iterator[OperationsService]:
    service = OperationsService(OperationsSettings(TcpAddress("127.0.0.1", 0)), lambda: components)
    service.start()
    yield service
    service.stop(1.0)


def test_health(service: OperationsService, components: list[Named]) -> None:
    assert service.status().healthy
    status, kind, body = get(service, "/healthz")
    assert (status, kind) == (200, "application/json")
    shown = {"healthy": True, "detail": "as told", "values": {"state": "x"}}
    assert json.loads(body) == {
        "status": "ok",
        "components": {"proxy": shown, "other": shown},
    }
    components[1].healthy = False
    status, _, body = get(service, "/healthz")
    assert status == 503
    assert json.loads(body)["status"] == "failing"
    assert json.loads(body)["components"]["other"]["healthy"] is False
    assert get(service, "/livez")[0] == 200, "that is no reason to end this process"


def test_other_paths(service: OperationsService) -> None:
    assert get(service, "/nothing")[0] == 404


def test_metrics_over_http(service: OperationsService) -> None:
    status, kind, body = get(service, "/metrics")
    assert status == 200
    assert kind == "text/plain; version=0.0.4; charset=utf-8"
    assert b'enclave_parent_healthy{component="other"} 1.0\n' in body
    assert b"process_open_fds" in body


def test_the_proxys_numbers(tmp_path: Path) -> None:
    """A connection there and back, and one whose target is not there."""
    with socket.socket(socket.AF_UNIX) as target:
        target.bind(str(tmp_path / "target"))
        target.listen()
        forwards = tuple(
            Forward(UnixAddress(str(tmp_path / n)), UnixAddress(str(tmp_path / to)), name=n)
            for n, to in (("good", "target"), ("bad", "nothing"))
        )
        proxy = ProxyService(ProxySettings(forwards, drain_timeout=0.0))
        assert "proxy_accepted_total good" not in numbers([proxy])
        proxy.start()
        with socket.socket(socket.AF_UNIX) as client, socket.socket(socket.AF_UNIX) as lost:
            client.connect(str(tmp_path / "good"))
            server, _ = target.accept()
            with server:
                client.sendall(b"x" * 1000)
                assert server.recv(2000)
                server.sendall(b"y")
                assert client.recv(10) == b"y"
                lost.connect(str(tmp_path / "bad"))
                assert lost.recv(10) == b""
                found = numbers([proxy])
        proxy.stop(TEST_TIMEOUT)
    assert found["healthy proxy"] == 1
    assert found["proxy_connections good"] == 1
    assert found["proxy_connection_limit good"] == 1024
    assert found["proxy_bytes_total up good"] == 1000
    assert found["proxy_bytes_total down good"] == 1
    assert found["proxy_relayed_total good"] == 1
    assert found["proxy_connect_failures_total bad missing"] == 1
    assert found["proxy_connect_seconds_count good"] == 1
    assert found["proxy_connect_seconds_bucket good +Inf"] == 1
    assert found["proxy_connect_seconds_count bad"] == 0
    assert found["proxy_reloads_total"] == 0


def test_numbers_of_an_egress_listener_are_told_by_host(tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "egress"))
    with socket.create_server(("127.0.0.1", 0)) as target:
        port = target.getsockname()[1]
        allowlist = Allowlist(frozenset({("127.0.0.1", port)}))
        forward = Forward(address, Egress(), name="egress", allowlist=allowlist)
        proxy = ProxyService(ProxySettings((forward,), drain_timeout=0.0))
        proxy.start()
        with ConnectDialer(ConnectProxy(address)).dial(
            TcpAddress("127.0.0.1", port), TEST_TIMEOUT
        ) as client:
            server, _ = target.accept()
            with server:
                client.sendall(b"hello")
                assert server.recv(10) == b"hello"
                server.sendall(b"y")
                assert client.recv(10) == b"y"
                found, shown = numbers([proxy]), state([proxy])
        proxy.stop(TEST_TIMEOUT)
    host = f"127.0.0.1:{port}"
    assert found[f"proxy_host_relayed_total egress {host}"] == 1
    assert found[f"proxy_host_bytes_total up egress {host}"] == 5
    assert found[f"proxy_host_bytes_total down egress {host}"] == 1
    (row,) = shown["forwards"]
    assert row["target"] == "hosts on the allowlist"
    assert row["hosts"][host]["relayed"] == 1
    json.dumps(shown)
    told = table({**shown, "components": {}}, now=0.0, width=200)
    assert [host, "egress", "1", "0", "5", "B", "1", "B"] in [
        line.split() for line in told.splitlines()
    ]


def test_a_stuck_relay_does_not_block_the_other_metrics(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def silent(_proxy: object) -> None:
        raise AgentError("no answer of the relay within 10 s")

    monkeypatch.setattr(ProxyService, "snapshot", silent)
    found = numbers([ProxyService(ProxySettings(())), Named("other")])
    assert found["healthy other"] == 1
    assert "no numbers of the proxy: no answer of the relay" in caplog.text


def test_the_credentials_numbers() -> None:
    service = CredentialService(
        CredentialSettings(cids=frozenset({16})),
        load=lambda now: Credentials("ASIA", "s3cret", "t", now + timedelta(hours=1), "test"),
    )
    found = numbers([service])
    assert found["credentials_renewals_total"] == 0
    assert "credentials_time_to_expiry_seconds" not in found
    service.renew()
    assert service._respond(Request("GET", "/", cid=16)).status == 200
    service.server.respond(Request("GET", "/", cid=17))
    found = numbers([service], at=datetime.now(UTC) + timedelta(minutes=10))
    assert found["credentials_renewals_total"] == 1
    assert found["credentials_failures_total"] == 0
    assert 2900 < found["credentials_time_to_expiry_seconds"] <= 3001
    assert 600 <= found["credentials_age_seconds"] < 700
    assert found["credentials_responses_total 403"] == 1
    assert found["credentials_rejected_total limit"] == 0
    assert found["credentials_clients"] == 0


def test_the_enclaves_numbers() -> None:
    turn = threading.Lock()
    enclaves = [
        EnclaveComponent(
            EnclaveSettings(name, Path("/x.eif"), 512, cid, cpu_count=1),
            Subprocess("nitro-cli"),
            turn=turn,
        )
        for name, cid in (("a", 16), ("b", 17))
    ]
    found = numbers(enclaves)
    for name in "ab":
        assert found[f"enclave_state {name} looking"] == 1
        assert found[f"enclave_state {name} running"] == 0
        assert found[f"enclave_starts_total {name}"] == 0
        assert found[f"enclave_ends_total {name}"] == 0
        assert found[f"enclave_state_seconds {name}"] >= 0


class Lines:
    """A sink of lines that keeps them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, _name: str, _cid: int | None, line: str) -> None:
        self.lines.append(line)

    def close(self) -> None: ...


def test_the_log_sinks_numbers(tmp_path: Path) -> None:
    path = str(tmp_path / "logs")
    lines = Lines()
    sink = LogSink(LogSettings(cids=None, listen=UnixAddress(path)), sink=lines)
    assert "logs_connections" not in numbers([sink])
    sink.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(b"one\ntwo\n")
        eventually(lambda: lines.lines == ["one", "two"])
        found = numbers([sink])
    sink.stop(TEST_TIMEOUT)
    assert found["logs_lines_total enclave"] == 2
    assert found["logs_dropped_lines_total enclave"] == 0
    assert found["logs_truncated_bytes_total enclave"] == 0
    assert found["logs_connections"] == 1
    assert (found["logs_lost_total"], found["logs_rejected_total"]) == (0, 0)


def test_enclaves_cannot_make_series(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is a label is from the configuration, or one of a few words."""
    sources: list[JSON] = [
        {"name": name, "cid": cid, "lines": 1, "dropped": 2, "truncated": 3}
        for name, cid in (("cid-17", 16), ("cid-17", 17), ("worker", 18))
    ]
    values: dict[str, JSON] = {"connections": 0, "rejected": 0, "lost": 0, "sources": sources}
    shown = ComponentStatus(healthy=True, detail="", values=values)
    monkeypatch.setattr(LogSink, "status", lambda _: shown)
    found = numbers([LogSink(LogSettings(cids=None))])
    assert found["logs_lines_total cid-17"] == 2
    assert found["logs_truncated_bytes_total worker"] == 3
    kinds = {kind_of(OSError(number, "")) for number in range(200)}
    assert len(kinds) <= 12


def test_names_survive_the_text_format(tmp_path: Path) -> None:
    name = '"quoted" \\ back {slash} \u20ac'
    forward = Forward(UnixAddress(str(tmp_path / "a")), UnixAddress("/b"), name=name)
    proxy = ProxyService(ProxySettings((forward,), drain_timeout=0.0))
    proxy.start()
    assert numbers([proxy])[f"proxy_connections {name}"] == 0
    proxy.stop(TEST_TIMEOUT)


def test_only_the_metrics_know_prometheus() -> None:
    parent = ROOT / "parent"
    knowing = {
        path.relative_to(parent).as_posix()
        for path in parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("prometheus_client")
    }
    assert knowing == {"operations/metrics.py"}
