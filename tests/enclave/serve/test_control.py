"""What the parent may ask of `serve`, and what the numbers say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from typing import TYPE_CHECKING, Any, cast

import pytest

from enclave.errors import (
    AgentError,
    ConfigurationError,
    CredentialsError,
    DecryptionError,
    KmsRefusedError,
    KmsResponseError,
    KmsUnreachableError,
    NsmUnavailableError,
)
from enclave.network.numbers import network_families
from enclave.serve.calls import Calls
from enclave.serve.control import MOST_SECONDS, ControlServer
from enclave.serve.metrics import (
    MAX_OPERATIONS,
    PREFIX,
    CallNumbers,
    Metrics,
    agent_families,
    process_families,
)
from enclave.serve.options import control_address
from enclave.serve.outcomes import word_for
from enclave.serve.protocol import EndpointError
from enclave.serve.readiness import Readiness
from enclave.serve.server import EndpointServer
from tests.enclave.serve.serving import Kms, request, served
from vsock_proxy.net.addresses import TcpAddress
from vsock_proxy.proxy.counters import (
    Counters,
    ForwardSnapshot,
    Gauges,
    HostCounters,
    Snapshot,
    Tally,
)
from vsock_proxy.service.exposition import Family, read, single, write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from enclave.agent import Agent

RANDOM = "GenerateRandom"


@contextlib.asynccontextmanager
async def control(folder: Path, ended: list[float], code: int | None) -> AsyncIterator[str]:
    async def end(seconds: float) -> int | None:
        ended.append(seconds)
        return code

    path = str(folder / "control")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        calls, endpoint = unserved()
        endpoint.metrics.add(process_families)
        server = ControlServer(endpoint, stop=end)
        server.accept_from(listener)
        try:
            yield path
        finally:
            server.close()
            calls.close()


def unserved() -> tuple[Calls, EndpointServer]:
    """Return an endpoint that nobody can connect to."""
    calls = Calls({"us-east-1": Kms()}, most=1, deadline=1)
    return calls, EndpointServer(calls, Readiness(lambda: None))


async def ask(path: str, data: bytes) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(data)
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head, re.IGNORECASE)
    assert length
    body = await reader.readexactly(int(length[1]))
    writer.close()
    return int(head.split()[1]), body


def post(target: str, body: bytes) -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: enclave\r\nContent-Length: %d\r\n\r\n%s" % (
        target.encode(), len(body), body,
    )  # fmt: skip


@pytest.mark.parametrize(("code", "status"), [(3, "ended"), (0, "ended"), (None, "ending")])
def test_the_program_is_ended_and_its_exit_code_told(
    tmp_path: Path, code: int | None, status: str
) -> None:
    async def main() -> None:
        ended: list[float] = []
        async with control(tmp_path, ended, code) as path:
            told = await ask(path, post("/stop", b'{"seconds": 7.5}'))
        assert (told[0], json.loads(told[1])) == (200, {"status": status, "code": code})
        assert ended == [7.5]

    asyncio.run(main())


@pytest.mark.parametrize(
    "data",
    [
        post("/stop", b""),
        post("/stop", b"[]"),
        post("/stop", b'{"seconds": "1"}'),
        post("/stop", b'{"seconds": -1}'),
        post("/stop", b'{"seconds": NaN}'),
        post("/stop", json.dumps({"seconds": MOST_SECONDS + 1}).encode()),
        post("/stop", b"[" * 10_000),
        b"GET /stop HTTP/1.1\r\nHost: enclave\r\n\r\n",
        post("/", b"{}"),
        b"GET /readyz HTTP/1.1\r\nHost: enclave\r\n\r\n",
        request(),
    ],
)
def test_the_parent_may_ask_nothing_else(tmp_path: Path, data: bytes) -> None:
    """Above all no call of KMS: the endpoint's responses hold secrets."""

    async def main() -> None:
        ended: list[float] = []
        async with control(tmp_path, ended, 0) as path:
            status, body = await ask(path, data)
        assert status in (400, 404)
        assert b"Plaintext" not in body
        assert ended == []

    asyncio.run(main())


def test_the_numbers_are_for_the_parent_too(tmp_path: Path) -> None:
    async def main() -> bytes:
        async with control(tmp_path, [], 0) as path:
            return (await ask(path, b"GET /metrics HTTP/1.1\r\nHost: enclave\r\n\r\n"))[1]

    names = {family.name for family in read(asyncio.run(main()), prefix=PREFIX)}
    assert {f"{PREFIX}info", f"{PREFIX}memory_bytes", f"{PREFIX}open_fds"} <= names


def test_the_counts_are_the_endpoints(tmp_path: Path) -> None:
    """Not of the server that the parent is a client of."""

    async def main() -> bytes:
        async with control(tmp_path, [], 0) as path:
            return (await ask(path, b"GET /healthz HTTP/1.1\r\nHost: enclave\r\n\r\n"))[1]

    assert json.loads(asyncio.run(main()))["clients"] == 0


class _Peer:
    family = socket.AF_VSOCK

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("cid", [1, 2, 4, 16])
def test_peers_other_than_the_parent_are_closed(tmp_path: Path, cid: int) -> None:
    async def main() -> None:
        calls, endpoint = unserved()
        server = ControlServer(endpoint, stop=cast("Any", None))
        peer = _Peer()
        server.accepted(cast("socket.socket", peer), (cid, 1024))
        assert peer.closed
        assert not server.connections
        calls.close()

    asyncio.run(main())


