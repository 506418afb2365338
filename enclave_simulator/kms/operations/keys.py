"""The operations that create, describe and delete keys."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from enclave_simulator.kms.call import encode
from enclave_simulator.kms.keys import (
    DISABLED,
    ENABLED,
    PENDING_DELETION,
    PENDING_IMPORT,
    PENDING_REPLICA_DELETION,
)
from enclave_simulator.kms.material import public_der
from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.operations.lists import metadata, page
from enclave_simulator.kms.operations.policies import check_lockout
from enclave_simulator.kms.policy import parse_policy
from enclave_simulator.kms.regions import default_policy
from enclave_simulator.kms.specs import SYMMETRIC, unsupported
from enclave_simulator.kms.tags import merge_tags

if TYPE_CHECKING:
    from datetime import datetime

    from enclave_simulator.kms.call import Call, Operation
    from enclave_simulator.kms.store import KeyStore

_DEFAULT_WINDOW = 30  # days (ScheduleKeyDeletion, PendingWindowInDays)


class KeyOperations:
    """CreateKey to ScheduleKeyDeletion."""

    def __init__(self, store: KeyStore, started: datetime) -> None:
        """Start.

        Args:
            store: the keys.
            started: since when their use is recorded.
        """
        self._store = store
        self._started = started

    def by_name(self) -> dict[str, Operation]:
        """Return the operations by KMS's names."""
        return {
            "CancelKeyDeletion": self._cancel_key_deletion,
            "CreateKey": self._create_key,
            "DescribeKey": self._describe_key,
            "DisableKey": self._disable_key,
            "EnableKey": self._enable_key,
            "GetKeyLastUsage": self._get_key_last_usage,
            "GetPublicKey": self._get_public_key,
            "ListKeys": self._list_keys,
            "ScheduleKeyDeletion": self._schedule_key_deletion,
            "UpdateKeyDescription": self._update_key_description,
        }

    def _create_key(self, call: Call) -> dict[str, Any]:
        self._store.authorize(call, None)
        given = call.parameters
        if {"KeySpec", "CustomerMasterKeySpec"} <= given.keys():
            raise KmsError(
                "ValidationException",
                "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. "
                "CustomerMasterKeySpec is deprecated.",
            )
        spec = given.get("KeySpec") or given.get("CustomerMasterKeySpec") or SYMMETRIC
        if spec != SYMMETRIC and "KeyUsage" not in given:
            raise KmsError(
                "ValidationException",
                "You must specify a KeyUsage value for all KMS keys except for symmetric "
                "encryption keys.",
            )
        origin = given.get("Origin", "AWS_KMS")
        if origin not in ("AWS_KMS", "EXTERNAL"):
            raise unsupported(f"Origin {origin}")
        for name in ("CustomKeyStoreId", "XksKeyId"):
            if given.get(name):
                raise unsupported(name)
        tags = merge_tags({}, given.get("Tags", []))
        if tags:
            self._store.authorize_by_iam(call, call.caller.arn("key/*"), "TagResource")
        policy = default_policy(call.caller.principal)
        if "Policy" in given:
            policy = parse_policy(given["Policy"])
            check_lockout(self._store, call, policy, None)
        key = self._store.create(
            self._store.of(call),
            spec,
            given.get("KeyUsage"),
            policy=policy,
            now=call.now,
            origin=origin,
            description=given.get("Description", ""),
            multi_region=given.get("MultiRegion", False),
        )
        key.tags = tags
        return {"KeyMetadata": metadata(key)}

    def _describe_key(self, call: Call) -> dict[str, Any]:
        return {"KeyMetadata": metadata(self._store.key_for(call))}

    def _list_keys(self, call: Call) -> dict[str, Any]:
        self._store.authorize(call, None)
        # No other account shares keys with the simulator's.
        own = "SELF" in call.parameters.get("ResourceOwners", ("SELF",))
        keys = self._store.of(call).keys.values() if own else ()
        return page("Keys", [{"KeyId": key.id, "KeyArn": key.arn} for key in keys], call)

    def _enable_key(self, call: Call) -> None:
        key = self._store.key_for(call, aliases=False)
        key.check_state(DISABLED)
        key.state = ENABLED

    def _disable_key(self, call: Call) -> None:
        key = self._store.key_for(call, aliases=False)
        key.check_state(DISABLED)
        key.state = DISABLED

    def _update_key_description(self, call: Call) -> None:
        key = self._store.key_for(call, aliases=False)
        key.check_state(DISABLED, PENDING_IMPORT)
        key.description = call.parameters["Description"]

    def _schedule_key_deletion(self, call: Call) -> dict[str, Any]:
        key = self._store.key_for(call, aliases=False)
        days = call.parameters.get("PendingWindowInDays", _DEFAULT_WINDOW)
        if not 7 <= days <= _DEFAULT_WINDOW:
            raise KmsError("ValidationException", "PendingWindowInDays must be between 7 and 30")
        key.check_state(DISABLED, PENDING_IMPORT)
        response = {"KeyId": key.arn, "PendingWindowInDays": days}
        if key.is_primary and key.family and len(key.family.regions) > 1:
            key.state, key.window = PENDING_REPLICA_DELETION, days
        else:
            key.state, key.deletion = PENDING_DELETION, call.now + timedelta(days=days)
            response["DeletionDate"] = key.deletion.timestamp()
        return {**response, "KeyState": key.state}

    def _cancel_key_deletion(self, call: Call) -> dict[str, Any]:
        key = self._store.key_for(call, aliases=False)
        if key.state not in (PENDING_DELETION, PENDING_REPLICA_DELETION):
            raise KmsError("KMSInvalidStateException", f"{key.arn} is not pending deletion.")
        key.deletion = key.window = None
        material = key.materials.current
        imported = material is not None and material.secret is not None
        key.state = DISABLED if imported else PENDING_IMPORT
        return {"KeyId": key.arn}

    def _get_public_key(self, call: Call) -> dict[str, Any]:
        key = self._store.key_for(call)
        key.check_state(DISABLED)
        secret = key.secret()
        if isinstance(secret, bytes):
            raise KmsError("UnsupportedOperationException")
        return {
            "KeyId": key.arn,
            "PublicKey": encode(public_der(secret)),
            "CustomerMasterKeySpec": key.spec,
            "KeySpec": key.spec,
            "KeyUsage": key.usage,
            **key.algorithms,
        }

    def _get_key_last_usage(self, call: Call) -> dict[str, Any]:
        key = self._store.key_for(call, aliases=False)
        response: dict[str, Any] = {
            "KeyId": key.arn,
            "TrackingStartDate": self._started.timestamp(),
            "KeyCreationDate": key.created.timestamp(),
        }
        used = key.last_usage
        if used is not None:
            response["KeyLastUsage"] = {
                "Operation": used.operation,
                "Timestamp": used.when.timestamp(),
                "CloudTrailEventId": used.event_id,
                "KmsRequestId": used.request_id,
            }
        return response
