"""The endpoint over real sockets: good clients, slow ones, broken ones, and too many of them."""

from __future__ import annotations

import contextlib
import email.utils
import errno
import http.client
import json
import socket
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enclave.errors import KmsRefusedError, KmsUnreachableError, NsmUnavailableError
from enclave.serve import server
from enclave.serve.connection import Limits
from tests.enclave.serve.serving import HEAD, PLAIN, Kms, read_response, request, served
from tests.enclave.serve.test_http import REFUSED, TYPES, UPGRADE
from tests.sockets import read_all
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

LAST = b"Connection: close"


@pytest.fixture
def kms() -> Iterator[Kms]:
    made = Kms()
    yield made
    made.let_go()


@pytest.fixture
def quick_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SWEEP", 0.01)


def test_a_call_gets_a_response_and_the_connection_kept(kms: Kms) -> None:
    with served(kms) as endpoint, endpoint.connect() as client:
        for _ in range(2):
            client.sendall(request())
            response = read_response(client)
            assert json.loads(response.body) == {"Plaintext": "AAAAAA=="}
            assert response.status == 200
            assert response.headers["x-amzn-requestid"] == "kms-4"
            assert response.headers["content-type"] == "application/x-amz-json-1.1"
    assert kms.calls == [("GenerateRandom", {"NumberOfBytes": 4})] * 2


def test_requests_sent_ahead_get_responses_in_order(kms: Kms) -> None:
    sizes = range(1, 41)
    data = b"".join(request(b'{"NumberOfBytes":%d}' % size) for size in sizes)
    with served(kms) as endpoint, endpoint.connect() as client:
        client.sendall(data + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n" % LAST)
        received = read_all(client)
    ids = [f"kms-{size}" for size in sizes]
    assert [line[18:] for line in received.decode().split("\r\n") if line[18:] in ids] == ids
    assert received.index(b"kms-40") < received.index(b'"status": "ok"')


def test_an_error_of_kms_comes_through(kms: Kms) -> None:
    kms.error = KmsRefusedError("AccessDeniedException", "User: x", request_id="kms-1", status=400)
    with served(kms) as endpoint:
        response = endpoint.exchange(request())
    assert (response.status, response.error, response.message) == (
        400,
        "AccessDeniedException",
        "User: x",
    )
    assert response.headers["x-amzn-requestid"] == "kms-1"


def test_a_bug_is_an_internal_failure_and_says_nothing(
    kms: Kms, caplog: pytest.LogCaptureFixture
) -> None:
    kms.error = RuntimeError("s3cret")
    with served(kms) as endpoint:
        response = endpoint.exchange(request())
    assert (response.status, response.error) == (500, "InternalFailure")
    assert b"s3cret" not in response.body
    assert "internal error: RuntimeError" in caplog.messages


def test_failures_are_logged_with_the_id_the_client_saw(
    kms: Kms, caplog: pytest.LogCaptureFixture
) -> None:
    kms.error = KmsUnreachableError("gone")
    with served(kms) as endpoint:
        response = endpoint.exchange(request())
    line = f"GenerateRandom failed: gone [request {response.headers['x-amzn-requestid']}]"
    assert line in caplog.messages


# Bad requests: KMS's error shape, and nothing else happens.


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_bad_http_is_refused_in_kms_words_and_the_connection_closed(data: bytes, kms: Kms) -> None:
    with served(kms) as endpoint, endpoint.connect() as client:
        with contextlib.suppress(OSError):  # a large one may be cut short
            client.sendall(data + request())
        response = read_response(client)
        assert response.status >= 400
        assert response.error in TYPES
        assert response.headers["content-type"] == "application/x-amz-json-1.1"
        assert response.headers["x-amzn-requestid"]
        assert response.headers["connection"] == "close"
        assert read_all(client) == b""
    assert kms.calls == []


@pytest.mark.parametrize(
    ("data", "status", "error"),
    [
        (request(b"{"), 400, "SerializationException"),
        (
            request().replace(b"GenerateRandom", b"Generate-Random"),
            404,
            "UnknownOperationException",
        ),
        (request().replace(b"127.0.0.1", b"evil.example"), 400, "AccessDeniedException"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 404, "UnknownOperationException"),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 404, "UnknownOperationException"),
    ],
)
def test_what_is_http_but_no_call_is_refused_and_the_connection_kept(
    kms: Kms, data: bytes, status: int, error: str
) -> None:
    with served(kms) as endpoint, endpoint.connect() as client:
        client.sendall(data)
        response = read_response(client)
        assert (response.status, response.error) == (status, error)
        assert kms.calls == []
        client.sendall(request())
        assert read_response(client).status == 200


