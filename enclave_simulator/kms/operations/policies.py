"""The operations on key policies and tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enclave_simulator.kms.keys import DISABLED, PENDING_IMPORT
from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.operations.lists import page
from enclave_simulator.kms.policy import parse_policy
from enclave_simulator.kms.tags import list_tags, merge_tags

if TYPE_CHECKING:
    from enclave_simulator.kms.call import Call, Operation
    from enclave_simulator.kms.keys import Key
    from enclave_simulator.kms.policy import Policy
    from enclave_simulator.kms.store import KeyStore

_POLICY_NAME = "default"  # the only one there is (PutKeyPolicy, PolicyName)


class PolicyOperations:
    """GetKeyPolicy to UntagResource."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store

    def by_name(self) -> dict[str, Operation]:
        """Return the operations by KMS's names."""
        return {
            "GetKeyPolicy": self._get_key_policy,
            "ListKeyPolicies": self._list_key_policies,
            "ListResourceTags": self._list_resource_tags,
            "PutKeyPolicy": self._put_key_policy,
            "TagResource": self._tag_resource,
            "UntagResource": self._untag_resource,
        }

    def _get_key_policy(self, call: Call) -> dict[str, Any]:
        key = self._policy_holder(call)
        return {"Policy": key.policy.text, "PolicyName": _POLICY_NAME}

    def _put_key_policy(self, call: Call) -> None:
        if call.parameters.get("PolicyName") == "AWS_RAM":
            self._store.key_for(call, aliases=False)
            raise KmsError(
                "ValidationException", "The AWS_RAM policy can only be managed by the RAM service."
            )
        key = self._policy_holder(call)
        policy = parse_policy(call.parameters["Policy"])
        check_lockout(self._store, call, policy, key)
        key.policy = policy

    def _list_key_policies(self, call: Call) -> dict[str, Any]:
        self._store.key_for(call, aliases=False)
        return page("PolicyNames", [_POLICY_NAME], call)

    def _policy_holder(self, call: Call) -> Key:
        key = self._store.key_for(call, aliases=False)
        if call.parameters.get("PolicyName", _POLICY_NAME) != _POLICY_NAME:
            raise KmsError("NotFoundException", "No such policy exists")
        return key

    def _tag_resource(self, call: Call) -> None:
        key = self._tag_holder(call)
        key.tags = merge_tags(key.tags, call.parameters["Tags"])

    def _untag_resource(self, call: Call) -> None:
        key = self._tag_holder(call)
        for name in call.parameters["TagKeys"]:
            key.tags.pop(name, None)

    def _tag_holder(self, call: Call) -> Key:
        key = self._store.key_for(call, aliases=False)
        key.check_state(DISABLED, PENDING_IMPORT)
        return key

    def _list_resource_tags(self, call: Call) -> dict[str, Any]:
        key = self._store.key_for(call, aliases=False)
        return page("Tags", list_tags(key.tags), call)


def check_lockout(store: KeyStore, call: Call, policy: Policy, key: Key | None) -> None:
    """Check that the caller could change a key policy again, were it the key's.

    Raises:
        KmsError: MalformedPolicyDocumentException.
    """
    if call.parameters.get("BypassPolicyLockoutSafetyCheck"):
        return
    if store.is_locked_out(call, policy, key):
        raise KmsError(
            "MalformedPolicyDocumentException",
            "The new key policy will not allow you to update the key policy in the future.",
        )
