"""What AWS's KMS is on record to do, as a table of our own: request, and error or fields.

Each row names its source. `{name}` in a row is the id of a key in `KEYS`, or of one that an
earlier step of the row created; `{name.arn}` its ARN, `{name.Member}` a member of the step's
response. `{prefix}` is how ARNs of the caller's Region and account begin.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

LOCALSTACK = "localstack/localstack test_kms.snapshot.json, recorded from AWS"
LOCALSTACK_TEST = "localstack/localstack test_kms.py, validated against AWS"
MOTO_AWS = "getmoto/moto test_kms_encrypt.py, verified against AWS"
MOTO = "getmoto/moto test_kms.py"
FLOCI = "floci-io/floci#3968, measured in us-east-1, 2026-09"
FLOCI_ML_DSA = "floci-io/floci#3025, us-east-1, 2026-09"

KEYS: dict[str, dict[str, Any]] = {
    "symmetric": {},
    "other": {},
    "hmac_224": {"KeySpec": "HMAC_224", "KeyUsage": "GENERATE_VERIFY_MAC"},
    "hmac_256": {"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"},
    "rsa_encrypt": {"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT"},
    "rsa_sign": {"KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"},
    "rsa_3072": {"KeySpec": "RSA_3072", "KeyUsage": "ENCRYPT_DECRYPT"},
    "rsa_4096": {"KeySpec": "RSA_4096", "KeyUsage": "ENCRYPT_DECRYPT"},
    "p256_sign": {"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"},
    "p256_agree": {"KeySpec": "ECC_NIST_P256", "KeyUsage": "KEY_AGREEMENT"},
    "p256_external": {"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY", "Origin": "EXTERNAL"},
    "p384_sign": {"KeySpec": "ECC_NIST_P384", "KeyUsage": "SIGN_VERIFY"},
    "k1_sign": {"KeySpec": "ECC_SECG_P256K1", "KeyUsage": "SIGN_VERIFY"},
    "ed25519": {"KeySpec": "ECC_NIST_EDWARDS25519", "KeyUsage": "SIGN_VERIFY"},
    "ml_dsa_44": {"KeySpec": "ML_DSA_44", "KeyUsage": "SIGN_VERIFY"},
    "external": {"Origin": "EXTERNAL"},
    "primary": {"MultiRegion": True},
}

ABSENT = "12345678-1234-1234-1234-123456789012"
NIL = "00000000-0000-0000-0000-000000000000"
TEXT = base64.b64encode(b"some important message").decode()


def blob(size: int, fill: int = 97) -> str:
    return base64.b64encode(bytes([fill]) * size).decode()


@dataclass(frozen=True)
class Error:
    """An error response; a message of None is absent from it."""

    type: str
    message: str | None
    status: int = 400


@dataclass(frozen=True)
class Fields:
    """A response: all its members, and the values of some."""

    names: frozenset[str]
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One recording.

    Attributes:
        source: where the fact is from.
        operation: of the recorded request.
        parameters: its JSON.
        expected: what AWS's KMS responded.
        steps: requests before it: a name for the response, operation, JSON.
        differs: why the simulator responds otherwise; empty if it agrees.
        member: which member of the response `expected` describes; empty for the response itself.
        caller_policy: the caller's IAM policy; empty if it allows everything.
        region: that the request goes to; empty for that of the steps.
    """

    source: str
    operation: str
    parameters: Any
    expected: Error | Fields
    steps: tuple[tuple[str, str, dict[str, Any]], ...] = ()
    differs: str = ""
    member: str = ""
    caller_policy: str = ""
    region: str = ""


def invalid(text: str) -> Error:
    return Error("ValidationException", text)


def constraint(value: str, path: str, text: str) -> Error:
    """The error of one member against the service model."""
    return invalid(
        f"1 validation error detected: Value{value} at '{path}' failed to satisfy constraint: "
        f"Member must {text}"
    )


def fields(*names: str, **values: Any) -> Fields:
    return Fields(frozenset((*names, *values)), values)


