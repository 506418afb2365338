"""Signature checks of the simulated KMS."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_simulator.kms.messages import KmsError, Request
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS, Credentials, authenticate
from tests.enclave_simulator.kms.kms_client import signed

LASTING = Credentials("AKIASIMULATED0000000", "secret")
TEMPORARY = Credentials("ASIASIMULATED1111111", "another secret", "token/with+signs==")
KNOWN = {c.access_key_id: c for c in (SIMULATED_CREDENTIALS, LASTING, TEMPORARY)}


def verify(
    request: Request, *, region: str | None = None, now: datetime | None = None
) -> Credentials:
    return authenticate(request, KNOWN, region, now or datetime.now(UTC)).credentials


def with_headers(request: Request, **headers: str) -> Request:
    changed = {name.replace("_", "-"): value for name, value in headers.items()}
    return dataclasses.replace(request, headers={**request.headers, **changed})


def refusal(
    request: Request, *, region: str | None = None, now: datetime | None = None
) -> KmsError:
    with pytest.raises(KmsError) as refused:
        verify(request, region=region, now=now)
    assert refused.value.status == 400
    return refused.value


@pytest.mark.parametrize("credentials", KNOWN.values(), ids=["simulated", "lasting", "temporary"])
def test_botocores_signatures_are_accepted(credentials: Credentials) -> None:
    request = signed("GenerateRandom", {"NumberOfBytes": 1}, credentials=credentials)
    assert verify(request, region="eu-west-1") is credentials


def test_an_unsigned_request() -> None:
    request = signed("GenerateRandom", {})
    request.headers.pop("authorization")
    error = refusal(request)
    assert (error.type, error.message) == (
        "MissingAuthenticationTokenException",
        "Missing Authentication Token",
    )
    assert refusal(with_headers(request, authorization="Basic QQ==")).type == error.type


def test_an_unknown_key() -> None:
    other = Credentials("AKIAUNKNOWN000000000", SIMULATED_CREDENTIALS.secret_access_key)
    error = refusal(signed("GenerateRandom", {}, credentials=other))
    assert (error.type, error.message) == (
        "UnrecognizedClientException",
        "The security token included in the request is invalid.",
    )


@pytest.mark.parametrize("token", [None, "another"])
def test_a_wrong_session_token(token: str | None) -> None:
    wrong = dataclasses.replace(TEMPORARY, session_token=token)
    error = refusal(signed("GenerateRandom", {}, credentials=wrong))
    assert error.type == "UnrecognizedClientException"


def test_an_unexpected_session_token() -> None:
    surplus = dataclasses.replace(LASTING, session_token="token")
    error = refusal(signed("GenerateRandom", {}, credentials=surplus))
    assert error.type == "UnrecognizedClientException"


@pytest.mark.parametrize("part", ["secret", "body", "target", "host"])
def test_a_signature_over_something_else(part: str) -> None:
    request = signed("GenerateRandom", {"NumberOfBytes": 1})
    match part:
        case "secret":
            wrong = dataclasses.replace(SIMULATED_CREDENTIALS, secret_access_key="wrong")
            request = signed("GenerateRandom", {"NumberOfBytes": 1}, credentials=wrong)
        case "body":
            request = dataclasses.replace(request, body=request.body + b" ")
        case "target":
            request = with_headers(request, x_amz_target="TrentService.Decrypt")
        case "host":
            request = with_headers(request, host="kms.us-east-1.amazonaws.com")
    error = refusal(request)
    assert error.type == "InvalidSignatureException"
    assert error.message is not None
    assert error.message.startswith("The request signature we calculated does not match")


@pytest.mark.parametrize(
    ("minutes", "text"), [(6, "Signature expired: "), (-6, "Signature not yet current: ")]
)
def test_the_clocks_differ_by_more_than_five_minutes(minutes: int, text: str) -> None:
    request = signed("GenerateRandom", {})
    now = datetime.now(UTC) + timedelta(minutes=minutes)
    error = refusal(request, now=now)
    assert error.type == "InvalidSignatureException"
    assert error.message is not None
    assert error.message.startswith(text + request.headers["x-amz-date"])
    assert error.message.endswith(" 5 min.)")
    assert verify(request, now=now - timedelta(minutes=minutes * 2 / 3)) is SIMULATED_CREDENTIALS


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("AWS4-HMAC-SHA256 ", "requires 'Credential' parameter. Authorization header requires"),
        ("AWS4-HMAC-SHA256 Credential=a/b/c/d/e, Signature=x", "requires 'SignedHeaders' param"),
        ("AWS4-HMAC-SHA256 Credential", "'Credential' not a valid key=value pair (missing equal-"),
        (
            "AWS4-HMAC-SHA512 Credential=a/b/c/d/e, Signature=x, SignedHeaders=host",
            "Unsupported AWS 'algorithm': 'AWS4-HMAC-SHA512'",
        ),
        (
            "AWS4-HMAC-SHA256 Credential=a/b/c/d, Signature=x, SignedHeaders=host",
            "Credential must have exactly 5 slash-delimited elements",
        ),
    ],
)
def test_incomplete_signatures(header: str, text: str) -> None:
    error = refusal(with_headers(signed("GenerateRandom", {}), authorization=header))
    assert error.type == "IncompleteSignatureException"
    assert error.message is not None
    assert text in error.message


def test_dates() -> None:
    request = signed("GenerateRandom", {})
    error = refusal(with_headers(request, x_amz_date="yesterday"))
    assert error.type == "IncompleteSignatureException"
    assert error.message is not None
    assert "Got 'yesterday'" in error.message
    request.headers.pop("x-amz-date")
    assert "'X-Amz-Date'" in str(refusal(request))


def test_the_host_must_be_signed() -> None:
    request = signed("GenerateRandom", {})
    header = request.headers["authorization"].replace(";host;", ";")
    error = refusal(with_headers(request, authorization=header))
    assert error.type == "InvalidSignatureException"
    assert error.message is not None
    assert error.message.startswith("'Host'")


def test_every_part_of_the_scope_is_checked() -> None:
    request = signed("GenerateRandom", {}, service="s3", region="us-east-1")
    error = refusal(request, region="eu-west-1")
    assert error.type == "InvalidSignatureException"
    assert error.message == (
        "Credential should be scoped to a valid Region, not 'us-east-1'. "
        "Credential should be scoped to correct service: 'kms'."
    )
    day = request.headers["x-amz-date"][:8]
    scope = request.headers["authorization"].replace(f"/{day}/", "/20200101/")
    assert "'20200101' != " in str(refusal(with_headers(request, authorization=scope)))


def test_secrets_stay_out_of_reprs_and_errors() -> None:
    assert TEMPORARY.secret_access_key not in repr(TEMPORARY)
    assert str(TEMPORARY.session_token) not in repr(TEMPORARY)
    request = dataclasses.replace(signed("GenerateRandom", {}), body=b"")
    assert SIMULATED_CREDENTIALS.secret_access_key not in repr(refusal(request))


@given(st.text(), st.text(), st.text())
def test_whatever_the_headers_only_kms_errors_are_raised(rest: str, date: str, token: str) -> None:
    request = with_headers(
        signed("GenerateRandom", {}),
        authorization="AWS4-HMAC-SHA256 " + rest,
        x_amz_date=date,
        x_amz_security_token=token,
    )
    with pytest.raises(KmsError):
        verify(request)
