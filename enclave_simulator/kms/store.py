"""The keys and aliases of one account, by Region, and who may use them. No I/O."""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from enclave_simulator.kms.grants import invalid_token, read_token
from enclave_simulator.kms.identifiers import Identifiers
from enclave_simulator.kms.keys import (
    ENABLED,
    PENDING_DELETION,
    PENDING_IMPORT,
    PENDING_REPLICA_DELETION,
    Alias,
    Family,
    Key,
    Materials,
)
from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.policy import Policy, decide, parse_policy
from enclave_simulator.kms.refusals import explain
from enclave_simulator.kms.specs import SYMMETRIC, USAGES, generate_material, unsupported

if TYPE_CHECKING:
    from datetime import datetime

    from enclave_simulator.kms.call import Call
    from enclave_simulator.kms.grants import Grant

MAX_KEYS = 1000
MAX_ALIASES = 1000
MAX_REGIONS = 64

_KEY_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32}", re.IGNORECASE)
_ARN = re.compile(r"arn:(aws[a-z-]*):kms:([a-z0-9-]*):(\d{12}):(.+)", re.DOTALL)
_ALIAS_NAME = re.compile(r"alias/[a-zA-Z0-9/_-]+")
_REGION = re.compile(r"[a-z]{2,4}(-[a-z]+){1,3}-[0-9]{1,2}")


@dataclass(slots=True)
class Region:
    """One Region's keys by their ids, and aliases by their names."""

    name: str
    keys: dict[str, Key] = field(default_factory=dict)
    aliases: dict[str, Alias] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Template:
    """A key that every Region has from its first request on, each a key of its own.

    Attributes:
        alias: begins with ``alias/``.
        key_id: the same in each Region.
        spec: KeySpec.
        usage: KeyUsage; None takes what attested calls need.
        policy: key policy; None leaves all to IAM.
    """

    alias: str
    key_id: str
    spec: str
    usage: str | None
    policy: Policy | None


class UnknownRegionError(Exception):
    """A name that is not a Region's, or one Region too many."""