def test_a_response_to_head_has_no_body(kms: Kms) -> None:
    with served(kms) as endpoint:
        received = endpoint.converse(
            b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n" % LAST
        )
    assert received.startswith(b"HTTP/1.1 404 ")
    assert received.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("end", [1, len(HEAD), len(request()) - 1])
def test_half_a_request_is_refused_when_the_client_ends(kms: Kms, end: int) -> None:
    with served(kms) as endpoint:
        received = endpoint.converse(request()[:end])
    assert b'"MalformedHttpRequestException"' in received
    assert kms.calls == []


def test_a_client_that_waits_for_100_continue_is_told_to_go_on(kms: Kms) -> None:
    head, _, body = request(PLAIN, b"Expect: 100-continue", LAST).partition(b"{")
    with served(kms) as endpoint, endpoint.connect() as client:
        client.sendall(head)
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"{" + body)
        assert read_response(client).status == 200


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.binary(max_size=50) | st.sampled_from([HEAD, b"\r\n\r\n", b"GET / HTTP/1.1\r\n"]))
)
def test_whatever_the_bytes_kms_words_or_nothing_come_back(
    robust: tuple[Kms, Any], pieces: list[bytes]
) -> None:
    kms, endpoint = robust
    received = endpoint.converse(b"".join(pieces))
    for response in received.split(b"HTTP/1.1 ")[1:]:
        head, _, body = response.partition(b"\r\n\r\n")
        assert head[:3] in (b"100", b"400", b"404", b"405", b"413", b"431", b"501", b"505")
        assert head[:3] == b"100" or "__type" in json.loads(body)
    assert kms.calls == []


@pytest.fixture(scope="module")
def robust() -> Iterator[tuple[Kms, Any]]:
    kms = Kms()
    with served(kms) as endpoint:
        yield kms, endpoint


# Limits


def test_too_many_waiting_calls_are_throttled_counted_and_logged(
    kms: Kms, caplog: pytest.LogCaptureFixture
) -> None:
    kms.hold()
    with (
        served(kms, most=1, max_waiting=1) as endpoint,
        endpoint.connect() as first,
        endpoint.connect() as second,
    ):
        first.sendall(request())
        assert kms.entered.acquire(timeout=TEST_TIMEOUT)
        second.sendall(request())
        endpoint.until(lambda: endpoint.calls.busy == 2)
        response = endpoint.exchange(request())
        assert (response.status, response.error) == (400, "ThrottlingException")
        assert endpoint.calls.counts.throttled == 1
        assert any("2 calls are being made or waiting" in line for line in caplog.messages)
        kms.let_go()
        assert read_response(first).status == read_response(second).status == 200


def test_a_call_ends_by_its_deadline_even_if_it_does_not(kms: Kms) -> None:
    kms.hold()
    with served(kms, most=1, deadline=0.05) as endpoint:
        responses = [endpoint.exchange(request()) for _ in range(2)]  # the second never starts
        kms.let_go()
    for response in responses:
        assert (response.status, response.error) == (503, "ServiceUnavailable")
        assert "no response from KMS within 0.05 s" in response.message


