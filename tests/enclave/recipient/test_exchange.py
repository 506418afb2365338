"""The recipient exchange: requests it makes, and responses it rejects."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from asn1crypto import core as asn1core
from botocore.session import Session
from hypothesis import given
from hypothesis import strategies as st

from enclave.errors import AgentError, ConfigurationError, KmsResponseError
from enclave.recipient.exchange import SECRET_FIELD, attested_request, opened_response

ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
ENVELOPE = base64.b64encode(b"envelope").decode()


NUMBER = {"NumberOfBytes": 32}  # only GenerateRandom must have one


SECRETS = {
    "Decrypt": b"secret",
    "DeriveSharedSecret": b"s" * 48,
    "GenerateDataKey": b"s" * 32,
    "GenerateDataKeyPair": bytes([0x30, 0x82, 0x01, 0x00]) + bytes(256),
    "GenerateRandom": b"s" * 32,
}
"""A secret of a form that the operation can have."""


def answer(operation: str, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"CiphertextForRecipient": ENVELOPE, SECRET_FIELD[operation]: ""}
    made.update(changes)
    return {name: value for name, value in made.items() if value is not ...}


def opened(
    operation: str, parameters: dict[str, Any], secret: bytes = b"s" * 32, **changes: Any
) -> dict[str, Any]:
    return opened_response(operation, parameters, answer(operation, **changes), lambda _: secret)


def test_the_operations_are_those_of_the_service_model() -> None:
    """KMS's own model says which operations take Recipient; ours must say the same."""
    model = Session().get_service_model("kms")
    taking = {
        name
        for name in model.operation_names
        if (shape := model.operation_model(name).input_shape) and "Recipient" in shape.members
    }
    assert taking == set(SECRET_FIELD)
    for name, field in SECRET_FIELD.items():
        members = model.operation_model(name).output_shape.members
        assert {field, "CiphertextForRecipient"} <= set(members)


@pytest.mark.parametrize("operation", SECRET_FIELD)
def test_recipient_is_added_and_nothing_else_touched(operation: str) -> None:
    parameters = {"KeyId": "alias/x", "EncryptionContext": {"a": "b"}, **NUMBER}
    request = attested_request(operation, parameters, b"document")
    assert request.pop("Recipient") == {
        "AttestationDocument": base64.b64encode(b"document").decode(),
        "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
    }
    assert request == parameters
    assert "Recipient" not in parameters


@pytest.mark.parametrize(
    ("operation", "parameters", "document", "text"),
    [
        ("Encrypt", {}, b"d", "takes no Recipient"),
        ("GenerateRandom", {"Recipient": {}}, b"d", "Recipient of its own"),
        ("GenerateRandom", {}, b"d", "number of bytes is missing"),
        ("GenerateRandom", {}, b"", "0 bytes"),
        ("GenerateRandom", {}, b"d" * 262_145, "262145 bytes"),
        ("GenerateDataKey", {"NumberOfBytes": 1025}, b"d", "number of bytes"),
        ("GenerateRandom", {"NumberOfBytes": 0}, b"d", "number of bytes is 0"),
        ("GenerateRandom", {"NumberOfBytes": True}, b"d", "number of bytes is True"),
    ],
)
def test_what_kms_would_refuse_is_not_sent(
    operation: str, parameters: dict[str, Any], document: bytes, text: str
) -> None:
    with pytest.raises(ConfigurationError, match=text) as caught:
        attested_request(operation, parameters, document)
    assert caught.value.hint


@pytest.mark.parametrize("operation", SECRET_FIELD)
@pytest.mark.parametrize("empty", ["", b"", None, ...], ids=["empty", "bytes", "null", "absent"])
def test_the_secret_is_filled_in(operation: str, empty: Any) -> None:
    field = SECRET_FIELD[operation]
    secret = SECRETS[operation]
    result = opened(operation, {}, secret, **{field: empty}, Other="kept")
    assert result == {field: secret, "Other": "kept"}


@pytest.mark.parametrize("operation", SECRET_FIELD)
@pytest.mark.parametrize("plain", ["c2VjcmV0", 0, False, [], {"a": 1}])
def test_a_secret_in_the_open_is_refused(operation: str, plain: Any) -> None:
    with pytest.raises(KmsResponseError, match="in the open"):
        opened(operation, {}, **{SECRET_FIELD[operation]: plain})


