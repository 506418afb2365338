"""What several operations share: pages of a list, and the description of a key. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enclave_simulator.kms.keys import ENABLED, PENDING_IMPORT
from enclave_simulator.kms.messages import KmsError
from vsock_proxy.service.quantities import whole_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from enclave_simulator.kms.call import Call
    from enclave_simulator.kms.keys import Key

_LIMITS = {
    "ListAliases": (50, 100),
    "ListGrants": (50, 100),
    "ListResourceTags": (50, 50),
    "ListRetirableGrants": (50, 100),
}
"""Entries of a page where the caller sends no Limit, and at most; others have 100 and 1000."""


def page(field: str, entries: Sequence[Any], call: Call) -> dict[str, Any]:
    """Return one page of a list. The marker is the number of entries before the next page.

    Raises:
        KmsError: InvalidMarkerException.
    """
    start = whole_number(call.parameters.get("Marker", "0"), 0, len(entries))
    if start is None:
        raise KmsError("InvalidMarkerException", "The marker is not valid.")
    usual, most = _LIMITS.get(call.operation, (100, 1000))
    end = start + min(call.parameters.get("Limit", usual), most)
    if end >= len(entries):
        return {field: list(entries[start:]), "Truncated": False}
    return {field: list(entries[start:end]), "Truncated": True, "NextMarker": str(end)}


def metadata(key: Key) -> dict[str, Any]:
    """Return KeyMetadata."""
    described = {
        "AWSAccountId": key.arn.split(":")[4],
        "KeyId": key.id,
        "Arn": key.arn,
        "CreationDate": key.created.timestamp(),
        "Enabled": key.state == ENABLED,
        "Description": key.description,
        "KeyUsage": key.usage,
        "KeyState": key.state,
        "Origin": key.origin,
        "KeyManager": "CUSTOMER",
        "CustomerMasterKeySpec": key.spec,
        "KeySpec": key.spec,
        "MultiRegion": key.family is not None,
        **key.algorithms,
    }
    if key.family is None or key.is_primary:
        # KMS's replicas have none (recorded in 2025).
        described |= key.material_id("CurrentKeyMaterialId")
    if key.deletion is not None:
        described["DeletionDate"] = key.deletion.timestamp()
    if key.window is not None:
        described["PendingDeletionWindowInDays"] = key.window
    current = key.materials.current
    if key.origin == "EXTERNAL" and current is not None and key.state != PENDING_IMPORT:
        expires = current.expires
        described["ExpirationModel"] = (
            "KEY_MATERIAL_DOES_NOT_EXPIRE" if expires is None else "KEY_MATERIAL_EXPIRES"
        )
        if expires is not None:
            described["ValidTo"] = expires.timestamp()
    if key.family is not None:
        described["MultiRegionConfiguration"] = _related(key)
    return described


def _related(key: Key) -> dict[str, Any]:
    assert key.family is not None  # noqa: S101 (the caller has checked it)

    def entry(region: str) -> dict[str, str]:
        parts = key.arn.split(":")
        parts[3] = region
        return {"Arn": ":".join(parts), "Region": region}

    primary = key.family.primary
    return {
        "MultiRegionKeyType": "PRIMARY" if key.is_primary else "REPLICA",
        "PrimaryKey": entry(primary),
        "ReplicaKeys": [entry(region) for region in key.family.regions if region != primary],
    }
