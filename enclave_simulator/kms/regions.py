"""The keys and aliases of one account, by Region. No I/O."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

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
from enclave_simulator.kms.policy import Policy, parse_policy
from enclave_simulator.kms.specs import SYMMETRIC, USAGES, generate_material, unsupported

if TYPE_CHECKING:
    from datetime import datetime

MAX_KEYS = 1000
MAX_ALIASES = 1000
MAX_REGIONS = 64

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


class Regions:
    """The Regions of one account, with their keys and aliases.

    Attributes:
        owner: ARN of the principal whose account it is.
        regions: by their names.
        revision: grows with every change that is worth keeping.
        identifiers: where ids come from.
    """

    def __init__(self, owner: str, identifiers: Identifiers | None = None) -> None:
        self.owner = owner
        self.regions: dict[str, Region] = {}
        self.revision = 0
        self.identifiers = identifiers or Identifiers()
        self._templates: list[Template] = []

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
