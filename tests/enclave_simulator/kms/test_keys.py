"""Keys, aliases and key policies of the simulated KMS, through botocore's own client."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from enclave_simulator.kms.service import KmsService
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from enclave_simulator.kms.specs import unsupported
from tests.enclave_simulator.kms.kms_client import ACCOUNT, PREFIX, ask, refusal, signed

if TYPE_CHECKING:
    from enclave_simulator.authority import Authority

ABSENT = "1234abcd-12ab-34cd-56ef-1234567890ab"


# Keys and aliases


def test_a_new_key_is_described(kms: Any) -> None:
    made = kms.create_key(Description="mine", Tags=[{"TagKey": "a", "TagValue": "b"}])
    metadata = made["KeyMetadata"]
    assert metadata["Arn"] == f"{PREFIX}key/{metadata['KeyId']}"
    assert datetime.now(UTC) - metadata["CreationDate"] < timedelta(minutes=5)
    assert {
        name: metadata[name] for name in ("Description", "KeyState", "KeySpec", "KeyUsage")
    } == {
        "Description": "mine",
        "KeyState": "Enabled",
        "KeySpec": "SYMMETRIC_DEFAULT",
        "KeyUsage": "ENCRYPT_DECRYPT",
    }
    assert metadata["EncryptionAlgorithms"] == ["SYMMETRIC_DEFAULT"]
    for name in (metadata["KeyId"], metadata["Arn"]):
        assert kms.describe_key(KeyId=name)["KeyMetadata"] == metadata


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        (
            {"KeySpec": "RSA_2048"},
            (
                "ValidationException",
                (
                    "You must specify a KeyUsage value for all KMS keys except for symmetric "
                    "encryption keys."
                ),
            ),
        ),
        (
            {"KeySpec": "RSA_2048", "KeyUsage": "KEY_AGREEMENT"},
            (
                "ValidationException",
                "KeyUsage KEY_AGREEMENT is not compatible with KeySpec RSA_2048",
            ),
        ),
        (
            {"KeySpec": "SM2", "KeyUsage": "SIGN_VERIFY"},
            ("UnsupportedOperationException", unsupported("KeySpec SM2").message),
        ),
        (
            {"CustomKeyStoreId": "cks-1"},
            ("UnsupportedOperationException", unsupported("CustomKeyStoreId").message),
        ),
    ],
    ids=["usage-missing", "usage-wrong", "spec", "key-store"],
)
def test_invalid_keys(kms: Any, parameters: dict[str, Any], error: tuple[str, str]) -> None:
    assert refusal(kms, "create_key", **parameters) == error


def test_an_alias_names_a_key(kms: Any, key: str) -> None:
    kms.create_alias(AliasName="alias/named", TargetKeyId=key)
    for name in ("alias/named", f"{PREFIX}alias/named"):
        assert kms.describe_key(KeyId=name)["KeyMetadata"]["Arn"] == key
    (listed,) = kms.list_aliases(KeyId=key)["Aliases"]
    assert (listed["AliasName"], listed["AliasArn"]) == ("alias/named", f"{PREFIX}alias/named")
    assert key.endswith(listed["TargetKeyId"])


@pytest.mark.parametrize(
    ("name", "target", "error"),
    [
        ("named", None, ("ValidationException", 'Alias must start with the prefix "alias/".')),
        ("alias/", None, ("ValidationException", 'Alias must start with the prefix "alias/".')),
        ("alias/aws/mine", None, ("NotAuthorizedException", "")),
        ("alias/x", "alias/y", ("ValidationException", "Aliases must refer to keys. Not aliases")),
        ("alias/x", ABSENT, ("NotFoundException", f"Key '{PREFIX}key/{ABSENT}' does not exist")),
    ],
)
def test_invalid_aliases(
    kms: Any, key: str, name: str, target: str | None, error: tuple[str, str]
) -> None:
    type_, text = refusal(kms, "create_alias", AliasName=name, TargetKeyId=target or key)
    assert type_ == error[0]
    assert text.startswith(error[1])


def test_an_alias_name_is_unique(kms: Any, key: str) -> None:
    kms.create_alias(AliasName="alias/once", TargetKeyId=key)
    assert refusal(kms, "create_alias", AliasName="alias/once", TargetKeyId=key) == (
        "AlreadyExistsException",
        f"An alias with the name {PREFIX}alias/once already exists",
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("alias/absent", f"Alias {PREFIX}alias/absent is not found."),
        (f"{PREFIX}alias/absent", f"Alias {PREFIX}alias/absent is not found."),
        (ABSENT, f"Key '{PREFIX}key/{ABSENT}' does not exist"),
        (f"{PREFIX}key/{ABSENT}", f"Key '{PREFIX}key/{ABSENT}' does not exist"),
        ("nonsense", "Invalid keyId 'nonsense'"),
        (f"{PREFIX}{ABSENT}", f"Invalid keyId '{PREFIX}{ABSENT}'"),
        ("arn:", "Invalid keyId 'arn:'"),
        (f"{PREFIX}key/alias/absent", "Invalid keyId alias/absent"),
        (
            f"arn:aws:kms:us-east-1:{ACCOUNT}:key/{ABSENT}",
            "Invalid arn us-east-1",
        ),
    ],
)
def test_keys_that_are_not_found(kms: Any, name: str, text: str) -> None:
    assert refusal(kms, "describe_key", KeyId=name) == ("NotFoundException", text)


def test_lists_come_in_pages(kms: Any, keys: dict[str, str]) -> None:
    pages = list(kms.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 3}))
    assert len(pages) > 1
    assert {*keys.values()} <= {entry["KeyArn"] for page in pages for entry in page["Keys"]}
    for marker in ("x", "-1", "1000000", "0000000000" + "9" * 9):
        assert refusal(kms, "list_keys", Marker=marker) == (
            "InvalidMarkerException",
            "The marker is not valid.",
        )


def test_aliases_and_grants_come_in_pages_of_50_and_of_100_at_most(kms: Any, key: str) -> None:
    """ListAliases, ListGrants and ListRetirableGrants, Limit."""
    retiring = f"arn:aws:iam::{ACCOUNT}:role/retiring"
    for number in range(101):
        kms.create_alias(AliasName=f"alias/page-{number}", TargetKeyId=key)
        kms.create_grant(
            KeyId=key, GranteePrincipal=retiring, RetiringPrincipal=retiring,
            Operations=["Decrypt"], Name=f"g{number}",
        )  # fmt: skip
    for operation, members, given in (
        ("list_aliases", "Aliases", {"KeyId": key}),
        ("list_grants", "Grants", {"KeyId": key}),
        ("list_retirable_grants", "Grants", {"RetiringPrincipal": retiring}),
    ):
        for limit, expected in (({}, 50), ({"Limit": 1000}, 100), ({"Limit": 60}, 60)):
            page = getattr(kms, operation)(**given, **limit)
            assert (len(page[members]), page["Truncated"]) == (expected, True)
        pages = kms.get_paginator(operation).paginate(**given)
        assert sum(len(page[members]) for page in pages) == 101


def test_retirable_grants_are_those_of_one_principal(kms: Any) -> None:
    for given in ({}, {"RetiringPrincipal": "x", "RetiringServicePrincipal": "a.amazonaws.com"}):
        error = refusal(kms, "list_retirable_grants", **given)
        assert error[0] == "ValidationException"


def test_a_key_has_states(kms: Any, key: str) -> None:
    def encrypt() -> tuple[str, str]:
        return refusal(kms, "encrypt", KeyId=key, Plaintext=b"x")

    kms.disable_key(KeyId=key)
    assert not kms.describe_key(KeyId=key)["KeyMetadata"]["Enabled"]
    assert encrypt() == ("DisabledException", f"{key} is disabled.")
    kms.enable_key(KeyId=key)
    kms.encrypt(KeyId=key, Plaintext=b"x")
    gone = kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["DeletionDate"] == gone["DeletionDate"]
    pending = ("KMSInvalidStateException", f"{key} is pending deletion.")
    assert encrypt() == pending
    assert refusal(kms, "enable_key", KeyId=key) == pending


# Policies


def allowing(*actions: str, principal: str = SIMULATED_CREDENTIALS.principal) -> str:
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"AWS": principal},
                    "Action": actions,
                    "Resource": "*",
                }
            ],
        }
    )


LOCKED_OUT = (
    "MalformedPolicyDocumentException",
    "The new key policy will not allow you to update the key policy in the future.",
)


def test_a_key_without_a_policy_leaves_it_to_iam(kms: Any, key: str) -> None:
    policy = json.loads(kms.get_key_policy(KeyId=key)["Policy"])
    (statement,) = policy["Statement"]
    assert statement["Principal"] == {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}
    assert statement["Action"] == "kms:*"


def test_a_policy_holds_at_once(kms: Any, key: str) -> None:
    policy = allowing("kms:PutKeyPolicy", "kms:GetKeyPolicy", "kms:Encrypt")
    kms.put_key_policy(KeyId=key, PolicyName="default", Policy=policy)
    assert kms.get_key_policy(KeyId=key)["Policy"] == policy
    blob = kms.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    for named in ({}, {"KeyId": key}):
        assert refusal(kms, "decrypt", CiphertextBlob=blob, **named) == (
            "AccessDeniedException",
            (
                f"User: {SIMULATED_CREDENTIALS.principal} is not authorized to perform: "
                f"kms:Decrypt on resource: {key} because no resource-based policy allows the "
                "kms:Decrypt action"
            ),
        )


def test_lockout_is_rejected_unless_bypassed(kms: Any, key: str) -> None:
    policy = allowing("kms:Encrypt")
    assert refusal(kms, "put_key_policy", KeyId=key, Policy=policy) == LOCKED_OUT
    assert refusal(kms, "create_key", Policy=policy) == LOCKED_OUT
    kms.put_key_policy(KeyId=key, Policy=policy, BypassPolicyLockoutSafetyCheck=True)
    assert refusal(kms, "put_key_policy", KeyId=key, Policy=policy)[0] == "AccessDeniedException"


def test_a_malformed_policy_changes_nothing(kms: Any, key: str) -> None:
    before = kms.get_key_policy(KeyId=key)["Policy"]
    error = refusal(kms, "put_key_policy", KeyId=key, Policy="{}")
    assert error[0] == "MalformedPolicyDocumentException"
    assert kms.get_key_policy(KeyId=key)["Policy"] == before
    assert refusal(kms, "get_key_policy", KeyId=key, PolicyName="other")[0] == "NotFoundException"


def test_policies_see_the_encryption_context(kms: Any, key: str) -> None:
    policy = json.loads(allowing("kms:*"))
    policy["Statement"][0]["Condition"] = {
        "StringEqualsIfExists": {"kms:EncryptionContext:Purpose": "test"}
    }
    kms.put_key_policy(KeyId=key, Policy=json.dumps(policy))
    kms.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext={"Purpose": "test"})
    error = refusal(kms, "encrypt", KeyId=key, Plaintext=b"x", EncryptionContext={"Purpose": "no"})
    assert error[0] == "AccessDeniedException"


def test_iam_gates_what_has_no_key(nitro_authority: Authority) -> None:
    policy = json.loads(allowing("kms:GenerateRandom"))
    del policy["Statement"][0]["Principal"]
    service = KmsService(nitro_authority.root_pem, caller_policy=json.dumps(policy))
    assert ask(service, signed("GenerateRandom", {"NumberOfBytes": 1}))[0] == 200
    status, response = ask(service, signed("ListKeys", {}))
    assert (status, response) == (
        400,
        {
            "__type": "AccessDeniedException",
            "Message": f"User: {SIMULATED_CREDENTIALS.principal} is not authorized to perform: "
            "kms:ListKeys on resource: * because no identity-based policy allows the "
            "kms:ListKeys action",
        },
    )