def test_a_waiting_call_is_withdrawn_when_its_client_goes(kms: Kms) -> None:
    kms.hold()
    with served(kms, most=1) as endpoint, endpoint.connect() as first:
        first.sendall(request())
        assert kms.entered.acquire(timeout=TEST_TIMEOUT)
        with endpoint.connect() as second:
            second.sendall(request(b'{"NumberOfBytes":9}'))
            endpoint.until(lambda: endpoint.calls.busy == 2)
            reset(second)
        endpoint.until(lambda: endpoint.calls.busy == 1)
        kms.let_go()
        assert read_response(first).status == 200
    assert kms.calls == [("GenerateRandom", {"NumberOfBytes": 4})]


def test_one_client_too_many_is_refused_and_the_others_served(kms: Kms) -> None:
    with served(kms, limits=Limits(clients=1)) as endpoint, endpoint.connect() as first:
        first.sendall(request())
        assert read_response(first).status == 200
        with endpoint.connect() as second:
            assert read_response(second).error == "ServiceUnavailable"
            assert read_all(second) == b""
        first.sendall(request())
        assert read_response(first).status == 200


@pytest.mark.usefixtures("quick_sweep")
def test_a_client_that_sends_too_slowly_is_told_so(kms: Kms) -> None:
    with (
        served(kms, limits=Limits(request_timeout=0.05)) as endpoint,
        endpoint.connect() as client,
    ):
        client.sendall(HEAD)
        response = read_response(client)
        assert (response.status, response.error) == (408, "RequestTimeoutException")
        assert read_all(client) == b""


@pytest.mark.usefixtures("quick_sweep")
@pytest.mark.parametrize("data", [b"", b"\r\n" * 9], ids=["nothing", "line ends"])
def test_a_client_that_says_nothing_is_dropped(kms: Kms, data: bytes) -> None:
    with served(kms, limits=Limits(idle_timeout=0.05)) as endpoint, endpoint.connect() as client:
        client.sendall(data)
        assert read_all(client) == b""


