"""The second half of the table of recordings: keys, aliases, tags, grants, rotation, imports."""

from __future__ import annotations

from tests.enclave_simulator.kms.recordings import (
    ABSENT,
    FLOCI,
    KEY_SPECS_2023,
    KEYS,
    LOCALSTACK,
    LOCALSTACK_TEST,
    MOTO,
    NEWER_MODEL,
    NIL,
    NO_ALIASES,
    TEXT,
    Error,
    Row,
    constraint,
    created,
    described,
    encrypted,
    fields,
    invalid,
    to_deletion,
    to_disabled,
    unusable,
)

UNSUPPORTED = Error("UnsupportedOperationException", None)


def state(text: str, key: str = "{k.arn}") -> Error:
    kind = "DisabledException" if text == "disabled" else "KMSInvalidStateException"
    return Error(kind, f"{key} is {text}.")


def not_found(message: str) -> Error:
    return Error("NotFoundException", message)


REQUESTS: dict[str, dict[str, object]] = {
    # What each operation needs besides KeyId.
    "CreateAlias": {"AliasName": "alias/x"},
    "CreateGrant": {
        "GranteePrincipal": "arn:aws:iam::000000000000:root", "Operations": ["Encrypt"],
    },
    "Decrypt": {"CiphertextBlob": TEXT, "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"},
    "Encrypt": {"Plaintext": TEXT},
    "GenerateDataKey": {"KeySpec": "AES_256"},
    "GenerateDataKeyWithoutPlaintext": {"KeySpec": "AES_256"},
    "GenerateMac": {"Message": TEXT, "MacAlgorithm": "HMAC_SHA_256"},
    "GetParametersForImport": {
        "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048",
    },
    "ImportKeyMaterial": {
        "ImportToken": "AAAA", "EncryptedKeyMaterial": "AAAA",
        "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
    },
    "PutKeyPolicy": {"Policy": "{}"},
    "RevokeGrant": {"GrantId": "aabbccdd"},
    "Sign": {"Message": TEXT, "SigningAlgorithm": "RSASSA_PSS_SHA_256"},
    "TagResource": {"Tags": [{"TagKey": "a", "TagValue": "b"}]},
    "UntagResource": {"TagKeys": ["a"]},
    "UpdateKeyDescription": {"Description": "x"},
    "Verify": {"Message": TEXT, "SigningAlgorithm": "RSASSA_PSS_SHA_256", "Signature": TEXT},
    "VerifyMac": {"Message": TEXT, "MacAlgorithm": "HMAC_SHA_256", "Mac": TEXT},
}  # fmt: skip


def of(operation: str, key: str, **more: object) -> dict[str, object]:
    return {"KeyId": key, **REQUESTS.get(operation, {}), **more}


