"""KMS keys: their properties, states and key material, and what may be done with them. No I/O."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from enclave_simulator.kms.ciphertexts import tag
from enclave_simulator.kms.material import encode_material
from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.specs import ALGORITHMS_MEMBER, SYMMETRIC, USAGES

if TYPE_CHECKING:
    from datetime import datetime

    from enclave_simulator.kms.grants import Grant
    from enclave_simulator.kms.policy import Policy
    from enclave_simulator.kms.specs import PrivateKey

ENABLED = "Enabled"
DISABLED = "Disabled"
PENDING_IMPORT = "PendingImport"
PENDING_DELETION = "PendingDeletion"
PENDING_REPLICA_DELETION = "PendingReplicaDeletion"

_STATES = {
    DISABLED: ("DisabledException", "is disabled."),
    PENDING_IMPORT: ("KMSInvalidStateException", "is pending import."),
    PENDING_DELETION: ("KMSInvalidStateException", "is pending deletion."),
    PENDING_REPLICA_DELETION: ("KMSInvalidStateException", "is pending replica deletion."),
}

STATES = (ENABLED, *_STATES)

CURRENT, NON_CURRENT, PENDING_ROTATION = "CURRENT", "NON_CURRENT", "PENDING_ROTATION"


@dataclass(slots=True)
class Material:
    """One key material of a key: rotation adds further ones.

    Attributes:
        id: what KMS calls KeyMaterialId.
        secret: bytes or a key pair; None if it was imported, and then deleted or has expired.
        state: CURRENT, NON_CURRENT or PENDING_ROTATION.
        rotated: when it became the current one by rotation.
        rotation: ``AUTOMATIC`` or ``ON_DEMAND``; empty for the first one.
        expires: when an imported one will be deleted; None: never.
        description: the importer's words.
    """

    id: str
    secret: bytes | PrivateKey | None = field(repr=False)
    state: str = CURRENT
    rotated: datetime | None = None
    rotation: str = ""
    expires: datetime | None = None
    description: str = ""


@dataclass(slots=True)
class Materials:
    """The key materials of a key, shared by related multi-Region keys.

    Attributes:
        versions: the oldest first.
        period: days between automatic rotations; None: there are none.
        rotates: when the next automatic rotation is due.
    """

    versions: list[Material] = field(default_factory=list)
    period: int | None = None
    rotates: datetime | None = None

    @property
    def current(self) -> Material | None:
        """Return the key material that encrypts; None before the first import."""
        return self.in_state(CURRENT)

    def in_state(self, state: str) -> Material | None:
        """Return the key material in a state, or None."""
        return next((each for each in self.versions if each.state == state), None)

    def tagged(self, material_tag: bytes) -> Material | None:
        """Return the key material that a CiphertextBlob names, or None."""
        return next((each for each in self.versions if tag(each.id) == material_tag), None)

    def rotate(self, material: Material, now: datetime, rotation: str) -> None:
        """Make a key material the current one."""
        for each in self.versions:
            if each.state == CURRENT:
                each.state = NON_CURRENT
        material.state, material.rotated, material.rotation = CURRENT, now, rotation
        if material not in self.versions:
            self.versions.append(material)


@dataclass(slots=True)
class Family:
    """A set of related multi-Region keys.

    Attributes:
        primary: Region of the primary key.
        regions: Regions of all of them.
    """

    primary: str
    regions: list[str]


@dataclass(frozen=True, slots=True)
class Usage:
    """The last successful cryptographic operation with a key (GetKeyLastUsage)."""

    operation: str
    when: datetime
    event_id: str
    request_id: str


@dataclass(slots=True)
class Key:
    """One KMS key.

    Attributes:
        id: a UUID, or ``mrk-`` and 32 digits.
        arn: with the account and the Region that it is in.
        spec: for example ``SYMMETRIC_DEFAULT``.
        usage: for example ``ENCRYPT_DECRYPT``.
        origin: ``AWS_KMS`` or ``EXTERNAL``.
        materials: key materials.
        policy: the key policy.
        description: the owner's words.
        created: when.
        state: see the constants above.
        deletion: when it will be deleted, in PendingDeletion.
        window: days from the deletion of its last replica, in PendingReplicaDeletion.
        tags: by their keys.
        grants: by their ids.
        family: related multi-Region keys; None for a single-Region key.
        last_usage: None before the first one.
    """

    id: str
    arn: str
    spec: str
    usage: str
    origin: str
    materials: Materials
    policy: Policy
    description: str
    created: datetime
    state: str = ENABLED
    deletion: datetime | None = None
    window: int | None = None
    tags: dict[str, str] = field(default_factory=dict)
    grants: dict[str, Grant] = field(default_factory=dict)
    family: Family | None = None
    last_usage: Usage | None = None

    @property
    def region(self) -> str:
        """Return the Region that the key is in."""
        return self.arn.split(":")[3]

    @property
    def is_primary(self) -> bool:
        """Return whether it is a multi-Region primary key."""
        return self.family is not None and self.family.primary == self.region

    @property
    def tag(self) -> bytes:
        """Return how CiphertextBlobs name the key: related multi-Region keys have one tag."""
        parts = self.arn.split(":")
        if self.family is not None:
            parts[3] = ""
        return tag(":".join(parts))

    @property
    def algorithms(self) -> dict[str, list[str]]:
        """Return the member of responses that lists the key's algorithms."""
        return {ALGORITHMS_MEMBER[self.usage]: list(USAGES[self.spec][self.usage])}

    @property
    def rotates(self) -> bool:
        """Return whether keys of this key spec can be rotated."""
        return self.spec == SYMMETRIC

    def secret(self) -> bytes | PrivateKey:
        """Return the current key material of a usable key."""
        material = self.materials.current
        if material is None or material.secret is None:
            raise self.state_error(PENDING_IMPORT)
        return material.secret

    def material_id(self, name: str = "KeyMaterialId") -> dict[str, str]:
        """Return the member with the current key material's id, which only symmetric keys have."""
        material = self.materials.current
        if self.spec != SYMMETRIC or material is None:
            return {}
        return {name: material.id}

    def new_material(self, secret: bytes | PrivateKey) -> Material:
        """Return key material as one of this key's: its id is by key and content."""
        digest = hashlib.sha256(self.id.encode() + b"\0" + encode_material(secret))
        return Material(digest.hexdigest(), secret)

    # Checks, in the order in which KMS makes them: usage, state, algorithm

    def check_usable(self, operation: str, usage: str) -> None:
        """Check that the key is there for an operation.

        Raises:
            KmsError: InvalidKeyUsageException, DisabledException or KMSInvalidStateException.
        """
        self.check_usage(operation, usage)
        self.check_state()

    def check_usage(self, operation: str, usage: str) -> None:
        """Check that the key's usage is an operation's.

        Raises:
            KmsError: InvalidKeyUsageException.
        """
        if self.usage != usage:
            raise KmsError(
                "InvalidKeyUsageException",
                f"{self.arn} key usage is {self.usage} which is not valid for {operation}.",
            )

    def check_state(self, *allowed: str) -> None:
        """Check that the key is enabled, or in another state that is allowed.

        Raises:
            KmsError: DisabledException or KMSInvalidStateException.
        """
        if self.state not in (ENABLED, *allowed):
            raise self.state_error(self.state)

    def state_error(self, state: str) -> KmsError:
        """Return the error of a key that cannot be used for its state."""
        type_, text = _STATES[state]
        return KmsError(type_, f"{self.arn} {text}")

    def check_algorithm(self, algorithm: str) -> None:
        """Check that the key has an algorithm.

        Raises:
            KmsError: InvalidKeyUsageException.
        """
        if algorithm not in USAGES[self.spec][self.usage]:
            raise KmsError(
                "InvalidKeyUsageException",
                f"Algorithm {algorithm} is incompatible with key spec {self.spec}.",
            )

    def check_origin(self, origin: str) -> None:
        """Check where the key's material comes from.

        Raises:
            KmsError: UnsupportedOperationException.
        """
        if self.origin != origin:
            raise KmsError(
                "UnsupportedOperationException",
                f"{self.arn} origin is {self.origin} which is not valid for this operation.",
            )

    def expire_material(self, now: datetime) -> bool:
        """Delete imported key material that has expired; return whether there was any."""
        expired = [
            each
            for each in self.materials.versions
            if each.secret is not None and each.expires is not None and each.expires <= now
        ]
        for each in expired:
            each.secret, each.expires = None, None
        if expired and self.state in (ENABLED, DISABLED):
            self.state = PENDING_IMPORT
        return bool(expired)


@dataclass(slots=True)
class Alias:
    """A name for a key; `name` begins with ``alias/``."""

    name: str
    arn: str
    key: Key
    created: datetime
    updated: datetime
