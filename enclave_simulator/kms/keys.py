"""KMS keys and aliases: what they are, where they are kept, and who may use them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import secrets
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from enclave_simulator.kms.material import PrivateKey, generate_private_key
from enclave_simulator.kms.messages import KmsError
from enclave_simulator.kms.policy import Policy, parse_policy, refusal

if TYPE_CHECKING:
    from datetime import datetime

    from enclave_simulator.kms.call import Call
    from enclave_simulator.kms.sigv4 import Caller

MAX_KEYS = 1000
MAX_ALIASES = 1000

SYMMETRIC = "SYMMETRIC_DEFAULT"

_RSA = {
    "ENCRYPT_DECRYPT": ("RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"),
    "SIGN_VERIFY": tuple(
        f"RSASSA_{scheme}_SHA_{size}"
        for scheme in ("PKCS1_V1_5", "PSS")
        for size in (256, 384, 512)
    ),
}
_USAGES: dict[str, dict[str, tuple[str, ...]]] = {
    # spec: usage: algorithms. The first usage is what an attested call needs.
    SYMMETRIC: {"ENCRYPT_DECRYPT": (SYMMETRIC,)},
    "RSA_2048": _RSA,
    "RSA_3072": _RSA,
    "RSA_4096": _RSA,
    "ECC_NIST_P256": {"KEY_AGREEMENT": ("ECDH",), "SIGN_VERIFY": ("ECDSA_SHA_256",)},
    "ECC_NIST_P384": {"KEY_AGREEMENT": ("ECDH",), "SIGN_VERIFY": ("ECDSA_SHA_384",)},
    "ECC_NIST_P521": {"KEY_AGREEMENT": ("ECDH",), "SIGN_VERIFY": ("ECDSA_SHA_512",)},
    "ECC_SECG_P256K1": {"SIGN_VERIFY": ("ECDSA_SHA_256",)},
}
_ALGORITHMS = {
    "ENCRYPT_DECRYPT": "EncryptionAlgorithms",
    "KEY_AGREEMENT": "KeyAgreementAlgorithms",
    "SIGN_VERIFY": "SigningAlgorithms",
}
_STATES = {
    "Disabled": ("DisabledException", "is disabled."),
    "PendingDeletion": ("KMSInvalidStateException", "is pending deletion."),
}
_KEY_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32}")


@dataclass(slots=True)
class Key:
    """One KMS key.

    Attributes:
        id: a UUID.
        spec: for example ``SYMMETRIC_DEFAULT``.
        usage: for example ``ENCRYPT_DECRYPT``.
        material: 32 bytes, or a key pair.
        policy: who may use it.
        description: the owner's words.
        created: when.
        state: ``Enabled``, ``Disabled`` or ``PendingDeletion``.
        deletion: when it will be gone, in that last state.
    """

    id: str
    spec: str
    usage: str
    material: bytes | PrivateKey = field(repr=False)
    policy: Policy
    description: str
    created: datetime
    state: str = "Enabled"
    deletion: datetime | None = None

    @property
    def algorithms(self) -> dict[str, list[str]]:
        """Return the member of answers that lists what the key can do."""
        return {_ALGORITHMS[self.usage]: list(_USAGES[self.spec][self.usage])}

    @property
    def material_id(self) -> dict[str, str]:
        """Return the KeyMaterialId of answers, which only symmetric keys have."""
        if self.spec != SYMMETRIC:
            return {}
        return {"KeyMaterialId": hashlib.sha256(self.id.encode()).hexdigest()}

    def arn(self, caller: Caller) -> str:
        """Return the key's ARN where the caller is: the keys are in every region asked."""
        return caller.arn(f"key/{self.id}")

    def check_usable(self, call: Call, usage: str) -> None:
        """Check that the key is there for an operation.

        Raises:
            KmsError: DisabledException, KMSInvalidStateException or InvalidKeyUsageException.
        """
        self.check_state(call)
        if self.usage != usage:
            raise KmsError(
                "InvalidKeyUsageException",
                f"{self.arn(call.caller)} key usage is {self.usage} which is not valid for "
                f"{call.operation}.",
            )

    def check_state(self, call: Call, *allowed: str) -> None:
        """Check that the key is enabled, or in another state that is allowed.

        Raises:
            KmsError: DisabledException or KMSInvalidStateException.
        """
        if self.state not in ("Enabled", *allowed):
            type_, text = _STATES[self.state]
            raise KmsError(type_, f"{self.arn(call.caller)} {text}")

    def check_algorithm(self, algorithm: str) -> None:
        """Check that the key can do what is asked of it.

        Raises:
            KmsError: InvalidKeyUsageException.
        """
        if algorithm not in _USAGES[self.spec][self.usage]:
            raise KmsError(
                "InvalidKeyUsageException",
                f"Algorithm {algorithm} is incompatible with key spec {self.spec}.",
            )


