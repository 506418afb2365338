"""The simulated KMS over real HTTPS; every fault once, at the level of HTTP."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from enclave_simulator.kms.faults import parse_fault
from enclave_simulator.kms.messages import Request
from enclave_simulator.kms.server import MAX_BODY, Connection, KmsServer
from enclave_simulator.kms.service import CONTROL_PATH, KmsService
from enclave_simulator.kms.threaded import KmsSimulator
from enclave_simulator.kms.tls import CertificateAuthority
from tests.enclave_simulator.documents import attest, rsa_key, spki
from tests.enclave_simulator.kms.kms_client import (
    HOST,
    Client,
    connect,
    openssl_decrypt,
    recipient,
    signed,
)
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from enclave_simulator.authority import Authority
    from enclave_simulator.nsm import SimulatedNsm

TRUE = {"NumberOfBytes": 32}


@pytest.fixture
def client(kms_simulator: KmsSimulator) -> Iterator[Client]:
    with Client(kms_simulator) as client:
        yield client


@pytest.fixture
def attested(simulated_nsm: SimulatedNsm) -> dict[str, Any]:
    """Parameters of an attested call."""
    return {**TRUE, "Recipient": recipient(attest(simulated_nsm, spki(rsa_key())))}


# Without faults


def test_one_connection_serves_many_calls(client: Client, attested: dict[str, Any]) -> None:
    for _ in range(3):
        status, response = client.call("GenerateRandom", attested)
        assert status == 200
        assert "Plaintext" not in response


def test_headers_are_those_of_kms(client: Client) -> None:
    response = client.start(signed("GenerateRandom", TRUE))
    assert response.getheader("Content-Type") == "application/x-amz-json-1.1"
    assert len(str(response.getheader("x-amzn-RequestId"))) == 36
    assert response.getheader("Connection") is None
    response.read()


@pytest.mark.parametrize(
    "host",
    [
        "kms.us-east-1.amazonaws.com",
        "kms.eu-west-1.amazonaws.com",
        "kms-fips.us-gov-west-1.amazonaws.com",
        "kms.cn-north-1.amazonaws.com.cn",
        "kms.eu-central-1.api.aws",
        "kms.us-iso-east-1.c2s.ic.gov",
        "kms-fips.eusc-de-east-1.amazonaws.eu",
        "vpce-0123456789abcdef0-abcdefgh.kms.eu-west-1.vpce.amazonaws.com",
        "127.0.0.1",
    ],
)
def test_every_kms_name_gets_its_certificate(kms_simulator: KmsSimulator, host: str) -> None:
    with connect(kms_simulator, host) as connection:
        assert connection.selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize(
    "host", ["localhost", "example.com", "kms.evil.amazonaws.com.example.com", "kms"]
)
def test_other_names_get_no_certificate_of_their_own(
    kms_simulator: KmsSimulator, host: str
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        connect(kms_simulator, host)


def raw(request: Request, *more: str) -> bytes:
    lines = [f"{request.method} {request.target} HTTP/1.1", f"Content-Length: {len(request.body)}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    return "\r\n".join([*lines, *more, "", ""]).encode() + request.body


def converse(simulator: KmsSimulator, wire: bytes) -> bytes:
    """Send, and return all that comes until the server closes."""
    with connect(simulator) as connection:
        connection.sendall(wire)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_pipelined_requests_get_responses_in_order(kms_simulator: KmsSimulator) -> None:
    requests = [signed("GenerateRandom", {"NumberOfBytes": n}) for n in (1, 2, 3)]
    wire = b"".join(map(raw, requests[:2])) + raw(requests[2], "Connection: close")
    responses = converse(kms_simulator, wire).split(b"HTTP/1.1 200")[1:]
    plaintexts = [
        json.loads(response.partition(b"\r\n\r\n")[2])["Plaintext"] for response in responses
    ]
    assert [len(base64.b64decode(plaintext)) for plaintext in plaintexts] == [1, 2, 3]


def test_a_client_that_asks_whether_to_go_on_is_told(kms_simulator: KmsSimulator) -> None:
    """RFC 9110, 10.1.1: it would wait, and curl does so for a second."""
    request = signed("GenerateRandom", {"NumberOfBytes": 1})
    head = raw(request, "Expect: 100-continue", "Connection: close").removesuffix(request.body)
    with connect(kms_simulator) as connection:
        connection.sendall(head)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 100 ")
        connection.sendall(request.body)
        response = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert response.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\n\r\n", b"400"),
        (b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", b"501"),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", b"501"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: " + b"x" * 100_000, b"431"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n" + bytes(MAX_BODY + 1),
         b"413"),
    ],
    ids=["garbage", "no-host", "HEAD", "CONNECT", "smuggling", "endless-header", "large-body"],
)  # fmt: skip
def test_invalid_http_is_rejected(kms_simulator: KmsSimulator, wire: bytes, status: bytes) -> None:
    assert converse(kms_simulator, wire).startswith(b"HTTP/1.1 " + status)


def test_a_connection_without_a_request_is_closed_in_time(
    nitro_authority: Authority,
) -> None:
    with KmsSimulator(KmsService(nitro_authority.root_pem), idle_timeout=0.05) as simulator:
        assert converse(simulator, b"POST / HTTP/1.1\r\n") == b""


class Transport:
    """A transport whose client reads nothing."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = self.reading = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, _name: str) -> None:
        return None

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