@pytest.mark.parametrize(
    ("envelope", "text"),
    [
        (..., "no CiphertextForRecipient"),
        (None, "no CiphertextForRecipient"),
        ("", "no CiphertextForRecipient"),
        (17, "not text"),
        ("A" * 8196, "not text of up to"),
        ("not base64!", "not base64"),
        (ENVELOPE[:4] + "!" + ENVELOPE[4:], "not base64"),
        (ENVELOPE + "\n", "not base64"),
        (b"", "no CiphertextForRecipient"),
        ("AAA", "not base64"),
        ("é", "not base64"),
    ],
)
def test_an_envelope_that_is_none(envelope: Any, text: str) -> None:
    with pytest.raises(KmsResponseError, match=text):
        opened("GenerateRandom", {}, CiphertextForRecipient=envelope)


@pytest.mark.parametrize(
    ("operation", "parameters", "length"),
    [
        ("GenerateRandom", {"NumberOfBytes": 32}, 32),
        ("GenerateDataKey", {"NumberOfBytes": 64}, 64),
        ("GenerateDataKey", {"KeySpec": "AES_128"}, 16),
        ("GenerateDataKey", {"KeySpec": "AES_256"}, 32),
    ],
)
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_the_length_is_the_one_asked_for(
    operation: str, parameters: dict[str, Any], length: int, off: int
) -> None:
    secret = b"s" * (length + off)
    if not off:
        assert opened(operation, parameters, secret)["Plaintext"] == secret
        return
    with pytest.raises(KmsResponseError, match=f"{length + off} bytes where {length}"):
        opened(operation, parameters, secret)


@pytest.mark.parametrize("operation", SECRET_FIELD)
def test_nothing_is_no_secret(operation: str) -> None:
    with pytest.raises(KmsResponseError, match="empty"):
        opened(operation, {}, b"")


@pytest.mark.parametrize(
    ("operation", "secret", "text"),
    [
        ("Decrypt", b"s" * 4097, "4097 bytes, over 4096"),
        ("DeriveSharedSecret", b"s" * 31, "no curve"),
        ("DeriveSharedSecret", b"s" * 64, "no curve"),
        ("GenerateDataKeyPair", b"s" * 256, "PKCS #8"),
        ("GenerateDataKeyPair", b"\x30", "PKCS #8"),
        ("GenerateDataKeyPair", bytes([0x30, 3, 1, 1]), "PKCS #8"),
        ("GenerateDataKeyPair", bytes([0x30, 1, 1, 1]), "PKCS #8"),
        ("GenerateDataKeyPair", bytes([0x30, 0x82, 0x01, 0x00]) + bytes(255), "PKCS #8"),
        ("GenerateDataKeyPair", bytes([0x30, 0xFF]), "PKCS #8"),
        ("GenerateDataKeyPair", bytes([0x30, 0x80]), "PKCS #8"),
        ("GenerateDataKeyPair", bytes([0x30, 0x80, 0, 0]), "PKCS #8"),
        ("GenerateDataKeyPair", bytes([0x30, 0x81, 0x7F]) + bytes(127), "PKCS #8"),
        ("GenerateDataKeyPair", bytes([0x30, 0x82, 0x00, 0x80]) + bytes(128), "PKCS #8"),
        ("GenerateDataKeyPair", bytes([0x31, 0x81, 0x80]) + bytes(128), "PKCS #8"),
        ("GenerateDataKeyPair", bytes([0x30, 0x81, 0x80]) + bytes(129), "PKCS #8"),
    ],
)
def test_a_secret_of_a_form_the_operation_does_not_have(
    operation: str, secret: bytes, text: str
) -> None:
    with pytest.raises(KmsResponseError, match=text):
        opened(operation, {}, secret)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 4092])
def test_a_private_key_is_one_der_sequence_of_any_size(size: int) -> None:
    key = asn1core.Sequence(contents=bytes(size)).dump()
    assert opened("GenerateDataKeyPair", {}, key)["PrivateKeyPlaintext"] == key


@pytest.mark.parametrize(
    ("operation", "parameters", "document"),
    [
        ("GenerateRandom", {"NumberOfBytes": 1}, b"d"),
        ("GenerateRandom", {"NumberOfBytes": 1024}, b"d"),
        ("GenerateDataKey", {"NumberOfBytes": 1}, b"d"),
        ("Decrypt", {}, b"d"),
        ("Decrypt", {}, b"d" * 262_144),
    ],
)
def test_the_least_and_the_most_are_sent(
    operation: str, parameters: dict[str, Any], document: bytes
) -> None:
    assert attested_request(operation, parameters, document)["Recipient"]


def test_the_envelope_is_what_is_opened() -> None:
    seen: list[bytes] = []

    def open_(envelope: bytes) -> bytes:
        seen.append(envelope)
        return b"secret"

    opened_response("Decrypt", {}, answer("Decrypt"), open_)
    assert seen == [b"envelope"]


