"""The operations that make, describe and govern keys."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from enclave_simulator.kms.call import encode
from enclave_simulator.kms.keys import SYMMETRIC, default_policy
from enclave_simulator.kms.material import public_der
from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.policy import parse_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from enclave_simulator.kms.call import Call
    from enclave_simulator.kms.keys import Alias, Key, KeyStore
    from enclave_simulator.kms.policy import Policy

_UNSUPPORTED = ("CustomKeyStoreId", "MultiRegion", "XksKeyId")
_POLICY_NAME = "default"  # the only one there is (PutKeyPolicy, PolicyName)
_LIMIT = 100


class KeyOperations:
    """Each method is one operation: a call in, the answer's JSON out; None is an empty body."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store

    def by_name(self) -> dict[str, Callable[[Call], dict[str, Any] | None]]:
        """Return the operations by the names KMS has for them."""
        return {
            "CreateAlias": self._create_alias,
            "CreateKey": self._create_key,
            "DescribeKey": self._describe_key,
            "DisableKey": self._disable_key,
            "EnableKey": self._enable_key,
            "GetKeyPolicy": self._get_key_policy,
            "GetPublicKey": self._get_public_key,
            "ListAliases": self._list_aliases,
            "ListKeys": self._list_keys,
            "PutKeyPolicy": self._put_key_policy,
            "ScheduleKeyDeletion": self._schedule_key_deletion,
        }

    # Tags are taken and forgotten: no operation here reads them.
    def _create_key(self, call: Call) -> dict[str, Any]:
        self._store.authorize(call, None)
        given = call.parameters
        spec = given.get("KeySpec") or given.get("CustomerMasterKeySpec") or SYMMETRIC
        if spec != SYMMETRIC and "KeyUsage" not in given:
            raise KmsError(
                "ValidationException",
                "You must specify a KeyUsage value for all KMS keys except for symmetric "
                "encryption keys.",
            )
        unsupported = [name for name in _UNSUPPORTED if given.get(name)]
        if given.get("Origin", "AWS_KMS") != "AWS_KMS":
            unsupported.append("Origin")
        if unsupported:
            raise KmsError(
                "UnsupportedOperationException",
                f"The simulator makes no keys with {', '.join(unsupported)}.",
            )
        policy = default_policy(call.caller.principal)
        if "Policy" in given:
            policy = parse_policy(given["Policy"])
            self._check_lockout(call, policy, "*")
        key = self._store.create(
            spec,
            given.get("KeyUsage"),
            policy=policy,
            now=call.now,
            description=given.get("Description", ""),
        )
        return {"KeyMetadata": _metadata(key, call)}

    def _describe_key(self, call: Call) -> dict[str, Any]:
        return {"KeyMetadata": _metadata(self._store.key_for(call), call)}

    def _list_keys(self, call: Call) -> dict[str, Any]:
        self._store.authorize(call, None)

        def entry(key: Key) -> dict[str, Any]:
            return {"KeyId": key.id, "KeyArn": key.arn(call.caller)}

        return _page("Keys", [entry(key) for key in self._store.keys.values()], call)

    def _enable_key(self, call: Call) -> None:
        key = self._store.key_for(call)
        key.check_state(call, "Disabled")
        key.state = "Enabled"

    def _disable_key(self, call: Call) -> None:
        key = self._store.key_for(call)
        key.check_state(call, "Disabled")
        key.state = "Disabled"

    def _schedule_key_deletion(self, call: Call) -> dict[str, Any]:
        key = self._store.key_for(call)
        key.check_state(call, "Disabled")
        days = call.parameters.get("PendingWindowInDays", 30)
        key.state, key.deletion = "PendingDeletion", call.now + timedelta(days=days)
        return {
            "KeyId": key.arn(call.caller),
            "DeletionDate": key.deletion.timestamp(),
            "KeyState": key.state,
            "PendingWindowInDays": days,
        }

    def _get_public_key(self, call: Call) -> dict[str, Any]:
        key = self._store.key_for(call)
        key.check_state(call)
        if isinstance(key.material, bytes):
            raise KmsError(
                "UnsupportedOperationException",
                f"{key.arn(call.caller)} key spec is {key.spec} which is not valid for "
                f"{call.operation}.",
            )
        return {
            "KeyId": key.arn(call.caller),
            "PublicKey": encode(public_der(key.material)),
            "CustomerMasterKeySpec": key.spec,
            "KeySpec": key.spec,
            "KeyUsage": key.usage,
            **key.algorithms,
        }

    # Aliases

    def _create_alias(self, call: Call) -> None:
        if "alias/" in call.parameters["TargetKeyId"]:
            raise KmsError("ValidationException", "Aliases must refer to keys. Not aliases")
        key = self._store.key_for(call, "TargetKeyId")
        key.check_state(call, "Disabled")
        name = call.parameters["AliasName"]
        self._store.add_alias(name, key, call.now, arn=call.caller.arn(name))

    def _list_aliases(self, call: Call) -> dict[str, Any]:
        wanted = None
        if "KeyId" in call.parameters:
            wanted = self._store.key_for(call)
        else:
            self._store.authorize(call, None)

        def entry(alias: Alias) -> dict[str, Any]:
            return {
                "AliasName": alias.name,
                "AliasArn": call.caller.arn(alias.name),
                "TargetKeyId": alias.key.id,
                "CreationDate": alias.created.timestamp(),
                "LastUpdatedDate": alias.created.timestamp(),
            }

        aliases = self._store.aliases.values()
        entries = [entry(alias) for alias in aliases if wanted is None or alias.key is wanted]
        return _page("Aliases", entries, call)

    # Policies

    def _get_key_policy(self, call: Call) -> dict[str, Any]:
        key = self._policy_holder(call)
        return {"Policy": key.policy.text, "PolicyName": _POLICY_NAME}

    def _put_key_policy(self, call: Call) -> None:
        key = self._policy_holder(call)
        policy = parse_policy(call.parameters["Policy"])
        self._check_lockout(call, policy, key.arn(call.caller))
        key.policy = policy

    def _policy_holder(self, call: Call) -> Key:
        key = self._store.key_for(call)
        name = call.parameters.get("PolicyName", _POLICY_NAME)
        if name != _POLICY_NAME:
            raise KmsError("NotFoundException", f"No such policy exists: {name}")
        return key

    def _check_lockout(self, call: Call, policy: Policy, arn: str) -> None:
        if call.parameters.get("BypassPolicyLockoutSafetyCheck"):
            return
        if self._store.is_locked_out(call, policy, arn):
            raise KmsError(
                "MalformedPolicyDocumentException",
                "The new key policy will not allow you to update the key policy in the future.",
            )


