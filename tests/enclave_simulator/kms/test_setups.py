"""What people's set-up scripts do, call for call: Terraform's, the AWS CLI's and boto3's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from enclave_simulator.nsm import SimulatedNsm
from tests.enclave_simulator.documents import attest, payload, rsa_key, spki
from tests.enclave_simulator.kms.kms_client import ACCOUNT, PREFIX, openssl_decrypt, refusal

if TYPE_CHECKING:
    from pathlib import Path

    from enclave_simulator.authority import Authority

ROOT = f"arn:aws:iam::{ACCOUNT}:root"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/enclave"
NO_PCR0 = "0" * 96


def policy(*statements: dict[str, Any]) -> str:
    administration = {
        "Sid": "administration", "Effect": "Allow", "Principal": {"AWS": ROOT}, "Resource": "*",
        "Action": ["kms:Create*", "kms:Describe*", "kms:Enable*", "kms:Encrypt", "kms:Get*",
                   "kms:List*", "kms:Put*", "kms:Revoke*", "kms:ScheduleKeyDeletion", "kms:Tag*",
                   "kms:Untag*", "kms:Update*", "kms:Delete*"],
    }  # fmt: skip
    return json.dumps({"Version": "2012-10-17", "Statement": [administration, *statements]})


def for_enclave(pcr0: str) -> dict[str, Any]:
    return {
        "Sid": "enclave", "Effect": "Allow", "Action": "kms:Decrypt", "Resource": "*",
        "Principal": {"AWS": SIMULATED_CREDENTIALS.principal},
        "Condition": {"StringEqualsIgnoreCase": {"kms:RecipientAttestation:PCR0": pcr0}},
    }  # fmt: skip


def test_terraform(kms: Any) -> None:
    """aws_kms_key, aws_kms_alias, aws_kms_key_policy and aws_kms_grant: apply, change, destroy."""
    made = kms.create_key(
        BypassPolicyLockoutSafetyCheck=False,
        CustomerMasterKeySpec="SYMMETRIC_DEFAULT",
        Description="enclave",
        KeyUsage="ENCRYPT_DECRYPT",
        MultiRegion=False,
        Policy=policy(for_enclave(NO_PCR0)),
        Tags=[{"TagKey": "Name", "TagValue": "enclave"}],
    )["KeyMetadata"]
    key = made["KeyId"]
    assert kms.describe_key(KeyId=key)["KeyMetadata"] == made
    kms.enable_key_rotation(KeyId=key, RotationPeriodInDays=365)

    # What it reads back after each change, and at each plan.
    rotation = kms.get_key_rotation_status(KeyId=key)
    assert (rotation["KeyRotationEnabled"], rotation["RotationPeriodInDays"]) == (True, 365)
    got = kms.get_key_policy(KeyId=key, PolicyName="default")
    assert json.loads(got["Policy"]) == json.loads(policy(for_enclave(NO_PCR0)))
    assert kms.list_resource_tags(KeyId=key)["Tags"] == [{"TagKey": "Name", "TagValue": "enclave"}]

    kms.create_alias(AliasName="alias/enclave", TargetKeyId=key)
    aliases = [
        alias
        for page in kms.get_paginator("list_aliases").paginate(KeyId=key)
        for alias in page["Aliases"]
    ]
    assert [(a["AliasName"], a["AliasArn"], a["TargetKeyId"]) for a in aliases] == [
        ("alias/enclave", f"{PREFIX}alias/enclave", key)
    ]
    grant = kms.create_grant(
        KeyId=key, GranteePrincipal=ROLE, Operations=["Encrypt", "DescribeKey"], Name="writer"
    )["GrantId"]
    (listed,) = kms.list_grants(KeyId=key, GrantId=grant)["Grants"]
    assert (listed["GranteePrincipal"], listed["Name"]) == (ROLE, "writer")

    # A changed resource.
    kms.update_key_description(KeyId=key, Description="another")
    kms.put_key_policy(KeyId=key, PolicyName="default", Policy=policy())
    kms.tag_resource(KeyId=key, Tags=[{"TagKey": "Name", "TagValue": "another"}])
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["Description"] == "another"

    kms.revoke_grant(KeyId=key, GrantId=grant)
    kms.delete_alias(AliasName="alias/enclave")
    kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
    # Refreshing what is gone.
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "PendingDeletion"
    assert kms.list_grants(KeyId=key)["Grants"] == []
    assert refusal(kms, "describe_key", KeyId="alias/enclave")[0] == "NotFoundException"


def test_a_script_that_may_run_twice(kms: Any) -> None:
    """As boto3 scripts have it: what is there already is kept."""
    for turn in range(2):
        try:
            key = kms.describe_key(KeyId="alias/twice")["KeyMetadata"]["KeyId"]
        except kms.exceptions.NotFoundException:
            assert turn == 0
            key = kms.create_key(Policy=policy())["KeyMetadata"]["KeyId"]
        try:
            kms.create_alias(AliasName="alias/twice", TargetKeyId=key)
        except kms.exceptions.AlreadyExistsException:
            assert turn == 1
            kms.update_alias(AliasName="alias/twice", TargetKeyId=key)
        kms.put_key_policy(KeyId=key, PolicyName="default", Policy=policy(for_enclave(NO_PCR0)))
        kms.enable_key_rotation(KeyId=key)
    with pytest.raises(kms.exceptions.MalformedPolicyDocumentException):
        kms.put_key_policy(KeyId=key, Policy=json.dumps({"Statement": [for_enclave(NO_PCR0)]}))
    assert len([a for a in kms.list_aliases()["Aliases"] if a["AliasName"] == "alias/twice"]) == 1


def test_from_the_policy_file_to_the_enclave(
    kms: Any, nitro_authority: Authority, tmp_path: Path
) -> None:
    """Key, policy, alias, encrypt outside; decrypt inside once the policy has the PCR."""
    document = attest(SimulatedNsm(nitro_authority), spki(rsa_key()))
    recipient = {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": document}
    key = kms.create_key(Policy=policy(for_enclave(NO_PCR0)))["KeyMetadata"]["KeyId"]
    kms.create_alias(AliasName="alias/inside", TargetKeyId=key)
    sealed = kms.encrypt(
        KeyId="alias/inside", Plaintext=b"secret", EncryptionContext={"record": "42"}
    )["CiphertextBlob"]
    request = {
        "KeyId": "alias/inside", "CiphertextBlob": sealed, "EncryptionContext": {"record": "42"},
    }  # fmt: skip
    outside = refusal(kms, "decrypt", **request)
    assert outside == (
        "AccessDeniedException",
        (
            f"User: {SIMULATED_CREDENTIALS.principal} is not authorized to perform: kms:Decrypt "
            f"on resource: {PREFIX}key/{key} because no resource-based policy allows the "
            "kms:Decrypt action"
        ),
    )
    assert refusal(kms, "decrypt", **request, Recipient=recipient) == outside

    kms.put_key_policy(KeyId=key, Policy=policy(for_enclave(payload(document)["pcrs"][0].hex())))
    opened = kms.decrypt(**request, Recipient=recipient)
    assert not opened.get("Plaintext")
    assert openssl_decrypt(opened["CiphertextForRecipient"], tmp_path) == b"secret"
    assert refusal(kms, "decrypt", **request) == outside
    with pytest.raises(ClientError, match="InvalidCiphertextException"):
        kms.decrypt(**{**request, "EncryptionContext": {"record": "43"}}, Recipient=recipient)
