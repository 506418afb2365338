"""Rotation, imports, multi-Region keys, signatures, MACs and ML-KEM."""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_public_key,
)

from enclave_simulator.kms import ciphertexts
from tests.enclave_simulator.kms.kms_client import REGION, refusal

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

_OAEP = padding.OAEP(padding.MGF1(SHA256()), SHA256(), None)


def external(kms: Any, **parameters: Any) -> str:
    return str(kms.create_key(Origin="EXTERNAL", **parameters)["KeyMetadata"]["Arn"])


def wrapped(kms: Any, key: str, material: bytes, *, direct: bool = True) -> dict[str, Any]:
    """The parameters of ImportKeyMaterial."""
    given = kms.get_parameters_for_import(
        KeyId=key, WrappingKeySpec="RSA_2048",
        WrappingAlgorithm="RSAES_OAEP_SHA_256" if direct else "RSA_AES_KEY_WRAP_SHA_256",
    )  # fmt: skip
    public = load_der_public_key(given["PublicKey"])
    assert isinstance(public, rsa.RSAPublicKey)
    if direct:
        encrypted = public.encrypt(material, _OAEP)
    else:
        aes = os.urandom(32)
        encrypted = public.encrypt(aes, _OAEP) + aes_key_wrap_with_padding(aes, material)
    return {
        "KeyId": key,
        "ImportToken": given["ImportToken"],
        "EncryptedKeyMaterial": encrypted,
        "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
    }


