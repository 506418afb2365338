"""The five operations as methods: parameters, results, errors."""

from __future__ import annotations

import base64
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
from botocore import xform_name
from botocore.session import Session

from enclave.errors import ConfigurationError, KmsResponseError
from enclave.kms.client import KmsResponse
from enclave.operations import AttestedOperations
from enclave.recipient.exchange import SECRET_FIELD
from enclave.results import DataKeyPairResult, DataKeyResult, DecryptResult, SharedSecretResult

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
SECRET = b"no one may see this"
BLOB = base64.b64encode(b"blob").decode()


class Recorded(AttestedOperations):
    """Answers as KMS does, the secret opened; remembers what was asked."""

    def __init__(self, **changes: Any) -> None:
        self.asked: tuple[str, dict[str, Any]] = ("", {})
        self.changes = changes

    def call(self, operation: str, parameters: Mapping[str, Any]) -> KmsResponse:
        self.asked = operation, dict(parameters)
        content = {
            "KeyId": ARN,
            "CiphertextBlob": BLOB,
            "PrivateKeyCiphertextBlob": BLOB,
            "PublicKey": BLOB,
            "KeyPairSpec": "RSA_2048",
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "KeyAgreementAlgorithm": "ECDH",
            "KeyOrigin": "AWS_KMS",
            SECRET_FIELD[operation]: SECRET,
            **self.changes,
        }
        return KmsResponse(content, "request-1")


CALLS: dict[str, tuple[Callable[[AttestedOperations], Any], dict[str, Any], Any]] = {
    "GenerateRandom": (
        lambda on: on.generate_random(19, custom_key_store_id="cks-1"),
        {"NumberOfBytes": 19, "CustomKeyStoreId": "cks-1"},
        SECRET,
    ),
    "Decrypt": (
        lambda on: on.decrypt(
            b"blob",
            key_id="alias/x",
            encryption_context={"a": "b"},
            encryption_algorithm="SYMMETRIC_DEFAULT",
            grant_tokens=["t"],
            dry_run=False,
        ),
        {
            "CiphertextBlob": BLOB,
            "KeyId": "alias/x",
            "EncryptionContext": {"a": "b"},
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "GrantTokens": ["t"],
            "DryRun": False,
        },
        DecryptResult(SECRET, ARN, "SYMMETRIC_DEFAULT", None, "request-1"),
    ),
    "GenerateDataKey": (
        lambda on: on.generate_data_key(
            "alias/x", key_spec="AES_256", encryption_context={"a": "b"}, grant_tokens=("t",)
        ),
        {
            "KeyId": "alias/x",
            "KeySpec": "AES_256",
            "EncryptionContext": {"a": "b"},
            "GrantTokens": ["t"],
        },
        DataKeyResult(SECRET, b"blob", ARN, None, "request-1"),
    ),
    "GenerateDataKeyPair": (
        lambda on: on.generate_data_key_pair("alias/x", "RSA_2048", dry_run=True),
        {"KeyId": "alias/x", "KeyPairSpec": "RSA_2048", "DryRun": True},
        DataKeyPairResult(SECRET, b"blob", b"blob", "RSA_2048", ARN, None, "request-1"),
    ),
    "DeriveSharedSecret": (
        lambda on: on.derive_shared_secret("alias/x", b"blob"),
        {"KeyId": "alias/x", "PublicKey": BLOB, "KeyAgreementAlgorithm": "ECDH"},
        SharedSecretResult(SECRET, ARN, "ECDH", "AWS_KMS", "request-1"),
    ),
}


@pytest.mark.parametrize("operation", CALLS)
def test_what_is_asked_and_what_comes_back(operation: str) -> None:
    make, parameters, expected = CALLS[operation]
    recorded = Recorded()
    result = make(recorded)
    assert recorded.asked == (operation, parameters)
    assert result == expected
    if operation != "GenerateRandom":
        assert repr(SECRET)[2:-1] not in repr(result)


def test_parameters_and_results_are_those_of_the_service_model() -> None:
    model = Session().get_service_model("kms")
    for operation in CALLS:
        method = getattr(AttestedOperations, xform_name(operation))
        ours = set(method.__annotations__) - {"return"}
        theirs = {xform_name(name) for name in model.operation_model(operation).input_shape.members}
        # Recipient is what the agent adds; modifiers of a dry run are for `call`.
        assert ours == theirs - {"recipient", "dry_run_modifiers"}, operation
        if operation != "GenerateRandom":
            result = type(CALLS[operation][2])
            members = model.operation_model(operation).output_shape.members
            theirs = {xform_name(name) for name in members} - {"ciphertext_for_recipient"}
            assert {each.name for each in fields(result)} - {"request_id"} == theirs, operation


@pytest.mark.parametrize(
    "make",
    [
        lambda on: on.decrypt("text"),
        lambda on: on.decrypt(b"blob", key_id=b"key"),
        lambda on: on.decrypt(b"blob", encryption_context={"a": 1}),
        lambda on: on.decrypt(b"blob", encryption_context={"a": b"b"}),
        lambda on: on.decrypt(b"blob", grant_tokens=[1]),
        lambda on: on.decrypt(b"blob", key_id=object()),
        lambda on: on.generate_data_key("alias/x"),
        lambda on: on.generate_data_key("alias/x", key_spec="AES_256", number_of_bytes=32),
        lambda on: on.derive_shared_secret("alias/x", "pem"),
    ],
)
def test_what_cannot_be_is_not_sent(make: Callable[[AttestedOperations], Any]) -> None:
    recorded = Recorded()
    with pytest.raises(ConfigurationError) as caught:
        make(recorded)
    assert caught.value.hint
    assert recorded.asked[0] == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KeyId", None),
        ("KeyId", 5),
        ("CiphertextBlob", None),
        ("CiphertextBlob", "not base64!"),
        ("CiphertextBlob", "é"),
        ("KeyMaterialId", 5),
    ],
)
def test_an_answer_with_a_field_that_is_none(name: str, value: Any) -> None:
    with pytest.raises(KmsResponseError, match=name):
        Recorded(**{name: value}).generate_data_key("alias/x", number_of_bytes=19)