@pytest.mark.parametrize("text", ["tcp://127.0.0.1:1", "tcp://0.0.0.0:1"])
def test_the_parent_is_not_listened_for_on_tcp(text: str) -> None:
    with pytest.raises(ConfigurationError, match="will not listen on"):
        control_address(text)


def numbers(made: Iterable[Family]) -> dict[tuple[str, ...], float]:
    return {
        (family.name.removeprefix(PREFIX) + sample.suffix, *(v for _, v in sample.labels)): (
            sample.value
        )
        for family in made
        for sample in family.samples
    }


def test_calls_are_counted_by_operation_and_outcome() -> None:
    kms = Kms()
    with served(kms) as endpoint:
        assert endpoint.exchange(request()).status == 200
        kms.error = KmsUnreachableError("no")
        assert endpoint.exchange(request()).status == 503
        found = numbers(endpoint.calls.numbers.families())
        clients = numbers(endpoint.endpoint.families())
    assert found["calls_total", RANDOM, "ok"] == 1
    assert found["calls_total", RANDOM, "unreachable"] == 1
    assert found["call_seconds_count", RANDOM] == found["call_seconds_bucket", RANDOM, "+Inf"] == 2
    assert clients["rejected_total", "clients"] == clients["rejected_total", "calls"] == 0


def test_the_endpoint_serves_the_numbers() -> None:
    with served(Kms()) as endpoint:
        endpoint.endpoint.metrics.add(lambda: [single("a", "gauge", "", 1)])
        response = endpoint.exchange(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert (response.status, response.body[-4:]) == (200, b"a 1\n")
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        other = endpoint.exchange(b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        assert other.status == 400


OUTCOMES = {
    "refused": KmsRefusedError("AccessDeniedException", "", request_id=None, status=400),
    "throttled": KmsRefusedError("ThrottlingException", "", request_id=None, status=400),
    "unreachable": KmsUnreachableError("x"),
    "untrusted": KmsResponseError("x"),
    "attester": NsmUnavailableError("x"),
    "credentials": CredentialsError("x"),
    "invalid": ConfigurationError("x"),
    "error": AgentError("x"),
}


def test_outcomes_are_a_few_words() -> None:
    assert {word: word_for(error) for word, error in OUTCOMES.items()} == {
        word: word for word in OUTCOMES
    }
    assert word_for(DecryptionError()) == "untrusted"
    assert word_for(EndpointError("ThrottlingException", "x")) == "throttled"


def test_clients_cannot_make_ever_more_names() -> None:
    made = CallNumbers()
    for number in range(2 * MAX_OPERATIONS):
        made.count(f"Operation{number}", "ok", 100.0)
    found = numbers(made.families())
    assert found["calls_total", "other", "ok"] == MAX_OPERATIONS
    assert len([key for key in found if key[0] == "calls_total"]) == MAX_OPERATIONS + 1
    assert read(write(made.families()), prefix=PREFIX)


def test_a_source_that_fails_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Iterable[Family]:
        raise ZeroDivisionError

    metrics = Metrics()
    metrics.add(fail)
    metrics.add(lambda: [single(f"{PREFIX}x", "gauge", "", 1)])
    metrics.add_slow(fail)
    metrics.add_slow(lambda: [single(f"{PREFIX}y", "gauge", "", 2)])
    text = asyncio.run(metrics.text())
    assert b"enclave_agent_y 2\n" in text
    assert text.endswith(b"enclave_agent_x 1\n")
    assert "no numbers: internal error: ZeroDivisionError" in caplog.text


def test_the_agent_tells_the_age_of_its_document_and_the_life_of_its_credentials() -> None:
    class Stub:
        clock_drift = -0.25
        document_age: float | None = 60.0
        credentials_left: float | None = 900.0

    none = Stub()
    none.document_age = none.credentials_left = None
    agents = cast("dict[str, Agent]", {"us-east-1": Stub(), "eu-west-1": none})
    assert numbers(agent_families(agents)) == {
        ("clock_drift_seconds",): -0.25,
        ("document_age_seconds", "us-east-1"): 60.0,
        ("credentials_expiry_seconds", "us-east-1"): 900.0,
    }


def test_the_network_is_counted_by_listener_and_by_entry_of_the_allowlist() -> None:
    address = TcpAddress("127.0.0.1", 1)
    counters = Counters(relayed=3, bytes=Tally(up=5, down=7), rejected=Tally(allowlist=1))
    hosts = {"s3.example:443": HostCounters(2, Tally(), Tally(up=4))}
    forward = ForwardSnapshot("egress", address, address, Gauges(1, 0, 0, 9), counters, hosts)
    made = list(network_families(Snapshot((forward,), 0, 1, 0)))
    found = numbers(made)
    assert found["network_relayed_total", "egress"] == 3
    assert found["network_bytes_total", "egress", "down"] == 7
    assert found["network_rejected_total", "egress", "allowlist"] == 1
    assert found["network_host_bytes_total", "s3.example:443", "up"] == 4
    assert read(write(made), prefix=PREFIX) == made
