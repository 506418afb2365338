"""The third part of the table of recordings: policies, grants, attestation documents, signatures.

`{caller}` is the caller's ARN; `{document}` an attestation document, `{document.flipped}` one with
a flipped bit, `{document.random}` no document. Its PCR0 is not that of any policy here.
"""

from __future__ import annotations

import json
from typing import Any

from tests.enclave_simulator.kms.recordings import (
    NIL,
    TEXT,
    Error,
    Row,
    blob,
    created,
    encrypted,
    fields,
    invalid,
)

EPHEMERAL_ML = "cyntrisec/EphemeralML README.md, measured on a Nitro Enclave, 2026-02"
SDK_C = "aws/aws-nitro-enclaves-sdk-c"
ROOT = "arn:aws:iam::{account}:root"
PCR0 = "kms:RecipientAttestation:PCR0"
IMAGE = "kms:RecipientAttestation:ImageSha384"
ADMINISTRATION = {
    "Effect": "Allow", "Principal": {"AWS": "{caller}"}, "Resource": "*",
    "Action": ["kms:Create*", "kms:Put*", "kms:Get*", "kms:Describe*", "kms:Encrypt", "kms:Tag*"],
}  # fmt: skip
IAM_DECIDES = {
    "Effect": "Allow", "Principal": {"AWS": ROOT}, "Action": "kms:*", "Resource": "*",
}  # fmt: skip


def policy(*statements: dict[str, Any]) -> str:
    """A policy in JSON, its braces apart: two together stand for one in a row."""
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, indent=0)


def statement(effect: str, action: str, condition: dict[str, Any] | None = None) -> dict[str, Any]:
    """A statement of a key policy."""
    return {
        "Effect": effect, "Principal": {"AWS": "{caller}"}, "Action": action, "Resource": "*",
        **({"Condition": condition} if condition else {}),
    }  # fmt: skip


def iam(action: str, resource: str = "*", condition: dict[str, Any] | None = None) -> str:
    """An IAM policy of one statement."""
    return policy({
        "Effect": "Allow", "Action": action, "Resource": resource,
        **({"Condition": condition} if condition else {}),
    })  # fmt: skip


def denied(action: str, reason: str, resource: str = "{k.arn}") -> Error:
    on = f"on resource: {resource} " if resource else ""
    return Error(
        "AccessDeniedException",
        f"User: {{caller}} is not authorized to perform: kms:{action} {on}{reason}",
    )


def because(kind: str, action: str) -> str:
    return f"because no {kind}-based policy allows the kms:{action} action"


def recipient(document: str) -> dict[str, str]:
    return {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": document}


def attested(document: str) -> dict[str, Any]:
    return {"CiphertextBlob": "{sealed.CiphertextBlob}", "Recipient": recipient(document)}


ONLY_PCR0 = statement("Allow", "kms:Decrypt", {"StringEqualsIgnoreCase": {PCR0: "ab" * 48}})
FOR_ENCLAVES = (created(Policy=policy(ADMINISTRATION, ONLY_PCR0)), encrypted("{k}"))
EXPLICITLY = "with an explicit deny in a resource-based policy"

ATTESTED: list[Row] = [
    Row(EPHEMERAL_ML, "Decrypt", attested("{document}"),
        denied("Decrypt", because("resource", "Decrypt")), FOR_ENCLAVES),
    Row(EPHEMERAL_ML, "Decrypt", {"CiphertextBlob": "{sealed.CiphertextBlob}"},
        denied("Decrypt", because("resource", "Decrypt")), FOR_ENCLAVES),
    Row(EPHEMERAL_ML, "Decrypt", attested("{document.random}"),
        Error("ValidationException", "..."), FOR_ENCLAVES),
    Row(EPHEMERAL_ML, "Decrypt", attested("{document.flipped}"),
        Error("ValidationException", "..."), FOR_ENCLAVES),
    *(
        # The same kind of error for the other attested operations.
        Row(EPHEMERAL_ML, operation, {**request, "Recipient": recipient("{document.flipped}")},
            Error("ValidationException", "..."), steps)
        for operation, request, steps in (
            ("GenerateRandom", {"NumberOfBytes": 32}, ()),
            ("GenerateDataKey", {"KeyId": "{symmetric}", "KeySpec": "AES_256"}, ()),
            ("GenerateDataKeyPair", {"KeyId": "{symmetric}", "KeyPairSpec": "ECC_NIST_P256"}, ()),
            ("DeriveSharedSecret", {"KeyId": "{p256_agree}", "KeyAgreementAlgorithm": "ECDH",
                                    "PublicKey": "{public.PublicKey}"},
             (("public", "GetPublicKey", {"KeyId": "{p256_agree}"}),)),
        )
    ),
    Row(f"{SDK_C}#157, 2025-06", "Decrypt", {"CiphertextBlob": "{sealed.CiphertextBlob}"},
        denied("Decrypt", EXPLICITLY), (
            created(Policy=policy(ADMINISTRATION, statement("Allow", "kms:Decrypt"), statement(
                "Deny", "kms:Decrypt", {"Null": {IMAGE: "true"}}))),
            encrypted("{k}"))),
    Row(f"{SDK_C}#127, 2023-11", "Sign",
        {"KeyId": "{k}", "Message": TEXT, "SigningAlgorithm": "ECDSA_SHA_256"},
        denied("Sign", because("resource", "Sign")),
        (created(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY", Policy=policy(
            ADMINISTRATION,
            statement("Allow", "kms:Sign", {"StringEqualsIgnoreCase": {IMAGE: "ab" * 48}}))),)),
    Row(f"{SDK_C}#68, 2021-11", "Decrypt",
        {"CiphertextBlob": blob(256), "Recipient": recipient("{document}")},
        Error("InvalidCiphertextException", None)),
]  # fmt: skip

