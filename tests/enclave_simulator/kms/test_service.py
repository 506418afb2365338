"""Operations of the simulated KMS."""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_simulator.authority import Authority
from enclave_simulator.kms.regions import MAX_REGIONS
from enclave_simulator.kms.service import KmsService
from enclave_simulator.nsm import SimulatedNsm
from tests.enclave_simulator.documents import attest, rsa_key, spki
from tests.enclave_simulator.kms.kms_client import ask, openssl_decrypt, recipient, signed

if TYPE_CHECKING:
    from pathlib import Path

AUTHORITY = Authority.generate()
NSM = SimulatedNsm(AUTHORITY)


@pytest.fixture
def service() -> KmsService:
    return KmsService(
        AUTHORITY.root_pem,
        key_stores={
            "cks-connected": "CONNECTED",
            "cks-disconnected": "DISCONNECTED",
            "cks-external": "EXTERNAL",
        },
    )


@pytest.fixture(scope="module")
def document() -> bytes:
    return attest(NSM, spki(rsa_key()))


def generate_random(service: KmsService, **parameters: Any) -> tuple[int, dict[str, Any]]:
    return ask(service, signed("GenerateRandom", parameters))


# GenerateRandom


@pytest.mark.parametrize("count", [1, 32, 1024])
def test_without_recipient_the_response_has_the_plaintext(service: KmsService, count: int) -> None:
    status, response = generate_random(service, NumberOfBytes=count)
    assert status == 200
    assert list(response) == ["Plaintext"]
    assert len(base64.b64decode(response["Plaintext"], validate=True)) == count


def test_random_bytes_are_of_the_given_source() -> None:
    service = KmsService(AUTHORITY.root_pem, random=lambda size: b"r" * size)
    _, response = generate_random(service, NumberOfBytes=5)
    assert base64.b64decode(response["Plaintext"]) == b"rrrrr"


def test_openssl_decrypts_ciphertext_for_recipient(document: bytes, tmp_path: Path) -> None:
    service = KmsService(AUTHORITY.root_pem, random=lambda size: b"r" * size)
    forms = set()
    for count in (1, 32, 1000, 1024):
        status, response = generate_random(
            service, NumberOfBytes=count, Recipient=recipient(document)
        )
        assert status == 200
        assert "Plaintext" not in response
        ciphertext = base64.b64decode(response["CiphertextForRecipient"])
        assert openssl_decrypt(ciphertext, tmp_path) == b"r" * count
        forms.add(ciphertext[431])
    assert forms == {0xA0, 0x80}, "both forms of the encrypted content come in turn"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "NumberOfBytes is required."),
        (
            {"NumberOfBytes": 2000},
            (
                "1 validation error detected: Value '2000' at 'numberOfBytes' failed to satisfy "
                "constraint: Member must have value less than or equal to 1024"
            ),
        ),
        (
            {"NumberOfBytes": 0},
            (
                "1 validation error detected: Value '0' at 'numberOfBytes' failed to satisfy "
                "constraint: Member must have value greater than or equal to 1"
            ),
        ),
        (
            {"NumberOfBytes": 1, "Recipient": {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_1"}},
            (
                "1 validation error detected: Value 'RSAES_OAEP_SHA_1' at "
                "'recipient.keyEncryptionAlgorithm' failed to satisfy constraint: "
                "Member must satisfy enum value set: [RSAES_OAEP_SHA_256]"
            ),
        ),
        (
            {"NumberOfBytes": 1, "Recipient": {"AttestationDocument": ""}},
            (
                "1 validation error detected: Value at 'recipient.attestationDocument' "
                "failed to satisfy constraint: Member must have length greater than or equal to 1"
            ),
        ),
        (
            {"NumberOfBytes": 1025, "CustomKeyStoreId": ""},
            (
                "2 validation errors detected: Value '1025' at 'numberOfBytes' failed to satisfy "
                "constraint: Member must have value less than or equal to 1024; Value '' at "
                "'customKeyStoreId' failed to satisfy constraint: "
                "Member must have length greater than or equal to 1"
            ),
        ),
        (
            {"NumberOfBytes": 1, "Recipient": {}},
            "Recipient needs both KeyEncryptionAlgorithm and AttestationDocument.",
        ),
    ],
)
def test_wrong_values(service: KmsService, parameters: dict[str, Any], message: str) -> None:
    status, response = ask(service, signed("GenerateRandom", parameters))
    assert (status, response) == (400, {"__type": "ValidationException", "message": message})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", None),
        (b"{", None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
        (b"[]", "Start of list found where not expected"),
        (b'"x"', "STRING_VALUE can not be converted to Structure"),
        (b'{"NumberOfBytes": "1"}', "STRING_VALUE can not be converted to Integer"),
        (b'{"NumberOfBytes": true}', "TRUE_VALUE can not be converted to Integer"),
        (b'{"NumberOfBytes": 1.5}', "DECIMAL_VALUE can not be converted to Integer"),
        (b'{"NumberOfBytes": {}}', "Start of structure or map found where not expected."),
        (b'{"Recipient": {"AttestationDocument": "?"}}', "Invalid base64 in a blob"),
    ],
)
def test_wrong_types(service: KmsService, body: bytes, message: str | None) -> None:
    status, response = ask(service, signed("GenerateRandom", body))
    assert status == 400
    assert response.pop("__type") == "SerializationException"
    assert response == ({"message": message} if message else {})


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("cks-absent", "CustomKeyStoreNotFoundException"),
        ("cks-disconnected", "CustomKeyStoreInvalidStateException"),
        ("cks-external", "UnsupportedOperationException"),
    ],
)
def test_custom_key_stores(service: KmsService, name: str, error: str) -> None:
    status, response = generate_random(service, NumberOfBytes=1, CustomKeyStoreId=name)
    assert (status, response["__type"]) == (400, error)
    assert generate_random(service, NumberOfBytes=1, CustomKeyStoreId="cks-connected")[0] == 200


