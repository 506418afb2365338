"""What policies see of a request: condition keys of the caller, the call and its parameters."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from enclave_simulator.kms.service import KmsService
from enclave_simulator.kms.sigv4 import Credentials
from tests.enclave_simulator.kms.kms_client import ACCOUNT, ask, refusal, signed

if TYPE_CHECKING:
    from enclave_simulator.authority import Authority

ROOT = f"arn:aws:iam::{ACCOUNT}:root"
SESSION = f"arn:aws:sts::{ACCOUNT}:assumed-role/enclave/i-1"
USER = f"arn:aws:iam::{ACCOUNT}:user/path/alice"


def guarded(action: str, condition: dict[str, Any]) -> str:
    """A key policy that allows all but an action, which it allows under a condition."""
    owner = {"Effect": "Allow", "Principal": {"AWS": ROOT}, "Resource": "*"}
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {**owner, "NotAction": action},
                {**owner, "Action": action, "Condition": condition},
            ],
        }
    )


CALLERS = [
    # caller, condition, whether it holds (IAM User Guide, "AWS global condition context keys")
    (SESSION, {"ArnEquals": {"aws:PrincipalArn": f"arn:aws:iam::{ACCOUNT}:role/enclave"}}, True),
    (SESSION, {"ArnLike": {"aws:PrincipalArn": SESSION}}, False),
    (SESSION, {"StringEquals": {"aws:PrincipalType": "AssumedRole"}}, True),
    (SESSION, {"Null": {"aws:username": "true"}}, True),
    (SESSION, {"Bool": {"aws:ViaAWSService": "false"}}, True),
    (SESSION, {"Bool": {"aws:PrincipalIsAWSService": "true"}}, False),
    (SESSION, {"Bool": {"aws:PrincipalIsAWSService": False}}, True),
    (USER, {"ArnEquals": {"aws:PrincipalArn": USER}}, True),
    (USER, {"StringEquals": {"aws:username": "alice"}}, True),
    (USER, {"StringEquals": {"aws:PrincipalType": "User"}}, True),
    (USER, {"StringEquals": {"aws:PrincipalAccount": ACCOUNT}}, True),
    (ROOT, {"StringEquals": {"aws:PrincipalType": "Account"}}, True),
    (SESSION, {"Bool": {"aws:MultiFactorAuthPresent": "false"}}, True),
    (USER, {"Bool": {"aws:MultiFactorAuthPresent": "false"}}, False),
    (USER, {"BoolIfExists": {"aws:MultiFactorAuthPresent": "true"}}, True),
    (USER, {"StringEquals": {"aws:ResourceAccount": ACCOUNT}}, True),
    (USER, {"StringEquals": {"aws:ResourceAccount": "444455556666"}}, False),
]


@pytest.mark.parametrize(
    ("principal", "condition", "holds"),
    CALLERS,
    ids=[f"{c[0]} {json.dumps(c[1])}" for c in CALLERS],
)
def test_of_the_caller(
    nitro_authority: Authority, principal: str, condition: dict[str, Any], holds: bool
) -> None:
    caller = Credentials("AKIACALLER", "secret", None, principal)
    service = KmsService(nitro_authority.root_pem, credentials=[caller])
    policy = guarded("kms:Encrypt", condition)
    key = ask(service, signed("CreateKey", {"Policy": policy}, credentials=caller))[1]
    encrypt = {"KeyId": key["KeyMetadata"]["KeyId"], "Plaintext": "eA=="}
    status, response = ask(service, signed("Encrypt", encrypt, credentials=caller))
    assert (status == 200) == holds
    assert holds or response["__type"] == "AccessDeniedException"


def test_of_the_key_by_its_former_names(kms: Any) -> None:
    for name, value in (("Spec", "SYMMETRIC_DEFAULT"), ("Usage", "ENCRYPT_DECRYPT")):
        condition = {"StringEquals": {f"kms:CustomerMasterKey{name}": value}}
        key = kms.create_key(Policy=guarded("kms:Encrypt", condition))["KeyMetadata"]["Arn"]
        kms.encrypt(KeyId=key, Plaintext=b"x")


def test_whether_re_encrypt_is_on_one_key(kms: Any, key: str) -> None:
    same = {"Bool": {"kms:ReEncryptOnSameKey": "true"}}
    for action in ("kms:ReEncryptFrom", "kms:ReEncryptTo"):
        own = kms.create_key(Policy=guarded(action, same))["KeyMetadata"]["Arn"]
        blobs = {each: kms.encrypt(KeyId=each, Plaintext=b"x")["CiphertextBlob"]
                 for each in (own, key)}  # fmt: skip
        kms.re_encrypt(CiphertextBlob=blobs[own], DestinationKeyId=own)
        source, target = (own, key) if action.endswith("From") else (key, own)
        error = refusal(kms, "re_encrypt", CiphertextBlob=blobs[source], DestinationKeyId=target)
        assert error[0] == "AccessDeniedException"
        assert action in error[1]


def test_the_name_of_the_key_policy(kms: Any) -> None:
    named = {"StringEquals": {"kms:PolicyName": "default"}}
    policy = guarded("kms:PutKeyPolicy", named)  # the check for lockout sees it, too
    key = kms.create_key(Policy=policy)["KeyMetadata"]["Arn"]
    kms.put_key_policy(KeyId=key, Policy=policy)
    assert refusal(kms, "put_key_policy", KeyId=key, Policy=policy, PolicyName="AWS_RAM") == (
        "AccessDeniedException",
        refusal(kms, "put_key_policy", KeyId=key, Policy=policy, PolicyName="other")[1],
    )
    plain = kms.create_key()["KeyMetadata"]["Arn"]
    assert refusal(kms, "put_key_policy", KeyId=plain, Policy=policy, PolicyName="AWS_RAM") == (
        "ValidationException", "The AWS_RAM policy can only be managed by the RAM service.",
    )  # fmt: skip


def test_of_a_key_that_is_to_be_created(nitro_authority: Authority) -> None:
    def service(condition: dict[str, Any]) -> KmsService:
        statement = {"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": condition}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        return KmsService(nitro_authority.root_pem, caller_policy=policy)

    for wanted, multi_region in (("true", True), ("false", False), ("false", None)):
        given = {} if multi_region is None else {"MultiRegion": multi_region}
        for value in ("true", "false"):
            of_this = service({"Bool": {"kms:MultiRegion": value}})
            assert (ask(of_this, signed("CreateKey", given))[0] == 200) == (value == wanted)
    primary = service({"StringEquals": {"kms:MultiRegionKeyType": "PRIMARY"}})
    assert ask(primary, signed("CreateKey", {"MultiRegion": True}))[0] == 200
    assert ask(primary, signed("CreateKey", {}))[0] == 400