class KeyStore:
    """The keys and aliases of one account, and IAM's permissions of its callers.

    Attributes:
        owner: ARN of the principal whose account it is.
        regions: by their names.
        revision: grows with every change that is worth keeping.
        token_secret: what grant tokens are made with.
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
            grant_delay: how long a new grant is effective only for who names its token.
        """
        self.owner = owner
        self.regions: dict[str, Region] = {}
        self.revision = 0
        self.token_secret = secrets.token_bytes(32)
        self.identifiers = identifiers or Identifiers()
        self._templates: list[Template] = []
        self._caller_policy = caller_policy
        self._grant_delay = grant_delay

    # Regions

    def region(self, name: str, now: datetime) -> Region:
        """Return a Region; whatever is due anywhere is carried out first.

        Raises:
            UnknownRegionError: it is not a Region, or there are too many.
        """
        region = self.regions.get(name)
        if region is None:
            if not is_region(name) or len(self.regions) >= MAX_REGIONS:
                raise UnknownRegionError(name)
            region = Region(name)
            for template in self._templates:
                self._instantiate(template, region, now)
            self.regions[name] = region
            self.revision += 1
        for each in self.regions.values():
            self._settle(each, now)
        return region

    def of(self, call: Call) -> Region:
        """Return the Region of a call, which `region` has returned before."""
        return self.regions[call.caller.region]

    def add_template(self, template: Template, now: datetime) -> None:
        """Have a key in every Region.

        Raises:
            KmsError: its properties are not valid.
        """
        # A trial, for the errors.
        trial = Region("us-east-1")
        for earlier in (*self._templates, template):
            self._instantiate(earlier, trial, now, trial=True)
        self._templates.append(template)
        for region in self.regions.values():
            self._instantiate(template, region, now)
        self.revision += 1

    def _instantiate(
        self, template: Template, region: Region, now: datetime, *, trial: bool = False
    ) -> None:
        if template.alias in region.aliases and not trial:
            return  # kept from an earlier run
        key = self.create(
            region,
            template.spec,
            template.usage,
            policy=template.policy or default_policy(self.owner),
            now=now,
            key_id=template.key_id,
            with_material=not trial,
        )
        self.add_alias(region, template.alias, key, now)

    def _settle(self, region: Region, now: datetime) -> None:
        due = [key for key in region.keys.values() if key.deletion and key.deletion <= now]
        for key in due:
            self._delete(region, key, now)
        for key in region.keys.values():
            if key.expire_material(now):
                self.revision += 1
            materials = key.materials
            while (
                materials.rotates is not None
                and materials.period is not None
                and materials.rotates <= now
                and key.state == ENABLED
            ):
                material = key.new_material(generate_material(key.spec))
                materials.rotate(material, materials.rotates, "AUTOMATIC")
                materials.rotates += timedelta(days=materials.period)
                self.revision += 1

    def _delete(self, region: Region, key: Key, now: datetime) -> None:
        del region.keys[key.id]
        region.aliases = {n: a for n, a in region.aliases.items() if a.key is not key}
        self.revision += 1
        if key.family is None:
            return
        key.family.regions.remove(region.name)
        if key.family.regions == [key.family.primary]:
            primary = self.regions[key.family.primary].keys[key.id]
            if primary.state == PENDING_REPLICA_DELETION:
                primary.state = PENDING_DELETION
                primary.deletion = now + timedelta(days=primary.window or 0)
                primary.window = None

    # Keys

    def create(
        self,
        region: Region,
        spec: str = SYMMETRIC,
        usage: str | None = None,
        *,
        policy: Policy,
        now: datetime,
        origin: str = "AWS_KMS",
        description: str = "",
        multi_region: bool = False,
        key_id: str = "",
        with_material: bool = True,
    ) -> Key:
        """Create a key.

        Args:
            region: where.
            spec: KeySpec.
            usage: KeyUsage; None takes what attested calls need.
            policy: key policy.
            now: KMS's clock.
            origin: ``AWS_KMS``, or ``EXTERNAL`` for a key without material.
            description: the owner's words.
            multi_region: make it a multi-Region primary key.
            key_id: its id; empty for a new one.
            with_material: generate its key material.

        Raises:
            KmsError: the key spec is not simulated, or has no such usage, or there are too many
                keys.
        """
        usages = USAGES.get(spec)
        if usages is None:
            raise unsupported(f"KeySpec {spec}")
        usage = usage or next(iter(usages))
        if usage not in usages:
            raise KmsError(
                "ValidationException", f"KeyUsage {usage} is not compatible with KeySpec {spec}"
            )
        self._check_key_limit()
        key_id = key_id or self._new_key_id(multi_region=multi_region)
        key = Key(
            key_id, self.arn(region, f"key/{key_id}"), spec, usage, origin, Materials(), policy,
            description, now,
        )  # fmt: skip
        if multi_region:
            key.family = Family(region.name, [region.name])
        if origin == "EXTERNAL":
            key.state = PENDING_IMPORT
        elif with_material:
            key.materials.versions.append(key.new_material(generate_material(spec)))
        region.keys[key.id] = key
        return key

    def replicate(self, key: Key, region: Region, *, policy: Policy, now: datetime) -> Key:
        """Create a replica of a multi-Region primary key.

        Raises:
            KmsError: LimitExceededException or AlreadyExistsException.
        """
        assert key.family is not None  # noqa: S101 (the caller has checked it)
        self._check_key_limit()
        arn = self.arn(region, f"key/{key.id}")
        if key.id in region.keys:
            raise KmsError("AlreadyExistsException", f"Key {arn} already exists")
        # Imported key material has to be imported into each replica.
        external = key.origin == "EXTERNAL"
        replica = dataclasses.replace(
            key, arn=arn, policy=policy, created=now, description="", tags={}, grants={},
            last_usage=None, materials=Materials() if external else key.materials,
            state=PENDING_IMPORT if external else ENABLED,
        )  # fmt: skip
        key.family.regions.append(region.name)
        region.keys[key.id] = replica
        return replica

    def _check_key_limit(self) -> None:
        if sum(len(region.keys) for region in self.regions.values()) >= MAX_KEYS:
            raise KmsError("LimitExceededException", f"There are {MAX_KEYS} keys already.")

    def _new_key_id(self, *, multi_region: bool) -> str:
        while True:
            key_id = f"mrk-{self.identifiers.hex(32)}" if multi_region else self.identifiers.uuid()
            # Seeded identifiers come again after a restart.
            if not any(key_id in region.keys for region in self.regions.values()):
                return key_id

    def arn(self, region: Region, resource: str) -> str:
        """Return an ARN of the account's, for example of ``key/ID``."""
        _, partition, _, _, account, _ = self.owner.split(":", 5)
        return f"arn:{partition}:kms:{region.name}:{account}:{resource}"

    # Aliases

    def add_alias(self, region: Region, name: str, key: Key, now: datetime) -> Alias:
        """Give a key a name.

        Raises:
            KmsError: it is not an alias name, or is taken, or there are too many.
        """
        if not name.startswith("alias/") or name == "alias/":
            raise KmsError(
                "ValidationException",
                'Alias must start with the prefix "alias/". Please see '
                "https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html",
            )
        if name.startswith("alias/aws/"):
            raise KmsError("NotAuthorizedException")
        if not _ALIAS_NAME.fullmatch(name):
            raise KmsError(
                "ValidationException", f"{name} contains invalid characters for an alias"
            )
        arn = self.arn(region, name)
        if name in region.aliases:
            raise KmsError("AlreadyExistsException", f"An alias with the name {arn} already exists")
        if len(region.aliases) >= MAX_ALIASES:
            raise KmsError("LimitExceededException", f"There are {MAX_ALIASES} aliases already.")
        alias = region.aliases[name] = Alias(name, arn, key, now, now)
        return alias

    def alias(self, call: Call, name: str) -> Alias:
        """Return an alias of the call's Region.

        Raises:
            KmsError: NotFoundException.
        """
        alias = self.of(call).aliases.get(name)
        if alias is None or alias.arn != call.caller.arn(name):
            raise _not_found(f"Alias {call.caller.arn(name)} is not found.")
        return alias

    # Looking up and authorizing

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


def default_policy(principal: str) -> Policy:
    """Return the policy of a key that was created without one: IAM decides (CreateKey, Policy).

    Args:
        principal: ARN of any principal in the account.
    """
    _, partition, _, _, account, _ = principal.split(":", 5)
    document = {
        "Version": "2012-10-17",
        "Id": "key-default-1",
        "Statement": [
            {
                "Sid": "Enable IAM User Permissions",
                "Effect": "Allow",
                "Principal": {"AWS": f"arn:{partition}:iam::{account}:root"},
                "Action": "kms:*",
                "Resource": "*",
            }
        ],
    }
    return parse_policy(json.dumps(document, indent=2, separators=(",", " : ")))


def is_region(name: str) -> bool:
    """Return whether a name has the form of a Region's."""
    return _REGION.fullmatch(name) is not None


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