CREATION: list[Row] = [
    Row(LOCALSTACK, "CreateKey", {"Description": "test key 123"}, described(
        CurrentKeyMaterialId="{KeyMetadata.CurrentKeyMaterialId}",
        EncryptionAlgorithms=["SYMMETRIC_DEFAULT"], Description="test key 123", Enabled=True,
        KeyManager="CUSTOMER", KeyState="Enabled", KeyUsage="ENCRYPT_DECRYPT", MultiRegion=False,
        Origin="AWS_KMS", KeySpec="SYMMETRIC_DEFAULT", CustomerMasterKeySpec="SYMMETRIC_DEFAULT"),
        member="KeyMetadata"),
    Row(LOCALSTACK, "CreateKey", KEYS["hmac_256"], described(
        MacAlgorithms=["HMAC_SHA_256"], Enabled=True, KeyUsage="GENERATE_VERIFY_MAC"),
        member="KeyMetadata"),
    Row(LOCALSTACK, "CreateKey", {"KeySpec": "HMAC_256"}, invalid(
        "You must specify a KeyUsage value for all KMS keys except for symmetric encryption "
        "keys.")),
    Row(LOCALSTACK, "CreateKey", {"KeySpec": "HMAC_random", "KeyUsage": "GENERATE_VERIFY_MAC"},
        constraint(" 'HMAC_random'", "keySpec", f"satisfy enum value set: {KEY_SPECS_2023}"),
        differs="KMS lists them in another order since (floci-io/floci#3968)"),
    Row(LOCALSTACK, "CreateKey", {"KeySpec": "HMAC_256", "KeyUsage": "RANDOM"}, constraint(
        " 'RANDOM'", "keyUsage",
        "satisfy enum value set: [ENCRYPT_DECRYPT, SIGN_VERIFY, GENERATE_VERIFY_MAC]"),
        differs=NEWER_MODEL),
    Row("nsmithuk/local-kms and grucloud/grucloud, its AwsKMS.js", "CreateKey", {
        "KeySpec": "RSA_2048", "CustomerMasterKeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"},
        invalid("You cannot specify KeySpec and CustomerMasterKeySpec in the same request. "
                "CustomerMasterKeySpec is deprecated.")),
    Row(LOCALSTACK, "CreateKey", {"KeySpec": "RSA_2048", "KeyUsage": "KEY_AGREEMENT"},
        invalid("KeyUsage KEY_AGREEMENT is not compatible with KeySpec RSA_2048")),
    Row(LOCALSTACK, "CreateKey", {"Origin": "EXTERNAL"}, described(
        EncryptionAlgorithms=["SYMMETRIC_DEFAULT"], Enabled=False, KeyState="PendingImport",
        Origin="EXTERNAL"), member="KeyMetadata"),
    Row(LOCALSTACK, "CreateKey", KEYS["p256_external"], described(
        SigningAlgorithms=["ECDSA_SHA_256"], Enabled=False, KeyState="PendingImport"),
        member="KeyMetadata"),
    Row(LOCALSTACK, "CreateKey", {"MultiRegion": True}, described(
        "CurrentKeyMaterialId", EncryptionAlgorithms=["SYMMETRIC_DEFAULT"], MultiRegion=True,
        MultiRegionConfiguration={"MultiRegionKeyType": "PRIMARY", "PrimaryKey": {
            "Arn": "{KeyMetadata.Arn}", "Region": "{region}"}, "ReplicaKeys": []}),
        member="KeyMetadata"),
    Row("floci-io/floci#3025, us-east-1, 2026-09", "CreateKey", KEYS["ml_dsa_44"], described(
        SigningAlgorithms=["ML_DSA_SHAKE_256"]), member="KeyMetadata"),
    *(
        Row(LOCALSTACK, "CreateKey", {"Tags": [
            {"TagKey": name, "TagValue": "1"} for name in names]}, Error("TagException", text))
        for names, text in (
            (["aws:key1"], "Tags beginning with aws: are reserved"),
            (["AWS:key1"], "Tags beginning with aws: are reserved"),
            ([f"key{n}" for n in range(51)], "Too many tags"),
        )
    ),
    Row(LOCALSTACK, "CreateKey", {"Tags": [{"TagKey": "a" * 129, "TagValue": "1"}]}, constraint(
        f" '{'a' * 129}'", "tags.1.member.tagKey", "have length less than or equal to 128")),
    Row(LOCALSTACK, "CreateKey", {"Tags": [{"TagKey": "a", "TagValue": "v" * 257}]}, constraint(
        f" '{'v' * 257}'", "tags.1.member.tagValue", "have length less than or equal to 256")),
    Row(LOCALSTACK, "TagResource", {"KeyId": "{symmetric}", "Tags": [
        {"TagKey": "tag1", "TagValue": "1"}, {"TagKey": "tag1", "TagValue": "2"}]},
        Error("TagException", "Duplicate tag keys")),
    Row(LOCALSTACK, "TagResource", {"KeyId": "{symmetric}", "Tags": [
        {"TagKey": "aws:tag", "TagValue": "1"}]},
        Error("TagException", "Tags beginning with aws: are reserved")),
    Row(LOCALSTACK, "ListResourceTags", {"KeyId": "{k}"}, fields(Truncated=False, Tags=[
        {"TagKey": "tag1", "TagValue": "value1"}, {"TagKey": "tag2", "TagValue": "new"}]), (
        created(Tags=[{"TagKey": "tag1", "TagValue": "value1"},
                      {"TagKey": "tag2", "TagValue": "value2"},
                      {"TagKey": "tag3", "TagValue": "value3"}]),
        ("", "TagResource", {"KeyId": "{k}", "Tags": [{"TagKey": "tag2", "TagValue": "new"}]}),
        ("", "UntagResource", {"KeyId": "{k}", "TagKeys": ["tag3"]}))),
]  # fmt: skip

