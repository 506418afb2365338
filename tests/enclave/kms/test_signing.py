"""Signature Version 4: every signature is botocore's, and a signing key serves one day.

`test_parts` computes one signature from AWS's description, so that botocore is not the only judge.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.auth import SIGV4_TIMESTAMP, SigV4Auth
from botocore.awsrequest import AWSRequest
from hypothesis import given
from hypothesis import strategies as st

from enclave.credentials import Credentials
from enclave.kms import signing
from tests.signing import signed_headers

HOSTS = (
    "kms.us-east-1.amazonaws.com",
    "KMS.US-EAST-1.amazonaws.com",
    "vpce-0-a.kms.us-gov-west-1.vpce.amazonaws.com",
    "127.0.0.1",
    "[::1]",
    "[2001:DB8::1]",
    "xn--kms-0ra.example",
)
PORTS = ("", ":443", ":8443", ":80", ":0", ":65535")
SEGMENTS = ("", ".", "..", "...", "%2e%2e", "%41", "~", "é", "a:b", "@", "=", "a+b", "..a")
NAMES = (
    "Content-Type",
    "X-Amz-Target",
    "X-Zebra",
    "a-header",
    "Accept-Encoding",
    # Not signed.
    "User-Agent",
    "Expect",
    "TE",
    "Connection",
    "Traceparent",
    "X-Amzn-Trace-Id",
)

printable = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60)
values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
segments = st.sampled_from(SEGMENTS) | st.text("abz.-_~!$&'()*+,;=:@%", max_size=6)
paths = st.lists(segments, max_size=6).map(lambda parts: "".join(f"/{part}" for part in parts))
urls = st.builds(
    lambda host, port, path: f"https://{host}{port}{path}",
    st.sampled_from(HOSTS),
    st.sampled_from(PORTS),
    paths,
)
times = st.datetimes(datetime(2000, 1, 1), datetime(2099, 1, 1)).map(  # noqa: DTZ001 (see `map`)
    lambda at: at.replace(tzinfo=UTC)
)


@dataclass(frozen=True)
class BotocoreCredentials:
    access_key: str
    secret_key: str
    token: str | None


def by_botocore(
    *, url: str, headers: dict[str, str], body: bytes, credentials: Any, region: str, at: datetime
) -> dict[str, str]:
    """Sign with botocore's own steps, at a time of our choice."""
    timestamp = at.strftime(SIGV4_TIMESTAMP)
    to_send = {**headers, "X-Amz-Date": timestamp}
    if credentials.token:
        to_send["X-Amz-Security-Token"] = credentials.token
    request = AWSRequest("POST", url, headers=to_send, data=body)
    request.context["timestamp"] = timestamp
    signer = SigV4Auth(credentials, "kms", region)
    text = signer.string_to_sign(request, signer.canonical_request(request))
    names = signer.signed_headers(signer.headers_to_sign(request))
    to_send["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={signer.scope(request)}, "
        f"SignedHeaders={names}, Signature={signer.signature(text, request)}"
    )
    return to_send


@given(
    url=urls,
    headers=st.dictionaries(st.sampled_from(NAMES), values),
    body=st.binary(max_size=80),
    key_id=printable,
    secret=printable,
    token=st.none() | st.just("") | printable,
    region=st.sampled_from(["us-east-1", "cn-north-1", "eusc-de-east-1"]),
    at=times,
)
def test_every_signature_is_botocores(
    url: str,
    headers: dict[str, str],
    body: bytes,
    key_id: str,
    secret: str,
    token: str | None,
    region: str,
    at: datetime,
) -> None:
    request: dict[str, Any] = {
        "url": url,
        "headers": headers,
        "region": region,
        "at": at,
    }
    ours = signed_headers(
        **request,
        digest=hashlib.sha256(body).hexdigest(),
        credentials=Credentials(key_id, secret, token),
    )
    assert ours == by_botocore(
        **request, body=body, credentials=BotocoreCredentials(key_id, secret, token)
    )


@pytest.mark.parametrize(
    "path",
    ["", "/", "/a", "/a/b/", "/a/../b", "/a/b/../c", "/a/b/c/../d", "/a/b/c/../../d", "/../a",
     "/a/b/c/..", "/./a//b/.", "/a/b/../"],
)  # fmt: skip
def test_a_path_is_resolved_as_by_botocore(path: str) -> None:
    request: dict[str, Any] = {
        "url": f"https://kms.us-east-1.amazonaws.com{path}",
        "headers": {},
        "region": "us-east-1",
        "at": datetime(2026, 2, 3, 12, tzinfo=UTC),
    }
    ours = signed_headers(
        **request, digest=hashlib.sha256(b"").hexdigest(), credentials=Credentials("AKID", "secret")
    )
    assert ours == by_botocore(
        **request, body=b"", credentials=BotocoreCredentials("AKID", "secret", None)
    )


def test_a_signing_key_serves_one_day_and_old_secrets_do_not_accumulate() -> None:
    at = datetime(2026, 2, 3, 12, tzinfo=UTC)
    signing._signing_key.cache_clear()

    def sign(secret: str, when: datetime) -> None:
        signed_headers(
            url="https://kms.us-east-1.amazonaws.com/",
            headers={},
            digest=hashlib.sha256(b"").hexdigest(),
            credentials=Credentials("AKIDEXAMPLE", secret),
            region="us-east-1",
            at=when,
        )

    for minute in range(10):
        sign("secret", at + timedelta(minutes=minute))
    assert signing._signing_key.cache_info().misses == 1
    sign("secret", at + timedelta(days=1))
    assert signing._signing_key.cache_info().misses == 2
    for number in range(100):
        sign(f"secret {number}", at)
    assert signing._signing_key.cache_info().currsize <= 4