SIGNING_ALGORITHMS = (
    "[RSASSA_PSS_SHA_256, RSASSA_PSS_SHA_384, RSASSA_PSS_SHA_512, RSASSA_PKCS1_V1_5_SHA_256, "
    "RSASSA_PKCS1_V1_5_SHA_384, RSASSA_PKCS1_V1_5_SHA_512, ECDSA_SHA_256, ECDSA_SHA_384, "
    "ECDSA_SHA_512, ED25519_SHA_512, ED25519_PH_SHA_512, SM2DSA, ML_DSA_SHAKE_256]"
)
KEY_SPECS_2026 = (
    "[RSA_2048, RSA_3072, RSA_4096, ECC_NIST_P256, ECC_NIST_P384, ECC_NIST_P521, ECC_SECG_P256K1, "
    "ECC_NIST_EDWARDS25519, SYMMETRIC_DEFAULT, HMAC_224, HMAC_256, HMAC_384, HMAC_512, SM2, "
    "ML_DSA_44, ML_DSA_65, ML_DSA_87]"
)
KEY_SPECS_2023 = (
    "[RSA_2048, ECC_NIST_P384, ECC_NIST_P256, ECC_NIST_P521, HMAC_384, RSA_3072, ECC_SECG_P256K1, "
    "RSA_4096, SYMMETRIC_DEFAULT, HMAC_256, HMAC_224, HMAC_512]"
)
MACS = "[HMAC_SHA_384, HMAC_SHA_256, HMAC_SHA_224, HMAC_SHA_512]"
NEWER_MODEL = "the model has members that the recording is too old for"

METADATA = {
    "AWSAccountId", "Arn", "CreationDate", "CustomerMasterKeySpec", "Description", "Enabled",
    "KeyId", "KeyManager", "KeySpec", "KeyState", "KeyUsage", "MultiRegion", "Origin",
}  # fmt: skip


def described(*names: str, **values: Any) -> Fields:
    """KeyMetadata."""
    return Fields(frozenset((*METADATA, *names, *values)), values)


INCORRECT_KEY = Error(
    "IncorrectKeyException",
    "The key ID in the request does not identify a CMK that can perform this operation.",
)
DRY_RUN = Error(
    "DryRunOperationException", "The request would have succeeded, but the DryRun option is set."
)
NO_ALIASES = Error("InvalidArnException", "Key Aliases are not supported for this operation.")


def encrypted(key: str = "{symmetric}") -> tuple[str, str, dict[str, Any]]:
    return ("sealed", "Encrypt", {"KeyId": key, "Plaintext": TEXT})


def created(name: str = "k", **parameters: Any) -> tuple[str, str, dict[str, Any]]:
    return (name, "CreateKey", parameters)


def to_disabled(key: str = "{k}") -> tuple[str, str, dict[str, Any]]:
    return ("", "DisableKey", {"KeyId": key})


def to_deletion(key: str = "{k}") -> tuple[str, str, dict[str, Any]]:
    return ("", "ScheduleKeyDeletion", {"KeyId": key, "PendingWindowInDays": 7})


def signing(key: str, algorithm: str, **more: Any) -> dict[str, Any]:
    return {"KeyId": key, "Message": TEXT, "SigningAlgorithm": algorithm, **more}


def unusable(usage: str, operation: str, key: str = "{k.arn}") -> Error:
    return Error(
        "InvalidKeyUsageException",
        f"{key} key usage is {usage} which is not valid for {operation}.",
    )


def incompatible(algorithm: str, spec: str) -> Error:
    return Error(
        "InvalidKeyUsageException", f"Algorithm {algorithm} is incompatible with key spec {spec}."
    )