NAMES: list[Row] = [
    *(
        Row(source, "DescribeKey", {"KeyId": name}, not_found(text))
        for source, name, text in (
            (LOCALSTACK, ABSENT, f"Key '{{prefix}}key/{ABSENT}' does not exist"),
            (LOCALSTACK, f"{{prefix}}key/{ABSENT}", f"Key '{{prefix}}key/{ABSENT}' does not exist"),
            (LOCALSTACK, f"mrk-{'0' * 32}", f"Key '{{prefix}}key/mrk-{'0' * 32}' does not exist"),
            (FLOCI, "786CA7CD-B74B-42B3-B887-902AD7AB6429",
             "Key '{prefix}key/786CA7CD-B74B-42B3-B887-902AD7AB6429' does not exist"),
            (LOCALSTACK, "fake-key-id", "Invalid keyId 'fake-key-id'"),
            (LOCALSTACK, "134f2428cec14b25a1ae9048164dba47",
             "Invalid keyId '134f2428cec14b25a1ae9048164dba47'"),
            (LOCALSTACK, "mrk-fake-key-id", "Invalid keyId 'mrk-fake-key-id'"),
            (FLOCI, "{prefix}key/foo", "Invalid keyId foo"),
            ("mondoohq/mql#10108, 2026-08", "{prefix}key/alias/aws/sqs",
             "Invalid keyId alias/aws/sqs"),
            (LOCALSTACK, f"arn:aws:kms:us-west-2:{{account}}:key/{ABSENT}",
             "Invalid arn us-west-2"),
            (FLOCI, "arn:aws:kms:us-west-2:{account}:alias/x", "Invalid arn us-west-2"),
            (FLOCI, "alias/floci-missing", "Alias {prefix}alias/floci-missing is not found."),
            (FLOCI, "{prefix}alias/floci-missing",
             "Alias {prefix}alias/floci-missing is not found."),
            (FLOCI, "alias/aws/floci-missing",
             "Alias {prefix}alias/aws/floci-missing is not found."),
        )
    ),
    Row(FLOCI, "DescribeKey", {}, constraint(" null", "keyId", "not be null")),
    Row(FLOCI, "DescribeKey", {"KeyId": "キー"}, constraint(
        " 'キー'", "keyId", r"satisfy regular expression pattern: ^\p{{ASCII}}+$")),
    Row(FLOCI, "GetPublicKey", {"KeyId": ""}, invalid(
        "2 validation errors detected: Value '' at 'keyId' failed to satisfy constraint: Member "
        "must have length greater than or equal to 1; Value '' at 'keyId' failed to satisfy "
        r"constraint: Member must satisfy regular expression pattern: ^\p{{ASCII}}+$")),
    *(
        Row(f"{FLOCI}; hashicorp/terraform#20813", operation, of(operation, name), NO_ALIASES)
        for operation in (
            "ScheduleKeyDeletion", "CancelKeyDeletion", "EnableKey", "DisableKey", "TagResource",
            "UntagResource", "ListResourceTags", "UpdateKeyDescription", "GetKeyPolicy",
            "PutKeyPolicy", "ListKeyPolicies", "GetKeyRotationStatus", "EnableKeyRotation",
            "DisableKeyRotation", "RotateKeyOnDemand", "CreateGrant", "ListGrants", "RevokeGrant",
            "GetParametersForImport", "ImportKeyMaterial", "DeleteImportedKeyMaterial",
        )
        for name in ("alias/missing", "{prefix}alias/missing")
    ),
    Row(MOTO, "EnableKeyRotation", {"KeyId": "alias/my-alias"},
        not_found("Invalid keyId alias/my-alias"), (
            created(), ("", "CreateAlias", {"AliasName": "alias/my-alias", "TargetKeyId": "{k}"})),
        differs="AWS itself is reported with InvalidArnException (hashicorp/terraform#20813, "
        "floci-io/floci#3968 and others)"),
    *(
        Row(MOTO, operation, of(operation, "unknown"), not_found("Invalid keyId unknown"),
            differs="recorded from AWS with quotation marks (localstack/localstack)")
        for operation in ("TagResource", "UntagResource", "ListResourceTags")
    ),
    Row(LOCALSTACK, "CreateAlias", {"AliasName": "x", "TargetKeyId": "{symmetric}"}, invalid(
        'Alias must start with the prefix "alias/". Please see '
        "https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html")),
    Row(MOTO, "CreateAlias", {"AliasName": "wrongprefix/my-alias", "TargetKeyId": "{symmetric}"},
        invalid("Invalid identifier"),
        differs="recorded from AWS with another text (localstack/localstack)"),
    Row(MOTO, "DeleteAlias", {"AliasName": "wrongprefix/my-alias"}, invalid("Invalid identifier")),
    *(
        Row(MOTO, "CreateAlias", {"AliasName": f"alias/aws/{name}", "TargetKeyId": "{symmetric}"},
            Error("NotAuthorizedException", None))
        for name in ("ebs", "s3", "redshift", "rds")
    ),
    *(
        Row(MOTO, "CreateAlias", {"AliasName": f"alias/my-alias{mark}", "TargetKeyId":
            "{symmetric}"}, constraint(
                f" 'alias/my-alias{mark}'", "aliasName",
                "satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$"))
        for mark in "!$@"
    ),
    Row(MOTO, "CreateAlias", {"AliasName": "alias/my:alias", "TargetKeyId": "{symmetric}"},
        invalid("alias/my:alias contains invalid characters for an alias")),
    Row(MOTO, "CreateAlias", {"AliasName": "alias/a", "TargetKeyId": "alias/b"},
        invalid("Aliases must refer to keys. Not aliases")),
    Row(MOTO, "CreateAlias", {"AliasName": "alias/twice", "TargetKeyId": "{symmetric}"}, Error(
        "AlreadyExistsException", "An alias with the name {prefix}alias/twice already exists"),
        (("", "CreateAlias", {"AliasName": "alias/twice", "TargetKeyId": "{symmetric}"}),)),
    Row(FLOCI, "UpdateAlias", {"AliasName": "alias/floci-missing", "TargetKeyId": "{symmetric}"},
        not_found("Alias {prefix}alias/floci-missing is not found.")),
    Row(FLOCI, "DeleteAlias", {"AliasName": "alias/floci-missing"},
        not_found("Alias {prefix}alias/floci-missing is not found.")),
    Row(FLOCI, "CreateAlias", {"AliasName": "alias/x"}, constraint(
        " null", "targetKeyId", "not be null")),
]  # fmt: skip

