"""Custom key stores: as far as GenerateRandom needs them. They hold no keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.operations.lists import page
from enclave_simulator.kms.specs import unsupported

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from enclave_simulator.kms.call import Call, Operation
    from enclave_simulator.kms.store import KeyStore

KeyStoreState = Literal["CONNECTED", "DISCONNECTED", "EXTERNAL"]
"""A custom key store: a CloudHSM cluster, connected or not, or an external key store."""


class KeyStoreOperations:
    """ConnectCustomKeyStore, DeleteCustomKeyStore, DescribeCustomKeyStores,
    DisconnectCustomKeyStore; the others need hardware.
    """

    def __init__(
        self, store: KeyStore, states: Mapping[str, KeyStoreState], created: datetime
    ) -> None:
        self._store = store
        self._states = dict(states)
        self._created = created

    def by_name(self) -> dict[str, Operation]:
        """Return the operations by KMS's names."""
        return {
            "ConnectCustomKeyStore": self._connect,
            "CreateCustomKeyStore": self._unsupported,
            "DeleteCustomKeyStore": self._delete,
            "DescribeCustomKeyStores": self._describe,
            "DisconnectCustomKeyStore": self._disconnect,
            "UpdateCustomKeyStore": self._unsupported,
        }

    def check_random(self, key_store_id: str | None) -> None:
        """Check that GenerateRandom can take its bytes from a key store.

        Raises:
            KmsError: CustomKeyStoreNotFoundException, CustomKeyStoreInvalidStateException or
                UnsupportedOperationException.
        """
        if key_store_id is None:
            return
        match self._state(key_store_id):
            case "DISCONNECTED":
                raise KmsError(
                    "CustomKeyStoreInvalidStateException",
                    f"Custom key store {key_store_id} is not connected.",
                )
            case "EXTERNAL":
                raise KmsError(
                    "UnsupportedOperationException",
                    "The operation is not supported by external key stores.",
                )

    def _state(self, key_store_id: str) -> KeyStoreState:
        state = self._states.get(key_store_id)
        if state is None:
            raise KmsError(
                "CustomKeyStoreNotFoundException",
                f"Custom key store {key_store_id} does not exist.",
            )
        return state

    def _connect(self, call: Call) -> dict[str, Any]:
        return self._change(call, "DISCONNECTED", "CONNECTED")

    def _disconnect(self, call: Call) -> dict[str, Any]:
        return self._change(call, "CONNECTED", "DISCONNECTED")

    def _change(self, call: Call, before: KeyStoreState, after: KeyStoreState) -> dict[str, Any]:
        self._store.authorize(call, None)
        key_store_id = call.parameters["CustomKeyStoreId"]
        state = self._state(key_store_id)
        if state == "EXTERNAL":
            raise unsupported(f"{call.operation} of an external key store")
        if state != before:
            raise KmsError(
                "CustomKeyStoreInvalidStateException",
                f"Custom key store {key_store_id} is {state.lower()}.",
            )
        self._states[key_store_id] = after
        return {}

    def _delete(self, call: Call) -> dict[str, Any]:
        self._store.authorize(call, None)
        key_store_id = call.parameters["CustomKeyStoreId"]
        if self._state(key_store_id) == "CONNECTED":
            raise KmsError(
                "CustomKeyStoreInvalidStateException",
                f"Custom key store {key_store_id} is connected.",
            )
        del self._states[key_store_id]
        return {}

    def _describe(self, call: Call) -> dict[str, Any]:
        self._store.authorize(call, None)
        given = call.parameters
        # Here a key store's name is its id.
        wanted = given.get("CustomKeyStoreId") or given.get("CustomKeyStoreName")
        if wanted is not None:
            self._state(wanted)
        entries = [
            {
                "CustomKeyStoreId": name,
                "CustomKeyStoreName": name,
                "ConnectionState": "CONNECTED" if state == "EXTERNAL" else state,
                "CreationDate": self._created.timestamp(),
                "CustomKeyStoreType": (
                    "EXTERNAL_KEY_STORE" if state == "EXTERNAL" else "AWS_CLOUDHSM"
                ),
            }
            for name, state in self._states.items()
            if wanted in (None, name)
        ]
        return page("CustomKeyStores", entries, call)

    def _unsupported(self, call: Call) -> dict[str, Any]:
        self._store.authorize(call, None)
        raise unsupported(call.operation)