def pkcs8(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def test_rotation_keeps_older_ciphertexts_readable(kms: Any, key: str) -> None:
    blobs = []
    for _ in range(3):
        blobs.append(kms.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"])
        kms.rotate_key_on_demand(KeyId=key)
    used = [kms.decrypt(CiphertextBlob=blob) for blob in blobs]
    assert [each["Plaintext"] for each in used] == [b"x"] * 3
    assert len({each["KeyMaterialId"] for each in used}) == 3
    rotations = kms.list_key_rotations(KeyId=key)["Rotations"]
    assert [each["RotationType"] for each in rotations] == ["ON_DEMAND"] * 3
    everything = kms.list_key_rotations(KeyId=key, IncludeKeyMaterial="ALL_KEY_MATERIAL")
    states = [each["KeyMaterialState"] for each in everything["Rotations"]]
    assert states == ["NON_CURRENT"] * 3 + ["CURRENT"]


def test_imported_symmetric_key_decrypts_after_its_material_is_imported_again(kms: Any) -> None:
    key, material = external(kms), os.urandom(32)
    imported = kms.import_key_material(**wrapped(kms, key, material))
    blob = kms.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    kms.delete_imported_key_material(KeyId=key)
    pending = ("KMSInvalidStateException", f"{key} is pending import.")
    assert refusal(kms, "decrypt", CiphertextBlob=blob) == pending
    error = refusal(kms, "import_key_material", **wrapped(kms, key, os.urandom(32)))
    assert error[0] == "IncorrectKeyMaterialException"
    again = kms.import_key_material(**wrapped(kms, key, material))
    assert again["KeyMaterialId"] == imported["KeyMaterialId"]
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"


def test_imported_key_rotates_to_material_that_was_imported_for_it(kms: Any) -> None:
    key = external(kms)
    kms.import_key_material(**wrapped(kms, key, os.urandom(32)))
    blob = kms.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    new = {"ImportType": "NEW_KEY_MATERIAL"}
    second = kms.import_key_material(**wrapped(kms, key, os.urandom(32)), **new)
    third = wrapped(kms, key, os.urandom(32))
    code, text = refusal(kms, "import_key_material", **third, **new)
    assert code == "KMSInvalidStateException"
    assert text.startswith("New key material (id: ")
    assert text.endswith(
        f"cannot be imported into KMS key {key}, because another key material (id: "
        f"{second['KeyMaterialId']}) is pending rotation."
    )
    kms.rotate_key_on_demand(KeyId=key)
    described = kms.describe_key(KeyId=key)["KeyMetadata"]
    assert described["CurrentKeyMaterialId"] == second["KeyMaterialId"]
    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"


@pytest.mark.parametrize("spec", ["ECC_NIST_P256", "RSA_2048", "HMAC_256"])
def test_imported_key_is_the_importers(kms: Any, spec: str) -> None:
    usage = "GENERATE_VERIFY_MAC" if spec == "HMAC_256" else "SIGN_VERIFY"
    key = external(kms, KeySpec=spec, KeyUsage=usage)
    if spec == "HMAC_256":
        secret = os.urandom(40)
        kms.import_key_material(**wrapped(kms, key, secret))
        made = kms.generate_mac(KeyId=key, Message=b"m", MacAlgorithm="HMAC_SHA_256")
        assert made["Mac"] == hmac.digest(secret, b"m", "sha256")
        return
    own: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = (
        rsa.generate_private_key(65537, 2048)
        if spec == "RSA_2048"
        else ec.generate_private_key(ec.SECP256R1())
    )
    direct = spec != "RSA_2048"
    kms.import_key_material(**wrapped(kms, key, pkcs8(own), direct=direct))
    public = load_der_public_key(kms.get_public_key(KeyId=key)["PublicKey"])
    assert public == own.public_key()
    described = kms.describe_key(KeyId=key)["KeyMetadata"]
    assert described["ExpirationModel"] == "KEY_MATERIAL_DOES_NOT_EXPIRE"


@pytest.mark.parametrize("spec", ["HMAC_224", "HMAC_256"])
def test_ciphertext_that_names_a_mac_key_is_invalid(kms: Any, spec: str) -> None:
    """AES takes no key of 28 bytes, and a MAC key of 32 is still not for encryption."""
    key = external(kms, KeySpec=spec, KeyUsage="GENERATE_VERIFY_MAC")
    secret = os.urandom(28 if spec == "HMAC_224" else 32)
    material = kms.import_key_material(**wrapped(kms, key, secret))["KeyMaterialId"]
    names = (kms.describe_key(KeyId=key)["KeyMetadata"]["Arn"], material)
    header = b"\x01\x02\x02\x00" + b"".join(map(ciphertexts.tag, names)) + bytes(12)
    sealed = AESGCM((secret + bytes(4))[:32]).encrypt(bytes(12), b"x", header + b"{}")
    error = refusal(kms, "decrypt", CiphertextBlob=header + sealed)
    assert error[0] == "InvalidCiphertextException"


def test_material_of_another_key_spec_is_rejected(kms: Any) -> None:
    key = external(kms, KeySpec="ECC_NIST_P384", KeyUsage="SIGN_VERIFY")
    own = pkcs8(ec.generate_private_key(ec.SECP256R1()))
    for material in (own, os.urandom(48)):
        error = refusal(kms, "import_key_material", **wrapped(kms, key, material))
        assert error[0] == "IncorrectKeyMaterialException"


def test_imports_that_contradict_themselves(kms: Any) -> None:
    """ImportKeyMaterial, ImportType, KeyMaterialId; GetParametersForImport, WrappingAlgorithm."""
    key = external(kms)
    given = wrapped(kms, key, os.urandom(32))
    error = refusal(
        kms, "import_key_material", **given, ImportType="NEW_KEY_MATERIAL", KeyMaterialId="0" * 64
    )
    assert error[0] == "ValidationException"
    mac = external(kms, KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")
    given = wrapped(kms, mac, os.urandom(32))
    error = refusal(kms, "import_key_material", **given, ImportType="NEW_KEY_MATERIAL")
    assert error[0] == "ValidationException"
    large = external(kms, KeySpec="ECC_NIST_P521", KeyUsage="SIGN_VERIFY")
    error = refusal(
        kms, "get_parameters_for_import", KeyId=large, WrappingKeySpec="RSA_2048",
        WrappingAlgorithm="RSAES_OAEP_SHA_256",
    )  # fmt: skip
    assert error[0] == "ValidationException"


def test_import_token_is_for_one_key(kms: Any) -> None:
    token = wrapped(kms, external(kms), os.urandom(32))
    error = refusal(kms, "import_key_material", **{**token, "KeyId": external(kms)})
    assert error[0] == "InvalidImportTokenException"
    garbage = {**token, "EncryptedKeyMaterial": bytes(256)}
    assert refusal(kms, "import_key_material", **garbage)[0] == "InvalidCiphertextException"


def test_imported_material_expires(kms: Any) -> None:
    given = wrapped(kms, external(kms), os.urandom(32))
    given["ExpirationModel"] = "KEY_MATERIAL_EXPIRES"
    for valid_to in (time.time() - 1, time.time() + 366 * 86400):
        error = refusal(kms, "import_key_material", **given, ValidTo=valid_to)
        assert error[0] == "ValidationException"
    kms.import_key_material(**given, ValidTo=time.time() + 3600)
    described = kms.describe_key(KeyId=given["KeyId"])["KeyMetadata"]
    assert described["ExpirationModel"] == "KEY_MATERIAL_EXPIRES"
    assert described["ValidTo"].timestamp() > time.time()


# Regions


def test_key_is_seen_in_its_region_only(kms: Any, elsewhere: Any, key: str) -> None:
    key_id = key.rpartition("/")[2]
    missing = f"Key '{key.replace(REGION, 'us-west-2')}' does not exist"
    assert refusal(elsewhere, "describe_key", KeyId=key_id) == ("NotFoundException", missing)
    assert refusal(elsewhere, "describe_key", KeyId=key) == (
        "NotFoundException",
        f"Invalid arn {REGION}",
    )
    blob = kms.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    assert refusal(elsewhere, "decrypt", CiphertextBlob=blob)[0] == "AccessDeniedException"
    kms.create_alias(AliasName="alias/here", TargetKeyId=key)
    assert refusal(elsewhere, "describe_key", KeyId="alias/here")[0] == "NotFoundException"
    assert all(each["KeyArn"] != key for each in elsewhere.list_keys()["Keys"])


def test_related_multi_region_keys_decrypt_each_others_ciphertexts(
    kms: Any, elsewhere: Any
) -> None:
    primary = kms.create_key(MultiRegion=True)["KeyMetadata"]
    key_id = primary["KeyId"]
    assert key_id.startswith("mrk-")
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    assert refusal(elsewhere, "decrypt", CiphertextBlob=blob)[0] == "AccessDeniedException"
    kms.replicate_key(KeyId=key_id, ReplicaRegion="us-west-2")
    assert elsewhere.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
    replica = primary["Arn"].replace(REGION, "us-west-2")
    assert refusal(elsewhere, "replicate_key", KeyId=key_id, ReplicaRegion="eu-west-2") == (
        "UnsupportedOperationException",
        f"{replica} is not a multi-region primary key.",
    )
    assert refusal(kms, "replicate_key", KeyId=key_id, ReplicaRegion="us-west-2")[0] == (
        "AlreadyExistsException"
    )
    for foreign in ("cn-north-1", "us-gov-west-1"):  # of other partitions
        error = refusal(kms, "replicate_key", KeyId=key_id, ReplicaRegion=foreign)
        assert error[0] == "ValidationException"
    assert refusal(kms, "replicate_key", KeyId=key_id, ReplicaRegion="nowhere")[0] == (
        "ValidationException"
    )
    kms.update_primary_region(KeyId=key_id, PrimaryRegion="us-west-2")
    described = kms.describe_key(KeyId=key_id)["KeyMetadata"]["MultiRegionConfiguration"]
    assert described["MultiRegionKeyType"] == "REPLICA"
    assert described["PrimaryKey"] == {"Arn": replica, "Region": "us-west-2"}


def test_primary_key_waits_for_the_deletion_of_its_replicas(kms: Any) -> None:
    key_id = kms.create_key(MultiRegion=True)["KeyMetadata"]["KeyId"]
    kms.replicate_key(KeyId=key_id, ReplicaRegion="us-west-2")
    scheduled = kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    assert scheduled["KeyState"] == "PendingReplicaDeletion"
    assert "DeletionDate" not in scheduled
    described = kms.describe_key(KeyId=key_id)["KeyMetadata"]
    assert described["PendingDeletionWindowInDays"] == 7


# Signatures, MACs, encapsulation


@pytest.mark.parametrize(
    ("spec", "algorithm"),
    [
        ("RSA_2048", "RSASSA_PSS_SHA_384"),
        ("RSA_2048", "RSASSA_PKCS1_V1_5_SHA_256"),
        ("ECC_NIST_P521", "ECDSA_SHA_512"),
        ("ECC_SECG_P256K1", "ECDSA_SHA_256"),
        ("ECC_NIST_EDWARDS25519", "ED25519_SHA_512"),
        ("ML_DSA_65", "ML_DSA_SHAKE_256"),
    ],
)
def test_signature_is_verified_and_a_changed_message_is_not(
    kms: Any, spec: str, algorithm: str
) -> None:
    key = kms.create_key(KeySpec=spec, KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    given = {"KeyId": key, "SigningAlgorithm": algorithm}
    signature = kms.sign(**given, Message=b"message")["Signature"]
    assert kms.verify(**given, Message=b"message", Signature=signature)["SignatureValid"]
    if spec.startswith(("RSA", "ECC_NIST_P", "ECC_SECG")):
        digest = hashlib.new(f"sha{algorithm[-3:]}", b"message").digest()
        as_digest = {"Message": digest, "MessageType": "DIGEST"}
        assert kms.verify(**given, **as_digest, Signature=signature)["SignatureValid"]
    error = refusal(kms, "verify", **given, Message=b"massage", Signature=signature)
    assert error == ("KMSInvalidSignatureException", "")


def test_ml_dsa_signs_an_external_mu(kms: Any) -> None:
    key = kms.create_key(KeySpec="ML_DSA_44", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    given = {
        "KeyId": key, "SigningAlgorithm": "ML_DSA_SHAKE_256", "Message": bytes(64),
        "MessageType": "EXTERNAL_MU",
    }  # fmt: skip
    signature = kms.sign(**given)["Signature"]
    assert len(signature) == 2420
    assert kms.verify(**given, Signature=signature)["SignatureValid"]
    assert refusal(kms, "sign", **{**given, "Message": bytes(63)})[0] == "ValidationException"


@pytest.mark.parametrize("spec", ["ML_KEM_768", "ML_KEM_1024"])
def test_encapsulated_secret_is_decapsulated(kms: Any, spec: str) -> None:
    created = kms.create_key(KeySpec=spec, KeyUsage="ENCAPSULATE_DECAPSULATE")["KeyMetadata"]
    given = {"KeyId": created["KeyId"], "EncapsulationAlgorithm": "ML_KEM"}
    sent = kms.encapsulate(**given)
    blob = sent["SharedSecretCiphertextBlob"]
    received = kms.decapsulate(**given, SharedSecretCiphertextBlob=blob)
    assert received["SharedSecret"] == sent["SharedSecret"]
    changed = kms.decapsulate(**given, SharedSecretCiphertextBlob=bytes(len(blob)))
    assert changed["SharedSecret"] != sent["SharedSecret"]  # implicit rejection, FIPS 203
    error = refusal(kms, "decapsulate", **given, SharedSecretCiphertextBlob=blob[1:])
    assert error == ("InvalidCiphertextException", "")


def test_last_usage_is_recorded(kms: Any, key: str) -> None:
    assert "KeyLastUsage" not in kms.get_key_last_usage(KeyId=key)
    request_id = kms.encrypt(KeyId=key, Plaintext=b"x")["ResponseMetadata"]["RequestId"]
    used = kms.get_key_last_usage(KeyId=key)["KeyLastUsage"]
    assert (used["Operation"], used["KmsRequestId"]) == ("Encrypt", request_id)


def test_aliases_move_between_keys_of_one_kind(kms: Any, key: str, keys: dict[str, str]) -> None:
    kms.create_alias(AliasName="alias/moving", TargetKeyId=key)
    kms.update_alias(AliasName="alias/moving", TargetKeyId=keys["symmetric"])
    assert kms.describe_key(KeyId="alias/moving")["KeyMetadata"]["Arn"] == keys["symmetric"]
    error = refusal(kms, "update_alias", AliasName="alias/moving", TargetKeyId=keys["sign"])
    assert error[0] == "ValidationException"
    kms.delete_alias(AliasName="alias/moving")
    assert refusal(kms, "describe_key", KeyId="alias/moving")[0] == "NotFoundException"
