"""The pure parts of the KMS client: endpoints, signing, retries, answers."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.credentials import Credentials
from enclave.errors import (
    AgentError,
    ConfigurationError,
    CredentialsError,
    DecryptionError,
    KmsRefusedError,
    KmsResponseError,
    KmsUnreachableError,
)
from enclave.http.response import Response
from enclave.kms.client import read_response
from enclave.kms.endpoint import Endpoint, parse_endpoint
from enclave.kms.retry import is_worth_retrying, wait_before
from tests.signing import signed_headers

# Endpoints.


@pytest.mark.parametrize(
    ("url", "endpoint", "again"),
    [
        ("https://kms.us-east-1.amazonaws.com", Endpoint("kms.us-east-1.amazonaws.com", 443, "/"),
         "https://kms.us-east-1.amazonaws.com/"),
        ("https://127.0.0.1:8443/x", Endpoint("127.0.0.1", 8443, "/x"), "https://127.0.0.1:8443/x"),
        ("https://[::1]:8443", Endpoint("::1", 8443, "/"), "https://[::1]:8443/"),
    ],
)  # fmt: skip
def test_endpoints_are_read(url: str, endpoint: Endpoint, again: str) -> None:
    assert parse_endpoint(url) == endpoint
    assert endpoint.url == again


@given(st.text() | st.text().map(lambda rest: f"https://{rest}"))
def test_whatever_the_url(url: str) -> None:
    try:
        endpoint = parse_endpoint(url)
    except ConfigurationError:
        return
    assert endpoint.host
    assert endpoint.host.isascii()
    assert 0 <= endpoint.port <= 65535
    assert parse_endpoint(endpoint.url) == endpoint


# Signing, against a calculation of our own from AWS's description ("Create a signed AWS API
# request"): botocore's steps are used, so botocore cannot be the judge.


def test_the_signature_is_awss() -> None:
    at = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
    body = b'{"NumberOfBytes":32}'
    headers = signed_headers(
        url="https://kms.us-east-1.amazonaws.com/",
        headers={"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "TrentService.G"},
        digest=hashlib.sha256(body).hexdigest(),
        credentials=Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG", "session"),
        region="us-east-1",
        at=at,
    )
    canonical = "\n".join(
        [
            "POST",
            "/",
            "",
            "content-type:application/x-amz-json-1.1",
            "host:kms.us-east-1.amazonaws.com",
            "x-amz-date:20260203T040506Z",
            "x-amz-security-token:session",
            "x-amz-target:TrentService.G",
            "",
            "content-type;host;x-amz-date;x-amz-security-token;x-amz-target",
            hashlib.sha256(body).hexdigest(),
        ]
    )
    key = b"AWS4wJalrXUtnFEMI/K7MDENG"
    for part in ("20260203", "us-east-1", "kms", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    scope = "20260203/us-east-1/kms/aws4_request"
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"AWS4-HMAC-SHA256\n20260203T040506Z\n{scope}\n{hashed}"
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    assert headers["Authorization"] == (
        f"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{scope}, "
        "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target, "
        f"Signature={signature}"
    )
    assert headers["X-Amz-Security-Token"] == "session"


# Retries.


@pytest.mark.parametrize(
    ("error", "worth"),
    [
        (KmsRefusedError("ThrottlingException", "", request_id=None, status=400), True),
        (KmsRefusedError("KMSInternalException", "", request_id=None, status=500), True),
        (KmsRefusedError("HTTP status 502", "", request_id=None, status=502), True),
        (KmsRefusedError("AccessDeniedException", "", request_id=None, status=400), False),
        (KmsUnreachableError("gone"), True),
        (KmsUnreachableError("another's certificate", transient=False), False),
        (CredentialsError("the parent is silent", transient=True), True),
        (CredentialsError("there are none"), False),
        (KmsResponseError("forged"), False),
        (DecryptionError(), False),
    ],
)
def test_what_is_worth_retrying(error: AgentError, worth: bool) -> None:
    assert is_worth_retrying(error) is worth


def test_waits_grow_and_are_bounded() -> None:
    most = [wait_before(attempt, lambda _, high: high) for attempt in range(2, 12)]
    assert most == sorted(most)
    assert (most[0], most[-1]) == (0.1, 5.0)
    assert all(0 <= wait_before(n, random.uniform) <= 5 for n in range(2, 12))


# Responses.


def answered(status: int, body: bytes, **headers: str) -> Response:
    return Response(
        status, {name.replace("_", "-"): value for name, value in headers.items()}, body
    )


@pytest.mark.parametrize(
    ("answer", "type_", "message"),
    [
        (answered(400, b'{"__type":"NotFoundException","message":"m"}'), "NotFoundException", "m"),
        (answered(400, b'{"__type":"com.amazonaws.kms#X","Message":"M"}'), "X", "M"),
        (answered(400, b'{"__type":"X:http://internal/"}'), "X", ""),
        (answered(400, b"", x_amzn_errortype="X"), "X", ""),
        (answered(503, b"<html>busy</html>"), "HTTP status 503", ""),
        (answered(302, b"{}"), "HTTP status 302", ""),
        (answered(400, b"[]"), "HTTP status 400", ""),
        (answered(400, b"[" * 100_000), "HTTP status 400", ""),
    ],
)
def test_kms_errors_keep_kmss_own_words(answer: Response, type_: str, message: str) -> None:
    with pytest.raises(KmsRefusedError) as caught:
        read_response(answer)
    assert (caught.value.type, caught.value.kms_message) == (type_, message)
    assert caught.value.status == answer.status


def test_the_request_id_is_kept() -> None:
    with pytest.raises(KmsRefusedError, match="request id 42") as caught:
        read_response(answered(400, b'{"__type":"X"}', x_amzn_requestid="42"))
    assert caught.value.request_id == "42"


@pytest.mark.parametrize("body", [b"[]", b"null", b"7", b"\xff", b"{", b"[" * 100_000])
def test_a_good_answer_that_is_none(body: bytes) -> None:
    with pytest.raises(KmsResponseError):
        read_response(answered(200, body))


@given(st.integers(100, 599), st.binary() | st.text().map(lambda t: json.dumps(t).encode()))
def test_whatever_the_answer(status: int, body: bytes) -> None:
    try:
        assert isinstance(read_response(answered(status, body)).content, dict)
    except (KmsRefusedError, KmsResponseError):
        return
