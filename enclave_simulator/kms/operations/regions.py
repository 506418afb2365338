"""The operations on multi-Region keys."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.names import partition_of
from enclave_simulator.kms.operations.lists import metadata
from enclave_simulator.kms.operations.policies import check_lockout
from enclave_simulator.kms.policy import parse_policy
from enclave_simulator.kms.regions import UnknownRegionError, default_policy
from enclave_simulator.kms.tags import list_tags, merge_tags

if TYPE_CHECKING:
    from enclave_simulator.kms.call import Call, Operation
    from enclave_simulator.kms.keys import Key
    from enclave_simulator.kms.store import KeyStore


class RegionOperations:
    """ReplicateKey, UpdatePrimaryRegion. The simulator does both at once, KMS in a while."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store

    def by_name(self) -> dict[str, Operation]:
        """Return the operations by KMS's names."""
        return {
            "ReplicateKey": self._replicate_key,
            "UpdatePrimaryRegion": self._update_primary_region,
        }

    def _replicate_key(self, call: Call) -> dict[str, Any]:
        key = self._primary(call)
        given = call.parameters
        tags = merge_tags({}, given.get("Tags", []))
        if tags:
            self._store.authorize_by_iam(call, call.caller.arn("key/*"), "TagResource")
        policy = default_policy(call.caller.principal)
        if "Policy" in given:
            policy = parse_policy(given["Policy"])
            check_lockout(self._store, call, policy, key)
        name, region = given["ReplicaRegion"], None
        with contextlib.suppress(UnknownRegionError):
            if partition_of(name) == partition_of(key.region):
                region = self._store.region(name, call.now)
        if region is None:
            raise KmsError("ValidationException", f"{name} is not a Region of this partition")
        replica = self._store.replicate(key, region, policy=policy, now=call.now)
        replica.description, replica.tags = given.get("Description", ""), tags
        # KMS replies while it is still at it.
        described = {**metadata(replica), "KeyState": "Creating", "Enabled": False}
        return {
            "ReplicaKeyMetadata": described,
            "ReplicaPolicy": policy.text,
            "ReplicaTags": list_tags(tags),
        }

    def _update_primary_region(self, call: Call) -> None:
        key = self._primary(call)
        family = key.family
        region = call.parameters["PrimaryRegion"]
        assert family is not None  # noqa: S101 (a primary key has one)
        if region not in family.regions:
            raise KmsError(
                "NotFoundException", f"There is no replica of {key.arn} in Region {region}"
            )
        replica = self._store.regions[region].keys[key.id]
        replica.check_state()
        self._store.authorize(call, replica)
        family.primary = region

    def _primary(self, call: Call) -> Key:
        key = self._store.key_for(call, aliases=False)
        if not key.is_primary:
            raise KmsError(
                "UnsupportedOperationException", f"{key.arn} is not a multi-region primary key."
            )
        key.check_state()
        return key
