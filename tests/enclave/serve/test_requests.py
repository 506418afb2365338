"""Requests over real sockets: KMS's responses, its errors, and what is not HTTP."""

from __future__ import annotations

import contextlib
import email.utils
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enclave.errors import KmsRefusedError, KmsUnreachableError
from enclave.serve.http_server import http_date
from tests.enclave.serve.serving import HEAD, PLAIN, Kms, read_response, request, served, signed_for
from tests.enclave.serve.test_http import REFUSED, TYPES
from tests.sockets import read_all

if TYPE_CHECKING:
    from collections.abc import Iterator


LAST = b"Connection: close"


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


@pytest.mark.parametrize(
    ("path", "status"),
    [(b"/healthz", 200), (b"/readyz?full", 200), (b"/", 404)],
)
def test_a_response_to_head_is_that_to_get_without_its_body(
    kms: Kms, path: bytes, status: int
) -> None:
    """As `wget --spider` asks (RFC 9110, sections 9.3.2 and 8.6)."""
    with served(kms) as endpoint:
        received = endpoint.converse(
            b"HEAD %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n" % (path, LAST)
        )
    assert received.startswith(b"HTTP/1.1 %d " % status)
    assert received.endswith(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)\r\n", received)
    assert length
    assert int(length[1]) > 10


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


@given(st.integers(0, 4_000_000_000))
def test_dates_are_http_dates(seconds: int) -> None:
    assert http_date(seconds) == email.utils.formatdate(seconds, usegmt=True)


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        (b"http://127.0.0.1:8009/healthz", b"kms.us-east-1.amazonaws.com", 200),
        (b"HTTP://LocalHost/healthz", b"127.0.0.1", 200),
        (b"http://kms.us-east-1.amazonaws.com/healthz", b"127.0.0.1", 400),
        (b"http://user@127.0.0.1/healthz", b"127.0.0.1", 400),
        (b"http:///healthz", b"127.0.0.1", 400),
        (b"http://127.0.0.1?/healthz", b"127.0.0.1", 404),
        (b"http://127.0.0.1", b"127.0.0.1", 404),
    ],
)
def test_a_target_in_absolute_form(kms: Kms, target: bytes, host: bytes, status: int) -> None:
    """Its host counts, not that of Host (RFC 9112, section 3.2.2)."""
    with served(kms) as endpoint:
        got = endpoint.exchange(b"GET %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (target, host))
        called = endpoint.exchange(request().replace(b"POST / ", b"POST http://127.0.0.1:8009 ", 1))
    assert (got.status, called.status) == (status, 200)
