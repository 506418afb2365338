"""The operations on grants."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from enclave_simulator.kms.grants import (
    MAX_GRANTS,
    Grant,
    check_constraint,
    check_operations,
    invalid_token,
    new_token,
    read_token,
)
from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.operations.lists import page
from enclave_simulator.kms.policy import named
from enclave_simulator.kms.specs import unsupported

if TYPE_CHECKING:
    from enclave_simulator.kms.call import Call, Operation
    from enclave_simulator.kms.keys import Key
    from enclave_simulator.kms.store import KeyStore

_PRINCIPAL = re.compile(
    r"arn:aws[a-z-]*:(?:iam::\d{12}:(?:root|(?:role|user)/[\w+=,.@/-]+)"
    r"|sts::\d{12}:(?:assumed-role|federated-user)/[\w+=,.@/-]+)"
)


class GrantOperations:
    """CreateGrant, ListGrants, ListRetirableGrants, RetireGrant, RevokeGrant."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store

    def by_name(self) -> dict[str, Operation]:
        """Return the operations by KMS's names."""
        return {
            "CreateGrant": self._create_grant,
            "ListGrants": self._list_grants,
            "ListRetirableGrants": self._list_retirable_grants,
            "RetireGrant": self._retire_grant,
            "RevokeGrant": self._revoke_grant,
        }

    def _create_grant(self, call: Call) -> dict[str, Any]:
        key = self._key(call)
        given = call.parameters
        allowing = self._store.authorize(call, key)
        for name in ("GranteeServicePrincipal", "RetiringServicePrincipal"):
            if name in given:
                raise unsupported(name)
        if "GranteePrincipal" not in given:
            raise KmsError("ValidationException", "GranteePrincipal is required.")
        for name in ("GranteePrincipal", "RetiringPrincipal"):
            if name in given and not _PRINCIPAL.fullmatch(given[name]):
                raise KmsError(
                    "InvalidArnException", f"ARN does not refer to a valid principal: {given[name]}"
                )
        constraints = given.get("Constraints", {})
        equals = constraints.get("EncryptionContextEquals")
        subset = constraints.get("EncryptionContextSubset")
        if equals is not None and subset is not None:
            raise KmsError("ValidationException", "More than one constraint supplied")
        for context in (equals, subset):
            check_constraint(context or {})
        grant = Grant(
            self._store.identifiers.hex(64),
            given.get("Name", ""),
            given["GranteePrincipal"],
            given.get("RetiringPrincipal", ""),
            tuple(given["Operations"]),
            equals,
            subset,
            constraints.get("SourceArn", ""),
            call.caller.account,
            call.now,
        )
        check_operations(
            key.spec,
            key.usage,
            grant.operations,
            constrained=equals is not None or subset is not None,
        )
        key.check_state()
        if allowing is not None and not allowing.covers(grant):
            raise KmsError(
                "AccessDeniedException",
                f"User: {call.caller.principal} is not authorized to perform: kms:CreateGrant on "
                f"resource: {key.arn}",
                reasons=(f"grant {allowing.id}: allows only grants that allow no more",),
            )
        call.check_dry_run()
        same = next((each for each in key.grants.values() if each.is_same(grant)), None)
        if same is not None:
            grant = same
        elif len(key.grants) >= MAX_GRANTS:
            raise KmsError("LimitExceededException", f"There are {MAX_GRANTS} grants already.")
        key.grants[grant.id] = grant
        token = new_token(self._store.token_secret, grant.id, self._store.identifiers.nonce())
        return {"GrantToken": token, "GrantId": grant.id}

    def _list_grants(self, call: Call) -> dict[str, Any]:
        key = self._key(call)
        self._store.authorize(call, key)
        if "GranteeServicePrincipal" in call.parameters:
            return page("Grants", [], call)
        wanted = {
            "id": call.parameters.get("GrantId"),
            "grantee": call.parameters.get("GranteePrincipal"),
        }
        entries = [
            _entry(key, grant)
            for grant in key.grants.values()
            if all(value in (None, getattr(grant, name)) for name, value in wanted.items())
        ]
        return page("Grants", entries, call)

    def _list_retirable_grants(self, call: Call) -> dict[str, Any]:
        self._store.authorize(call, None)
        principal = call.parameters.get("RetiringPrincipal")
        if (principal is None) != ("RetiringServicePrincipal" in call.parameters):
            raise KmsError(
                "ValidationException",
                "Specify either RetiringPrincipal or RetiringServicePrincipal.",
            )
        entries = [
            _entry(key, grant)
            for key in self._store.of(call).keys.values()
            for grant in key.grants.values()
            if principal is not None and grant.retiring == principal
        ]
        return page("Grants", entries, call)

    def _retire_grant(self, call: Call) -> None:
        given = call.parameters
        if "GrantToken" in given:
            grant_id = read_token(self._store.token_secret, given["GrantToken"])
            found = self._store.grant(grant_id)
            if found is None:
                raise invalid_token()
            key, grant = found
        else:
            if not {"KeyId", "GrantId"} <= given.keys():
                raise KmsError(
                    "ValidationException", "Specify either GrantToken, or KeyId and GrantId."
                )
            key = self._key(call)
            grant = self._grant(key, given["GrantId"])
        principal = call.caller.principal
        itself = (grant.retiring and named(grant.retiring, principal)) or (
            "RetireGrant" in grant.operations and named(grant.grantee, principal)
        )
        if not itself:
            self._store.authorize(call, key)
        call.check_dry_run()
        del key.grants[grant.id]

    def _revoke_grant(self, call: Call) -> None:
        key = self._key(call)
        self._store.authorize(call, key)
        grant = self._grant(key, call.parameters["GrantId"])
        call.check_dry_run()
        del key.grants[grant.id]

    def _key(self, call: Call) -> Key:
        return self._store.find(call, "KeyId", aliases=False)

    def _grant(self, key: Key, grant_id: str) -> Grant:
        grant = key.grants.get(grant_id)
        if grant is None:
            raise KmsError("NotFoundException", f"Grant ID {grant_id} not found")
        return grant


def _entry(key: Key, grant: Grant) -> dict[str, Any]:
    constraints = {
        "EncryptionContextEquals": grant.equals,
        "EncryptionContextSubset": grant.subset,
        "SourceArn": grant.source_arn or None,
    }
    entry = {
        "KeyId": key.arn,
        "GrantId": grant.id,
        "CreationDate": grant.created.timestamp(),
        "GranteePrincipal": grant.grantee,
        "IssuingAccount": f"arn:{key.arn.split(':')[1]}:iam::{grant.issuer}:root",
        "Operations": list(grant.operations),
    }
    if grant.name:
        entry["Name"] = grant.name
    if grant.retiring:
        entry["RetiringPrincipal"] = grant.retiring
    given = {name: value for name, value in constraints.items() if value is not None}
    return {**entry, **({"Constraints": given} if given else {})}