def test_the_longest_envelope_is_opened() -> None:
    encoded = base64.b64encode(bytes(6144)).decode()
    assert opened("Decrypt", {}, CiphertextForRecipient=encoded)["Plaintext"]


@pytest.mark.parametrize("requested", ["", None, 5])
def test_a_key_that_is_not_named_is_not_compared(requested: Any) -> None:
    assert opened("Decrypt", {"KeyId": requested}, KeyId=...)["Plaintext"]


@pytest.mark.parametrize("size", [1, 4096])
def test_a_plaintext_may_have_any_length(size: int) -> None:
    assert opened("Decrypt", {}, b"s" * size)["Plaintext"] == b"s" * size


@pytest.mark.parametrize("size", [32, 48, 66])
def test_a_shared_secret_has_the_length_of_a_coordinate(size: int) -> None:
    assert opened("DeriveSharedSecret", {}, b"s" * size)["SharedSecret"] == b"s" * size


@pytest.mark.parametrize(
    ("operation", "name", "asked", "other"),
    [
        ("Decrypt", "EncryptionAlgorithm", "RSAES_OAEP_SHA_256", "SYMMETRIC_DEFAULT"),
        ("GenerateDataKeyPair", "KeyPairSpec", "RSA_2048", "ECC_NIST_P256"),
        ("DeriveSharedSecret", "KeyAgreementAlgorithm", "ECDH", "DH"),
    ],
)
def test_what_is_repeated_must_be_the_same(
    operation: str, name: str, asked: str, other: str
) -> None:
    secret = SECRETS[operation]
    assert opened(operation, {name: asked}, secret, **{name: asked})
    assert opened(operation, {}, secret, **{name: other})
    with pytest.raises(KmsResponseError, match=f"another {name}"):
        opened(operation, {name: asked}, secret, **{name: other})


FITTING = [
    ARN,
    ARN.rpartition("/")[2],
    "alias/mine",
    "arn:aws:kms:eu-central-1:111122223333:alias/m",
]
OTHERS = [
    ARN[:-1] + "0",
    ARN.replace("eu-central-1", "us-east-1"),
    "0" * 36,
    "1234567890ab",
    "arn:aws:kms:eu-central-1:444455556666:alias/m",
    "arn:aws:kms:us-east-1:111122223333:alias/m",
    "arn:aws-cn:kms:eu-central-1:111122223333:alias/m",
]


@pytest.mark.parametrize("asked", FITTING)
def test_the_key_that_was_named_answers(asked: str) -> None:
    assert opened("Decrypt", {"KeyId": asked}, KeyId=ARN)["KeyId"] == ARN


@pytest.mark.parametrize("asked", OTHERS)
def test_another_key_than_the_one_named_is_refused(asked: str) -> None:
    with pytest.raises(KmsResponseError, match="used key"):
        opened("Decrypt", {"KeyId": asked}, KeyId=ARN)


@pytest.mark.parametrize("answered", [..., None, "", 5, "alias/mine", ARN.rpartition("/")[2]])
def test_a_response_that_names_no_key(answered: Any) -> None:
    with pytest.raises(KmsResponseError, match="does not name the key"):
        opened("GenerateDataKey", {"KeyId": "alias/mine"}, KeyId=answered)


def test_a_multi_region_key_is_another_in_each_region() -> None:
    mrk = "arn:aws:kms:eu-central-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"
    replica = mrk.replace("eu-central-1", "us-east-1")
    assert opened("Decrypt", {"KeyId": mrk}, KeyId=mrk)
    assert opened("Decrypt", {"KeyId": mrk.rpartition("/")[2]}, KeyId=replica)
    with pytest.raises(KmsResponseError, match="used key"):
        opened("Decrypt", {"KeyId": mrk}, KeyId=replica)


def test_without_a_key_named_any_may_answer() -> None:
    assert opened("Decrypt", {}, KeyId=ARN)["KeyId"] == ARN


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)
FIELDS = st.sampled_from(["Plaintext", "CiphertextForRecipient", "KeyId", "SharedSecret", "Other"])


@given(
    st.sampled_from(sorted(SECRET_FIELD)),
    st.dictionaries(FIELDS, JSON),
    st.fixed_dictionaries({}, optional={"KeyId": st.text(), "NumberOfBytes": st.integers(1, 1024)}),
)
def test_whatever_the_answer_only_the_named_errors_leave(
    operation: str, content: dict[str, Any], parameters: dict[str, Any]
) -> None:
    try:
        result = opened_response(operation, parameters, content, lambda _: SECRETS[operation])
    except AgentError:
        return
    assert result[SECRET_FIELD[operation]] == SECRETS[operation]
    assert content["CiphertextForRecipient"]