STATES: list[Row] = [
    Row(LOCALSTACK_TEST, "DescribeKey", {"KeyId": "{k}"}, described(
        "CurrentKeyMaterialId", "EncryptionAlgorithms", "DeletionDate", Enabled=False,
        KeyState="PendingDeletion"), (created(), to_deletion()), member="KeyMetadata"),
    Row(LOCALSTACK_TEST, "DescribeKey", {"KeyId": "{k}"}, described(
        "CurrentKeyMaterialId", "EncryptionAlgorithms", Enabled=False, KeyState="Disabled"),
        (created(), to_deletion(), ("", "CancelKeyDeletion", {"KeyId": "{k}"})),
        member="KeyMetadata"),
    *(
        Row("Skyscanner/kms-issuer#8, 2020-08", "ScheduleKeyDeletion", {
            "KeyId": "{symmetric}", "PendingWindowInDays": days},
            invalid("PendingWindowInDays must be between 7 and 30"))
        for days in (1, 6, 31)
    ),
    *(
        Row(FLOCI, operation, of(operation, "{k}", **({"TargetKeyId": "{k}"} if "Alias" in
            operation else {})), state("pending deletion"), (created(), to_deletion()))
        for operation in (
            "EnableKey", "DisableKey", "UpdateKeyDescription", "TagResource", "UntagResource",
            "CreateGrant", "ScheduleKeyDeletion", "CreateAlias",
        )
    ),
    *(
        Row(FLOCI, operation, of(operation, "{k}"), state("pending deletion"),
            (created(Origin="EXTERNAL"), to_deletion()))
        for operation in ("GetParametersForImport", "ImportKeyMaterial")
    ),
    *(
        Row(FLOCI, operation, of(operation, "{k}", **more), state("disabled"),
            (created(**KEYS[key]), to_disabled()))
        for key, operation, more in (
            ("rsa_sign", "Sign", {}), ("rsa_sign", "Verify", {}),
            ("rsa_sign", "Sign", {"SigningAlgorithm": "ECDSA_SHA_256"}),
            ("hmac_256", "GenerateMac", {}), ("hmac_256", "VerifyMac", {}),
            ("hmac_256", "GenerateMac", {"MacAlgorithm": "HMAC_SHA_512"}),
            ("symmetric", "Encrypt", {}), ("symmetric", "GenerateDataKey", {}),
            ("rsa_encrypt", "Encrypt", {"EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}),
            ("rsa_encrypt", "Decrypt", {}),
            ("symmetric", "EnableKeyRotation", {}), ("symmetric", "DisableKeyRotation", {}),
            ("symmetric", "RotateKeyOnDemand", {}), ("hmac_256", "EnableKeyRotation", {}),
            ("hmac_256", "DisableKeyRotation", {}), ("hmac_256", "RotateKeyOnDemand", {}),
        )
    ),
    *(
        Row(FLOCI, operation, of(operation, "{k}", **more), state("pending deletion"),
            (created(**KEYS[key]), to_deletion()))
        for key, operation, more in (
            ("p256_sign", "Sign", {"SigningAlgorithm": "ECDSA_SHA_256"}),
            ("p256_sign", "Sign", {"SigningAlgorithm": "ECDSA_SHA_384"}),
            ("hmac_256", "GenerateMac", {}), ("symmetric", "Encrypt", {}),
            ("p256_sign", "GetPublicKey", {}), ("hmac_256", "GetPublicKey", {}),
            ("hmac_256", "EnableKeyRotation", {}), ("hmac_256", "DisableKeyRotation", {}),
            ("hmac_256", "RotateKeyOnDemand", {}),
        )
    ),
    *(
        Row(FLOCI, operation, of(operation, "{k}", **more), state("pending import"),
            (created(**{**KEYS[key], "Origin": "EXTERNAL"}),))
        for key, operation, more in (
            ("symmetric", "Encrypt", {}), ("symmetric", "GenerateDataKey", {}),
            ("symmetric", "GenerateDataKeyWithoutPlaintext", {}), ("symmetric", "EnableKey", {}),
            ("symmetric", "DisableKey", {}), ("hmac_256", "GenerateMac", {}),
            ("hmac_256", "VerifyMac", {}), ("symmetric", "GetPublicKey", {}),
            ("hmac_256", "GenerateMac", {"MacAlgorithm": "HMAC_SHA_512"}),
            ("symmetric", "RotateKeyOnDemand", {}),
        )
    ),
    *(
        Row(FLOCI, operation, of(operation, "{k}", **more),
            unusable(KEYS[key]["KeyUsage"], operation), (created(**KEYS[key]), change))
        for key, change, operation, more in (
            ("hmac_256", to_disabled(), "Sign", {}), ("hmac_256", to_deletion(), "Sign", {}),
            ("rsa_sign", to_disabled(), "Encrypt", {"EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}),
        )
    ),
    Row(FLOCI, "GetPublicKey", {"KeyId": "{symmetric}"}, UNSUPPORTED),
    Row(FLOCI, "GetPublicKey", {"KeyId": "{k}"}, fields(
        "PublicKey", "KeySpec", "CustomerMasterKeySpec", "KeyUsage", "SigningAlgorithms",
        KeyId="{k.arn}"), (created(**KEYS["p256_sign"]), to_disabled())),
    Row(LOCALSTACK_TEST, "ListKeyPolicies", {"KeyId": "{symmetric}"}, fields(
        PolicyNames=["default"], Truncated=False)),
    Row(MOTO, "GetKeyPolicy", {"KeyId": "{symmetric}", "PolicyName": "other"},
        not_found("No such policy exists")),
]  # fmt: skip

ROTATION: list[Row] = [
    *(
        Row(LOCALSTACK, "GetKeyRotationStatus", {"KeyId": "{k}"}, fields(
            "NextRotationDate", KeyId="{k.arn}", KeyRotationEnabled=True,
            RotationPeriodInDays=days),
            (created(), ("", "EnableKeyRotation", {"KeyId": "{k}", **given})))
        for days, given in (
            (90, {"RotationPeriodInDays": 90}), (180, {"RotationPeriodInDays": 180}), (365, {}))
    ),
    Row(LOCALSTACK, "GetKeyRotationStatus", {"KeyId": "{k}"}, fields(
        KeyId="{k.arn}", KeyRotationEnabled=False),
        (created(), ("", "RotateKeyOnDemand", {"KeyId": "{k}"}))),
    *(
        Row("floci-io/floci#618, 2026-04", "GetKeyRotationStatus", {"KeyId": f"{{{key}}}"},
            fields(KeyId=f"{{{key}.arn}}", KeyRotationEnabled=False))
        for key in ("p256_sign", "hmac_256")
    ),
    Row(LOCALSTACK, "RotateKeyOnDemand", {"KeyId": "{k}"}, fields(KeyId="{k.arn}"), (created(),)),
    Row(LOCALSTACK, "RotateKeyOnDemand", {"KeyId": ABSENT},
        not_found(f"Key '{{prefix}}key/{ABSENT}' does not exist")),
    Row(LOCALSTACK, "RotateKeyOnDemand", {"KeyId": "{rsa_encrypt}"}, UNSUPPORTED),
    Row(LOCALSTACK, "RotateKeyOnDemand", {"KeyId": "{k}"}, Error(
        "LimitExceededException",
        "The on-demand rotations limit has been reached for the given keyId. No more on-demand "
        "rotations can be performed for this key: {k.arn}"), (
        created(), *(("", "RotateKeyOnDemand", {"KeyId": "{k}"}) for _ in range(25)))),
    Row(LOCALSTACK + ", 2025-03", "RotateKeyOnDemand", {"KeyId": "{external}"}, Error(
        "UnsupportedOperationException",
        "{external.arn} origin is EXTERNAL which is not valid for this operation."),
        differs="since 2025-11 KMS rotates imported key material (localstack/localstack)"),
    Row(LOCALSTACK, "RotateKeyOnDemand", {"KeyId": "{external}"},
        state("pending import", "{external.arn}")),
    *(
        Row(FLOCI, operation, {"KeyId": f"{{{key}}}"}, UNSUPPORTED)
        for key in ("hmac_256", "rsa_encrypt")
        for operation in ("EnableKeyRotation", "RotateKeyOnDemand")
    ),
    *(
        Row(FLOCI, "DisableKeyRotation", {"KeyId": f"{{{key}}}"}, fields())
        for key in ("hmac_256", "rsa_encrypt", "rsa_sign", "p256_sign", "ml_dsa_44")
    ),
    *(
        Row(FLOCI, operation, of(operation, f"{{{key}}}"), Error(
            "UnsupportedOperationException",
            f"{{{key}.arn}} origin is {origin} which is not valid for this operation."))
        for operation, key, origin in (
            ("GetParametersForImport", "symmetric", "AWS_KMS"),
            ("ImportKeyMaterial", "symmetric", "AWS_KMS"),
            ("DeleteImportedKeyMaterial", "symmetric", "AWS_KMS"),
        )
    ),
    *(
        Row(FLOCI, operation, {"KeyId": "{external}"}, Error(
            "UnsupportedOperationException",
            "{external.arn} origin is EXTERNAL which is not valid for this operation."))
        for operation in ("EnableKeyRotation", "DisableKeyRotation")
    ),
    *(
        Row(FLOCI, "EnableKeyRotation", {"KeyId": NIL, "RotationPeriodInDays": days}, constraint(
            f" '{days}'", "rotationPeriodInDays", f"have value {text}"))
        for days, text in (
            (89, "greater than or equal to 90"), (2561, "less than or equal to 2560"))
    ),
    Row(LOCALSTACK, "Decrypt", {"CiphertextBlob": "{sealed.CiphertextBlob}"}, fields(
        "Plaintext", "KeyMaterialId", "EncryptionAlgorithm", KeyId="{k.arn}"),
        (created(), encrypted("{k}"), ("", "RotateKeyOnDemand", {"KeyId": "{k}"}))),
    Row("getmoto/moto test_kms_key_rotation.py", "ListKeyRotations", {"KeyId": "{k}"},
        fields(Rotations=[], Truncated=False), (created(),)),
    Row("getmoto/moto test_kms_key_rotation.py", "ListKeyRotations", {"KeyId": "{k}", "Limit": 1},
        fields("Rotations", "NextMarker", Truncated=True),
        (created(), *(("", "RotateKeyOnDemand", {"KeyId": "{k}"}) for _ in range(2)))),
    Row(FLOCI, "GetParametersForImport", {"KeyId": "{external}", "WrappingAlgorithm":
        "RSAES_PKCS1_V1_5", "WrappingKeySpec": "RSA_2048"},
        Error("UnsupportedOperationException", "...")),
    Row(LOCALSTACK, "GetParametersForImport", of("GetParametersForImport", "{external}"), fields(
        "ImportToken", "ParametersValidTo", "PublicKey", KeyId="{external.arn}")),
    Row(LOCALSTACK, "ImportKeyMaterial", {"KeyId": "{external}", "ImportToken": TEXT,
        "EncryptedKeyMaterial": TEXT}, invalid(
            "A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES")),
]  # fmt: skip

OTHERS: list[Row] = [
    Row(LOCALSTACK, "ReplicateKey", {"KeyId": "{k}", "ReplicaRegion": "ap-southeast-1"}, described(
        "EncryptionAlgorithms", Enabled=False, KeyState="Creating", Description="",
        MultiRegion=True, MultiRegionConfiguration={
            "MultiRegionKeyType": "REPLICA",
            "PrimaryKey": {"Arn": "{k.arn}", "Region": "{region}"},
            "ReplicaKeys": [{
                "Arn": "arn:aws:kms:ap-southeast-1:{account}:key/{k}",
                "Region": "ap-southeast-1"}]}),
        (created(MultiRegion=True, Description="test replicated key"),),
        member="ReplicaKeyMetadata"),
    Row(LOCALSTACK, "DescribeKey", {"KeyId": "{k}"}, described(
        "CurrentKeyMaterialId", "EncryptionAlgorithms", Enabled=True, KeyState="Enabled",
        MultiRegion=True, MultiRegionConfiguration={
            "MultiRegionKeyType": "PRIMARY",
            "PrimaryKey": {"Arn": "{k.arn}", "Region": "{region}"},
            "ReplicaKeys": [{
                "Arn": "arn:aws:kms:ap-southeast-1:{account}:key/{k}",
                "Region": "ap-southeast-1"}]}), (
        created(MultiRegion=True),
        ("", "ReplicateKey", {"KeyId": "{k}", "ReplicaRegion": "ap-southeast-1"})),
        member="KeyMetadata"),
    *(
        Row(LOCALSTACK_TEST, operation, of(operation, "invalid"),
            not_found("Invalid keyId 'invalid'"))
        for operation in ("CreateGrant", "ListGrants")
    ),
    Row(LOCALSTACK_TEST, "CreateGrant", {
        "KeyId": "{symmetric}", "GranteePrincipal": "arn:aws:iam::000000000000:user/u",
        "Operations": ["Decrypt", "Encrypt"]}, fields("GrantId", "GrantToken")),
    Row("ansible/ansible#31960", "CreateGrant", {
        "KeyId": "{symmetric}", "GranteePrincipal": "arn:aws:iam::000000000000:user/u",
        "Operations": ["CreateGrant"]},
        invalid("Grants must not contain only the CreateGrant operation.")),
    Row(LOCALSTACK_TEST, "ListGrants", {"KeyId": "{k}"}, fields(Grants=[], Truncated=False), (
        created(), ("g", "CreateGrant", of("CreateGrant", "{k}")),
        ("", "RevokeGrant", {"KeyId": "{k}", "GrantId": "{g.GrantId}"}))),
    Row(LOCALSTACK_TEST, "ListGrants", {"KeyId": "{k}"}, fields(Grants=[], Truncated=False), (
        created(), ("g", "CreateGrant", of("CreateGrant", "{k}")),
        ("", "RetireGrant", {"GrantToken": "{g.GrantToken}"}))),
    Row(LOCALSTACK_TEST, "ListGrants", {"KeyId": "{k}"}, fields(Grants=[], Truncated=False), (
        created(), ("g", "CreateGrant", of("CreateGrant", "{k}")),
        ("", "RetireGrant", {"KeyId": "{k}", "GrantId": "{g.GrantId}"}))),
    Row("getmoto/moto test_kms_grants.py", "RevokeGrant", {"KeyId": "{symmetric}", "GrantId":
        "aabbccdd"}, not_found("Grant ID aabbccdd not found")),
]  # fmt: skip