def _metadata(key: Key, call: Call) -> dict[str, Any]:
    metadata = {
        "AWSAccountId": call.caller.account,
        "KeyId": key.id,
        "Arn": key.arn(call.caller),
        "CreationDate": key.created.timestamp(),
        "Enabled": key.state == "Enabled",
        "Description": key.description,
        "KeyUsage": key.usage,
        "KeyState": key.state,
        "Origin": "AWS_KMS",
        "KeyManager": "CUSTOMER",
        "CustomerMasterKeySpec": key.spec,
        "KeySpec": key.spec,
        "MultiRegion": False,
        **key.algorithms,
    }
    if key.material_id:
        metadata["CurrentKeyMaterialId"] = key.material_id["KeyMaterialId"]
    if key.deletion is not None:
        metadata["DeletionDate"] = key.deletion.timestamp()
    return metadata


def _page(field: str, entries: Sequence[dict[str, Any]], call: Call) -> dict[str, Any]:
    """Return one page of a list. The marker is the number of entries before the next page."""
    marker = call.parameters.get("Marker", "0")
    if not (marker.isascii() and marker.isdigit() and int(marker[:10]) <= len(entries)):
        raise KmsError("InvalidMarkerException", "The marker is not valid.")
    start = int(marker)
    end = start + call.parameters.get("Limit", _LIMIT)
    if end >= len(entries):
        return {field: entries[start:], "Truncated": False}
    return {field: entries[start:end], "Truncated": True, "NextMarker": str(end)}