@dataclass(frozen=True, slots=True)
class Alias:
    """A name for a key; `name` begins with ``alias/``."""

    name: str
    key: Key
    created: datetime


class KeyStore:
    """The keys and aliases of one account, and IAM's word on who may do what with them."""

    def __init__(self, caller_policy: Policy | None = None) -> None:
        """Start empty.

        Args:
            caller_policy: what IAM gives callers; None gives them everything.
        """
        self.keys: dict[str, Key] = {}
        self.aliases: dict[str, Alias] = {}
        self._caller_policy = caller_policy

    def create(
        self,
        spec: str = SYMMETRIC,
        usage: str | None = None,
        *,
        policy: Policy,
        now: datetime,
        description: str = "",
    ) -> Key:
        """Make a key.

        Args:
            spec: KeySpec.
            usage: KeyUsage; None takes what attested calls need.
            policy: who may use it.
            now: KMS's clock.
            description: the owner's words.

        Raises:
            KmsError: there is no such key, or there are too many.
        """
        usages = _USAGES.get(spec)
        if usages is None:
            raise KmsError("UnsupportedOperationException", f"The simulator makes no {spec} keys.")
        usage = usage or next(iter(usages))
        if usage not in usages:
            raise KmsError(
                "ValidationException", f"KeyUsage {usage} is not compatible with KeySpec {spec}"
            )
        if len(self.keys) >= MAX_KEYS:
            raise KmsError("LimitExceededException", f"There are {MAX_KEYS} keys already.")
        material = secrets.token_bytes(32) if spec == SYMMETRIC else generate_private_key(spec)
        key = Key(str(uuid.uuid4()), spec, usage, material, policy, description, now)
        self.keys[key.id] = key
        return key

    def add_alias(self, name: str, key: Key, now: datetime, *, arn: str) -> None:
        """Give a key a name.

        Raises:
            KmsError: it is no name, or is taken (which `arn` tells), or there are too many.
        """
        if not name.startswith("alias/") or name == "alias/":
            raise KmsError(
                "ValidationException",
                'Alias must start with the prefix "alias/". Please see '
                "https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html",
            )
        if name.startswith("alias/aws/"):
            raise KmsError("NotAuthorizedException")
        if name in self.aliases:
            raise KmsError("AlreadyExistsException", f"An alias with the name {arn} already exists")
        if len(self.aliases) >= MAX_ALIASES:
            raise KmsError("LimitExceededException", f"There are {MAX_ALIASES} aliases already.")
        self.aliases[name] = Alias(name, key, now)

    def key_for(self, call: Call, parameter: str = "KeyId") -> Key:
        """Return the key that a parameter names, if the caller may do this with it.

        Raises:
            KmsError: NotFoundException or AccessDeniedException.
        """
        key = self._find(call.parameters[parameter], call.caller)
        self.authorize(call, key)
        return key

    def authorize(self, call: Call, key: Key | None) -> None:
        """Check that the caller may do this with a key, or at all where there is none.

        Raises:
            KmsError: AccessDeniedException.
        """
        access = call.access("*" if key is None else key.arn(call.caller))
        refused = refusal(access, key.policy if key else None, self._caller_policy)
        if refused:
            raise KmsError("AccessDeniedException", refused)

    def is_locked_out(self, call: Call, policy: Policy, arn: str) -> bool:
        """Return whether the caller could not change a policy again, were it a key's."""
        access = dataclasses.replace(call.access(arn), action="kms:PutKeyPolicy")
        return refusal(access, policy, self._caller_policy) is not None

    def _find(self, name: str, caller: Caller) -> Key:
        """Return the key of an id, an alias, or the ARN of either."""
        kind, resource = "", name
        if name.startswith("arn:"):
            parts = name.split(":", 5)
            if len(parts) == 6 and parts[3] != caller.region:
                raise _not_found(f"Invalid arn {parts[3]}")
            kind, _, rest = parts[-1].partition("/")
            if name != caller.arn(f"{kind}/{rest}") or kind not in ("key", "alias"):
                raise _not_found(f"Invalid keyId '{name}'")
            resource = rest if kind == "key" else parts[-1]
        if resource.startswith("alias/") and kind != "key":
            alias = self.aliases.get(resource)
            if alias is None:
                raise _not_found(f"Alias {caller.arn(resource)} is not found.")
            return alias.key
        if not _KEY_ID.fullmatch(resource):
            raise _not_found(f"Invalid keyId '{name}'")
        key = self.keys.get(resource)
        if key is None:
            raise _not_found(f"Key '{caller.arn(f'key/{resource}')}' does not exist")
        return key


def default_policy(principal: str) -> Policy:
    """Return the policy of a key that was made without one: IAM decides (CreateKey, Policy).

    Args:
        principal: ARN of anyone in the account.
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


def _not_found(message: str) -> KmsError:
    return KmsError("NotFoundException", message)
