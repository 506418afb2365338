"""The operations on aliases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enclave_simulator.kms.keys import DISABLED, PENDING_IMPORT
from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.operations.lists import page

if TYPE_CHECKING:
    from enclave_simulator.kms.call import Call, Operation
    from enclave_simulator.kms.keys import Alias, Key
    from enclave_simulator.kms.store import KeyStore


class AliasOperations:
    """CreateAlias, DeleteAlias, ListAliases, UpdateAlias."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store

    def by_name(self) -> dict[str, Operation]:
        """Return the operations by KMS's names."""
        return {
            "CreateAlias": self._create_alias,
            "DeleteAlias": self._delete_alias,
            "ListAliases": self._list_aliases,
            "UpdateAlias": self._update_alias,
        }

    def _create_alias(self, call: Call) -> None:
        self._authorize(call)
        key = self._target(call)
        self._store.add_alias(self._store.of(call), call.parameters["AliasName"], key, call.now)

    def _authorize(self, call: Call) -> None:
        """Check that IAM allows this with the alias: the key is checked as well, by the others."""
        self._store.authorize_by_iam(call, call.caller.arn(call.parameters["AliasName"]))

    def _update_alias(self, call: Call) -> None:
        self._authorize(call)
        key = self._target(call)
        alias = self._store.alias(call, call.parameters["AliasName"])
        self._store.authorize(call, alias.key)
        if (alias.key.usage, _kind(alias.key)) != (key.usage, _kind(key)):
            raise KmsError(
                "ValidationException",
                "The current and new key must be of the same type and have the same key usage.",
            )
        alias.key, alias.updated = key, call.now

    def _target(self, call: Call) -> Key:
        if "alias/" in call.parameters["TargetKeyId"]:
            raise KmsError("ValidationException", "Aliases must refer to keys. Not aliases")
        key = self._store.key_for(call, "TargetKeyId")
        key.check_state(DISABLED, PENDING_IMPORT)
        return key

    def _delete_alias(self, call: Call) -> None:
        name = call.parameters["AliasName"]
        if not name.startswith("alias/"):
            raise KmsError("ValidationException", "Invalid identifier")
        self._authorize(call)
        alias = self._store.alias(call, name)
        self._store.authorize(call, alias.key)
        del self._store.of(call).aliases[name]

    def _list_aliases(self, call: Call) -> dict[str, Any]:
        wanted = None
        self._store.authorize(call, None)  # with a KeyId too: no key policy is asked
        if "KeyId" in call.parameters:
            wanted = self._store.find(call, "KeyId", aliases=True)

        def entry(alias: Alias) -> dict[str, Any]:
            return {
                "AliasName": alias.name,
                "AliasArn": alias.arn,
                "TargetKeyId": alias.key.id,
                "CreationDate": alias.created.timestamp(),
                "LastUpdatedDate": alias.updated.timestamp(),
            }

        aliases = self._store.of(call).aliases.values()
        entries = [entry(alias) for alias in aliases if wanted is None or alias.key is wanted]
        return page("Aliases", entries, call)


def _kind(key: Key) -> str:
    """Return whether a key is symmetric, for MACs, or a key pair: UpdateAlias keeps to it."""
    if key.spec.startswith("HMAC"):
        return "HMAC"
    return "symmetric" if key.rotates else "asymmetric"
