"""The operations that import key material."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import rsa

from enclave_simulator.kms.call import encode
from enclave_simulator.kms.keys import (
    CURRENT,
    DISABLED,
    ENABLED,
    PENDING_IMPORT,
    PENDING_ROTATION,
    Material,
)
from enclave_simulator.kms.material import decode_material, public_der, unwrap
from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.specs import SYMMETRIC, generate_private_key, unsupported

if TYPE_CHECKING:
    from enclave_simulator.kms.call import Call, Operation
    from enclave_simulator.kms.keys import Key
    from enclave_simulator.kms.store import KeyStore

_TOKEN_LIFETIME = timedelta(hours=24)
_MAX_TOKENS = 64
_EXPIRES = "KEY_MATERIAL_EXPIRES"


@dataclass(frozen=True, slots=True)
class _Parameters:
    """What an import token stands for."""

    key_arn: str
    wrapping_key: rsa.RSAPrivateKey = field(repr=False)
    algorithm: str
    valid_to: datetime


class ImportOperations:
    """DeleteImportedKeyMaterial, GetParametersForImport, ImportKeyMaterial.

    Import tokens are not kept over a restart; the last 64 are valid.
    """

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self._tokens: OrderedDict[bytes, _Parameters] = OrderedDict()

    def by_name(self) -> dict[str, Operation]:
        """Return the operations by KMS's names."""
        return {
            "DeleteImportedKeyMaterial": self._delete_imported_key_material,
            "GetParametersForImport": self._get_parameters_for_import,
            "ImportKeyMaterial": self._import_key_material,
        }

    def _get_parameters_for_import(self, call: Call) -> dict[str, Any]:
        key = self._external_key(call)
        algorithm = call.parameters["WrappingAlgorithm"]
        spec = call.parameters["WrappingKeySpec"]
        if algorithm in ("RSAES_PKCS1_V1_5", "SM2PKE"):
            # KMS has dropped the first (GetParametersForImport) and has the other in China only.
            raise unsupported(f"WrappingAlgorithm {algorithm}")
        if key.spec.startswith("RSA") and not algorithm.startswith("RSA_AES"):
            raise KmsError(
                "ValidationException",
                f"WrappingAlgorithm {algorithm} is not compatible with KeySpec {key.spec}",
            )
        if (key.spec, spec) == ("ECC_NIST_P521", "RSA_2048") and algorithm.startswith("RSAES"):
            # The key pair is larger than what OAEP with this key encrypts.
            raise KmsError(
                "ValidationException",
                f"WrappingAlgorithm {algorithm} with WrappingKeySpec {spec} is not compatible "
                f"with KeySpec {key.spec}",
            )
        wrapping_key = generate_private_key(spec)
        if not isinstance(wrapping_key, rsa.RSAPrivateKey):
            raise unsupported(f"WrappingKeySpec {spec}")
        token = self._store.identifiers.nonce() + self._store.identifiers.nonce()
        valid_to = call.now + _TOKEN_LIFETIME
        self._tokens[token] = _Parameters(key.arn, wrapping_key, algorithm, valid_to)
        if len(self._tokens) > _MAX_TOKENS:
            self._tokens.popitem(last=False)
        return {
            "KeyId": key.arn,
            "ImportToken": encode(token),
            "PublicKey": encode(public_der(wrapping_key)),
            "ParametersValidTo": valid_to.timestamp(),
        }

    def _import_key_material(self, call: Call) -> dict[str, Any]:
        key = self._external_key(call)
        given = call.parameters
        expires = _expiration(call)
        parameters = self._tokens.get(given["ImportToken"])
        if parameters is None or parameters.key_arn != key.arn:
            raise KmsError("InvalidImportTokenException")
        if parameters.valid_to <= call.now:
            raise KmsError("ExpiredImportTokenException")
        encoded = unwrap(
            parameters.wrapping_key, given["EncryptedKeyMaterial"], parameters.algorithm
        )
        try:
            material = key.new_material(decode_material(key.spec, encoded))
        except ValueError:
            raise KmsError("IncorrectKeyMaterialException") from None
        material = self._place(key, material, call)
        material.expires = expires
        material.description = given.get("KeyMaterialDescription", material.description)
        response: dict[str, Any] = {"KeyId": key.arn, "KeyMaterialId": material.id}
        return response

    def _place(self, key: Key, material: Material, call: Call) -> Material:
        """Add key material to a key, or restore it, and return the key's own."""
        versions = key.materials.versions
        known = next((each for each in versions if each.id == material.id), None)
        kind = call.parameters.get(
            "ImportType", "EXISTING_KEY_MATERIAL" if versions else "NEW_KEY_MATERIAL"
        )
        if "ImportType" in call.parameters and key.spec != SYMMETRIC:
            raise KmsError(
                "ValidationException", f"ImportType is not compatible with KeySpec {key.spec}"
            )
        if {"ImportType", "KeyMaterialId"} <= call.parameters.keys() and kind.startswith("NEW"):
            raise KmsError(
                "ValidationException",
                "KeyMaterialId cannot be specified with ImportType NEW_KEY_MATERIAL.",
            )
        wanted = call.parameters.get("KeyMaterialId", material.id)
        if wanted != material.id or (kind == "EXISTING_KEY_MATERIAL" and known is None):
            raise KmsError("IncorrectKeyMaterialException")
        if known is not None:
            known.secret = material.secret
            material = known
        elif versions:
            if key.spec != SYMMETRIC:
                raise KmsError("IncorrectKeyMaterialException")
            pending = key.materials.in_state(PENDING_ROTATION)
            if pending is not None:
                raise KmsError(
                    "KMSInvalidStateException",
                    f"New key material (id: {material.id}) cannot be imported into KMS key "
                    f"{key.arn}, because another key material (id: {pending.id}) is pending "
                    "rotation.",
                )
            material.state = PENDING_ROTATION
            versions.append(material)
        else:
            versions.append(material)
        missing = [v for v in versions if v.secret is None and v.state != PENDING_ROTATION]
        if key.state == PENDING_IMPORT and not missing:
            key.state = ENABLED
        return material

    def _delete_imported_key_material(self, call: Call) -> dict[str, Any]:
        key = self._store.key_for(call, aliases=False)
        key.check_origin("EXTERNAL")
        wanted = call.parameters.get("KeyMaterialId")
        response = {"KeyId": key.arn}
        for material in tuple(key.materials.versions):
            if wanted not in (None, material.id) or (wanted is None and material.state != CURRENT):
                continue
            response["KeyMaterialId"] = material.id
            if material.state == PENDING_ROTATION:
                key.materials.versions.remove(material)
                break
            material.secret = material.expires = None
            if key.state in (ENABLED, DISABLED):
                key.state = PENDING_IMPORT
        return response

    def _external_key(self, call: Call) -> Key:
        key = self._store.key_for(call, aliases=False)
        key.check_origin("EXTERNAL")
        key.check_state(DISABLED, PENDING_IMPORT)
        return key


def _expiration(call: Call) -> datetime | None:
    """Return when imported key material expires.

    Raises:
        KmsError: ValidationException.
    """
    given = call.parameters
    valid_to = given.get("ValidTo")
    if given.get("ExpirationModel", _EXPIRES) != _EXPIRES:
        if valid_to is not None:
            raise KmsError(
                "ValidationException",
                "A validTo date must not be set if the ExpirationModel is "
                "KEY_MATERIAL_DOES_NOT_EXPIRE",
            )
        return None
    if valid_to is None:
        raise KmsError(
            "ValidationException",
            "A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES",
        )
    try:
        expires = datetime.fromtimestamp(valid_to, UTC)
    except (OverflowError, ValueError, OSError):
        expires = datetime.max.replace(tzinfo=UTC)
    if not call.now < expires <= call.now + timedelta(days=365):
        raise KmsError(
            "ValidationException", "validTo must be in the future, and at most 365 days from now"
        )
    return expires
