"""The table of KMS's actions, held against botocore's model of KMS."""

from __future__ import annotations

from typing import Any

import botocore.session
import pytest

from parent.policy.actions import (
    ACTIONS,
    ATTESTED,
    GUARDED,
    PolicyError,
    find,
    is_condition_key,
    matching,
)

PREFIX = "kms:RecipientAttestation:"


@pytest.fixture(scope="module")
def model() -> Any:
    return botocore.session.get_session().get_service_model("kms")


def test_every_operation_has_its_action(model: Any) -> None:
    """An operation that KMS gets tomorrow fails here: add it to the table."""
    operations = set(model.operation_names) - {"ReEncrypt"}
    operations |= {"ReEncryptFrom", "ReEncryptTo", "SynchronizeMultiRegionKey"}
    names = {action.name.removeprefix("kms:") for action in ACTIONS.values()}
    assert operations <= names
    # Operations of newer models than the one that is installed.
    assert names - operations <= {"Decapsulate", "Encapsulate", "GetKeyLastUsage"}


def test_the_operations_with_a_recipient(model: Any) -> None:
    with_recipient = {
        name
        for name in model.operation_names
        if "Recipient" in model.operation_model(name).input_shape.members
    }
    assert {action.name.removeprefix("kms:") for action in ATTESTED} == with_recipient


def test_whether_an_operation_is_about_a_key(model: Any) -> None:
    for name in model.operation_names:
        shape = model.operation_model(name).input_shape
        action = ACTIONS.get(f"kms:{name}".lower())
        if action and shape is not None and "KeyId" in shape.required_members:
            assert action.is_on_key, name
        if action and (shape is None or "KeyId" not in shape.members):
            # The key is named by its alias, its material or its grant.
            assert not action.is_on_key or action.is_on_alias or name == "RetireGrant", name


@pytest.mark.parametrize(
    ("name", "key", "knows"),
    [
        ("Decrypt", f"{PREFIX}PCR31", True),
        ("Decrypt", f"{PREFIX}PCR32", False),
        ("Decrypt", f"{PREFIX}NitroTPMPCR23", True),
        ("Decrypt", f"{PREFIX}NitroTPMPCR24", False),
        ("Decrypt", PREFIX[:-1], False),
        ("Decrypt", PREFIX, False),
        ("GenerateRandom", f"{PREFIX}imagesha384", True),
        ("GenerateRandom", "kms:ViaService", False),
        ("Sign", f"{PREFIX}PCR0", False),
        ("Encapsulate", f"{PREFIX}PCR0", False),
        ("Encapsulate", "kms:KeySpec", None),
        ("Encapsulate", "kms:NoSuchKey", False),
        ("Decrypt", "kms:EncryptionContext:a", True),
        ("Decrypt", "kms:EncryptionContext:", False),
        ("Sign", "kms:EncryptionContext:a", False),
        ("Sign", "kms:keyspec", True),
        ("Sign", "aws:SourceVpc", None),
        ("Sign", "saml:aud", None),
    ],
)
def test_condition_keys(name: str, key: str, knows: bool | None) -> None:
    assert find(name).knows(key) is knows


def test_condition_keys_of_any_action() -> None:
    assert is_condition_key("kms:MACALGORITHM")
    assert is_condition_key("aws:anything")
    assert not is_condition_key(PREFIX[:-1])
    assert not is_condition_key("kms:Recipient:ImageSha384")


def test_names() -> None:
    assert find("decrypt") is find("KMS:Decrypt") is ACTIONS["kms:decrypt"]
    with pytest.raises(PolicyError, match="no action 'kms:Decypt'") as caught:
        find("kms:Decypt")
    assert caught.value.hint == "did you mean kms:Decrypt?"
    with pytest.raises(PolicyError) as caught:
        find("kms:ReEncrypt")
    assert "kms:ReEncryptFrom" in caught.value.hint
    with pytest.raises(PolicyError):
        find("s3:GetObject")


def test_patterns() -> None:
    assert [a.name for a in matching("KMS:ReEncrypt*")] == ["kms:ReEncryptFrom", "kms:ReEncryptTo"]
    assert matching("kms:[D]ecrypt") == ()
    assert len(matching("*")) == len(ACTIONS) == 58


def test_what_yields_a_secret_needs_a_guard() -> None:
    assert set(GUARDED) == {a for a in ATTESTED if a.is_on_key} | {find("ReEncryptFrom")}