def test_custom_key_store_that_does_not_exist_is_not_described(service: KmsService) -> None:
    for parameter in ("CustomKeyStoreId", "CustomKeyStoreName"):
        status, response = ask(
            service, signed("DescribeCustomKeyStores", {parameter: "cks-absent"})
        )
        assert (status, response["__type"]) == (400, "CustomKeyStoreNotFoundException")
        found = ask(service, signed("DescribeCustomKeyStores", {parameter: "cks-connected"}))[1]
        assert [each["CustomKeyStoreId"] for each in found["CustomKeyStores"]] == ["cks-connected"]


# The front end


@pytest.mark.parametrize("target", ["TrentService.Nonsense", "Other.GenerateRandom", "", None])
def test_unknown_operations(service: KmsService, target: str | None) -> None:
    request = signed("GenerateRandom", {"NumberOfBytes": 1})
    if target is None:
        del request.headers["x-amz-target"]
    else:
        request.headers["x-amz-target"] = target
    assert ask(service, request) == (400, {"__type": "UnknownOperationException"})
    assert not service.requests


@pytest.mark.parametrize(
    "change", [{"method": "GET"}, {"headers": {}}, {"headers": {"content-type": "text/plain"}}]
)
def test_other_protocols_get_an_unknown_operation(
    service: KmsService, change: dict[str, Any]
) -> None:
    request = dataclasses.replace(signed("GenerateRandom", {}), **change)
    response = service.handle(request)
    assert (response.status, response.body) == (404, b"<UnknownOperationException/>\n")


def test_every_response_has_its_own_request_id(service: KmsService) -> None:
    request = signed("GenerateRandom", {"NumberOfBytes": 1})
    ids = {service.handle(request).request_id for _ in range(3)}
    assert len(ids) == 3


def test_unsigned_requests_are_rejected(service: KmsService) -> None:
    request = signed("GenerateRandom", {"NumberOfBytes": 1})
    del request.headers["authorization"]
    assert ask(service, request) == (
        400,
        {
            "__type": "MissingAuthenticationTokenException",
            "message": "Missing Authentication Token",
        },
    )


def test_only_known_callers_are_counted_and_meet_faults(service: KmsService) -> None:
    request = signed("GenerateRandom", {"NumberOfBytes": 1})
    service.faults.inject("throttle:1")
    unsigned = dataclasses.replace(
        request, headers={k: v for k, v in request.headers.items() if k != "authorization"}
    )
    assert ask(service, unsigned)[1]["__type"] == "MissingAuthenticationTokenException"
    assert not service.requests
    assert ask(service, request)[1]["__type"] == "ThrottlingException"
    assert ask(service, signed("GenerateRandom", {}))[1]["__type"] == "ValidationException"
    assert service.requests == {"GenerateRandom": 2}


@given(st.binary() | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("aR\ud800\0", max_size=9),
    lambda inner: st.dictionaries(
        st.sampled_from(["NumberOfBytes", "Recipient", "CustomKeyStoreId", "AttestationDocument"]),
        inner,
    ) | st.lists(inner, max_size=3),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_whatever_the_body_the_response_is_kms_shaped(body: bytes) -> None:
    service = KmsService(AUTHORITY.root_pem)
    status, response = ask(service, signed("GenerateRandom", body))
    if status == 200:
        assert list(response) == ["Plaintext"]
    else:
        assert status == 400
        assert response["__type"].endswith("Exception")
        assert {*response} <= {"__type", "message"}


# Regions


@pytest.mark.parametrize("region", ["nowhere", "us-east-1a", "", "US-EAST-1", "a" * 300])
def test_region_that_is_none_is_rejected(service: KmsService, region: str) -> None:
    status, document = ask(service, signed("ListKeys", {}, region=region))
    assert (status, document["__type"]) == (400, "InvalidSignatureException")


def test_regions_are_bounded(service: KmsService) -> None:
    for number in range(MAX_REGIONS):
        region = f"us-{'a' * (number + 1)}-1"
        assert ask(service, signed("ListKeys", {}, region=region))[0] == 200
    assert ask(service, signed("ListKeys", {}, region="us-east-1"))[0] == 400
    assert ask(service, signed("ListKeys", {}, region="us-a-1"))[0] == 200


def test_added_key_is_another_one_in_each_region(service: KmsService) -> None:
    key_id = service.add_key("alias/both")
    for region in ("us-east-1", "eu-west-1"):
        _, document = ask(service, signed("DescribeKey", {"KeyId": "alias/both"}, region=region))
        assert document["KeyMetadata"]["KeyId"] == key_id
        assert region in document["KeyMetadata"]["Arn"]
    parameters = {"KeyId": "alias/both", "Plaintext": "AAAA"}
    _, sealed = ask(service, signed("Encrypt", parameters, region="us-east-1"))
    blob = {"CiphertextBlob": sealed["CiphertextBlob"]}
    assert ask(service, signed("Decrypt", blob, region="us-east-1"))[0] == 200
    _, document = ask(service, signed("Decrypt", blob, region="eu-west-1"))
    assert document["__type"] == "AccessDeniedException"
