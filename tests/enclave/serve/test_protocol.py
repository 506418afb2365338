"""What a request asks for, and how answers and errors are worded. No I/O here."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.errors import (
    AgentError,
    ConfigurationError,
    CredentialsError,
    DecodingError,
    DecryptionError,
    KmsRefusedError,
    KmsResponseError,
    KmsUnreachableError,
    NsmUnavailableError,
    TpmBusyError,
)
from enclave.serve import protocol
from enclave.serve.protocol import Call, EndpointError, Request

RETRIED = {500, 502, 503, 504}
"""The statuses after which AWS SDKs try again (AWS SDKs Reference Guide, "Retry behavior")."""


def kms_request(body: bytes = b"{}", target: str = "TrentService.GenerateRandom") -> Request:
    return Request("POST", "/", {"host": "127.0.0.1", "x-amz-target": target}, body)


def test_a_call_is_read() -> None:
    request = kms_request(
        b'{"KeyId": "k", "EncryptionContext": {"a": "b"}}', "TrentService.Decrypt"
    )
    assert protocol.read_call(request) == Call(
        "Decrypt", {"KeyId": "k", "EncryptionContext": {"a": "b"}}
    )


@pytest.mark.parametrize(
    "request_",
    [
        Request("GET", "/", {"x-amz-target": "TrentService.GenerateRandom"}, b"{}"),
        Request("HEAD", "/", {"x-amz-target": "TrentService.GenerateRandom"}, b"{}"),
        Request("POST", "/x", {"x-amz-target": "TrentService.GenerateRandom"}, b"{}"),
        Request("POST", "/healthz", {}, b"{}"),
        Request("POST", "http://127.0.0.1/", {"x-amz-target": "TrentService.Decrypt"}, b"{}"),
        Request("POST", "/", {}, b"{}"),
        kms_request(target=""),
        kms_request(target="DynamoDB_20120810.GetItem"),
        kms_request(target="TrentService."),
        kms_request(target="TrentService.Generate Random"),
        kms_request(target="TrentService.Decrypt\r\nX: y"),
        kms_request(target="TrentService." + "A" * 65),
        kms_request(target="trentservice.Decrypt"),
    ],
    ids=str,
)
def test_other_requests_are_unknown_operations(request_: Request) -> None:
    with pytest.raises(EndpointError) as e:
        protocol.read_call(request_)
    assert (e.value.type, e.value.status) == ("UnknownOperationException", 404)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"{} {}",
        b"\xff{}",
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b'{"NumberOfBytes": NaN}',
        b'{"NumberOfBytes": -Infinity}',
        b'{"a": ' * 100_000,
        b'{"NumberOfBytes": %s}' % (b"9" * 5000),
    ],
    ids=lambda body: repr(body[:20]),
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(EndpointError) as e:
        protocol.read_call(kms_request(body))
    assert (e.value.type, e.value.status) == ("SerializationException", 400)


@given(st.binary() | st.text().map(str.encode))
def test_whatever_the_body_a_call_or_a_refusal_comes_of_it(body: bytes) -> None:
    try:
        call = protocol.read_call(kms_request(body))
    except EndpointError:
        return
    assert isinstance(call.parameters, dict)


def test_a_path_of_the_endpoint_url_is_named() -> None:
    request = Request("POST", "/x/\0", {"x-amz-target": "TrentService.Decrypt"}, b"{}")
    with pytest.raises(EndpointError, match=r"at the path /, not at '/x/\\x00'") as e:
        protocol.read_call(request)
    assert "AWS_ENDPOINT_URL_KMS" in e.value.hint


def test_the_region_of_the_signature_is_kept() -> None:
    headers = {"x-amz-target": "TrentService.Decrypt"}
    request = Request("POST", "/", headers, b"{}", region="eu-west-1")
    assert protocol.read_call(request).region == "eu-west-1"


def test_a_recipient_of_the_callers_is_left_alone() -> None:
    document = {"Recipient": {"AttestationDocument": "aa", "KeyEncryptionAlgorithm": "R"}}
    assert protocol.read_call(kms_request(json.dumps(document).encode())).parameters == document


def test_a_recipient_of_null_is_none_so_that_the_call_is_attested() -> None:
    call = protocol.read_call(kms_request(b'{"NumberOfBytes": 1, "Recipient": null}'))
    assert call.parameters == {"NumberOfBytes": 1}


@pytest.mark.parametrize("recipient", ["{}", '{"KeyEncryptionAlgorithm": "R"}', "[]", '"x"', "7"])
def test_half_a_recipient_is_refused_for_it_might_bring_the_secret_in_the_clear(
    recipient: str,
) -> None:
    with pytest.raises(EndpointError, match="no AttestationDocument") as e:
        protocol.read_call(kms_request(f'{{"Recipient": {recipient}}}'.encode()))
    assert e.value.type == "ValidationException"


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8009", "localhost:8009", "LocalHost", "[::1]:8009", "127.9.9.9"],
)
def test_loopback_hosts_are_accepted(host: str) -> None:
    protocol.check_host(host)


@pytest.mark.parametrize(
    "host",
    [None, "", "evil.example", "evil.example:8009", "127.0.0.1.evil.example", "10.0.0.1:8009",
     "localhost.evil.example", "[::2]", "[127.0.0.1", "127.0.0.1:x", "127.0.0.1, evil.example",
     "169.254.169.254", "1" * 1000, "\u0661\u0662\u0667.0.0.1"],
)  # fmt: skip
def test_other_hosts_are_refused(host: str | None) -> None:
    with pytest.raises(EndpointError, match="loopback") as e:
        protocol.check_host(host)
    assert e.value.type == "AccessDeniedException"


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"NumberOfBytes": 1}, 1),
        ({"NumberOfBytes": 256}, 256),
        ({"NumberOfBytes": 257}, None),
        ({"NumberOfBytes": 0}, None),
        ({"NumberOfBytes": True}, None),
        ({"NumberOfBytes": "8"}, None),
        ({"NumberOfBytes": 8.0}, None),
        ({}, None),
        ({"NumberOfBytes": 8, "CustomKeyStoreId": "cks-1"}, None),
        ({"NumberOfBytes": 8, "Recipient": {"AttestationDocument": "aa"}}, None),
    ],
)
def test_only_small_and_plain_requests_may_come_from_a_pool(
    parameters: dict[str, Any], expected: int | None
) -> None:
    assert protocol.pooled_bytes(Call("GenerateRandom", parameters), 256) == expected
    assert protocol.pooled_bytes(Call("GenerateDataKey", parameters), 256) is None


def test_a_secret_comes_out_as_kms_gives_it() -> None:
    response = protocol.call_response({"KeyId": "k", "Plaintext": b"\0secret"}, "r-1")
    assert json.loads(response.body) == {
        "KeyId": "k",
        "Plaintext": base64.b64encode(b"\0secret").decode(),
    }
    assert (response.status, response.request_id) == (200, "r-1")
    assert "c2Vjc" not in repr(response)
    assert (
        protocol.random_response(b"\0secret", "r").body
        == protocol.call_response({"Plaintext": b"\0secret"}, "r").body
    )


def test_an_error_of_kms_comes_through_as_it_is() -> None:
    error = KmsRefusedError(
        "NotFoundException", "no such key", request_id="kms-1", status=400, hint="ours"
    )
    response = protocol.error_response(error, "ours")
    assert json.loads(response.body) == {"__type": "NotFoundException", "message": "no such key"}
    assert (response.status, response.request_id) == (400, "kms-1")


def test_kms_spells_the_message_of_a_denial_with_a_capital() -> None:
    error = KmsRefusedError("AccessDeniedException", "no", request_id="kms-1", status=400)
    assert json.loads(protocol.error_response(error, "ours").body) == {
        "__type": "AccessDeniedException",
        "Message": "no",
    }


@pytest.mark.parametrize("request_id", [None, "", "a\r\nSet-Cookie: x", "\u00e9", "a" * 129])
def test_a_request_id_that_is_no_header_value_is_replaced(request_id: str | None) -> None:
    error = KmsRefusedError("NotFoundException", "", request_id=request_id, status=400)
    assert protocol.error_response(error, "ours").request_id == "ours"


@pytest.mark.parametrize("status", [502, 503, 504])
def test_an_error_of_what_stands_before_kms_is_tried_again(status: int) -> None:
    error = KmsRefusedError(f"HTTP status {status}", "", request_id=None, status=status)
    response = protocol.error_response(error, "ours")
    assert response.status in RETRIED
    assert json.loads(response.body)["__type"] == "ServiceUnavailable"


@pytest.mark.parametrize(
    ("error", "type_", "retried"),
    [
        (KmsUnreachableError("x"), "ServiceUnavailable", True),
        (KmsUnreachableError("x", transient=False), "EnclaveUntrustedPeerException", False),
        (NsmUnavailableError("x"), "EnclaveAttestationException", False),
        (TpmBusyError("x"), "EnclaveAttestationException", False),
        (CredentialsError("x"), "EnclaveCredentialsException", False),
        (KmsResponseError("x"), "EnclaveUntrustedResponseException", False),
        (DecodingError("CMS", "x"), "EnclaveUntrustedResponseException", False),
        (DecryptionError(), "EnclaveUntrustedResponseException", False),
        (ConfigurationError("x"), "ValidationException", False),
        (EndpointError("ThrottlingException", "x"), "ThrottlingException", False),
        (AgentError("x"), "InternalFailure", True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_errors_of_ours_are_tried_again_where_that_may_help(
    error: AgentError, type_: str, retried: bool
) -> None:
    error.hint = "do this"
    response = protocol.error_response(error, "ours")
    fields = json.loads(response.body)
    assert fields["__type"] == type_
    assert fields["message"].endswith("(do this)")
    assert (response.status in RETRIED) == retried
    assert response.request_id == "ours"


def test_request_ids_look_like_those_of_kms_and_differ() -> None:
    make = protocol.request_ids(bytes(range(10)))
    assert [make(), make()] == [
        "00010203-0405-0607-0809-000000000001",
        "00010203-0405-0607-0809-000000000002",
    ]


def test_a_response_on_the_wire() -> None:
    response = protocol.random_response(b"abc", "r-1")
    assert protocol.http_bytes(response, date="Thu, 01 Jan 1970 00:00:00 GMT", close=True) == (
        b"HTTP/1.1 200 OK\r\n"
        b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
        b"Content-Type: application/x-amz-json-1.1\r\n"
        b"Content-Length: 20\r\n"
        b"Cache-Control: no-cache, no-store\r\n"
        b"x-amzn-RequestId: r-1\r\n"
        b"Connection: close\r\n\r\n"
        b'{"Plaintext":"YWJj"}'
    )
