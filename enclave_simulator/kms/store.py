"""Who may use which key: naming keys, and authorization by policies and grants. No I/O."""

from __future__ import annotations

import re
import secrets
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from enclave_simulator.kms.grants import invalid_token, read_token
from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.policy import Policy, decide
from enclave_simulator.kms.refusals import explain
from enclave_simulator.kms.regions import Region, Regions

if TYPE_CHECKING:
    from enclave_simulator.kms.call import Call
    from enclave_simulator.kms.grants import Grant
    from enclave_simulator.kms.identifiers import Identifiers
    from enclave_simulator.kms.keys import Alias, Key

_KEY_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32}", re.IGNORECASE)
_ARN = re.compile(r"arn:(aws[a-z-]*):kms:([a-z0-9-]*):(\d{12}):(.+)", re.DOTALL)


class KeyStore(Regions):
    """The keys and aliases of one account, and the permissions of its callers.

    Attributes:
        token_secret: signs grant tokens.
    """

    def __init__(
        self,
        owner: str,
        *,
        caller_policy: Policy | None = None,
        identifiers: Identifiers | None = None,
        grant_delay: timedelta = timedelta(0),
    ) -> None:
        """Start empty.

        Args:
            owner: ARN of the principal whose account it is.
            caller_policy: IAM policy of callers; None allows everything.
            identifiers: where ids come from.
            grant_delay: how long a new grant is effective only for calls with its token.
        """
        super().__init__(owner, identifiers)
        self.token_secret = secrets.token_bytes(32)
        self._caller_policy = caller_policy
        self._grant_delay = grant_delay

    def of(self, call: Call) -> Region:
        """Return the Region of a call, which `region` has returned before."""
        return self.regions[call.caller.region]

    def alias(self, call: Call, name: str) -> Alias:
        """Return an alias of the call's Region.

        Raises:
            KmsError: NotFoundException.
        """
        alias = self.of(call).aliases.get(name)
        if alias is None or alias.arn != call.caller.arn(name):
            raise _not_found(f"Alias {call.caller.arn(name)} is not found.")
        return alias

    def key_for(self, call: Call, parameter: str = "KeyId", *, aliases: bool = True) -> Key:
        """Return the key that a parameter names, if the caller may do this with it.

        Args:
            call: the call.
            parameter: KeyId, or another member that names a key.
            aliases: the operation accepts aliases.

        Raises:
            KmsError: NotFoundException, InvalidArnException or AccessDeniedException.
        """
        key = self.find(call, parameter, aliases=aliases)
        self.authorize(call, key)
        return key

    def find(self, call: Call, parameter: str, *, aliases: bool) -> Key:
        """Return the key that a parameter names, without authorization; see `key_for`.

        Raises:
            KmsError: NotFoundException or InvalidArnException.
        """
        name = call.parameters[parameter]
        if not aliases and (name.startswith("alias/") or ":alias/" in name):
            raise KmsError(
                "InvalidArnException", "Key Aliases are not supported for this operation."
            )
        return self._find(name, call)

    def authorize(self, call: Call, key: Key | None, action: str = "") -> Grant | None:
        """Check that the caller may do this, and return the grant that allows it, if one does.

        Args:
            call: the call.
            key: None if no key is involved.
            action: without ``kms:``; empty for the operation's own.

        Raises:
            KmsError: AccessDeniedException, or InvalidGrantTokenException.
        """
        action = action or call.operation
        tokens = [
            read_token(self.token_secret, each) for each in call.parameters.get("GrantTokens", ())
        ]
        if not all(map(self._has_grant, tokens)):
            raise invalid_token()
        names = tuple(a.name for a in self.of(call).aliases.values() if a.key is key)
        access = call.access(key, action, names)
        denial = decide(access, key.policy if key else None, self._caller_policy)
        if denial is None:
            return None
        reasons = explain(
            access,
            key.policy if denial.by_key and key else self._caller_policy,
            "key policy" if denial.by_key else "caller policy",
            explicit=denial.explicit,
        )
        for grant in key.grants.values() if key else ():
            if denial.explicit or action not in grant.operations:
                continue
            settled = call.now - grant.created >= self._grant_delay or grant.id in tokens
            if settled and grant.permits(action, call.caller.principal, call.encryption_context):
                return grant
            unmet = grant.unmet(call.encryption_context) or "another grantee, or not effective yet"
            reasons.append(f"grant {grant.id}: {unmet}")
        raise KmsError("AccessDeniedException", denial.text, reasons=tuple(reasons))

    def authorize_by_iam(self, call: Call, resource: str, action: str = "") -> None:
        """Check that the caller's IAM policy allows this with something that is no key.

        Args:
            call: the call.
            resource: ARN of an alias, or of keys that do not exist yet: ``...:key/*``.
            action: without ``kms:``; empty for the operation's own.

        Raises:
            KmsError: AccessDeniedException.
        """
        access = call.access(None, action, resource=resource)
        access = replace(access, named=not resource.endswith("*"))
        denial = decide(access, None, self._caller_policy)
        if denial is not None:
            reasons = explain(
                access, self._caller_policy, "caller policy", explicit=denial.explicit
            )
            raise KmsError("AccessDeniedException", denial.text, reasons=tuple(reasons))

    def is_locked_out(self, call: Call, policy: Policy, key: Key | None) -> bool:
        """Return whether the caller could not change a key policy again, were it the key's."""
        access = call.access(key, "PutKeyPolicy")
        return decide(access, policy, self._caller_policy) is not None

    def grant(self, grant_id: str) -> tuple[Key, Grant] | None:
        """Return a grant, and the key that it is for, or None."""
        for region in self.regions.values():
            for key in region.keys.values():
                if grant_id in key.grants:
                    return key, key.grants[grant_id]
        return None

    def _has_grant(self, grant_id: str) -> bool:
        return self.grant(grant_id) is not None

    def tagged(self, call: Call, key_tag: bytes) -> Key | None:
        """Return the key of the call's Region that a CiphertextBlob names, or None."""
        return next((k for k in self.of(call).keys.values() if k.tag == key_tag), None)

    def _find(self, name: str, call: Call) -> Key:
        """Return the key of an id, an alias, or the ARN of either."""
        caller, region, resource = call.caller, self.of(call), name
        account = caller.account
        arn = _ARN.fullmatch(name)
        if arn is not None:
            partition, place, account, resource = arn.groups()
            if place != region.name:
                raise _not_found(f"Invalid arn {place}")
            kind, _, rest = resource.partition("/")
            if partition != caller.principal.split(":")[1] or kind not in ("key", "alias"):
                raise _not_found(f"Invalid keyId '{name}'")
            if kind == "key":
                if not _KEY_ID.fullmatch(rest):
                    raise _not_found(f"Invalid keyId {rest}")
                resource = rest
        if resource.startswith("alias/"):
            alias = region.aliases.get(resource)
            missing = f"Alias {caller.arn(resource)} is not found."
            key = alias.key if alias else None
        elif _KEY_ID.fullmatch(resource):
            missing = f"Key '{caller.arn(f'key/{resource}')}' does not exist"
            key = region.keys.get(resource)
        else:
            raise _not_found(f"Invalid keyId '{name}'")
        if key is None or key.arn.split(":")[4] != account:
            if account != caller.account:
                raise _foreign(call, name)
            raise _not_found(missing)
        return key


def _not_found(message: str) -> KmsError:
    return KmsError("NotFoundException", message)


def _foreign(call: Call, name: str) -> KmsError:
    """Return the error for a resource of another account that there is not, or not for us."""
    return KmsError(
        "AccessDeniedException",
        f"User: {call.caller.principal} is not authorized to perform: kms:{call.operation} on "
        f"resource: {name} because the resource does not exist in this Region, no resource-based "
        "policies allow access, or a resource-based policy explicitly denies access",
    )