def reset(client: socket.socket) -> None:
    """Close a connection such that the other end notices."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def flood(client: socket.socket, data: bytes) -> None:
    while True:
        client.sendall(data)


@pytest.mark.usefixtures("quick_sweep")
def test_a_refused_client_that_goes_on_sending_is_cut(kms: Kms) -> None:
    with (
        served(kms, limits=Limits(linger_timeout=0.05)) as endpoint,
        endpoint.connect() as client,
        pytest.raises(OSError),  # noqa: PT011 (a reset or a broken pipe)
    ):
        flood(client, b"\0" * 1000)


@pytest.mark.usefixtures("quick_sweep")
def test_a_client_that_does_not_read_is_cut_and_holds_little(kms: Kms) -> None:
    limits = Limits(write_timeout=0.2)
    ask = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100
    with (
        served(kms, limits=limits) as endpoint,
        endpoint.connect(receive_buffer=4096) as client,
        pytest.raises(OSError),  # noqa: PT011 (a reset or a broken pipe)
    ):
        flood(client, ask)


# Clients that send ahead, end early, or speak more than HTTP/1.1


@pytest.mark.parametrize("upgrade", [b"", UPGRADE])
@pytest.mark.parametrize("head_of_body", [b"Content-Length: 0%d\r\n\r\n", b"%x\r\n"])
def test_upgrades_are_ignored_and_chunks_put_together(
    kms: Kms, upgrade: bytes, head_of_body: bytes
) -> None:
    body = head_of_body % len(PLAIN) + PLAIN
    if head_of_body.startswith(b"%x"):
        body = b"Transfer-Encoding: chunked\r\n\r\n" + body + b"\r\n0\r\n\r\n"
    with served(kms) as endpoint:
        received = endpoint.converse(HEAD + upgrade + body)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.endswith(b'{"Plaintext":"AAAAAA=="}')


@pytest.mark.parametrize("count", [1, 3, 40])
def test_a_client_that_half_closes_gets_its_responses(kms: Kms, count: int) -> None:
    with served(kms) as endpoint:
        received = endpoint.converse(request() * count)
    assert received.count(b"HTTP/1.1 200 ") == len(kms.calls) == count


def test_a_client_that_half_closes_during_its_call_gets_the_response(kms: Kms) -> None:
    kms.hold()
    with served(kms) as endpoint, endpoint.connect() as client:
        client.sendall(request())
        assert kms.entered.acquire(timeout=TEST_TIMEOUT)
        client.shutdown(socket.SHUT_WR)
        kms.let_go()
        assert read_response(client).status == 200
        assert read_all(client) == b""


@pytest.mark.usefixtures("quick_sweep")
def test_a_call_that_waits_is_withdrawn_when_its_half_closed_client_is_lost(kms: Kms) -> None:
    kms.hold()
    with served(kms, most=1) as endpoint, endpoint.connect() as first:
        first.sendall(request())
        assert kms.entered.acquire(timeout=TEST_TIMEOUT)
        with endpoint.connect() as second:
            second.sendall(request(b'{"NumberOfBytes":9}'))
            second.shutdown(socket.SHUT_WR)
            endpoint.until(lambda: endpoint.calls.busy == 2)
            reset(second)
        endpoint.until(lambda: endpoint.calls.busy == 1)
        kms.let_go()
        assert read_response(first).status == 200
    assert len(kms.calls) == 1


def test_connect_gets_one_response(kms: Kms) -> None:
    with served(kms) as endpoint:
        received = endpoint.converse(REFUSED["CONNECT"] + request())
    assert received.count(b"HTTP/1.1 ") == 1
    assert received.startswith(b"HTTP/1.1 405 ")


@pytest.mark.usefixtures("quick_sweep")
def test_what_a_lost_client_has_sent_ahead_is_dropped(kms: Kms) -> None:
    kms.hold()
    with served(kms, most=1) as endpoint:
        with endpoint.connect() as client:
            client.sendall(request() * 100)
            assert kms.entered.acquire(timeout=TEST_TIMEOUT)
            reset(client)
        endpoint.until(lambda: not endpoint.endpoint.connections)
        kms.let_go()
        assert endpoint.exchange(request(b'{"NumberOfBytes":9}')).status == 200
    assert [parameters["NumberOfBytes"] for _, parameters in kms.calls] == [4, 9]


@pytest.mark.filterwarnings("error")
def test_many_lost_clients_that_have_sent_ahead_leave_no_line(
    kms: Kms, caplog: pytest.LogCaptureFixture
) -> None:
    with served(kms) as endpoint:
        for _ in range(20):
            with endpoint.connect() as client:
                client.sendall(get(b"/") * 500)
                reset(client)
        assert endpoint.exchange(get(b"/healthz")).status == 200
        endpoint.until(lambda: not endpoint.endpoint.connections)
    assert caplog.messages == []


class Greedy:
    """Stands for a connection that always has one more step to take."""

    def __init__(self, server_: server.EndpointServer) -> None:
        self.scheduled = False
        self.steps = 0
        self._server = server_

    def advance(self) -> None:
        self.steps += 1
        self._server.schedule(self)  # type: ignore[arg-type] # a double


def test_a_turn_of_the_loop_is_bounded_and_shared(kms: Kms) -> None:
    clients: list[Greedy] = []

    async def begin() -> None:
        clients.extend(Greedy(endpoint.endpoint) for _ in range(10))
        for client in clients:
            endpoint.endpoint.schedule(client)  # type: ignore[arg-type] # as above

    async def one_turn() -> int:
        before = sum(client.steps for client in clients)
        endpoint.endpoint._take_turns()
        return sum(client.steps for client in clients) - before

    with served(kms) as endpoint:
        endpoint.run(begin())
        endpoint.until(lambda: min(client.steps for client in clients) >= 3)
        assert endpoint.run(one_turn()) == server.STEPS_PER_TURN
        steps = [client.steps for client in clients]
    assert max(steps) - min(steps) <= 1


def test_a_bug_in_a_turn_does_not_stop_the_others(
    kms: Kms, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("s3cret")

    with served(kms) as endpoint, endpoint.connect() as client:
        with monkeypatch.context() as patch:
            patch.setattr(endpoint.endpoint, "_health", lambda: fail(None))
            client.sendall(request() + get(b"/healthz"))
            received = read_all(client)
        assert received.count(b"HTTP/1.1 ") == 1
        assert endpoint.exchange(request()).status == 200
    assert "internal error: RuntimeError" in caplog.messages
    assert "s3cret" not in caplog.text


def test_clients_that_are_rejected_hold_few_descriptors_and_leave_one_line(
    kms: Kms, caplog: pytest.LogCaptureFixture
) -> None:
    with served(kms, limits=Limits(clients=1)) as endpoint, endpoint.connect() as first:
        endpoint.until(lambda: len(endpoint.endpoint.connections) == 1)
        before = open_descriptors()
        clients = [endpoint.connect() for _ in range(50)]
        for client in clients:
            assert read_response(client).status == 503
        assert open_descriptors() <= before + 50 + server.REJECTED_HELD
        for client in clients:
            client.close()
        first.sendall(get(b"/healthz"))
        facts = json.loads(read_response(first).body)
        assert (facts["clients"], facts["clients_rejected"]) == (1, 50)
    lines = [line for line in caplog.messages if "rejected a client" in line]
    assert lines == ["rejected a client: limit of 1 connections reached (--max-clients)"]


def test_a_flood_of_rejections_pauses_accepting(kms: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_REJECTIONS_PER_SWEEP", 2)
    monkeypatch.setattr(server, "SWEEP", 0.02)
    with served(kms, limits=Limits(clients=1)) as endpoint, endpoint.connect() as first:
        endpoint.until(lambda: len(endpoint.endpoint.connections) == 1)
        with contextlib.ExitStack() as stack:
            for _ in range(10):
                client = stack.enter_context(endpoint.connect())
                assert read_response(client).status == 503  # later, but it comes
        first.sendall(request())
        assert read_response(first).status == 200


def test_failures_to_accept_are_one_line_until_it_succeeds(
    kms: Kms, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        for _ in range(3):
            endpoint.endpoint.accept_failed(OSError(errno.EMFILE, "Too many open files"))

    line = "cannot accept clients: Too many open files; retrying every second"
    with served(kms) as endpoint:
        endpoint.run(fail())
        assert caplog.messages == [line]
        assert endpoint.exchange(request()).status == 200
        endpoint.run(fail())
        assert caplog.messages == [line, line]


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# Regions


def signed_for(region: str, body: bytes = PLAIN) -> bytes:
    credential = b"Credential=AKID/20260101/%s/kms/aws4_request" % region.encode()
    return request(body, b"Authorization: AWS4-HMAC-SHA256 " + credential + b", Signature=0")


def test_the_region_of_the_signature_chooses(kms: Kms) -> None:
    other = Kms()
    with served(kms, regions={"us-east-1": kms, "eu-west-1": other}) as endpoint:
        for data in (request(), signed_for("us-east-1"), signed_for("eu-west-1")):
            assert endpoint.exchange(data).status == 200
        response = endpoint.exchange(signed_for("ap-south-1"))
    assert (len(kms.calls), len(other.calls)) == (2, 1)
    assert (response.status, response.error) == (400, "EnclaveRegionException")
    for region in ("ap-south-1", "us-east-1", "eu-west-1"):
        assert region in response.message


def test_the_pool_is_of_the_first_region(kms: Kms, source: Source) -> None:
    source.left.release(2)
    regions = {"us-east-1": kms, "eu-west-1": kms}
    with served(kms, regions=regions, fetch=source) as endpoint:
        assert endpoint.exchange(signed_for("eu-west-1")).status == 200
        assert len(kms.calls) == 1
        assert endpoint.exchange(signed_for("us-east-1")).status == 200
        assert endpoint.exchange(signed_for("nowhere-1")).error == "EnclaveRegionException"
        assert (len(kms.calls), endpoint.calls.counts.pooled) == (1, 1)


# Probes


def get(path: bytes) -> bytes:
    return b"GET %s HTTP/1.1\r\nHost: 127.0.0.1:8009\r\n\r\n" % path


def test_health_tells_what_became_of_calls(kms: Kms) -> None:
    with served(kms) as endpoint:
        endpoint.exchange(request())
        kms.error = KmsUnreachableError("gone")
        endpoint.exchange(request())
        response = endpoint.exchange(get(b"/healthz"))
    facts = json.loads(response.body)
    assert response.status == 200
    assert (facts["status"], facts["calls"], facts["failed"]) == ("ok", 2, 1)


@pytest.mark.parametrize(
    ("drift", "shown"), [(None, {}), (0.0, {"clock_drift_seconds": 0.0}),
                         (-12.34567, {"clock_drift_seconds": -12.346})],
)  # fmt: skip
def test_readiness_tells_the_drift_of_the_clock(
    kms: Kms, drift: float | None, shown: dict[str, float]
) -> None:
    with served(kms, probe=lambda: None, clock_drift=lambda: drift) as endpoint:
        response = endpoint.exchange(get(b"/readyz"))
    assert json.loads(response.body) == {"status": "ready", **shown}


def test_ready_is_asked_for_once_in_a_while(kms: Kms) -> None:
    probes: list[int] = []
    with served(kms, probe=lambda: probes.append(1)) as endpoint:
        for _ in range(5):
            response = endpoint.exchange(get(b"/readyz"))
            assert (response.status, json.loads(response.body)) == (200, {"status": "ready"})
    assert probes == [1]


def test_not_ready_says_why(kms: Kms) -> None:
    def probe() -> None:
        raise NsmUnavailableError("no /dev/nsm", hint="start it in an enclave")

    with served(kms, probe=probe) as endpoint:
        response = endpoint.exchange(get(b"/readyz"))
    assert response.status == 503
    assert json.loads(response.body) == {
        "status": "not ready",
        "error": "no /dev/nsm",
        "hint": "start it in an enclave",
    }


@pytest.mark.parametrize(
    ("type_", "status"), [("AccessDeniedException", 200), ("ExpiredTokenException", 503)]
)
def test_ready_does_not_need_the_permission_for_random_bytes(
    kms: Kms, type_: str, status: int
) -> None:
    def probe() -> None:
        raise KmsRefusedError(type_, "no", request_id=None, status=400)

    with served(kms, probe=probe) as endpoint:
        assert endpoint.exchange(get(b"/readyz")).status == status


def test_a_probe_that_hangs_is_not_waited_for_nor_started_twice(kms: Kms) -> None:
    started, go_on = [], threading.Event()

    def probe() -> None:
        started.append(1)
        go_on.wait(TEST_TIMEOUT)

    try:
        with served(kms, probe=probe, readiness={"patience": 0.05}) as endpoint:
            responses = [endpoint.exchange(get(b"/readyz")) for _ in range(2)]
            assert [response.status for response in responses] == [503, 503]
            assert started == [1]
            go_on.set()
            ready = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=TEST_TIMEOUT)
            with contextlib.closing(ready):
                status = 503
                while status != 200:
                    ready.request("GET", "/readyz")
                    with ready.getresponse() as response:
                        response.read()
                        status = response.status
    finally:
        go_on.set()


# The pool


class Source:
    """Numbered bytes, as many fetches as it is told."""

    def __init__(self, fetches: int) -> None:
        self.left = threading.Semaphore(fetches)
        self.stopped = False
        self._lock, self._given = threading.Lock(), 0

    def __call__(self, number_of_bytes: int) -> bytes:
        assert self.left.acquire(timeout=TEST_TIMEOUT)
        if self.stopped:
            raise KmsUnreachableError("gone")
        with self._lock:
            start, self._given = self._given, self._given + number_of_bytes // 4
        return b"".join(n.to_bytes(4) for n in range(start, start + number_of_bytes // 4))

    def stop(self) -> None:
        self.stopped = True
        self.left.release(10_000)


@pytest.fixture
def source() -> Iterator[Source]:
    made = Source(0)
    yield made
    made.stop()


def test_small_requests_come_from_the_pool_and_no_byte_twice(kms: Kms, source: Source) -> None:
    source.left.release(2)
    with served(kms, fetch=source) as endpoint, endpoint.connect() as client:
        seen = set()
        for _ in range(2 * 1024 // 4):
            client.sendall(request())
            seen.add(read_response(client).body)
        assert len(seen) == 512
        assert endpoint.calls.counts.pooled == 512
    assert kms.calls == []


def test_requests_of_an_empty_pool_wait_for_it_in_order(kms: Kms, source: Source) -> None:
    with (
        served(kms, fetch=source) as endpoint,
        endpoint.connect() as first,
        endpoint.connect() as second,
    ):
        first.sendall(request())
        endpoint.until(lambda: endpoint.calls.busy == 1)
        second.sendall(request())
        endpoint.until(lambda: endpoint.calls.busy == 2)
        source.left.release(1)
        assert json.loads(read_response(first).body) == {"Plaintext": "AAAAAA=="}
        assert json.loads(read_response(second).body) == {"Plaintext": "AAAAAQ=="}


def test_requests_of_an_empty_pool_get_the_error_of_its_refill(kms: Kms, source: Source) -> None:
    with served(kms, fetch=source) as endpoint, endpoint.connect() as client:
        client.sendall(request())
        endpoint.until(lambda: endpoint.calls.busy == 1)
        source.stop()
        response = read_response(client)
    assert response.error == "ServiceUnavailable"
    assert response.message.startswith("gone")


def test_requests_of_an_empty_pool_end_by_their_deadline(kms: Kms, source: Source) -> None:
    with served(kms, fetch=source, deadline=0.05) as endpoint:
        assert endpoint.exchange(request()).error == "ServiceUnavailable"
        assert endpoint.calls.busy == 0


def test_large_requests_go_to_kms(kms: Kms, source: Source) -> None:
    with served(kms, fetch=source) as endpoint:
        assert endpoint.exchange(request(b'{"NumberOfBytes":1024}')).status == 200
    assert len(kms.calls) == 1


# The end


def test_draining_ends_calls_and_idle_clients_and_takes_no_new_ones(kms: Kms) -> None:
    kms.hold()
    with (
        served(kms) as endpoint,
        endpoint.connect() as idle,
        endpoint.connect() as busy,
    ):
        busy.sendall(request() + request())
        assert kms.entered.acquire(timeout=TEST_TIMEOUT)
        endpoint.until(lambda: len(endpoint.endpoint.connections) == 2)
        drained = threading.Thread(
            target=endpoint.run, args=(endpoint.endpoint.drain(TEST_TIMEOUT),)
        )
        drained.start()
        assert read_all(idle) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", endpoint.port))
        kms.let_go()
        response = read_response(busy)
        assert (response.status, response.headers["connection"]) == (200, "close")
        assert read_all(busy) == b""  # the request sent ahead is not begun
        drained.join(TEST_TIMEOUT)
    assert len(kms.calls) == 1


def test_draining_has_an_end(kms: Kms) -> None:
    kms.hold()
    with served(kms) as endpoint, endpoint.connect() as client:
        client.sendall(request())
        assert kms.entered.acquire(timeout=TEST_TIMEOUT)
        endpoint.run(endpoint.endpoint.drain(0.05))
        kms.let_go()


def test_no_descriptor_is_left(kms: Kms) -> None:
    before = open_descriptors()
    with served(kms) as endpoint:
        for data in (request(), REFUSED["bare LF"], get(b"/readyz")):
            endpoint.exchange(data)
    assert open_descriptors() == before


@given(st.integers(0, 4_000_000_000))
def test_dates_are_http_dates(seconds: int) -> None:
    assert server.http_date(seconds) == email.utils.formatdate(seconds, usegmt=True)