POLICIES: list[Row] = [
    Row("aws-ia/terraform-aws-control_tower_account_factory#569, 2025-07", "CreateKey", {},
        denied("CreateKey", because("identity", "CreateKey"), "*"),
        caller_policy=iam("kms:Describe*")),
    *(
        Row(source, "CreateKey", {"Tags": [{"TagKey": "a", "TagValue": "b"}]},
            denied("TagResource", because("identity", "TagResource"), ""), caller_policy=allowed)
        for source, allowed in (
            ("DataBiosphere/azul#5628, 2023-10", iam("kms:CreateKey")),
            ("LeanerCloud/CUDly#1670, 2026-07", policy(
                {"Effect": "Allow", "Action": "kms:CreateKey", "Resource": "*"},
                {"Effect": "Allow", "Action": "kms:TagResource", "Resource": "*", "Condition": {
                    "StringEqualsIgnoreCase": {"aws:ResourceTag/Project": "b"}}})),
        )
    ),
    Row("LeanerCloud/CUDly#1671, 2026-07", "CreateKey",
        {"Tags": [{"TagKey": "Project", "TagValue": "b"}]}, fields("KeyMetadata"),
        caller_policy=policy(
            {"Effect": "Allow", "Action": "kms:CreateKey", "Resource": "*"},
            {"Effect": "Allow", "Action": "kms:TagResource", "Resource": "*", "Condition": {
                "StringEquals": {"aws:RequestTag/Project": "b"}}})),
    *(
        Row(source, "CreateAlias", {"AliasName": "alias/eks/workshop", "TargetKeyId": "{k}"},
            denied("CreateAlias", because("identity", "CreateAlias"),
                   "{prefix}alias/eks/workshop"), (created(),), caller_policy=allowed)
        for source, allowed in (
            ("aws-samples/eks-workshop-v2#1177, 2024-11", iam("kms:CreateKey")),
            ("awsdocs/aws-kms-developer-guide#12, 2019-05", policy(
                {"Effect": "Allow", "Action": "kms:CreateKey", "Resource": "*"},
                {"Effect": "Allow", "Action": "kms:CreateAlias",
                 "Resource": "arn:aws:kms:*:*:key/*"})),
        )
    ),
    Row("awsdocs/aws-kms-developer-guide#12, 2019-05", "CreateAlias",
        {"AliasName": "alias/eks/workshop", "TargetKeyId": "{k}"}, fields(), (created(),),
        caller_policy=policy(
            {"Effect": "Allow", "Action": "kms:CreateKey", "Resource": "*"},
            {"Effect": "Allow", "Action": "kms:CreateAlias",
             "Resource": ["arn:aws:kms:*:*:key/*", "arn:aws:kms:*:*:alias/*"]})),
    Row("getsops/sops#1972, 2025-10", "Encrypt", {"KeyId": "{k}", "Plaintext": TEXT},
        denied("Encrypt", EXPLICITLY), (created(Policy=policy(IAM_DECIDES, {
            **IAM_DECIDES, "Effect": "Deny", "Action": "kms:Encrypt", "Principal": {"AWS": "*"},
            "Condition": {"StringNotEquals": {"kms:EncryptionContext:AppName": "vantage"}}})),)),
    Row("jbrt/ec2cryptomatic#26, 2021-10", "DescribeKey", {"KeyId": "{k}"},
        denied("DescribeKey", because("resource", "DescribeKey")),
        (created(Policy=policy({**ADMINISTRATION, "Action": "kms:Put*"})),)),
    Row("ministryofjustice/modernisation-platform#1296, 2021-11", "GenerateDataKey",
        {"KeyId": "{k}", "KeySpec": "AES_256"},
        denied("GenerateDataKey", because("resource", "GenerateDataKey")),
        (created(Policy=policy(ADMINISTRATION)),)),
    Row("aws/copilot-cli#5500, 2023-11", "GenerateDataKey",
        {"KeyId": "{k}", "KeySpec": "AES_256"},
        denied("GenerateDataKey", because("identity", "GenerateDataKey")),
        (created(),), caller_policy=policy(
            {"Effect": "Allow", "Action": "kms:CreateKey", "Resource": "*"},
            {"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {
                "IpAddress": {"aws:SourceIp": "203.0.113.7/32"}}})),
    *(
        Row("trussworks/terraform-aws-cloudtrail#178, 2021-06", operation,
            {**request, "Policy": policy({**ADMINISTRATION, "Action": "kms:Encrypt"})},
            Error("MalformedPolicyDocumentException",
                  "The new key policy will not allow you to update the key policy in the future."))
        for operation, request in (("CreateKey", {}), ("PutKeyPolicy", {"KeyId": "{symmetric}"}))
    ),
    Row("hashicorp/terraform-provider-aws#18117", "CreateKey", {
        "Policy": policy({**ADMINISTRATION, "Action": "kms:Encrypt"}),
        "BypassPolicyLockoutSafetyCheck": True}, fields("KeyMetadata")),
    Row("aws-samples/aws-cross-account-cicd-pipeline#35, 2023-06", "CreateKey", {
        "Policy": policy(IAM_DECIDES, {**IAM_DECIDES, "Principal": {"AWS": "arn:aws:iam:::root"}})},
        Error("InvalidArnException", "An ARN in the specified key policy is invalid.")),
    Row("awslabs/minimum-viable-dataspace-on-aws#6, 2025-03", "CreateKey", {
        "Policy": policy(IAM_DECIDES, {**IAM_DECIDES, "Principal": {
            "AWS": "arn:aws:iam::{account}:role/does-not-exist"}})},
        Error("MalformedPolicyDocumentException",
              "Policy contains a statement with one or more invalid principals."),
        differs="the simulator has no list of roles: it accepts every one that could exist"),
    Row("aceew/aws-lambda-env-vars#7 and others", "Decrypt",
        {"CiphertextBlob": "{sealed.CiphertextBlob}"}, Error(
            "AccessDeniedException",
            "The ciphertext refers to a customer master key that does not exist, does not exist in "
            "this region, or you are not allowed to access."),
        (encrypted("{symmetric}"),), region="us-west-2"),
]  # fmt: skip

SUBSET = {"EncryptionContextSubset": {"a": "b"}}
GRANTEE = "arn:aws:iam::{account}:role/grantee"

GRANTS: list[Row] = [
    Row("aws/aws-sdk-java#328; hashicorp/terraform-provider-aws grant.go", "CreateGrant", {
        "KeyId": "{symmetric}", "GranteePrincipal": GRANTEE, "Operations": ["Decrypt"],
        "Constraints": {**SUBSET, "EncryptionContextEquals": equals}},
        invalid("More than one constraint supplied"))
    for equals in ({"a": "b"}, {})
] + [
    Row("hashicorp/terraform-provider-aws#3038", "CreateGrant", {
        "KeyId": "{symmetric}", "Operations": ["Decrypt"],
        "GranteePrincipal": "arn:aws:iam::{account}:group/g"}, Error("InvalidArnException", "...")),
    *(
        Row("botocore/kms service-2.json", "CreateGrant", {
            "KeyId": NIL, "GranteePrincipal": GRANTEE, "Operations": ["Decrypt"], **more},
            Error("ValidationException", "..."))
        for more in ({"Operations": ["Nothing"]}, {"Name": "a b"}, {"Name": ""})
    ),
]  # fmt: skip
