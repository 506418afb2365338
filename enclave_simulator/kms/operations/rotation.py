"""The operations on the rotation of key material."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from enclave_simulator.kms.keys import PENDING_ROTATION
from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.operations.lists import page
from enclave_simulator.kms.specs import generate_material

if TYPE_CHECKING:
    from enclave_simulator.kms.call import Call, Operation
    from enclave_simulator.kms.keys import Key, Material
    from enclave_simulator.kms.store import KeyStore

_DEFAULT_PERIOD = 365  # days (EnableKeyRotation, RotationPeriodInDays)
_MAX_ON_DEMAND = 25  # RotateKeyOnDemand


class RotationOperations:
    """DisableKeyRotation, EnableKeyRotation, GetKeyRotationStatus, ListKeyRotations,
    RotateKeyOnDemand.
    """

    def __init__(self, store: KeyStore) -> None:
        self._store = store

    def by_name(self) -> dict[str, Operation]:
        """Return the operations by KMS's names."""
        return {
            "DisableKeyRotation": self._disable_key_rotation,
            "EnableKeyRotation": self._enable_key_rotation,
            "GetKeyRotationStatus": self._get_key_rotation_status,
            "ListKeyRotations": self._list_key_rotations,
            "RotateKeyOnDemand": self._rotate_key_on_demand,
        }

    def _enable_key_rotation(self, call: Call) -> None:
        key = self._store.key_for(call, aliases=False)
        key.check_origin("AWS_KMS")
        key.check_state()
        _check_rotates(key)
        _check_primary(key)
        materials = key.materials
        materials.period = call.parameters.get("RotationPeriodInDays", _DEFAULT_PERIOD)
        materials.rotates = call.now + timedelta(days=materials.period)

    def _disable_key_rotation(self, call: Call) -> None:
        key = self._store.key_for(call, aliases=False)
        key.check_origin("AWS_KMS")
        key.check_state()
        if not key.rotates:
            return  # KMS accepts it: there is nothing to disable
        _check_primary(key)
        key.materials.period = key.materials.rotates = None

    def _get_key_rotation_status(self, call: Call) -> dict[str, Any]:
        key = self._store.key_for(call, aliases=False)
        key.check_origin("AWS_KMS")
        materials = key.materials
        status: dict[str, Any] = {
            "KeyId": key.arn,
            "KeyRotationEnabled": materials.period is not None and key.deletion is None,
        }
        if status["KeyRotationEnabled"] and materials.rotates is not None:
            status["RotationPeriodInDays"] = materials.period
            status["NextRotationDate"] = materials.rotates.timestamp()
        return status

    def _rotate_key_on_demand(self, call: Call) -> dict[str, Any]:
        key = self._store.key_for(call, aliases=False)
        key.check_state()
        _check_rotates(key)
        _check_primary(key)
        done = sum(each.rotation == "ON_DEMAND" for each in key.materials.versions)
        if done >= _MAX_ON_DEMAND:
            raise KmsError(
                "LimitExceededException",
                "The on-demand rotations limit has been reached for the given keyId. No more "
                f"on-demand rotations can be performed for this key: {key.arn}",
            )
        if key.origin == "EXTERNAL":
            material = key.materials.in_state(PENDING_ROTATION)
            if material is None:
                raise KmsError(
                    "KMSInvalidStateException",
                    f"No available key material pending rotation for the key: {key.arn}.",
                )
        else:
            material = key.new_material(generate_material(key.spec))
        key.materials.rotate(material, call.now, "ON_DEMAND")
        return {"KeyId": key.arn}

    def _list_key_rotations(self, call: Call) -> dict[str, Any]:
        key = self._store.key_for(call, aliases=False)
        _check_rotates(key)
        everything = call.parameters.get("IncludeKeyMaterial") == "ALL_KEY_MATERIAL"
        entries = [
            _entry(key, material)
            for material in key.materials.versions
            if everything or material.rotated is not None
        ]
        return page("Rotations", entries, call)


def _check_rotates(key: Key) -> None:
    if not key.rotates:
        raise KmsError("UnsupportedOperationException")


def _check_primary(key: Key) -> None:
    """Check that a key is not a replica: rotation is the primary key's (EnableKeyRotation)."""
    if key.family is not None and not key.is_primary:
        raise KmsError(
            "UnsupportedOperationException", f"{key.arn} is not a multi-region primary key."
        )


def _entry(key: Key, material: Material) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "KeyId": key.arn,
        "KeyMaterialId": material.id,
        "KeyMaterialState": material.state,
    }
    if key.origin == "EXTERNAL":
        entry["ImportState"] = "PENDING_IMPORT" if material.secret is None else "IMPORTED"
        if material.secret is not None:
            expires = material.expires
            entry["ExpirationModel"] = (
                "KEY_MATERIAL_DOES_NOT_EXPIRE" if expires is None else "KEY_MATERIAL_EXPIRES"
            )
            if expires is not None:
                entry["ValidTo"] = expires.timestamp()
        if material.description:
            entry["KeyMaterialDescription"] = material.description
    if material.rotated is not None:
        entry["RotationDate"] = material.rotated.timestamp()
        entry["RotationType"] = material.rotation
    return entry