@contextlib.asynccontextmanager
async def served(service: KmsService) -> AsyncIterator[tuple[Connection, Transport]]:
    """A connection on the running loop, over a transport of the test's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = KmsServer(service, CertificateAuthority(), listener)
        connection, transport = Connection(server), Transport()
        connection.connection_made(transport)  # type: ignore[arg-type] # what is used of one
        yield connection, transport
        connection.connection_lost(None)


@pytest.mark.parametrize("fault", ["stall", "close-after"])
def test_what_comes_after_the_last_response_is_dropped(
    nitro_authority: Authority, fault: str
) -> None:
    async def run() -> None:
        service = KmsService(nitro_authority.root_pem)
        service.faults.inject(fault)
        async with served(service) as (connection, _):
            request = signed("GenerateRandom", TRUE)
            head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
            length = f"content-length: {len(request.body)}\r\n\r\n"
            connection.data_received(f"POST / HTTP/1.1\r\n{head}{length}".encode() + request.body)
            for _ in range(4):
                connection.data_received(bytes(1 << 20))
            assert connection._http.trailing_data == (b"", False)

    asyncio.run(run())


def test_client_that_reads_no_responses_is_not_read(nitro_authority: Authority) -> None:
    async def run() -> None:
        async with served(KmsService(nitro_authority.root_pem)) as (connection, transport):
            transport.reading = True
            connection.pause_writing()
            assert not transport.reading
            connection.resume_writing()
            assert transport.reading

    asyncio.run(run())


def test_close_aborts_open_connections(nitro_authority: Authority) -> None:
    simulator = KmsSimulator(KmsService(nitro_authority.root_pem))
    with connect(simulator) as connection:
        simulator.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            assert connection.recv(1) == b""
    assert not simulator._thread.is_alive()


# Faults: each test says what a client sees.


def error(client: Client, attested: dict[str, Any]) -> tuple[int, str]:
    status, response = client.call("GenerateRandom", attested)
    return status, response["__type"]


def opened(client: Client, attested: dict[str, Any], folder: Path) -> bytes | None:
    status, response = client.call("GenerateRandom", attested)
    assert status == 200
    assert "Plaintext" not in response
    return openssl_decrypt(base64.b64decode(response["CiphertextForRecipient"]), folder)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("refuse", (400, "AccessDeniedException")),
        ("throttle", (400, "ThrottlingException")),
        ("internal", (500, "KMSInternalException")),
        ("dependency-timeout", (500, "DependencyTimeoutException")),
    ],
)
def test_errors(
    kms_simulator: KmsSimulator,
    client: Client,
    attested: dict[str, Any],
    fault: str,
    expected: tuple[int, str],
) -> None:
    kms_simulator.faults.inject(fault + ":1")
    assert error(client, attested) == expected
    assert client.call("GenerateRandom", attested)[0] == 200


def test_refuse_has_kms_own_text(kms_simulator: KmsSimulator, client: Client) -> None:
    kms_simulator.faults.inject("refuse")
    _, response = client.call("GenerateRandom", TRUE)
    assert response["Message"].endswith(
        "is not authorized to perform: kms:GenerateRandom on resource: * because no "
        "identity-based policy allows the kms:GenerateRandom action"
    )


def test_unavailable(kms_simulator: KmsSimulator, client: Client) -> None:
    kms_simulator.faults.inject("unavailable")
    response = client.start(signed("GenerateRandom", TRUE))
    assert response.status == 503
    assert response.getheader("x-amzn-RequestId") is None
    assert response.read().startswith(b"<html>")


def test_garbage(kms_simulator: KmsSimulator, client: Client) -> None:
    kms_simulator.faults.inject("garbage")
    response = client.start(signed("GenerateRandom", TRUE))
    assert response.status == 200
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(response.read())


def test_plaintext(kms_simulator: KmsSimulator, client: Client, attested: dict[str, Any]) -> None:
    kms_simulator.faults.inject("plaintext")
    status, response = client.call("GenerateRandom", attested)
    assert (status, list(response)) == (200, ["Plaintext"])
    assert len(base64.b64decode(response["Plaintext"])) == 32


def test_no_ciphertext(
    kms_simulator: KmsSimulator, client: Client, attested: dict[str, Any]
) -> None:
    kms_simulator.faults.inject("no-ciphertext")
    assert client.call("GenerateRandom", attested) == (200, {})


@pytest.mark.parametrize(("fault", "length"), [("wrong-length", 31), ("extra-length", 33)])
def test_lengths(
    kms_simulator: KmsSimulator,
    client: Client,
    attested: dict[str, Any],
    tmp_path: Path,
    fault: str,
    length: int,
) -> None:
    kms_simulator.faults.inject(fault)
    secret = opened(client, attested, tmp_path)
    assert secret is not None
    assert len(secret) == length


@pytest.mark.parametrize("fault", ["wrong-key", "corrupt-cms"])
def test_envelopes_that_do_not_decrypt(
    kms_simulator: KmsSimulator,
    client: Client,
    attested: dict[str, Any],
    tmp_path: Path,
    fault: str,
) -> None:
    kms_simulator.faults.inject(fault + ":1")
    assert opened(client, attested, tmp_path) is None
    assert opened(client, attested, tmp_path) is not None


def test_wrong_key_names_another_key(
    kms_simulator: KmsSimulator, client: Client, attested: dict[str, Any]
) -> None:
    identifiers = []
    for fault in ("wrong-key:1", "corrupt-cms:1"):
        kms_simulator.faults.inject(fault)
        _, response = client.call("GenerateRandom", attested)
        identifiers.append(base64.b64decode(response["CiphertextForRecipient"])[33:65])
    _, response = client.call("GenerateRandom", attested)
    true = base64.b64decode(response["CiphertextForRecipient"])[33:65]
    assert identifiers[0] != true
    assert identifiers[1] == true


def test_stall(kms_simulator: KmsSimulator, client: Client) -> None:
    kms_simulator.faults.inject("stall:1")
    client.connection.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.start(signed("GenerateRandom", TRUE))
    with Client(kms_simulator) as another:
        assert another.call("GenerateRandom", TRUE)[0] == 200


def test_drip(kms_simulator: KmsSimulator, client: Client) -> None:
    kms_simulator.faults.inject("drip")
    response = client.start(signed("GenerateRandom", TRUE))
    assert response.length == MAX_BODY
    assert response.read(3) == b'{"P'


def test_cut(kms_simulator: KmsSimulator, client: Client) -> None:
    kms_simulator.faults.inject("cut")
    response = client.start(signed("GenerateRandom", TRUE))
    assert response.status == 200
    # Without TLS's goodbye the end is an error of TLS, where a client looks for it.
    with pytest.raises((http.client.IncompleteRead, ssl.SSLError)):
        response.read()


def test_reset(kms_simulator: KmsSimulator, client: Client) -> None:
    kms_simulator.faults.inject("reset")
    with pytest.raises(ConnectionResetError):
        client.start(signed("GenerateRandom", TRUE))


def test_close_after(kms_simulator: KmsSimulator, client: Client) -> None:
    kms_simulator.faults.inject("close-after")
    response = client.start(signed("GenerateRandom", TRUE))
    assert not response.will_close
    assert len(json.loads(response.read())) == 1
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        client.start(signed("GenerateRandom", TRUE))


def test_huge(kms_simulator: KmsSimulator, client: Client) -> None:
    kms_simulator.faults.inject("huge")
    response = client.start(signed("GenerateRandom", TRUE))
    assert response.length is None
    size = 16 * MAX_BODY
    assert len(response.read(size)) == size


def test_wrong_host(kms_simulator: KmsSimulator) -> None:
    kms_simulator.faults.inject("wrong-host:1")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        connect(kms_simulator)
    with Client(kms_simulator) as client:
        assert client.call("GenerateRandom", TRUE)[0] == 200


def test_faults_come_one_after_another(kms_simulator: KmsSimulator, client: Client) -> None:
    for fault in ("throttle:2", "internal:1"):
        kms_simulator.faults.inject(fault)
    statuses = [client.call("GenerateRandom", TRUE)[0] for _ in range(4)]
    assert statuses == [400, 400, 500, 200]
    assert kms_simulator.service.requests == {"GenerateRandom": 4}


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "throttle:", "throttle:0", "throttle:-1", "cut:x", f"cut:1{'0' * 5000}"],
)
def test_invalid_faults(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_fault(text)


# Control from another process


def test_the_control_path(kms_simulator: KmsSimulator, client: Client) -> None:
    def control(method: str, body: bytes = b"") -> tuple[int, Any]:
        response = client.start(Request(method, CONTROL_PATH, {"Host": HOST}, body))
        return response.status, json.loads(response.read())

    assert control("GET") == (200, {"faults": [], "requests": {}})
    control("POST", b'{"fault": "throttle:2"}')
    assert control("POST", b'{"fault": "internal"}')[1]["faults"] == ["throttle:2", "internal"]
    assert client.call("GenerateRandom", TRUE)[0] == 400
    assert control("GET")[1]["requests"] == {"GenerateRandom": 1}
    assert control("DELETE")[1]["faults"] == []
    assert client.call("GenerateRandom", TRUE)[0] == 200


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"{}", b'{"fault": "x"}', b'{"fault": 5}'])
def test_the_control_path_rejects_invalid_requests(
    kms_simulator: KmsSimulator, body: bytes
) -> None:
    response = kms_simulator.service.handle(Request("POST", CONTROL_PATH, {}, body))
    assert response.status == 400
    assert kms_simulator.faults.pending() == []