ENCRYPTION: list[Row] = [
    Row(LOCALSTACK, "GenerateRandom", {}, invalid("NumberOfBytes is required.")),
    Row(LOCALSTACK, "GenerateRandom", {"NumberOfBytes": 0}, constraint(
        " '0'", "numberOfBytes", "have value greater than or equal to 1")),
    Row(LOCALSTACK, "GenerateRandom", {"NumberOfBytes": 1025}, constraint(
        " '1025'", "numberOfBytes", "have value less than or equal to 1024")),
    Row(LOCALSTACK, "GenerateRandom", {"NumberOfBytes": 12}, fields("Plaintext")),
    *(
        Row(
            LOCALSTACK, "Encrypt",
            {"KeyId": key, "Plaintext": blob(size + 1), "EncryptionAlgorithm": algorithm},
            invalid(f"Algorithm {algorithm} and key spec {spec} cannot encrypt data larger than "
                    f"{size} bytes."),
        )
        for key, spec, algorithm, size in (
            ("{rsa_encrypt}", "RSA_2048", "RSAES_OAEP_SHA_1", 214),
            ("{rsa_encrypt}", "RSA_2048", "RSAES_OAEP_SHA_256", 190),
            ("{rsa_3072}", "RSA_3072", "RSAES_OAEP_SHA_1", 342),
            ("{rsa_3072}", "RSA_3072", "RSAES_OAEP_SHA_256", 318),
            ("{rsa_4096}", "RSA_4096", "RSAES_OAEP_SHA_1", 470),
            ("{rsa_4096}", "RSA_4096", "RSAES_OAEP_SHA_256", 446),
        )
    ),
    Row(LOCALSTACK, "Encrypt", {"KeyId": "{symmetric}", "Plaintext": blob(4097)}, constraint(
        "", "plaintext", "have length less than or equal to 4096")),
    Row(MOTO_AWS, "Encrypt", {"KeyId": "{symmetric}", "Plaintext": ""}, constraint(
        "", "plaintext", "have length greater than or equal to 1")),
    Row(LOCALSTACK, "Encrypt", {"KeyId": "{symmetric}", "Plaintext": TEXT}, fields(
        "CiphertextBlob", KeyId="{symmetric.arn}", EncryptionAlgorithm="SYMMETRIC_DEFAULT")),
    Row(LOCALSTACK, "Encrypt", {"KeyId": "{rsa_sign}", "Plaintext": TEXT},
        unusable("SIGN_VERIFY", "Encrypt", "{rsa_sign.arn}")),
    Row("zalando/spring-cloud-config-aws-kms#82; jkroepke/helm-secrets#395", "Encrypt",
        {"KeyId": "{rsa_encrypt}", "Plaintext": TEXT},
        incompatible("SYMMETRIC_DEFAULT", "RSA_2048")),
    Row(FLOCI, "Encrypt", {"KeyId": "{symmetric}", "Plaintext": TEXT, "EncryptionAlgorithm": "FOO"},
        constraint(" 'FOO'", "encryptionAlgorithm", "satisfy enum value set: "
                   "[RSAES_OAEP_SHA_1, RSAES_OAEP_SHA_256, SM2PKE, SYMMETRIC_DEFAULT]")),
    Row(FLOCI, "Encrypt", {"KeyId": NIL}, constraint("", "plaintext", "not be null")),
    Row(LOCALSTACK, "Decrypt", {"CiphertextBlob": "{sealed.CiphertextBlob}"}, fields(
        "Plaintext", "KeyMaterialId", KeyId="{symmetric.arn}",
        EncryptionAlgorithm="SYMMETRIC_DEFAULT"), (encrypted(),)),
    Row(LOCALSTACK, "Decrypt", {"CiphertextBlob": "{sealed.CiphertextBlob}", "EncryptionContext":
        {"a": "b"}}, Error("InvalidCiphertextException", None), (encrypted(),)),
    Row(LOCALSTACK, "Decrypt", {"CiphertextBlob": blob(100)},
        Error("InvalidCiphertextException", None)),
    *(
        Row(source, "Decrypt", {"CiphertextBlob": "{sealed.CiphertextBlob}", "KeyId": key},
            INCORRECT_KEY, (encrypted(),))
        for source, key in (
            (LOCALSTACK, "{hmac_224}"),
            (f"{FLOCI}; hashicorp/terraform-provider-aws#28604", "{rsa_encrypt}"),
            (FLOCI, "{rsa_sign}"),
            (FLOCI, "{external}"),
            ("floci-io/floci#1844", "{other}"),
        )
    ),
    Row(FLOCI, "Decrypt", {}, constraint(" null", "ciphertextBlob", "not be null")),
    Row(FLOCI, "Decrypt", {"CiphertextBlob": ""}, constraint(
        "", "ciphertextBlob", "have length greater than or equal to 1")),
    Row("floci-io/floci#3038, measured in us-east-1, 2026-09", "Decrypt",
        {"CiphertextBlob": "{sealed.CiphertextBlob}", "KeyId": "{rsa_encrypt}"},
        Error("InvalidCiphertextException", None),
        (("sealed", "Encrypt", {"KeyId": "{rsa_encrypt}", "Plaintext": TEXT,
                                "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}),)),
    *(
        Row(FLOCI, "Decrypt", {"CiphertextBlob": blob(size, 1), "KeyId": "{rsa_encrypt}",
            "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}, Error("InvalidCiphertextException", None))
        for size in (256, 10)
    ),
    Row(LOCALSTACK, "ReEncrypt", {"CiphertextBlob": "{sealed.CiphertextBlob}", "SourceKeyId":
        "{symmetric}", "DestinationKeyId": "{other}"}, fields(
        "CiphertextBlob", "SourceKeyMaterialId", "DestinationKeyMaterialId",
        KeyId="{other.arn}", SourceKeyId="{symmetric.arn}",
        SourceEncryptionAlgorithm="SYMMETRIC_DEFAULT",
        DestinationEncryptionAlgorithm="SYMMETRIC_DEFAULT"), (encrypted(),)),
    Row(LOCALSTACK, "ReEncrypt", {"CiphertextBlob": "{sealed.CiphertextBlob}", "SourceKeyId":
        "{hmac_224}", "DestinationKeyId": "{hmac_224}"}, INCORRECT_KEY, (encrypted(),)),
    Row(LOCALSTACK_TEST, "ReEncrypt", {"CiphertextBlob": "{sealed.CiphertextBlob}", "SourceKeyId":
        "{symmetric}", "DestinationKeyId": "{p256_sign}"},
        unusable("SIGN_VERIFY", "ReEncrypt", "{p256_sign.arn}"), (encrypted(),)),
    Row(FLOCI, "ReEncrypt", {"CiphertextBlob": "{sealed.CiphertextBlob}", "DestinationKeyId":
        "{external}"}, Error("KMSInvalidStateException", "{external.arn} is pending import."),
        (encrypted(),)),
    Row(FLOCI, "ReEncrypt", {"CiphertextBlob": "AAAA"}, constraint(
        " null", "destinationKeyId", "not be null")),
    Row(MOTO, "ReEncrypt", {"CiphertextBlob": "{sealed.CiphertextBlob}", "DestinationKeyId":
        "alias/DoesNotExist"}, Error(
            "NotFoundException", "Alias {prefix}alias/DoesNotExist is not found."), (encrypted(),)),
]  # fmt: skip

DATA_KEYS: list[Row] = [
    Row(LOCALSTACK, "GenerateDataKey", {"KeyId": "{symmetric}", "KeySpec": "AES_256"}, fields(
        "CiphertextBlob", "Plaintext", "KeyMaterialId", KeyId="{symmetric.arn}")),
    Row(LOCALSTACK, "GenerateDataKeyWithoutPlaintext", {"KeyId": "{symmetric}", "KeySpec":
        "AES_256"}, fields("CiphertextBlob", "KeyMaterialId", KeyId="{symmetric.arn}")),
    Row(LOCALSTACK, "GenerateDataKeyPair", {"KeyId": "{symmetric}", "KeyPairSpec": "RSA_2048"},
        fields("PrivateKeyCiphertextBlob", "PrivateKeyPlaintext", "PublicKey", "KeyMaterialId",
               KeyId="{symmetric.arn}", KeyPairSpec="RSA_2048")),
    Row(LOCALSTACK, "GenerateDataKeyPairWithoutPlaintext", {"KeyId": "{symmetric}", "KeyPairSpec":
        "RSA_2048"}, fields("PrivateKeyCiphertextBlob", "PublicKey", "KeyMaterialId",
                            KeyId="{symmetric.arn}", KeyPairSpec="RSA_2048")),
    *(
        Row(LOCALSTACK, operation, {"KeyId": "{symmetric}", "KeyPairSpec": "ECC_NIST_P256",
                                    "DryRun": True}, DRY_RUN)
        for operation in ("GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext")
    ),
    *(
        Row(FLOCI, operation, {"KeyId": NIL, "KeySpec": value}, constraint(
            f" '{value}'", "keySpec", f"satisfy enum value set: {KEY_SPECS_2026}"),
            differs=NEWER_MODEL)
        for operation, value in (("GenerateDataKey", "FOO"), ("GenerateDataKey", "RSA_2048"),
                                 ("GenerateDataKeyWithoutPlaintext", "FOO"))
    ),
    Row("boto/boto3#3428, 2022-09", "GenerateDataKey", {"KeyId": NIL, "KeySpec": "AES-256"},
        constraint(" 'AES-256'", "keySpec", f"satisfy enum value set: {KEY_SPECS_2023}"),
        differs="KMS lists them in another order since (floci-io/floci#3968)"),
    Row(FLOCI, "GenerateDataKey", {"KeyId": NIL, "NumberOfBytes": 1025}, constraint(
        " '1025'", "numberOfBytes", "have value less than or equal to 1024")),
    *(
        Row(FLOCI, operation, {"KeyId": "{rsa_encrypt}", "KeySpec": "AES_256"}, Error(
            "InvalidKeyUsageException", "You cannot generate a data key with an asymmetric CMK"))
        for operation in ("GenerateDataKey", "GenerateDataKeyWithoutPlaintext")
    ),
    Row(FLOCI, "GenerateDataKey", {"KeyId": "{p256_sign}", "KeySpec": "AES_256"},
        unusable("SIGN_VERIFY", "GenerateDataKey", "{p256_sign.arn}")),
    Row(FLOCI, "GenerateDataKey", {"KeyId": "{k}", "KeySpec": "AES_256"},
        Error("DisabledException", "{k.arn} is disabled."),
        (created(KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT"), to_disabled())),
    *(
        Row(FLOCI, operation, {"KeyId": "{k}", **more},
            invalid("Please specify either number of bytes or key spec."),
            (created(**parameters), to_disabled()))
        for operation, parameters, more in (
            ("GenerateDataKey", {}, {}),
            ("GenerateDataKey", {}, {"KeySpec": "AES_256", "NumberOfBytes": 32}),
            ("GenerateDataKeyWithoutPlaintext", {}, {}),
            ("GenerateDataKey", KEYS["hmac_256"], {}),
        )
    ),
    Row(LOCALSTACK, "DeriveSharedSecret", {"KeyId": "{p256_agree}", "KeyAgreementAlgorithm": "ECDH",
        "PublicKey": "{public.PublicKey}"}, fields(
            "SharedSecret", KeyId="{p256_agree.arn}", KeyAgreementAlgorithm="ECDH",
            KeyOrigin="AWS_KMS"), (("public", "GetPublicKey", {"KeyId": "{p256_agree}"}),)),
    *(
        Row(LOCALSTACK, "DeriveSharedSecret", {"KeyId": f"{{{key}}}", "KeyAgreementAlgorithm":
            "ECDH", "PublicKey": TEXT}, unusable(usage, "DeriveSharedSecret", f"{{{key}.arn}}"))
        for key, usage in (("p256_sign", "SIGN_VERIFY"), ("symmetric", "ENCRYPT_DECRYPT"))
    ),
    Row(LOCALSTACK, "DeriveSharedSecret", {"KeyId": "{p256_agree}", "KeyAgreementAlgorithm": "ECDH",
        "PublicKey": TEXT}, Error("ValidationException", None)),
    Row(LOCALSTACK, "DeriveSharedSecret", {"KeyId": "{p256_agree}", "KeyAgreementAlgorithm":
        "INVALID", "PublicKey": TEXT}, constraint(
            " 'INVALID'", "keyAgreementAlgorithm", "satisfy enum value set: [ECDH]")),
]  # fmt: skip

SIGNATURES: list[Row] = [
    *(
        row
        for key, algorithm in (
            ("rsa_sign", "RSASSA_PSS_SHA_256"), ("rsa_sign", "RSASSA_PSS_SHA_384"),
            ("rsa_sign", "RSASSA_PSS_SHA_512"), ("rsa_sign", "RSASSA_PKCS1_V1_5_SHA_256"),
            ("rsa_sign", "RSASSA_PKCS1_V1_5_SHA_512"), ("p256_sign", "ECDSA_SHA_256"),
            ("p384_sign", "ECDSA_SHA_384"), ("k1_sign", "ECDSA_SHA_256"),
        )
        for signed in (("signed", "Sign", signing(f"{{{key}}}", algorithm)),)
        for row in (
            Row(LOCALSTACK, *signed[1:], fields(
                "Signature", KeyId=f"{{{key}.arn}}", SigningAlgorithm=algorithm)),
            Row(LOCALSTACK, "Verify", signing(
                f"{{{key}}}", algorithm, Signature="{signed.Signature}"), fields(
                KeyId=f"{{{key}.arn}}", SignatureValid=True, SigningAlgorithm=algorithm),
                (signed,)),
            Row(LOCALSTACK, "Sign", signing(
                f"{{{key}}}", algorithm, Message=blob(20), MessageType="DIGEST"),
                invalid(f"Digest is invalid length for algorithm {algorithm}.")),
            Row(LOCALSTACK, "Verify", signing(f"{{{key}}}", algorithm, Signature=blob(64)),
                Error("KMSInvalidSignatureException", None)),
        )
    ),
    Row(LOCALSTACK, "Sign", signing("{hmac_224}", "RSASSA_PSS_SHA_256"),
        unusable("GENERATE_VERIFY_MAC", "Sign", "{hmac_224.arn}")),
    Row(LOCALSTACK, "Verify", signing("{symmetric}", "ECDSA_SHA_256", Signature=TEXT),
        unusable("ENCRYPT_DECRYPT", "Verify", "{symmetric.arn}")),
    Row(FLOCI, "Sign", signing(NIL, "FOO"), constraint(
        " 'FOO'", "signingAlgorithm", f"satisfy enum value set: {SIGNING_ALGORITHMS}")),
    Row(FLOCI, "Sign", {"KeyId": "{rsa_sign}", "Message": TEXT}, constraint(
        " null", "signingAlgorithm", "not be null")),
    Row(FLOCI, "Sign", signing("{rsa_sign}", "SYMMETRIC_DEFAULT"),
        incompatible("SYMMETRIC_DEFAULT", "RSA_2048"),
        differs="the model's enumeration has no SYMMETRIC_DEFAULT: it is rejected earlier"),
    *(
        Row(FLOCI, operation, signing(key, algorithm, Signature=blob(64)),
            incompatible(algorithm, spec))
        for key, spec, algorithm, operation in (
            ("{rsa_sign}", "RSA_2048", "ECDSA_SHA_256", "Sign"),
            ("{rsa_sign}", "RSA_2048", "ECDSA_SHA_256", "Verify"),
            ("{p256_sign}", "ECC_NIST_P256", "ECDSA_SHA_384", "Sign"),
            ("{p256_sign}", "ECC_NIST_P256", "RSASSA_PSS_SHA_256", "Sign"),
            ("{p256_sign}", "ECC_NIST_P256", "ED25519_PH_SHA_512", "Sign"),
            ("{ed25519}", "ECC_NIST_EDWARDS25519", "ECDSA_SHA_512", "Sign"),
        )
    ),
    Row(FLOCI, "Sign", signing("{p256_sign}", "ECDSA_SHA_384", Message=blob(20),
        MessageType="DIGEST"), incompatible("ECDSA_SHA_384", "ECC_NIST_P256")),
    Row(FLOCI, "Sign", signing(NIL, "ECDSA_SHA_256", MessageType="FOO"), constraint(
        " 'FOO'", "messageType", "satisfy enum value set: [RAW, DIGEST, EXTERNAL_MU]")),
    *(
        Row(FLOCI, "Sign", signing("{ed25519}", algorithm, MessageType=kind),
            invalid(f"Message type {kind} is incompatible with algorithm {algorithm}."))
        for algorithm, kind in (("ED25519_SHA_512", "DIGEST"), ("ED25519_PH_SHA_512", "RAW"))
    ),
    *(
        Row(FLOCI, operation, signing("{ed25519}", "ED25519_PH_SHA_512", MessageType="DIGEST",
            Message=blob(20), Signature=blob(64)),
            invalid("Digest is invalid length for algorithm ED25519_PH_SHA_512."))
        for operation in ("Sign", "Verify")
    ),
    Row(FLOCI_ML_DSA, "Sign", signing("{ml_dsa_44}", "ML_DSA_SHAKE_256", MessageType="DIGEST"),
        invalid("Message type DIGEST is incompatible with key spec ML_DSA_44.")),
    *(
        Row(FLOCI, "Verify", signing(key, algorithm, Signature=blob(size)),
            Error("KMSInvalidSignatureException", None))
        for key, algorithm, size in (
            ("{rsa_sign}", "RSASSA_PSS_SHA_256", 1), ("{p256_sign}", "ECDSA_SHA_256", 1),
            ("{rsa_sign}", "RSASSA_PKCS1_V1_5_SHA_256", 6144), ("{k1_sign}", "ECDSA_SHA_256", 6144),
            ("{ed25519}", "ED25519_SHA_512", 1), ("{ml_dsa_44}", "ML_DSA_SHAKE_256", 6144),
        )
    ),
    *(
        Row(FLOCI, "Verify", {"KeyId": NIL, "Message": TEXT, "SigningAlgorithm": "ECDSA_SHA_256",
            **given}, constraint(value, "signature", text))
        for given, value, text in (
            ({}, " null", "not be null"),
            ({"Signature": ""}, "", "have length greater than or equal to 1"),
        )
    ),
    Row(FLOCI, "Sign", {"KeyId": NIL, "SigningAlgorithm": "ECDSA_SHA_256"},
        constraint("", "message", "not be null")),
    *(
        row
        for size in ("224", "256")
        for key, algorithm in ((f"hmac_{size}", f"HMAC_SHA_{size}"),)
        for request in ({"KeyId": f"{{{key}}}", "Message": TEXT, "MacAlgorithm": algorithm},)
        for row in (
            Row(LOCALSTACK, "GenerateMac", request, fields(
                "Mac", KeyId=f"{{{key}.arn}}", MacAlgorithm=algorithm)),
            Row(LOCALSTACK, "VerifyMac", {**request, "Mac": "{made.Mac}"}, fields(
                KeyId=f"{{{key}.arn}}", MacAlgorithm=algorithm, MacValid=True),
                (("made", "GenerateMac", request),)),
            Row(LOCALSTACK, "VerifyMac", {**request, "Mac": "{made.Mac}", "Message": blob(9)},
                Error("KMSInvalidMacException", None), (("made", "GenerateMac", request),)),
        )
    ),
    *(
        Row(source, operation, {"KeyId": key, "Message": TEXT, "MacAlgorithm": algorithm,
            "Mac": blob(32)}, expected)
        for source, operation, key, algorithm, expected in (
            (LOCALSTACK, "GenerateMac", "{hmac_224}", "HMAC_SHA_256",
             incompatible("HMAC_SHA_256", "HMAC_224")),
            (LOCALSTACK, "VerifyMac", "{hmac_256}", "HMAC_SHA_512",
             incompatible("HMAC_SHA_512", "HMAC_256")),
            (LOCALSTACK, "GenerateMac", "{hmac_256}", "INVALID", constraint(
                " 'INVALID'", "macAlgorithm", f"satisfy enum value set: {MACS}")),
            (FLOCI, "VerifyMac", NIL, "FOO", constraint(
                " 'FOO'", "macAlgorithm", f"satisfy enum value set: {MACS}")),
            (LOCALSTACK, "GenerateMac", "{symmetric}", "HMAC_SHA_224",
             unusable("ENCRYPT_DECRYPT", "GenerateMac", "{symmetric.arn}")),
            (FLOCI, "VerifyMac", "{rsa_sign}", "HMAC_SHA_256",
             unusable("SIGN_VERIFY", "VerifyMac", "{rsa_sign.arn}")),
            (LOCALSTACK, "GenerateMac", "key_id", "HMAC_SHA_256",
             Error("NotFoundException", "Invalid keyId 'key_id'")),
        )
    ),
]  # fmt: skip
