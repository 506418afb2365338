"""What the simulated KMS does with its keys, through botocore's own client."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_der_public_key
from hypothesis import given
from hypothesis import strategies as st

from enclave_simulator.authority import Authority
from enclave_simulator.kms.service import KmsService
from enclave_simulator.kms.specs import unsupported
from enclave_simulator.kms.validation import service_model
from tests.enclave_simulator.documents import rsa_key, spki
from tests.enclave_simulator.kms.kms_client import PREFIX, ask, refusal, signed

AUTHORITY = Authority.generate()


# Encrypt and Decrypt


def test_only_the_same_context_decrypts(kms: Any, key: str) -> None:
    context = {"purpose": "test", "ü": "\0"}
    sealed = kms.encrypt(KeyId=key, Plaintext=b"secret", EncryptionContext=context)
    assert (sealed["KeyId"], sealed["EncryptionAlgorithm"]) == (key, "SYMMETRIC_DEFAULT")
    blob = sealed["CiphertextBlob"]
    opened = kms.decrypt(CiphertextBlob=blob, EncryptionContext=context)
    assert (opened["Plaintext"], opened["KeyId"]) == (b"secret", key)
    metadata = kms.describe_key(KeyId=key)["KeyMetadata"]
    assert opened["KeyMaterialId"] == metadata["CurrentKeyMaterialId"]
    for wrong in ({}, {"purpose": "test"}, {**context, "more": ""}):
        error = refusal(kms, "decrypt", CiphertextBlob=blob, EncryptionContext=wrong)
        assert error == ("InvalidCiphertextException", "")


def sealed_elsewhere() -> tuple[KmsService, bytes]:
    """Another KMS, and a ciphertext of a key of its own."""
    service = KmsService(AUTHORITY.root_pem)
    service.add_key("alias/x")
    sealed = ask(service, signed("Encrypt", {"KeyId": "alias/x", "Plaintext": "eA=="}))[1]
    return service, base64.b64decode(sealed["CiphertextBlob"])


def decrypt(service: KmsService, blob: bytes) -> tuple[int, dict[str, Any]]:
    return ask(service, signed("Decrypt", {"CiphertextBlob": base64.b64encode(blob).decode()}))


def test_a_ciphertext_changed_anywhere_does_not_decrypt() -> None:
    service, blob = sealed_elsewhere()
    assert decrypt(service, blob)[0] == 200
    for position in range(len(blob)):
        changed = bytearray(blob)
        changed[position] ^= 1
        status, response = decrypt(service, bytes(changed))
        assert status == 400
        # Where the key's name was hit, it is a key nobody has.
        names_key = 4 <= position < 20
        expected = "AccessDeniedException" if names_key else "InvalidCiphertextException"
        assert response["__type"] == expected


def test_a_ciphertext_names_its_key(kms: Any, key: str, keys: dict[str, str]) -> None:
    blob = kms.encrypt(KeyId=key, Plaintext=b"secret")["CiphertextBlob"]
    assert kms.decrypt(CiphertextBlob=blob, KeyId=key)["Plaintext"] == b"secret"
    assert refusal(kms, "decrypt", CiphertextBlob=blob, KeyId=keys["symmetric"]) == (
        "IncorrectKeyException",
        "The key ID in the request does not identify a CMK that can perform this operation.",
    )
    assert refusal(kms, "decrypt", CiphertextBlob=b"nonsense")[0] == "InvalidCiphertextException"


def test_a_ciphertext_of_an_absent_key() -> None:
    _, blob = sealed_elsewhere()
    assert decrypt(KmsService(AUTHORITY.root_pem), blob)[1] == {
        "__type": "AccessDeniedException",
        "Message": "The ciphertext refers to a customer master key that does not exist, does not "
        "exist in this region, or you are not allowed to access.",
    }


def test_rsa_ciphertexts_of_other_programs_decrypt(kms: Any, keys: dict[str, str]) -> None:
    key, algorithm = keys["rsa"], "RSAES_OAEP_SHA_256"
    sealed = kms.encrypt(KeyId=key, Plaintext=b"secret", EncryptionAlgorithm=algorithm)
    published = kms.get_public_key(KeyId=key)
    assert published["EncryptionAlgorithms"] == ["RSAES_OAEP_SHA_1", algorithm]
    public = load_der_public_key(published["PublicKey"])
    assert isinstance(public, rsa.RSAPublicKey)
    own = public.encrypt(b"own", padding.OAEP(padding.MGF1(SHA256()), SHA256(), None))
    for blob, plaintext in ((sealed["CiphertextBlob"], b"secret"), (own, b"own")):
        opened = kms.decrypt(CiphertextBlob=blob, KeyId=key, EncryptionAlgorithm=algorithm)
        assert opened["Plaintext"] == plaintext

    def fails(operation: str, **changes: Any) -> tuple[str, str]:
        blob = {"CiphertextBlob": own} if operation == "decrypt" else {"Plaintext": bytes(191)}
        given = {"KeyId": key, "EncryptionAlgorithm": algorithm, **blob, **changes}
        return refusal(kms, operation, **{k: v for k, v in given.items() if v is not None})

    assert fails("encrypt") == (
        "ValidationException",
        (
            "Algorithm RSAES_OAEP_SHA_256 and key spec RSA_2048 cannot encrypt data larger than "
            "190 bytes."
        ),
    )
    assert fails("encrypt", EncryptionContext={"a": "b"})[0] == "ValidationException"
    assert fails("encrypt", EncryptionAlgorithm=None) == (
        "InvalidKeyUsageException",
        "Algorithm SYMMETRIC_DEFAULT is incompatible with key spec RSA_2048.",
    )
    assert fails("decrypt", EncryptionAlgorithm=None)[0] == "InvalidCiphertextException"
    assert fails("decrypt", KeyId=None)[0] == "ValidationException"
    assert fails("decrypt", CiphertextBlob=bytes(256))[0] == "InvalidCiphertextException"
    assert fails("decrypt", KeyId=keys["symmetric"]) == (
        "InvalidKeyUsageException",
        "Algorithm RSAES_OAEP_SHA_256 is incompatible with key spec SYMMETRIC_DEFAULT.",
    )


# Data keys and shared secrets


@pytest.mark.parametrize(
    ("size", "length"), [({"KeySpec": "AES_128"}, 16), ({"KeySpec": "AES_256"}, 32),
                         ({"NumberOfBytes": 1024}, 1024)],
)  # fmt: skip
def test_data_keys(kms: Any, key: str, size: dict[str, Any], length: int) -> None:
    made = kms.generate_data_key(KeyId=key, **size)
    assert made["KeyId"] == key
    assert len(made["Plaintext"]) == length
    assert kms.decrypt(CiphertextBlob=made["CiphertextBlob"])["Plaintext"] == made["Plaintext"]
    sealed = kms.generate_data_key_without_plaintext(KeyId=key, **size)
    assert "Plaintext" not in sealed
    assert len(kms.decrypt(CiphertextBlob=sealed["CiphertextBlob"])["Plaintext"]) == length


@pytest.mark.parametrize("size", [{}, {"KeySpec": "AES_256", "NumberOfBytes": 32}])
def test_data_keys_have_one_size(kms: Any, key: str, size: dict[str, Any]) -> None:
    assert refusal(kms, "generate_data_key", KeyId=key, **size) == (
        "ValidationException",
        "Please specify either number of bytes or key spec.",
    )


@pytest.mark.parametrize(
    "spec",
    ["RSA_2048", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ECC_SECG_P256K1",
     "ECC_NIST_EDWARDS25519"],
)  # fmt: skip
def test_data_key_pairs(kms: Any, key: str, spec: str) -> None:
    made = kms.generate_data_key_pair(KeyId=key, KeyPairSpec=spec)
    assert (made["KeyId"], made["KeyPairSpec"]) == (key, spec)
    private = load_der_private_key(made["PrivateKeyPlaintext"], None)
    assert private.public_key() == load_der_public_key(made["PublicKey"])
    opened = kms.decrypt(CiphertextBlob=made["PrivateKeyCiphertextBlob"])
    assert opened["Plaintext"] == made["PrivateKeyPlaintext"]
    sealed = kms.generate_data_key_pair_without_plaintext(KeyId=key, KeyPairSpec=spec)
    assert "PrivateKeyPlaintext" not in sealed
    assert sealed["PublicKey"] != made["PublicKey"]


def test_data_key_pairs_that_are_not_simulated(kms: Any, key: str) -> None:
    error = refusal(kms, "generate_data_key_pair", KeyId=key, KeyPairSpec="SM2")
    assert error == ("UnsupportedOperationException", unsupported("KeySpec SM2").message)


def test_both_sides_derive_the_same_secret(kms: Any, keys: dict[str, str]) -> None:
    own = ec.generate_private_key(ec.SECP256R1())
    key = keys["agree"]
    derived = kms.derive_shared_secret(KeyId=key, KeyAgreementAlgorithm="ECDH", PublicKey=spki(own))
    assert (derived["KeyId"], derived["KeyAgreementAlgorithm"]) == (key, "ECDH")
    published = kms.get_public_key(KeyId=key)
    assert published["KeyAgreementAlgorithms"] == ["ECDH"]
    public = load_der_public_key(published["PublicKey"])
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert own.exchange(ec.ECDH(), public) == derived["SharedSecret"]


@pytest.mark.parametrize("peer", ["garbage", "other-curve", "rsa"])
def test_the_peer_key_must_be_on_the_same_curve(kms: Any, keys: dict[str, str], peer: str) -> None:
    public = {
        "garbage": b"garbage",
        "other-curve": spki(ec.generate_private_key(ec.SECP384R1())),
        "rsa": spki(rsa_key()),
    }[peer]
    error = refusal(
        kms,
        "derive_shared_secret",
        KeyId=keys["agree"],
        KeyAgreementAlgorithm="ECDH",
        PublicKey=public,
    )
    assert error[0] == "ValidationException"


@pytest.mark.parametrize(
    ("key", "operation", "name", "parameters"),
    [
        ("sign", "encrypt", "Encrypt", {"Plaintext": b"x"}),
        ("agree", "generate_data_key", "GenerateDataKey", {"KeySpec": "AES_256"}),
        ("sign", "generate_data_key_pair", "GenerateDataKeyPair", {"KeyPairSpec": "RSA_2048"}),
        (
            "symmetric",
            "derive_shared_secret",
            "DeriveSharedSecret",
            {"KeyAgreementAlgorithm": "ECDH", "PublicKey": b"x"},
        ),
    ],
)
def test_a_key_has_one_usage(
    kms: Any, keys: dict[str, str], key: str, operation: str, name: str, parameters: dict[str, Any]
) -> None:
    usage = kms.describe_key(KeyId=keys[key])["KeyMetadata"]["KeyUsage"]
    assert refusal(kms, operation, KeyId=keys[key], **parameters) == (
        "InvalidKeyUsageException",
        f"{keys[key]} key usage is {usage} which is not valid for {name}.",
    )


def test_operations_for_another_kind_of_key(kms: Any, keys: dict[str, str]) -> None:
    error = refusal(kms, "generate_data_key", KeyId=keys["rsa"], KeySpec="AES_256")
    assert error[0] == "InvalidKeyUsageException"
    error = refusal(kms, "get_public_key", KeyId=keys["symmetric"])
    assert error[0] == "UnsupportedOperationException"


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("encrypt", {"Plaintext": b"x"}),
        ("generate_data_key", {"KeySpec": "AES_256"}),
        ("generate_data_key_pair_without_plaintext", {"KeyPairSpec": "ECC_NIST_P256"}),
    ],
)
def test_dry_run_responds_with_its_exception(
    kms: Any, key: str, operation: str, parameters: dict[str, Any]
) -> None:
    assert refusal(kms, operation, KeyId=key, DryRun=True, **parameters) == (
        "DryRunOperationException",
        "The request would have succeeded, but the DryRun option is set.",
    )
    kms.disable_key(KeyId=key)
    error = refusal(kms, operation, KeyId=key, DryRun=True, **parameters)
    assert error[0] == "DisabledException"


# Arbitrary parameters

OPERATIONS = sorted(KmsService(AUTHORITY.root_pem)._operations)
MEMBERS = sorted(
    {m for name in OPERATIONS for m in service_model().operation_model(name).input_shape.members}
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 33) | st.text("alis/x:é\0\ud800", max_size=9)
    | st.sampled_from(
        ["alias/x", "alias/agree", PREFIX, "eA==", "AES_256", "ECDH", "default", "{}",
         "RSAES_OAEP_SHA_256", "ECC_NIST_P256", "KEY_AGREEMENT", "SIGN_VERIFY", "AQICAA=="]
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)  # fmt: skip


@given(st.sampled_from(OPERATIONS), st.dictionaries(st.sampled_from(MEMBERS), VALUES))
def test_whatever_the_parameters_the_response_is_kms_shaped(
    operation: str, parameters: dict[str, Any]
) -> None:
    service = KmsService(AUTHORITY.root_pem)
    service.add_key("alias/x")
    service.add_key("alias/agree", spec="ECC_NIST_P256")
    for given_ in (parameters, {"KeyId": "alias/x", **parameters}):
        response = service.handle(signed(operation, given_))
        document = json.loads(response.body or "{}")
        if response.status == 200:
            members = service_model().operation_model(operation).output_shape
            assert document.keys() <= (members.members.keys() if members else set())
        else:
            assert response.status == 400
            assert document.pop("__type").endswith("Exception")
            assert document.keys() <= {"message", "Message"}
